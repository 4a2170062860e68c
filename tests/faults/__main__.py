"""`make faults`: tries every fault, or those that are named, and writes what came of it in docs/faults.md."""

import random
import sys
import tempfile
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.lab import Lab

PAGE = Path(__file__).resolve().parents[2] / "docs/faults.md"


def write(name: str, rest: str) -> None:
    """A fault's row of the table."""
    head = f"| {name} |"
    lines = [f"{head} {rest} |" if line.startswith(head) else line for line in PAGE.read_text().splitlines()]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    chosen = [fault for fault in FAULTS if fault.attempt.__name__ in (sys.argv[1:] or [fault.attempt.__name__])]
    lost, slowest = dict.fromkeys(chosen, 0), dict.fromkeys(chosen, 0.0)
    with tempfile.TemporaryDirectory() as place:
        lab = Lab(Path(place) / "lab")
        for i in range(max(fault.tries for fault in chosen)):  # in turn: who stops it has a few tries of each
            for fault in [fault for fault in chosen if i < fault.tries]:
                folder = Path(place) / fault.attempt.__name__ / str(i)
                folder.mkdir(parents=True)
                try:
                    slowest[fault] = max(slowest[fault], fault.attempt(lab, folder, random.Random(i)) or 0.0)
                except pytest.skip.Exception as reason:
                    write(fault.name, f"0 | | {reason}")
                    continue
                except Exception as error:
                    lost[fault] += 1
                    print(f"{fault.name}, {i}: {error!r}", file=sys.stderr, flush=True)
                seconds = f"; within {slowest[fault]:.1f} s" if slowest[fault] else ""
                write(fault.name, f"{i + 1:,} | {lost[fault]} | {fault.ends}{seconds}")


if __name__ == "__main__":
    main()

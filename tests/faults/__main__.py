"""`make faults`: tries every fault, or those that are named, and writes what came of it in docs/faults.md."""

import random
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.lab import Lab

PAGE = Path(__file__).resolve().parents[2] / "docs/faults.md"


def tried(fault: Fault, lab: Lab, folder: Path) -> str:
    """The fault's row of the table. What is lost is said on stderr."""
    lost, seconds, begun = [], [], time.monotonic()
    for i in range(fault.tries):
        (folder / str(i)).mkdir(parents=True)
        try:
            seconds.append(fault.attempt(lab, folder / str(i), random.Random(i)) or 0.0)
        except pytest.skip.Exception as reason:
            return f"| {fault.name} | 0 | | {reason} |"
        except Exception as error:
            lost.append(error)
            print(f"{fault.name}, {i}: {error!r}", file=sys.stderr, flush=True)
    ends = fault.ends + (f"; within {max(seconds):.1f} s" if any(seconds) else "")
    print(f"{fault.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return f"| {fault.name} | {fault.tries:,} | {len(lost)} | {ends} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        lab = Lab(Path(place) / "lab")
        for fault in FAULTS:
            name = fault.attempt.__name__
            if name in (sys.argv[1:] or [name]):
                row = tried(fault, lab, Path(place) / name)
                lines = PAGE.read_text().splitlines()
                lines = [row if line.startswith(f"| {fault.name} |") else line for line in lines]
                PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

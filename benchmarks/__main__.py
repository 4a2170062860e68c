"""All benchmarks, one after the other, into benchmarks/RESULTS.md.

    python -m benchmarks [--quick] [--rounds N] [--out PATH] [NAME ...]

Nothing else should run meanwhile. With --quick, tiny sizes, only --out is written.
"""

import argparse
import datetime
import json
import subprocess  # each benchmark has a process of its own  # nosec B404
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Table

NAMES = ("loading", "lrn", "grouped_conv", "histograms", "live_report", "step_time", "data", "bottleneck", "soak")
HERE = Path(__file__).resolve().parent


def run(name: str, options: list[str]) -> list[str]:
    """Runs one benchmark; returns its section of the page. Raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = ["-m", f"benchmarks.{name}", *options]
        subprocess.run([sys.executable, *command, "--json", str(path)], cwd=HERE.parent, check=True)  # nosec B603
        results = json.loads(path.read_text())
    machine = [f"- {key}: {value}" for key, value in results["machine"].items()]
    heading = [f"## {name}", f"`{' '.join(['python', *command])}`", "\n".join(machine)]
    return [*heading, *(str(Table(**table)) for table in results["tables"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: {' '.join(NAMES)})")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether they run, not how fast")
    parser.add_argument("--rounds", type=int, help="rounds that count, in each (default: its own)")
    parser.add_argument("--out", type=Path, help="default: benchmarks/RESULTS.md if all run at full size")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")

    page = [
        "# Results",
        f"Written by `python -m benchmarks` on {datetime.date.today()}. Median times; ratios are taken within each "
        "round of interleaved calls: median (10th..90th percentile). The top of each script says what is compared.",
    ]
    failed = []
    for name in args.names or NAMES:
        try:
            rounds = [] if args.rounds is None else ["--rounds", str(args.rounds)]
            page += run(name, [*rounds, *(["--quick"] if args.quick else [])])
        except subprocess.CalledProcessError as error:
            failed.append(name)
            page += [f"## {name}", f"Failed with {error.returncode}."]
    out = args.out or (None if args.quick or args.names else HERE / "RESULTS.md")
    if out:
        out.write_text("\n\n".join(page) + "\n")
    print(f"failed: {', '.join(failed)}" if failed else f"done{f', written to {out}' if out else ''}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

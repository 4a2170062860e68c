"""The benchmarks run; what they measure is for `make bench` on a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(
    {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - {"timing", "ablation"}
)  # it has no speed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(table["rows"] for table in json.loads(out.read_text())["tables"])

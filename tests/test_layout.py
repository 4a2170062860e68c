"""The rooms of the house: which may import which, and what none of them may."""

import ast
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "ops": {"ops"},
    "nets": {"ops", "nets"},
    "weights": {"ops", "weights"},
    "look": {"ops", "weights", "look"},
    "train": {"ops", "nets", "weights", "look", "train"},
}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("barenets.")} & set(MAY_IMPORT)
        assert rooms <= MAY_IMPORT[room], path


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_room_uses_keras(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        others = [name for name in imports(path) if not name.startswith("barenets.")]  # we read Keras's files
        assert not [name for name in others if "keras" in name.lower()], path
        assert "tf.keras" not in path.read_text(), path


def test_a_bare_checkout_runs_and_links_resolve() -> None:
    for room in MAY_IMPORT:
        link = ROOT / "barenets" / room
        assert link.is_symlink()
        assert link.resolve() == ROOT / room
    done = subprocess.run(
        [sys.executable, "-m", "barenets", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("barenets ")


def test_help_does_not_wait_for_tensorflow() -> None:
    script = "import sys; from barenets.train.cli import _parser; _parser(); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("content", [gzip.compress(b"x")])
def test_every_process_calls_a_test_the_same(request: pytest.FixtureRequest, content: bytes) -> None:
    """pytest-xdist runs nothing where two processes collect different names, and these bytes hold the time."""
    assert request.node.name.endswith("[content]")

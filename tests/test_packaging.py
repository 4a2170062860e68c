"""The wheel, in a clean environment: one import name, nothing at the top level that collides with other packages.

And what pip and PyPI make of it: it trains and predicts there, and its metadata and README are accepted.
"""

import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import barenets
from tests.pictures import write_pictures

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that both are whole."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    run(sys.executable, "-m", "twine", "check", "--strict", *out.iterdir(), cwd=out)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"barenets"}
    for name in (
        "py.typed",
        "nets/alexnet.py",
        "train/data/records.py",
        "look/page.html",
        "weights/imagenet_classes.txt",
    ):
        assert f"barenets/{name}" in names


def test_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python, program = tmp_path / "env/bin/python", tmp_path / "env/bin/barenets"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel, cwd=tmp_path)
    for name in ("ops", "nets", "weights", "look", "train"):
        found = f"import importlib.util as u; print(u.find_spec({name!r}), u.find_spec('barenets.{name}') is not None)"
        assert run(python, "-c", found, cwd=tmp_path).split() == ["None", "True"]
    assert run(program, "--version", cwd=tmp_path) == f"barenets {barenets.__version__}\n"
    assert "60,965,224" in run(program, "inspect", "--net", "alexnet", cwd=tmp_path)
    write_pictures(tmp_path / "pictures", 4)
    training = shlex.split("--train pictures --val pictures --size 32 --epochs 1 --batch-size 4 --logdir run")
    run(program, "finetune", "--net", "resnet18", *training, cwd=tmp_path)
    assert "above" in run(program, "predict", "--checkpoint", "run", "--images", "pictures", cwd=tmp_path)

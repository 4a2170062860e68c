"""The wheel, in a clean environment: one import name, nothing at the top level that collides with other packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


def test_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python, barenets = tmp_path / "env/bin/python", tmp_path / "env/bin/barenets"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    for name in ("ops", "nets", "weights", "look", "train"):
        found = f"import importlib.util as u; print(u.find_spec({name!r}), u.find_spec('barenets.{name}') is not None)"
        assert run(python, "-c", found, cwd=tmp_path).split() == ["None", "True"]
    assert "60,965,224" in run(barenets, "inspect", "--net", "alexnet", cwd=tmp_path)
    assert "finetune" in run(barenets, "--help", cwd=tmp_path)

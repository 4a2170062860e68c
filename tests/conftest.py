"""What tests share: where the real pictures are, and a process to read dangerous files in."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.weights.reader import Reader

os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several processes test at a time


def pytest_report_header() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy", "protobuf"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes by the name of their argument: those of gzip and protobuf differ between the processes that share the
    tests, which must call them the same."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures: $BARENETS_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("BARENETS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "cats_dogs").is_dir():
        pytest.skip(f"no pictures in {folder}; point BARENETS_DATA at a folder with cats_dogs/train and val")
    return folder


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """It starts with the first file."""
    reader = Reader()
    yield reader
    reader.close()

"""A log folder belongs to one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barenets import UserError
from barenets.train.lock import locked


@contextmanager
def another_process(folder: Path) -> Iterator[None]:
    """To the kernel, a folder that is opened anew is as good as one."""
    opened = os.open(folder, os.O_RDONLY)
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(opened)


def test_the_second_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match=rf"^{tmp_path}: another process is training in this folder; .*--logdir$")
    with another_process(tmp_path), refused, locked(str(tmp_path)):
        pass
    assert tmp_path.is_dir()
    with locked(str(tmp_path)):
        with pytest.raises(BlockingIOError), another_process(tmp_path):
            pass
        with locked(str(tmp_path / "..") + f"/{tmp_path.name}"):  # a recipe and its run
            pass
        with pytest.raises(BlockingIOError), another_process(tmp_path):
            pass
    with another_process(tmp_path):
        pass


def test_a_folder_is_made_and_only_stays_if_it_is_used(tmp_path: Path) -> None:
    with locked(str(tmp_path / "a/run")):
        assert (tmp_path / "a/run").is_dir()
    assert not (tmp_path / "a/run").exists()
    with locked(str(tmp_path / "a/run")):
        (tmp_path / "a/run/file").touch()
    assert (tmp_path / "a/run/file").exists()
    refused = pytest.raises(UserError, match=r"run/file: cannot be written \(File exists\); choose another --logdir")
    with refused, locked(str(tmp_path / "a/run/file")):
        pass


def test_what_was_left_unfinished_is_removed(tmp_path: Path) -> None:
    ours = [".report.json.12.tmp", "checkpoints/.step-00000002.npz.34.tmp", "features/stage-1/train/.00001.npy.5.tmp"]
    others = ["report.json", "checkpoints/step-00000001.npz", ".hidden", "notes.12.tmp", "mine/.x.12.tmp", ".x.tmp"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with locked(str(tmp_path)):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(others)


def test_elsewhere_than_on_disk_there_is_no_lock() -> None:
    with locked("gs://bucket/run"), locked("gs://bucket/run"):
        pass
    assert not Path("gs:").exists()

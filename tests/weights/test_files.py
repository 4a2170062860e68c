"""Files are seen without a copy, and replaced whole or not at all."""

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from barenets import UserError
from barenets.weights import files


def test_view_is_a_map(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    view = files.view(str(path))
    assert bytes(view) == b"content"
    assert view.readonly
    assert isinstance(view.obj, mmap.mmap)
    path.unlink()  # the map outlives the name
    assert bytes(view) == b"content"


@pytest.mark.parametrize(("name", "says"), [("none", "no such file"), ("folder", "is a folder"), ("empty", "is empty")])
def test_view_of_what_is_no_file(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=says) as raised:
        files.view(str(tmp_path / name))
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert str(raised.value).isprintable()


def test_view_of_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is played.
    def refuse(path: str, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", path)

    (tmp_path / "secret").write_bytes(b"content")
    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(UserError, match=r"secret: cannot be read \(Permission denied\)"):
        files.view(str(tmp_path / "secret"))


@pytest.mark.parametrize("old", [b"old", None])
def test_replacing(old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "a.bin"
    if old:
        path.parent.mkdir(parents=True)
        path.write_bytes(old)
    with files.replacing(str(path)) as file:
        assert file.write(b"n") == 1
        file.write(memoryview(b"ew"))
        assert (path.read_bytes() if old else path.exists()) == (old or False)  # not before the end
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), OSError(28, "No space left")])
@pytest.mark.parametrize("old", [b"old", None])
def test_replacing_interrupted(old: bytes | None, error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    if old:
        path.write_bytes(old)
    expected = UserError if isinstance(error, OSError) else type(error)

    def interrupted() -> None:
        with files.replacing(str(path)) as file:
            file.write(b"new and far too long" * 1000)
            raise error

    with pytest.raises(expected):
        interrupted()
    assert os.listdir(tmp_path) == (["a.bin"] if old else [])
    assert not old or path.read_bytes() == old


def test_replacing_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"), files.replacing(str(tmp_path / "a")) as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == ["b"]


def test_replacing_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with files.replacing("a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_replacing_in_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"), files.replacing(str(tmp_path / "a")) as file:
        file.write(b"new")
    assert not os.listdir(tmp_path)

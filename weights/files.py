"""Files: seen as bytes without a copy, written beside their target and then renamed."""

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from barenets import UserError


def opened(path: str) -> Any:
    """A binary file to read from. Raises UserError for a folder and a missing, empty or unreadable file."""
    try:
        if tf.io.gfile.isdir(path):
            raise UserError(f"{path}: is a folder, not a file")
        if not tf.io.gfile.exists(path):
            raise UserError(f"{path}: there is no such file")
        if tf.io.gfile.stat(path).length == 0:
            raise UserError(f"{path}: the file is empty")
        # gs://, hdfs:// and the like are not on this machine's disk.
        return open(path, "rb") if os.path.exists(path) else tf.io.gfile.GFile(path, "rb")
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from None


def view(path: str) -> memoryview:
    """The bytes of the file at `path`; a local one is mapped, not read. Raises UserError as `opened` does."""
    with opened(path) as file:
        if not isinstance(file, io.BufferedReader):
            return memoryview(file.read())
        # The map lives as long as the last array that looks into it.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@contextlib.contextmanager
def replacing(path: str) -> Iterator[Any]:
    """A binary file to write whose content appears at `path` whole, when the block ends, or not at all.

    Raises UserError if the folder cannot be written or the disk is full; what was at `path` before
    is then still there.
    """
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        if folder:
            tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(unfinished, "wb") as file:
            yield _Writer(file)
        tf.io.gfile.rename(unfinished, path, overwrite=True)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)}); nothing there was changed") from None
    finally:
        with contextlib.suppress(OSError, tf.errors.OpError):
            if tf.io.gfile.exists(unfinished):
                tf.io.gfile.remove(unfinished)


class _Writer(io.RawIOBase):
    """Writes on and on: an archive then does not seek, which remote files cannot."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(bytes(data))
        return len(data)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(getattr(error, "message", error)).splitlines()[0]

"""Files: seen as bytes without a copy, written beside their target and then renamed."""

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from barenets import UserError


def view(path: str) -> memoryview:
    """The bytes of the file at `path`; a local one is mapped, not read.

    Raises UserError if there is no such file, if it is a folder or empty, or if it may not be read.
    """
    try:
        if tf.io.gfile.isdir(path):
            raise UserError(f"{path}: is a folder, not a file")
        if not os.path.exists(path):  # gs://, hdfs:// and the like
            with tf.io.gfile.GFile(path, "rb") as file:
                data = file.read()
        elif os.path.getsize(path):
            with open(path, "rb") as file:
                # The map lives as long as the last array that looks into it.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            data = b""
    except tf.errors.NotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from None
    if not len(data):
        raise UserError(f"{path}: the file is empty")
    return memoryview(data)


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

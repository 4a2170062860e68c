"""Files: seen as bytes without a copy, written beside their target and then renamed."""

import contextlib
import gzip
import io
import json
import math
import mmap
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import numpy as np
import tensorflow as tf
from isal.isal_zlib import crc32  # zlib's takes ten times as long

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


_PIECE = 1 << 16  # bytes
_MOST_MEMBERS = 100_000  # of a tar archive; each may take a byte of the file
_LARGEST_JSON = 1 << 21  # bytes; as lists in memory they take 60 times as much
_MODEST = 1 << 30  # bytes that anything may unpack to
_DENSEST = 100  # above that, how much weights or pictures may be compressed
Members = Mapping[str, zipfile.ZipInfo]


def members(path: str) -> dict[str, zipfile.ZipInfo]:
    """Name -> place of what is in the zip archive at `path`. Raises UserError, without the path, if it is none."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return {info.filename: info for info in archive.infolist()}
    except Exception as error:  # a damaged directory can be any nonsense
        raise UserError(f"it is no sound zip archive ({error}); is the file complete?") from None


def member(archive: memoryview, members: Members, name: str) -> memoryview:
    """The bytes of an uncompressed member, without a copy. Raises UserError, without the path, if it is damaged."""
    if name not in members:
        raise UserError(f"it lacks its member {name!r}")
    info = members[name]
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"its member {name!r} is compressed, which its writer does not do")
    # The local header is 30 bytes, a name, and padding; only it knows how long those two are here.
    lengths = archive[info.header_offset + 26 : info.header_offset + 30]
    begin = info.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    data = archive[begin : begin + info.file_size]
    if len(data) != info.file_size or crc32(data) != info.CRC:
        raise UserError(f"its member {name!r} is damaged: its checksum is wrong")
    return data


def untarred(file: IO[bytes], most: int) -> Iterator[tuple[str, Callable[[], Iterator[bytes]]]]:
    """Name of each plain file in a tar archive, gzipped or not, and what reads it in pieces.

    Links are none, and sparse files bombs. tarfile would read what goes before a member, such as a name of more than
    255 bytes, as a whole, however long it claims to be, and before Python 3.11.10 and 3.12.6 it may take hours over
    64 KiB of that; here it is passed over. Raises TarError for damage, what gzip raises, and ValueError if the archive
    is, unpacked, of more than `most` bytes.
    """
    file.seek(0)
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    unpacked: Any = gzip.GzipFile(fileobj=file, mode="rb") if zipped else file

    def pieces(at: int, end: int) -> Iterator[bytes]:
        unpacked.seek(at)
        while at < end:
            piece = unpacked.read(min(_PIECE, end - at))
            if not piece:
                raise tarfile.ReadError("it ends in the middle of a file")
            at += len(piece)
            yield piece

    at = count = 0
    while True:
        unpacked.seek(at)
        block = unpacked.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            return
        item = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        begin, count = at + tarfile.BLOCKSIZE, count + 1
        at = begin + -(-item.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if item.size < 0 or at > most:
            raise ValueError(f"with {item.name!r:.99} it claims more than {most:,} bytes")
        if count > _MOST_MEMBERS:
            raise ValueError(f"it has more than {_MOST_MEMBERS:,} members")
        if item.isreg() and not item.issparse():
            yield item.name, partial(pieces, begin, begin + item.size)


def numbers(data: memoryview, dtype: Any, shape: Sequence[int], what: str = "an array") -> np.ndarray:
    """`data` as an array, without a copy. Raises UserError, without the path, for a shape that it does not fill."""
    dtype = np.dtype(dtype)
    # NumPy wants to count what there would be if no side were 0.
    bound = math.prod(side or 1 for side in shape) * dtype.itemsize < 1 << 63
    if len(shape) > 32 or not bound or math.prod(shape) * dtype.itemsize != len(data):
        raise UserError(f"{what} of shape {str(shape)[:80]} and type {dtype} does not fill {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def check_unpacked(size: int, stored: int) -> None:
    """Raises UserError, without the path, where `stored` bytes claim to unpack to `size`, as only a bomb's do.

    Nothing that is compressed takes more memory than a gibibyte, or a hundred times its own size.
    """
    if size > max(_MODEST, _DENSEST * stored):
        raise UserError(f"its {stored:,} bytes claim to unpack to {size:,}, as no weights or pictures do")


def parsed(text: memoryview | bytes, what: str) -> Any:
    """What the JSON in `text` says. Raises UserError, without the path, if `what` is none or too much."""
    if len(text) > _LARGEST_JSON:
        raise UserError(f"{what} has {len(text):,} bytes, and no more than {_LARGEST_JSON:,} are read")
    try:
        return json.loads(bytes(text))
    except (ValueError, RecursionError):
        raise UserError(f"{what} is no JSON") from None


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


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """A folder to write into that appears as `path` whole, when the block ends, or not at all.

    Raises UserError if it cannot be written, as `replacing` does.
    """
    parent, name = os.path.split(path)
    unfinished = os.path.join(parent, f".{name}.{os.getpid()}.tmp")
    try:
        tf.io.gfile.makedirs(unfinished)
        yield unfinished
        tf.io.gfile.rename(unfinished, path)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{path}: cannot be written ({_reason(error)}); nothing there was changed") from None
    finally:
        with contextlib.suppress(OSError, tf.errors.OpError):
            if tf.io.gfile.exists(unfinished):
                tf.io.gfile.rmtree(unfinished)


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

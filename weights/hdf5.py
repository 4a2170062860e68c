"""HDF5 as h5py writes it unless told otherwise: the part of the format that Keras's files are made of.

    superblock 0 or 1 -> object header 1 of the root group -> B-tree 1 and local heap of its members
    member            -> object header 1: dataspace, datatype, layout 3, filters; attributes
    numbers           contiguous, compact, or in chunks that may be shuffled and deflated

(HDF5 File Format Specification, version 3.0.) The HDF5 library was measured to hang on about one in a
thousand damaged files, and it copies; here every structure is read within the bounds of the file and at most
once, and contiguous numbers are windows into the mapped file. Links to elsewhere are not followed.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from barenets import UserError
from barenets.weights import files

MAGIC = b"\x89HDF\r\n\x1a\n"
_NOWHERE = (1 << 64) - 1
_NEWER = "it is in the newer form of HDF5, which libver='latest' or links to other files bring; save it without them"
_MOST_EXPANSION = 1032  # deflate makes at most that many bytes of one

_DATASPACE, _DATATYPE, _LINK_INFO, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = (
    *(0x01, 0x03, 0x02, 0x07, 0x08, 0x0B, 0x0C, 0x10, 0x11),
)
_DEFLATE, _SHUFFLE = 1, 2


def root(view: memoryview) -> "Node":
    """The root group of the file in `view`. Raises UserError, as all here does, for one that is damaged."""
    file = _File(view)
    version, offsets, lengths = file.unpack("<8xB4x2B", 0)
    if version > 1:
        raise UserError(_NEWER)
    if (offsets, lengths) != (8, 8):
        raise UserError(f"its addresses have {offsets} bytes where 8 were expected")
    base, _, end, _, _, header = file.unpack("<6Q", 28 if version else 24)
    if base:
        raise UserError("it does not begin with its superblock")
    if end > len(view):
        raise UserError(f"it ends at byte {len(view):,} of {end:,}; is the file complete?")
    return Node(file, header)


class _File:
    """Reads within the bounds of the file."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self._heaps: dict[int, dict[int, memoryview]] = {}
        self._unpacked = 0

    def unpacks(self, size: int) -> None:
        """Counts what is to be unpacked, of all arrays together: several may share their chunks."""
        self._unpacked += size
        files.check_unpacked(self._unpacked, len(self.view))

    def window(self, at: int, size: int) -> memoryview:
        window = self.view[at : at + size]
        if len(window) != size:
            raise UserError(f"something of {size:,} bytes at byte {at:,} lies beyond its end; is the file complete?")
        return window

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack(form, self.window(at, struct.calcsize(form)))

    def expect(self, signature: bytes, at: int) -> None:
        if bytes(self.window(at, 4)) != signature:
            raise UserError(f"at byte {at:,} there is no {signature.decode()} where one was expected")

    def tree(self, at: int, kind: int, key: str) -> Iterator[tuple[tuple[Any, ...], int]]:
        """(key, address) of each leaf of the B-tree at `at`; `key` is the form of the keys between the addresses."""
        waiting, seen = [at] if at != _NOWHERE else [], set()
        size, room = struct.calcsize(key), len(self.view)
        while waiting:
            at = waiting.pop()
            if at in seen:
                raise UserError("a tree of it leads back to itself")
            seen.add(at)
            self.expect(b"TREE", at)
            node_kind, level, count = self.unpack("<4x2BH", at)
            if node_kind != kind:
                raise UserError(f"at byte {at:,} there is a tree of another kind than expected")
            room -= count * (size + 8)
            if room < 0:
                raise UserError("the nodes of a tree of it overlap")
            entries = []
            for i in range(count):
                place = at + 24 + i * (size + 8)
                (address,) = self.unpack("<Q", place + size)
                entries.append((self.unpack(key, place), address))
            if level:
                waiting += [address for _, address in reversed(entries)]
            else:
                yield from entries

    def heap_object(self, at: int, index: int) -> memoryview:
        """An object of the global heap collection at `at`."""
        if at not in self._heaps:
            self.expect(b"GCOL", at)
            (size,) = self.unpack("<8xQ", at)
            objects, place, end = {}, at + 16, at + size
            while place + 16 <= end:
                number, length = self.unpack("<H6xQ", place)
                if number == 0:
                    break
                objects[number] = self.window(place + 16, length)
                place += 16 + _padded(length)
            self._heaps[at] = objects
        if index not in self._heaps[at]:
            raise UserError("its heap lacks a text that it refers to")
        return self._heaps[at][index]


class Node:
    """A group or an array of numbers."""

    def __init__(self, file: _File, at: int) -> None:
        self._file = file
        self._messages = list(_messages(file, at))

    def _message(self, kind: int) -> int | None:
        """Where the message of that kind lies; None if there is none."""
        return next((at for number, at, _ in self._messages if number == kind), None)

    @property
    def is_array(self) -> bool:
        """Whether it is a data set, rather than a group."""
        return self._message(_LAYOUT) is not None

    @cached_property
    def members(self) -> dict[str, int]:
        """Of a group: name -> address."""
        file, at = self._file, self._message(_SYMBOL_TABLE)
        if at is None:
            if self._message(_LINK_INFO) is not None:
                raise UserError(_NEWER)
            return {}
        tree, heap = file.unpack("<2Q", at)
        file.expect(b"HEAP", heap)
        size, names_at = file.unpack("<8xQ8xQ", heap)
        names = file.window(names_at, size)
        members: dict[str, int] = {}
        room = len(file.view)
        for _, leaf in file.tree(tree, 0, "<Q"):
            file.expect(b"SNOD", leaf)
            (count,) = file.unpack("<6xH", leaf)
            room -= 40 * count
            if room < 0:
                raise UserError("the lists of its groups' members overlap")
            for i in range(count):
                offset, address, cached = file.unpack("<2QI", leaf + 8 + 40 * i)
                name = _text(bytes(names[offset : offset + 1000]).partition(b"\0")[0])
                if cached == 2:
                    raise UserError(f"its {name!r:.80} is a link to elsewhere")
                members[name] = address
        return members

    def __getitem__(self, path: str) -> "Node":
        node = self
        for part in path.strip("/").split("/"):
            if part not in node.members:
                raise UserError(f"it lacks {path!r:.80}")
            node = Node(self._file, node.members[part])
        return node

    @cached_property
    def attributes(self) -> dict[str, list[str]]:
        """Name -> its texts; attributes that are no texts are left out."""
        found: dict[str, list[str]] = {}
        for kind, at, _ in self._messages:
            if kind == _ATTRIBUTE:
                name, texts = _attribute(self._file, at)
                if texts is not None:
                    found[name] = texts
        return found

    def array(self) -> np.ndarray:
        """The numbers; a window into the mapped file where they are contiguous."""
        file = self._file
        layout, filters = self._message(_LAYOUT), self._message(_FILTERS)
        space, kind = self._message(_DATASPACE), self._message(_DATATYPE)
        if layout is None or space is None or kind is None:
            raise UserError("it has a group where an array was expected")
        shape, dtype = _shape(file, space), _dtype(file, kind)
        if dtype is None:
            raise UserError("it has an array of what is no number")
        size = math.prod(shape) * dtype.itemsize
        version, form = file.unpack("<2B", layout)
        if version != 3:
            raise UserError(f"it lays out an array by version {version} where 3 was expected")
        if self._message(_EXTERNAL) is not None:
            raise UserError("it keeps an array in another file")
        if size == 0:
            return files.numbers(memoryview(b""), dtype, shape)
        if form == 0:
            (stored,) = file.unpack("<H", layout + 2)
            data = file.window(layout + 4, stored)
        elif form == 1:
            address, stored = file.unpack("<2Q", layout + 2)
            data = file.window(address, stored) if address != _NOWHERE else memoryview(b"")
        elif form == 2:
            return _chunked(file, layout, _filters(file, filters) if filters else (), shape, dtype)
        else:
            raise UserError("it lays out an array in an unknown way")
        if filters:
            raise UserError("it compresses an array that is in one piece")
        return files.numbers(data, dtype, shape)


def _messages(file: _File, at: int) -> Iterator[tuple[int, int, int]]:
    """(kind, where, size) of each message of the object header at `at`."""
    version, count, size = file.unpack("<BxH4xI", at)
    if version != 1:
        raise UserError(_NEWER)
    pieces, seen = [(at + 16, size)], set()
    while pieces:
        place, size = pieces.pop()
        if place in seen:
            raise UserError("an object header of it leads back to itself")
        seen.add(place)
        end = place + size
        while place + 8 <= end and count > 0:
            kind, size, flags = file.unpack("<2HB", place)
            count -= 1
            file.window(place + 8, size)
            if flags & 2:
                raise UserError("it shares types between arrays, which Keras does not do")
            if kind == _CONTINUATION:
                pieces.append(file.unpack("<2Q", place + 8))
            yield kind, place + 8, size
            place += 8 + size


def _shape(file: _File, at: int) -> tuple[int, ...]:
    version, rank, _, kind = file.unpack("<4B", at)
    if version not in (1, 2) or rank > 32:
        raise UserError("it has an array of unknown shape")
    if version == 2 and kind == 2:
        return (0,)
    shape: tuple[int, ...] = file.unpack(f"<{rank}Q", at + (8 if version == 1 else 4))
    return shape


def _dtype(file: _File, at: int) -> np.dtype | None:
    """The type of the numbers; None for what is none."""
    kind, flags, size = file.unpack("<BB2xI", at)
    order = ">" if flags & 1 else "<"
    if kind & 15 == 0 and size in (1, 2, 4, 8):
        return np.dtype(f"{order}{'i' if flags & 8 else 'u'}{size}")
    if kind & 15 == 1:
        exponent, mantissa = file.unpack("<5xBxB", at + 8)
        if (size, exponent, mantissa) in ((2, 5, 10), (4, 8, 23), (8, 11, 52)):
            return np.dtype(f"{order}f{size}")
    return None


def _attribute(file: _File, at: int) -> tuple[str, list[str] | None]:
    version, flags, name_size, type_size, space_size = file.unpack("<2B3H", at)
    if version not in (1, 2, 3) or (version > 1 and flags):
        raise UserError("it has an attribute of an unknown form")
    pad = _padded if version == 1 else int
    at += 9 if version == 3 else 8
    name = _text(bytes(file.window(at, name_size)).partition(b"\0")[0])
    kind_at = at + pad(name_size)
    space_at = kind_at + pad(type_size)
    data_at = space_at + pad(space_size)
    kind, flags, size = file.unpack("<BB2xI", kind_at)
    fixed = kind & 15 == 3
    if not fixed and (kind & 15 != 9 or flags & 15 != 1):
        return name, None
    count = math.prod(_shape(file, space_at))
    if fixed and not size:
        raise UserError("it has a text of no size")
    data = file.window(data_at, count * (size if fixed else 16))
    if fixed:
        return name, [_text(bytes(data[i * size : (i + 1) * size]).rstrip(b"\0 ")) for i in range(count)]
    texts, room = [], len(file.view)
    for length, heap, index in struct.iter_unpack("<IQI", data):
        room -= length
        if room < 0:  # many may refer to one
            raise UserError("its texts are longer than the file")
        texts.append(_text(bytes(file.heap_object(heap, index)[:length])) if length else "")
    return name, texts


def _filters(file: _File, at: int) -> tuple[int, ...]:
    """What was done to the chunks, in order."""
    version, count = file.unpack("<2B", at)
    if version not in (1, 2):
        raise UserError("it has filters of an unknown form")
    at += 8 if version == 1 else 2
    numbers = []
    for _ in range(count):
        (number,) = file.unpack("<H", at)
        named = version == 1 or number >= 256
        name_size, _, values = file.unpack("<3H", at + 2) if named else (0, *file.unpack("<2H", at + 2))
        at += (8 if named else 6) + (_padded(name_size) if version == 1 else name_size)
        at += 4 * (values + values % 2 if version == 1 else values)
        numbers.append(number)
    if unknown := set(numbers) - {_DEFLATE, _SHUFFLE}:
        raise UserError(f"it is compressed in another way than gzip and shuffle (filter {min(unknown)})")
    return tuple(numbers)


def _chunked(file: _File, layout: int, filters: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    rank, tree = file.unpack("<BQ", layout + 2)
    chunk = file.unpack(f"<{rank}I", layout + 11)[:-1]
    if len(chunk) != len(shape) or 0 in chunk:
        raise UserError(f"it keeps an array of shape {shape} in chunks of shape {chunk}")
    whole = math.prod(chunk) * dtype.itemsize
    pieces = {}
    for (stored, mask, *place, _), address in file.tree(tree, 1, f"<2I{rank}Q"):
        if mask or whole > _MOST_EXPANSION * stored:
            raise UserError("a chunk of it cannot unpack to its size")
        pieces[tuple(place)] = file.window(address, stored)
    # All must be there, and none twice: what was never written costs nothing on the disk and reads as zeros.
    expected = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    if len(pieces) != expected or sum(map(len, pieces.values())) > len(file.view):
        raise UserError(f"an array of shape {shape} has {len(pieces)} chunks where {expected} were expected")
    file.unpacks(math.prod(shape) * dtype.itemsize + whole)
    array = np.empty(shape, dtype)
    for offset, piece in pieces.items():
        data = _unfiltered(piece, filters, whole, dtype.itemsize)
        window = tuple(slice(o, o + c) for o, c in zip(offset, chunk, strict=True))
        if any(o >= n or o % c for o, n, c in zip(offset, shape, chunk, strict=True)):
            raise UserError(f"a chunk at {offset} lies outside of its array of shape {shape}")
        target = array[window]
        target[...] = np.frombuffer(data, dtype).reshape(chunk)[tuple(map(slice, target.shape))]
    return array


def _unfiltered(data: memoryview | bytes, filters: tuple[int, ...], size: int, itemsize: int) -> Any:
    for number in reversed(filters):
        if number == _DEFLATE:
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(data, size)
            except zlib.error as error:
                raise UserError(f"a chunk of it is damaged ({error})") from None
        elif len(data) == size:
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(data) != size:
        raise UserError(f"a chunk of it has {len(data):,} bytes where {size:,} were expected")
    return data


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")

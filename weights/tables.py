"""TensorFlow's sorted tables, LevelDB's: the index of a checkpoint, or the whole of one of before 2016.

    blocks     of entries, then of what describes them
    footer     48 bytes: places of the block of descriptions and of the block of blocks, zeros, a magic number

    block      entries, [where some of them begin], how many of those; then its compression and its checksum
    entry      sizes: of what the key shares with the one before, of its rest, of the value; rest, value

(LevelDB's doc/table_format.md; tensorflow/core/lib/io.) Every block is read at most once, within the bounds of the
file. Values are windows into it.
"""

from collections.abc import Iterator

import google_crc32c

from barenets import UserError
from barenets.weights.protobuf import varint

END = bytes.fromhex("57fb808b247547db")
_LONGEST_KEY = 4096  # bytes; keys build on each other, so that a small file could spell long ones
_LARGEST_BLOCK = 1 << 24  # unpacked; TensorFlow's have 256 KiB, or one entry
_PIECE = 1 << 18  # bytes that are summed at a time


def entries(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Key and value, in the order of the keys. Raises UserError, without a path, for a damaged table."""
    footer = view[-48:]
    if bytes(footer[-8:]) != END or len(footer) < 48:
        raise UserError("it does not end as a table does; is the file complete?")
    at = 0
    for _ in range(2):
        _, at = varint(footer, at)
    index, _ = _handle(footer, at)
    end: int = 0
    last: bytes | None = None
    for _, value in _entries(_block(view, index)):
        place, _ = _handle(value, 0)
        if place[0] < end:
            raise UserError("its blocks overlap")
        end = sum(place)
        for key, content in _entries(_block(view, place)):
            if last is not None and key <= last:
                raise UserError("its keys are not in order")
            last = key
            yield key, content


def _handle(content: memoryview, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(content, at)
    size, at = varint(content, at)
    return (offset, size), at


def _block(view: memoryview, place: tuple[int, int]) -> memoryview:
    """The entries of the block at `place`."""
    offset, size = place
    whole = view[offset : offset + size + 5]
    if len(whole) != size + 5 or size < 4:
        raise UserError(f"a block of {size:,} bytes at byte {offset:,} lies beyond its end; is the file complete?")
    check(whole[: size + 1], int.from_bytes(whole[size + 1 :], "little"), "a block")
    if whole[size] > 1:
        raise UserError("it is compressed in an unknown way")
    block = _unsnapped(whole[:size]) if whole[size] else whole[:size]
    starts = 4 + 4 * int.from_bytes(block[-4:], "little")
    if starts > len(block):
        raise UserError("a block of it is damaged")
    return block[: len(block) - starts]


def _unsnapped(data: memoryview) -> memoryview:
    """What Snappy compressed, as TensorFlow did in 2017 (google/snappy, format_description.txt)."""
    size, at = varint(data, 0)
    if size > _LARGEST_BLOCK:
        raise UserError(f"a block of it claims {size:,} bytes")
    made = bytearray()
    while at < len(data) and len(made) <= size:
        tag, kind, at = data[at] >> 2, data[at] & 3, at + 1
        if kind == 0:  # bytes as they are
            if tag >= 60:
                tag, at = int.from_bytes(data[at : at + tag - 59], "little"), at + tag - 59
            made += data[at : at + tag + 1]
            at += tag + 1
            continue
        length, bytes_of_offset = (4 + (tag & 7), 1) if kind == 1 else (tag + 1, 2 * kind - 2)
        offset = int.from_bytes(data[at : at + bytes_of_offset], "little") + (tag >> 3 << 8 if kind == 1 else 0)
        at += bytes_of_offset
        if not 0 < offset <= len(made):
            raise UserError("a block of it is damaged: it repeats what was not there before")
        piece = bytes(made[-offset:][:length])
        made += (piece * -(-length // offset))[:length]  # which may overlap what it makes
    if len(made) != size:
        raise UserError(f"a block of it unpacks to {len(made):,} bytes where {size:,} were expected")
    return memoryview(bytes(made))


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at, key = 0, b""
    while at < len(block):
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or shared + rest > _LONGEST_KEY or at + rest + size > len(block):
            raise UserError("an entry of its table is damaged")
        key = key[:shared] + bytes(block[at : at + rest])
        at += rest
        yield key, block[at : at + size]
        at += size


def check(data: memoryview, masked: int, what: str) -> None:
    """Raises UserError unless the checksum of `data` is that which a checkpoint keeps, rotated and moved."""
    crc = crc32c(data)
    if (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF != masked:
        raise UserError(f"{what} of it is damaged: its checksum is wrong")


def crc32c(data: memoryview) -> int:
    """Castagnoli's checksum of `data`."""
    crc = 0
    for at in range(0, len(data), _PIECE):
        crc = google_crc32c.extend(crc, bytes(data[at : at + _PIECE]))  # it takes nothing but bytes
    return crc

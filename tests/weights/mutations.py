"""Damage to files: each a pure function of the file's bytes and a seed, so that a seed alone brings a fault back."""

import io
import random
import zipfile
from collections.abc import Callable

_NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def mutated(content: bytes, seed: int) -> bytes:
    """`content` after one to four changes: bits, runs, lengths, and chunks that go, move, repeat or nest."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        rng.choice(_CHANGES)(data, rng)
        if not data:
            break
    return bytes(data) or b"\0"


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, or as often where the structure is: near the start, or the end, where archives and tables have it."""
    size = len(data)
    return rng.choice(
        (rng.randrange(size), rng.randrange(size), rng.randrange(min(size, 256)), size - rng.randint(1, min(size, 256)))
    )


def _chunk(data: bytearray, rng: random.Random) -> slice:
    at = _place(data, rng)
    return slice(at, at + rng.choice((1, 4, 8, rng.randint(1, 40), rng.randint(1, len(data)))))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _run(data: bytearray, rng: random.Random) -> None:
    at, size = _place(data, rng), rng.randint(1, 16)
    data[at : at + size] = rng.choice((b"\xff" * size, bytes(size), rng.randbytes(size), b"(" * size, b"\x80" * size))


def _number(data: bytearray, rng: random.Random) -> None:
    """A number in place of what may be one: of 1, 2, 4 or 8 bytes in either order, or of protobuf's form."""
    number = rng.choice((*_NUMBERS, len(data), rng.randrange(len(data)), -rng.randrange(1, 99) % (1 << 64)))
    at, size = _place(data, rng), rng.choice((1, 2, 4, 4, 8, 8, 0))
    if size == 0:
        data[at : at + 1] = varint(number)
        return
    at -= at % size * rng.randrange(2)  # most formats align theirs
    data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    del data[_chunk(data, rng)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    chunk = bytes(data[_chunk(data, rng)])
    at = _place(data, rng)
    data[at:at] = chunk


def _nest(data: bytearray, rng: random.Random) -> None:
    """A short piece over and over, as deep nesting looks in most formats."""
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.randint(1, 12)] * rng.choice((3, 30, 300, 3000))


def _swap(data: bytearray, rng: random.Random) -> None:
    one, other = _chunk(data, rng), _chunk(data, rng)
    data[one], data[other] = data[other], data[one]


_CHANGES = (_flip, _flip, _run, _number, _number, _number, _cut, _remove, _repeat, _nest, _swap)


def repacked(content: bytes, seed: int, change: Callable[[bytes, int], bytes] = mutated) -> bytes:
    """A zip archive with one member changed, and sound checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        chosen = random.Random(seed).choice(old.infolist())
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data, seed) if info is chosen else data, info.compress_type)
    return file.getvalue()


def zipped(content: bytes, seed: int) -> bytes:
    """A zip archive damaged from outside and from inside, by turns."""
    return (repacked if seed % 2 else mutated)(content, seed)


def varint(value: int) -> bytes:
    """As protobuf writes a number: seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

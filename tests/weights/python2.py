"""`.npy` files as `np.save(path, layers)` wrote them under Python 2, opcode by opcode.

No Python 3 can write them: cPickle's protocol 2 has 8-bit strings (SHORT_BINSTRING, BINSTRING) for keys
and for the bytes of arrays, numbers its memo from 1, and names `numpy.core.multiarray`. NumPy then padded
headers to 16 bytes.
"""

import struct
from typing import Any

import numpy as np


def npy(layers: dict[bytes, Any]) -> bytes:
    """The file of a 0-d object array that holds `layers`: bytes keys, ints, lists, dicts and arrays."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(10 + len(header) + 1) % 16) + b"\n"
    pickler = _Pickler()
    pickler.array((), b"O8", b"|", 63, lambda: pickler.sequence([layers]))
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickler.finished()


def bare(layers: dict[bytes, Any]) -> bytes:
    """`cPickle.dump(layers, file, 2)`."""
    pickler = _Pickler()
    pickler.save(layers)
    return pickler.finished()


class _Pickler:
    def __init__(self) -> None:
        self.out, self.memo = bytearray(b"\x80\x02"), {}

    def finished(self) -> bytes:
        return bytes(self.out) + b"."

    def put(self, key: Any = None) -> None:
        number = len(self.memo) + 1
        self.memo[object() if key is None else key] = number
        self.out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def again(self, key: Any) -> bool:
        if (number := self.memo.get(key)) is None:
            return False
        self.out += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)
        return True

    def save(self, value: Any) -> None:
        if isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            size = 1 if 0 <= value < 1 << 8 else 2 if 0 <= value < 1 << 16 else 4
            self.out += {1: b"K", 2: b"M", 4: b"J"}[size] + value.to_bytes(size, "little", signed=value < 0)
        elif value is None:
            self.out += b"N"
        elif isinstance(value, bytes):
            short = len(value) < 256
            self.out += struct.pack("<cB" if short else "<ci", b"U" if short else b"T", len(value)) + value
            self.put()
        elif isinstance(value, tuple):
            self.fixed(*value)
        elif isinstance(value, list):
            self.sequence(value)
        elif isinstance(value, dict):
            self.out += b"}"
            self.put()
            self.batch([part for item in value.items() for part in item], b"s" if len(value) == 1 else b"u")
        elif isinstance(value, np.ndarray):
            fortran = value.flags.fnc
            order = b"|" if value.dtype.itemsize == 1 else b">" if value.dtype.byteorder == ">" else b"<"
            data = value.tobytes("F" if fortran else "C")
            self.array(value.shape, value.dtype.str[1:].encode(), order, 0, lambda: self.save(data), fortran)
        else:
            raise TypeError(f"Python 2 did not write a {type(value)} here")

    def sequence(self, items: list[Any]) -> None:
        self.out += b"]"
        self.put()
        self.batch(items, b"a" if len(items) == 1 else b"e")

    def batch(self, items: list[Any], ending: bytes) -> None:
        if items:
            self.out += b"(" if ending in b"eu" else b""
            for item in items:
                self.save(item)
            self.out += ending

    def fixed(self, *items: Any) -> None:
        self.out += b"(" if len(items) > 3 else b""
        for item in items:
            item() if callable(item) else self.save(item)
        self.out += (b")", b"\x85", b"\x86", b"\x87", b"t")[min(len(items), 4)]
        if items:
            self.put()

    def name(self, module: bytes, name: bytes) -> None:
        if not self.again((module, name)):
            self.out += b"c" + module + b"\n" + name + b"\n"
            self.put((module, name))

    def dtype(self, kind: bytes, order: bytes, flags: int) -> None:
        if not self.again((kind, order)):
            self.name(b"numpy", b"dtype")
            self.fixed(kind, 0, 1)
            self.out += b"R"
            self.put((kind, order))
            self.fixed(3, order, None, None, None, -1, -1, flags)
            self.out += b"b"

    def array(
        self, shape: tuple[int, ...], kind: bytes, order: bytes, flags: int, data: Any, fortran: bool = False
    ) -> None:
        self.name(b"numpy.core.multiarray", b"_reconstruct")
        self.fixed(lambda: self.name(b"numpy", b"ndarray"), (0,), b"b")
        self.out += b"R"
        self.put()
        self.fixed(1, shape, lambda: self.dtype(kind, order, flags), fortran, data)
        self.out += b"b"

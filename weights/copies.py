"""Copies and checksums of large arrays, on all cores and at one pass over the memory."""

import math
import mmap
import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

_ALIGNED = 64  # bytes; TensorFlow's tensors begin at multiples of it
_PIECE = 1 << 22  # bytes that a thread copies or sums at a time
_POLYNOMIAL = 0xEDB88320  # of zlib's CRC, the lowest power in the highest bit


@cache
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores, "barenets-copies")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked


class Copy:
    """A copy of an array in C order, where TensorFlow can take it over; it is made while other things happen."""

    def __init__(self, array: np.ndarray, dtype: Any = None) -> None:
        dtype = np.dtype(dtype or array.dtype)
        size = array.size * dtype.itemsize
        self._copy = _room(size).view(dtype).reshape(array.shape)
        self._pieces: list[Future] = []
        if size < _PIECE // 16:
            self._copy[...] = array
            return
        for window in _windows(array.shape, dtype.itemsize):
            self._pieces.append(_pool().submit(_copy, self._copy[window], array[window]))

    def get(self) -> np.ndarray:
        wait(self._pieces)
        for piece in self._pieces:
            piece.result()
        return self._copy


def _room(size: int) -> np.ndarray:
    if size >= _PIECE and sys.platform == "linux":
        # NumPy asks for huge pages, which the kernel may have to put together first: 1.7 s for 400 MB were measured.
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, np.uint8)
    room = np.empty(size + _ALIGNED, np.uint8)
    begin = -room.ctypes.data % _ALIGNED
    return room[begin : begin + size]


def _windows(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Pieces of an array: along its longest axis but the last, where it has one."""
    axis = max(range(len(shape) - 1), key=shape.__getitem__, default=0)
    row = max(1, math.prod(shape) // max(1, shape[axis]) * itemsize)
    step = max(1, _PIECE // row)
    step = -(-step // 16) * 16  # whole cache lines of a source that is the other way round
    for at in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(at, at + step))


def _copy(to: np.ndarray, source: np.ndarray) -> None:
    """Tile by tile where the two lie in memory the other way round: NumPy reads a cache line for each number."""
    if source.ndim < 2 or abs(source.strides[-1]) <= source.itemsize:
        np.copyto(to, source)
        return
    rows, columns = source.shape[-2:]
    high = max(16, min(128, 1024 // max(1, math.prod(source.shape[:-2]))))
    for i in range(0, rows, high):
        for j in range(0, columns, 128):
            np.copyto(to[..., i : i + high, j : j + 128], source[..., i : i + high, j : j + 128])


def contiguous(array: np.ndarray) -> np.ndarray:
    """A copy in C order."""
    return Copy(array).get()


def is_aligned(array: np.ndarray) -> bool:
    """Whether `array` lies as `Copy` lays it."""
    return bool(array.flags.carray and array.ctypes.data % _ALIGNED == 0)


def tensor(array: np.ndarray) -> tf.Tensor:
    """The aligned `array` as a tensor, without a copy; nobody may write to it any more."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def crc32(data: memoryview) -> int:
    """zlib.crc32, on all cores."""
    if len(data) < 2 * _PIECE:
        return zlib.crc32(data)
    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    *sums, last = _pool().map(zlib.crc32, pieces)
    result, shift = 0, _power(8 * _PIECE)
    for part in sums:
        result = _times(shift, result) ^ part
    return _times(_power(8 * len(pieces[-1])), result) ^ last


def _times(a: int, b: int) -> int:
    """Product of two polynomials modulo the CRC's."""
    product, bit = 0, 1 << 31
    while bit:
        if a & bit:
            product ^= b
        bit >>= 1
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power(n: int) -> int:
    """x^n modulo the CRC's polynomial: what n bits more shift a CRC by."""
    result, square = 1 << 31, 1 << 30
    while n:
        if n & 1:
            result = _times(square, result)
        square = _times(square, square)
        n >>= 1
    return result

"""Copies of large arrays, on all cores, at one pass over the memory, and into that which a variable has already."""

import ctypes
import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import tensorflow as tf

_PIECE = 1 << 22  # bytes that a thread copies at a time
_TILE = 1 << 16  # numbers that it turns round at a time: twice that fits into a core's cache


@cache
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(cores, "barenets-copies")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not forked


class Copy:
    """`to[...] = source` for arrays of one shape with an axis or more, made while other things happen."""

    def __init__(self, to: np.ndarray, source: np.ndarray) -> None:
        windows = _windows(to.shape, to.itemsize)
        self._pieces: list[Future] = [_pool().submit(_copy, to[window], source[window]) for window in windows]

    def wait(self) -> None:
        """Returns when all is copied; raises what a copy raised."""
        wait(self._pieces)
        for piece in self._pieces:
            piece.result()


def contiguous(array: np.ndarray) -> np.ndarray:
    """A copy in C order."""
    copy = np.empty(array.shape, array.dtype)
    Copy(copy, array).wait()
    return copy


def memory(variable: tf.Variable) -> np.ndarray | None:
    """The variable's own memory, to write its value to; None if it cannot be had, as on another device.

    Nobody else sees what is written: values that were read earlier and variables that were assigned from this one
    often lie in the same memory, and where they do, it gets other memory first. New memory takes longer to be
    given by the system than to be filled.
    """
    device = variable.device or ""
    if not variable.shape.rank or not device.startswith("/job:localhost") or "CPU" not in device:
        return None
    # Before an update of some rows, here of none, TensorFlow copies what is shared, and reads are copies from then on.
    none = np.zeros(0, np.int32), np.zeros((), variable.dtype.as_numpy_dtype)
    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=none[0], updates=none[1])
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)
    value, again = (np.asarray(tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)) for _ in "12")
    if value.ctypes.data != again.ctypes.data or not value.flags.c_contiguous:  # should TensorFlow ever copy here
        return None
    room = (ctypes.c_char * value.nbytes).from_address(value.ctypes.data)
    room.owner = value  # type: ignore[attr-defined]  # the memory stays as long as anybody may write to it
    return np.frombuffer(memoryview(room), value.dtype).reshape(value.shape)


def _windows(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Pieces of an array: along its longest axis but the last, where it has one."""
    axis = max(range(len(shape) - 1), key=shape.__getitem__, default=0)
    row = max(1, math.prod(shape) // max(1, shape[axis]) * itemsize)
    step = max(1, _PIECE // row)
    step = -(-step // 16) * 16  # whole cache lines of a source that is the other way round
    for at in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(at, at + step))


def _copy(to: np.ndarray, source: np.ndarray) -> None:
    """Tile by tile, each through a small copy, where the two lie in memory the other way round.

    NumPy would read a cache line for each number, and rows of a power of two bytes push each other out of the cache.
    """
    if source.ndim < 2 or abs(source.strides[-1]) <= source.itemsize:
        np.copyto(to, source)
        return
    rows, columns = source.shape[-2:]
    depth = max(1, math.prod(source.shape[:-2]))
    wide = 256 if depth == 1 else 128  # measured
    high = max(16, _TILE // (depth * wide))
    first, *rest = sorted(range(source.ndim), key=lambda axis: -abs(source.strides[axis]))
    back = np.argsort([*rest, first])
    for i in range(0, rows, high):
        for j in range(0, columns, wide):
            part = source[..., i : i + high, j : j + wide].transpose(first, *rest)
            row = math.prod(part.shape[1:])
            tile = np.empty((len(part), row + 16), part.dtype)[:, :row]
            np.copyto(tile.reshape(part.shape), part)
            turned = np.ascontiguousarray(tile.T).reshape(*part.shape[1:], len(part))
            np.copyto(to[..., i : i + high, j : j + wide], turned.transpose(back))

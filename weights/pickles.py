"""Pickles read as data: NumPy arrays, numbers, strings, bytes, dicts, lists and tuples, and nothing else.

A pickle is a program that may call any function by name. This reader knows six names, all of them
needed to describe arrays, and answers each with a function of its own; any other name is refused
before anything is called. The reader of another format may admit names of its own. It works over a
view of the file, so an array found in the stream is a window into the file and costs neither time
nor memory.
"""

import math
import pickle  # its unpickler is the base of one that runs nothing  # nosec B403
import struct
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from barenets import UserError

_WINDOW = 4096  # bytes; shorter reads are opcodes and keys, which want bytes
_START = 1 << 20  # bytes; a state dict's pickle is mostly opcodes, which are cut faster out of bytes than out of a view


class Stateful:
    """An object that a pickle may build: give a state to. Nothing else has one."""

    def set_state(self, state: Any) -> None:
        """Takes what the pickle's BUILD has, once; raises UserError if that makes no sense."""
        raise NotImplementedError


class Array(Stateful):
    """An array while its pickle is being read: `value` is there once its state has come."""

    value: Any = None

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, dtype, Fortran order, data), as NumPy writes it."""
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):  # an object array, as np.save makes of a dict
            self.value = data
        else:
            self.value = _array(data, dtype, shape, "F" if fortran else "C")


class _Dtype(Stateful):
    """A dtype while its pickle is being read: its kind and size, then its byte order."""

    def __init__(self, kind: Any, align: Any = False, copy: Any = False) -> None:
        self.kind, self.order = _text(kind), "="

    def set_state(self, state: Any) -> None:
        self.order = _text(state[1])

    def numpy(self) -> np.dtype:
        dtype = np.dtype(self.kind)
        if dtype.kind not in "fiub":
            raise UserError(f"an array of type {dtype} is not numeric")
        return dtype.newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    dtype = dtype.numpy()
    # Bounded before it is multiplied or printed: a million sides take minutes.
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(map(_is_side, shape)):
        raise UserError("an array has a shape that is none")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise UserError(f"an array of shape {shape} and type {dtype} does not fill its {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _is_side(side: Any) -> bool:
    return isinstance(side, int) and 0 <= side < 1 << 63


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> Array:
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    # NumPy 2.3 and later: order K is C order before a transposition.
    array = Array()
    order = _text(order)
    array.value = _array(data, dtype, shape, "C" if order == "K" else order)
    if order == "K" and axes is not None:
        array.value = array.value.transpose(axes)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    # How Python 3 writes bytes for protocol 2.
    if _text(encoding) not in ("latin1", "latin-1"):
        raise UserError(f"it encodes text as {encoding!r}")
    if not isinstance(text, str):
        raise UserError(f"it encodes a {type(text).__name__}")
    return text.encode("latin1")


def _text(value: Any) -> str:
    # Never str() of anything else: sixty nested tuples can be made to print as 2^60.
    if not isinstance(value, (str, bytes)) or len(value) > 32:
        raise UserError(f"it has a {type(value).__name__} where a short text was expected")
    return value.decode("latin1") if isinstance(value, bytes) else value


def keys(names: Iterable[Any]) -> None:
    """Refuses keys but text and numbers: hashing nested tuples takes forever, or overruns the stack."""
    for name in names:
        if not (isinstance(name, (str, bytes)) or (isinstance(name, int) and name.bit_length() < 64)):
            raise UserError(f"it has a {type(name).__name__} where the name of an array was expected")


def mapping(pairs: Any = ()) -> dict[Any, Any]:
    """What stands in for OrderedDict; Python 2 gave it the pairs."""
    keys(key for key, _ in pairs)
    return dict(pairs)


Admitted = Mapping[tuple[str, str], Any]
"""Module and name that a pickle may ask for -> what it gets."""

_ADMITTED: Admitted = {
    ("numpy", "ndarray"): "numpy.ndarray",
    ("numpy", "dtype"): lambda *state: _Dtype(*state),
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): mapping,
    ("__builtin__", "bytes"): lambda: b"",  # how Python 3 writes no bytes for protocol 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Stream:
    """A file object over a view; long reads are windows into it."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0
        self._start = bytes(view[:_START])

    def read(self, size: int) -> Any:
        end = self.at + size
        if 0 <= size < _WINDOW and end <= len(self._start):
            start, self.at = self.at, end
            return self._start[start:end]
        window = self.view[self.at : self.at + size]
        if size < 0 or len(window) < size:
            raise EOFError(f"it ends at byte {len(self.view)}, in the middle of {size} bytes; is the file complete?")
        self.at += size
        return window if size >= _WINDOW else bytes(window)

    def readline(self) -> bytes:
        # Names and numbers in text form; nothing legitimate is longer than a window.
        start = bytes(self.view[self.at : self.at + _WINDOW])
        line, newline, _ = start.partition(b"\n")
        if not newline:
            raise UserError("it has a line of more than 4096 bytes; save it again with pickle protocol 2 or later")
        self.at += len(line) + len(newline)
        return line + newline


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined,unused-ignore]


class _Unpickler(_PythonUnpickler):
    """Python's own unpickler, in Python, with the doors to code shut.

    The one written in C copies every array and lets a stream ask for a table of any size.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, view: memoryview, admitted: Admitted, persistent: Callable[[Any], Any] | None) -> None:
        self.stream = _Stream(view)
        super().__init__(self.stream, encoding="bytes")
        self._admitted = {**_ADMITTED, **admitted}
        self._persistent = persistent
        self._room = len(view) + (1 << 20)  # for what functions make; each uses a part of the stream once

    def find_class(self, module: Any, name: Any) -> Any:
        try:
            return self._admitted[module, name]
        except KeyError:
            # repr: the name comes from the file and may hold line breaks or control characters.
            raise UserError(f"it asks for {f'{module}.{name}'!r:.99}, which is no array; it may be hostile") from None

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise UserError("it asks for something that is not in it")
        return self._persistent(pid)

    def get_extension(self, code: int) -> None:
        raise UserError(f"it asks for the registered object {code}, which is no array")

    def load_reduce(self) -> None:
        arguments = self.stack[-1]
        self._room -= sum(len(part) for part in arguments if hasattr(part, "__len__"))
        if self._room < 0:
            raise UserError("it makes more out of its parts than it holds")
        super().load_reduce()

    def load_dict(self) -> None:
        keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        keys(self.stack[::2])
        super().load_setitems()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Stateful):
            raise UserError(f"it sets the state of a {type(target).__name__}, which has none")
        target.set_state(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.BUILD[0]] = load_build
    for _set in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS):
        del dispatch[_set[0]]
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def loads(
    view: memoryview,
    refuse: Callable[[str], UserError],
    admitted: Admitted = MappingProxyType({}),
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """What the pickle in `view` holds; strings of Python 2 come as bytes, arrays as `Array`.

    `admitted` adds to the names that it may ask for. `persistent` answers for what lies outside of it
    (`pickle.Unpickler.persistent_load`); without it, such a pickle is refused. Anything wrong with it
    raises `refuse(reason)`. No code of the file's choosing runs.
    """
    return load(view, refuse, admitted, persistent)[0]


def load(
    view: memoryview,
    refuse: Callable[[str], UserError],
    admitted: Admitted = MappingProxyType({}),
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, memoryview]:
    """As `loads`, and what follows the pickle."""
    try:
        unpickler = _Unpickler(view, admitted, persistent)
        return unpickler.load(), view[unpickler.stream.at :]
    except (UserError, EOFError) as error:
        raise refuse(str(error)) from None
    except KeyError as error:
        raise refuse(f"it is no pickle: it has no instruction or memory {error}") from None
    except RecursionError:
        raise refuse("it nests too deeply") from None
    except Exception as error:  # any nonsense in the stream, from struct.error to UnicodeError
        raise refuse(f"it is no sound pickle ({type(error).__name__}: {error})"[:300]) from None

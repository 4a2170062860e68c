"""torch's `.pth` state dicts, read without torch: a zip of one pickle and one member per storage.

    NAME/data.pkl     {'features.0.weight': _rebuild_tensor_v2(storage 0, offset, size, stride, ...), ...}
    NAME/data/0       the numbers of storage 0, uncompressed
    NAME/byteorder    little or big; absent in older files, which are little

or, until torch 1.6, five pickles and then the storages, one after the other:

    magic number, protocol, {'little_endian': True, ...}, the state dict, [keys of storages]
    8 bytes, how many numbers; the numbers     of each storage, in the order of the keys

(torch/serialization.py, `_save` and `_legacy_save`.) The pickles are read as data (`weights.pickles`); a tensor
is a window into the mapped file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from barenets import UserError
from barenets.weights import files
from barenets.weights.pickles import Stateful, load, loads, mapping
from barenets.weights.rename import Weights, canonical

_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py MAGIC_NUMBER, pickled by any protocol

_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

_NAMES = {
    "weight": "weights",
    "bias": "biases",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_NORM_NAMES = {**_NAMES, "weight": "gamma", "bias": "beta"}


@dataclass(frozen=True)
class _Storage:
    numbers: np.ndarray


class _Dict(dict, Stateful):
    """An OrderedDict; a state dict keeps the versions of its modules as an attribute, which says nothing."""

    def set_state(self, state: Any) -> None:
        pass


def is_torch(path: str) -> bool:
    """Whether the file at `path` is one of torch's, in the zip format or the one before."""
    start = bytes(files.view(path)[:256])
    if _LEGACY in start[:32]:
        return True
    if not start.startswith(b"PK"):
        return False
    try:
        return b"/data.pkl" in start or _root(files.members(path)) is not None  # the former survives truncation
    except UserError:
        return False


def read_torch(path: str) -> Weights:
    """Canonical name -> array for a state dict; a layer that is no network's of ours keeps its name.

    `features.0.weight` OIHW becomes `conv1/weights` HWIO. Batch norm, known by its 1-D weight, becomes gamma,
    beta, moving_mean, moving_variance; num_batches_tracked is dropped. bfloat16 becomes float32, other types
    stay. Never runs code from the file. Raises UserError for a file that is damaged, or anything but a dict of
    tensors.
    """
    view = files.view(path)
    try:
        legacy = _LEGACY in bytes(view[:32])
        return from_state_dict(_legacy_tensors(view) if legacy else _tensors(view, files.members(path)))
    except UserError as error:
        raise UserError(f"{path}: refused, {str(error)[:300]}") from None


def _root(members: files.Members) -> str | None:
    return next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)


def _tensors(view: memoryview, members: files.Members) -> Any:
    """What data.pkl holds; UserErrors do not name the file yet."""
    root = _root(members)
    if root is None:
        raise UserError("it has no data.pkl, so it is no state dict of torch's")
    if sum(info.file_size for info in members.values() if not info.compress_type) > len(view):
        raise UserError("its members overlap")
    big = f"{root}byteorder" in members and files.member(view, members, f"{root}byteorder") == b"big"
    storages: dict[tuple[str, str], _Storage] = {}

    def storage(reference: Any) -> _Storage:
        dtype, key, _ = _reference(reference)
        if (dtype, key) not in storages:
            data = files.member(view, members, f"{root}data/{key}")
            storages[dtype, key] = _Storage(_numbers(data, dtype, ">" if big else "<"))
        return storages[dtype, key]

    return loads(files.member(view, members, f"{root}data.pkl"), UserError, _admitted(_tensor(len(view))), storage)


def _legacy_tensors(view: memoryview) -> Any:
    """What the fourth pickle holds; where its storages lie is known only after the fifth, so it is read twice."""
    rest = view
    for _ in range(2):
        _, rest = load(rest, UserError)
    system, rest = load(rest, UserError)
    if not isinstance(system, dict) or not isinstance(system.get("little_endian"), bool):
        raise UserError("it does not say the order of its bytes")
    asked: dict[str, tuple[str, int]] = {}

    def note(reference: Any) -> None:
        dtype, key, size = _reference(reference)
        if asked.setdefault(key, (dtype, size)) != (dtype, size):
            raise UserError(f"it asks for the storage {key!r:.40} in two sizes")

    content = rest
    _, rest = load(content, UserError, _admitted(lambda *_: None), note)
    keys, rest = load(rest, UserError)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)  # str() of others may take forever
    if not texts or set(keys) != set(asked) or len(keys) != len(asked):
        raise UserError("its storages are not those that its tensors ask for")
    storages: dict[str, _Storage] = {}
    for key in keys:
        dtype, size = asked[key]
        data = rest[8 : 8 + size * itemsize(dtype)]
        if int.from_bytes(rest[:8], "little") != size or len(data) != size * itemsize(dtype):
            raise UserError(f"it ends in the middle of the storage {key!r:.40}; is the file complete?")
        storages[key] = _Storage(_numbers(data, dtype, "<" if system["little_endian"] else ">"))
        rest = rest[8 + len(data) :]
    tensors, _ = load(
        content, UserError, _admitted(_tensor(len(view))), lambda reference: storages[_reference(reference)[1]]
    )
    return tensors


def _reference(reference: Any) -> tuple[str, str, int]:
    """Type, key and count of numbers of the storage that a pickle asks for."""
    kind, dtype, key, _, size, *_ = reference
    # A pickle could also spell a type out, such as Python objects.
    if kind != "storage" or dtype not in _DTYPES.values() or not isinstance(key, (str, bytes)):
        raise UserError("it asks for what is no storage")
    return dtype, key.decode("latin1") if isinstance(key, bytes) else key, int(size)


def itemsize(dtype: str) -> int:
    """Bytes of a number of type `dtype`; bfloat16 is none of NumPy's."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _tensor(room: int) -> Callable[..., np.ndarray]:
    """What makes a tensor, a window into its storage, in a file of `room` bytes."""

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        # int: NumPy's integers, which a pickle may hold, overflow.
        offset, size, stride = int(offset), tuple(map(int, size)), tuple(map(int, stride))
        if not isinstance(storage, _Storage) or not len(size) == len(stride) <= 8:
            raise UserError("it makes a tensor of what is no storage")
        numbers = storage.numbers
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        inside = min(offset, *size, *stride, 0) == 0 and (last < numbers.size or 0 in size)
        # With a stride of 0 a few bytes can pose as an array beyond any memory.
        if not inside or math.prod(size) > room:
            raise UserError(
                f"a tensor of shape {size}, strides {stride} and offset {offset} does not fit its storage "
                f"of {numbers.size} numbers"
            )
        strides = [step * numbers.itemsize for step in stride]
        return np.ndarray(size, numbers.dtype, numbers, offset * numbers.itemsize, strides)  # checks again

    return tensor


def _admitted(tensor: Callable[..., Any]) -> dict[tuple[str, str], Any]:
    """What the pickle of a state dict may ask for."""
    return {
        ("collections", "OrderedDict"): lambda pairs=(): _Dict(mapping(pairs)),
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }


def _numbers(data: memoryview, dtype: str, order: str) -> np.ndarray:
    if dtype == "bfloat16":
        return from_bfloat16(_numbers(data, "u2", order))
    if not len(data):
        return np.zeros(0, dtype)
    return np.frombuffer(data, order + dtype)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 of the bits, uint16, of bfloat16 numbers: each is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_state_dict(state: Any) -> Weights:
    """A state dict, name -> array, under canonical names and in our layout; see `read_torch`. Raises UserError."""
    if not isinstance(state, dict) or not state:
        raise UserError("it holds no state dict; save net.state_dict()")
    arrays: dict[str, np.ndarray] = {}
    for key, array in state.items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray):
            where = repr(key) if isinstance(key, str) else f"a {type(key).__name__}"
            what = type(array).__name__
            raise UserError(f"it holds a {what} at {where:.80} where a tensor was expected; save net.state_dict()")
        layer, dot, part = key.rpartition(".")
        if part == "num_batches_tracked":
            continue
        norm = getattr(state.get(f"{layer}{dot}weight"), "ndim", None) == 1
        name = f"{layer}/{(_NORM_NAMES if norm else _NAMES).get(part, part)}".removeprefix("/")
        if name in arrays:
            raise UserError(f"it holds {name!r} twice")
        if part == "weight" and array.ndim > 1:
            array = array.transpose(*range(2, array.ndim), 1, 0)
        arrays[name] = array
    return canonical(arrays, "torch")

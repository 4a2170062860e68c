"""torch's `.pth` state dicts, read without torch: a zip of one pickle and one member per storage.

    NAME/data.pkl     {'features.0.weight': _rebuild_tensor_v2(storage 0, offset, size, stride, ...), ...}
    NAME/data/0       the numbers of storage 0, uncompressed
    NAME/byteorder    little or big; absent in older files, which are little

(torch/serialization.py, `_save`.) The pickle is read as data (`weights.pickles`); a tensor is a window
into the mapped file.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from barenets import UserError
from barenets.weights import files
from barenets.weights.pickles import Stateful, loads, mapping

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py MAGIC_NUMBER, pickled

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

Members = Mapping[str, zipfile.ZipInfo]


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
    if start.startswith(_LEGACY):
        return True
    if not start.startswith(b"PK"):
        return False
    try:
        return b"/data.pkl" in start or _root(_members(path)) is not None  # the former survives truncation
    except UserError:
        return False


def read_torch(path: str) -> dict[str, np.ndarray]:
    """Canonical name -> array for a state dict: `features.0.weight` OIHW -> `features.0/weights` HWIO.

    Dense kernels become [in, out]; their rows keep torch's order (see `reorder_chw`). Batch norm, known
    by its 1-D weight, becomes gamma, beta, moving_mean, moving_variance; num_batches_tracked is dropped.
    bfloat16 becomes float32, other types stay. Never runs code from the file. Raises UserError for a file
    that is damaged, in the format of before torch 1.6, or anything but a dict of tensors.
    """
    view = files.view(path)
    if bytes(view[: len(_LEGACY)]) == _LEGACY:
        raise UserError(
            f"{path}: is in the format of before torch 1.6; re-save it: "
            "torch.save(torch.load(path, map_location='cpu'), path)"
        )
    try:
        return canonical(_tensors(view, _members(path)))
    except UserError as error:
        raise UserError(f"{path}: refused, {str(error)[:300]}") from None


def reorder_chw(weights: np.ndarray, channels: int, height: int, width: int) -> np.ndarray:
    """Dense weights [channels·height·width, out] with their rows in height, width, channel order.

    For the first dense layer after a map, which torch flattens channels first and TensorFlow channels last.
    Raises UserError for weights of another shape.
    """
    if weights.ndim != 2 or len(weights) != channels * height * width:
        raise UserError(f"dense weights of shape {weights.shape} do not follow a map of {channels}×{height}×{width}")
    return weights.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(weights.shape)


def _members(path: str) -> dict[str, zipfile.ZipInfo]:
    try:
        with files.opened(path) as file, zipfile.ZipFile(file) as archive:
            return {info.filename: info for info in archive.infolist()}
    except Exception as error:  # a damaged directory can be any nonsense
        raise UserError(f"it is no sound zip archive ({error}); is the file complete?") from None


def _root(members: Members) -> str | None:
    return next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)


def _tensors(view: memoryview, members: Members) -> Any:
    """What data.pkl holds; UserErrors do not name the file yet."""
    root = _root(members)
    if root is None:
        raise UserError("it has no data.pkl, so it is no state dict of torch's")
    if sum(info.file_size for info in members.values() if not info.compress_type) > len(view):
        raise UserError("its members overlap")
    big = f"{root}byteorder" in members and _member(view, members, f"{root}byteorder") == b"big"
    storages: dict[tuple[str, str], _Storage] = {}

    def storage(reference: Any) -> _Storage:
        kind, dtype, key, _, _ = reference
        # A pickle could also spell a type out, such as Python objects.
        if kind != "storage" or dtype not in _DTYPES.values() or not isinstance(key, str):
            raise UserError("it asks for what is no storage")
        if (dtype, key) not in storages:
            data = _member(view, members, f"{root}data/{key}")
            storages[dtype, key] = _Storage(_numbers(data, dtype, ">" if big else "<"))
        return storages[dtype, key]

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        # int: NumPy's integers, which a pickle may hold, overflow.
        offset, size, stride = int(offset), tuple(map(int, size)), tuple(map(int, stride))
        if not isinstance(storage, _Storage) or not len(size) == len(stride) <= 8:
            raise UserError("it makes a tensor of what is no storage")
        numbers = storage.numbers
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        inside = min(offset, *size, *stride, 0) == 0 and (last < numbers.size or 0 in size)
        # With a stride of 0 a few bytes can pose as an array beyond any memory.
        if not inside or math.prod(size) > len(view):
            raise UserError(
                f"a tensor of shape {size}, strides {stride} and offset {offset} does not fit its storage "
                f"of {numbers.size} numbers"
            )
        strides = [step * numbers.itemsize for step in stride]
        return np.ndarray(size, numbers.dtype, numbers, offset * numbers.itemsize, strides)  # checks again

    admitted = {
        ("collections", "OrderedDict"): lambda pairs=(): _Dict(mapping(pairs)),
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }
    return loads(_member(view, members, f"{root}data.pkl"), UserError, admitted, storage)


def _member(view: memoryview, members: Members, name: str) -> memoryview:
    if name not in members:
        raise UserError(f"it lacks its member {name!r}")
    info = members[name]
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"its member {name!r} is compressed, which torch.save does not do")
    # The local header is 30 bytes, a name, and padding; only it knows how long those two are here.
    lengths = view[info.header_offset + 26 : info.header_offset + 30]
    begin = info.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    data = view[begin : begin + info.file_size]
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise UserError(f"its member {name!r} is damaged: its checksum is wrong")
    return data


def _numbers(data: memoryview, dtype: str, order: str) -> np.ndarray:
    if dtype == "bfloat16":
        return from_bfloat16(_numbers(data, "u2", order))
    if not len(data):
        return np.zeros(0, dtype)
    return np.frombuffer(data, order + dtype)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 of the bits, uint16, of bfloat16 numbers: each is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def canonical(state: Any) -> dict[str, np.ndarray]:
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
    return arrays

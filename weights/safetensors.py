"""safetensors: a JSON table of names, types, shapes and places, then the numbers.

    8 bytes    size of the table, little-endian
    table      {"fc.weight": {"dtype": "F32", "shape": [1000, 512], "data_offsets": [0, 2048000]}, ...}
    numbers    little-endian, in C order, without gaps

(huggingface/safetensors, README.) Arrays are windows into the mapped file.
"""

import json
from typing import Any

import numpy as np

from barenets import UserError
from barenets.weights import files, torch
from barenets.weights.rename import USE, Arrays, Kind, Weights, canonical, use_from_json

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_LARGEST_TABLE = 100_000_000  # bytes, as in the format's own reader


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins with `start`, 9 bytes or more, can be one: a size, then a brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _LARGEST_TABLE


def read_safetensors(path: str) -> Weights:
    """Canonical name -> array.

    What `write_safetensors` wrote comes back as it was; other files have torch's names and layout
    (`torch.from_state_dict`). bfloat16 becomes float32, other types stay. Raises UserError for a damaged file.
    """
    view = files.view(path)
    try:
        arrays, metadata = _read(view)
        if metadata.pop("format", None) != "barenets":
            return torch.from_state_dict(arrays)
        if USE in metadata:
            return Weights(arrays, use=use_from_json(str(metadata[USE]).encode()))
        kind = Kind.from_json(metadata)
        return Weights(arrays, kind) if kind else canonical(arrays)
    except UserError as error:
        raise UserError(f"{path}: refused as .safetensors, {str(error)[:300]}") from None


def _read(view: memoryview) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    size = int.from_bytes(view[:8], "little")
    if 8 + size > len(view):
        raise UserError(f"it ends in the middle of its table of {size} bytes; is the file complete?")
    table = files.parsed(view[8 : 8 + size], "its table")
    if not isinstance(table, dict):
        raise UserError("its table is no JSON object")
    metadata = table.pop("__metadata__", None)
    numbers, end = view[8 + size :], 0
    arrays = {}
    for name, entry in sorted(table.items(), key=_place):
        dtype, shape, (begin, after) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if begin != end:  # without overlaps a small file cannot pose as a large one
            raise UserError(f"{name!r:.80} does not begin where the array before it ends")
        end = after
        data = numbers[begin:after]
        if len(data) != after - begin:
            raise UserError(f"it ends in the middle of {name!r:.80}; is the file complete?")
        arrays[name] = _array(name, data, dtype, shape)
    if not arrays:
        raise UserError("it holds no arrays")
    return arrays, dict(metadata) if isinstance(metadata, dict) else {}


def _place(item: tuple[str, Any]) -> tuple[int, int]:
    name, entry = item
    keys = ("dtype", "shape", "data_offsets")
    sound = isinstance(entry, dict) and all(key in entry for key in keys) and isinstance(entry["dtype"], str)
    lists = [entry["shape"], entry["data_offsets"]] if sound else []
    whole = all(isinstance(x, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in x) for x in lists)
    if not sound or not whole or len(lists[0]) > 32 or len(lists[1]) != 2 or lists[1][0] > lists[1][1]:
        raise UserError(f"the table's entry of {name!r:.80} is not dtype, shape and data_offsets")
    return lists[1][0], lists[1][1]


def _array(name: str, data: memoryview, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype == "BF16":
        return torch.from_bfloat16(_array(name, data, "I16", shape).view("<u2"))
    if dtype not in _DTYPES:
        raise UserError(f"{name!r:.80} is of type {dtype:.20}; there are {', '.join(_DTYPES)} and BF16")
    return files.numbers(data, _DTYPES[dtype], shape, f"{name!r:.80}")


def write_safetensors(path: str, arrays: Arrays) -> None:
    """Writes `arrays` under their own names and in their own layout; of Weights, kind and `use` are the metadata.

    The file is there whole or not at all.
    """
    metadata = {"format": "barenets"}
    if isinstance(arrays, Weights):
        metadata |= arrays.kind.to_json() if arrays.kind else {}
        metadata |= {USE: json.dumps(arrays.use)} if arrays.use else {}
    table: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise UserError(f"{path}: {name} is of type {array.dtype}, which .safetensors does not have")
        table[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    with files.replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)

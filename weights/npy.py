"""`.npy` files of pickled dicts, as Caffe converters write them, and `.npz` archives.

Three layouts of `.npy` are about (REFERENCE.md 2.7):

    {'conv1': [W, b], ...}                          bvlc_alexnet.npy
    {'conv1': {'weights': W, 'biases': b}, ...}     caffe-tensorflow; mean, variance, scale, offset
    {'conv1': {0: W, 1: b}, ...}                    tensorflow-vgg

They hold HWIO kernels and dense kernels whose rows are in height, width, channel order already.
"""

import io
import json
import math
import pickle  # written, never read  # nosec B403
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from barenets import UserError
from barenets.weights import files
from barenets.weights.pickles import Array, loads
from barenets.weights.rename import USE, Arrays, Kind, Weights, canonical, use_from_json

_NAMES = {
    "0": "weights",
    "W": "weights",
    "kernel": "weights",
    "1": "biases",
    "b": "biases",
    "bias": "biases",
    "mean": "moving_mean",
    "variance": "moving_variance",
    "scale": "gamma",
    "offset": "beta",
}
"""What the converters call a layer's arrays -> what they are called here."""


def read_npy(path: str) -> Weights:
    """Canonical name (`conv1/weights`) -> array, for a `.npy` or a bare pickle of a dict.

    The arrays are read-only windows into the mapped file. Never runs code from the file. Raises
    UserError for a file that is truncated, no such dict, or a pickle that asks for anything but arrays.
    """
    view = files.view(path)

    def refuse(reason: str) -> UserError:
        return UserError(f"{path}: refused, {reason[:300]}")

    if bytes(view[:6]) == npy_format.MAGIC_PREFIX:
        view = _pickle_inside(view, refuse)
    content = loads(view, refuse)
    for _ in range(2):  # an object array holds a list of the dict; a list may hold itself
        if isinstance(content, Array):
            content = content.value
        elif isinstance(content, list) and len(content) == 1:
            content = content[0]
    if not isinstance(content, dict):
        raise refuse(f"it holds a {type(content).__name__} where a dict of layers was expected")
    arrays: dict[str, np.ndarray] = {}
    _collect(content, (), arrays, set(), refuse)
    if not arrays:
        raise refuse("it holds no arrays")
    return canonical(arrays)


def _header(view: memoryview) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type, and where the content starts; raises whatever NumPy raises."""
    header = io.BytesIO(bytes(view[: 1 << 16]))
    version = npy_format.read_magic(header)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    return (*read(header), header.tell())


def _array_inside(view: memoryview) -> np.ndarray:
    shape, fortran, dtype, start = _header(view)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if math.prod(shape) * dtype.itemsize != len(view) - start:  # before anything of that size is made
        raise ValueError(f"an array of shape {shape} and type {dtype} does not fill its {len(view) - start} bytes")
    return np.frombuffer(view[start:], dtype).reshape(shape, order="F" if fortran else "C")


def _pickle_inside(view: memoryview, refuse: Any) -> memoryview:
    try:
        shape, _, dtype, start = _header(view)
    except Exception as error:
        raise refuse(f"its header is not that of a .npy ({str(error).splitlines()[0]})") from None
    if dtype.hasobject and shape == ():
        return view[start:]
    raise refuse(f"it holds one {dtype} array of shape {shape} where a dict of layers was expected")


def _collect(content: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray], seen: set[int], refuse: Any) -> None:
    """Flattens dicts and lists of arrays into `arrays`, the way of each array as its name."""
    name = "/".join(path)
    if isinstance(content, Array):
        content = content.value
    if isinstance(content, np.ndarray):
        if name in arrays:
            raise refuse(f"it holds {name!r} twice")
        if content.dtype.kind not in _NUMBERS:
            raise refuse(f"its {name!r:.80} is of {content.dtype}, which is no number")
        arrays[name] = content
    elif isinstance(content, (dict, list, tuple)) and len(path) < 8:
        if id(content) in seen:  # a kilobyte of lists within lists has 100^7 ways through it
            raise refuse(f"it holds one {type(content).__name__} in two places")
        seen.add(id(content))
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            key = key.decode("latin1") if isinstance(key, bytes) else str(key)
            # Only a layer's own arrays are renamed: a layer may be called "0" or "scale".
            _collect(value, (*path, _NAMES.get(key, key) if path else key), arrays, seen, refuse)
    else:
        raise refuse(f"it holds a {type(content).__name__} at {name or 'its top'!r} where an array was expected")


_NUMBERS = "biuf"  # kinds of NumPy's types

STATE, OPTIMIZER = "state.json", "optimizer/"
"""What a training checkpoint, itself a `.npz`, holds beside its weights (train/checkpoints.py)."""
AVERAGES = OPTIMIZER + "averages/"
"""Averages of weights among it; where there are any, these were validated, and are meant by the weights."""


def read_npz(path: str) -> Weights:
    """Canonical name -> array, for a `.npz` with names like `conv1/weights`, `conv1_W` or `conv1/W:0`.

    Of a training checkpoint only the weights are given, averages in place of those that have them. Raises
    UserError for a damaged archive and for an entry that holds Python objects.
    """
    arrays: dict[str, np.ndarray] = {}
    entries, comment = _archive(path)
    use = entries.pop(USE, None)
    for key, array in entries.items():
        if array.dtype.kind not in _NUMBERS:
            raise UserError(f"{path}: refused, its {key!r:.80} is of {array.dtype}, which is no number")
        if key == STATE or key.startswith(OPTIMIZER):
            continue
        array = entries.get(AVERAGES + key, array)
        name = _canonical(key)
        if name in arrays:
            raise UserError(f"{path}: refused, it holds {name!r:.80} twice")
        arrays[name] = array
    if not arrays:
        raise UserError(f"{path}: refused, it holds no arrays")
    if use is not None:
        try:
            return Weights(arrays, use=use_from_json(use.tobytes()))
        except UserError as error:
            raise UserError(f"{path}: refused, {error}") from None
    kind = Kind.from_json(comment)
    return Weights(arrays, kind) if kind else canonical(arrays)


def read_archive(path: str) -> dict[str, np.ndarray]:
    """Entry -> array of a `.npz`, each checked against the archive's checksum. Raises UserError."""
    return _archive(path)[0]


def _archive(path: str) -> tuple[dict[str, np.ndarray], Any]:
    """What `read_archive` gives, and the archive's comment as JSON."""
    arrays, entry, comment = {}, "", None
    view = files.view(path)
    with files.opened(path) as file:
        try:
            file.seek(0, io.SEEK_END)
            size = file.tell()
            with zipfile.ZipFile(file) as archive:
                comment = _json(archive.comment)
                if sum(info.compress_size for info in archive.infolist()) > size:
                    raise ValueError("its entries overlap")
                files.check_unpacked(sum(info.file_size for info in archive.infolist()), size)
                for info in archive.infolist():
                    entry = info.filename
                    # What np.savez writes; zlib makes at most 1032 bytes of one. zipfile believes any number.
                    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError("it is compressed in another way than np.savez_compressed does")
                    if info.compress_size > size or info.file_size > 1032 * info.compress_size:
                        raise ValueError(f"it cannot unpack to {info.file_size} bytes")
                    # Whole: the checksum is compared where the entry ends, which its header may deny.
                    if info.compress_type == zipfile.ZIP_STORED:
                        archive.open(info).close()  # compares the entry's own header
                        data = files.member(view, {entry: info}, entry)
                    else:
                        data = memoryview(archive.read(entry))
                    arrays[entry.removesuffix(".npy")] = _array_inside(data)
        except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: refused, it is no sound .npz ({entry!r:.80}: {reason!r:.300})") from None
    return arrays, comment


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _canonical(key: str) -> str:
    key = key.removesuffix(":0")
    layer, slash, last = key.rpartition("/")
    if not slash:
        layer, slash, last = key.rpartition("_")
        if last not in ("W", "b", "weights", "biases"):
            return key
    return f"{layer}/{_NAMES.get(last, last)}"


def write_npz(path: str, arrays: Arrays) -> None:
    """Writes `arrays` under their canonical names, whole or not at all; of Weights, the kind is the archive's comment.

    Their `use` is an entry of its own, use.json.
    In C order and little-endian, as `.safetensors` is: equal arrays make equal files, however they came to be.
    """
    kind, use = (arrays.kind, arrays.use) if isinstance(arrays, Weights) else (None, None)
    if use:
        arrays = {**arrays, USE: np.frombuffer(json.dumps(use).encode(), np.uint8)}
    # np.savez has options of its own, which arrays must not be named after.
    with files.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                array = np.asanyarray(array)
                array = np.asanyarray(array, array.dtype.newbyteorder("<"), order="C")
                npy_format.write_array(entry, array, allow_pickle=False)
        if kind:
            archive.comment = json.dumps(kind.to_json()).encode()


def write_npy(path: str, arrays: Arrays) -> None:
    """Writes `{layer: [W, b]}` as bvlc_alexnet.npy has it; a pickle, so NumPy asks for allow_pickle=True.

    Raises UserError for a layer with anything but `weights` and `biases`, which this layout cannot say.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for name in arrays:
        layer, _, last = name.rpartition("/")
        if last not in ("weights", "biases") or f"{layer}/weights" not in arrays:
            raise UserError(f"{path}: the [W, b] layout has no place for {name}; write a .npz instead")
        layers[layer] = [arrays[f"{layer}/{part}"] for part in ("weights", "biases") if f"{layer}/{part}" in arrays]
    with files.replacing(path) as file:
        npy_format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(layers, dtype=object), file, protocol=4)

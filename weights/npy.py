"""`.npy` files of pickled dicts, as Caffe converters write them, and `.npz` archives.

Three layouts of `.npy` are about (REFERENCE.md 2.7):

    {'conv1': [W, b], ...}                          bvlc_alexnet.npy
    {'conv1': {'weights': W, 'biases': b}, ...}     caffe-tensorflow; mean, variance, scale, offset
    {'conv1': {0: W, 1: b}, ...}                    tensorflow-vgg

They hold HWIO kernels and dense kernels whose rows are in height, width, channel order already.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from barenets import UserError
from barenets.weights import files
from barenets.weights.pickles import Array, loads

Arrays = Mapping[str, np.ndarray]

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


def read_npy(path: str) -> dict[str, np.ndarray]:
    """Canonical name (`conv1/weights`) -> array, for a `.npy` or a bare pickle of a dict.

    The arrays are read-only windows into the mapped file. Never runs code from the file. Raises
    UserError for a file that is truncated, no such dict, or a pickle that asks for anything but arrays.
    """
    view = files.view(path)

    def refuse(reason: str) -> UserError:
        return UserError(f"{path}: refused, {reason}")

    if bytes(view[:6]) == npy_format.MAGIC_PREFIX:
        view = _pickle_inside(view, refuse)
    content = loads(view, refuse)
    while isinstance(content, Array) or (isinstance(content, list) and len(content) == 1):
        content = content.value if isinstance(content, Array) else content[0]
    if not isinstance(content, dict):
        raise refuse(f"it holds a {type(content).__name__} where a dict of layers was expected")
    arrays: dict[str, np.ndarray] = {}
    _collect(content, (), arrays, refuse)
    if not arrays:
        raise refuse("it holds no arrays")
    return arrays


def _pickle_inside(view: memoryview, refuse: Any) -> memoryview:
    header = io.BytesIO(bytes(view[: 1 << 16]))
    try:
        version = npy_format.read_magic(header)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(header)
    except Exception as error:
        raise refuse(f"its header is not that of a .npy ({error})") from None
    if dtype.hasobject and shape == ():
        return view[header.tell() :]
    raise refuse(f"it holds one {dtype} array of shape {shape} where a dict of layers was expected")


def _collect(content: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray], refuse: Any) -> None:
    """Flattens dicts and lists of arrays into `arrays`, the way of each array as its name."""
    name = "/".join(path)
    if isinstance(content, Array):
        content = content.value
    if isinstance(content, np.ndarray):
        if name in arrays:
            raise refuse(f"it holds {name} twice")
        arrays[name] = content
    elif isinstance(content, (dict, list, tuple)) and len(path) < 8:
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            key = key.decode("latin1") if isinstance(key, bytes) else str(key)
            # Only a layer's own arrays are renamed: a layer may be called "0" or "scale".
            _collect(value, (*path, _NAMES.get(key, key) if path else key), arrays, refuse)
    else:
        raise refuse(f"it holds a {type(content).__name__} at {name or 'its top'!r} where an array was expected")


STATE, OPTIMIZER = "state.json", "optimizer/"
"""What a training checkpoint, itself a `.npz`, holds beside its weights (train/checkpoints.py)."""


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Canonical name -> array, for a `.npz` with names like `conv1/weights`, `conv1_W` or `conv1/W:0`.

    Of a training checkpoint only the weights are given. Raises UserError for a damaged archive and for an
    entry that holds Python objects.
    """
    arrays = {
        _canonical(key): array
        for key, array in read_archive(path).items()
        if key != STATE and not key.startswith(OPTIMIZER)
    }
    if not arrays:
        raise UserError(f"{path}: refused, it holds no arrays")
    return arrays


def read_archive(path: str) -> dict[str, np.ndarray]:
    """Entry -> array of a `.npz`, each checked against the archive's checksum. Raises UserError."""
    try:
        with files.opened(path) as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, KeyError, NotImplementedError) as error:
        raise UserError(f"{path}: refused, it is no sound .npz ({error})") from None


def _canonical(key: str) -> str:
    key = key.removesuffix(":0")
    layer, slash, last = key.rpartition("/")
    if not slash:
        layer, slash, last = key.rpartition("_")
        if last not in ("W", "b", "weights", "biases"):
            return key
    return f"{layer}/{_NAMES.get(last, last)}"


def write_npz(path: str, arrays: Arrays) -> None:
    """Writes `arrays` under their canonical names, whole or not at all."""
    with files.replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


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

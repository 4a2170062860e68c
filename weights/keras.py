"""Keras's HDF5 files: `.h5` of whole models or weights, as keras.applications publishes them.

    /                   or /model_weights in a whole model
      attrs layer_names     ['conv1', 'bn_conv1', ...]
      conv1
        attrs weight_names  ['conv1/kernel:0', 'conv1/bias:0']
        conv1/kernel:0      numbers

Convolution kernels are HWIO and dense kernels [in, out] already, with rows in height, width, channel order.
"""

import re
from typing import Any

import h5py
import numpy as np

from barenets import UserError
from barenets.weights import files

_PARTS = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}
_MAGIC = b"\x89HDF\r\n\x1a\n"


def is_hdf5(start: bytes) -> bool:
    """Whether a file that begins with `start` is HDF5."""
    return start.startswith(_MAGIC)


def read_keras(path: str) -> dict[str, np.ndarray]:
    """Canonical name -> array, in the file's order of layers.

    The layers of keras.applications' VGG, ResNet (old names and new) and Xception get our names, others keep
    their own. Types stay. Links are not followed. Raises UserError for a damaged file and for one that is
    not Keras's.
    """
    with files.opened(path) as file:
        try:
            with h5py.File(file, "r") as root:
                return _read(root)
        except UserError as error:
            raise UserError(f"{path}: refused as Keras's .h5, {str(error)[:300]}") from None
        except Exception as error:  # a damaged file can be any nonsense
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path}: cannot be read as HDF5 ({reason[:200]}); is the file complete?") from None


def _read(root: Any) -> dict[str, np.ndarray]:
    group = _inside(root, "model_weights") if "model_weights" in root else root
    if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
        raise UserError("it has no layer_names, so it is no .h5 of Keras's weights")
    arrays: dict[str, np.ndarray] = {}
    layers = _names(group, "layer_names")
    ours = _our_names(layers)
    for layer in layers:
        weights = _inside(group, layer)
        for name in _names(weights, "weight_names"):
            part = name.rpartition("/")[2].partition(":")[0]
            part = _PARTS.get(part.removeprefix(f"{layer}_"), part)
            part = {"W": "weights", "b": "biases"}.get(part, part)
            dataset = _inside(weights, name)
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
                raise UserError(f"its {name!r:.80} is no array of numbers")
            key = f"{ours[layer]}/{part}"
            if key in arrays:
                raise UserError(f"it holds {key!r:.80} twice")
            arrays[key] = _values(dataset, key)
    if not arrays:
        raise UserError("it holds no arrays")
    return arrays


def _our_names(layers: list[str]) -> dict[str, str]:
    """Layer in the file -> layer here."""
    tops = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    if "conv1_conv" in layers:  # since 2018; the ResNet50 of before has the names of the authors' prototxt
        deep = sum(re.fullmatch(r"conv4_block\d+_1_conv", name) is not None for name in layers) > 6
        return {name: _resnet_name(name, deep) for name in layers}
    if "block14_sepconv1" in layers:
        return {name: name for name in layers} | _xception_names(layers)
    if "block5_conv1" in layers:
        return {name: tops.get(name) or re.sub(r"^block(\d)_conv(\d)$", r"conv\1_\2", name) for name in layers}
    return {name: name for name in layers}


def _resnet_name(name: str, deep: bool) -> str:
    """conv2_block1_0_conv -> res2a_branch1. `deep`: res3 and res4 are numbered, as in ResNet-101 and 152."""
    tops = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000", "probs": "fc1000"}
    match = re.fullmatch(r"conv([2-5])_block(\d+)_([0-3])_(conv|bn)", name)
    if not match:
        return tops.get(name, name)
    stage, block, part = match[1], int(match[2]) - 1, int(match[3])
    letter = f"b{block}" if deep and stage in "34" and block else chr(ord("a") + block)
    branch = "branch2" + "abc"[part - 1] if part else "branch1"
    return f"{'res' if match[4] == 'conv' else 'bn'}{stage}{letter}_{branch}"


def _xception_names(layers: list[str]) -> dict[str, str]:
    """The four residual convolutions and their batch norms, which Keras numbers by what else was made before."""
    names: dict[str, str] = {}
    for kind, ending in (("conv2d", ""), ("batch_normalization", "_bn")):
        found = [name for name in layers if re.fullmatch(rf"{kind}(_\d+)?", name)]
        found.sort(key=lambda name: int(name.removeprefix(kind).strip("_") or 0))
        names |= {name: f"block{block}_residual{ending}" for name, block in zip(found, (2, 3, 4, 13), strict=False)}
    return names


def _values(dataset: Any, name: str) -> np.ndarray:
    size = dataset.size * dataset.dtype.itemsize
    # Chunks that were never written cost nothing on the disk and read as zeros.
    if size > max(1000 * dataset.id.get_storage_size(), 1 << 16):
        raise UserError(f"its {name!r:.80} claims {size:,} bytes and stores {dataset.id.get_storage_size():,}")
    return np.asarray(dataset[()])


def _inside(group: Any, name: str) -> Any:
    """The member `name` of `group`, which must lie in the file itself."""
    here = group
    for part in name.strip("/").split("/"):
        if not isinstance(here, h5py.Group):
            raise UserError(f"it lacks {name!r:.80}")
        link = here.get(part, getlink=True)
        if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)):
            raise UserError(f"its {name!r:.80} is a link to elsewhere")
        if link is None:
            raise UserError(f"it lacks {name!r:.80}")
        here = here[part]
    return here


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute's list of names; long ones are kept in pieces: layer_names0, layer_names1, ..."""
    if attribute in group.attrs:
        pieces = [group.attrs[attribute]]
    else:
        pieces = []
        while f"{attribute}{len(pieces)}" in group.attrs:
            pieces.append(group.attrs[f"{attribute}{len(pieces)}"])
    names = [name for piece in pieces for name in np.asarray(piece).ravel().tolist()]
    return [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name) for name in names]

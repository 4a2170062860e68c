"""Keras's files. `.h5` of whole models or weights, as keras.applications publishes them:

    /                   or /model_weights in a whole model
      attrs layer_names     ['conv1', 'bn_conv1', ...]
      conv1
        attrs weight_names  ['conv1/kernel:0', 'conv1/bias:0']
        conv1/kernel:0      numbers

and Keras 3's `.weights.h5`, which also lies in the zip archive `.keras`, beside the model's config.json:

    /layers/conv2d_1/vars   attrs name 'block1_conv2', absent in older files; the group counts layers of a class
      0, 1, ...             numbers, in the order in which the layer made its variables

Convolution kernels are HWIO and dense kernels [in, out] already, with rows in height, width, channel order.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from barenets import UserError
from barenets.weights import files, hdf5
from barenets.weights.rename import Weights, canonical

_PARTS = {
    "kernel": "weights",
    "bias": "biases",
    "W": "weights",
    "b": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}
_ORDER = {
    "conv2d": ("weights", "biases"),
    "dense": ("weights", "biases"),
    "separable_conv2d": ("depthwise_weights", "pointwise_weights", "biases"),
    "depthwise_conv2d": ("depthwise_weights", "biases"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""Class of a layer, as Keras 3 writes it -> the order of its variables."""
_WEIGHTS = "model.weights.h5"


def is_hdf5(start: bytes) -> bool:
    """Whether a file that begins with `start` is HDF5."""
    return start.startswith(hdf5.MAGIC)


def is_keras_archive(path: str) -> bool:
    """Whether the zip archive at `path` is a `.keras`."""
    try:
        return _WEIGHTS in files.members(path)
    except UserError:
        return False


def read_keras(path: str) -> Weights:
    """Canonical name -> array, in the file's order of layers, from `.h5`, `.weights.h5` or `.keras`.

    Types stay. Links are not followed. Raises UserError for a damaged file and for one that is not Keras's.
    """
    view = files.view(path)
    try:
        names: dict[str, str] = {}
        if not is_hdf5(bytes(view[:8])):
            archive = files.members(path)
            names = _configured(files.member(view, archive, "config.json")) if "config.json" in archive else {}
            view = files.member(view, archive, _WEIGHTS)
        root = hdf5.root(view)
        if "layers" in root.members or "_layer_checkpoint_dependencies" in root.members:
            arrays = dict(_numbered(root, names))
        else:
            arrays = dict(_named(root["model_weights"] if "model_weights" in root.members else root))
        if not arrays:
            raise UserError("it holds no arrays")
        return canonical(arrays, "keras")
    except UserError as error:
        raise UserError(f"{path}: refused as Keras's, {str(error)[:300]}") from None


def _named(group: hdf5.Node) -> Iterator[tuple[str, np.ndarray]]:
    """Of an `.h5` with layer_names."""
    layers = _texts(group, "layer_names")
    if layers is None:
        raise UserError("it has neither layer_names nor layers, so it holds no weights of Keras's")
    seen = set()
    for layer in layers:
        weights = group[layer]
        for name in _texts(weights, "weight_names") or ():
            part = name.rpartition("/")[2].partition(":")[0].removeprefix(f"{layer}_")
            key = f"{layer}/{_PARTS.get(part, part)}"
            if key in seen:
                raise UserError(f"it holds {key!r:.80} twice")
            seen.add(key)
            yield key, weights[name].array()


def _texts(node: hdf5.Node, name: str) -> list[str] | None:
    """An attribute's list of texts; a long one is kept in pieces: layer_names0, layer_names1, ..."""
    if name in node.attributes:
        return node.attributes[name]
    pieces = itertools.takewhile(lambda piece: piece in node.attributes, (f"{name}{i}" for i in itertools.count()))
    texts = [text for piece in pieces for text in node.attributes[piece]]
    return texts or None


def _numbered(root: hdf5.Node, names: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """Of a `.weights.h5`; `names` are what config.json calls the groups, where there is one."""
    layers = root["layers" if "layers" in root.members else "_layer_checkpoint_dependencies"]
    for key in sorted(layers.members, key=_counted):
        if "vars" not in layers[key].members:
            if "layers" in layers[key].members:
                raise UserError(f"it has a model within the model, {key!r:.80}; save that one by itself")
            continue
        group = layers[key]["vars"]
        numbers = sorted(group.members, key=lambda name: (len(name), name))
        kind = re.sub(r"_\d+$", "", key)
        parts = _ORDER.get(kind, tuple(numbers))
        if kind == "batch_normalization" and len(numbers) == 3:
            parts = parts[1:]  # Inception's, without gamma
        # Where none is kept: a name that is mistaken for none of Keras's automatic ones (rename.py knows some).
        layer = group.attributes.get("name", [names.get(key, f"layers/{key}")])[0]
        for number, part in zip(numbers, (*parts, *numbers[len(parts) :]), strict=False):
            yield f"{layer}/{part}", group[number].array()


def _counted(key: str) -> tuple[str, int]:
    kind, _, number = key.rpartition("_")
    return (kind, int(number)) if number.isdecimal() and kind else (key, 0)


def _configured(text: memoryview) -> dict[str, str]:
    """Group in a `.weights.h5` -> name of the layer, from the model's config.json."""
    try:
        layers = files.parsed(text, "config.json")["config"]["layers"]
        classes = [(layer["class_name"], layer["config"]["name"]) for layer in layers]
        if not all(isinstance(text, str) for pair in classes for text in pair):
            return {}
    except (UserError, KeyError, TypeError):
        return {}
    counts: Counter[str] = Counter()
    names = {}
    for kind, name in classes:
        key = _snake(kind)
        names[f"{key}_{counts[key]}" if counts[key] else key] = name
        counts[key] += 1
    return names


def _snake(name: str) -> str:
    """BatchNormalization -> batch_normalization, Conv2D -> conv2d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()

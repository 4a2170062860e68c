"""TensorFlow's checkpoints: TF1's, as slim publishes them, and TF2's of objects.

    inception_v3.ckpt                                       one file, until 2016
    model.ckpt-7.index, model.ckpt-7.data-00000-of-00001    since; `model.ckpt-7` is their common name

    InceptionV3/Conv2d_1a_3x3/BatchNorm/beta                a variable of TF1, by its scope
    net/conv1/weights/.ATTRIBUTES/VARIABLE_VALUE            a variable of TF2, by attributes from the root

TensorFlow's own reader is used; it compares the checksums.
"""

import math
import os
import re

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from barenets import UserError
from barenets.weights import files
from barenets.weights.rename import Weights, canonical

_TABLE_END = bytes.fromhex("57fb808b247547db")  # of the sorted table that an index, or the one file, is
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_PARTS = {"kernel": "weights", "_kernel": "weights", "bias": "biases"}
_NO_WEIGHTS = re.compile(
    r"(^|/)(global_step|mean_rgb|beta[12]_power|ExponentialMovingAverage|"
    r"(Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(_\d)?)$"
)
"""Variables of TF1 beside a network's."""
_OPTIMIZERS = {"_iterations", "iter", "beta1_power"}
"""Attributes that an optimizer has, and nothing else; those of TF1 have slots at least."""


def checkpoint_prefix(path: str) -> str | None:
    """What TensorFlow calls the checkpoint that `path` names, one of its files or its folder; None if it is none."""
    match = re.fullmatch(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})", path)
    if match and tf.io.gfile.exists(path):
        return match[1]
    if tf.io.gfile.isdir(path):
        return tf.train.latest_checkpoint(path)
    if tf.io.gfile.exists(f"{path}.index"):
        return path
    if tf.io.gfile.exists(path) and bytes(files.view(path)[-8:]) == _TABLE_END:
        return path
    return None


def read_tf_checkpoint(prefix: str) -> Weights:
    """Canonical name -> array, without what optimizers and averages keep.

    A TF2 checkpoint's names are the attributes on the way to each variable, less the first where all begin
    with it. bfloat16 becomes float32, other types stay. Raises UserError for a damaged checkpoint.
    """
    try:
        stored = _stored(prefix)
        reader = tf.train.load_checkpoint(prefix)
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        objects = _GRAPH in shapes
        if objects:
            names = _without_root(_names(reader.get_tensor(_GRAPH)), shapes)
        else:
            names = {key: key for key in sorted(shapes) if not _NO_WEIGHTS.search(key)}
        names = {key: name for key, name in names.items() if types[key].is_floating or types[key].is_integer}
        claimed = sum(math.prod(shapes[key]) * types[key].size for key in names)
        if len(set(names.values())) < len(names):
            raise ValueError("it holds a name twice")
        if claimed > stored:
            raise ValueError(f"it claims {claimed:,} bytes and has fewer")
        arrays = {name: _array(reader.get_tensor(key)) for key, name in names.items()}
    except UserError:
        raise
    except (tf.errors.OpError, LookupError, TypeError, ValueError, RuntimeError, DecodeError) as error:
        reason = (str(getattr(error, "message", error)).splitlines() or [""])[0]
        raise UserError(f"{prefix}: refused as a checkpoint ({reason[:200]}); is it complete?") from None
    if not arrays:
        raise UserError(f"{prefix}: refused as a checkpoint, it holds no arrays")
    try:
        return canonical(arrays, "" if objects else "slim")
    except UserError as error:
        raise UserError(f"{prefix}: refused as a checkpoint, {error}") from None


def _array(value: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == tf.bfloat16.as_numpy_dtype else array


def _stored(prefix: str) -> int:
    """Bytes of the checkpoint's files. Raises UserError where one of them, or all, are missing."""
    folder, name = os.path.split(prefix)
    data = re.compile(re.escape(name) + r"\.data-\d{5}-of-\d{5}")
    pieces = [os.path.join(folder, file) for file in tf.io.gfile.listdir(folder or ".") if data.fullmatch(file)]
    if pieces and not tf.io.gfile.exists(f"{prefix}.index"):
        raise UserError(f"{prefix}: refused as a checkpoint, {name}.index is missing beside {name}.data-*")
    if not pieces and not tf.io.gfile.exists(prefix):
        raise UserError(f"{prefix}: refused as a checkpoint, {name}.data-00000-of-00001 is missing")
    return sum(int(tf.io.gfile.stat(piece).length) for piece in pieces or [prefix])


def _names(graph: bytes) -> dict[str, tuple[str, ...]]:
    """Key of a variable -> the shortest way to it by attributes that does not lead through an optimizer.

    A key is itself a shortest way, but Keras 3's optimizers know the variables too.
    """
    nodes = TrackableObjectGraph.FromString(graph).nodes
    names: dict[str, tuple[str, ...]] = {}
    ways: dict[int, tuple[str, ...]] = {0: ()}
    queue = [0]
    for i in queue:
        if nodes[i].slot_variables or any(child.local_name in _OPTIMIZERS for child in nodes[i].children):
            continue
        for attribute in nodes[i].attributes:
            if attribute.name == "VARIABLE_VALUE":
                names[attribute.checkpoint_key] = ways[i]
        for child in nodes[i].children:
            if child.node_id not in ways:
                ways[child.node_id] = (*ways[i], child.local_name)
                queue.append(child.node_id)
    return names


def _without_root(names: dict[str, tuple[str, ...]], shapes: dict[str, list[int]]) -> dict[str, str]:
    """Key -> canonical name; without the root's numbers, which count steps."""
    names = {key: name for key, name in names.items() if len(name) > 1 or shapes[key] != []}
    if len({name[0] for name in names.values()}) == 1 and all(len(name) > 2 for name in names.values()):
        names = {key: name[1:] for key, name in names.items()}
    return {key: "/".join((*name[:-1], _PARTS.get(name[-1], name[-1]))) for key, name in names.items()}

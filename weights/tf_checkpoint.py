"""TensorFlow's checkpoints: TF1's, as slim publishes them, and TF2's of objects.

    inception_v3.ckpt                                       one file, until 2016
    model.ckpt-7.index, model.ckpt-7.data-00000-of-00001    since; `model.ckpt-7` is their common name

    InceptionV3/Conv2d_1a_3x3/BatchNorm/beta                a variable of TF1, by its scope
    net/conv1/weights/.ATTRIBUTES/VARIABLE_VALUE            a variable of TF2, by attributes from the root

TensorFlow's own reader is used; it compares the checksums.
"""

import math
import re

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.weights import files
from barenets.weights.rename import Weights, canonical

_TABLE_END = bytes.fromhex("57fb808b247547db")  # of the sorted table that an index, or the one file, is
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_PARTS = {"kernel": "weights", "_kernel": "weights", "bias": "biases"}
_NO_WEIGHTS = re.compile(
    r"(^|/)(global_step|mean_rgb|save_counter|Momentum|RMSProp(_\d)?|Adam(_\d)?|ExponentialMovingAverage)$"
    r"|OPTIMIZER_SLOT|^_CHECKPOINTABLE_OBJECT_GRAPH$"
)


def checkpoint_prefix(path: str) -> str | None:
    """What TensorFlow calls the checkpoint that `path` names, one of its files or its folder; None if it is none."""
    if match := re.fullmatch(r"(.+)\.(index|data-\d{5}-of-\d{5})", path):
        return match[1]
    if tf.io.gfile.isdir(path):
        return tf.train.latest_checkpoint(path)
    if tf.io.gfile.exists(f"{path}.index"):
        return path
    if tf.io.gfile.exists(path) and bytes(files.view(path)[-8:]) == _TABLE_END:
        return path
    return None


def read_tf_checkpoint(prefix: str) -> Weights:
    """Canonical name -> array, without what optimizers and averages keep. Types stay.

    A TF2 checkpoint's names are the attributes on the way to each variable, less the first where all begin
    with it. Raises UserError for a damaged checkpoint.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = {
            key: shape for key, shape in reader.get_variable_to_shape_map().items() if not _NO_WEIGHTS.search(key)
        }
        types = reader.get_variable_to_dtype_map()
        claimed = sum(math.prod(shape) * types[key].size for key, shape in shapes.items())
        if claimed > _stored(prefix):
            raise UserError(f"{prefix}: refused as a checkpoint, it claims {claimed:,} bytes and has fewer")
        arrays = {_name(key): np.asarray(reader.get_tensor(key)) for key in sorted(shapes)}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise UserError(f"{prefix}: refused as a checkpoint ({reason[:200]}); is it complete?") from None
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    if not arrays:
        raise UserError(f"{prefix}: refused as a checkpoint, it holds no arrays")
    if all(_VALUE in key for key in shapes):
        arrays = _without_root(arrays)
        return canonical(arrays)
    try:
        return canonical(arrays, "slim")
    except UserError as error:
        raise UserError(f"{prefix}: refused as a checkpoint, {error}") from None


def _stored(prefix: str) -> int:
    """Bytes of the checkpoint's files."""
    pieces = tf.io.gfile.glob(f"{prefix}.data-?????-of-?????") or [prefix]
    return sum(int(tf.io.gfile.stat(piece).length) for piece in pieces)


def _name(key: str) -> str:
    if not key.endswith(_VALUE):
        return key
    # trackable_utils.py: a dot in an attribute's name is doubled, then a slash is .S
    *path, last = (
        re.sub(r"\.(\.|S)", lambda match: "/" if match[1] == "S" else ".", part)
        for part in key.removesuffix(_VALUE).split("/")
    )
    return "/".join((*path, _PARTS.get(last, last)))


def _without_root(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    roots = {name.partition("/")[0] for name in arrays}
    if len(roots) == 1 and all(name.count("/") > 1 for name in arrays):
        return {name.partition("/")[2]: array for name, array in arrays.items()}
    return arrays

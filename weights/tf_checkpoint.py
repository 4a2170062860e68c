"""TensorFlow's checkpoints: TF1's, as slim publishes them, and TF2's of objects.

    inception_v3.ckpt                                       one file, until 2016
    model.ckpt-7.index, model.ckpt-7.data-00000-of-00001    since; `model.ckpt-7` is their common name

    InceptionV3/Conv2d_1a_3x3/BatchNorm/beta                a variable of TF1, by its scope
    net/conv1/weights/.ATTRIBUTES/VARIABLE_VALUE            a variable of TF2, by attributes from the root

The index is a sorted table (`weights.tables`) that says where each variable lies in the data; the one file is a
table that holds the variables themselves (tensorflow/core/protobuf/tensor_bundle.proto, saved_tensor_slice.proto).
TensorFlow's own reader was measured to end the process on nearly half of the
indices that are damaged under sound checksums, and it copies.
"""

import os
import re
from collections import Counter

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from barenets import UserError
from barenets.weights import files, protobuf, tables
from barenets.weights.rename import Weights, canonical
from barenets.weights.torch import from_bfloat16, itemsize

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_PARTS = {"kernel": "weights", "_kernel": "weights", "bias": "biases"}
_NO_WEIGHTS = re.compile(
    r"(^|/)(global_step|mean_rgb|beta[12]_power|ExponentialMovingAverage|"
    r"(Adadelta|Adagrad|Adam|Ftrl|Momentum|RMSProp)(_\d)?)$"
)
"""Variables of TF1 beside a network's."""
_OPTIMIZERS = {"_iterations", "iter", "beta1_power"}
"""Attributes that an optimizer has, and nothing else; those of TF1 have slots at least."""
_DEEPEST = 100  # attributes on the way to a variable
_STRING = 7
_DTYPES = {
    **{1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 9: "i8"},
    **{14: "bfloat16", 17: "u2", 19: "f2", 22: "u4", 23: "u8"},
}
"""Of tensorflow/core/framework/types.proto, those that are numbers."""
_MOST_VARINTS = 1 << 20
_LARGEST_GRAPH = 1 << 22  # bytes; protobuf's objects may take 50 times as much memory
_SAVE_WHOLE = "load it in TensorFlow and save it with tf.train.Checkpoint"


def checkpoint_prefix(path: str) -> str | None:
    """What TensorFlow calls the checkpoint that `path` names, one of its files or its folder; None if it is none."""
    match = re.fullmatch(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})", path)
    if match and tf.io.gfile.exists(path):
        return match[1]
    if tf.io.gfile.isdir(path):
        try:
            return tf.train.latest_checkpoint(path)
        except UnicodeDecodeError:
            raise UserError(f"{path}: its file `checkpoint` is no list of checkpoints") from None
    if tf.io.gfile.exists(f"{path}.index"):
        return path
    if tf.io.gfile.exists(path) and bytes(files.view(path)[-8:]) == tables.END:
        return path
    return None


def read_tf_checkpoint(prefix: str) -> Weights:
    """Canonical name -> array, without what optimizers and averages keep. Types stay, but bfloat16 becomes float32.

    A TF2 checkpoint's names are the attributes on the way to each variable, less the first where all begin
    with it. The arrays are read-only windows into the mapped files, compared with their checksums. Raises
    UserError for a damaged checkpoint.
    """
    try:
        if tf.io.gfile.exists(f"{prefix}.index"):
            found, graph = _indexed(prefix)
        elif tf.io.gfile.exists(prefix):
            found, graph = _single(files.view(prefix)), None
        else:
            raise UserError(f"{os.path.basename(prefix)}.index is missing")
        if graph is None:
            names = {key: key for key in sorted(found)}
        else:
            names = _without_root(_names(graph), {key: array.ndim for key, array in found.items()})
        for name, count in Counter(names.values()).items():
            if count > 1:
                raise UserError(f"it holds {name!r:.80} twice")
        if not names:
            raise UserError("it holds no arrays")
        return canonical({name: found[key] for key, name in names.items()}, "slim" if graph is None else "")
    except UserError as error:
        reason = str(error).removeprefix(f"{prefix}: ")
        raise UserError(f"{prefix}: refused as a checkpoint, {reason[:300]}") from None


def _indexed(prefix: str) -> tuple[dict[str, np.ndarray], bytes | None]:
    """The arrays, and the graph of objects if there is one.

    Of BundleHeaderProto under the empty key, and a BundleEntryProto for each variable.
    """
    graph = None
    shards, order = 0, "<"
    pieces: dict[int, memoryview] = {}
    found: dict[str, np.ndarray] = {}
    claimed = 0
    for key, value in tables.entries(files.view(f"{prefix}.index")):
        entry = _numbers(value, (1, 2, 3, 4, 5))
        if not key:
            shards, order = entry[1], ">" if entry[2] else "<"
            continue
        name, dtype = _text(key), _DTYPES.get(entry[1])
        is_graph = name == _GRAPH
        if is_graph and entry[1] != _STRING:
            raise UserError("its graph of objects is no text")
        if not (is_graph or (dtype and _is_weight(name))):
            continue
        shape: tuple[int, ...] = ()
        checksum = None
        for number, part in protobuf.fields(value):
            if number == 2:
                shape = _shape(protobuf.message(part))
            elif number == 6:
                checksum = int.from_bytes(protobuf.message(part), "little")
            elif number == 7:
                raise UserError(f"it keeps {name!r:.80} in pieces; {_SAVE_WHOLE}")
        shard, offset, size = entry[3], entry[4], entry[5]
        if shard not in pieces:
            if shard >= shards:
                raise UserError(f"it keeps {name!r:.80} in file {shard} of {shards}")
            pieces[shard] = files.view(f"{prefix}.data-{shard:05}-of-{shards:05}")
        data = pieces[shard][offset : offset + size]
        if len(data) != size:
            raise UserError(f"{name!r:.80} lies beyond the end of its file; is that complete?")
        claimed += size
        if claimed > sum(map(len, pieces.values())):  # each checksum takes its time
            raise UserError("its arrays overlap")
        if dtype is None:  # the graph's
            if size > _LARGEST_GRAPH:
                raise UserError(
                    f"its graph of objects has {size:,} bytes, more than the {_LARGEST_GRAPH:,} that are read"
                )
            graph = _scalar_text(data)
            continue
        if checksum is not None:
            tables.check(data, checksum, repr(name)[:80])
        found[name] = _array(name, data, dtype, order, shape)
    return found, graph


def _scalar_text(data: memoryview) -> bytes:
    """The one text of a tensor of texts: its size, the checksum of that, the text."""
    size, at = protobuf.varint(data, 0)
    return bytes(data[at + 4 : at + 4 + size])


def _single(view: memoryview) -> dict[str, np.ndarray]:
    """Of SavedTensorSlices: what is in it, under the empty key, and then each variable's numbers."""
    kinds: dict[str, tuple[str | None, tuple[int, ...]]] = {}
    found: dict[str, np.ndarray] = {}
    for key, value in tables.entries(view):
        for number, part in protobuf.fields(value):
            if not key and number == 1:
                for at, tensor in protobuf.fields(protobuf.message(part)):
                    if at == 1:
                        name, dtype, shape = _described(protobuf.message(tensor))
                        kinds[name] = dtype, shape
            elif key and number == 2:
                name, numbers = _slice(protobuf.message(part))
                if name not in kinds:
                    raise UserError(f"it does not describe {name!r:.80}")
                dtype, shape = kinds[name]
                if dtype is None or not _is_weight(name):
                    continue
                if name in found:
                    raise UserError(f"it keeps {name!r:.80} in pieces; {_SAVE_WHOLE}")
                found[name] = _array(name, _stored(numbers, dtype), dtype, "<", shape)
    wanted = {name for name, (dtype, _) in kinds.items() if dtype and _is_weight(name)}
    if missing := wanted - set(found):
        raise UserError(f"it lacks the numbers of {min(missing)!r:.80}")
    return found


def _described(message: memoryview) -> tuple[str, str | None, tuple[int, ...]]:
    """Name, type and shape of a SavedSliceMeta."""
    name, dtype = "", None
    shape: tuple[int, ...] = ()
    for number, value in protobuf.fields(message):
        if number == 1:
            name = protobuf.text(value)
        elif number == 2:
            shape = _shape(protobuf.message(value))
        elif number == 3:
            dtype = _DTYPES.get(protobuf.number(value))
    return name, dtype, shape


def _slice(message: memoryview) -> tuple[str, memoryview]:
    """Name and TensorProto of a SavedSlice."""
    name, tensor = "", memoryview(b"")
    for number, value in protobuf.fields(message):
        if number == 1:
            name = protobuf.text(value)
        elif number == 3:
            tensor = protobuf.message(value)
    return name, tensor


def _stored(tensor: memoryview, dtype: str) -> memoryview:
    """The bytes of the numbers in a TensorProto, which has a field for each type."""
    field = {"f4": 5, "f8": 6, "i8": 10, "f2": 13, "bfloat16": 13, "u4": 16, "u8": 17}.get(dtype, 7)
    runs = [value for number, value in protobuf.fields(tensor) if number == field]
    if len(runs) > 1:
        raise UserError("an array of it is not one run of packed numbers")
    if not runs or field in (5, 6):
        return protobuf.message(runs[0]) if runs else memoryview(b"")
    if not isinstance(runs[0], int) and len(runs[0]) > _MOST_VARINTS:
        raise UserError(f"it keeps more integers than weights have; {_SAVE_WHOLE}")
    size = itemsize(dtype)
    numbers = (number % (1 << 8 * size) for number in protobuf.packed(runs[0]))
    return memoryview(b"".join(number.to_bytes(size, "little") for number in numbers))


def _array(name: str, data: memoryview, dtype: str, order: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "bfloat16":
        return from_bfloat16(_array(name, data, "u2", order, shape))
    return files.numbers(data, order + dtype, shape, f"{name!r:.80}")


def _shape(message: memoryview) -> tuple[int, ...]:
    """Of a TensorShapeProto; a side that is not said is 0."""
    sides = [_numbers(protobuf.message(side), (1,))[1] for number, side in protobuf.fields(message) if number == 2]
    if len(sides) > 32:
        raise UserError("an array has more than 32 sides")
    return tuple(sides)


def _numbers(message: memoryview, wanted: tuple[int, ...]) -> dict[int, int]:
    """Field -> its number, or 0, as protobuf leaves out zeros; fields of other kinds are passed over."""
    found = {number: value for number, value in protobuf.fields(message) if isinstance(value, int)}
    return {number: found.get(number, 0) for number in wanted}


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def _is_weight(key: str) -> bool:
    return not _NO_WEIGHTS.search(key)


def _names(graph: bytes) -> dict[str, tuple[str, ...]]:
    """Key of a variable -> the shortest way to it by attributes that does not lead through an optimizer.

    A key is itself a shortest way, but Keras 3's optimizers know the variables too.
    """
    names: dict[str, tuple[str, ...]] = {}
    ways: dict[int, tuple[str, ...]] = {0: ()}
    queue = [0]
    try:
        nodes = TrackableObjectGraph.FromString(graph).nodes
        for i in queue:
            node = nodes[i]
            if node.slot_variables or any(child.local_name in _OPTIMIZERS for child in node.children):
                continue
            for attribute in node.attributes:
                if attribute.name == "VARIABLE_VALUE":
                    names[attribute.checkpoint_key] = ways[i]
            for child in node.children:
                if child.node_id not in ways and len(ways[i]) < _DEEPEST:
                    ways[child.node_id] = (*ways[i], child.local_name)
                    queue.append(child.node_id)
    except (DecodeError, IndexError):
        raise UserError("its graph of objects is damaged") from None
    return names


def _without_root(names: dict[str, tuple[str, ...]], ranks: dict[str, int]) -> dict[str, str]:
    """Key -> canonical name, of the arrays that are there; without the root's numbers, which count steps."""
    names = {key: name for key, name in names.items() if key in ranks and (len(name) > 1 or ranks[key])}
    if len({name[0] for name in names.values() if name}) == 1 and all(len(name) > 2 for name in names.values()):
        names = {key: name[1:] for key, name in names.items()}
    return {key: "/".join((*name[:-1], *(_PARTS.get(last, last) for last in name[-1:]))) for key, name in names.items()}

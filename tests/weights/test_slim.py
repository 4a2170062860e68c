"""TensorFlow's checkpoints: with slim's of TF1 our networks give slim's logits; TF2's of objects come back whole."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import named_variables
from barenets.weights import Kind
from tests.nets import slim_reference

LOGITS = 1e-5
"""Largest difference of a logit, as a part of the largest; 6e-7 are seen, none in VGG. float32 rounds each result by
up to 6e-8 of it, and the batch norms of the two sides, 50 to 100 in a row, compute the same in other steps."""

V1, V2 = tf.compat.v1.train.SaverDef.V1, tf.compat.v1.train.SaverDef.V2

NETWORKS = {
    # slim's name: what it is read as, parameters as slim's own tests or torchvision count them, pictures
    "vgg_16": (Kind("vgg16", "paper", "slim"), 138_357_544, (224, 224)),
    "resnet_v1_50": (Kind("resnet50", "slim", "slim"), 25_557_032, (64, 97)),
    "resnet_v1_101": (Kind("resnet101", "slim", "slim"), 44_549_160, (64, 97)),
    "inception_v1": (Kind("googlenet", "slim", "slim"), 5_607_184, (64, 97)),
    "inception_v2": (Kind("inception_v2", "slim", "slim"), 10_173_112, (64, 97)),
    "inception_v3": (Kind("inception_v3", "slim", "slim"), 21_802_784, (107, 90)),
}
SLOW = {"vgg_16", "resnet_v1_50", "resnet_v1_101", "inception_v3"}

CONV = "InceptionV3/Mixed_7c/Branch_0/Conv2d_0a_1x1"
FEW = {  # variables, enough of them to tell the network
    f"{CONV}/weights": np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3),
    f"{CONV}/BatchNorm/beta": np.float32([1, 2, 3]),
    f"{CONV}/BatchNorm/moving_mean": np.float32([4, 5, 6]),
    "InceptionV3/Logits/Conv2d_1c_1x1/biases": np.arange(1001, dtype=np.float32),
}
READ = {
    "Mixed_7c/Branch_0/Conv2d_0a_1x1/weights": FEW[f"{CONV}/weights"],
    "Mixed_7c/Branch_0/Conv2d_0a_1x1/bn/beta": FEW[f"{CONV}/BatchNorm/beta"],
    "Mixed_7c/Branch_0/Conv2d_0a_1x1/bn/moving_mean": FEW[f"{CONV}/BatchNorm/moving_mean"],
    "Logits/Conv2d_1c_1x1/biases": np.arange(1, 1001, dtype=np.float32),  # without the background
}


def saved(prefix: Path, values: Mapping[str, np.ndarray], version: int = V2) -> str:
    """What TF1's Saver writes of variables with these names and values."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        first = {name: tf.compat.v1.placeholder(value.dtype, value.shape) for name, value in values.items()}
        variables = [tf.compat.v1.Variable(tensor, name=name, use_resource=False) for name, tensor in first.items()]
        session.run([v.initializer for v in variables], {first[name]: value for name, value in values.items()})
        return tf.compat.v1.train.Saver(variables, write_version=version).save(session, str(prefix))


def written(prefix: Path, values: Mapping[str, np.ndarray], version: int = V2) -> str:
    """The same by the operations that Saver runs, without a graph of hundreds of variables."""
    prefix.parent.mkdir(exist_ok=True)
    names, tensors = list(values), [tf.constant(value) for value in values.values()]
    if version == V1:
        tf.raw_ops.Save(filename=str(prefix), tensor_names=names, data=tensors)
    else:
        tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    return str(prefix)


def assert_same(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, name)


def assert_near(logits: tf.Tensor, expected: np.ndarray) -> None:
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert difference < LOGITS


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_has_slims_parameters(name):
    """Of Inception all but the classifiers, moving averages included; of the others all that are trained."""
    inception = name.startswith("inception")
    sizes = {key: np.prod(shape, dtype=int) for key, shape in slim_reference.shapes(name).items()}
    counted = [n for key, n in sizes.items() if ("Logits" not in key if inception else "moving_" not in key)]
    assert sum(counted) == NETWORKS[name][1]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS]
)
def test_slims_weights_give_slims_logits(tmp_path, name):
    kind, _, side = NETWORKS[name]
    values = slim_reference.variables(name)
    everything = values | slim_reference.bookkeeping(name, values)
    read = weights.read(written(tmp_path / "old" / f"{name}.ckpt", everything, V1))
    path = written(tmp_path / "new" / f"{name}.ckpt", everything)
    assert_same(weights.read(path), read)
    assert read.kind == kind
    net = nets.build(kind.net, variant=kind.variant)
    report = weights.load(net, path)
    assert len(report.loaded) == len(values)
    assert not report.skipped
    x = np.random.default_rng(1).normal(0, 1, (2, *side, 3)).astype(np.float32)
    assert_near(net(x), slim_reference.logits(name, values, x)[:, -1000:])  # the first of 1001 is the background


@pytest.mark.slow
def test_inception_v3_auxiliary_head(tmp_path):
    """At 299×299, and in inference mode, in which ours does not run it: it is put together here."""
    values = slim_reference.variables("inception_v3")
    net = nets.build("inception_v3", variant="slim")
    weights.load(net, written(tmp_path / "model.ckpt", values))
    x = np.random.default_rng(1).normal(0, 1, (1, 299, 299, 3)).astype(np.float32)
    maps = {}
    logits = net(x, tap=lambda name, y: maps.setdefault(name, y))
    assert_near(logits, slim_reference.logits("inception_v3", values, x)[:, 1:])
    y = tf.nn.avg_pool2d(maps["Mixed_6e"], 5, 3, "VALID")
    for name in ("AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a_5x5"):
        conv = getattr(net, name)
        y = tf.nn.relu(conv.bn(conv(y), train=False))
    y = getattr(net, "AuxLogits/Conv2d_2b_1x1")(tf.reshape(y, (1, 768)))
    assert_near(y, slim_reference.logits("inception_v3/AuxLogits", values, x)[:, 1:])


@pytest.mark.parametrize(
    ("version", "path"),
    [
        (V1, "model.ckpt-7"),
        (V1, "model.ckpt-7.meta"),
        (V1, "."),
        (V2, "model.ckpt-7"),
        (V2, "model.ckpt-7.index"),
        (V2, "model.ckpt-7.data-00000-of-00001"),
        (V2, "model.ckpt-7.meta"),
        (V2, "."),
    ],
)
def test_any_of_its_files_names_the_checkpoint(tmp_path, version, path):
    saved(tmp_path / "model.ckpt-7", FEW | slim_reference.bookkeeping("inception_v3", FEW), version)
    read = weights.read(str(tmp_path / path))
    assert read.kind == Kind("inception_v3", "slim", "slim")
    assert_same(read, READ)


@pytest.fixture
def net() -> tf.Module:
    """With slashes in the names of its attributes."""
    return nets.build("googlenet", variant="slim", num_classes=3)


def values_of(net: tf.Module) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in named_variables(net).items()}


def counted(net: tf.Module) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(net=net, step=tf.Variable(7), epoch=tf.Variable(1.5))


def optimized(make: Callable[[], tf.Module], net: tf.Module) -> tf.train.Checkpoint:
    """Of a training run, with an optimizer that keeps something for each of two variables."""
    optimizer, variables = make(), list(named_variables(net).values())[:2]
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
    return tf.train.Checkpoint(model=net, optimizer=optimizer)


OBJECTS: dict[str, Callable[[tf.Module], tf.train.Checkpoint]] = {
    "attribute": lambda net: tf.train.Checkpoint(net=net),
    "root": lambda net: tf.train.Checkpoint(net),
    "steps beside it": counted,
    "TF1's optimizer": lambda net: optimized(lambda: tf.compat.v1.train.AdamOptimizer(1e-3), net),
    # It refers to the variables by ways that are shorter than those through the network.
    "Keras's optimizer": lambda net: optimized(lambda: tf.keras.optimizers.Adam(1e-3), net),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_our_network_as_an_object(tmp_path, net, what):
    checkpoint = OBJECTS[what](net)
    expected = values_of(net)
    for path in (checkpoint.write(str(tmp_path / "written")), checkpoint.save(str(tmp_path / "saved")), str(tmp_path)):
        read = weights.read(path)
        assert read.kind == Kind("googlenet", "slim")
        assert_same(read, expected)


def test_object_of_another_kind(tmp_path):
    """Lists and dicts give their indices and keys, and bfloat16 becomes float32."""
    root = tf.Module()
    root.blocks = [{"a/b.c": tf.Variable([1.0])}, {"kernel": tf.Variable(tf.constant([[2.0]], tf.bfloat16))}]
    read = weights.read(tf.train.Checkpoint(net=root).save(str(tmp_path / "x")))
    assert read.kind is None
    assert_same(read, {"blocks/0/a/b.c": np.float32([1]), "blocks/1/weights": np.float32([[2]])})
    assert read["blocks/1/weights"].dtype == np.float32


def test_keras_model_as_an_object(tmp_path):
    import keras

    layers = [keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    read = weights.read(tf.train.Checkpoint(model=model).save(str(tmp_path / "x")))
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    names = ["1/weights", "1/biases", *(f"2/{part}" for part in norm), "3/weights", "3/biases"]
    expected = dict(zip(names, model.get_weights(), strict=True))
    assert_same(read, {f"_functional/_operations/{name}": value for name, value in expected.items()})


def cut(file: Path, by: int = 10) -> None:
    file.write_bytes(file.read_bytes()[:-by])


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


DATA, INDEX = "x.data-00000-of-00001", "x.index"


@pytest.mark.parametrize(
    ("version", "damage", "path", "reason"),
    [
        (V2, lambda f: (f / DATA).unlink(), "x", f"{DATA}: there is no such file"),
        (V2, lambda f: (f / INDEX).unlink(), DATA, f"{INDEX} is missing"),
        (V2, lambda f: (f / INDEX).unlink(), "x", "no such file"),
        (V2, lambda f: cut(f / DATA), "x", "lies beyond the end of its file; is that complete"),
        (V2, lambda f: flip(f / DATA, 5), "x", "[Cc]hecksum"),
        (V2, lambda f: cut(f / INDEX), "x", "is the file complete"),
        (V2, lambda f: flip(f / INDEX, 30), "x", "checksum is wrong"),
        (V2, lambda f: (f / INDEX).write_bytes(b""), "x", "the file is empty"),
        (V1, lambda f: cut(f / "x"), "x", "no weight file"),
        (V1, lambda f: flip(f / "x", 30), "x", "checksum is wrong"),
        (V1, lambda f: (f / "x").write_bytes(b""), "x", "is empty"),
        (V2, lambda f: None, "y", "no such file"),
        (V2, lambda f: None, "y.index", "no such file"),
        (V2, lambda f: (f / "checkpoint").unlink(missing_ok=True), ".", "is a folder"),
    ],
)
def test_damaged(tmp_path, version, damage, path, reason):
    written(tmp_path / "x", FEW, version)
    damage(tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        weights.read(str(tmp_path / path))
    assert str(caught.value).startswith(str(tmp_path / path.split(".", 1)[0]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [V1, V2])
def test_nothing_but_bookkeeping(tmp_path, version):
    path = written(tmp_path / "x", {"global_step": np.int64(3)}, version)
    with pytest.raises(UserError, match=r"x: .* holds no arrays"):
        weights.read(path)


def test_empty_object(tmp_path):
    with pytest.raises(UserError, match=r"x-1: .* holds no arrays"):
        weights.read(tf.train.Checkpoint().save(str(tmp_path / "x")))


@pytest.mark.parametrize("graph", [b"\xff\xff", np.float32(1), b"\x0a\x04\x0a\x02\x08\x09"])
def test_nonsense_for_an_object_graph(tmp_path, graph):
    """Not a message, not bytes, and a child that is not there."""
    path = written(tmp_path / "x", {"_CHECKPOINTABLE_OBJECT_GRAPH": graph})
    with pytest.raises(UserError, match="x: refused"):
        weights.read(path)

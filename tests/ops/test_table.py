"""Receptive fields, strides, kinds and costs: against what really changes a map, and against published tables."""

import functools
import re
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.ops import (
    BatchNorm,
    Conv2D,
    Dense,
    SeparableConv2D,
    adaptive_avg_pool,
    avg_pool,
    layer_table,
    layers,
    local_response_normalization,
    max_pool,
    named_variables,
)

SHAPE = (104, 100, 2)


@functools.cache
def table(name, variant, **options):
    if name in ("googlenet", "inception_v3"):
        options = {"auxiliary": False} | options
    with tf.Graph().as_default():  # no weights are drawn
        return layer_table(nets.build(name, variant=variant, **options))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Branches(tf.Module):
    """All that moves a window: strides, paddings, oblong and grouped kernels, pools, and branches that meet."""

    def __init__(self):
        super().__init__()
        self.input_shape = SHAPE
        self.conv1 = Conv2D(2, 4, (5, 3), stride=2, padding=(1, 0))
        self.bn1 = BatchNorm(4)
        self.conv2 = Conv2D(4, 4, 3, groups=2)
        self.projection = Conv2D(4, 4, 1, stride=2)
        self.left = Conv2D(4, 4, 3)
        self.right1 = Conv2D(4, 4, 2)
        self.right2 = Conv2D(4, 4, 2)
        self.separable = SeparableConv2D(8, 4, 3, padding="VALID")
        self.fc = Dense(4, 3)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = layer("conv1", self.conv1, x)
        x = layer("bn1", partial(self.bn1, train=train), x)
        x = layer("relu1", tf.nn.relu, x)
        x = layer("pool1", partial(max_pool, size=3, stride=2, ceil=True), x)  # pads after only
        x = layer("conv2", self.conv2, x)
        shortcut = layer("projection", self.projection, x)
        pooled = layer("pool2", partial(max_pool, size=3, stride=2, padding="SAME"), x)
        x = layer("sum", tf.add_n, [shortcut, pooled])
        # One sees a place before to one after, the other two after: together more than each of them.
        both = [layer("left", self.left, x), layer("right2", self.right2, layer("right1", self.right1, x))]
        x = layer("both", partial(tf.concat, axis=-1), both)
        x = layer("norm", local_response_normalization, x)
        x = layer("pool3", partial(avg_pool, size=3, stride=1, padding=1), x)
        x = layer("separable", self.separable, x)
        x = layer("mean", partial(tf.reduce_mean, axis=[1, 2]), x)
        x = layer("dropout", partial(tf.identity), x)
        return layer("fc", self.fc, x)


def positive(net):
    """Kernels without a zero or a minus, so that nothing cancels."""
    for i, (name, v) in enumerate(named_variables(net).items()):
        if name.endswith("weights"):
            v.assign(0.5 + tf.random.stateless_uniform(v.shape, [0, i]))
    return net


def seen(net, axis):
    """Map -> [places, pixels]: whether it changes there where all pixels of a row, or column, of the picture change."""

    def maps(x):
        found = {}
        net(x, tap=lambda name, y: found.setdefault(name, y))
        return {name: np.moveaxis(y.numpy(), axis, 1) for name, y in found.items() if y.shape.rank == 4}

    shape, side = (1, *net.input_shape), net.input_shape[axis - 1]
    flat = maps(tf.ones(shape))
    # Picture i of the batch has row i thousandfold, so that it wins wherever there is a largest value.
    rows = 999 * tf.eye(side)[:, :, None, None] + 1
    rows = tf.broadcast_to(rows if axis == 1 else tf.transpose(rows, [0, 2, 1, 3]), (side, *shape[1:]))
    return {name: (y != flat[name]).any((2, 3)).T for name, y in maps(rows).items()}


@pytest.mark.parametrize("axis", [1, 2])
def test_receptive_field_is_what_changes_a_map(axis):
    """By brute force, for a place in the middle of each map and for the next, of a network of positive kernels."""
    net = positive(Branches())
    rows = {row.name: row for row in layer_table(net)}
    found = seen(net, axis)
    assert list(found) == [name for name, row in rows.items() if len(row.output_shape) == 3]
    for name, changes in found.items():
        middle = len(changes) // 2
        (first, *_, last), (following, *_) = (np.flatnonzero(changes[i]) for i in (middle, middle + 1))
        assert rows[name].receptive_field[axis - 1] == last - first + 1, name
        assert rows[name].stride[axis - 1] == following - first, name
        assert 0 < first < last < net.input_shape[axis - 1] - 1, f"the picture cuts {name} off"


def table_of(function, shape=(16, 16, 1)):
    def net(x, *, train=False, rng=None, tap=None):
        return tap("y", function(x))

    return layer_table(net, shape)[0]


def window(x, size, stride=1, padding="SAME", dilations=1):
    return tf.nn.conv2d(x, tf.ones([size, size, 1, 1]), stride, padding, dilations=dilations)


def test_what_meets_sees_what_any_of_it_sees():
    row = table_of(lambda x: window(x, 3) + window(window(x, 2), 2))
    assert row.receptive_field == (4, 4)  # −1 ... 1 and 0 ... 2


@pytest.mark.parametrize(
    ("function", "field", "stride"),
    [
        (lambda x: x, 1, 1),
        (lambda x: window(x, 3, dilations=2), 5, 1),
        (lambda x: window(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2),
        (lambda x: window(tf.pad(x, [[0, 0], [3, 0], [3, 0], [0, 0]]), 2, 3, "VALID"), 2, 3),
        (lambda x: window(tf.pad(x, [[0, 0], [3, 0], [3, 0], [0, 0]]), 4, 1, "VALID") + window(x, 2), 5, 1),
        (lambda x: adaptive_avg_pool(x, 4), 4, 4),
        (lambda x: adaptive_avg_pool(x, 7), 4, 2),  # of 2.3 pixels each, which touch 3 or 4
        (lambda x: tf.reduce_max(x, [-3, -2], keepdims=True), 16, 16),
        (lambda x: x * tf.sigmoid(tf.reduce_mean(x, [1, 2], keepdims=True)), 16, 1),  # squeeze and excitation
        (lambda x: window(window(x, 3, 2) * tf.reduce_mean(x, [1, 2], keepdims=True), 3, 2), 16, 4),
        (lambda x: x + tf.ones(tf.shape(x)), 1, 1),
    ],
)
def test_fields_of_operations(function, field, stride):
    row = table_of(function)
    assert (row.receptive_field, row.stride) == ((field, field), (stride, stride))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: tf.image.resize(x, [7, 7]), "ResizeBilinear does to a map of 16×16 places"),
        (lambda x: x[:, 1:, 1:], "StridedSlice"),
        (lambda x: tf.reshape(x, [1, 8, 8, 4]), "Reshape"),
        (lambda x: tf.reshape(x, [256, 1]), "Reshape"),
        (lambda x: tf.reduce_mean(x, 1), "Mean"),
        (lambda x: tf.concat([x, x], 1), "ConcatV2"),
        (lambda x: window(x, 1, 15) + window(x, 1, 8), "strides differ: 8, 15"),
        (lambda x: tf.ones([1, 5]), "does not depend on the picture"),
    ],
)
def test_what_is_not_known_is_not_guessed(function, match):
    with pytest.raises(ValueError, match=match):
        table_of(function)


def test_kinds():
    assert {row.name: row.kind for row in layer_table(Branches())} == {
        "conv1": "convolution",
        "bn1": "batch norm",
        "relu1": "ReLU",
        "pool1": "max pool",
        "conv2": "convolution",
        "projection": "convolution",
        "pool2": "max pool",
        "sum": "sum",
        "left": "convolution",
        "right1": "convolution",
        "right2": "convolution",
        "both": "concatenation",
        "norm": "local response normalization",
        "pool3": "average pool",
        "separable": "separable convolution",
        "mean": "mean",
        "dropout": "identity",
        "fc": "dense",
    }


KIND_OF = {
    r"(^|/)[dD]rop": "dropout",
    r"norm\d": "local response normalization",
    r"(^|/)bn|_bn$": "batch norm",
    r"relu|_act$": "ReLU",
    r"sepconv|Conv2d_1a_7x7$": "separable convolution",
    r"loss./ave_pool": "adaptive average pool",
    r"avg_pool|pool5/|Logits/Avg|head/pool": "mean",
    r"AvgPool": "average pool",
    r"pool(_\d|/|$)|pool\d|MaxPool": "max pool",
    r"output$|^Mixed_..$": "concatenation",
    r"_add$|^(base/)?res..$": "sum",
    r"fc|linear|gate|classifier|predictions|Logits": "dense",
    r"sigmoid": "sigmoid",
    r"glu": "product",
    r"centers": "Centers",
    r"conv|Conv|res|\dx\d|residual|pool_proj": "convolution",
}
"""What the names of the papers and prototxts say, the first that matches."""


@pytest.mark.parametrize(
    ("name", "variant", "options"),
    [
        ("alexnet", "alexnet", {}),
        ("alexnet", "one_tower", {}),
        slow("googlenet", "bvlc", {}),
        slow("googlenet", "torchvision", {"auxiliary": True}),
        slow("inception_v2", "slim", {}),
        slow("xception", "keras", {}),
        ("resnet18", "torchvision", {"head": "glu", "num_classes": 5}),
    ],
)
def test_kinds_are_what_the_names_say(name, variant, options):
    for row in table(name, variant, **options):
        proj = row.name.endswith("pool_proj")
        expected = next(k for p, k in KIND_OF.items() if re.search(p, row.name) and not (proj and "pool" in k))
        assert row.kind == expected, row


@pytest.mark.slow
def test_pool_of_unequal_windows_in_a_network():
    """loss1 of torchvision's GoogLeNet: 14 places of 16 pixels shared out among 4."""
    rows = {row.name: row for row in table("googlenet", "torchvision", auxiliary=True)}
    field = rows["inception_4a/output"].receptive_field[0] + 3 * 16
    for name in ("loss1/ave_pool", "loss1/conv"):
        assert (rows[name].receptive_field, rows[name].stride) == ((field, field), (56, 56))
    assert rows["loss1/fc"].receptive_field == (224, 224)


def test_totals_and_memory_of_a_batch():
    rows = layer_table(Branches())
    assert rows[0].memory == 51 * 49 * 4 * 4  # float32
    assert rows.memory == sum(4 * np.prod(row.output_shape) for row in rows)
    total = rows.text(10).splitlines()[-1].split()
    assert total == ["total", f"{rows.parameters:,}", f"{rows.multiply_adds:,}", f"{rows.memory / 1e5:.3f}"]
    assert str(rows) == rows.text(1)


@pytest.mark.parametrize(
    ("name", "variant", "ends"),
    # Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, and
    # RECEPTIVE_FIELD_TABLE.md of google-research/receptive_field, of slim's networks without their classifiers. slim
    # halves the map in a stage's last block, not in the next one's first, so strides of its blocks are twice ours.
    [
        ("alexnet", "one_tower", {"conv1": 11, "pool1": 19, "conv2": 51, "conv3": 99, "conv4": 131, "pool5": 195}),
        ("vgg11", "paper", {"pool1": 4, "pool2": 10, "pool3": 30, "pool4": 70, "conv5_2": 134, "pool5": 150}),
        ("vgg16", "paper", {"pool1": 6, "pool2": 16, "pool3": 44, "pool4": 100, "conv5_2": 164, "pool5": 212}),
        ("resnet50", "slim", {"res2c_relu": 35, "res3d_relu": 99, "res4f_relu": 291, "res5c_relu": 483}),
        slow("resnet152", "slim", {"res2c_relu": 35, "res3b7_relu": 163, "res4b35_relu": 1315, "res5c_relu": 1507}),
        slow("inception_v2", "slim", {"MaxPool_3a_3x3": 27, "Mixed_3c": 91, "Mixed_4e": 379, "Mixed_5c": 699}),
        slow("inception_v3", "slim", {"MaxPool_5a_3x3": 31, "Mixed_5d": 127, "Mixed_6e": 927, "Mixed_7c": 1311}),
    ],
)
def test_published_receptive_fields(name, variant, ends):
    rows = {row.name: row for row in table(name, variant)}
    assert {end: rows[end].receptive_field for end in ends} == {end: (side, side) for end, side in ends.items()}
    assert rows[list(ends)[-1]].stride == (32, 32)


@pytest.mark.parametrize(
    ("name", "variant", "parameters", "giga"),
    # Of torchvision's weights, `num_params` and `_ops` (10⁹ multiply-adds) in its source; of the prototxts the README
    # of KamelAbdelouahab/CNN-Workload; He et al. 2016, table 1, has 3.8, 7.6 and 11.3. Parameters of inception_v3 are
    # those that Keras calls trainable.
    [
        ("alexnet", "one_tower", 61_100_840, "0.714"),
        ("alexnet", "caffenet", 60_965_224, "0.724"),
        ("vgg16", "paper", 138_357_544, "15.470"),
        slow("googlenet", "torchvision", 6_624_904, "1.498"),
        slow("googlenet", "bvlc", 6_998_552, "1.58"),
        slow("inception_v3", "slim", 23_817_352, "5.713"),
        ("resnet18", "torchvision", 11_689_512, "1.814"),
        ("resnet50", "torchvision", 25_557_032, "4.089"),
        ("resnet50", "slim", 25_557_032, "3.86"),
        slow("resnet152", "slim", 60_192_808, "11.3"),
    ],
)
def test_published_totals(name, variant, parameters, giga):
    found = table(name, variant)
    places = len(giga.partition(".")[2])
    assert (found.parameters, f"{found.multiply_adds / 1e9:.{places}f}") == (parameters, giga)

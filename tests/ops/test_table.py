"""Receptive fields, strides and kinds: against gradients of networks, and against published tables."""

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
    avg_pool,
    layer_table,
    layers,
    local_response_normalization,
    max_pool,
    named_variables,
)

SIDE = 129


class Branches(tf.Module):
    """Strides, paddings, groups, oblong kernels, pools that round up, and two branches of different depth."""

    def __init__(self):
        super().__init__()
        self.input_shape = (SIDE, SIDE, 3)
        self.conv1 = Conv2D(3, 4, (5, 3), stride=2, padding=1)
        self.bn1 = BatchNorm(4)
        self.conv2 = Conv2D(4, 4, 3, groups=2)
        self.left = Conv2D(4, 4, 1)
        self.right = SeparableConv2D(4, 4, 5)
        self.conv3 = Conv2D(8, 4, 3, padding="VALID")
        self.fc = Dense(4, 2)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = layer("conv1", self.conv1, x)
        x = layer("bn1", partial(self.bn1, train=train), x)
        x = layer("relu1", tf.nn.relu, x)
        x = layer("norm1", local_response_normalization, x)
        x = layer("pool1", partial(max_pool, size=3, stride=2, ceil=True), x)
        x = layer("conv2", self.conv2, x)
        left, right = layer("left", self.left, x), layer("right", self.right, x)
        x = layer("both", partial(tf.concat, axis=-1), [left, right])
        x = layer("pool2", partial(avg_pool, size=3, stride=2, padding=1), x)
        x = layer("conv3", self.conv3, x)
        x = layer("mean", partial(tf.reduce_mean, axis=[1, 2]), x)
        return layer("fc", self.fc, x)


def test_receptive_fields_by_gradients():
    """What the middle of a map depends on, by the tape: the pixels whose gradient is not 0, of networks without a zero
    in their kernels. Of a maximum it is one place only, so max pools stand as averages here."""
    net = Branches()
    table = {row.name: row for row in layer_table(net)}
    for name, v in named_variables(net).items():
        if name.endswith("weights"):
            v.assign(0.1 + tf.random.stateless_uniform(v.shape, [0, 1]))
    x = tf.random.stateless_uniform([1, SIDE, SIDE, 3], [0, 2])
    seen = {}

    class Averages:
        def enters(self, name, layer, x):
            self.x = x

        def __call__(self, name, y):
            if name == "pool1":
                y = avg_pool(self.x, 3, 2, ceil=True)
            seen[name] = y
            return y

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        net(x, tap=Averages())
        maps = {name: tf.reduce_sum(y[0], -1) for name, y in seen.items() if y.shape.rank == 4}
        places = {name: y[y.shape[0] // 2, y.shape[1] // 2] for name, y in maps.items()}
        after = {name: y[y.shape[0] // 2 + 1, y.shape[1] // 2 + 1] for name, y in maps.items()}
    assert {name for name in table if len(table[name].output_shape) == 3} == set(places)
    for name in places:
        extents = []
        for place in (places[name], after[name]):
            rows, columns = np.nonzero(tape.gradient(place, x)[0].numpy().any(-1))
            extents.append(((rows.min(), rows.max()), (columns.min(), columns.max())))
        (rows, columns), (lower, right) = extents
        assert table[name].receptive_field == (rows[1] - rows[0] + 1, columns[1] - columns[0] + 1), name
        assert table[name].stride == (lower[1] - rows[1], right[1] - columns[1]), name
    whole = table["conv3"]
    for name in ("mean", "fc"):
        expected = tuple(
            f + (n - 1) * s for f, n, s in zip(whole.receptive_field, whole.output_shape, whole.stride, strict=False)
        )
        assert table[name].receptive_field == expected


def test_kinds():
    kinds = {row.name: row.kind for row in layer_table(Branches())}
    assert kinds == {
        "conv1": "Conv2D",
        "bn1": "BatchNorm",
        "relu1": "relu",
        "norm1": "local_response_normalization",
        "pool1": "max_pool",
        "conv2": "Conv2D",
        "left": "Conv2D",
        "right": "SeparableConv2D",
        "both": "concat",
        "pool2": "avg_pool",
        "conv3": "Conv2D",
        "mean": "reduce_mean",
        "fc": "Dense",
    }


def test_what_is_not_known_is_not_guessed():
    net = Branches()
    resize = partial(tf.image.resize, size=(7, 7))
    net.conv3, net.fc = resize, Dense(8, 2)
    with pytest.raises(ValueError, match="ResizeBilinear makes of a map of"):
        layer_table(net)


def test_memory_of_a_batch():
    table = layer_table(Branches())
    assert table[0].memory == 4 * table[0].output_shape[0] * table[0].output_shape[1] * 4
    total = sum(row.memory for row in table)
    assert table.text(10).splitlines()[-1].endswith(f"{10 * total / 1e6:,.2f} MB")
    assert str(table) == table.text(1)


@pytest.mark.parametrize(
    ("name", "variant", "layer", "field", "stride"),
    # Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, table 1, which
    # are slim's; AlexNet and VGG there end with pool5. ResNets end with their last block.
    [
        ("alexnet", "one_tower", "pool5", 195, 32),
        ("vgg16", "paper", "pool5", 212, 32),
        ("resnet50", "slim", "res5c_relu", 483, 32),
        ("resnet101", "slim", "res5c_relu", 1027, 32),
        ("resnet152", "slim", "res5c_relu", 1507, 32),
        ("inception_v2", "slim", "Mixed_5c", 699, 32),
        ("inception_v3", "slim", "Mixed_7c", 1311, 32),
    ],
)
def test_published_receptive_fields(name, variant, layer, field, stride):
    with tf.Graph().as_default():  # no weights are drawn
        rows = {row.name: row for row in layer_table(nets.build(name, variant=variant))}
    assert rows[layer].receptive_field == (field, field)
    assert rows[layer].stride == (stride, stride)


@pytest.mark.parametrize(
    ("name", "variant", "parameters", "multiply_adds"),
    # Parameters: torchvision's and Caffe's files, to the last one. Multiply-adds: AlexNet 724 M and VGG16 15.5 G as
    # they are commonly counted from the prototxts; ResNets: He et al. 2016, table 1 (1.8, 3.6, 3.8, 7.6, 11.3 · 10⁹,
    # multiply-adds), torchvision's 3×3 stride 4.1 G.
    [
        ("alexnet", "alexnet", 60_965_224, 724e6),
        ("vgg16", "paper", 138_357_544, 15.5e9),
        ("vgg19", "paper", 143_667_240, 19.6e9),
        ("resnet18", "torchvision", 11_689_512, 1.8e9),
        ("resnet34", "torchvision", 21_797_672, 3.6e9),
        ("resnet50", "caffe", None, 3.8e9),
        ("resnet50", "torchvision", 25_557_032, 4.1e9),
        ("resnet101", "caffe", 44_549_160, 7.6e9),
        ("resnet152", "caffe", 60_192_808, 11.3e9),
    ],
)
def test_published_totals(name, variant, parameters, multiply_adds):
    with tf.Graph().as_default():
        table = layer_table(nets.build(name, variant=variant))
    if parameters:
        assert sum(row.parameters for row in table) == parameters
    assert sum(row.multiply_adds for row in table) == pytest.approx(multiply_adds, rel=0.02)

"""A small network with one of each kind of layer, for tests that look inside it."""

from functools import partial

import numpy as np
import tensorflow as tf

from barenets.ops import BatchNorm, Conv2D, Dense, SeparableConv2D, layers, max_pool, named_variables


class Parts(tf.Module):
    """conv1 (strided) → bn1 → relu1 → conv2 (2 groups, padded) → relu2 → pool2 → sep3 → relu3 → fc4 → relu4 → fc5."""

    def __init__(self, classes=3, seed=0):
        super().__init__()
        self.input_shape = (12, 12, 3)
        self.conv1 = Conv2D(3, 4, 3, stride=2, padding="SAME", seed=(seed, 1))
        self.bn1 = BatchNorm(4)
        self.conv2 = Conv2D(4, 6, 3, padding=1, groups=2, seed=(seed, 2))
        self.sep3 = SeparableConv2D(6, 5, 3, multiplier=2, bias=True, seed=(seed, 3))
        self.fc4 = Dense(5 * 3 * 3, 8, seed=(seed, 4))
        self.fc5 = Dense(8, classes, seed=(seed, 5))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = layer("conv1", self.conv1, x)
        x = layer("bn1", partial(self.bn1, train=train), x)
        x = layer("relu1", tf.nn.relu, x)
        x = layer("conv2", self.conv2, x)
        x = layer("relu2", tf.nn.relu, x)
        x = layer("pool2", partial(max_pool, size=2, stride=2), x)
        x = layer("sep3", self.sep3, x)
        x = layer("relu3", tf.nn.relu, x)
        x = layer("fc4", self.fc4, tf.reshape(x, [-1, 45]))
        x = layer("relu4", tf.nn.relu, x)
        return layer("fc5", self.fc5, x)


def lively(net, seed=0):
    """`net` with every variable other than it starts, so that nothing is 0 or 1 by chance."""
    rng = np.random.default_rng(seed)
    for variable in named_variables(net).values():
        variable.assign_add(rng.uniform(-0.02, 0.1, variable.shape))
    return net


def batch(count=6, classes=3, seed=0, side=12):
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.normal(0, 1, (count, side, side, 3)), tf.float32),
        tf.constant(rng.integers(0, classes, count), tf.int32),
    )

"""Networks so small that a run takes seconds."""

from functools import partial

import tensorflow as tf

from barenets.ops import BatchNorm, Conv2D, Dense, dropout, fold_in, layers, max_pool


class Tiny(tf.Module):
    """conv1 → relu1 → pool1 → fc2 → relu2 → drop2 → fc3, on 16×16 pictures; without classes, pool1 [N, 4, 4, 4]."""

    def __init__(self, num_classes=2, variant="tiny", *, dropout_rate=0.5, seed=0):
        super().__init__()
        self.input_shape = (16, 16, 3)
        self._rate = dropout_rate
        self._has_head = num_classes is not None
        self.conv1 = Conv2D(3, 4, 3, stride=2, seed=(seed, 1))
        if not self._has_head:
            return
        self.fc2 = Dense(4 * 4 * 4, 8, seed=(seed, 2))
        self.fc3 = Dense(8, num_classes, seed=(seed, 3))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = layer("conv1", self.conv1, x)
        x = layer("relu1", tf.nn.relu, x)
        x = layer("pool1", partial(max_pool, size=2, stride=2), x)
        if not self._has_head:
            return x
        x = layer("fc2", self.fc2, tf.reshape(x, [-1, 64]))
        x = layer("relu2", tf.nn.relu, x)
        if train:
            x = layer("drop2", partial(dropout, rate=self._rate, rng=fold_in(rng, "drop2")), x)
        return layer("fc3", self.fc3, x)


NETWORK = (Tiny, ("tiny",))


class TinyXception(tf.Module):
    """Two of Xception's layers by name, on 16×16 pictures, and a last map of 4×4×8."""

    def __init__(self, num_classes=None, variant="keras", *, seed=0):
        super().__init__()
        self.input_shape = (16, 16, 3)
        self.block12_conv = Conv2D(3, 6, 3, stride=2, seed=(seed, 1))
        self.block13_conv = Conv2D(6, 8, 3, stride=2, seed=(seed, 2))
        self.block14_bn = BatchNorm(8)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = tf.nn.relu(layer("block12_conv", self.block12_conv, x))
        x = layer("block13_conv", self.block13_conv, x)
        return tf.nn.relu(layer("block14_bn", partial(self.block14_bn, train=train), x))

"""Stateless dropout: the mask is a function of the seed and of the layer's name."""

import zlib
from collections.abc import Callable
from functools import partial

import tensorflow as tf

from barenets.ops import replicas


def fold_in(rng: tf.Tensor, name: str) -> tf.Tensor:
    """A seed of `name`'s own, int32 [2], from the step's seed `rng` (int32 [2])."""
    # Of a seed that is negative XLA makes another one unless it is told how.
    data = tf.constant(zlib.crc32(name.encode()) & 0x7FFFFFFF, tf.int32)
    return tf.random.fold_in(rng, data, alg="philox")


def dropout(x: tf.Tensor, rate: float, rng: tf.Tensor | None) -> tf.Tensor:
    """`x` with a fraction `rate` of its values set to 0 and the others divided by 1 − rate.

    `rate` is the fraction *dropped* (the articles' `keep_prob` is 1 − rate). `rng` is a stateless
    seed, int32 [2]: the same seed gives the same mask, so a resumed run repeats it to the bit, and several devices
    together have that of the whole batch.
    Raises ValueError for a rate outside [0, 1) and for a missing seed.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the dropout rate is the fraction dropped and lies in [0, 1), got {rate}")
    if rate == 0:
        return x
    if rng is None:
        raise ValueError("dropout in training needs a seed: call the network with rng=<int32 tensor of shape [2]>")
    # Integers: from the same bits XLA makes other floats than the rest of TensorFlow does.
    rows = tf.shape(x)[0]
    first, total = replicas.place(rows)
    shape = tf.concat([[total], tf.shape(x)[1:]], 0)
    bits = tf.random.stateless_uniform(shape, rng, None, None, tf.uint32, alg="philox")[first : first + rows]
    keep = bits >= tf.constant(int(rate * 2**32), tf.uint32)
    return tf.where(keep, x / (1 - rate), tf.zeros_like(x))


def layer_dropout(name: str, rate: float, rng: tf.Tensor | None, *, train: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The `dropout` of the layer `name`: its seed is its own, made of the step's `rng`; none unless `train`."""
    return partial(dropout, rate=rate if train else 0.0, rng=None if rng is None else fold_in(rng, name))

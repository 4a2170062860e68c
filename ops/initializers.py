"""Values that variables start from: pure functions of shape and seed."""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

Initializer = Callable[[Sequence[int], Sequence[int], tf.DType], tf.Tensor]
"""(shape, stateless seed of two ints, dtype) -> tensor. Kernels are HWIO or [in, out].

The values are the same eagerly and in a graph; XLA makes other floats from the same bits.
"""


def gaussian(std: float) -> Initializer:
    """Normal with mean 0; AlexNet uses std 0.01 everywhere (Krizhevsky et al. 2012, section 5).

    `bvlc_alexnet`'s prototxt has 0.005 for fc6 and fc7.
    """

    def initialize(shape: Sequence[int], seed: Sequence[int], dtype: tf.DType) -> tf.Tensor:
        return tf.random.stateless_normal(shape, seed, stddev=std, dtype=dtype)

    return initialize


def glorot_uniform() -> Initializer:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, equation 16)."""

    def initialize(shape: Sequence[int], seed: Sequence[int], dtype: tf.DType) -> tf.Tensor:
        limit = math.sqrt(6.0 / sum(_fans(shape)))
        return tf.random.stateless_uniform(shape, seed, -limit, limit, dtype)

    return initialize


def he_normal() -> Initializer:
    """Normal with std sqrt(2 / fan_in), for layers before a ReLU (He et al. 2015, equation 10)."""

    def initialize(shape: Sequence[int], seed: Sequence[int], dtype: tf.DType) -> tf.Tensor:
        return tf.random.stateless_normal(shape, seed, stddev=math.sqrt(2.0 / _fans(shape)[0]), dtype=dtype)

    return initialize


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """How many inputs one output sees, and how many outputs one input reaches.

    A grouped kernel's third axis holds channels / groups, so its fan_in is right as it stands and its
    fan_out is that of a whole layer, as in Keras and torch.
    """
    area = math.prod(shape[:-2])
    return area * shape[-2], area * shape[-1]

"""Every op gives the same numbers, and the same gradient, eagerly, as a graph and compiled by XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from barenets import ops
from tests.ops.reference import normal

IMAGES = (2, 7, 6, 8)
LABELS = tf.constant([1, 0, 3])
SEED = tf.constant([5, 6])
MOMENTS = {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)}


@functools.cache
def conv(**options) -> ops.Conv2D:
    return ops.Conv2D(8, 4, 3, bias_value=0.3, seed=(1, 2), **options)


@functools.cache
def dense() -> ops.Dense:
    return ops.Dense(8, 5, bias_value=0.3, seed=(1, 2))


def prepare(**options) -> ops.Preprocessing:
    return ops.Preprocessing(crop=4, resize=5, **options)


Op = Callable[[tf.Tensor], tf.Tensor]
CASES: dict[str, tuple[tuple[int, ...], Op]] = {
    "conv": (IMAGES, lambda x: conv()(x)),
    "conv-padded": (IMAGES, lambda x: conv(stride=2, padding=(1, 2))(x)),
    "conv-grouped": (IMAGES, lambda x: conv(groups=2)(x)),
    "conv-grouped-padded": (IMAGES, lambda x: conv(groups=4, stride=2, padding=1)(x)),
    "conv-grouped-without-bias": (IMAGES, lambda x: conv(groups=2, bias=False)(x)),
    "dense": ((3, 8), lambda x: dense()(x)),
    "max-plain": (IMAGES, lambda x: ops.max_pool(x, 3, 2)),
    "max-padded-ceil": (IMAGES, lambda x: ops.max_pool(x, 3, 2, padding=1, ceil=True)),
    "avg-padded-ceil": (IMAGES, lambda x: ops.avg_pool(x, 3, 2, padding=1, ceil=True)),
    "avg-real-pixels": (IMAGES, lambda x: ops.avg_pool(x, 3, 2, padding=1, ceil=True, count_padding=False)),
    "lrn": (IMAGES, lambda x: ops.local_response_normalization(x, 3, 2.0)),
    "lrn-slow": (IMAGES, lambda x: ops.local_response_normalization(x, 5, 2.0, fast=False)),
    "dropout": ((20, 30), lambda x: ops.dropout(x, 0.4, ops.fold_in(SEED, "fc6"))),
    "softmax-smoothed": ((3, 5), lambda x: ops.softmax_cross_entropy(LABELS, x, 0.1)),
    "sigmoid": ((3, 5), lambda x: ops.sigmoid_cross_entropy(tf.one_hot(LABELS, 5), x)),
    "normalized": ((2, 4, 4, 3), lambda x: prepare(channels="BGR", scale=2.0, **MOMENTS).normalized(x)),
    "resized": ((9, 12, 3), lambda x: prepare(antialias=False).resized(x)),
    "resized-antialiased": ((9, 12, 3), lambda x: prepare(keep_aspect=False).resized(x)),
}


# The sums of antialiasing, which XLA does not know, run in the input pipeline only.
MODES = [(name, xla) for name in CASES for xla in (False, True) if (name, xla) != ("resized-antialiased", True)]


@pytest.mark.parametrize(
    ("name", "compiled"), [pytest.param(*mode, id=f"{mode[0]}-{('graph', 'XLA')[mode[1]]}") for mode in MODES]
)
def test_same_numbers(name, compiled):
    shape, op = CASES[name]
    x = tf.constant(normal(*shape, dtype=np.float32))
    sources = [x, *variables(op, x)]

    def value_and_gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = op(x)
        dy = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7 - 3, tf.shape(y)), y.dtype)  # anything but constant
        return [y, *tape.gradient(y, sources, output_gradients=dy)]

    graph = tf.function(value_and_gradients, jit_compile=compiled, autograph=False)
    for ours, eager in zip(graph(), value_and_gradients(), strict=True):
        # float32 sums of up to 200 terms, added in another order.
        np.testing.assert_allclose(ours, eager, rtol=1e-5, atol=1e-5)


def variables(op: Op, x: tf.Tensor) -> tuple[tf.Variable, ...]:
    with tf.GradientTape() as tape:
        op(x)
    return tape.watched_variables()


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize(
    "op",
    [
        lambda: ops.fold_in(SEED, "fc6"),
        lambda: ops.fold_in(tf.constant([-5, 6]), "fc6"),  # as one that was folded before may be
        lambda: prepare(channels="BGR").pictures(tf.constant(normal(2, 2, 3, dtype=np.float32) * 200)),
        lambda: prepare().framed(tf.reshape(tf.range(30000.0), [100, 100, 3]), [1, 2]),
    ],
    ids=["fold_in", "fold_in_negative", "pictures", "framed"],
)
def test_same_values(op, compiled):
    # What has no gradient; float32 by the same formula, to a few units in the last place.
    np.testing.assert_allclose(tf.function(op, jit_compile=compiled, autograph=False)(), op(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("initializer", [ops.gaussian(0.01), ops.he_normal(), ops.glorot_uniform()])
def test_same_initial_values(initializer):
    """Eagerly and as a graph only: XLA makes other floating point numbers of the same random bits."""
    graph = tf.function(functools.partial(initializer, (3, 3, 4, 2), (1, 2), tf.float32), autograph=False)
    np.testing.assert_array_equal(graph(), initializer((3, 3, 4, 2), (1, 2), tf.float32))

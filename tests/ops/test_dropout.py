"""Dropout: the mask is a function of the seed and of the name, and has the statistics it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import dropout, fold_in
from tests.ops.reference import gradient, normal

SIDES = (500, 400)
COUNT = math.prod(SIDES)


def seed(a: int, b: int = 0) -> tf.Tensor:
    return tf.constant([a, b], tf.int32)


def mask(rng: tf.Tensor, rate: float = 0.5) -> np.ndarray:
    return dropout(tf.ones(SIDES), rate, rng).numpy() != 0


def test_seed_and_name_decide():
    np.testing.assert_array_equal(mask(seed(1, 2)), mask(seed(1, 2)))
    np.testing.assert_array_equal(mask(fold_in(seed(1, 2), "fc6")), mask(fold_in(seed(1, 2), "fc6")))


def test_masks_are_independent():
    """Two masks of rate ½ agree in half their places: 4 standard deviations of ½ / √n."""
    seeds = [seed(0), seed(0, 1), seed(1), seed(1, 1), seed(2**31 - 1, -1)]
    seeds += [fold_in(rng, name) for rng in seeds[:3] for name in ("fc6", "fc7", "drop6")]
    masks = [mask(rng) for rng in seeds]
    for i in range(len(masks)):
        for j in range(i):
            assert abs(np.mean(masks[i] == masks[j]) - 0.5) < 4 * 0.5 / math.sqrt(COUNT), (i, j)


def test_fold_in():
    folded = fold_in(seed(1, 2), "fc6")
    assert (folded.shape, folded.dtype) == ((2,), tf.int32)
    names = [f"layer{i}/{kind}" for i in range(50) for kind in ("weights", "biases")]
    seeds = {tuple(fold_in(rng, name).numpy()) for rng in (seed(0), seed(0, 1), seed(1)) for name in names}
    assert len(seeds) == 3 * len(names)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75, 0.99])
def test_fraction_and_scale(rate):
    x = 1 + np.abs(normal(*SIDES, dtype=np.float32))
    y = dropout(tf.constant(x), rate, seed(5)).numpy()
    # The fraction dropped has standard deviation √(rate (1 − rate) / n); the seed is fixed.
    assert abs(np.mean(y == 0) - rate) < 4 * math.sqrt(rate * (1 - rate) / COUNT)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / np.float32(1 - rate), rtol=1e-6)  # two float32 roundings


def test_every_value_for_itself():
    """No row or column is dropped as a whole: the means of lines spread as those of independent bits."""
    kept = mask(seed(3))
    for axis, n in enumerate(SIDES):
        # The variance of the line means is ¼ / n, itself known to √(2 / lines).
        assert abs(np.var(kept.mean(axis)) * 4 * n - 1) < 4 * math.sqrt(2 / (COUNT / n))


def test_rate_zero_is_the_identity():
    x = normal(*SIDES, dtype=np.float32)
    np.testing.assert_array_equal(dropout(tf.constant(x), 0.0, seed(1)), x)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16])
def test_type_and_shape_stay(dtype):
    y = dropout(tf.ones([2, 3, 4, 5], dtype), 0.25, seed(1))
    assert (y.shape, y.dtype) == ((2, 3, 4, 5), dtype)


def test_gradient_is_the_mask():
    x, dy = normal(20, 30, dtype=np.float32), normal(20, 30, seed=1, dtype=np.float32)
    kept = dropout(tf.ones([20, 30]), 0.3, seed(7)).numpy() != 0
    ours = gradient(lambda x: dropout(x, 0.3, seed(7)), x, dy)
    np.testing.assert_allclose(ours, np.where(kept, dy / 0.7, 0), rtol=1e-6)  # two float32 roundings


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan])
def test_rates_outside(rate):
    with pytest.raises(ValueError, match=rf"fraction dropped and lies in \[0, 1\), got {rate}"):
        dropout(tf.ones([2]), rate, seed(1))


def test_without_a_seed():
    with pytest.raises(ValueError, match="dropout in training needs a seed"):
        dropout(tf.ones([2]), 0.5, None)

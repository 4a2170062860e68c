"""Initial values: their distribution, and that they depend on the seed and on nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from barenets.ops import gaussian, glorot_uniform, he_normal

KERNEL = (3, 3, 32, 256)  # fan_in 9 · 32, fan_out 9 · 256; 73 728 values
MATRIX = (300, 200)
CASES = [
    pytest.param(gaussian(0.01), KERNEL, stats.norm(0, 0.01), id="gaussian"),
    pytest.param(gaussian(0.005), MATRIX, stats.norm(0, 0.005), id="gaussian-dense"),
    pytest.param(he_normal(), KERNEL, stats.norm(0, math.sqrt(2 / 288)), id="he"),
    pytest.param(he_normal(), MATRIX, stats.norm(0, math.sqrt(2 / 300)), id="he-dense"),
    pytest.param(glorot_uniform(), KERNEL, stats.uniform(-(b := math.sqrt(6 / 2592)), 2 * b), id="glorot"),
    pytest.param(glorot_uniform(), MATRIX, stats.uniform(-(b := math.sqrt(6 / 500)), 2 * b), id="glorot-dense"),
]
SEEDS = [(0, 0), (0, 1), (1, 0), (12345, 678)]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize(("initializer", "shape", "law"), CASES)
def test_distribution(initializer, shape, law, dtype):
    for seed in SEEDS:
        values = initializer(shape, seed, dtype)
        assert (tuple(values.shape), values.dtype) == (shape, dtype)
        values = values.numpy().ravel().astype(np.float64)
        n = len(values)
        # The mean spreads by σ/√n, the standard deviation by at most σ/√(2n); 4 of each at fixed seeds.
        assert abs(values.mean()) < 4 * law.std() / math.sqrt(n)
        assert abs(values.std() - law.std()) < 4 * law.std() / math.sqrt(2 * n)
        # Kolmogorov-Smirnov: 12 cases of 4 seeds leave the smallest p of 48 above .001 19 times in 20.
        assert stats.kstest(values, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [KERNEL, MATRIX])
def test_glorot_keeps_its_limits(shape):
    area = math.prod(shape[:-2])
    limit = math.sqrt(6 / (area * (shape[-2] + shape[-1])))
    largest = np.abs(glorot_uniform()(shape, (1, 2), tf.float64).numpy()).max()
    # Of n > 50 000 values the largest lies within 1e-3 of the limit but with probability e⁻⁵⁰.
    assert (1 - 1e-3) * limit < largest <= limit


@pytest.mark.parametrize(("initializer", "shape", "law"), CASES)
def test_seed_decides(initializer, shape, law):
    first, again = (initializer(shape, (3, 4), tf.float32).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, initializer(list(shape), tf.constant([3, 4]), tf.float32))
    for seed in ((4, 3), (3, 5), (2, 4)):
        other = initializer(shape, seed, tf.float32).numpy()
        # Independent values correlate by 1/√n.
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(first.size)

"""Histograms from the bits of floats against np.histogram with the same edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from barenets.look import histograms
from barenets.look.histograms import BINS, SAMPLE, Histogram, count_bits, sample

CHUNK = 1 << 18
HALF = BINS // 2
# Four equal bins between each two powers of two: 2⁻¹²⁶ is float32's least normal number, and below it (the subnormals)
# the bins are as wide as those above it.
SUBNORMAL = [i * 2.0**-128 for i in range(4)]
EDGES = np.array([*SUBNORMAL, *(2.0**e * (1 + q / 4) for e in range(-126, 128) for q in range(4)), 2.0**128])


def float32(x: np.ndarray | list[float]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float32).ravel()


def reference(x: np.ndarray) -> np.ndarray:
    """Counts: magnitudes of the positives, then of the negatives, each with infinities and NaNs above."""
    x = float32(x)
    counts = []
    for sign in (False, True):
        side = np.abs(x[np.signbit(x) == sign]).astype(np.float64)
        finite = np.histogram(side[np.isfinite(side)], EDGES)[0]
        counts += [*finite, np.isinf(side).sum(), np.isnan(side).sum()]
    return np.array(counts)


def folded(counts: np.ndarray) -> np.ndarray:
    """`counts` with the three bins of NaNs on each side added up, as `reference` has them."""
    sides = np.asarray(counts).reshape(2, HALF)
    return np.concatenate([sides[:, : HALF - 3], sides[:, HALF - 3 :].sum(1, keepdims=True)], 1).ravel()


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Of both signs and of all magnitudes that float32 has, and exact powers of two, which are edges."""
    rng = np.random.default_rng(seed)
    x = np.exp2(rng.uniform(-149, 128, shape)) * rng.choice([-1.0, 1.0], shape)
    x = np.where(rng.random(shape) < 0.1, np.sign(x) * np.exp2(rng.integers(-149, 128, shape)), x)
    return x.astype(np.float32)


SPECIAL = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1.0, -1.0, 1.25, -1.75, 2.0**-149, -(2.0**-149)]
SPECIAL += [2.0**-128, -(2.0**-128), 2.0**-126, np.finfo(np.float32).max, np.finfo(np.float32).min]
SPECIAL += [np.nextafter(np.float32(edge), np.float32(0)) for edge in (1.0, 1.25, -2.0, 2.0**-126, 2.0**-128)]
BEYOND = [1e300, -1e300, 1e-300, -1e-300, math.nan]

TENSORS: dict[str, np.ndarray] = {
    "normal": np.random.default_rng(0).standard_normal((7, 11, 13)).astype(np.float32),
    "all magnitudes": values(50, 40),
    "special": np.array(SPECIAL, np.float32),
    "every edge": np.concatenate([EDGES[:-1], -EDGES[:-1]]).astype(np.float32),
    "below every edge": np.nextafter(EDGES[1:-1].astype(np.float32), np.float32(0)),
    # TensorFlow's cast from float64 flushes to zero what would be subnormal.
    "float64": np.concatenate([[v for v in values(1000).astype(np.float64) if abs(v) > 2.0**-126], BEYOND]),
    "bfloat16": values(1000).astype(tf.bfloat16.as_numpy_dtype),
    "float16": np.random.default_rng(0).standard_normal(1000).astype(np.float16),
    "scalar": np.float32(-3.0),
    "one": np.ones([1, 1], np.float32),
    "none": np.zeros([0], np.float32),
    "zeros": np.zeros([100], np.float32),
}
TENSORS |= {
    f"{size:,}": values(size, seed=size)
    for size in (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK)
}


def test_the_chunk_is_what_the_sizes_here_are_around():
    assert histograms._CHUNK == CHUNK


@pytest.mark.parametrize("name", TENSORS)
def test_counts(name):
    x = TENSORS[name]
    counts = count_bits(tf.constant(x))
    assert (counts.shape, counts.dtype) == ((BINS,), tf.int32)
    np.testing.assert_array_equal(folded(counts), reference(x))
    graph = tf.function(count_bits, autograph=False)
    np.testing.assert_array_equal(graph(tf.constant(x)), counts)


def test_counts_add_up():
    parts = [values(1000, seed=seed) for seed in range(3)]
    whole = count_bits(tf.concat(parts, 0))
    np.testing.assert_array_equal(sum(count_bits(tf.constant(part)) for part in parts), whole)


def histogram(x: np.ndarray | list[float]) -> Histogram:
    x = float32(x)
    return Histogram(count_bits(tf.constant(x)).numpy(), x.size)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "none"])
def test_rows_are_what_numpy_counts_between_their_edges(name):
    x = float32(TENSORS[name]).astype(np.float64)
    x = x[np.isfinite(x)]
    rows = histogram(TENSORS[name]).rows()
    left, right, counts = rows.T
    assert rows.dtype == np.float64
    assert (left < right).all()
    assert (right[:-1] <= left[1:]).all()
    assert counts.sum() == len(x)
    for low, high, count in rows[:: max(1, len(rows) // 200)]:
        # Bins hold their edge next to zero; zero's own holds neither.
        inside = (low <= x) & (x < high) if low > 0 else (low < x) & (x <= high) if high < 0 else np.abs(x) < high
        assert count == inside.sum(), (low, high)


def test_rows_meet_at_powers_of_two_and_around_zero():
    magnitudes = EDGES[1:-1] * 1.01
    rows = histogram(np.concatenate([-magnitudes, [0.0], magnitudes])).rows()
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1])
    np.testing.assert_array_equal(rows[:, 2], 1)
    np.testing.assert_array_equal(rows[len(rows) // 2], [-(2.0**-128), 2.0**-128, 1])
    np.testing.assert_array_equal(rows[len(rows) // 2 + 1 :, 0], EDGES[1:-1])
    # Four steps to an octave: no bin is wider than a quarter of its edge next to zero, from the normal numbers on.
    positive = rows[rows[:, 0] >= 2.0**-126][:-1]
    assert ((positive[:, 1] - positive[:, 0]) / positive[:, 0]).max() == 0.25


def test_rows_leave_no_gaps():
    """TensorBoard's percentiles take the bin before a row to end where the row begins."""
    rows = histogram([-1.0, 0.0, 0.01, 1.0, 1.25]).rows()
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1])
    np.testing.assert_array_equal(rows[rows[:, 2] > 0, 2], 1)
    np.testing.assert_array_equal(rows[[0, -1], [0, 1]], [-1.25, 1.5])


def test_edges_are_finite():
    """A right edge at infinity would make all percentiles above it infinite."""
    left, right, _ = histogram([3.4e38, -3.4e38]).rows()[[0, -1]].T
    np.testing.assert_array_equal(left, [-(2.0**128), 1.75 * 2.0**127])
    np.testing.assert_array_equal(right, [-1.75 * 2.0**127, 2.0**128])


def test_rows_of_nothing_finite():
    rows = histogram([math.nan, math.inf, -math.inf]).rows()
    assert (rows.shape, rows.dtype) == ((0, 3), np.float64)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "none"])
def test_shares(name):
    x = float32(TENSORS[name])
    h = histogram(x)
    assert h.exact
    assert h.seen == h.size == x.size
    assert h.nans == np.isnan(x).sum()
    assert h.infinities == np.isinf(x).sum()
    # Magnitudes below 2⁻¹²⁸ count as zeros: TensorFlow's kernels flush them to zero.
    assert h.zeros == pytest.approx(np.mean(np.abs(x) < 2.0**-128), abs=1e-12)


def seed(a: int) -> tf.Tensor:
    return tf.constant([a, 0], tf.int32)


@pytest.mark.parametrize("size", [1, 7, SAMPLE, 10 * SAMPLE])
def test_sample(size):
    drawn = sample(size, seed(1)).numpy()
    assert (drawn.shape, drawn.dtype) == ((SAMPLE,), np.int32)
    assert drawn.min() >= 0
    assert drawn.max() < size
    np.testing.assert_array_equal(sample(size, seed(1)), drawn)
    if size > 1:
        assert (sample(size, seed(2)).numpy() != drawn).any()
        # The mean of n uniform indices has standard deviation size / √(12 n); the seed is fixed.
        assert abs(drawn.mean() - (size - 1) / 2) < 4 * size / math.sqrt(12 * SAMPLE)


def test_a_sample_is_scaled_to_the_whole():
    x = values(1 << 20, seed=3)
    x[:1000] = 0
    exact, sampled = histogram(x), Histogram(count_bits(tf.gather(x, sample(x.size, seed(0)))).numpy(), x.size)
    assert (sampled.exact, sampled.seen, sampled.size) == (False, SAMPLE, x.size)
    assert sampled.rows()[:, 2].sum() == pytest.approx(x.size, rel=1e-12)

    # Kolmogorov: the distribution of n draws is nowhere further off than 1.95 / √n, but once in a thousand seeds.
    ends = np.union1d(exact.rows()[:, 1], sampled.rows()[:, 1])
    exactly, about = (
        np.array([rows[rows[:, 1] <= end, 2].sum() for end in ends]) / x.size for rows in (exact.rows(), sampled.rows())
    )
    assert 0 < np.abs(about - exactly).max() < 1.95 / math.sqrt(SAMPLE)


def test_a_sample_that_saw_what_is_not_finite():
    h = Histogram(histogram([1.0, 1.25, math.nan, math.inf]).counts, 400)
    assert (h.exact, h.seen, h.nans, h.infinities) == (False, 4, 1, 1)
    np.testing.assert_array_equal(h.rows()[:, 2], [100, 100])

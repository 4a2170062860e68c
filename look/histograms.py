"""Histograms of tensors with millions of values, for next to nothing.

A float32 is sign, exponent and mantissa, in this order from the highest bit. Its 11 highest bits are
therefore a bin number: one of 2 signs × 256 powers of two × 4 steps between. Counting them needs one
pass over the tensor and no minimum or maximum first; the bins are the same for every tensor, so counts of
steps or replicas can be added; and they are spaced logarithmically, which suits gradients.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

BINS = 1 << 11
_SHIFT = 32 - 11
_CHUNK = 1 << 18  # values whose bin numbers stay in the cache until they are counted: twice as fast

EXACT_BELOW = 1 << 20
"""Variables of up to this many values are counted exactly by default: every convolution of AlexNet."""
SAMPLE = 1 << 16
"""How many values of a larger one are drawn instead."""


def once(signature: list[tf.TensorSpec]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function one that is traced, and optimised, once, however often a step calls it.

    A step that is watched has hundreds of variables and activations, and would take a minute to trace.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        alone = {"_noinline": True}
        made = tf.function(function, input_signature=signature, autograph=False, experimental_attributes=alone)
        concrete = functools.cache(made.get_concrete_function)
        return functools.wraps(function)(lambda *tensors: concrete()(*tensors))

    return decorate


def count_bits(x: tf.Tensor) -> tf.Tensor:
    """int32 [BINS]: how many values of the float tensor `x` fall into each bin."""
    bits = tf.bitcast(tf.reshape(tf.cast(x, tf.float32), [-1]), tf.uint32)

    def count(part: tf.Tensor) -> tf.Tensor:
        numbers = tf.bitcast(tf.bitwise.right_shift(part, tf.constant(_SHIFT, tf.uint32)), tf.int32)
        return tf.raw_ops.Bincount(arr=numbers, size=BINS, weights=tf.constant([], tf.int32))

    chunks = bits.shape[0] // _CHUNK
    if chunks < 2:
        return count(bits)
    whole = tf.reshape(bits[: chunks * _CHUNK], [chunks, _CHUNK])
    _, counts = tf.while_loop(
        lambda i, counts: i < chunks,
        lambda i, counts: (i + 1, counts + count(whole[i])),
        (0, count(bits[chunks * _CHUNK :])),
    )
    return counts


def sample(size: int, rng: tf.Tensor) -> tf.Tensor:
    """int32 [SAMPLE]: indices of `size` values, drawn with replacement; `rng` is a stateless seed, int32 [2]."""
    return tf.random.stateless_uniform([SAMPLE], rng, 0, size, tf.int32)


def _edges() -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(BINS, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        inner = (numbers << np.uint32(_SHIFT)).view(np.float32).astype(np.float64)
        outer = ((numbers + 1) << np.uint32(_SHIFT)).view(np.float32).astype(np.float64)
    outer = np.clip(outer, -(2.0**128), 2.0**128)  # at infinity it would make TensorBoard's percentiles infinite
    positive = numbers < BINS // 2
    return np.where(positive, inner, outer), np.where(positive, outer, inner)


_LEFT, _RIGHT = _edges()
_HALF = BINS // 2
_INFINITE = np.array([_HALF - 4, BINS - 4])  # exponent 255, mantissa 0
_NAN = np.concatenate([i + np.arange(1, 4) for i in _INFINITE])
_ZERO = np.array([0, _HALF])  # and what is below 2⁻¹²⁸, which TensorFlow's kernels flush to zero
_FINITE = np.ones(BINS, bool)
_FINITE[[*_INFINITE, *_NAN]] = False
# Where the bins stand on the number line: the most negative first.
_ORDER = np.concatenate([np.arange(BINS - 1, _HALF, -1), np.arange(1, _HALF)])
_ORDER = _ORDER[_FINITE[_ORDER]]
_BEFORE_ZERO = int(np.searchsorted(_LEFT[_ORDER], 0.0))


@dataclass(frozen=True)
class Histogram:
    """The counts of a tensor of `size` values, of which `counts` saw all, or a sample."""

    counts: np.ndarray
    """Integers [BINS]."""
    size: int

    @property
    def seen(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def exact(self) -> bool:
        """Whether every value was counted, rather than a sample."""
        return self.seen == self.size

    @property
    def zeros(self) -> float:
        """Share of exact zeros, 0 to 1."""
        return float(self.counts[_ZERO].sum() / self.seen)

    @property
    def nans(self) -> int:
        """How many of the values seen are NaN."""
        return int(self.counts[_NAN].sum())

    @property
    def infinities(self) -> int:
        """How many of the values seen are infinite."""
        return int(self.counts[_INFINITE].sum())

    def rows(self) -> np.ndarray:
        """float64 [k, 3] of left edge, right edge and count, ascending and without gaps, for TensorBoard.

        NaN and infinities have no place on the axis and are left out; zeros are a bin of their own. Counts
        of a sample are scaled up to the whole tensor. [0, 3] if nothing is finite.
        """
        scale = self.size / self.seen
        rows = np.stack([_LEFT[_ORDER], _RIGHT[_ORDER], self.counts[_ORDER] * scale], 1)
        zero = [[-_RIGHT[0], _RIGHT[0], self.counts[_ZERO].sum() * scale]]
        rows = np.concatenate([rows[:_BEFORE_ZERO], zero, rows[_BEFORE_ZERO:]])
        rows = rows[rows[:, 2] > 0]
        # One empty bin in each gap: TensorBoard takes a bin to end where the next one begins.
        gaps = np.flatnonzero(rows[1:, 0] > rows[:-1, 1])
        empty = np.stack([rows[gaps, 1], rows[gaps + 1, 0], np.zeros(len(gaps))], 1)
        return np.insert(rows, gaps + 1, empty, axis=0)

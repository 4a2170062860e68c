"""References for the tests: NumPy loops written from the formulas, and central finite differences.

Everything here is float64 and NHWC, and none of it looks at `barenets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Sides = tuple[int, int]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def same_padding(n: int, size: int, stride: int) -> Sides:
    """TensorFlow's SAME: ceil(n / stride) windows, the odd pixel after."""
    total = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | float = 0.0,
    stride: int = 1,
    pads: tuple[Sides, Sides] = ((0, 0), (0, 0)),
    groups: int = 1,
) -> np.ndarray:
    """y[n,i,j,o] = Σ x[n, i·s+u−p, j·s+v−p, c] · w[u,v,c,o] + b[o], c over the channels of o's group."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    kh, kw, depth, outputs = w.shape
    height, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((len(x), height, width, outputs))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
            for o in range(outputs):
                first = o // (outputs // groups) * depth
                y[:, i, j, o] = np.sum(window[..., first : first + depth] * w[..., o], axis=(1, 2, 3))
    return y + b


def pooled_side(n: int, size: int, stride: int, padding: int, ceil: bool) -> int:
    """Caffe's pooling_layer.cpp: round, then drop a last window that would start beyond the picture."""
    side = (math.ceil if ceil else math.floor)((n + 2 * padding - size) / stride) + 1
    return side - ((side - 1) * stride >= n + padding)


def pool(
    x: np.ndarray,
    kind: str,
    size: int,
    stride: int,
    padding: int = 0,
    ceil: bool = False,
    count_padding: bool = True,
) -> np.ndarray:
    """Caffe's loop: windows are clipped to the padded picture, counted, then clipped to the picture."""
    _, h, w, _ = x.shape
    height, width = (pooled_side(n, size, stride, padding, ceil) for n in (h, w))
    y = np.zeros((len(x), height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            top, left = i * stride - padding, j * stride - padding
            bottom, right = min(top + size, h + padding), min(left + size, w + padding)
            count = (bottom - top) * (right - left)
            window = x[:, max(top, 0) : min(bottom, h), max(left, 0) : min(right, w)]
            if kind == "max":
                y[:, i, j] = window.max((1, 2))
            else:
                y[:, i, j] = window.sum((1, 2)) / (count if count_padding else window.shape[1] * window.shape[2])
    return y


def lrn(x: np.ndarray, radius: int, bias: float, alpha: float, beta: float) -> np.ndarray:
    """y[c] = x[c] / (bias + alpha · Σ_{|d − c| ≤ radius} x[d]²)^beta, channels beyond the ends left out."""
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        window = x[..., max(c - radius, 0) : c + radius + 1]
        y[..., c] = x[..., c] / (bias + alpha * np.sum(window**2, -1)) ** beta
    return y


def numerical_gradient(f: Callable[[np.ndarray], Any], x: np.ndarray, dy: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d Σ f(x)·dy / dx by central differences, whose error is of order step² + 1e-16 / step ≈ 1e-10."""
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        ends = [np.array(x), np.array(x)]
        ends[0][at] -= step
        ends[1][at] += step
        low, high = (np.sum(np.asarray(f(end)) * dy) for end in ends)
        gradient[at] = (high - low) / (2 * step)
    return gradient


def gradients(f: Callable[[], tf.Tensor], sources: Sequence[Any], dy: np.ndarray) -> list[np.ndarray]:
    """d Σ f()·dy / d source for each of `sources`, by TensorFlow."""
    with tf.GradientTape() as tape:
        for source in sources:
            tape.watch(source)
        y = f()
    return [g.numpy() for g in tape.gradient(y, list(sources), output_gradients=tf.constant(dy, y.dtype))]


def gradient(f: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """d Σ f(x)·dy / dx by TensorFlow."""
    x = tf.constant(x)
    return gradients(lambda: f(x), [x], dy)[0]

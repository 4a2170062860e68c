"""LRN against the loop, TensorFlow's own, torch, OpenCV's Caffe reader and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import local_response_normalization as lrn
from barenets.ops import local_response_normalization_tf as lrn_tf
from tests import caffe
from tests.ops import reference
from tests.ops.reference import gradient, normal, numerical_gradient

# The sum of squares and its power in float32, each right to a few units in the last place (6e-8).
FLOAT32 = {"rtol": 4e-6, "atol": 1e-6}
# (channels, size, alpha, beta, k): AlexNet's, Krizhevsky's, α large enough to matter, windows wider
# than the channels, even and odd channel counts, powers other than .75.
CAFFE = [
    (8, 5, 1e-4, 0.75, 1.0),
    (7, 5, 5e-4, 0.75, 2.0),
    (1, 5, 2.0, 0.75, 1.0),
    (2, 11, 2.0, 0.75, 0.5),
    (6, 11, 2.0, 0.6, 1.0),
    (5, 3, 3.0, 1.0, 2.0),
]


def inputs(channels: int, scale: float = 3.0, dtype: type = np.float32) -> np.ndarray:
    return scale * normal(2, 3, 2, channels, dtype=dtype)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("channels", "size", "alpha", "beta", "k"), CAFFE)
def test_loop(channels, size, alpha, beta, k, fast):
    x = inputs(channels)
    expected = reference.lrn(x.astype(np.float64), size // 2, k, alpha / size, beta)
    np.testing.assert_allclose(lrn(tf.constant(x), size, alpha, beta, k, fast=fast), expected, **FLOAT32)
    # A bound of 1e-6 hides nothing: without the normalization the numbers are far away.
    assert np.max(np.abs(expected - x)) > 1e-4


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("channels", "radius", "bias", "alpha", "beta"),
    [
        (8, 5, 1.0, 1.0, 0.5),
        (4, 5, 1.0, 1.0, 0.5),
        (8, 2, 1.0, 2e-5, 0.75),
        (6, 0, 2.0, 0.3, 0.75),
        (9, 3, 2.0, 0.3, 1.2),
    ],
)
def test_tensorflows_parameters(channels, radius, bias, alpha, beta, fast):
    x = inputs(channels)
    ours = lrn_tf(tf.constant(x), radius, bias, alpha, beta, fast=fast)
    np.testing.assert_allclose(ours, reference.lrn(x.astype(np.float64), radius, bias, alpha, beta), **FLOAT32)
    np.testing.assert_allclose(ours, tf.nn.local_response_normalization(x, radius, bias, alpha, beta), **FLOAT32)


def test_defaults():
    x = inputs(9, scale=50.0)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(lrn(tf.constant(x)), reference.lrn(wide, 2, 1.0, 1e-4 / 5, 0.75), **FLOAT32)
    np.testing.assert_allclose(lrn_tf(tf.constant(x)), reference.lrn(wide, 5, 1.0, 1.0, 0.5), **FLOAT32)
    np.testing.assert_allclose(lrn_tf(tf.constant(x)), tf.nn.local_response_normalization(x), **FLOAT32)


@pytest.mark.parametrize(("channels", "size", "alpha", "beta", "k"), CAFFE)
def test_fast_is_slow(channels, size, alpha, beta, k):
    x, dy = inputs(channels), normal(2, 3, 2, channels, seed=1)

    def both(fast: bool) -> tuple[np.ndarray, np.ndarray]:
        def f(x: tf.Tensor) -> tf.Tensor:
            return lrn(x, size, alpha, beta, k, fast=fast)

        return f(tf.constant(x)).numpy(), gradient(f, x, dy)

    for fast, slow in zip(both(True), both(False), strict=True):
        np.testing.assert_allclose(fast, slow, **FLOAT32)


@pytest.mark.parametrize(("channels", "size", "alpha", "beta", "k"), CAFFE)
def test_torch(channels, size, alpha, beta, k):
    torch = pytest.importorskip("torch", reason="torch is the reference of this test")
    x, dy = inputs(channels), normal(2, 3, 2, channels, seed=1, dtype=np.float32)
    nchw = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = torch.nn.functional.local_response_norm(nchw, size, alpha, beta, k)
    y.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    ours = lrn(tf.constant(x), size, alpha, beta, k)
    np.testing.assert_allclose(ours, y.detach().numpy().transpose(0, 2, 3, 1), **FLOAT32)
    ours = gradient(lambda x: lrn(x, size, alpha, beta, k), x, dy)
    np.testing.assert_allclose(ours, nchw.grad.numpy().transpose(0, 2, 3, 1), **FLOAT32)


@pytest.mark.parametrize(("channels", "size", "alpha", "beta", "k"), CAFFE)
def test_opencv(channels, size, alpha, beta, k):
    pytest.importorskip("cv2", reason="OpenCV is the reference of this test")
    x = inputs(channels)[:1]
    prototxt = f"""layer {{ name: "norm" type: "LRN" bottom: "data" top: "norm"
        lrn_param {{ local_size: {size} alpha: {alpha} beta: {beta} bias: {k} }} }}"""
    # OpenCV passes over Caffe's k (a known gap) and takes TensorFlow's name for it. Its own float32 power
    # is right to a few units in the last place less.
    np.testing.assert_allclose(
        lrn(tf.constant(x), size, alpha, beta, k), caffe.forward(prototxt, {}, x), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(("channels", "size", "alpha", "beta", "k"), CAFFE)
def test_finite_differences(channels, size, alpha, beta, k):
    x, dy = inputs(channels, dtype=np.float64), normal(2, 3, 2, channels, seed=1)
    numerical = numerical_gradient(lambda x: reference.lrn(x, size // 2, k, alpha / size, beta), x, dy)
    ours = gradient(lambda x: lrn(x, size, alpha, beta, k), x, dy)
    # step² · third derivative + 1e-15 / step: 1e-10 and the curvature that α = 2 brings.
    np.testing.assert_allclose(ours, numerical, rtol=1e-7, atol=1e-8)


def test_gradient_of_the_gradient():
    """The gradient is written by hand; what is derived from it in turn must be right too."""
    x, dy, ddx = inputs(4, 1.0, np.float64)[:1, :1], normal(1, 1, 2, 4, seed=1), normal(1, 1, 2, 4, seed=2)

    def first(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(lrn(x, 5, 2.0) * dy)
        return tape.gradient(y, x)

    numerical = numerical_gradient(lambda x: first(tf.constant(x)), x, ddx)
    np.testing.assert_allclose(gradient(first, x, ddx), numerical, rtol=1e-7, atol=1e-8)  # as above


@pytest.mark.parametrize("size", [2, 4, 10])
def test_even_window(size):
    with pytest.raises(ValueError, match=f"size of the normalized neighbourhood must be odd, got {size}"):
        lrn(tf.zeros([1, 2, 2, 8]), size)

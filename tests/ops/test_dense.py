"""Dense against the loop, OpenCV's Caffe reader and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import Dense, gaussian
from tests import caffe
from tests.ops.reference import gradients, normal, numerical_gradient


def layer(bias: bool = True, dtype: tf.DType = tf.float64) -> Dense:
    dense = Dense(4, 3, bias=bias, bias_value=0.5, initializer=gaussian(1.0), seed=(1, 2), dtype=dtype)
    if bias:
        dense.biases.assign_add(normal(3, seed=9))
    return dense


@pytest.mark.parametrize("bias", [True, False])
def test_loop(bias):
    dense, x = layer(bias), normal(5, 4)
    expected = np.zeros((5, 3))
    for n in range(5):
        for o in range(3):
            expected[n, o] = sum(x[n, i] * dense.weights.numpy()[i, o] for i in range(4))
            expected[n, o] += dense.biases.numpy()[o] if bias else 0
    assert len(dense.variables) == 1 + bias
    np.testing.assert_allclose(dense(tf.constant(x)), expected, rtol=1e-13, atol=1e-14)  # four float64 products


def test_variables():
    dense = Dense(4, 3, bias_value=0.5, seed=(1, 2))
    assert (dense.weights.shape, dense.weights.dtype) == ((4, 3), tf.float32)
    np.testing.assert_array_equal(dense.biases, np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(Dense(4, 3, seed=(1, 2)).weights, dense.weights)
    assert np.all(Dense(4, 3, seed=(2, 1)).weights.numpy() != dense.weights.numpy())


def test_opencv_reads_the_same_from_a_caffemodel():
    pytest.importorskip("cv2", reason="OpenCV is the reference of this test")
    dense, x = layer(dtype=tf.float32), normal(1, 4, dtype=np.float32)
    prototxt = """layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param { num_output: 3 } }"""
    blobs = [dense.weights.numpy().T, dense.biases.numpy()]
    expected = caffe.forward(prototxt, {"fc": ("InnerProduct", blobs)}, x[:, None, None])
    np.testing.assert_allclose(dense(tf.constant(x)), expected, rtol=1e-5, atol=1e-6)  # four float32 products


def test_finite_differences():
    dense, x = layer(), normal(2, 4)
    w, b, dy, source = dense.weights.numpy(), dense.biases.numpy(), normal(2, 3, seed=1), tf.constant(x)
    ours = gradients(lambda: dense(source), [source, dense.weights, dense.biases], dy)
    forms = [(lambda x: x @ w + b, x), (lambda w: x @ w + b, w), (lambda b: x @ w + b, b)]
    for gradient, (f, at) in zip(ours, forms, strict=True):
        # Linear in each, so only rounding is left: 1e-15 / 1e-5.
        np.testing.assert_allclose(gradient, numerical_gradient(f, at, dy), rtol=1e-8, atol=1e-8)

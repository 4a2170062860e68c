"""Conv2D against the loop, the articles' split form, torch, OpenCV's Caffe reader, finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import Conv2D, gaussian
from tests import caffe
from tests.ops.reference import conv2d, gradients, normal, numerical_gradient, same_padding

# float64 sums of at most 100 products of order 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
# The same sums in float32, in whatever order the other library adds them: 100 · 2⁻²⁴ · a few.
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}


def layer(cin: int, cout: int, size: int, *, dtype: tf.DType = tf.float32, bias: bool = True, **options: Any) -> Conv2D:
    """A convolution with weights and biases of order 1, so that nothing hides behind a tolerance."""
    conv = Conv2D(cin, cout, size, bias=bias, initializer=gaussian(1.0), seed=(3, 4), dtype=dtype, **options)
    if bias:
        conv.biases.assign(normal(cout, seed=9))
    return conv


def pads(padding: Any, shape: tuple[int, ...], size: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    if padding == "SAME":
        return same_padding(shape[1], size, stride), same_padding(shape[2], size, stride)
    vertical, horizontal = (0, 0) if padding == "VALID" else (padding, padding) if isinstance(padding, int) else padding
    return (vertical, vertical), (horizontal, horizontal)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", ["SAME", "VALID", 0, 1, (2, 1), (0, 2)], ids=str)
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (2, 2), (5, 3), (1, 2)])
def test_loop(size, stride, padding, groups):
    x = normal(2, 7, 8, 4)
    conv = layer(4, 8, size, stride=stride, padding=padding, groups=groups, dtype=tf.float64)
    expected = conv2d(
        x, conv.weights.numpy(), conv.biases.numpy(), stride, pads(padding, x.shape, size, stride), groups
    )
    np.testing.assert_allclose(conv(tf.constant(x)), expected, **EXACT)


def test_without_bias():
    conv = layer(3, 4, 3, bias=False, dtype=tf.float64)
    x = normal(1, 5, 5, 3)
    assert [v.shape.as_list() for v in conv.variables] == [[3, 3, 3, 4]]
    np.testing.assert_allclose(conv(tf.constant(x)), conv2d(x, conv.weights.numpy(), pads=((1, 1), (1, 1))), **EXACT)


def test_variables():
    conv = Conv2D(4, 6, 3, groups=2, bias_value=0.1, seed=(1, 2))
    assert (conv.weights.shape, conv.biases.shape) == ((3, 3, 2, 6), (6,))
    assert (conv.weights.dtype, conv.biases.dtype) == (tf.float32, tf.float32)
    np.testing.assert_array_equal(conv.biases, np.full(6, 0.1, np.float32))
    np.testing.assert_array_equal(Conv2D(4, 6, 3).biases, np.zeros(6))
    np.testing.assert_array_equal(Conv2D(4, 6, 3, groups=2, seed=(1, 2)).weights, conv.weights)
    assert np.all(Conv2D(4, 6, 3, groups=2, seed=(1, 3)).weights.numpy() != conv.weights.numpy())


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "VALID"), (2, 1)])
def test_is_split_convolve_concatenate(groups, stride, padding):
    """The 2017 article's form: cut input and kernel along the channels, convolve each, put them together."""
    conv = layer(8, 12, 3, stride=stride, padding=padding, groups=groups)
    x = tf.constant(normal(2, 7, 6, 8, dtype=np.float32))

    def split() -> tf.Tensor:
        (top, bottom), (left, right) = pads(padding, x.shape, 3, stride)
        inputs = tf.split(tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]]), groups, axis=3)
        kernels = tf.split(conv.weights, groups, axis=3)
        parts = [tf.nn.conv2d(a, k, stride, "VALID") for a, k in zip(inputs, kernels, strict=True)]
        return tf.nn.bias_add(tf.concat(parts, axis=3), conv.biases)

    np.testing.assert_allclose(conv(x), split(), **FLOAT32)
    sources, dy = [x, conv.weights, conv.biases], normal(*conv(x).shape, seed=1)
    for ours, theirs in zip(gradients(lambda: conv(x), sources, dy), gradients(split, sources, dy), strict=True):
        np.testing.assert_allclose(ours, theirs, **FLOAT32)


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "bias"),
    [(1, 1, 1, True), (2, 2, (2, 1), True), (4, 1, 0, False), (1, 3, 2, False)],
)
def test_torch(groups, stride, padding, bias):
    torch = pytest.importorskip("torch", reason="torch is the reference of this test")
    conv = layer(4, 8, 3, stride=stride, padding=padding, groups=groups, bias=bias)
    x = normal(2, 9, 8, 4, dtype=np.float32)
    dy = normal(*conv(tf.constant(x)).shape, seed=1, dtype=np.float32)

    tensors = [
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(conv.weights.numpy().transpose(3, 2, 0, 1)),
    ]
    tensors += [torch.tensor(conv.biases.numpy())] if bias else []
    for tensor in tensors:
        tensor.requires_grad_()
    y = torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding, groups=groups)
    y.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    dx, dw, *db = [tensor.grad.numpy() for tensor in tensors]

    np.testing.assert_allclose(conv(tf.constant(x)), y.detach().numpy().transpose(0, 2, 3, 1), **FLOAT32)
    x = tf.constant(x)
    ours = gradients(lambda: conv(x), [x, conv.weights, *([conv.biases] if bias else [])], dy)
    for a, b in zip(ours, [dx.transpose(0, 2, 3, 1), dw.transpose(2, 3, 1, 0), *db], strict=True):
        np.testing.assert_allclose(a, b, **FLOAT32)


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 1, 0), (2, 1, 2), (2, 2, 1), (1, 4, (2, 1))])
def test_opencv_reads_the_same_from_a_caffemodel(groups, stride, padding):
    pytest.importorskip("cv2", reason="OpenCV is the reference of this test")
    conv = layer(4, 6, 5, stride=stride, padding=padding, groups=groups)
    x = normal(1, 11, 9, 4, dtype=np.float32)  # one picture: OpenCV takes one shape per net
    (vertical, _), (horizontal, _) = pads(padding, x.shape, 5, stride)
    prototxt = f"""layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{
        num_output: 6 kernel_size: 5 stride: {stride} pad_h: {vertical} pad_w: {horizontal} group: {groups}
        }} }}"""
    blobs = [conv.weights.numpy().transpose(3, 2, 0, 1), conv.biases.numpy()]
    np.testing.assert_allclose(
        conv(tf.constant(x)), caffe.forward(prototxt, {"conv": ("Convolution", blobs)}, x), **FLOAT32
    )


@pytest.mark.parametrize(
    ("groups", "stride", "padding"),
    [(1, 1, "SAME"), (1, 2, "SAME"), (2, 2, "VALID"), (4, 1, (1, 0)), (2, 3, 2)],
)
def test_finite_differences(groups, stride, padding):
    conv = layer(4, 4, 3, stride=stride, padding=padding, groups=groups, dtype=tf.float64)
    x, w, b = normal(1, 5, 4, 4), conv.weights.numpy(), conv.biases.numpy()
    surround = pads(padding, x.shape, 3, stride)
    forms = [
        (lambda x: conv2d(x, w, b, stride, surround, groups), x),
        (lambda w: conv2d(x, w, b, stride, surround, groups), w),
        (lambda b: conv2d(x, w, b, stride, surround, groups), b),
    ]
    source = tf.constant(x)
    dy = normal(*conv(source).shape, seed=1)
    ours = gradients(lambda: conv(source), [source, conv.weights, conv.biases], dy)
    for gradient, (f, at) in zip(ours, forms, strict=True):
        # The convolution is linear in each, so only rounding is left: 1e-15 / 1e-5.
        np.testing.assert_allclose(gradient, numerical_gradient(f, at, dy), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same"}, "padding must be 'SAME', 'VALID', an int or a pair of ints, not 'same'"),
        ({"padding": -1}, "padding must not be negative, got -1"),
        ({"padding": (1, -2)}, r"padding must not be negative, got \(1, -2\)"),
        ({"groups": 3}, "3 groups do not divide 4 -> 6 channels"),
        ({"groups": 4}, "4 groups do not divide 4 -> 6 channels"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Conv2D(4, 6, 3, **options)

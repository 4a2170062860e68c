"""Pooling against Caffe's loop, torch, OpenCV's Caffe reader, TensorFlow and finite differences."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import avg_pool, max_pool
from tests import caffe
from tests.ops.reference import gradient, normal, numerical_gradient, pool, pooled_side

# Sums of at most 25 numbers of order 1; max_pool only ever picks one of its inputs and is held to equality.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
GEOMETRIES = [
    (n, size, stride, padding)
    for n in range(1, 9)
    for size, stride in [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (5, 2)]
    for padding in range(size)
    if n + 2 * padding >= size
]


def inputs(n: int, seed: int = 0) -> np.ndarray:
    """All negative, so that a padding of zeros would win, and not square."""
    return -1 - np.abs(normal(1, n, n + 3, 2, seed=seed, dtype=np.float32))


@pytest.mark.parametrize("ceil", [False, True])
def test_loop(ceil):
    assert len(GEOMETRIES) > 100
    for geometry in GEOMETRIES:
        n, size, stride, padding = geometry
        x = inputs(n)
        options = {"padding": padding, "ceil": ceil}
        ours = max_pool(tf.constant(x), size, stride, **options)
        np.testing.assert_array_equal(ours, pool(x, "max", size, stride, **options), str(geometry))
        for count_padding in (True, False):
            ours = avg_pool(tf.constant(x), size, stride, count_padding=count_padding, **options)
            expected = pool(x, "avg", size, stride, count_padding=count_padding, **options)
            np.testing.assert_allclose(ours, expected, **FLOAT32, err_msg=f"{geometry} {count_padding}")


@pytest.mark.parametrize("ceil", [False, True])
def test_torch(ceil):
    """torch drops a last window in the padding as Caffe does, but takes no padding above size / 2."""
    torch = pytest.importorskip("torch", reason="torch is the reference of this test")
    for n, size, stride, padding in GEOMETRIES:
        if padding > size / 2:
            continue
        x = inputs(n)
        place = {"kernel_size": size, "stride": stride, "padding": padding, "ceil_mode": ceil}
        nchw = torch.tensor(x.transpose(0, 3, 1, 2))
        theirs = torch.nn.functional.max_pool2d(nchw, **place).numpy().transpose(0, 2, 3, 1)
        ours = max_pool(tf.constant(x), size, stride, padding=padding, ceil=ceil)
        np.testing.assert_array_equal(ours, theirs, str((n, place)))
        for count in (True, False):
            theirs = torch.nn.functional.avg_pool2d(nchw, **place, count_include_pad=count)
            ours = avg_pool(tf.constant(x), size, stride, padding=padding, ceil=ceil, count_padding=count)
            np.testing.assert_allclose(
                ours, theirs.numpy().transpose(0, 2, 3, 1), **FLOAT32, err_msg=f"{n} {place} {count}"
            )


@pytest.mark.parametrize(("kind", "ours"), [("MAX", max_pool), ("AVE", avg_pool)])
@pytest.mark.parametrize(
    ("n", "size", "stride", "padding"),
    [(13, 3, 2, 0), (14, 3, 2, 0), (6, 3, 2, 1), (7, 2, 2, 0), (7, 2, 2, 1), (5, 3, 1, 1), (9, 5, 3, 2)],
)
def test_opencv_rounds_up_like_caffe(kind, ours, n, size, stride, padding):
    pytest.importorskip("cv2", reason="OpenCV is the reference of this test")
    x = inputs(n)
    prototxt = f"""layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param {{
        pool: {kind} kernel_size: {size} stride: {stride} pad: {padding} }} }}"""
    expected = caffe.forward(prototxt, {}, x)
    np.testing.assert_allclose(ours(tf.constant(x), size, stride, padding=padding, ceil=True), expected, **FLOAT32)


@pytest.mark.parametrize("n", range(3, 15))
def test_three_by_two_rounded_up_is_same_or_valid(n):
    """AlexNet's pooling: of an even side Caffe's rule is TensorFlow's SAME, of an odd one VALID."""
    x = tf.constant(normal(1, n, n, 2, dtype=np.float32))
    padding = "SAME" if n % 2 == 0 else "VALID"
    np.testing.assert_array_equal(max_pool(x, 3, 2, ceil=True), tf.nn.max_pool2d(x, 3, 2, padding))
    ours = avg_pool(x, 3, 2, ceil=True)
    np.testing.assert_allclose(ours, tf.nn.avg_pool2d(x, 3, 2, padding), **FLOAT32)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("n", "size", "stride"), [(6, 3, 2), (7, 2, 2), (7, 5, 3)])
def test_tensorflows_paddings(n, size, stride, padding):
    x = tf.constant(inputs(n))
    np.testing.assert_array_equal(
        max_pool(x, size, stride, padding=padding), tf.nn.max_pool2d(x, size, stride, padding)
    )
    expected = tf.nn.avg_pool2d(x, size, stride, padding)
    for count in (True, False):  # "SAME" always leaves padding out
        ours = avg_pool(x, size, stride, padding=padding, count_padding=count)
        np.testing.assert_allclose(ours, expected, **FLOAT32)


@pytest.mark.parametrize("kind", ["max", "avg", "avg of real pixels"])
@pytest.mark.parametrize(
    ("n", "size", "stride", "padding", "ceil"),
    [(5, 2, 2, 0, True), (6, 3, 2, 0, True), (5, 3, 1, 1, False), (4, 3, 2, 1, True), (5, 2, 3, 1, True)],
)
def test_finite_differences(kind, n, size, stride, padding, ceil):
    x = np.random.default_rng(0).permutation(n * n * 2).reshape(1, n, n, 2) / 10.0  # no ties, none within a step
    options = {"padding": padding, "ceil": ceil}
    op = max_pool if kind == "max" else functools.partial(avg_pool, count_padding=kind == "avg")
    loop = functools.partial(pool, kind=kind[:3], size=size, stride=stride, count_padding=kind == "avg", **options)
    dy = normal(*loop(x).shape, seed=1)
    ours = gradient(lambda x: op(x, size, stride, **options), x, dy)
    # Piecewise linear, so only rounding is left: 1e-14 / 1e-5.
    np.testing.assert_allclose(ours, numerical_gradient(loop, x, dy), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("op", [max_pool, avg_pool])
def test_errors(op):
    x = tf.zeros([1, 6, 6, 1])
    for padding in (-1, 3):
        with pytest.raises(ValueError, match=f"padding {padding} must be at least 0 and less than the window 3"):
            op(x, 3, 2, padding=padding)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 1])])
    def of_unknown_side(x):
        return op(x, 3, 2, ceil=True)

    with pytest.raises(ValueError, match="needs to know the height and width"):
        of_unknown_side(x)


@pytest.mark.parametrize("op", [max_pool, avg_pool])
@pytest.mark.parametrize("padding", [0, 1])
def test_rounding_down_takes_any_side(op, padding):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2])])
    def of_unknown_side(x):
        return op(x, 3, 2, padding=padding)

    x = inputs(8)
    expected = pool(x, op.__name__[:3], 3, 2, padding)
    assert expected.shape[1] == pooled_side(8, 3, 2, padding, ceil=False)
    np.testing.assert_allclose(of_unknown_side(x), expected, **FLOAT32)

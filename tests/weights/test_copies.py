"""Copies and checksums in pieces are those of the whole."""

import os
import zlib

import numpy as np
import pytest
import tensorflow as tf

from barenets import weights
from barenets.weights import copies


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (13 << 20) - 5])
def test_crc32(size):
    data = memoryview(os.urandom(size))
    assert copies.crc32(data) == zlib.crc32(data)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((512, 300, 3, 3), (2, 3, 1, 0)),
        ((4096, 1500), (1, 0)),
        ((3, 700, 1000), (0, 2, 1)),
        ((3 << 20,), (0,)),
        ((0, 4), (1, 0)),
        ((), ()),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies(shape, axes, dtype):
    array = np.asarray(np.random.default_rng(0).standard_normal(shape, np.float32)).transpose(axes)
    copy = copies.Copy(array, dtype).get()
    assert copies.is_aligned(copy) or not copy.size
    np.testing.assert_array_equal(copy, array)
    np.testing.assert_array_equal(copies.tensor(copy), array)


def test_a_loaded_variable_shares_no_memory():
    """Neither with the arrays it was loaded from, nor with another variable."""
    array = copies.contiguous(np.ones((1024, 1024), np.float32))
    net = tf.Module()
    net.a, net.b = tf.Variable(tf.zeros(array.shape)), tf.Variable(tf.zeros(array.shape))
    weights.load(net, {"a": array, "b": array})
    net.a.assign_add(tf.ones(array.shape))
    array[...] = 5
    assert net.a.numpy().max() == 2
    assert net.b.numpy().max() == 1

"""Copies are right whatever the order of the source, and go to no memory but the variable's own."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from barenets import weights
from barenets.weights import copies

SIDE = 512  # squared, more numbers than are written in place


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((512, 300, 3, 3), (2, 3, 1, 0)),
        ((100, 40, 7, 7), (2, 3, 1, 0)),
        ((4096, 1500), (1, 0)),
        ((3, 700, 1000), (0, 2, 1)),
        ((3 << 20,), (0,)),
        ((0, 4), (1, 0)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_copies(shape, axes, dtype):
    array = np.asarray(np.random.default_rng(0).standard_normal(shape, np.float32)).astype(dtype).transpose(axes)
    np.testing.assert_array_equal(copies.contiguous(array), array)
    other = np.zeros(array.shape, np.float64)
    copies.Copy(other, array[::-1]).wait()
    np.testing.assert_array_equal(other, array[::-1])


def module(**variables: tf.Variable) -> tf.Module:
    net = tf.Module()
    for name, variable in variables.items():
        setattr(net, name, variable)
    return net


def place(variable: tf.Variable) -> int:
    """Where its numbers lie."""
    return np.asarray(variable.read_value()).ctypes.data


def test_a_variable_is_written_where_it_lies():
    net = module(a=tf.Variable(tf.zeros([SIDE, SIDE])))
    before = place(net.a)
    array = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    weights.load(net, {"a": array})
    np.testing.assert_array_equal(net.a, array)
    assert place(net.a) == before
    net.a.assign_add(tf.ones_like(net.a))  # and reads are no copies from now on
    assert place(net.a) == before
    np.testing.assert_array_equal(net.a, array + 1)


def test_values_read_before_stay():
    net = module(a=tf.Variable(tf.zeros([SIDE, SIDE])))
    read, identity, array = net.a.read_value(), tf.identity(net.a), np.asarray(net.a.read_value())
    weights.load(net, {"a": np.ones((SIDE, SIDE), np.float32)})
    for value in (read, identity, array):
        assert np.max(value) == 0
    assert np.min(net.a) == 1


def test_a_loaded_variable_shares_no_memory():
    """Neither with the arrays it was loaded from, nor with another variable, though that was made of it."""
    array = np.ones((SIDE, SIDE), np.float32)
    a = tf.Variable(tf.zeros(array.shape))
    net, average = module(a=a, b=tf.Variable(a)), tf.Variable(a)
    weights.load(net, {"a": array, "b": array.T})
    net.a.assign_add(tf.ones(array.shape))
    array[...] = 5
    assert np.max(net.a) == 2
    assert np.max(net.b) == 1
    assert np.max(average) == 0


def test_variables_loaded_from_each_other():
    a, b = (tf.Variable(tf.fill([SIDE, SIDE], float(n))) for n in (1, 2))
    weights.load(module(a=a, b=b), {"a": np.asarray(b.read_value()), "b": np.asarray(a.read_value())})
    assert (np.max(a), np.min(a), np.max(b), np.min(b)) == (2, 2, 1, 1)


@pytest.mark.parametrize("array", [np.float64(3), np.arange(6.0).reshape(2, 3), np.ones((SIDE, SIDE), ">f2")])
def test_other_types_are_converted(array):
    net = module(a=tf.Variable(tf.zeros(np.shape(array))))
    weights.load(net, {"a": np.asarray(array)})
    np.testing.assert_array_equal(net.a, array)


def test_a_function_sees_what_was_loaded():
    net = module(a=tf.Variable(tf.zeros([SIDE, SIDE])))
    total = tf.function(lambda: tf.reduce_sum(net.a))
    assert total() == 0
    weights.load(net, {"a": np.ones((SIDE, SIDE), np.float32)})
    assert total() == SIDE * SIDE


def test_memory_outlives_its_variable():
    """As it must where a load is interrupted while threads still write."""
    variable = tf.Variable(tf.ones([SIDE, SIDE]))
    room, freed = copies.memory(variable), weakref.ref(variable)
    del variable
    gc.collect()
    others = [tf.zeros([SIDE, SIDE]) for _ in range(8)]  # which would take up memory that is free
    assert freed() is None
    assert room.min() == room.max() == 1
    room[...] = 2
    assert max(np.max(other) for other in others) == 0

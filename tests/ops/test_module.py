"""Names of variables, the patterns that choose among them, and the table of layers, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.ops import (
    Conv2D,
    Dense,
    dropout,
    fold_in,
    layer_table,
    layers,
    max_pool,
    named_variables,
    select,
)

NAMES = [
    *(
        f"{layer}/{kind}"
        for layer in ("conv1", "conv2", "conv5_1", "conv5_2", "conv10", "fc8")
        for kind in ("weights", "biases")
    ),
    "block/conv1/weights",
    "block/conv1/biases",
]


class Many(tf.Module):
    """Layers in an order that no sorting gives."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(1.0)
        self.conv9 = Conv2D(1, 2, 1)
        self.conv10 = Conv2D(2, 2, 1, bias=False)
        self.blocks = [Dense(2, 2), Dense(2, 3, bias=False)]
        self.heads = {"b": Dense(3, 1, bias=False), "a": Dense(3, 2, bias=False)}
        self.anchor = tf.Variable(2.0)


def test_names_in_order_of_construction():
    net = Many()
    names = named_variables(net)
    assert list(names) == [
        "scale",
        "conv9/weights",
        "conv9/biases",
        "conv10/weights",
        "blocks/0/weights",
        "blocks/0/biases",
        "blocks/1/weights",
        "heads/b/weights",
        "heads/a/weights",
        "anchor",
    ]
    assert names["blocks/1/weights"] is net.blocks[1].weights
    assert names["heads/a/weights"] is net.heads["a"].weights
    assert {id(v) for v in names.values()} == {id(v) for v in net.variables}


def test_many_layers_do_not_sort_as_text():
    net = tf.Module()
    net.layers = [Dense(1, 1, bias=False) for _ in range(12)]
    assert list(named_variables(net)) == [f"layers/{i}/weights" for i in range(12)]


def test_shared_variable_is_named_once():
    net = tf.Module()
    net.encoder = Dense(2, 2)
    net.decoder = Dense(2, 2)
    net.decoder.weights = net.encoder.weights
    net.again = net.encoder
    net.loose = net.decoder.biases
    assert list(named_variables(net)) == ["encoder/weights", "encoder/biases", "decoder/biases"]


def test_no_variables():
    assert named_variables(tf.Module()) == {}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["fc8"], ["fc8/weights", "fc8/biases"]),
        (["fc8/biases"], ["fc8/biases"]),
        (["conv1"], ["conv1/weights", "conv1/biases"]),
        (["conv5_*"], ["conv5_1/weights", "conv5_1/biases", "conv5_2/weights", "conv5_2/biases"]),
        (["conv5_[2-9]/weights"], ["conv5_2/weights"]),
        (["conv1?"], ["conv10/weights", "conv10/biases"]),
        (
            ["*/biases"],
            [f"{layer}/biases" for layer in ("conv1", "conv2", "conv5_1", "conv5_2", "conv10", "fc8")],
        ),
        (["block"], ["block/conv1/weights", "block/conv1/biases"]),
        (["block/*/biases"], ["block/conv1/biases"]),
        (["block/conv1"], ["block/conv1/weights", "block/conv1/biases"]),
        (["*"], NAMES),
        # The order is that of the names and each comes once, however many patterns select it.
        (
            ["fc8", "conv2/biases", "conv2", "fc*"],
            ["conv2/weights", "conv2/biases", "fc8/weights", "fc8/biases"],
        ),
        ([], []),
    ],
)
def test_select(patterns, expected):
    assert select(NAMES, patterns) == expected
    assert select(iter(NAMES), iter(patterns)) == expected  # any iterables, read once


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("fc9", "fc8"),
        ("conv11", "conv1"),
        ("conv5_1/weight", "conv5_1/weights"),
        ("FC8", None),
        ("", None),
        ("conv", "conv1"),
    ],
)
def test_select_nothing(pattern, nearest):
    with pytest.raises(UserError) as caught:
        select(NAMES, ["conv1", pattern])
    assert repr(pattern)[1:-1] in str(caught.value)
    if nearest:
        assert nearest in str(caught.value).replace(pattern, "", 1)


class Small(tf.Module):
    """Every kind of row, each small enough to count by hand."""

    input_shape = (9, 7, 3)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv2D(3, 8, 3, stride=2, padding="VALID")
        self.conv2 = Conv2D(8, 6, 3, groups=2, bias=False)
        self.fc3 = Dense(6, 5)
        self.calls = 0

    def __call__(self, x: Any, *, train: bool = False, rng: Any = None, tap: Any = None) -> tf.Tensor:
        self.calls += 1
        tap = tap or (lambda name, x: x)
        x = tap("conv1", tf.nn.relu(self.conv1(x)))
        x = tap("pool1", max_pool(x, 2, 2, ceil=True))
        x = tap("conv2", self.conv2(x))
        x = tf.reduce_mean(x, [1, 2])
        if train:
            x = dropout(x, 0.5, fold_in(rng, "fc3"))
        return tap("fc3", self.fc3(x))


def test_layer_table():
    rows = [(row.name, row.output_shape, row.parameters, row.multiply_adds) for row in layer_table(Small())]
    assert rows == [
        ("conv1", (4, 3, 8), 3 * 3 * 3 * 8 + 8, 4 * 3 * 8 * 3 * 3 * 3),
        ("pool1", (2, 2, 8), 0, 0),
        ("conv2", (2, 2, 6), 3 * 3 * 4 * 6, 2 * 2 * 6 * 3 * 3 * 4),  # half the channels in each group
        ("fc3", (5,), 6 * 5 + 5, 6 * 5),
    ]


def test_layer_table_of_another_shape():
    rows = {row.name: row for row in layer_table(Small(), (21, 11, 3))}
    assert [row.output_shape for row in rows.values()] == [(10, 5, 8), (5, 3, 8), (5, 3, 6), (5,)]
    assert rows["conv1"].multiply_adds == 10 * 5 * 8 * 27
    assert rows["conv2"].multiply_adds == 5 * 3 * 6 * 36
    assert sum(row.parameters for row in rows.values()) == sum(v.shape.num_elements() for v in Small().variables)


def test_layer_table_leaves_the_network_alone():
    net = Small()
    before = [v.numpy() for v in net.variables]
    layer_table(net)
    assert net.calls == 1  # one trace
    for variable, value in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_layer_table_prints():
    header, *rows = str(layer_table(Small())).splitlines()
    for title in ("layer", "kind", "output", "sees", "stride", "parameters", "multiply-adds", "memory"):
        assert title in header
    assert [[*row.split()[:1], *row.split()[-3:-1]] for row in rows[:-1]] == [
        ["conv1", "224", "2,592"],
        ["pool1", "-", "-"],
        ["conv2", "216", "864"],
        ["fc3", "35", "30"],
    ]
    assert rows[-1].split() == ["total", "475", "3,486", "0.001"]
    assert {len(row) for row in rows} == {len(header)}  # the columns line up


def test_layers_apply_name_and_tap():
    seen = []

    def tap(name: str, x: tf.Tensor) -> tf.Tensor:
        seen.append((name, x.numpy().tolist()))
        return x + 1  # what a tap returns flows on

    layer = layers(tap)
    assert layer("b", tf.square, layer("a", tf.negative, tf.constant([1.0, 2.0]))).numpy().tolist() == [1, 2]
    assert seen == [("a", [-1, -2]), ("b", [0, 1])]
    assert layers(None)("a", tf.negative, tf.constant([1.0, 2.0])).numpy().tolist() == [-1, -2]

    graph = tf.function(lambda x: layers(None)("conv1", tf.nn.relu, x), autograph=False)
    operations = graph.get_concrete_function(tf.TensorSpec([1])).graph.get_operations()
    assert any(operation.name.startswith("conv1/") for operation in operations)

"""What trains, and how fast: patterns over a network's variables."""

from __future__ import annotations

import math

import pytest
import tensorflow as tf

from barenets import UserError
from barenets.train.select import multipliers, rate_decay, trained_variables


class Layer(tf.Module):
    def __init__(self, **parts: bool) -> None:
        super().__init__()
        for part, trainable in parts.items():
            setattr(self, part, tf.Variable(0.0, trainable=trainable))


class Net(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Layer(weights=True, biases=True)
        self.conv10 = Layer(weights=True, biases=True)
        self.bn2 = Layer(gamma=True, beta=True, moving_mean=False, moving_variance=False)
        self.fc8 = Layer(weights=True, biases=True)


NAMES = [f"{layer}/{part}" for layer in ("conv1", "conv10") for part in ("weights", "biases")]
NAMES += ["bn2/gamma", "bn2/beta", "fc8/weights", "fc8/biases"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], NAMES),
        (["*"], NAMES),
        (["conv1"], NAMES[:2]),
        (["conv1*"], NAMES[:4]),
        (["*/biases"], [name for name in NAMES if name.endswith("biases")]),
        (["fc8", "conv1/weights"], ["conv1/weights", "fc8/weights", "fc8/biases"]),
        (["fc8", "*/weights"], ["conv1/weights", "conv10/weights", "fc8/weights", "fc8/biases"]),
        (["bn2"], ["bn2/gamma", "bn2/beta"]),
        (("fc?",), NAMES[-2:]),
        (iter(["fc8"]), NAMES[-2:]),
    ],
)
def test_trained_variables(patterns, names):
    """In the network's order whatever that of the patterns; moving averages never."""
    net = Net()
    chosen = trained_variables(net, patterns)
    assert list(chosen) == names
    for name, variable in chosen.items():
        layer, part = name.split("/")
        assert variable is getattr(getattr(net, layer), part)


@pytest.mark.parametrize(
    ("pattern", "hint"), [("fc9", "did you mean fc8"), ("bn2/moving_mean", ""), ("zzz", "there are: conv1, conv10")]
)
def test_patterns_that_select_nothing(pattern, hint):
    with pytest.raises(UserError, match=rf"^the pattern '{pattern}' selects nothing; .*{hint}"):
        trained_variables(Net(), ["conv1", pattern])
    with pytest.raises(UserError, match=rf"^the pattern '{pattern}' selects nothing; .*{hint}"):
        multipliers(NAMES, {"conv1": 2.0, pattern: 2.0})


@pytest.mark.parametrize(
    ("patterns", "factors"),
    [
        ({}, {}),
        ({"fc8": 10}, {"fc8/weights": 10, "fc8/biases": 10}),
        ({"conv1*": 0, "conv1": 5}, dict.fromkeys(NAMES[:4], 0)),
        (
            {"fc8/biases": 20, "fc8": 10, "*/biases": 2},
            {"fc8/biases": 20, "fc8/weights": 10, "conv1/biases": 2, "conv10/biases": 2},
        ),
        (
            {"*/biases": 2, "fc8": 10, "fc8/biases": 20},
            {"fc8/biases": 2, "fc8/weights": 10, "conv1/biases": 2, "conv10/biases": 2},
        ),
    ],
)
def test_the_first_match_wins(patterns, factors):
    found = multipliers(iter(NAMES), patterns)
    assert list(found) == NAMES
    assert found == {name: factors.get(name, 1.0) for name in NAMES}


@pytest.mark.parametrize("factor", [-1.0, -math.inf])
def test_a_negative_factor(factor):
    with pytest.raises(UserError, match=rf"^the learning-rate multiplier of 'fc8' is negative: {factor}$"):
        multipliers(NAMES, {"fc8": factor})


def test_rate_decay():
    """conv1, conv10 with the batch norm after it, fc8."""
    assert rate_decay(NAMES, 0.5) == dict(zip(NAMES, [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0], strict=True))
    assert set(rate_decay(NAMES, 1.0).values()) == {1.0}
    separable = ["a/weights", "b/depthwise_weights", "b/pointwise_weights", "b_bn/gamma"]
    assert list(rate_decay(separable, 0.1).values()) == [pytest.approx(0.1), 1, 1, 1]
    assert list(rate_decay(["bn/gamma", "fc/weights"], 0.1).values()) == [1, 1]  # nothing below it to belong to


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.1, math.nan])
def test_rate_decay_refuses(factor):
    with pytest.raises(UserError, match="the rate decay must be above 0 and at most 1"):
        rate_decay(NAMES, factor)

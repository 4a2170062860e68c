"""Each finding on a network in which its fault was planted; and none on healthy ones."""

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.look.findings import EXPLODING, VANISHING, findings
from barenets.look.report import Report
from barenets.ops import Dense, gaussian, layers
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD, Adam
from barenets.train.select import freeze_norms, trained_variables
from tests.look.parts import Parts, batch
from tests.look.test_inside import reported, trainer


def kinds(report):
    return [finding.kind for finding in findings(report)]


def only(report, kind):
    found = findings(report)
    assert [finding.kind for finding in found] == [kind], found
    return found[0]


class Deep(tf.Module):
    """fc1 → relu1 → ... → fc12 → relu12 → fc13, its kernels drawn with a standard deviation of `scale` / √inputs."""

    def __init__(self, scale, depth=12, width=64):
        super().__init__()
        self.input_shape = (4, 4, 4)
        for i in range(depth):
            setattr(self, f"fc{i + 1}", Dense(width, width, initializer=gaussian(scale / width**0.5), seed=(0, i)))
        self.last = Dense(width, 3, initializer=gaussian(0.1), seed=(0, 99))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer, x = layers(tap), tf.reshape(x, [-1, 64])
        for i in range(12):
            x = layer(f"relu{i + 1}", tf.nn.relu, layer(f"fc{i + 1}", getattr(self, f"fc{i + 1}"), x))
        return layer("last", self.last, x)


def of_deep(scale, rate=1e-3):
    ours = trainer(Deep(scale), exact=True)
    report = Report("", ours.trained)
    rng = np.random.default_rng(0)
    for step in range(2):
        images = tf.constant(rng.normal(0, 1, (16, 4, 4, 4)), tf.float32)
        result = ours.step(images, tf.constant(rng.integers(0, 3, 16), tf.int32), step, rate, inside=True)
        report.note(step, result.seen, result.inside, {})
    return report


def test_a_healthy_run_stays_silent():
    assert kinds(reported(Parts(), steps=8, exact=True)) == []
    assert kinds(of_deep(2**0.5)) == []


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_network_that_learns_stays_silent(optimizer):
    """From the first step until it has learnt its pictures by heart."""
    net, (images, labels) = Parts(), batch(24)
    trained = trained_variables(net, [])
    ours = Trainer(net, trained, optimizer(trained))
    report = Report("", trained)
    for step in range(150):
        result = ours.step(images, labels, step, 0.01, watch=True, inside=step % 10 == 0)
        report.note(step, result.seen, result.inside, {"loss": float(result.loss)})
        if step % 50 == 0:
            assert kinds(report) == []
    assert report.scalars[149]["loss"] < 0.2 * report.scalars[0]["loss"]
    assert kinds(report) == []


def test_vanishing():
    """Kernels five times too small: each of twelve layers makes the gradient about that much smaller."""
    finding = next(f for f in findings(of_deep(2**0.5 / 5)) if f.kind == "vanishing gradient")
    assert finding.value < VANISHING == finding.threshold
    assert finding.layers[0] == "fc1"
    assert "fc12" not in finding.layers
    last = finding.layers[-1]
    assert f"from {last} down" in finding.text
    assert "of that at last" in finding.text


def test_exploding():
    finding = next(f for f in findings(of_deep(2**0.5 * 5, rate=1e-9)) if f.kind == "exploding gradient")
    assert finding.value > EXPLODING == finding.threshold
    assert finding.layers[0] == "fc1"
    assert "fc12" not in finding.layers


def test_dead_channels():
    net = Parts()
    net.conv2.biases.assign([0, -100, 0, -100, -100, 0])
    finding = next(f for f in findings(reported(net, steps=2, exact=True)) if f.kind == "dead channels")
    assert finding.layers == ("relu2",)
    assert finding.value == pytest.approx(0.5)
    assert finding.text.endswith(": 1, 3, 4")


def test_too_few_values_to_call_a_channel_dead():
    net = Parts()
    net.fc4.biases.assign([-100] * 4 + [0] * 4)
    assert "dead channels" not in kinds(reported(net, steps=2, exact=True))


def test_trained_and_no_gradient():
    net = Parts()
    net.fc4.biases.assign([-1e3] * 8)  # nothing gets through relu4
    finding = next(f for f in findings(reported(net, steps=2)) if f.kind == "no gradient")
    assert {"conv1/weights", "fc4/weights", "fc5/weights"} <= set(finding.layers)
    assert "fc5/biases" not in finding.layers


def test_frozen_but_changed():
    net = Parts()
    ours = trainer(net, "fc5")
    report = Report("", ours.trained)
    for step in range(2):
        result = ours.step(*batch(), step, 0.01, inside=True)
        report.note(step, result.seen, result.inside, {})
        assert kinds(report) == [] if step == 0 else True
        net.conv2.weights.assign(1.01 * net.conv2.weights)  # as a loop does whose optimizer has too many variables
    finding = only(report, "frozen, but changed")
    assert finding.layers == ("conv2/weights",)
    assert finding.value == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("rate", "kind"), [(10.0, "learning rate too high"), (1e-10, "learning rate too low")])
def test_learning_rate(rate, kind):
    finding = next(f for f in findings(reported(Parts(), rate=rate)) if f.kind == kind)
    assert "conv1/weights" in finding.layers
    assert not [name for name in finding.layers if name.endswith("biases")]


def test_stale_batch_norm():
    net = Parts()
    net.bn1.moving_mean.assign([30.0] * 4)  # as if its pictures had another range
    report = reported(net, "fc5", steps=2)
    finding = next(f for f in findings(report) if f.kind == "stale batch norm")
    assert finding.layers == ("bn1",)
    assert finding.value > finding.threshold


def test_what_is_not_finite():
    net = Parts()
    net.conv2.weights.assign(net.conv2.weights * float("nan"))
    found = {f.kind: f for f in findings(reported(net))}
    assert found["not finite"].layers[0] == "conv2"
    assert "conv1" not in found["not finite"].layers


def test_nothing_was_watched():
    assert findings(Report("", {})) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "resnet50"])
def test_networks_as_they_start_stay_silent(name):
    net = nets.build(name, num_classes=10, **({"size": 64} if name in ("resnet50",) else {}), seed=1)
    trained = trained_variables(net, [])
    freeze_norms(net, trained)
    ours, report = Trainer(net, trained, SGD(trained), eager=True), Report("", trained)
    rng = np.random.default_rng(0)
    for step in range(2):
        images = tf.constant(rng.normal(0, 1, (8, *net.input_shape)), tf.float32)
        result = ours.step(images, tf.constant(rng.integers(0, 10, 8), tf.int32), step, 0.001, inside=True)
        report.note(step, result.seen, result.inside, {})
    assert kinds(report) == []

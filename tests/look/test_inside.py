"""What a step that is watched inside says of each layer, against NumPy and tapes of our own on single pictures."""

import math

import numpy as np
import pytest
import tensorflow as tf

from barenets.look import activations
from barenets.look.report import ACTIVATIONS, KEPT, VARIABLES, WINDOW, Report
from barenets.ops import named_variables
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import freeze_norms, trained_variables
from tests.look.parts import Parts, batch, lively


def trainer(net, *layers, **options):
    trained = trained_variables(net, layers)
    freeze_norms(net, trained)
    return Trainer(net, trained, SGD(trained), **options)


def reported(net, *layers, steps=1, rate=0.01, seed=0, **options):
    ours = trainer(net, *layers, **options)
    report = Report("a test", ours.trained)
    for step in range(steps):
        result = ours.step(*batch(seed=seed + step), step, rate, inside=True)
        report.note(step, result.seen, result.inside, {"loss": float(result.loss)})
    return report


def tape(net, images, labels, train=True):
    """Loss, gradients by name, activations and their gradients: one pass of our own."""
    seen = {}
    variables = {name: v for name, v in named_variables(net).items() if v.trainable}
    with tf.GradientTape() as recorder:
        recorder.watch(images)
        logits = net(images, train=train, tap=lambda name, x: seen.setdefault(name, x))
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients, back, own = recorder.gradient(loss, (variables, seen, images))
    return float(loss), gradients, seen, back, own


@pytest.mark.parametrize("eager", [False, True])
def test_activations_and_what_comes_back(eager):
    """float32 sums in another order: 1e-5 of the largest."""
    net, (images, labels) = lively(Parts()), batch()
    before = [tf.identity(v) for v in (net.bn1.moving_mean, net.bn1.moving_variance)]
    _, _, seen, back, own = tape(net, images, labels)
    moving = net.bn1.moving_mean.numpy().astype(float), net.bn1.moving_variance.numpy() + net.bn1.epsilon
    for variable, value in zip((net.bn1.moving_mean, net.bn1.moving_variance), before, strict=True):
        variable.assign(value)
    report = reported(net, exact=True, eager=eager)
    table = report.activations
    assert table.names == ("input", *seen)
    seen, back = {"input": images, **seen}, {"input": own, **back}
    row = table.row(0)
    for name, x in seen.items():
        x, g = x.numpy().astype(np.float64), back[name].numpy().astype(np.float64) * len(images)
        expected = {
            "mean": x.mean(),
            "spread": x.std(),
            "zeros": np.mean(x == 0),
            "nonfinite": 0,
            "gradient_mean": g.mean(),
            "gradient_spread": g.std(),
            "gradient_norm": np.sqrt(np.mean(np.sum(g.reshape(len(g), -1) ** 2, 1))),
            "gradient_zeros": np.mean(g == 0),
        }
        if name.startswith("relu"):
            channels = x.reshape(-1, x.shape[-1])
            expected |= {"saturated": expected["zeros"], "dead": np.mean((channels <= 0).all(0))}
        if name == "bn1":
            entered = seen["conv1"].numpy().astype(np.float64)
            mean, variance = entered.mean((0, 1, 2)), entered.var((0, 1, 2)) + net.bn1.epsilon
            ratio, shift = variance / moving[1], (mean - moving[0]) ** 2 / moving[1]
            expected["norm_gap"] = np.mean(0.5 * (ratio + shift - 1 - np.log(ratio)))
        assert set(row[name]) == set(expected)
        for quantity, value in expected.items():
            scale = max(abs(value), np.abs(g if "gradient" in quantity else x).max() if "mean" in quantity else 0)
            assert row[name][quantity] == pytest.approx(value, abs=2e-5 * scale + 1e-12), (name, quantity)


@pytest.mark.parametrize("frozen_norm", [True, False])
def test_single_pictures(frozen_norm):
    """Each picture's own gradient, by a tape on that picture alone where batch norm does not tie it to the others."""
    net, (images, labels) = lively(Parts()), batch()
    layers = ["conv1", "conv2", "sep3", "fc4", "fc5"] if frozen_norm else ["sep3", "fc4", "fc5"]
    ours = trainer(net, *layers, exact=True)
    assert net.bn1.frozen
    expected: dict[str, list[float]] = {name: [] for name in ours.trained}
    for i in range(len(images)):
        _, gradients, *_ = tape(net, images[i : i + 1], labels[i : i + 1])
        for name, squares in expected.items():
            squares.append(float(np.sum(np.square(gradients[name].numpy(), dtype=np.float64))))
    inside = ours.step(images, labels, 0, 0.0, inside=True).inside
    assert list(inside["picture_squares"])
    assert set(inside["picture_squares"]) == set(expected)
    for name, squares in expected.items():
        np.testing.assert_allclose(inside["picture_squares"][name], squares, rtol=2e-5, err_msg=name)


def test_the_parts_of_pictures_add_up_where_norms_use_the_batch():
    """A batch of one picture twice: each has half of the gradient, whose norm is then a picture's own."""
    net, (images, labels) = lively(Parts()), batch(1)
    ours = trainer(net, exact=True)
    inside = ours.step(tf.repeat(images, 2, 0), tf.repeat(labels, 2), 0, 0.0, inside=True).inside
    assert not net.bn1.frozen
    for name, squares in inside["picture_squares"].items():
        # conv1's biases have no gradient below a batch norm but what rounding leaves.
        room = 1e-9 if name == "conv1/biases" else 0
        np.testing.assert_allclose(squares, [float(inside["squares"][name])] * 2, rtol=1e-4, atol=room, err_msg=name)


def test_large_patches_are_made_one_picture_at_a_time(monkeypatch):
    net, (images, labels) = lively(Parts()), batch()
    whole = trainer(net, exact=True).step(images, labels, 0, 0.0, inside=True).inside["picture_squares"]
    monkeypatch.setattr("barenets.ops.conv._PATCHES", 0)
    alone = trainer(net, exact=True).step(images, labels, 0, 0.0, inside=True).inside["picture_squares"]
    for name in whole:
        np.testing.assert_allclose(alone[name], whole[name], rtol=1e-5, atol=1e-9)


def test_a_sample_of_the_pictures():
    net, (images, labels) = lively(Parts()), batch(20)
    inside = trainer(net).step(images, labels, 0, 0.0, inside=True).inside
    every = trainer(net, exact=True).step(images, labels, 0, 0.0, inside=True).inside
    assert inside["pictures"] == activations.PICTURES
    assert "input" in every["activations"]
    assert "input" not in inside["activations"]
    assert set(every["picture_squares"]) - set(inside["picture_squares"]) == {"bn1/gamma", "bn1/beta"}
    for name, squares in inside["picture_squares"].items():
        np.testing.assert_allclose(
            squares, every["picture_squares"][name][: activations.PICTURES], rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_looking_inside_changes_nothing(accumulate):
    nets = [lively(Parts()) for _ in range(2)]
    trainers = [trainer(net, accumulate=accumulate) for net in nets]
    for step in range(3):
        for ours, inside in zip(trainers, (True, False), strict=True):
            ours.step(*batch(seed=step), step, 0.05, inside=inside)
    for a, b in zip(*(named_variables(net).values() for net in nets), strict=True):
        np.testing.assert_array_equal(a, b)


def test_line_by_line_is_the_same_step():
    """Graphs add in another order and fuse what they can: 1e-6 of weights of about 1."""
    nets = [lively(Parts()) for _ in range(2)]
    for net, eager in zip(nets, (True, False), strict=True):
        ours = trainer(net, eager=eager, clip_norm=1.0, accumulate=2)
        for step in range(3):
            ours.step(*batch(seed=step), step, 0.05, watch=step == 1)
    for a, b in zip(*(named_variables(net).values() for net in nets), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_debugger_sees_every_layer_of_an_eager_step():
    net = lively(Parts())
    ours, seen = trainer(net, eager=True), []
    original = net.fc4.__class__.__call__

    class Stopped(net.fc4.__class__):
        def __call__(self, x):
            seen.append(float(tf.reduce_sum(x)))  # a number, at each step, and no placeholder
            return original(self, x)

    net.fc4.__class__ = Stopped
    for step in range(2):
        ours.step(*batch(), step, 0.01)
    assert len(seen) == 2
    assert all(map(math.isfinite, seen))


def test_angle_and_noise():
    """Against NumPy in float64; noise from the squares, the definition being the spread of single gradients."""
    net = lively(Parts())
    ours = trainer(net, "fc4", "fc5", exact=True)
    report, gradients = Report("", ours.trained), []
    for step in range(2):
        images, labels = batch(seed=step)
        single = [tape(net, images[i : i + 1], labels[i : i + 1])[1] for i in range(len(images))]
        gradients.append({n: np.array([s[n].numpy().ravel() for s in single], np.float64) for n in ours.trained})
        result = ours.step(images, labels, step, 0.0, inside=True)
        report.note(step, result.seen, result.inside, {})
    for name in ours.trained:
        first, second = (g[name].mean(0) for g in gradients)
        angle = math.degrees(math.acos(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))
        spread = np.sqrt(np.mean(np.sum((gradients[1][name] - second) ** 2, 1))) / np.linalg.norm(second)
        row = report.variables.row(1)[name]
        assert row["angle"] == pytest.approx(angle, abs=0.01)
        assert row["noise"] == pytest.approx(spread, rel=1e-4)
    assert "angle" not in report.variables.row(0)["fc4/weights"]


def test_frozen_layers_have_activations_and_no_gradient():
    report = reported(lively(Parts()), "fc5")
    row = report.activations.row(0)
    assert "gradient_norm" not in row["conv1"]
    assert row["conv1"]["spread"] > 0
    assert row["fc5"]["gradient_norm"] > 0
    assert report.variables.names == ("fc5/weights", "fc5/biases")


def test_a_channel_that_wakes_up_is_not_dead():
    net = lively(Parts())
    net.conv2.biases.assign([0, 0, 0, 0, -100, -100])
    ours = trainer(net, "fc5")
    report = Report("", ours.trained)

    def dead(steps):
        for _ in range(steps):
            step = (report.seen_pictures and len(report.seen_pictures)) or 0
            result = ours.step(*batch(), step, 0.0, inside=True)
            report.note(step, result.seen, result.inside, {})
        return report.activations.row(len(report.seen_pictures) - 1)["relu2"]["dead"]

    assert dead(2) == pytest.approx(2 / 6)
    net.conv2.biases.assign([0] * 6)
    assert dead(1) == 0
    net.conv2.biases.assign([0, 0, 0, 0, 0, -100])
    assert dead(1) == 0  # it was positive a step ago
    assert dead(WINDOW - 1) == pytest.approx(1 / 6)


def test_long_runs_are_thinned_evenly():
    report = Report("", {})
    for step in range(0, 5000, 5):
        report.note(step, {}, {}, {"loss": step})
        assert len(report.steps) <= KEPT
        assert report.steps[-1] == step
        assert report.steps[0] == 0
    gaps = np.diff(report.steps)
    assert set(gaps[:-1]) == {20}
    assert 0 < gaps[-1] <= 20
    assert [report.scalars[step]["loss"] for step in report.steps] == report.steps


def test_json_and_files(tmp_path):
    report = reported(lively(Parts()), steps=3)
    content = report.to_json()
    assert content["steps"] == [0, 1, 2]
    assert content["scalars"]["loss"][0] > 0
    for kind, quantities in (("variables", VARIABLES), ("activations", ACTIVATIONS)):
        table = content["tables"][kind]
        assert set(table["quantities"]) <= set(quantities)
        for rows in table["values"].values():
            assert len(rows) == 3
            assert all(len(row) == len(table["names"]) for row in rows)
    assert content["tables"]["variables"]["values"]["angle"][0][0] is None  # there is no step before the first
    names = ["report.json", "report.html", "gradients.png", "gradients_by_step.png"]
    assert report.write(str(tmp_path)) == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)
    text = report.table()
    assert all(f"\n{name} " in f"\n{text}" for name in (*report.variables.names, *report.activations.names))

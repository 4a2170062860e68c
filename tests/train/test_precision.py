"""Steps in bfloat16 and float16, the loss scale, and steps compiled by XLA, against float32 and uncompiled."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, ops
from barenets.look.report import Report
from barenets.ops import named_variables
from barenets.train import checkpoints, data, evaluate, finetune
from barenets.train.loop import DivergedError, Trainer, first_nonfinite
from barenets.train.optimizers import SGD
from barenets.train.precision import LARGEST, InPrecision, LossScale
from barenets.train.progress import Progress
from barenets.train.settings import Settings
from tests.look import parts
from tests.pictures import write_pictures
from tests.train import tiny
from tests.train.test_loop import Net, assert_unchanged, batch, trainer, values

SIXTEEN = ("bfloat16", "float16")
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Of one number, relative, at most."""


def gradients(ours: Trainer, images: tf.Tensor, labels: tf.Tensor) -> dict[str, np.ndarray]:
    _, _, found = ours._gradients(images, labels, tf.constant([0, 0]), tf.size(labels))
    return {name: g.numpy() for name, g in found.items()}


def applied(ours: Trainer, images: tf.Tensor, labels: tf.Tensor, **options) -> dict[str, np.ndarray]:
    """What the first step at rate 1 that is not left out takes from the variables."""
    before = values(ours.net)
    while not (result := ours.step(images, labels, 0, 1.0, **options)).finite:
        assert ours.accepts(result)
    return {name: before[name] - value for name, value in values(ours.net).items() if name in ours.trained}


def distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest over the variables of |ours − theirs| / |theirs|, but for those that hardly have a gradient."""
    norms = {name: float(np.linalg.norm(g)) for name, g in theirs.items()}
    least = 1e-3 * max(norms.values())
    return max(float(np.linalg.norm(ours[name] - theirs[name])) / max(least, norms[name]) for name in theirs)


def on_parts(**options) -> Trainer:
    net = parts.lively(parts.Parts())
    trained = {name: v for name, v in named_variables(net).items() if v.trainable}
    return Trainer(net, trained, SGD(trained, momentum=0.0), seed=5, **options)


# Casting


@pytest.mark.parametrize("build", [nets.AlexNet, parts.Parts])
def test_float32_is_not_cast(build):
    """On the way from pictures to logits and back, so it is to the bit what it was."""
    with tf.Graph().as_default() as graph:
        net = build()
        options = {} if build is parts.Parts else {"rng": tf.constant([1, 2])}
        logits = InPrecision(net, "float32")(tf.zeros([2, *net.input_shape]), train=True, **options)
        tf.gradients(logits, [v for v in named_variables(net).values() if v.trainable])
        assert not [op for op in graph.get_operations() if op.type == "Cast" and op.get_attr("SrcT").is_floating]


@pytest.mark.parametrize("precision", SIXTEEN)
def test_layers_compute_in_the_precision_and_variables_do_not(precision):
    net, seen = parts.Parts(), {}
    logits = InPrecision(net, precision)(tf.zeros([2, 12, 12, 3]), train=True, tap=lambda n, y: seen.setdefault(n, y))
    assert logits.dtype == tf.float32
    assert {y.dtype.name for y in seen.values()} == {precision}
    assert {v.dtype for v in named_variables(net).values()} == {tf.float32}


def test_integers_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        ops.Dense(2, 3)(tf.ones([1, 2], tf.int32))


@pytest.mark.parametrize(
    "op", [ops.global_avg_pool, *(partial(ops.local_response_normalization, fast=fast) for fast in (True, False))]
)
def test_sums_that_float16_has_no_numbers_for(op):
    x = tf.random.stateless_uniform([1, 40, 40, 8], [1, 2], 200, 300)
    y = op(tf.cast(x, tf.float16))
    assert y.dtype == tf.float16
    # One rounding of what goes in, which x² of LRN may have three times, and one of what comes out.
    np.testing.assert_allclose(tf.cast(y, tf.float32), op(x), rtol=4 * ROUNDING["float16"])


# Gradients


@pytest.mark.parametrize("precision", SIXTEEN)
def test_gradients_are_those_of_float32_to_some_roundings(precision):
    images, labels = batch(7)
    exact = applied(trainer(Net()), images, labels)
    for accumulate in (1, 3):
        ours = applied(trainer(Net(), precision=precision, accumulate=accumulate), images, labels)
        # Variables, activations and gradients of four layers are rounded, and in bfloat16 some ReLUs turn: 13 are seen.
        assert 0.5 * ROUNDING[precision] < distance(ours, exact) < 20 * ROUNDING[precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", SIXTEEN)
def test_what_a_watched_step_shows_is_float32s(precision):
    """Of gradients, activations and what comes back to them, to some roundings."""
    shown = {}
    for kind in ("float32", precision):
        ours = on_parts(precision=kind)
        if ours.loss_scale:
            ours.loss_scale = LossScale(2.0**8)  # gradients of a small network are large
        result = ours.step(*parts.batch(4), 0, 0.01, inside=True)
        shown[kind], _ = Report("", ours.trained).note(0, result.seen, result.inside, {})
    same = [key for key in shown["float32"] if re.match(r"gradient_norm|activation_(gradient_)?(norm|spread)", key)]
    assert len(same) > 2 * len(ours.trained)
    for key in same:
        if "conv1/biases" not in key:  # has no gradient below a batch norm but what rounding leaves
            assert shown[precision][key] == pytest.approx(shown["float32"][key], rel=16 * ROUNDING[precision]), key


# The loss scale


def test_scale_by_brute_force():
    """Every sequence of seven steps, with a patience of three, against the rules in other words."""
    for outcomes in itertools.product([True, False], repeat=7):
        scale = LossScale(4.0, patience=3)
        exponent, run = 2, 0
        for finite in outcomes:
            assert scale.update(finite) == (finite or exponent > 0)
            run = run + 1 if finite else 0
            exponent = exponent + (run % 3 == 0) if finite else max(0, exponent - 1)
            assert scale.to_json() == {"value": 2.0**exponent, "good_steps": run % 3}


def test_scale_has_a_ceiling_and_goes_on_from_its_state():
    scale = LossScale(LARGEST, patience=1)
    assert scale.update(True)
    assert float(scale.variable) == LARGEST
    scale = LossScale(patience=2)
    scale.update(True)
    scale = LossScale(**scale.to_json(), patience=2)
    scale.update(True)
    assert scale.to_json() == {"value": 2.0**16, "good_steps": 0}


def test_small_gradients_do_not_vanish():
    """Of losses of 1e-6 many gradients are below half of float16's smallest number, 6e-8."""
    images, labels = batch(7)
    kinds = ("float32", "float16", "float16")
    exact, bare, scaled = (trainer(Net(), precision=kind, class_weights=[1e-6] * 3) for kind in kinds)
    bare.loss_scale = None
    exact, bare, scaled = (gradients(ours, images, labels) for ours in (exact, bare, scaled))
    assert distance(bare, exact) > 0.3
    assert distance(scaled, exact) < 5 * ROUNDING["float16"]


def test_overflow_leaves_steps_out_until_the_scale_fits():
    net, (images, labels), scale = Net(), batch(7), LARGEST
    exact, before = applied(trainer(Net()), images, labels), values(net)
    ours = trainer(net, precision="float16")
    ours.loss_scale = LossScale(scale)
    while not (result := ours.step(images, labels, 0, 1.0)).finite:
        assert_unchanged(net, before)
        assert np.isfinite(result.loss)
        assert ours.accepts(result)
        scale /= 2
        assert float(ours.loss_scale.variable) == scale
    assert ours.accepts(result)
    assert 2.0**8 < scale < LARGEST / 4
    moved = {name: before[name] - value for name, value in values(net).items() if name in exact}
    assert distance(moved, exact) < 5 * ROUNDING["float16"]


def test_what_no_scale_mends_is_not_accepted():
    net, (images, labels) = Net(), batch(7)
    ours = trainer(net, precision="float16")
    assert not ours.accepts(ours.step(1e5 * images, labels, 0, 1.0))  # more than float16 has
    assert float(ours.loss_scale.variable) == 2.0**15
    assert first_nonfinite(ours, 1e5 * images, labels, 0) == "the activation of conv1"

    ours = trainer(net, precision="float16", class_weights=[1e6] * 3)
    ours.loss_scale = LossScale(2.0)
    accepted = []
    for _ in range(2):
        result = ours.step(images, labels, 0, 1.0)
        assert np.isfinite(result.loss)
        accepted.append(ours.accepts(result))
    assert accepted == [True, False]
    assert first_nonfinite(ours, images, labels, 0).startswith("the gradient of")


# XLA


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_compiled_is_the_same_step(precision):
    """In pieces of 3, 3 and 1 pictures, with dropout, counted; and looked at inside, which is not compiled."""
    options = {"accumulate": 3, "precision": precision}
    plain, compiled = (trainer(Net(dropout=0.5), xla=xla, **options) for xla in (False, True))
    images, labels = batch(7)
    found = applied(plain, images, labels)
    # Sums in another order; of operations that follow on one another XLA rounds to float16 the last one only.
    close = 1e-5 if precision == "float32" else 20 * ROUNDING[precision]
    assert 0 < distance(applied(compiled, images, labels, watch=True), found) < close
    seen = [ours.step(images, labels, 1, 0.0, inside=True).inside["losses"] for ours in (plain, compiled)]
    np.testing.assert_allclose(*seen, rtol=10 * close)


@pytest.mark.parametrize(
    ("precision", "xla"), [*((p, False) for p in SIXTEEN), pytest.param("float16", True, marks=pytest.mark.slow)]
)
def test_judging(tmp_path, precision, xla):
    write_pictures(tmp_path, 4)
    batches = data.Batches(data.read(str(tmp_path)), ops.Preprocessing(crop=16, resize=16, std=(64.0,) * 3), 3)
    net = tiny.Tiny(seed=1)
    exact, ours = evaluate.evaluate(net, batches), evaluate.evaluate(InPrecision(net, precision), batches, xla=xla)
    close = ROUNDING.get(precision, 1e-6)
    assert ours.loss == pytest.approx(exact.loss, rel=2 * close)
    found = [
        {p.path: dict(zip(p.classes, p.probabilities, strict=True)) for p in evaluate.predict(*arguments, xla=compiled)}
        for arguments, compiled in (((net, batches, "ab"), False), ((InPrecision(net, precision), batches, "ab"), xla))
    ]
    for path, shares in found[0].items():
        assert found[1][path] == pytest.approx(shares, abs=4 * close)


# Runs


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setitem(nets.NETWORKS, "tiny", tiny.NETWORK)
    write_pictures(tmp_path / "train", 8)
    return Settings(
        train=str(tmp_path / "train"),
        val=str(tmp_path / "train"),
        net="tiny",
        epochs=2,
        batch_size=4,
        summary_every=0,
        checkpoint_every=1,
        keep=100,
        precision="float16",
        logdir=str(tmp_path / "run"),
        preprocessing=ops.Preprocessing(crop=16, resize=16, std=(64.0,) * 3),
    )


class Saying(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_run_leaves_steps_out_and_is_taken_up_with_its_scale(settings, monkeypatch):
    """The scale starts too high and doubles after three good steps."""
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (2.0**20, 0, 3))
    said = Saying()
    run = finetune.start(replace(settings, val=None, epochs=4))
    whole = checkpoints.read(finetune.train(run, said).checkpoint)
    halved = [line for line in said.said if "loss scale is halved" in line]
    assert len(halved) > 1

    every = checkpoints.steps(f"{settings.logdir}/checkpoints")
    middle = next(step for step, path in every.items() if checkpoints.read(path).state["loss_scale"]["good_steps"])
    for step, path in every.items():
        if step > middle:
            Path(path).unlink()
    again = checkpoints.read(finetune.train(finetune.resume(settings.logdir), Saying()).checkpoint)
    assert again.state["step"] == whole.state["step"] > middle
    assert again.state["loss_scale"] == whole.state["loss_scale"] != LossScale().to_json()
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_divergence_names_the_layer_and_the_way_out(settings):
    run = finetune.start(replace(settings, val=None))
    run.net.fc2.weights.assign(1e6 * run.net.fc2.weights)
    with pytest.raises(DivergedError, match=r"in the activation of fc2;.*--precision bfloat16"):
        finetune.train(run, Saying())


def test_mistakes(settings):
    with pytest.raises(UserError, match="no precision 'int8'; there are float32, bfloat16, float16"):
        replace(settings, precision="int8")
    with pytest.raises(UserError, match="--eager runs a step line by line, --xla compiles it; choose one"):
        replace(settings, xla=True, eager=True)
    with pytest.raises(ValueError, match="line by line or compiled"):
        trainer(Net(), xla=True, eager=True)

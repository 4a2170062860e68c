"""The training step on a small net: what is applied, what is shown, and what happens to a number that is not finite."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from barenets import ops
from barenets.look import gradients
from barenets.look.histograms import EXACT_BELOW, SAMPLE, Histogram, count_bits
from barenets.ops import named_variables
from barenets.train.loop import StepResult, Trainer, first_nonfinite
from barenets.train.optimizers import SGD, Adam, Optimizer

CLASSES = 3
SEED = 5


class Net(tf.Module):
    """Two convolutions, a hidden layer with dropout, and an output."""

    input_shape = (8, 8, 3)

    def __init__(self, dropout: float = 0.0, hidden: int = 6) -> None:
        super().__init__()
        self._rate = dropout
        self.conv1 = ops.Conv2D(3, 4, 3, stride=2, bias_value=0.1, seed=(1, 0))
        self.conv2 = ops.Conv2D(4, 5, 3, bias_value=0.1, seed=(2, 0))
        self.fc3 = ops.Dense(4 * 4 * 5, hidden, bias_value=0.1, seed=(3, 0))
        self.fc4 = ops.Dense(hidden, CLASSES, seed=(4, 0))
        self.spare = ops.Dense(2, 2)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = ops.layers(tap)
        x = layer("conv1", lambda x: tf.nn.relu(self.conv1(x)), x)
        x = layer("conv2", lambda x: tf.nn.relu(self.conv2(x)), x)
        x = layer("fc3", lambda x: tf.nn.relu(self.fc3(tf.reshape(x, [-1, 80]))), x)
        if train:
            x = ops.dropout(x, self._rate, ops.fold_in(rng, "fc3") if self._rate else None)
        return layer("fc4", self.fc4, x)


LAYERS = ["conv1", "conv2", "fc3", "fc4"]


def chosen(net: Net, *layers: str) -> dict[str, tf.Variable]:
    return {name: v for name, v in named_variables(net).items() if name.split("/")[0] in (layers or LAYERS)}


def batch(size: int = 4, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((size, *Net.input_shape)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.integers(0, CLASSES, size).astype(np.int32))


def plain_sgd(trained: dict[str, tf.Variable]) -> Optimizer:
    return SGD(trained, momentum=0.0)


def trainer(net: Net, *layers: str, optimizer=plain_sgd, **options) -> Trainer:
    trained = chosen(net, *layers)
    return Trainer(net, trained, optimizer(trained), seed=SEED, **options)


def values(net: tf.Module) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in named_variables(net).items()}


def assert_unchanged(net: tf.Module, before: dict[str, np.ndarray], *layers: str) -> None:
    """To the bit, NaNs too."""
    for name, value in values(net).items():
        if name.split("/")[0] in layers or not layers:
            assert value.tobytes() == before[name].tobytes(), name


def loss64(weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> float:
    """The net's loss in float64 and NumPy, without dropout."""

    def convolved(x, layer, stride):
        w, b = weights[f"{layer}/weights"], weights[f"{layer}/biases"]
        side = math.ceil(x.shape[1] / stride)
        total = max((side - 1) * stride + 3 - x.shape[1], 0)
        x = np.pad(x, ((0, 0), *[(total // 2, total - total // 2)] * 2, (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride]
        return np.maximum(np.einsum("nijcuv,uvco->nijo", patches, w) + b, 0)

    x = convolved(convolved(images, "conv1", 2), "conv2", 1).reshape(len(images), -1)
    x = np.maximum(x @ weights["fc3/weights"] + weights["fc3/biases"], 0)
    z = x @ weights["fc4/weights"] + weights["fc4/biases"]
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    q = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    return float(-(q * log_p).sum(1).mean())


def tape(net: Net, images, labels, *layers: str, step: int = 0) -> dict[str, np.ndarray]:
    """The gradients by a tape of our own, with dropout as at `step`."""
    trained = chosen(net, *layers)
    with tf.GradientTape() as tape:
        logits = net(images, train=True, rng=tf.constant([SEED, step]))
        log_p = tf.nn.log_softmax(logits)
        loss = -tf.reduce_mean(tf.reduce_sum(tf.one_hot(labels, CLASSES) * log_p, 1))
    return {name: g.numpy() for name, g in tape.gradient(loss, trained).items()}


def norm(gradients: dict[str, np.ndarray]) -> float:
    return math.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))


# What is applied


def test_the_step_is_down_the_gradient():
    """w_old − w_new of plain SGD at rate 1 against central differences of the loss in float64."""
    net, (images, labels), smoothing = Net(), batch(), 0.2
    old = values(net)
    result = trainer(net, label_smoothing=smoothing).step(images, labels, 0, 1.0)
    applied = {name: old[name] - new for name, new in values(net).items() if name.split("/")[0] != "spare"}

    weights = {name: v.astype(np.float64) for name, v in old.items()}
    pictures, truth = images.numpy().astype(np.float64), labels.numpy()
    assert float(result.loss) == pytest.approx(loss64(weights, pictures, truth, smoothing), rel=1e-5)  # float32 sums
    rng = np.random.default_rng(0)
    for name, gradient in applied.items():
        for i in rng.choice(gradient.size, min(6, gradient.size), replace=False):
            at, difference = np.unravel_index(i, gradient.shape), 0.0
            for sign in (1, -1):
                moved = {**weights, name: weights[name].copy()}
                moved[name][at] += sign * 1e-6
                difference += sign * loss64(moved, pictures, truth, smoothing)
            # float32 gradients of sums over 64 places, and w_old − w_new rounds w of up to 1 by 6e-8.
            assert gradient[at] == pytest.approx(difference / 2e-6, rel=1e-4, abs=1e-6), (name, at)


def test_the_step_is_that_of_a_plain_tape():
    """With dropout, momentum and a rate, without smoothing; twice, so that the momentum counts."""
    nets, (images, labels) = (Net(dropout=0.5), Net(dropout=0.5)), batch()
    ours = trainer(nets[0], optimizer=SGD)
    optimizer = SGD(chosen(nets[1]))
    for i in (3, 4):
        result = ours.step(images, labels, i, 0.1)
        expected = tape(nets[1], images, labels, step=i)
        optimizer.apply({name: tf.constant(g) for name, g in expected.items()}, tf.constant(0.1))
        assert bool(result.finite)
        assert float(result.gradient_norm) == pytest.approx(norm(expected), rel=1e-5)
    for name, value in values(nets[1]).items():
        # Two ways of writing the cross-entropy, in float32.
        np.testing.assert_allclose(values(nets[0])[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_result_counts_what_is_right():
    net, (images, labels) = Net(dropout=0.5), batch(32)
    predicted = np.argmax(net(images, train=True, rng=tf.constant([SEED, 7])), 1)
    result = trainer(net).step(images, labels, 7, 0.0)
    assert int(result.correct) == (predicted == labels.numpy()).sum()
    assert (result.loss.dtype, result.correct.dtype, result.finite.dtype) == (tf.float32, tf.int32, tf.bool)
    assert result.seen == {}


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_clipping(clip):
    """All gradients shrink by one factor, to the norm that is allowed; the norm that is told is that before."""
    net, (images, labels) = Net(), batch()
    old, gradients = values(net), tape(net, images, labels)
    result = trainer(net, clip_norm=clip).step(images, labels, 0, 1.0)
    assert float(result.gradient_norm) == pytest.approx(norm(gradients), rel=1e-5)
    factor = min(1.0, clip / norm(gradients))
    for name, gradient in gradients.items():
        np.testing.assert_allclose(old[name] - values(net)[name], gradient * factor, rtol=1e-4, atol=1e-6)


# What is frozen


def operations_run(graph: Any) -> list[str]:
    """The operations that the results of a traced function need: TensorFlow runs no other ones."""
    needed, found = [output.op for output in graph.outputs] + list(graph.control_outputs), {}
    while needed:
        op = needed.pop()
        if op.name not in found:
            found[op.name] = op.type
            needed += [x.op for x in op.inputs] + list(op.control_inputs)
    return list(found.values())


@pytest.mark.parametrize(
    ("layers", "filters", "inputs", "watch"),
    [
        (["fc4"], 0, 0, False),
        (["conv2", "fc4"], 1, 0, False),
        (["conv2", "fc4"], 1, 0, True),
        (["conv1"], 1, 1, False),
        (LAYERS, 2, 1, False),
    ],
)
def test_frozen_layers_stay_and_cost_nothing(layers, filters, inputs, watch):
    net, (images, labels) = Net(), batch()
    old, ours = values(net), trainer(net, *layers)
    ours.step(images, labels, 0, 0.1, watch=watch)
    assert_unchanged(net, old, *(set(LAYERS) - set(layers)), "spare")
    assert all((values(net)[name] != old[name]).any() for name in chosen(net, *layers))
    operations = operations_run(ours._steps[watch].get_concrete_function().graph)
    assert operations.count("Conv2D") == 2
    assert operations.count("Conv2DBackpropFilter") == filters
    assert operations.count("Conv2DBackpropInput") == inputs


def test_a_variable_that_the_loss_does_not_reach():
    net = Net()
    with pytest.raises(ValueError, match="does not depend on spare/weights, spare/biases: they cannot be trained"):
        trainer(net, "fc4", "spare").step(*batch(), 0, 0.1)


# What is shown


def shown(result: StepResult, sizes: dict[str, int]) -> tuple[dict, dict[str, Histogram]]:
    return gradients.layer_sizes(result.seen, sizes)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_histogram_is_of_the_gradient_that_is_applied(clip):
    """From weights of zero and at rate 1, the new weights are the gradient itself, to the bit."""
    net, (images, labels) = Net(), batch()
    ours = trainer(net, "conv2", "fc4", clip_norm=clip)
    for name in ("conv2/weights", "fc4/biases"):
        ours.trained[name].assign(tf.zeros_like(ours.trained[name]))
    net.conv2.biases.assign([1.0, 1.0, 1.0, -1.0, -1.0])  # the last two are dead after the ReLU: gradients of zero
    old = values(net)
    sizes = {name: v.shape.num_elements() for name, v in ours.trained.items()}
    quantities, histograms = shown(ours.step(images, labels, 0, 1.0, watch=True), sizes)

    assert list(quantities) == list(sizes)
    assert list(histograms) == [f"{what}/{name}" for name in sizes for what in ("gradients", "variables")]
    for name in sizes:
        new = values(net)[name]
        gradient, q = old[name] - new, quantities[name]
        np.testing.assert_array_equal(histograms[f"variables/{name}"].counts, count_bits(tf.constant(old[name])))
        if not old[name].any():
            np.testing.assert_array_equal(histograms[f"gradients/{name}"].counts, count_bits(tf.constant(gradient)))
            assert q["largest"] == np.abs(gradient).max()
            assert q["update_ratio"] == 0  # of nothing
        else:
            size = np.linalg.norm(old[name].astype(np.float64))
            # w_old − w_new rounds w of up to 1 by 6e-8, which is seen in small gradients.
            assert q["update_ratio"] == pytest.approx(np.linalg.norm(gradient.astype(np.float64)) / size, rel=1e-4)
            assert q["largest"] == pytest.approx(np.abs(gradient).max(), rel=1e-4)
        assert histograms[f"gradients/{name}"].exact
        assert q["norm"] == pytest.approx(norm({name: gradient}), rel=1e-4)
        assert q["rms"] == pytest.approx(q["norm"] / math.sqrt(sizes[name]), rel=1e-12)
    assert quantities["conv2/weights"]["zeros"] == pytest.approx(2 / 5)
    assert quantities["conv2/biases"]["zeros"] == pytest.approx(2 / 5)
    if clip:
        assert math.sqrt(sum(q["norm"] ** 2 for q in quantities.values())) == pytest.approx(clip, rel=1e-5)


def test_the_update_ratio_is_of_the_change_with_momentum_and_decay():
    net, (images, labels) = Net(), batch()
    ours = trainer(net, optimizer=lambda trained: Adam(trained, weight_decay=0.1))
    sizes = {name: v.shape.num_elements() for name, v in ours.trained.items()}
    for step in range(3):
        old = values(net)
        quantities, _ = shown(ours.step(images, labels, step, 0.01, watch=True), sizes)
        for name in sizes:
            change = np.linalg.norm(values(net)[name] - old[name])
            size = np.linalg.norm(old[name])
            assert quantities[name]["update_ratio"] == pytest.approx(change / size if size else 0, rel=1e-5), name


@pytest.mark.parametrize("exact", [False, True])
def test_large_variables_are_sampled(exact):
    """fc3 of 80 × 13,200 values is beyond EXACT_BELOW; its counts then come from SAMPLE of them."""
    net, (images, labels) = Net(hidden=13_200), batch()
    size = 80 * 13_200
    assert size > EXACT_BELOW
    gradients, old = tape(net, images, labels, "fc3"), values(net)
    ours = trainer(net, "fc3", exact=exact)
    quantities, histograms = shown(
        ours.step(images, labels, 0, 1.0, watch=True), {name: g.size for name, g in gradients.items()}
    )
    q, change = quantities["fc3/weights"], values(net)["fc3/weights"] - old["fc3/weights"]
    whole = {"gradients": gradients["fc3/weights"], "variables": old["fc3/weights"]}
    for what, tensor in whole.items():
        h, expected = histograms[f"{what}/fc3/weights"], Histogram(count_bits(tf.constant(tensor)).numpy(), size)
        assert (h.exact, h.seen, h.size) == (exact, size if exact else SAMPLE, size)
        share = expected.counts / size
        # Counts of a sample are binomial; five standard deviations, and one for bins of next to nothing.
        room = 1e-4 * size if exact else size / SAMPLE * (5 * np.sqrt(SAMPLE * share * (1 - share)) + 1)
        assert (np.abs(h.counts * (size / h.seen) - expected.counts) <= room).all()
        assert not exact or h.counts.sum() == size
    # Norm and largest are of all values whatever is counted; the ratio is always of a sample, so is known to about
    # 1 / √SAMPLE of itself.
    assert q["norm"] == pytest.approx(norm({"fc3/weights": gradients["fc3/weights"]}), rel=1e-5)
    assert q["largest"] == pytest.approx(np.abs(gradients["fc3/weights"]).max(), rel=1e-5)
    zeros = np.mean(gradients["fc3/weights"] == 0)
    assert q["zeros"] == pytest.approx(zeros, abs=1e-4 if exact else 5 * 0.5 / math.sqrt(SAMPLE))
    ratio = np.linalg.norm(change) / np.linalg.norm(old["fc3/weights"])
    assert q["update_ratio"] == pytest.approx(ratio, rel=10 / math.sqrt(SAMPLE))
    assert histograms["gradients/fc3/biases"].exact


def test_samples_are_drawn_anew_at_each_step():
    net, (images, labels) = Net(hidden=13_200), batch()
    ours = trainer(net, "fc3")
    counts = [
        ours.step(images, labels, step, 0.0, watch=True).seen["fc3/weights"]["variable"].numpy() for step in (0, 1, 0)
    ]
    assert (counts[0] != counts[1]).any()
    np.testing.assert_array_equal(counts[0], counts[2])


@pytest.mark.parametrize("optimizer", [plain_sgd, Adam])
def test_watching_changes_nothing(optimizer):
    nets = Net(dropout=0.5), Net(dropout=0.5)
    trainers = [trainer(net, optimizer=optimizer, clip_norm=0.1) for net in nets]
    for step in range(4):
        seen, unseen = (
            t.step(*batch(seed=step), step, 0.1, watch=watch) for t, watch in zip(trainers, (True, False), strict=True)
        )
        assert float(seen.loss) == float(unseen.loss)
        assert float(seen.gradient_norm) == float(unseen.gradient_norm)
        assert_unchanged(nets[0], values(nets[1]))
        assert_unchanged(trainers[0].optimizer, values(trainers[1].optimizer))


# Randomness and traces


def test_dropout_is_a_function_of_seed_and_step():
    net, (images, labels) = Net(dropout=0.5), batch()
    trained = chosen(net)
    trainers = [Trainer(net, trained, plain_sgd(trained), seed=seed) for seed in (1, 2)]
    losses = [[float(ours.step(images, labels, step, 0.0).loss) for step in (0, 1, 2, 1, 0)] for ours in trainers]
    for of_seed in losses:
        assert of_seed == of_seed[::-1]
    assert len({*losses[0], *losses[1]}) == 6


def test_two_traces_however_many_steps_and_batches():
    net = Net(dropout=0.5)
    ours = trainer(net, optimizer=SGD)
    for step, size in enumerate([4, 4, 1, 7, 4, 2]):
        ours.step(*batch(size), step, 0.1 / (step + 1), watch=step % 2 == 0)
    assert [f.experimental_get_tracing_count() for f in ours._steps] == [1, 1, 0]


# What is not finite

HUGE = 3e38


def plant(net: Net, name: str, value: float) -> None:
    variable = named_variables(net)[name]
    planted = variable.numpy()
    planted.flat[0] = value
    variable.assign(planted)


def spoil(where: str, net: Net, images: np.ndarray) -> str:
    """Plants what is not finite; returns what `first_nonfinite` shall name."""
    kind, _, what = where.partition(" ")
    if kind == "picture":
        images[1, 2, 3, 0] = float(what)
        return "the pictures"
    if kind == "weight":
        plant(net, "conv2/weights", float(what))
        return "the variable conv2/weights"
    if kind == "frozen":
        plant(net, "conv1/biases", float(what))
        return "the variable conv1/biases"
    if kind == "activation":  # finite weights of which the products overflow
        net.conv2.weights.assign(tf.fill(net.conv2.weights.shape, HUGE))
        return "the activation of conv2"
    if kind == "loss":  # logits that are finite and differ by more than float32 holds
        net.fc4.weights.assign(tf.zeros_like(net.fc4.weights))
        net.fc4.biases.assign([HUGE, -HUGE, -HUGE])
        return "the loss"
    # A hidden layer so small that the loss is tame, and weights behind it so large that its gradient overflows.
    assert kind == "gradient"
    net.conv2.biases.assign(tf.fill([5], 10.0))
    net.fc3.weights.assign(tf.zeros_like(net.fc3.weights))
    net.fc3.biases.assign(tf.fill([6], 1e-37))
    net.fc4.weights.assign(tf.constant([[HUGE, -HUGE, 0.0]] * 6))
    return "the gradient of fc3/biases"


SPOILS = ["picture nan", "picture inf", "weight nan", "weight inf", "weight -inf", "frozen nan", "frozen inf"]
SPOILS += ["activation", "loss", "gradient"]


@functools.cache
def traced(watch: bool) -> tuple[Trainer, dict[str, np.ndarray]]:
    """A trainer and its net's first values, for many tests to share, since tracing is what takes the time."""
    net = Net(dropout=0.5)
    return trainer(net, "conv2", "fc3", "fc4", optimizer=Adam, clip_norm=1.0 if watch else None), values(net)


@pytest.mark.parametrize("watch", [False, True], ids=["unwatched", "watched and clipped"])
@pytest.mark.parametrize("where", SPOILS)
def test_nothing_changes_where_a_number_is_not_finite(where, watch):
    ours, first = traced(watch)
    net, pictures, labels = ours.net, batch()[0].numpy(), tf.constant([1, 2, 1, 2], tf.int32)
    for name, variable in named_variables(net).items():
        variable.assign(first[name])
    culprit = spoil(where, net, pictures)
    before, slots = values(net), values(ours.optimizer)
    result = ours.step(tf.constant(pictures), labels, 3, 0.1, watch=watch)
    assert not bool(result.finite)
    assert_unchanged(net, before)
    assert_unchanged(ours.optimizer, slots)
    assert first_nonfinite(ours, tf.constant(pictures), labels, 3) == culprit
    assert_unchanged(net, before)
    if watch:
        quantities, _ = shown(result, {n: v.shape.num_elements() for n, v in ours.trained.items()})
        tame = [name for name in quantities if np.abs(before[name]).max() < 1e18]  # so that float32 holds its norm
        assert len(tame) >= 2
        assert all(quantities[name]["update_ratio"] == 0 for name in tame)


def test_a_norm_that_overflows():
    """Gradients of 1e20 have squares beyond float32."""
    net, (images, labels) = Net(), batch()
    ours = trainer(net, "fc4")
    images *= 1e20
    net.fc4.weights.assign(tf.zeros_like(net.fc4.weights))
    assert not bool(ours.step(images, labels, 0, 0.1).finite)
    assert first_nonfinite(ours, images, labels, 0) == "the norm of all gradients together, which overflows"


def test_it_goes_on_after_a_step_that_was_not_finite():
    nets = Net(), Net()
    trainers = [trainer(net, optimizer=Adam) for net in nets]
    images, labels = batch()
    assert not bool(trainers[0].step(images / 0, labels, 0, 0.1).finite)
    for ours in trainers:
        assert bool(ours.step(images, labels, 1, 0.1).finite)
    assert_unchanged(nets[0], values(nets[1]))


def test_non_finite_values_are_counted():
    net, (images, labels) = Net(), batch()
    ours = trainer(net, "conv2", "fc4")
    plant(net, "conv2/weights", math.nan)
    result = ours.step(images, labels, 0, 0.1, watch=True)
    quantities, histograms = shown(result, {n: v.shape.num_elements() for n, v in ours.trained.items()})
    assert quantities["fc4/biases"]["nans"] == CLASSES
    assert histograms["variables/conv2/weights"].nans == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_labels(smoothing):
    """One-hot floats train as integers do; of shares the loss is their mean and the largest counts as right."""
    images, labels = batch(6)
    nets = Net(), Net(), Net()
    trainers = [trainer(net, label_smoothing=smoothing) for net in nets]
    one_hot = np.eye(CLASSES, dtype=np.float32)
    whole = trainers[0].step(images, labels, 0, 0.1, watch=True)
    soft = trainers[1].step(images, tf.constant(one_hot[labels]), 0, 0.1, watch=True)
    assert int(whole.correct) == int(soft.correct)
    np.testing.assert_allclose(whole.loss, soft.loss, rtol=1e-6)
    for name, value in values(nets[0]).items():
        np.testing.assert_allclose(values(nets[1])[name], value, rtol=1e-5, atol=1e-7)

    logits = nets[2](images).numpy().astype(np.float64)
    mixed = (0.7 * one_hot[labels] + 0.3 * one_hot[np.roll(labels, 1)]).astype(np.float32)
    result = trainers[2].step(images, mixed, 0, 0.1)
    target = (1 - smoothing) * mixed + smoothing / CLASSES
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(result.loss, -(target * log_softmax).sum(1).mean(), rtol=1e-5)
    assert int(result.correct) == int((logits.argmax(1) == mixed.argmax(1)).sum())
    with pytest.raises(TypeError, match="labels are int32 or float32, got int64"):
        trainers[2].step(images, np.array(labels, np.int64), 0, 0.1)


# Class weights, further losses


class Rich(Net):
    """The net with a second classifier and with centers, behind what fc3 puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary, self.center_losses = {"auxiliary": 0.3}, {"centers": 0.7}
        self.auxiliary_fc = ops.Dense(6, CLASSES, seed=(5, 0))
        self.means = tf.Variable(tf.random.stateless_normal([CLASSES, 6], [6, 0]))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        features = []

        def look(name, x):
            if name == "fc3":
                features.append(x)
            return x if tap is None else tap(name, x)

        logits, layer = super().__call__(x, train=train, rng=rng, tap=look), ops.layers(tap)
        layer("auxiliary", self.auxiliary_fc, features[0])
        layer("centers", lambda x: tf.reduce_sum((x[:, None] - self.means) ** 2, 2), features[0])
        return logits


RICH = (*LAYERS, "auxiliary_fc", "means")


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "shares"])
def test_class_weights_and_further_losses(soft):
    """w_old − w_new at rate 1 against the gradients of the loss written out; the loss against Keras, too."""
    weights, (images, labels) = np.array([0.5, 2.0, 0.0], np.float32), batch(6)
    q = np.eye(CLASSES, dtype=np.float32)[labels]
    if soft:
        q = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 6).astype(np.float32)
    net = Rich()
    old, trained, tapped = values(net), chosen(net, *RICH), {}

    with tf.GradientTape() as tape:
        logits = net(images, tap=lambda name, x: tapped.setdefault(name, x))
        cross_entropies = [-tf.reduce_sum(q * tf.nn.log_softmax(z), 1) for z in (logits, tapped["auxiliary"])]
        each = cross_entropies[0] + 0.3 * cross_entropies[1] + 0.7 * tf.reduce_sum(q * tapped["centers"], 1)
        loss = tf.reduce_sum(each * (q @ weights)) / 6
    expected = tape.gradient(loss, trained)

    result = trainer(net, *RICH, class_weights=weights.tolist()).step(
        images, tf.constant(q) if soft else labels, 0, 1.0
    )
    assert float(result.loss) == pytest.approx(float(loss), rel=1e-5)  # float32 sums in another order
    for name, gradient in expected.items():
        # w_old − w_new rounds w of up to 1 by 6e-8.
        np.testing.assert_allclose(old[name] - values(net)[name], gradient, rtol=1e-5, atol=1e-6, err_msg=name)

    keras = pytest.importorskip("keras")
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True)
    total = theirs(q, logits, q @ weights) + 0.3 * theirs(q, tapped["auxiliary"], q @ weights)
    centers = float(np.mean((q @ weights) * np.sum(q * tapped["centers"], 1)))
    assert float(result.loss) == pytest.approx(float(total) + 0.7 * centers, rel=1e-5)


def test_class_weights_that_cannot_be():
    with pytest.raises(ValueError, match=r"^class weights must be 0 or more, got \[1.0, -1.0, 1.0\]$"):
        trainer(Net(), class_weights=[1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match=r"there are 2 class weights, and 3 classes"):
        trainer(Net(), class_weights=[1.0, 1.0])._gradients(*batch(), tf.constant([0, 0]), tf.constant(4))


# Accumulation


@functools.cache
def whole_steps() -> tuple[list[StepResult], dict[str, np.ndarray]]:
    """Of a batch of 7 and one of 4, at once."""
    net = Rich()
    ours = trainer(net, *RICH, optimizer=Adam, clip_norm=0.5, class_weights=[0.5, 2.0, 1.0])
    return [ours.step(*batch(size), i, 0.01) for i, size in enumerate((7, 4))], values(net)


@pytest.mark.parametrize("pieces", [2, 3, 9])
def test_accumulated_is_the_step_of_the_whole_batch(pieces):
    """With a last piece that is smaller, and with more pieces than pictures; one trace for all sizes."""
    net = Rich()
    ours = trainer(net, *RICH, optimizer=Adam, clip_norm=0.5, class_weights=[0.5, 2.0, 1.0], accumulate=pieces)
    results, expected = whole_steps()
    for i, (size, whole) in enumerate(zip((7, 4), results, strict=True)):
        result = ours.step(*batch(size), i, 0.01)
        # Sums of float32 in another order.
        assert float(result.loss) == pytest.approx(float(whole.loss), rel=1e-5)
        assert float(result.gradient_norm) == pytest.approx(float(whole.gradient_norm), rel=1e-5)
        assert int(result.correct) == int(whole.correct)
    for name, value in values(net).items():
        # Adam divides a gradient by its own size: what rounding makes of one near 0 is a share of 1e-4 of a step.
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=3e-6, err_msg=name)
    assert ours._steps[False].experimental_get_tracing_count() == 1


def test_of_pieces_the_first_is_looked_at_as_a_batch_of_its_own():
    images, labels = batch(7)
    of_piece = trainer(Net(), accumulate=2).step(images, labels, 0, 0.1, inside=True).inside
    alone = trainer(Net()).step(images[:4], labels[:4], 0, 0.1, inside=True).inside
    for key in ("activations", "picture_squares", "losses", "pictures"):
        for ours, theirs in zip(tf.nest.flatten(of_piece[key]), tf.nest.flatten(alone[key]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7, err_msg=key)  # 1/7 is rounded


def test_each_piece_draws_its_own_dropout():
    """The step is the sum of steps on 2, 2 and 1 pictures, each with dropout from (seed, step, its first picture)."""
    images, labels = tf.repeat(batch(1)[0], 5, 0), tf.constant([1] * 5)
    nets = [Net(dropout=0.5) for _ in range(2)]
    old, trained, each = values(nets[0]), chosen(nets[1]), []
    trainer(nets[0], accumulate=3).step(images, labels, 7, 1.0)
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        with tf.GradientTape() as tape:
            rng = tf.random.fold_in([SEED, 7], start, alg="philox")
            log_p = tf.nn.log_softmax(nets[1](images[start:stop], train=True, rng=rng))
            loss = -tf.reduce_sum(log_p[:, 1]) / 5
        each.append(tape.gradient(loss, trained))
    assert (each[0]["fc4/weights"].numpy() != each[1]["fc4/weights"].numpy()).any()  # of the same pictures
    for name in trained:
        total = sum(gradients[name].numpy() for gradients in each)
        np.testing.assert_allclose(old[name] - values(nets[0])[name], total, rtol=1e-5, atol=1e-6, err_msg=name)


class Normed(tf.Module):
    """A batch norm and an output; notes how many pictures come at once."""

    input_shape = (2, 2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.bn = ops.BatchNorm(3)
        self.fc = ops.Dense(12, CLASSES, seed=(1, 0))
        self._seen: list[int | None] = []

    def __call__(self, x, *, train=False, rng=None, tap=None):
        self._seen.append(x.shape[0])
        layer = ops.layers(tap)
        x = layer("bn", functools.partial(self.bn, train=train), x)
        return layer("fc", lambda x: self.fc(tf.reshape(x, [-1, 12])), x)


def test_batch_norm_sees_the_pieces():
    """And nothing of them stays where one is not finite, which is then looked for piece by piece."""
    net = Normed()
    trained = {name: v for name, v in named_variables(net).items() if v.trainable}
    ours = Trainer(net, trained, plain_sgd(trained), accumulate=2)
    images = np.random.default_rng(0).standard_normal((4, 2, 2, 3)).astype(np.float32)
    labels, moving = tf.constant([0, 0, 1, 0]), np.zeros(3)
    ours.step(tf.constant(images), labels, 0, 0.0)
    for piece in (images[:2], images[2:]):
        moving = 0.9 * moving + 0.1 * piece.astype(np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(net.bn.moving_mean, moving, rtol=1e-5, atol=1e-7)  # float32

    net.fc.weights.assign(tf.zeros_like(net.fc.weights))
    net.fc.biases.assign([HUGE, -HUGE, -HUGE])  # no loss for class 0, and one beyond float32 for the third picture
    before = values(net)
    assert not bool(ours.step(tf.constant(images), labels, 1, 0.1).finite)
    assert_unchanged(net, before)
    net._seen.clear()
    assert first_nonfinite(ours, tf.constant(images), labels, 1) == "the loss"
    assert net._seen == [2, 2]
    assert_unchanged(net, before)


def test_no_loop_unless_there_are_pieces():
    graphs = [trainer(Net(), "fc4", accumulate=k)._steps[False].get_concrete_function().graph for k in (1, 2)]
    loops = [{"While", "StatelessWhile"} & set(operations_run(graph)) for graph in graphs]
    assert [bool(found) for found in loops] == [False, True]
    with pytest.raises(ValueError, match="at least 1 piece, got 0"):
        trainer(Net(), accumulate=0)

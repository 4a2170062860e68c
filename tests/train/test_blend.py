"""Blends against brute force, and of a real network against its own logits in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets.nets import GLUHead, Headed
from barenets.ops import Preprocessing, named_variables
from barenets.train.blend import Blended, Classifiers, search
from barenets.train.data import Batches, Records
from barenets.train.evaluate import Evaluation, TenCropped, evaluate, predict


def shares(rng: np.random.Generator, count: int, classes: int, steep: float = 1.0) -> np.ndarray:
    e = np.exp(steep * rng.standard_normal([count, classes]))
    return (e / e.sum(1, keepdims=True)).astype(np.float32)


def brute_force(first, second, labels, steps) -> tuple[float, float, float]:
    """Weight, accuracy and loss, picture by picture in Python's floats."""
    tried = []
    for step in range(steps):
        w, right, loss = step / (steps - 1), 0, 0.0
        for a, b, label in zip(first, second, labels, strict=True):
            mix = [w * float(x) + (1 - w) * float(y) for x, y in zip(a, b, strict=True)]
            right += max(range(len(mix)), key=mix.__getitem__) == label
            loss -= float(np.log(max(mix[label], np.finfo(np.float32).tiny)))
        loss /= len(labels)
        tried.append((-right / len(labels), round(loss, 9), abs(w - 0.5), w, loss))
    accuracy, _, _, weight, loss = min(tried)
    return weight, -accuracy, loss


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("steps", [2, 11, 101])
def test_search_against_brute_force(seed, steps):
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(1, 30)), int(rng.integers(2, 7))
    first, second = (shares(rng, count, classes, steep) for steep in (1, 2))
    labels = rng.integers(0, classes, count).astype(np.int32)
    found = search(first, second, labels, steps)
    # Sums of at most 30 float64.
    assert (found.weight, found.top1, found.loss) == pytest.approx(brute_force(first, second, labels, steps), rel=1e-12)


def test_ties():
    """Of equal accuracy the smaller loss; of all equal the middle; 0 has a logarithm."""
    labels = np.array([0, 1])
    sure, unsure = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.6, 0.4], [0.4, 0.6]])
    assert search(sure, unsure, labels).weight == 1
    assert search(unsure, sure, labels).weight == 0
    assert search(sure, sure, labels).weight == 0.5
    assert search(sure, sure, labels, steps=4).weight == pytest.approx(1 / 3)  # the first of the two in the middle
    wrong = np.array([[0.0, 1.0]])
    assert search(wrong, wrong, labels[:1]).loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_mistakes():
    rng = np.random.default_rng(0)
    first, labels = shares(rng, 4, 3), np.zeros(4, np.int32)
    for arguments in ((first, first[:, :2], labels), (first, first, labels[1:]), (first[:0], first[:0], labels[:0])):
        with pytest.raises(ValueError, match="do not go together"):
            search(*arguments)
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        search(first, first, labels, steps=1)
    with pytest.raises(ValueError, match=r"lies in \[0, 1\], got 1.5"):
        Blended(network(), AUXILIARY, 1.5)
    with pytest.raises(ValueError, match="no classifier head/gone outside training"):
        Blended(network(), "head/gone", 0.5)(tf.zeros([1, 4, 4, 3]))


# Of a network

AUXILIARY = "head/auxiliary_classifier"
COUNT, CLASSES = 12, 3


class Base(tf.Module):
    input_shape = (4, 4, 3)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        return x


def network() -> Headed:
    net = Headed(Base(), GLUHead(3, CLASSES, features=5))
    for i, variable in enumerate(named_variables(net).values()):
        variable.assign(2 * tf.random.stateless_normal(variable.shape, [0, i]))
    return net


def data(folder: Path, **options) -> Batches:
    """Pictures of random pixels, whose second is no picture."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:02}.png" for i in range(COUNT)]
    for path in paths:
        path.write_bytes(tf.io.encode_png(rng.integers(0, 256, [4, 4, 3], np.uint8)).numpy())
    paths[1].write_bytes(b"none")
    records = Records(tuple(map(str, paths)), (np.arange(COUNT) % CLASSES).astype(np.int32), ("a", "b", "c"), "list")
    preprocessing = Preprocessing(crop=4, resize=4, scale=128.0)
    return Batches(records, preprocessing, 5, on_error="skip", **options)


def test_probabilities_of_both_classifiers(tmp_path):
    net, batches, told = network(), data(tmp_path), []
    found = Classifiers(net, [AUXILIARY]).probabilities(batches, told.append)
    assert list(found) == ["", AUXILIARY, "indices"]
    kept = [i for i in range(COUNT) if i != 1]
    np.testing.assert_array_equal(found["indices"], kept)
    assert (found["indices"].dtype, told) == (np.int32, [5, 5, 1])
    images = tf.concat([batch.images for batch in batches.epoch(0)], 0)
    seen: dict[str, tf.Tensor] = {}
    net(images, tap=lambda name, x: seen.setdefault(name, x))
    for name, logits in {"": seen["head/classifier"], AUXILIARY: seen[AUXILIARY]}.items():
        e = np.exp(logits.numpy().astype(np.float64))
        assert (found[name].dtype, found[name].shape) == (np.float32, (COUNT - 1, CLASSES))
        np.testing.assert_allclose(found[name], e / e.sum(1, keepdims=True), rtol=1e-5)  # of float32 logits up to 20
    # Softmax of one and of two at a time may round the last digit another way.
    np.testing.assert_allclose(Classifiers(Bare(net)).probabilities(batches)[""], found[""], rtol=1e-6)


class Bare:
    """Takes no tap, as wrappers do."""

    def __init__(self, net):
        self._net, self.input_shape = net, net.input_shape

    def __call__(self, images):
        return self._net(images)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_blended_is_the_blend_of_the_probabilities(tmp_path, weight):
    net, batches = network(), data(tmp_path)
    found = Classifiers(net, [AUXILIARY]).probabilities(batches)
    mixed = weight * found[""].astype(np.float64) + (1 - weight) * found[AUXILIARY]
    blended, labels = Blended(net, AUXILIARY, weight), batches.records.labels[found["indices"]]
    ours = Classifiers(blended).probabilities(batches)[""]
    np.testing.assert_allclose(ours, mixed, rtol=1e-5)  # float32 logarithms up to 20
    assert [p.probabilities[0] for p in predict(blended, batches, "abc")] == pytest.approx(ours.max(1).tolist())

    names = batches.records.class_names
    judged, of = evaluate(blended, batches), Evaluation.of(mixed, labels, names, batches.skipped)
    np.testing.assert_array_equal(judged.confusion, of.confusion)
    assert (judged.top5_correct, judged.class_names, judged.skipped) == (of.top5_correct, names, of.skipped)
    assert (judged.loss, judged.top1) == pytest.approx((of.loss, of.top1), rel=1e-5)
    assert list(of.skipped) == [batches.records.paths[1]]


def test_ten_crops_of_a_blend():
    images = tf.random.stateless_normal([2, 10, 4, 4, 3], [1, 2])
    blended = Blended(network(), AUXILIARY, 0.3)
    each = np.exp(blended(tf.reshape(images, [-1, 4, 4, 3])))
    expected = each.reshape(2, 10, CLASSES).mean(1)
    np.testing.assert_allclose(np.exp(TenCropped(blended)(images)), expected, rtol=1e-5)


def test_search_finds_what_evaluation_finds(tmp_path):
    """The weight that search gives has, as a network, the accuracy and the loss that search promised."""
    net, batches = network(), data(tmp_path)
    found = Classifiers(net, [AUXILIARY]).probabilities(batches)
    best = search(found[""], found[AUXILIARY], batches.records.labels[found["indices"]])
    judged = evaluate(Blended(net, AUXILIARY, best.weight), batches)
    assert (judged.top1, judged.loss) == pytest.approx((best.top1, best.loss), rel=1e-5)
    for weight in (0.0, 1.0):
        assert evaluate(Blended(net, AUXILIARY, weight), batches).top1 <= judged.top1

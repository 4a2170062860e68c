"""Losses against the formulas, torch and finite differences; extreme logits by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import center_loss, sigmoid_cross_entropy, softmax_cross_entropy
from tests.ops.reference import gradient, normal, numerical_gradient

LABELS = np.array([0, 4, 2, 2, 1])


def softmax_formula(labels: np.ndarray, logits: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    q = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return -np.sum(q * np.log(np.exp(logits) / np.sum(np.exp(logits), 1, keepdims=True)), 1)


def sigmoid_formula(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-logits))
    return -labels * np.log(p) - (1 - labels) * np.log(1 - p)


@pytest.mark.parametrize("integer", [np.int32, np.int64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 1.0])
def test_softmax(smoothing, integer):
    logits = 3 * normal(5, 6)
    ours = softmax_cross_entropy(tf.constant(LABELS.astype(integer)), tf.constant(logits), smoothing)
    assert ours.shape == (5,)
    np.testing.assert_allclose(ours, softmax_formula(LABELS, logits, smoothing), rtol=1e-12)  # float64


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_torch(smoothing):
    torch = pytest.importorskip("torch", reason="torch is the reference of this test")
    logits, dy = 3 * normal(5, 6, dtype=np.float32), normal(5, seed=1, dtype=np.float32)
    tensor = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        tensor, torch.tensor(LABELS), reduction="none", label_smoothing=smoothing
    )
    theirs.backward(torch.tensor(dy))
    ours = softmax_cross_entropy(tf.constant(LABELS), tf.constant(logits), smoothing)
    # A float32 log-sum of six numbers of order 1.
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-6, atol=1e-6)
    ours = gradient(lambda z: softmax_cross_entropy(tf.constant(LABELS), z, smoothing), logits, dy)
    np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_extreme_softmax():
    """logits ±1e4: by hand, the loss is the distance of the label's logit to the largest."""
    logits = tf.constant([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    labels = tf.constant([0, 1, 2])
    # Exact but for log 3, in float32.
    np.testing.assert_allclose(softmax_cross_entropy(labels, logits), [0, 2e4, np.log(3)], rtol=1e-6, atol=1e-6)
    # ε = .3 puts .1 on every class: .1·(0 + 2e4 + 1e4), and .7 of the label's own on top.
    expected = [3e3, 3e3 + 0.7 * 2e4, np.log(3)]
    np.testing.assert_allclose(softmax_cross_entropy(labels, logits, 0.3), expected, rtol=1e-6)
    ours = gradient(lambda z: softmax_cross_entropy(labels, z), logits.numpy(), np.ones(3))
    np.testing.assert_allclose(ours, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_finite_differences(smoothing):
    logits, dy = normal(5, 6), normal(5, seed=1)
    ours = gradient(lambda z: softmax_cross_entropy(tf.constant(LABELS), z, smoothing), logits, dy)
    numerical = numerical_gradient(lambda z: softmax_formula(LABELS, z, smoothing), logits, dy)
    np.testing.assert_allclose(ours, numerical, rtol=1e-7, atol=1e-9)  # step² and 1e-15 / step


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_smoothing_outside(smoothing):
    with pytest.raises(ValueError, match=rf"label smoothing lies in \[0, 1\], got {smoothing}"):
        softmax_cross_entropy(tf.constant([0]), tf.zeros([1, 2]), smoothing)


@pytest.mark.parametrize("labels", [np.eye(5)[LABELS], np.random.default_rng(2).random((5, 5))], ids=["hard", "soft"])
def test_sigmoid(labels):
    logits, dy = 3 * normal(5, 5), normal(5, 5, seed=1)
    ours = sigmoid_cross_entropy(tf.constant(labels), tf.constant(logits))
    # float64; the formula's 1 − p loses up to four digits, the op none.
    np.testing.assert_allclose(ours, sigmoid_formula(labels, logits), rtol=1e-11, atol=1e-13)
    ours = gradient(lambda z: sigmoid_cross_entropy(tf.constant(labels), z), logits, dy)
    numerical = numerical_gradient(lambda z: sigmoid_formula(labels, z), logits, dy)
    np.testing.assert_allclose(ours, numerical, rtol=1e-7, atol=1e-8)  # step², and 1e-14 / step


def test_extreme_sigmoid():
    logits, labels = tf.constant([1e4, 1e4, -1e4, -1e4, 0.0]), tf.constant([1.0, 0.0, 1.0, 0.0, 0.5])
    # By hand; exact but for log 2, in float32.
    np.testing.assert_allclose(sigmoid_cross_entropy(labels, logits), [0, 1e4, 1e4, 0, np.log(2)], rtol=1e-6)
    ours = gradient(lambda z: sigmoid_cross_entropy(labels, z), logits.numpy(), np.ones(5))
    np.testing.assert_allclose(ours, [0, 1, -1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_soft_labels(smoothing):
    """Shares of classes: as whole ones where they are whole, and by the formula where they are not."""
    logits = 3 * normal(5, 6)
    one_hot = np.eye(6)[LABELS]
    ours = softmax_cross_entropy(tf.constant(one_hot, tf.float32), tf.constant(logits), smoothing)
    np.testing.assert_allclose(ours, softmax_formula(LABELS, logits, smoothing), rtol=1e-7)
    other = np.roll(LABELS, 1)
    mixed = 0.75 * one_hot + 0.25 * np.eye(6)[other]
    expected = 0.75 * softmax_formula(LABELS, logits, smoothing) + 0.25 * softmax_formula(other, logits, smoothing)
    np.testing.assert_allclose(softmax_cross_entropy(tf.constant(mixed), logits, smoothing), expected, rtol=1e-12)
    dy = normal(5, seed=1)
    ours = gradient(lambda z: softmax_cross_entropy(tf.constant(mixed), z, smoothing), logits, dy)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = (1 - smoothing) * mixed + smoothing / 6
    np.testing.assert_allclose(ours, (softmax - q) * dy[:, None], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_center_loss_against_finite_differences(soft):
    """Of features and of centers, in float64: central differences of a quadratic are exact but for rounding."""
    features, centers, dy = normal(5, 4), normal(6, 4, seed=1), normal(5, seed=2)
    shares = np.random.default_rng(3).dirichlet(np.ones(6), 5) if soft else np.eye(6)[LABELS]
    labels = tf.constant(shares) if soft else tf.constant(LABELS)

    def loss(features, centers):
        return center_loss(labels, tf.reduce_sum((features[:, None] - centers) ** 2, 2))

    by_hand = [sum(shares[n, k] * sum((features[n] - centers[k]) ** 2) for k in range(6)) for n in range(5)]
    np.testing.assert_allclose(loss(features, centers), by_hand, rtol=1e-12)
    for i, ours in enumerate((features, centers)):

        def moved(x, i=i):
            return loss(x, centers) if i == 0 else loss(features, x)

        np.testing.assert_allclose(gradient(moved, ours, dy), numerical_gradient(moved, ours, dy), rtol=1e-6, atol=1e-8)

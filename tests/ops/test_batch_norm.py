"""Batch norm, separable convolution and adaptive pooling against NumPy in float64, torch and finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import BatchNorm, SeparableConv2D, adaptive_avg_pool, named_variables
from tests.ops import reference

FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return reference.normal(*shape, seed=seed, dtype=np.float32)


def norm_of(x: np.ndarray, epsilon: float = 1e-5, **options) -> BatchNorm:
    norm = BatchNorm(x.shape[-1], epsilon=epsilon, **options)
    rng = np.random.default_rng(3)
    for variable in named_variables(norm).values():
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return norm


def expected(x, norm, mean, variance, epsilon=1e-5):
    gamma = 1.0 if norm.gamma is None else norm.gamma.numpy().astype(np.float64)
    return gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + epsilon) + norm.beta.numpy()


@pytest.mark.parametrize("scale", [True, False])
def test_formula(scale):
    x = 3 * normal(4, 3, 2, 5) + 1
    norm = norm_of(x, scale=scale)
    moving = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    np.testing.assert_allclose(norm(x, train=False), expected(x, norm, *moving), **FLOAT32)
    axes = (0, 1, 2)
    batch = x.astype(np.float64).mean(axes), x.astype(np.float64).var(axes)
    np.testing.assert_allclose(norm(x, train=True), expected(x, norm, *batch), **FLOAT32)
    # The moving averages took a tenth of the batch's mean and unbiased variance: n = 24.
    np.testing.assert_allclose(norm.moving_mean, 0.9 * moving[0] + 0.1 * batch[0], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 * moving[1] + 0.1 * batch[1] * 24 / 23, rtol=1e-5)


def test_epsilon_is_what_was_asked_for():
    """tf.nn.fused_batch_norm would raise 1e-5 to 1.001e-5, which a variance of 0 shows."""
    norm = BatchNorm(1, epsilon=1e-5)
    norm.moving_variance.assign([0.0])
    y = norm(tf.ones([1, 1, 1, 1]), train=False).numpy().item()
    assert y == pytest.approx(1e-5**-0.5, rel=1e-5)
    assert abs(y / 1.001e-5**-0.5 - 1) > 3e-4


def test_frozen_uses_and_keeps_the_moving_averages():
    x = normal(4, 3, 2, 5)
    norm = norm_of(x)
    before = {name: v.numpy() for name, v in named_variables(norm).items()}
    norm.frozen = True
    np.testing.assert_array_equal(norm(x, train=True), norm(x, train=False))
    for name, v in named_variables(norm).items():
        np.testing.assert_array_equal(v, before[name])


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_agree_with_torch(frozen):
    torch = pytest.importorskip("torch")
    x, dy = 2 * normal(4, 3, 2, 5) + 1, normal(4, 3, 2, 5, seed=1)
    norm = norm_of(x)
    norm.frozen = frozen
    twin = torch.nn.BatchNorm2d(5)
    names = {"weight": norm.gamma, "bias": norm.beta, "running_mean": norm.moving_mean}
    state = {key: torch.from_numpy(v.numpy().copy()) for key, v in names.items()}
    state["running_var"] = torch.from_numpy(norm.moving_variance.numpy().copy())
    twin.load_state_dict(state, strict=False)
    twin.train(not frozen)

    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    (twin(given) * torch.from_numpy(dy.transpose(0, 3, 1, 2).copy())).sum().backward()
    ours = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        loss = tf.reduce_sum(norm(ours, train=True) * dy)
    got = tape.gradient(loss, [ours, norm.gamma, norm.beta])
    theirs = [given.grad.numpy().transpose(0, 2, 3, 1), twin.weight.grad.numpy(), twin.bias.grad.numpy()]
    for a, b in zip(got, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.moving_mean, twin.running_mean.numpy(), **FLOAT32)
    np.testing.assert_allclose(norm.moving_variance, twin.running_var.numpy(), **FLOAT32)


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_function_computes_what_eager_does(compiled):
    x = normal(4, 3, 2, 5)
    eager, traced = norm_of(x), norm_of(x)
    y = eager(x, train=True)
    np.testing.assert_allclose(tf.function(lambda x: traced(x, train=True), jit_compile=compiled)(x), y, **FLOAT32)
    for a, b in zip(named_variables(eager).values(), named_variables(traced).values(), strict=True):
        np.testing.assert_allclose(a, b, **FLOAT32)


@pytest.mark.parametrize(
    ("stride", "padding", "multiplier"), [(1, "SAME", 1), (2, "SAME", 3), (2, 1, 2), (1, "VALID", 1)]
)
def test_separable_convolution_is_two_convolutions(stride, padding, multiplier):
    """Against the dense kernel that the two make together, by a loop over places in float64."""
    x = normal(2, 7, 6, 3)
    layer = SeparableConv2D(3, 4, 3, stride=stride, padding=padding, multiplier=multiplier)
    depthwise, pointwise = layer.depthwise_weights.numpy().astype(float), layer.pointwise_weights.numpy().astype(float)
    assert depthwise.shape == (3, 3, 3, multiplier)
    kernel = np.einsum("uvcm,cmo->uvco", depthwise, pointwise.reshape(3, multiplier, 4))
    pads = []
    for n in x.shape[1:3]:
        if padding == "SAME":
            total = max((-(-n // stride) - 1) * stride + 3 - n, 0)
            pads.append((total // 2, total - total // 2))
        else:
            pads.append((padding, padding) if padding != "VALID" else (0, 0))
    padded = np.pad(x.astype(float), [(0, 0), *pads, (0, 0)])
    sides = [(n - 3) // stride + 1 for n in padded.shape[1:3]]
    y = np.zeros((2, *sides, 4))
    for i in range(sides[0]):
        for j in range(sides[1]):
            window = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            y[:, i, j] = np.einsum("nuvc,uvco->no", window, kernel)
    np.testing.assert_allclose(layer(x), y, **FLOAT32)


@pytest.mark.parametrize(("height", "width", "side"), [(7, 7, 7), (8, 10, 7), (14, 14, 4), (5, 3, 7), (21, 14, 7)])
def test_adaptive_pooling(height, width, side):
    x = normal(2, height, width, 3)
    y = np.zeros((2, side, side, 3))
    for i in range(side):
        for j in range(side):
            rows = slice(int(np.floor(i * height / side)), int(np.ceil((i + 1) * height / side)))
            columns = slice(int(np.floor(j * width / side)), int(np.ceil((j + 1) * width / side)))
            y[:, i, j] = x[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_avg_pool(tf.constant(x), side), y, **FLOAT32)


def test_adaptive_pooling_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = normal(2, 9, 13, 3)
    theirs = torch.nn.AdaptiveAvgPool2d(7)(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(adaptive_avg_pool(tf.constant(x), 7), theirs.transpose(0, 2, 3, 1), **FLOAT32)


def test_adaptive_pooling_needs_sides():
    with pytest.raises(ValueError, match="height and width"):
        tf.function(lambda x: adaptive_avg_pool(x, 7)).get_concrete_function(tf.TensorSpec([1, None, None, 3]))

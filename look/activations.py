"""What the layers of one pass through a network give, and the gradients that come back to them."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.look.histograms import once
from barenets.ops import BatchNorm, wide

PICTURES = 4
"""How many pictures of a batch are looked at inside, unless all are wanted."""

INPUT = "input"
"""The name of the pictures themselves among the activations."""


class Watch:
    """A tap that remembers what each layer is given and gives, in the order in which they are applied.

    `gradients` are those of the loss with respect to `outputs`, where they were taken: None for what the loss does
    not depend on through anything that trains. `losses` are the pictures' own, float32 [N].
    """

    def __init__(self) -> None:
        self.outputs: dict[str, tf.Tensor] = {}
        self.entered: dict[str, tuple[Any, Any]] = {}
        self.gradients: Mapping[str, tf.Tensor | None] = {}
        self.losses: tf.Tensor | None = None

    def enters(self, name: str, layer: Any, x: Any) -> None:
        """Keeps what `layer`, called `name`, is about to be applied to: `x`, a tensor or a list of them."""
        self.entered[name] = layer, x

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        self.outputs[name] = x
        return x


def statistics(watch: Watch, pictures: int | None = None) -> dict[str, dict[str, tf.Tensor]]:
    """Of each activation of a pass, in its order, what `row` makes its quantities from.

    Of the batch the first `pictures` are looked at, or all.
    """
    found = {}
    for name, x in watch.outputs.items():
        layer, entering = watch.entered.get(name, (None, None))
        part = {"values": _moments(pictures, x.dtype)(x)}
        if (gradient := watch.gradients.get(name)) is not None:
            part["gradient"] = _moments(pictures, gradient.dtype)(gradient)
            part["count"] = tf.shape(gradient)[0]
        if layer is tf.nn.relu:
            part["positive"], part["places"] = _positive(pictures, x.dtype)(x), math.prod(x.shape[1:-1])
        elif layer is tf.sigmoid:
            part["saturated"] = tf.reduce_mean(tf.cast((x < 0.01) | (x > 0.99), tf.float32))
        module, _ = _module(layer)
        if isinstance(module, BatchNorm):
            part["norm_gap"] = _norm_gap(module, wide(entering[:pictures]))
        found[name] = part
    return found


def row(found: Mapping[str, Any]) -> dict[str, float]:
    """Quantity -> number, of an activation and of what was measured of it.

    Gradients are those of a picture's own loss.

    mean, spread       of the values, the spread as standard deviation
    zeros              share of exact zeros
    saturated          of a ReLU, share of zeros; of a sigmoid, share below 0.01 and above 0.99
    nonfinite          1 if any value is NaN or infinite, else 0
    gradient_...       the same of the gradient; gradient_norm is the root mean square of the pictures' norms
    norm_gap           of a batch norm, how far its moving averages are from the batch: the mean over the
                       channels of the Kullback-Leibler divergence, in nats, of the normal distributions
    """
    mean, spread, zeros, _ = map(float, found["values"])
    result = {"mean": mean, "spread": spread, "zeros": zeros, "nonfinite": float(not math.isfinite(mean))}
    if "positive" in found:
        result["saturated"] = zeros
    if "gradient" in found:
        count = int(found["count"])  # the loss is the mean over so many pictures
        mean, spread, zeros, norm = map(float, found["gradient"])
        result |= {"gradient_mean": count * mean, "gradient_spread": count * spread, "gradient_zeros": zeros}
        result["gradient_norm"] = count * norm
    return result | {key: float(found[key]) for key in ("saturated", "norm_gap") if key in found}


_ANY = tf.TensorSpec(None, tf.float32)


@functools.cache
def _moments(pictures: int | None, dtype: tf.DType) -> Any:
    """x -> float32 [4]: mean, standard deviation, share of zeros, root mean square of the pictures' norms."""

    @once([tf.TensorSpec(None, dtype)])
    def moments(x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x[:pictures], tf.float32)
        size = tf.cast(tf.size(x), tf.float32)
        mean, square = tf.reduce_mean(x), 2 * tf.nn.l2_loss(x)
        zeros = 1 - tf.math.count_nonzero(x, dtype=tf.float32) / size
        norm = tf.sqrt(square / tf.cast(tf.shape(x)[0], tf.float32))
        return tf.stack([mean, tf.sqrt(tf.nn.relu(square / size - mean**2)), zeros, norm])

    return moments


@functools.cache
def _positive(pictures: int | None, dtype: tf.DType) -> Any:
    """x -> bool [channels]: which are positive anywhere."""

    @once([tf.TensorSpec(None, dtype)])
    def positive(x: tf.Tensor) -> tf.Tensor:
        x = x[:pictures]
        return tf.reduce_any(tf.reshape(x, [-1, tf.shape(x)[-1]]) > 0, 0)

    return positive


@once([_ANY, _ANY, _ANY, tf.TensorSpec([], tf.float32)])
def _divergence(x: tf.Tensor, moving_mean: tf.Tensor, moving_variance: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(tf.reshape(x, [-1, tf.size(moving_mean)]), 0)
    ratio = (variance + epsilon) / (moving_variance + epsilon)
    shift = (mean - moving_mean) ** 2 / (moving_variance + epsilon)
    return tf.reduce_mean(0.5 * (ratio + shift - 1 - tf.math.log(ratio)))


def _norm_gap(norm: BatchNorm, x: tf.Tensor) -> tf.Tensor:
    return _divergence(x, norm.moving_mean, norm.moving_variance, norm.epsilon)


def _module(layer: Any) -> tuple[Any, Mapping[str, Any]]:
    """The module that a layer applies, and with which keywords."""
    return (layer.func, layer.keywords) if isinstance(layer, partial) else (layer, {})


def picture_squares(watch: Watch, names: Iterable[str], pictures: int | None = None) -> dict[str, tf.Tensor]:
    """The square of the norm of each picture's own gradient, for the variables `names`: name -> float32 [N].

    It is taken from what each layer was given and what came back to its output; nothing is run again. Of the batch the
    first `pictures` are looked at, or all. Left out are variables of layers that cannot tell
    (`gradient_squares`), and where some pictures are looked at those of batch norms that use the batch's statistics.

    With batch norm below or above, a picture's gradient is its part in the batch's gradient, times N: the others reach
    that part through the statistics.
    """
    wanted = set(names)
    squares: dict[str, tf.Tensor] = {}
    for name, (layer, x) in watch.entered.items():
        module, options = _module(layer)
        gradient = watch.gradients.get(name)
        if gradient is None or not hasattr(module, "gradient_squares") or not any(_of(name, wanted)):
            continue
        if isinstance(module, BatchNorm) and options["train"] and not module.frozen and pictures is not None:
            continue  # the statistics of the batch do not follow from some of its pictures
        found = module.gradient_squares(wide(x[:pictures]), wide(gradient[:pictures]), **options)
        scale = tf.cast(tf.shape(x)[0], tf.float32) ** 2
        squares |= {f"{name}/{key}": scale * value for key, value in found.items() if f"{name}/{key}" in wanted}
    return squares


def _of(layer: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.rpartition("/")[0] == layer)

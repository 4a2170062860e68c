"""What a step does to each variable: sizes, histograms and directions of the gradients that it applies."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from barenets.look.histograms import EXACT_BELOW, SAMPLE, Histogram, count_bits, once, sample
from barenets.ops import fold_in


def observe(
    variables: Mapping[str, tf.Variable],
    gradients: Mapping[str, tf.Tensor],
    squares: Mapping[str, tf.Tensor],
    rng: tf.Tensor,
    *,
    exact: bool,
) -> dict[str, Any]:
    """Before the update: for each name the counts and the largest of gradient and variable, in the graph.

    `squares` are the sums of the gradients' squares, which the step has anyway. Tensors of more than
    EXACT_BELOW values are counted in a sample of SAMPLE, drawn anew at each step from `rng`, unless `exact`.
    """
    seen = {}
    for name, gradient in gradients.items():
        gradient, value = tf.reshape(gradient, [-1]), tf.reshape(variables[name], [-1])
        size = gradient.shape[0]
        part = _before(size, exact)(gradient, value, rng if size <= SAMPLE else fold_in(rng, name))
        seen[name] = {**part, "square": squares[name]}
    return seen


@functools.cache
def _before(size: int, exact: bool) -> Any:
    vector = tf.TensorSpec([size], tf.float32)

    @once([vector, vector, tf.TensorSpec([2], tf.int32)])
    def before(gradient: tf.Tensor, value: tf.Tensor, rng: tf.Tensor) -> dict[str, tf.Tensor]:
        drawn = None if size <= SAMPLE else sample(size, rng)
        old = value if drawn is None else tf.gather(value, drawn)
        whole = exact or size <= EXACT_BELOW
        return {
            "gradient": count_bits(gradient if whole else tf.gather(gradient, drawn)),
            "variable": count_bits(value if whole else old),
            "largest": tf.maximum(tf.reduce_max(gradient), -tf.reduce_min(gradient)),
            "old": old,
            "drawn": tf.range(size) if drawn is None else drawn,
        }

    return before


def observe_update(variables: Mapping[str, tf.Variable], seen: Mapping[str, Any]) -> dict[str, Any]:
    """After the update: `seen` with the update-to-weight ratio, in the place of the values it came from.

    Of a variable of more than SAMPLE values it is that of a sample.
    """
    result = {}
    for name, part in seen.items():
        ratio = _after(tf.reshape(variables[name], [-1]), part["old"], part["drawn"])
        result[name] = {key: part[key] for key in ("gradient", "variable", "square", "largest")} | {"ratio": ratio}
    return result


@once([*[tf.TensorSpec([None], tf.float32)] * 2, tf.TensorSpec([None], tf.int32)])
def _after(value: tf.Tensor, old: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(tf.norm(tf.gather(value, drawn) - old), tf.norm(old))


def layer_sizes(
    seen: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, dict[str, float]], dict[str, Histogram]]:
    """From a watched step: name -> quantity -> number, and tag (`gradients/fc8/weights`) -> histogram.

    `sizes` are the numbers of values by name, in the network's order.
    """
    quantities, histograms = {}, {}
    for name, size in sizes.items():
        part = seen[name]
        gradient = Histogram(part["gradient"].numpy(), size)
        histograms[f"gradients/{name}"] = gradient
        histograms[f"variables/{name}"] = Histogram(part["variable"].numpy(), size)
        square = float(part["square"])
        quantities[name] = {
            "norm": math.sqrt(square),
            "rms": math.sqrt(square / size),
            "largest": float(part["largest"]),
            "zeros": gradient.zeros,
            "update_ratio": float(part["ratio"]),
        }
        if gradient.nans or gradient.infinities:
            quantities[name] |= {"nans": gradient.nans, "infinities": gradient.infinities}
    return quantities, histograms


def directions(gradients: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Of each gradient the same values at each step, float32 [at most SAMPLE], to take angles between steps from.

    The angle between two samples of SAMPLE values is that between the whole tensors to about 1 / √SAMPLE, 0.2 degrees.
    """
    seen = {}
    for name, gradient in gradients.items():
        gradient = tf.reshape(gradient, [-1])
        size = gradient.shape[0]
        seen[name] = (
            gradient if size <= SAMPLE else tf.gather(gradient, sample(size, fold_in(tf.constant([0, 0]), name)))
        )
    return seen

"""What a step does to each layer: sizes and histograms of gradients and variables, as numbers and a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from barenets.look.histograms import EXACT_BELOW, SAMPLE, Histogram, count_bits, sample
from barenets.ops import aligned, fold_in
from barenets.weights import files

QUANTITIES = ("norm", "rms", "largest", "zeros", "update_ratio")
"""What is said of a variable's gradient: its norm, root mean square, largest magnitude and share of zeros,
and the norm of the change of the variable over the norm of the variable."""


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
        drawn = None if size <= SAMPLE else sample(size, fold_in(rng, name))
        old = value if drawn is None else tf.gather(value, drawn)
        whole = exact or size <= EXACT_BELOW
        seen[name] = {
            "gradient": count_bits(gradient if whole else tf.gather(gradient, drawn)),
            "variable": count_bits(value if whole else old),
            "square": squares[name],
            "largest": tf.maximum(tf.reduce_max(gradient), -tf.reduce_min(gradient)),
            "old": old,
            "drawn": tf.range(size) if drawn is None else drawn,
        }
    return seen


def observe_update(variables: Mapping[str, tf.Variable], seen: Mapping[str, Any]) -> dict[str, Any]:
    """After the update: `seen` with the update-to-weight ratio, in the place of the values it came from.

    Of a variable of more than SAMPLE values it is that of a sample.
    """
    result = {}
    for name, part in seen.items():
        new = tf.gather(tf.reshape(variables[name], [-1]), part["drawn"])
        ratio = tf.math.divide_no_nan(tf.norm(new - part["old"]), tf.norm(part["old"]))
        result[name] = {key: part[key] for key in ("gradient", "variable", "square", "largest")} | {"ratio": ratio}
    return result


def layer_sizes(
    seen: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[dict[str, dict[str, float]], dict[str, Histogram]]:
    """From a watched step: name -> QUANTITIES, and tag (`gradients/fc8/weights`) -> histogram.

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


History = Mapping[int, Mapping[str, Mapping[str, float]]]
"""Step -> name -> quantity -> value."""


def _median(history: History, steps: Sequence[int], name: str, quantity: str) -> float:
    return float(np.median([history[step][name][quantity] for step in steps]))


def _last(history: History) -> list[int]:
    """The last tenth of the steps, at least one: what training ended with, without one step's noise."""
    steps = sorted(history)
    return steps[-max(1, len(steps) // 10) :]


def gradient_table(history: History) -> str:
    """The sizes of each variable's gradient at the first step and, as medians, over the last tenth of them."""
    first, last = min(history), _last(history)
    rows: list[tuple[str, ...]] = [("variable", "first rms", "rms", "norm", "largest", "zeros", "update/weight")]
    for name in history[first]:
        now = {quantity: _median(history, last, name, quantity) for quantity in QUANTITIES}
        rows.append(
            (
                name,
                f"{history[first][name]['rms']:.2e}",
                *(f"{now[quantity]:.2e}" for quantity in ("rms", "norm", "largest")),
                f"{now['zeros']:.1%}",
                f"{now['update_ratio']:.2e}",
            )
        )
    return aligned(rows)


def draw_gradients(history: History, path: str, title: str) -> None:
    """A PNG at `path`: across, the layers in the network's order; up, on a log scale, the sizes of
    gradients and of updates, kernels and biases apart, at the first step and over the last tenth.
    """
    import matplotlib.figure  # a second of start-up that most commands need not pay

    first, last = min(history), _last(history)
    names = list(history[first])
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    figure = matplotlib.figure.Figure(figsize=(max(6.0, 1.0 + 0.8 * len(layers)), 7.0), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, quantity, label in (
        (panels[0], "rms", "gradient, root mean square"),
        (panels[1], "update_ratio", "update / weight, norms"),
    ):
        logarithmic = False
        for kind, colour in (("weights", "tab:blue"), ("biases", "tab:orange")):
            of_kind = [name for name in names if name.endswith("/" + kind)]
            across = [layers.index(name.rpartition("/")[0]) for name in of_kind]
            if not of_kind:
                continue
            series = np.array([[history[step][name][quantity] for step in sorted(history)] for name in of_kind])
            logarithmic |= bool((series > 0).any())
            start = [history[first][name][quantity] for name in of_kind]
            now = [_median(history, last, name, quantity) for name in of_kind]
            low, high = np.nanpercentile(series, [10, 90], axis=1)
            panel.plot(across, start, "o:", color=colour, alpha=0.6, label=f"{kind}, first step")
            panel.plot(across, now, "o-", color=colour, label=f"{kind}, at the end")
            panel.fill_between(across, low, high, color=colour, alpha=0.15, label=f"{kind}, 10–90 % of steps")
        if logarithmic:
            panel.set_yscale("log", nonpositive="mask")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[1].axhline(1e-3, color="grey", linestyle="--", linewidth=1)
    panels[1].annotate("10⁻³: a common rule of thumb", (0, 1e-3), color="grey", fontsize=8, va="bottom")
    panels[1].set_xticks(range(len(layers)), layers, rotation=45 if len(layers) > 8 else 0)
    panels[0].set_title(title)
    panels[0].legend(fontsize=8)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)

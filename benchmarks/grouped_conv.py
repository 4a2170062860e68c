"""Convolution in groups: split, convolve and join, or TensorFlow's own shallower kernel.

    python -m benchmarks.grouped_conv [--quick]

Compares `barenets.ops.Conv2D(groups=2)`, which splits, with `tf.nn.conv2d` given the kernel of depth
channels / 2 as it is, in a tf.function, with and without XLA, on conv2 of AlexNet at batch 128, forward and
forward with both gradients, interleaved. Where TensorFlow refuses, its message stands below the table.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from barenets.ops import Conv2D
from benchmarks.timing import Table, comparison, interleaved, parser, report

OURS = "barenets"


def forward(op: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, kernel: tf.Variable, dy: tf.Tensor) -> list[tf.Tensor]:
    return [op(x)]


def forward_and_backward(
    op: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, kernel: tf.Variable, dy: tf.Tensor
) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    return [y, *tape.gradient(y, [x, kernel], dy)]


def compare(passes: Callable[..., list[tf.Tensor]], batch: int, rounds: int) -> Table:
    conv = Conv2D(96, 256, 5, padding=2, groups=2)
    x = tf.random.stateless_normal((batch, 27, 27, 96), (0, 1))
    dy = tf.random.stateless_normal((batch, 27, 27, 256), (0, 2))

    def native(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(tf.nn.conv2d(x, conv.weights, 1, "SAME"), conv.biases)

    def call(op: Callable[[tf.Tensor], tf.Tensor], **options: bool) -> Callable[[], list[tf.Tensor]]:
        traced = tf.function(lambda x, dy: passes(op, x, conv.weights, dy), **options)
        return partial(traced, x, dy)

    calls = {
        OURS: call(conv),
        "barenets in XLA": call(conv, jit_compile=True),
        "tf.nn.conv2d": call(native),
        "tf.nn.conv2d in XLA": call(native, jit_compile=True),
    }
    expected = [part.numpy() for part in calls[OURS]()]
    notes = []
    for name in list(calls):
        try:
            parts = [part.numpy() for part in calls[name]()]
        except (tf.errors.OpError, ValueError) as error:
            notes.append(f"{name}: refused, {_reason(error)}")
            del calls[name]
            continue
        for got, wanted in zip(parts, expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
    title = f"Two groups, conv2 {batch}×27×27×96 → 256, {passes.__name__.replace('_', ' ')}"
    return comparison(title, interleaved(calls, rounds), OURS, notes)


def _reason(error: Exception) -> str:
    """The sentence of TensorFlow's message that says why, without the list of calls."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "group" in line.lower() or "filter" in line), lines[0])[:300]


def main() -> None:
    args = parser(__doc__, rounds=20).parse_args()
    batch, rounds = (2, 2) if args.quick else (128, args.rounds)
    report([compare(passes, batch, rounds) for passes in (forward, forward_and_backward)], args.json)


if __name__ == "__main__":
    main()

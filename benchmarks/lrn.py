"""Local response normalization: ours, TensorFlow's kernel, and the floor, a copy.

    python -m benchmarks.lrn [--quick]

Compares `barenets.ops.local_response_normalization` (fast, and so compiled by XLA), the same with
fast=False, which is `tf.nn.local_response_normalization`, and x · 2, which reads and writes each value
once, forward and forward with backward, on what norm1 and norm2 of AlexNet see in a batch of 128. All run
inside a tf.function, interleaved. The differences are relative to the largest value.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from barenets.ops import local_response_normalization
from benchmarks.timing import Table, comparison, interleaved, parser, report

OURS, THEIRS, COPY = "barenets", "tf.nn.local_response_normalization", "copy"
VARIANTS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    OURS: local_response_normalization,
    THEIRS: partial(local_response_normalization, fast=False),
    COPY: lambda x: 2.0 * x,
}
SHAPES = {"norm1": (55, 55, 96), "norm2": (27, 27, 256)}


def forward(op: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
    return [op(x)]


def forward_and_backward(op: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dy: tf.Tensor) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = op(x)
    return [y, tape.gradient(y, x, dy)]


def compare(layer: str, passes: Callable[..., list[tf.Tensor]], batch: int, rounds: int) -> Table:
    shape = (batch, *SHAPES[layer])
    # As large as activations of pictures in 0..255 are, so that the norm differs from 1.
    x = tf.nn.relu(tf.random.stateless_normal(shape, (0, 1), stddev=50.0))
    dy = tf.random.stateless_normal(shape, (0, 2))
    calls = {name: partial(tf.function(partial(passes, op)), x, dy) for name, op in VARIANTS.items()}
    ours, theirs = ([result.numpy() for result in calls[name]()] for name in (OURS, THEIRS))
    differences = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)]
    if max(differences) > 1e-4:
        raise AssertionError(f"{layer}: ours differs from TensorFlow's by {max(differences):.1g}")
    words = " and ".join(f"{d:.1e} in {what}" for d, what in zip(differences, ("y", "dx"), strict=False))
    title = f"LRN, {layer} {'×'.join(map(str, shape))}, {passes.__name__.replace('_', ' ')}"
    return comparison(title, interleaved(calls, rounds), OURS, [f"Largest difference: {words}."])


def main() -> None:
    args = parser(__doc__, rounds=20).parse_args()
    batch, rounds = (2, 2) if args.quick else (128, args.rounds)
    cases = itertools.product(SHAPES, (forward, forward_and_backward))
    report([compare(layer, passes, batch, rounds) for layer, passes in cases], args.json)


if __name__ == "__main__":
    main()

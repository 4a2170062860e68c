"""Training and judging in 16 bits: where the pictures go in, where the logits come out, and float16's loss scale."""

from typing import Any

import tensorflow as tf

LARGEST = 2.0**24
"""A loss scale: from there on even the smallest number of float16, 2⁻²⁴, is a gradient of 2⁻⁴⁸."""


class InPrecision:
    """`net` computed in `precision`, one of `ops.PRECISIONS`: pictures and logits are float32 all the same.

    A tap sees activations in that precision.
    """

    def __init__(self, net: Any, precision: str) -> None:
        self._net, self._dtype = net, tf.as_dtype(precision)
        self.input_shape = net.input_shape

    def __call__(self, x: tf.Tensor, **options: Any) -> tf.Tensor:
        return tf.cast(self._net(tf.cast(x, self._dtype), **options), tf.float32)


class LossScale:
    """What float16's loss is multiplied by, so that small gradients do not vanish.

    It halves after a step whose gradients overflowed, down to 1, and doubles after `patience` steps in a row that did
    not (Micikevicius et al. 2018, section 3.2). It is a power of two: multiplying by it and dividing rounds nothing.
    """

    def __init__(self, value: float = 2.0**15, good_steps: int = 0, patience: int = 2000) -> None:
        self.variable = tf.Variable(value, trainable=False, dtype=tf.float32)
        self.good_steps, self._patience = good_steps, patience

    def to_json(self) -> dict[str, float | int]:
        """`value` and `good_steps`; `LossScale(**state)` goes on from there."""
        return {"value": float(self.variable), "good_steps": self.good_steps}

    def update(self, finite: bool) -> bool:
        """After a step: whether its gradients were finite, or will be computed with a smaller scale from now on."""
        value = float(self.variable)
        self.good_steps = self.good_steps + 1 if finite else 0
        if self.good_steps == self._patience:
            self.good_steps, value = 0, min(2 * value, LARGEST)
        lowered = not finite and value > 1
        self.variable.assign(value / 2 if lowered else value)
        return finite or lowered

"""Fully connected layer."""

import tensorflow as tf

from barenets.ops.initializers import Initializer, glorot_uniform
from barenets.ops.precision import like


class Dense(tf.Module):
    """y = x · weights + biases, with x [N, in_units], weights [in_units, out_units], biases [out_units]."""

    def __init__(
        self,
        in_units: int,
        out_units: int,
        *,
        bias: bool = True,
        initializer: Initializer | None = None,
        bias_value: float = 0.0,
        seed: tuple[int, int] = (0, 0),
        dtype: tf.DType = tf.float32,
    ) -> None:
        super().__init__()
        self.weights = tf.Variable((initializer or glorot_uniform())((in_units, out_units), seed, dtype))
        self.biases = tf.Variable(tf.fill([out_units], tf.cast(bias_value, dtype))) if bias else None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.matmul(x, like(self.weights, x))
        return y if self.biases is None else tf.nn.bias_add(y, like(self.biases, x))

    def gradient_squares(self, x: tf.Tensor, gradient: tf.Tensor) -> dict[str, tf.Tensor]:
        """The square of the norm of each picture's own gradient of `weights` and `biases`, float32 [N] each.

        `x` is what the layer was given, `gradient` that of its output: a picture's kernel gradient is their outer
        product (Goodfellow 2015, "Efficient Per-Example Gradient Computations").
        """
        own = tf.reduce_sum(tf.square(gradient), 1)
        squares = {"weights": tf.reduce_sum(tf.square(x), 1) * own}
        return squares if self.biases is None else squares | {"biases": own}

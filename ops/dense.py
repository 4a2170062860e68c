"""Fully connected layer."""

import tensorflow as tf

from barenets.ops.initializers import Initializer, glorot_uniform


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
        y = tf.matmul(x, self.weights)
        return y if self.biases is None else tf.nn.bias_add(y, self.biases)

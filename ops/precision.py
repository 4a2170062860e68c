"""Computing in 16 bits with variables of 32.

A layer computes in the type of what it is given. It casts its variables to that, and their gradients arrive in the
variables' own type. What 16 bits would ruin (squares, sums over a map) is computed in 32 and cast back.
"""

import tensorflow as tf

PRECISIONS = ("float32", "bfloat16", "float16")
"""float32 has 24 significant bits and reaches 3e38, bfloat16 has 8 and reaches as far, float16 has 11 and
reaches 65504."""


def like(variable: tf.Variable, x: tf.Tensor) -> tf.Tensor:
    """`variable` in the type of `x`; as it is, so that the operation refuses both, where `x` holds integers."""
    dtype = tf.as_dtype(x.dtype)
    return tf.cast(variable, dtype) if dtype.is_floating else variable


def wide(x: tf.Tensor) -> tf.Tensor:
    """`x`, floating, as float32 if it has fewer bits."""
    return x if tf.as_dtype(x.dtype).size >= 4 else tf.cast(x, tf.float32)

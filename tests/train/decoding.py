"""Decodes a picture in a process of its own (`tests.weights.reader`): TensorFlow's decoders are C and C++."""

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.train.data import pipeline


def decoded(path: str) -> np.ndarray:
    """The picture's pixels. Raises UserError with what a user is told."""
    try:
        return pipeline.decode(tf.io.read_file(path)).numpy()
    except tf.errors.OpError as error:
        raise UserError(f"{path}: {pipeline.reason(error)}") from None

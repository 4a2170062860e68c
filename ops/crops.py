"""Squares of a picture: the whole of it with a border, and ten pieces of it."""

import tensorflow as tf


def pad_resize(picture: tf.Tensor, size: int, value: float = 0.0, *, antialias: bool = True) -> tf.Tensor:
    """float32 [size, size, C]: `picture` [H, W, C] resized until it fits, its aspect kept, in the middle of `value`.

    The shorter side rounds to the nearest pixel, and is at least one; an odd border is wider below and on the right.
    """
    sides = tf.shape(picture, tf.int64)[:2]  # whose products with sizes may not fit into 32 bits
    longer = tf.reduce_max(sides)
    inner = tf.cast(tf.maximum((2 * sides * size + longer) // (2 * longer), 1), tf.int32)
    resized = tf.image.resize(picture, inner, "bilinear", antialias=antialias)
    before = (size - inner) // 2
    borders = tf.concat([tf.stack([before, size - inner - before], 1), [[0, 0]]], 0)
    padded = tf.pad(resized, borders, constant_values=value)
    return tf.ensure_shape(padded, [size, size, picture.shape[2]])


def ten_crop(picture: tf.Tensor, size: int) -> tf.Tensor:
    """[10, size, size, C] of a picture [H, W, C]: its four corners and its middle, then the five mirrored.

    What AlexNet's predictions are averaged over (2012 paper, section 4.1); corners in reading order. The picture
    must be at least `size` high and wide: TensorFlow raises InvalidArgumentError for a smaller one.
    """
    bottom, right = tf.unstack(tf.shape(picture)[:2] - size)
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = tf.stack([tf.slice(picture, [top, left, 0], [size, size, picture.shape[2]]) for top, left in places])
    return tf.concat([crops, crops[:, :, ::-1]], 0)

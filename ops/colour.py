"""Colour of a batch of pictures, with one parameter for each: float32 RGB [N, H, W, 3] in 0..255, in and out.

The parameters are float32 [N], or a number for all of them.
"""

from typing import Any

import tensorflow as tf

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, Pillow's "L"


def brightness(images: tf.Tensor, factors: Any) -> tf.Tensor:
    """`images` times `factors`, clipped to 0..255: Pillow's ImageEnhance.Brightness, Keras's `brightness_range`.

    Differs from Keras's `random_brightness`: that first stretches each picture to 0..255, so that its darkest value
    becomes black whatever the factor.
    """
    return _clipped(images * _each(factors))


def contrast(images: tf.Tensor, factors: Any) -> tf.Tensor:
    """The distance from the picture's mean luma times `factors`, clipped: Pillow's ImageEnhance.Contrast.

    The mean is rounded to a whole grey level, as in Pillow: sums of a picture depend on the batch it is in, by
    the order of their terms. (`tf.image.adjust_contrast` takes each channel's own mean, which also fades colours.)
    """
    mean = tf.round(tf.reduce_mean(_luma(images), [1, 2, 3], keepdims=True))
    return _clipped(images + (images - mean) * (_each(factors) - 1))


def saturation(images: tf.Tensor, factors: Any) -> tf.Tensor:
    """The distance from the pixel's luma times `factors`, clipped: Pillow's ImageEnhance.Color; 0 is grey."""
    return _clipped(images + (images - _luma(images)) * (_each(factors) - 1))


def hue(images: tf.Tensor, turns: Any) -> tf.Tensor:
    """The hue of HSV moved by `turns` of the colour circle (1/3: red becomes green); value and saturation stay."""
    turns = _each(turns)
    h, s, v = tf.unstack(tf.image.rgb_to_hsv(images / 255), axis=-1)
    moved = tf.image.hsv_to_rgb(tf.stack([(h + turns[..., 0]) % 1, s, v], -1)) * 255
    return tf.where(turns == 0, images, moved)  # there and back rounds


def channel_shift(images: tf.Tensor, amounts: Any) -> tf.Tensor:
    """`images` plus `amounts`, clipped to each picture's own darkest and brightest value: Keras's channel shift.

    In spite of its name it adds the same to all channels.
    """
    low, high = (f(images, [1, 2, 3], keepdims=True) for f in (tf.reduce_min, tf.reduce_max))
    return tf.clip_by_value(images + _each(amounts), low, high)


def rescale(images: tf.Tensor, factors: Any, offsets: Any = 0.0) -> tf.Tensor:
    """`images` times `factors` plus `offsets`, not clipped: Keras's `rescale`."""
    return images * _each(factors) + _each(offsets)


def noise(images: tf.Tensor, deviations: Any, seeds: tf.Tensor) -> tf.Tensor:
    """`images` plus Gaussian noise of standard deviation `deviations`, clipped to 0..255.

    A picture's noise is a function of its row of `seeds`, int32 [N, 2], not of its place in the batch.
    """
    shape = tf.shape(images)[1:]

    def drawn(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal(shape, seed, alg="philox")

    normal = tf.map_fn(drawn, seeds, fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32))
    return _clipped(images + normal * _each(deviations))


def _each(parameters: Any) -> tf.Tensor:
    """float32 [N, 1, 1, 1], or [1, 1, 1, 1] of a number."""
    return tf.reshape(tf.cast(parameters, tf.float32), [-1, 1, 1, 1])


def _luma(images: tf.Tensor) -> tf.Tensor:
    return tf.add_n([images[..., i : i + 1] * weight for i, weight in enumerate(_LUMA)])


def _clipped(images: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images, 0, 255)

"""Affine maps of a batch of pictures: one matrix and one interpolation for each, whatever it is composed of.

A matrix takes an OUTPUT pixel to the place of the input that it shows, in (x, y, 1) with x to the right and
y down, both counted from the picture's centre. So of two maps, first A and then B, the matrix is A @ B.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

INTERPOLATIONS = ("bilinear", "nearest")
FILLS = ("constant", "nearest", "reflect", "wrap")

_OUTSIDE, _MIXED = 1e30, 1e10  # no picture's value; what is left of it at the smallest weight still is none


def affine(
    images: Any, matrices: Any, interpolation: str = "bilinear", fill: str = "constant", value: float = 0.0
) -> tf.Tensor:
    """float32 [N, H, W, C]: each of `images`, float32 [N, H, W, C], under its own matrix, [N, 3, 3] or [N, 2, 3].

    A single picture [H, W, C] with a matrix [3, 3] or [2, 3] is taken too. Whole-pixel shifts, flips and
    quarter turns of a square are exact. What lies beyond the input's outermost pixel centres:

        constant   `value`, without a blend, as in Keras's ImageDataGenerator and SciPy's "constant"
        nearest    aaaa|abcd|dddd, as SciPy's "nearest"
        reflect    dcba|abcd|dcba, as SciPy's "reflect"
        wrap       abcd|abcd|abcd, as Keras documents it: SciPy's "grid-wrap". Keras itself calls SciPy's "wrap",
                   whose period is one pixel short: abc|abcd|bcd, so that a whole turn does not come back

    TensorFlow's ImageProjectiveTransformV3 does the work. Its own "constant" blends with `value` over one more
    pixel (SciPy's "grid-constant"), and its own "wrap" is none of SciPy's: these two are made up for here.
    Raises ValueError for another interpolation or fill.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"the interpolation is one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}")
    if fill not in FILLS:
        raise ValueError(f"the fill is one of {', '.join(FILLS)}, not {fill!r}")
    images = tf.cast(images, tf.float32)
    if images.shape.rank == 3:
        return affine(images[None], tf.cast(matrices, tf.float32)[None], interpolation, fill, value)[0]

    height, width = tf.shape(images)[1], tf.shape(images)[2]
    maps = _from_corner(tf.cast(matrices, tf.float32)[:, :2], height, width)
    if fill == "wrap":
        return _wrapped(images, *_places(maps, height, width), interpolation)

    blends = fill == "constant" and interpolation == "bilinear"
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.pad(tf.reshape(maps, [-1, 6]), [[0, 0], [0, 2]]),
        output_shape=[height, width],
        interpolation=interpolation.upper(),
        fill_mode=fill.upper(),
        fill_value=_OUTSIDE if blends else value,
    )
    if blends:  # any share of what is outside shows
        return tf.where(result > _MIXED, tf.constant(value, tf.float32), result)
    if fill == "constant":  # a pixel half outside is, too
        x, y = _places(maps, height, width)
        x_end, y_end = tf.cast(width - 1, tf.float32), tf.cast(height - 1, tf.float32)
        inside = (x >= 0) & (x <= x_end) & (y >= 0) & (y <= y_end)
        return tf.where(inside[..., None], result, tf.constant(value, tf.float32))
    return result


def _from_corner(matrices: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """[N, 2, 3] in pixels from the upper left pixel's centre, of `matrices` [N, 2, 3] about the picture's centre."""
    centre = tf.cast([width - 1, height - 1], tf.float32) / 2
    moved = matrices[..., 2] + (centre - tf.reduce_sum(matrices[..., :2] * centre, -1))
    return tf.concat([matrices[..., :2], moved[..., None]], -1)


def _places(maps: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x and y, float32 [N, H, W], of the place in the input that each output pixel shows."""
    rows, columns = tf.range(height)[:, None], tf.range(width)[None]
    rows, columns = tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
    terms = tf.unstack(maps[..., None, None], axis=2)  # [N, 2, 1, 1] each
    both = terms[0] * columns + (terms[1] * rows + terms[2])  # [N, 2, H, W]
    return both[:, 0], both[:, 1]


def _wrapped(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor, interpolation: str) -> tf.Tensor:
    height, width, channels = tf.unstack(tf.shape(images)[1:])
    count = tf.shape(images)[0]
    flat = tf.reshape(images, [count, height * width, channels])

    def pixels(column: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        column, row = tf.cast(column, tf.int32) % width, tf.cast(row, tf.int32) % height
        return tf.gather(flat, row * width + column, batch_dims=1)

    if interpolation == "nearest":
        return pixels(tf.floor(x + 0.5), tf.floor(y + 0.5))
    left, top = tf.floor(x), tf.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = pixels(left, top) * (1 - across) + pixels(left + 1, top) * across
    lower = pixels(left, top + 1) * (1 - across) + pixels(left + 1, top + 1) * across
    return upper * (1 - down) + lower * down


# Matrices, float32 [..., 3, 3], of parameters of any shape [...]


def rotation(degrees: Any) -> tf.Tensor:
    """Counter-clockwise by `degrees`; quarter turns are exact."""
    # Of a right angle the cosine would be a hair off 0, and border pixels a hair outside.
    cosine, sine = (tf.where(tf.abs(part) < 1e-6, 0.0, part) for part in _cosine_and_sine(degrees))
    return _matrix([[cosine, -sine, 0], [sine, cosine, 0]])


def shift(x: Any, y: Any) -> tf.Tensor:
    """By pixels, whole or not. As in Keras it is the view that moves: with x > 0 the picture goes LEFT, y > 0 up."""
    return _matrix([[1, 0, _floats(x)], [0, 1, _floats(y)]])


def shear(degrees: Any) -> tf.Tensor:
    """Keras's: the y axis leans by `degrees` and keeps its length, so that the picture grows by 1 / cos in y."""
    cosine, sine = _cosine_and_sine(degrees)
    return _matrix([[1, -sine, 0], [0, cosine, 0]])


def zoom(x: Any, y: Any) -> tf.Tensor:
    """Keras's: by 1 / x and 1 / y. Above 1 the picture gets smaller, as if it were further away."""
    return _matrix([[_floats(x), 0, 0], [0, _floats(y), 0]])


def flip(horizontal: Any, vertical: Any) -> tf.Tensor:
    """Left and right exchanged where `horizontal`, top and bottom where `vertical` (bool)."""
    x, y = (tf.where(tf.cast(flag, tf.bool), -1.0, 1.0) for flag in (horizontal, vertical))
    return _matrix([[x, 0, 0], [0, y, 0]])


def composed(matrices: Iterable[tf.Tensor]) -> tf.Tensor:
    """The product of matrices, float32 [..., 3, 3]: the first map, then the next, and so on.

    Unlike `@`, which takes a lone matrix by another routine than many, it depends on nothing but each matrix.
    """

    def product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.add_n([a[..., :, i : i + 1] * b[..., i : i + 1, :] for i in range(3)])

    return functools.reduce(product, matrices)


def of_each(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """float32 `function(x)` that depends on nothing but each x.

    TensorFlow takes most of a tensor eight numbers at a time and the rest by another routine, which may round
    otherwise, so that the last bit depends on the place in the batch. In float64 that is far behind float32's last bit.
    """
    return tf.cast(function(tf.cast(x, tf.float64)), tf.float32)


def _cosine_and_sine(degrees: Any) -> tuple[tf.Tensor, tf.Tensor]:
    radians = tf.cast(degrees, tf.float64) * (math.pi / 180)
    return of_each(tf.cos, radians), of_each(tf.sin, radians)


def _floats(values: Any) -> tf.Tensor:
    return tf.cast(values, tf.float32)


def _matrix(rows: list[list[Any]]) -> tf.Tensor:
    entries = [_floats(entry) for row in [*rows, [0, 0, 1]] for entry in row]
    shape = tf.shape(entries[0])
    for entry in entries[1:]:
        shape = tf.broadcast_dynamic_shape(shape, tf.shape(entry))
    flat = tf.stack([tf.broadcast_to(entry, shape) for entry in entries], -1)
    return tf.reshape(flat, tf.concat([shape, [3, 3]], 0))

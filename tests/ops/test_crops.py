"""Resizing with a border, and ten pieces, against Pillow and slices."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from barenets.ops.crops import pad_resize, ten_crop


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size", "inner"),
    [
        (20, 40, 16, (8, 16)),
        (40, 20, 16, (16, 8)),
        (30, 31, 16, (15, 16)),
        (16, 16, 16, (16, 16)),
        (1, 1, 5, (5, 5)),
        (1, 100, 8, (1, 8)),
        (5, 9, 27, (15, 27)),
        (1, 4_300_000, 256, (1, 256)),  # 2 * 4,300,000 * 256 does not fit into 32 bits
    ],
)
def test_pad_resize(height, width, size, inner):
    image = picture(height, width)
    found = pad_resize(tf.constant(image), size, 7.0).numpy()
    assert (found.shape, found.dtype) == ((size, size, 3), np.float32)
    top, left = ((size - side) // 2 for side in inner)
    shown = found[top : top + inner[0], left : left + inner[1]]
    expected = np.asarray(Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR), np.float32)
    assert np.abs(shown - expected).max() <= 1  # Pillow rounds, after each of two passes
    border = np.ones([size, size], bool)
    border[top : top + inner[0], left : left + inner[1]] = False
    assert (found[border] == 7).all()


def test_a_picture_of_the_size_is_left_alone():
    np.testing.assert_array_equal(pad_resize(tf.constant(picture(9, 9)), 9), picture(9, 9))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 11, 5), (5, 5, 5), (1, 1, 1), (7, 6, 6)])
def test_ten_crop(height, width, size):
    image = picture(height, width)
    found = ten_crop(tf.constant(image), size).numpy()
    h, w = height - size, width - size
    five = [image[y : y + size, x : x + size] for y, x in [(0, 0), (0, w), (h, 0), (h, w), (h // 2, w // 2)]]
    np.testing.assert_array_equal(found, [*five, *(crop[:, ::-1] for crop in five)])
    in_graph = tf.function(lambda x: ten_crop(x, size), input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    np.testing.assert_array_equal(in_graph(image), found)


def test_ten_crops_of_too_small_a_picture():
    with pytest.raises(tf.errors.InvalidArgumentError):
        ten_crop(tf.constant(picture(4, 9)), 5)

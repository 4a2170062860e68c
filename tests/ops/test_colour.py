"""Colour against Pillow, the standard library's colorsys and NumPy."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy import stats

from barenets.ops import colour

FACTORS = np.array([0.0, 0.3, 1.0, 1.4, 3.0], np.float32)


def pictures(n: int = 5, height: int = 9, width: int = 12, seed: int = 0) -> np.ndarray:
    """Whole numbers, as Pillow wants them, with greys, black and white among them."""
    images = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3)).astype(np.float32)
    images[:, 0] = images[:, 0, :, :1]
    if height > 1:
        images[:, 1, 0], images[:, 1, 1] = 0, 255
    return images


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (colour.brightness, ImageEnhance.Brightness, 1.0),  # Pillow cuts off what is behind the point
        # ... and in Contrast counts the mean from grey levels rounded before, in Color rounds the grey itself.
        (colour.contrast, ImageEnhance.Contrast, 1.0),
        (colour.saturation, ImageEnhance.Color, 2.0),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_pillow(ours, theirs, tolerance):
    images = pictures()
    found = ours(tf.constant(images), FACTORS).numpy()
    for image, factor, mine in zip(images, FACTORS, found, strict=True):
        expected = np.asarray(theirs(Image.fromarray(image.astype(np.uint8))).enhance(float(factor)), np.float32)
        assert np.abs(mine - expected).max() <= tolerance
    np.testing.assert_array_equal(found[2], images[2])  # the factor 1


def test_contrast_and_saturation_by_a_loop():
    """Without Pillow's rounding of pixels, so within float32's."""
    images = pictures()
    luma = images.astype(np.float64) @ [0.299, 0.587, 0.114]
    contrast, saturation = (f(tf.constant(images), FACTORS).numpy() for f in (colour.contrast, colour.saturation))
    for i, factor in enumerate(FACTORS):
        mean = np.round(luma[i].mean())
        expected = np.clip(mean + factor * (images[i] - mean), 0, 255)
        np.testing.assert_allclose(contrast[i], expected, atol=1e-3)
        expected = np.clip(luma[i, ..., None] + factor * (images[i] - luma[i, ..., None]), 0, 255)
        np.testing.assert_allclose(saturation[i], expected, atol=1e-3)


def test_brightness_does_not_stretch():
    """keras-preprocessing#114: its factor 1 turned the darkest value black and the brightest white."""
    image = np.full([1, 2, 2, 3], 80, np.float32)
    image[0, 0, 0] = 120
    np.testing.assert_array_equal(colour.brightness(image, 1.0), image)
    np.testing.assert_allclose(colour.brightness(image, [1.5]), image * 1.5)


def test_hue():
    images = pictures()
    turns = np.array([0, 1 / 3, -0.25, 0.5, 0.07], np.float32)
    found = colour.hue(tf.constant(images), turns).numpy()
    for image, turn, mine in zip(images, turns, found, strict=True):
        for place in np.ndindex(image.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255.0))
            expected = np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255
            np.testing.assert_allclose(mine[place], expected, atol=1e-2)  # float32, there and back
    np.testing.assert_array_equal(found[0], images[0])
    # Pillow keeps hue, saturation and value in 8 bits each.
    h, s, v = Image.fromarray(images[1].astype(np.uint8)).convert("HSV").split()
    h = h.point(lambda value: (value + 85) % 256)
    pillow = np.asarray(Image.merge("HSV", (h, s, v)).convert("RGB"), np.float32)
    assert np.abs(found[1] - pillow).mean() < 2


def test_channel_shift_is_kerass():
    from keras.src.legacy.preprocessing.image import apply_channel_shift

    images = pictures() * 0.5 + 40
    amounts = np.array([-90, -10, 0, 7.5, 200], np.float32)
    found = colour.channel_shift(tf.constant(images), amounts).numpy()
    for image, amount, mine in zip(images, amounts, found, strict=True):
        np.testing.assert_array_equal(mine, apply_channel_shift(image, amount, channel_axis=2))


def test_rescale():
    images = pictures()
    np.testing.assert_allclose(colour.rescale(images, 1 / 255), images / 255, rtol=1e-6)
    found = colour.rescale(images, FACTORS, -FACTORS)
    np.testing.assert_allclose(found, (images - 1) * FACTORS[:, None, None, None], atol=1e-3)


def test_noise():
    """Normal of the deviation asked for, clipped, and a function of the picture's seed only."""
    grey = tf.fill([3, 40, 40, 3], 128.0)
    seeds = tf.constant([[1, 2], [3, 4], [1, 2]])
    found = colour.noise(grey, [5.0, 20.0, 5.0], seeds).numpy()
    for noisy, deviation in zip(found, [5, 20, 5], strict=True):
        assert stats.kstest((noisy.ravel() - 128) / deviation, "norm").pvalue > 0.001
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(colour.noise(grey[1:2], [20.0], seeds[1:2])[0], found[1])
    np.testing.assert_array_equal(colour.noise(grey, 0.0, seeds), grey)
    black = colour.noise(tf.zeros([1, 9, 9, 3]), 10.0, seeds[:1]).numpy()
    assert black.min() == 0 < black.max()


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "channel_shift", "rescale", "noise"])
def test_single_pixels_and_empty_batches(n, name):
    images, parameters = pictures(n, 1, 1) if n else np.zeros([0, 1, 1, 3], np.float32), np.full([n], 0.3, np.float32)
    more = [np.ones([n, 2], np.int32)] if name == "noise" else []
    found = getattr(colour, name)(tf.constant(images), parameters, *more)
    assert found.shape == images.shape
    assert np.isfinite(found).all()

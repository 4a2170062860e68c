"""Preprocessing against OpenCV, Pillow and arithmetic by hand."""

from __future__ import annotations

import dataclasses
import json
import resource

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import Preprocessing
from barenets.ops.crops import ten_crop

BGR = {"channels": "BGR", "mean": (104.0, 117.0, 123.0)}
TORCH = {"scale": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INCEPTION = {"scale": 127.5, "mean": (1.0, 1.0, 1.0)}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise: of all pictures the one on which two ways of resizing differ most."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def of(crop: int = 8, resize: int = 8, **options) -> Preprocessing:
    return Preprocessing(crop=crop, resize=resize, **options)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 61), (64, 17), (5, 9), (16, 16)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_resized_is_opencvs_without_antialias(height, width, keep_aspect):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference of this test")
    image = picture(height, width)
    ours = of(16, 16, keep_aspect=keep_aspect, antialias=False).resized(tf.constant(image)).numpy()
    assert_sides(ours, image, 16, keep_aspect)
    theirs = cv2.resize(image.astype(np.float32), ours.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    # Positions in float32 on a side of 64 are right to 4e-6, times a slope of up to 255 a pixel.
    np.testing.assert_allclose(ours, theirs, atol=4e-3)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 61), (64, 17), (5, 9), (16, 16)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_resized_is_pillows_with_antialias(height, width, keep_aspect):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is the reference of this test")
    image = picture(height, width)
    ours = of(16, 16, keep_aspect=keep_aspect).resized(tf.constant(image)).numpy()
    assert_sides(ours, image, 16, keep_aspect)
    sides, bilinear = ours.shape[1::-1], image_module.Resampling.BILINEAR
    planes = [image_module.fromarray(image[..., c].astype(np.float32)).resize(sides, bilinear) for c in range(3)]
    # In floating point Pillow does the same sums: float32, as above.
    np.testing.assert_allclose(ours, np.stack([np.asarray(plane) for plane in planes], -1), atol=4e-3)
    # In bytes it rounds after each of the two axes, half a grey level at most each time.
    theirs = np.asarray(image_module.fromarray(image).resize(sides, bilinear), np.float64)
    assert np.max(np.abs(ours - theirs)) < 1.01


def assert_sides(resized: np.ndarray, image: np.ndarray, resize: int, keep_aspect: bool) -> None:
    """The shorter side is `resize`, the longer too or, if the aspect is kept, in proportion to a pixel."""
    assert (resized.dtype, resized.shape[2]) == (np.float32, 3)
    if not keep_aspect:
        assert resized.shape == (resize, resize, 3)
        return
    sides, was = np.array(resized.shape[:2]), np.array(image.shape[:2])
    assert sides[was.argmin()] == resize
    assert np.all(np.abs(sides - was * resize / was.min()) < 1)
    assert np.all(sides >= resize)


@pytest.mark.parametrize("antialias", [True, False])
def test_resized_leaves_a_picture_of_the_right_size(antialias):
    image = picture(16, 16)
    np.testing.assert_array_equal(of(16, 16, antialias=antialias).resized(tf.constant(image)), image)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 12), (11, 13), (9, 8)])  # none is resized
def test_centre_crop(height, width):
    image = picture(height, width).astype(np.float32)
    top, left = (height - 8) // 2, (width - 8) // 2  # an odd pixel is left below and on the right
    ours = of(8, min(height, width)).centre_crop(tf.constant(image))
    np.testing.assert_array_equal(ours, image[top : top + 8, left : left + 8])


def test_crop_at():
    image = picture(10, 12).astype(np.float32)
    np.testing.assert_array_equal(of(8, 8).crop_at(tf.constant(image), tf.constant([2, 3])), image[2:10, 3:11])


SCALED_FRAMES = [
    {"keep_aspect": keep_aspect, "antialias": antialias} for keep_aspect in (True, False) for antialias in (True, False)
]


@pytest.mark.parametrize("options", SCALED_FRAMES, ids=str)
@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 61), (64, 17), (5, 9), (16, 16), (1, 1), (300, 401)])
def test_framed_is_a_crop_of_the_resized(height, width, options):
    """At every corner and in the middle, to float32 rounding of positions up to 401, times slopes of up to 255."""
    image, preprocessing = tf.constant(picture(height, width)), of(11, 16, **options)
    whole, room = preprocessing.resized(image), preprocessing.room(image).numpy()
    np.testing.assert_array_equal(room, np.array(whole.shape[:2]) - 11)
    for share in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)):
        offset = (room * share).astype(np.int32)
        ours = preprocessing.framed(image, tf.constant(offset))
        assert (ours.shape, ours.dtype) == ((11, 11, 3), tf.float32)
        np.testing.assert_allclose(ours, preprocessing.crop_at(whole, offset), rtol=0, atol=5e-3)
    np.testing.assert_array_equal(preprocessing.centre_crop(image), preprocessing.framed(image, room // 2))


@pytest.mark.parametrize("antialias", [True, False])
def test_a_sliver_takes_no_more_memory_than_it_shows(antialias):
    """Resized, 2 × 200,000 pixels would be 16 × 1,600,000, or 300 MB."""
    image = np.repeat(picture(2, 20_000), 10, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    middle = of(8, 16, antialias=antialias).centre_crop(tf.constant(image)).numpy()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
    ours = of(8, 16, antialias=antialias).centre_crop(tf.constant(image[:, 99_990:100_010]))
    np.testing.assert_allclose(middle, ours, atol=10)  # where a float32 counts 1,600,000 pixels it has 1/8 of one


@pytest.mark.parametrize("antialias", [True, False])
def test_the_sides_of_a_longer_sliver_need_64_bits(antialias):
    """Resized, 1 × 90,000 pixels would be 30,000 × 2,700,000,000."""
    sliver = np.repeat(np.arange(225, dtype=np.uint8), 400)[None, :, None].repeat(3, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_allclose(of(1, 30_000, antialias=antialias).centre_crop(tf.constant(sliver)), 112, atol=1e-3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


def test_ten_crops_are_of_the_middle_square():
    """AlexNet's 2012 paper, section 4.1: ten pieces of 224 × 224 of the middle 256 × 256."""
    image = picture(8, 15)
    square = image[:, 3:11].astype(np.float32)
    np.testing.assert_array_equal(of(6, 8).ten_crops(tf.constant(image)), ten_crop(tf.constant(square), 6))


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_normalized_by_hand(leading):
    """One pixel, RGB (200, 100, 50)."""
    pixel = tf.broadcast_to(tf.constant([200.0, 100.0, 50.0]), [*leading, 1, 1, 3])
    expected = {
        "RGB": ({}, [200, 100, 50]),
        "BGR": (BGR, [50 - 104, 100 - 117, 200 - 123]),
        "torch": (
            TORCH,
            [(200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225],
        ),
        "Inception": (INCEPTION, [200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1]),
        "BGR, scaled": (
            {"channels": "BGR", "scale": 2.0, "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)},
            [(25 - 1) / 4, (50 - 2) / 5, (100 - 3) / 6],
        ),
    }
    for name, (options, value) in expected.items():
        ours = of(**options).normalized(pixel)
        assert (tuple(ours.shape), ours.dtype) == ((*leading, 1, 1, 3), tf.float32)
        # Three float32 operations, and a difference that loses a digit.
        np.testing.assert_allclose(ours, np.broadcast_to(value, ours.shape), rtol=3e-6, err_msg=name)


def test_whole_numbers_are_numbers():
    whole = of(channels="BGR", scale=2, mean=(104, 117, 123), std=(1, 2, 3))
    exact = of(channels="BGR", scale=2.0, mean=(104.0, 117.0, 123.0), std=(1.0, 2.0, 3.0))
    pixels = tf.constant(picture(2, 2), tf.float32)
    np.testing.assert_array_equal(whole.normalized(pixels), exact.normalized(pixels))
    np.testing.assert_array_equal(whole.pictures(pixels / 3), exact.pictures(pixels / 3))


@pytest.mark.parametrize("options", [{}, BGR, TORCH, INCEPTION], ids=["RGB", "BGR", "torch", "Inception"])
def test_pictures_inverts_normalized(options):
    greys = np.arange(256, dtype=np.uint8)
    images = np.stack([greys, np.roll(greys, 80), greys[::-1]], -1).reshape(2, 16, 8, 3)
    preprocessing = of(**options)
    back = preprocessing.pictures(preprocessing.normalized(tf.constant(images, tf.float32)))
    assert back.dtype == tf.uint8
    np.testing.assert_array_equal(back, images)


def test_pictures_rounds_and_saturates():
    """Values between or beyond the grey levels: to the nearest, and never round the corner."""
    inputs = tf.constant([[[[-30.0, 0.4, 0.6], [254.6, 255.4, 300.0]]]])
    np.testing.assert_array_equal(of().pictures(inputs), [[[[0, 0, 1], [255, 255, 255]]]])


def test_to_json():
    preprocessing = of(227, 256, keep_aspect=False, antialias=False, **BGR)
    back = json.loads(json.dumps(preprocessing.to_json()))
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(preprocessing).items()}
    assert back == fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "GBR"}, "channels must be 'RGB' or 'BGR', not 'GBR'"),
        ({"channels": "rgb"}, "channels must be 'RGB' or 'BGR', not 'rgb'"),
        ({"crop": 9, "resize": 8}, "cannot crop 9 pixels out of 8"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        of(**options)

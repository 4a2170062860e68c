"""Affine maps against SciPy, pixel loops and whole-pixel moves."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from barenets.ops.affine import FILLS, affine, flip, rotation, shear, shift, zoom

SCIPY = {"constant": "constant", "nearest": "nearest", "reflect": "reflect", "wrap": "grid-wrap"}


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise of the whole range: neighbours differ by up to 255, which is the worst for an interpolation."""
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def random_matrices(n: int, seed: int) -> np.ndarray:
    """Float64 [N, 3, 3] that turn, lean, zoom, mirror and shift far beyond the border."""
    rng = np.random.default_rng(seed)
    matrices = np.tile(np.eye(3), (n, 1, 1))
    matrices[:, :2, :2] = rng.normal(0, 1, (n, 2, 2))
    matrices[:, :2, 2] = rng.uniform(-12, 12, (n, 2))
    return matrices


def places(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in the input of each output pixel, in float64."""
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    across, down = (row[0] * x + row[1] * y + row[2] for row in matrix[:2])
    return down + (height - 1) / 2, across + (width - 1) / 2


def scipys(image: np.ndarray, matrix: np.ndarray, order: int, mode: str, value: float) -> np.ndarray:
    """`ndimage.affine_transform`, which wants rows before columns and counts from the corner."""
    height, width, _ = image.shape
    swapped = matrix[:2, :2][::-1, ::-1]
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = matrix[:2, 2][::-1] + centre - swapped @ centre
    channels = [
        ndimage.affine_transform(channel, swapped, offset, order=order, mode=mode, cval=value)
        for channel in np.moveaxis(image.astype(np.float64), -1, 0)
    ]
    return np.stack(channels, -1)


def clear(matrix: np.ndarray, height: int, width: int, *, ties: bool, borders: bool) -> np.ndarray:
    """bool [H, W]: pixels whose place is not so near to a jump that float32 and float64 may choose differently."""
    result = np.ones([height, width], bool)
    for place, side in zip(places(matrix, height, width), (height, width), strict=True):
        if ties:
            result &= np.abs(place - np.floor(place) - 0.5) > 1e-3
        if borders:
            result &= (np.abs(place) > 1e-3) & (np.abs(place - (side - 1)) > 1e-3)
    return result


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("height", "width"), [(9, 14), (16, 16), (31, 8), (1, 7), (1, 1)])
def test_scipy(fill, interpolation, height, width):
    images, matrices = pictures(8, height, width, 3), random_matrices(8, seed=height)
    ours = affine(images, matrices, interpolation, fill, 77.0).numpy()
    assert (ours.shape, ours.dtype) == (images.shape, np.float32)
    order = int(interpolation == "bilinear")
    compared = 0
    for image, matrix, found in zip(images, matrices, ours, strict=True):
        expected = scipys(image, matrix, order, SCIPY[fill], 77.0)
        mask = clear(matrix, height, width, ties=order == 0, borders=fill == "constant")
        # float32 places are right to some 1e-5 pixels, times a slope of up to 255 a pixel; nearest chooses pixels.
        np.testing.assert_allclose(found[mask], expected[mask], rtol=0, atol=0.02 if order else 1e-5)
        compared += mask.sum()
    assert compared > 0.97 * ours[..., 0].size


def test_constant_does_not_blend_where_tensorflows_does():
    """Half a pixel outside: TensorFlow's own operation gives half the value, as SciPy's "grid-constant" does."""
    row = np.array([10, 20, 40, 80], np.float32)[None, :, None]
    half = shift(-0.5, 0)
    assert affine(row, half, fill="constant", value=50.0).numpy().ravel().tolist() == [50, 15, 30, 60]
    assert affine(row, half, "nearest", "constant", 50.0).numpy().ravel()[0] == 50
    raw = tf.raw_ops.ImageProjectiveTransformV3(
        images=row[None],
        transforms=[[1.0, 0, -0.5, 0, 1, 0, 0, 0]],
        output_shape=[1, 4],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=50.0,
    )
    assert raw.numpy().ravel().tolist() == [30, 15, 30, 60]


def test_wrap_is_what_keras_documents_and_neither_scipys_wrap_nor_tensorflows():
    """abcd|abcd|abcd: a shift by the width comes back. SciPy's "wrap" has a period of one less, TensorFlow's sticks."""
    row = np.array([10, 20, 40, 80], np.float32)[None, :, None]
    for pixels in range(-9, 10):
        found = affine(row, shift(pixels, 0), fill="wrap").numpy().ravel()
        np.testing.assert_array_equal(found, np.roll(row.ravel(), -pixels))
    by_scipy = ndimage.affine_transform(row.ravel(), [[1.0]], 4.0, order=1, mode="wrap")
    np.testing.assert_array_equal(by_scipy, [20, 40, 10, 20])
    raw = tf.raw_ops.ImageProjectiveTransformV3(
        images=row[None],
        transforms=[[1.0, 0, -0.5, 0, 1, 0, 0, 0]],
        output_shape=[1, 4],
        interpolation="BILINEAR",
        fill_mode="WRAP",
        fill_value=0.0,
    )
    assert raw.numpy().ravel()[0] == 80  # half way from 80 to 10
    assert affine(row, shift(-0.5, 0), fill="wrap").numpy().ravel()[0] == 45


# Moves of whole pixels, to the bit


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("height", "width"), [(7, 12), (6, 6), (1, 1)])
def test_exact_moves(fill, interpolation, height, width):
    images = pictures(4, height, width, 3)

    def moved(matrix: tf.Tensor) -> np.ndarray:
        return affine(images, tf.tile(matrix[None], [4, 1, 1]), interpolation, fill, 3.5).numpy()

    for identity in (rotation(0), rotation(360), shift(0, 0), shear(0), zoom(1, 1), flip(False, False)):
        np.testing.assert_array_equal(moved(identity), images)
    np.testing.assert_array_equal(moved(flip(True, False)), images[:, :, ::-1])
    np.testing.assert_array_equal(moved(flip(False, True)), images[:, ::-1])
    np.testing.assert_array_equal(moved(rotation(180)), images[:, ::-1, ::-1])
    if height == width:
        np.testing.assert_array_equal(moved(rotation(90)), np.rot90(images, 1, (1, 2)))
        np.testing.assert_array_equal(moved(rotation(-90)), np.rot90(images, -1, (1, 2)))
    padding = {"constant": {"mode": "constant", "constant_values": 3.5}, "nearest": {"mode": "edge"}}
    padding |= {"reflect": {"mode": "symmetric"}, "wrap": {"mode": "wrap"}}
    padded = np.pad(images, [(0, 0), (9, 9), (9, 9), (0, 0)], **padding[fill])
    for x, y in [(3, 0), (0, -2), (-5, 4), (9, 9)]:
        expected = padded[:, 9 + y : 9 + y + height, 9 + x : 9 + x + width]
        np.testing.assert_array_equal(moved(shift(x, y)), expected)


def test_directions():
    """Where one bright pixel goes: notices x for y, the other way round, and zoom for its reciprocal."""
    image = np.zeros([9, 11, 1], np.float32)
    image[4, 7] = 1  # two to the right of the middle (4, 5)

    def bright(matrix: tf.Tensor) -> list[tuple[int, ...]]:
        return [tuple(place) for place in np.argwhere(affine(image, matrix, fill="constant").numpy()[..., 0] > 0.4)]

    assert bright(rotation(90)) == [(2, 5)]  # counter-clockwise: from the right to the top
    assert bright(shift(2, 0)) == [(4, 5)]
    assert bright(shift(0, 1)) == [(3, 7)]
    assert bright(zoom(2, 1)) == [(4, 6)]  # further away: nearer to the middle
    assert bright(zoom(1, 2)) == [(4, 7)]
    assert bright(zoom(0.5, 1)) == [(4, 8), (4, 9), (4, 10)]  # nearer: twice as far from the middle, and wider
    assert bright(flip(True, False)) == [(4, 3)]
    # y leans: rows above the middle go one way, below the other.
    upright = np.zeros([9, 11, 1], np.float32)
    upright[:, 5] = 1
    columns = affine(upright, shear(45), fill="constant").numpy()[..., 0].argmax(1)
    assert columns[4] == 5
    assert columns[2] < 5 < columns[6]


def test_matrices_are_those_of_kerass_source():
    """`apply_affine_transform`, with x and y as they are swapped there for rows and columns."""
    t = np.deg2rad(25)
    np.testing.assert_allclose(
        rotation(25), [[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]], atol=1e-6
    )
    np.testing.assert_allclose(shear(25), [[1, -np.sin(t), 0], [0, np.cos(t), 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(zoom(2, 3), np.diag([2, 3, 1]))
    np.testing.assert_array_equal(shift(2, 3), [[1, 0, 2], [0, 1, 3], [0, 0, 1]])


def test_matrices_of_any_shape():
    angles = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert rotation(angles).shape == shear(angles).shape == shift(angles, 1.0).shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(rotation(angles)[1, 2], rotation(5))
    np.testing.assert_array_equal(flip([True, False], [False, False])[:, 0, 0], [-1, 1])


def test_first_a_then_b_is_a_times_b():
    """On a map that loses nothing in between: a shift by pixels and a quarter turn, wrapped."""
    image = pictures(7, 7, 3)
    a, b = shift(2, 1), rotation(90)
    by_steps = affine(affine(image, a, fill="wrap"), b, fill="wrap")
    np.testing.assert_array_equal(affine(image, a @ b, fill="wrap"), by_steps)
    assert not np.array_equal(affine(image, b @ a, fill="wrap"), by_steps)


def test_each_picture_has_its_own_matrix():
    images, matrices = pictures(5, 6, 8, 3), random_matrices(5, 1)
    whole = affine(images, matrices, fill="nearest").numpy()
    for image, matrix, found in zip(images, matrices, whole, strict=True):
        np.testing.assert_array_equal(affine(image, matrix, fill="nearest"), found)
        np.testing.assert_array_equal(affine(image, matrix[:2], fill="nearest"), found)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_in_a_graph_with_unknown_sizes_and_none(fill, interpolation):
    f = tf.function(
        lambda images, matrices: affine(images, matrices, interpolation, fill),
        input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 3, 3])],
    )
    images, matrices = pictures(3, 5, 4, 3), random_matrices(3, 2).astype(np.float32)
    # A graph may multiply and add at once, and so round once less.
    expected = affine(images, matrices, interpolation, fill)
    np.testing.assert_allclose(f(images, matrices), expected, rtol=0, atol=1e-2)
    assert f(images[:0], matrices[:0]).shape == (0, 5, 4, 3)


def test_bytes_and_other_channels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = affine(image, flip(True, False))
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, image[:, ::-1])


def test_errors():
    image = pictures(2, 2, 3)
    with pytest.raises(ValueError, match="interpolation is one of bilinear, nearest, not 'cubic'"):
        affine(image, zoom(1, 1), "cubic")
    with pytest.raises(ValueError, match="fill is one of constant, nearest, reflect, wrap, not 'mirror'"):
        affine(image, zoom(1, 1), fill="mirror")

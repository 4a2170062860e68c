"""Policies as text and as calls, geometry against Keras's legacy ImageDataGenerator, and what needs two pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.ops import Preprocessing, affine
from barenets.ops.affine import FILLS
from barenets.train.data import augment, steps
from barenets.train.data.augment import (
    POLICIES,
    STEPS,
    Affine,
    Blend,
    Brightness,
    CentreCrop,
    ChannelShift,
    Combine,
    Contrast,
    CutMix,
    Flip,
    Geometric,
    Hue,
    Mixup,
    Noise,
    Pad,
    PasteZoom,
    QuarterMask,
    RandomCrop,
    RandomResizedCrop,
    Rescale,
    Rotate,
    Saturation,
    Shear,
    Shift,
    Zoom,
    changed,
    offsets,
    parse,
    text,
)

ALL = Affine(
    rotation=40, width_shift=0.2, height_shift=0.3, shear=20, zoom=0.3, horizontal_flip=True, vertical_flip=True
)
ONE_OF_EACH = (
    RandomCrop(),
    Flip(vertical=True),
    Rotate(10.5),
    Shift((0.1, 0.2), 3, fill="wrap"),
    Shear(5, value=-1.5),
    Zoom((0.5, 2)),
    dataclasses.replace(ALL, fill="constant", value=9.0, interpolation="nearest"),
    Brightness((0, 2)),
    Contrast(0.2),
    Saturation(1),
    Hue(0.1),
    ChannelShift(20),
    Rescale(0.5, offset=1),
    Noise(4),
    PasteZoom(),
    Combine(0.5),
    QuarterMask(value=128),
    Mixup(0.2),
)


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def uniform(n: int, policy: tuple[augment.Step, ...], seed: int = 0) -> np.ndarray:
    total = sum(step.draws for step in policy)
    return np.random.default_rng(seed).random((n, total), np.float32)


# Text


@pytest.mark.parametrize(
    "policy", [*POLICIES.values(), ONE_OF_EACH, (RandomResizedCrop((0.2, 1), aspect=(1, 1)), CutMix()), (Pad(5),), ()]
)
def test_there_and_back(policy):
    assert parse(text(policy)) == policy
    assert parse(f"[{text(policy)}]") == policy
    assert parse(repr(list(policy))) == policy  # dataclasses write all options
    assert hash(policy) == hash(parse(text(policy)))


def test_text_is_short():
    assert text([RandomCrop(), Flip(), Affine(rotation=40, fill="wrap")]) == (
        "RandomCrop(), Flip(), Affine(rotation=40, fill='wrap')"
    )
    assert str(Zoom([0.5, np.float64(1.25)])) == "Zoom(amount=(0.5, 1.25))"


def test_names_stand_for_their_steps():
    assert parse("standard") == POLICIES["standard"] == (RandomCrop(), Flip())
    assert parse("vgg16, Mixup(0.2)") == (*POLICIES["vgg16"], Mixup(0.2))
    assert parse(" CentreCrop,\n Flip(vertical=True), ") == (CentreCrop(), Flip(vertical=True))
    assert {"standard", "vgg16", "vgg16_preview", "dogs", "none"} <= set(POLICIES)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Flop()", "Flop: there is no such step; the steps are CentreCrop, .*, CutMix; the policies none, standard"),
        ("RandomCrop(), standart", "standart: there is no such step"),
        ("Flip(up=True)", "Flip: there is no option up; Flip takes horizontal, vertical"),
        ("CentreCrop(3)", "CentreCrop: 1 values are too many; CentreCrop takes no options"),
        ("Flip(True, True, True)", "Flip: 3 values are too many; Flip takes horizontal, vertical"),
        ("Flip(True, horizontal=True)", "Flip: horizontal is given twice"),
        ("Flip(horizontal=1)", "Flip: horizontal is True or False, not 1"),
        ("Rotate()", "Rotate: degrees is missing, a number from 0"),
        ("Rotate(-3)", "Rotate: degrees is a number from 0, not -3"),
        ("Rotate('a')", "Rotate: degrees is a number from 0, not 'a'"),
        ("Rotate(True)", "Rotate: degrees is a number from 0, not True"),
        ("Noise(1e999)", "Noise: deviation is a number from 0, not inf"),
        (f"Noise(1{'0' * 400})", "Noise: deviation is a number from 0, not 1000"),
        (
            "Shift(10000000)",
            "Shift: width is a fraction below 1, a number of pixels, or a tuple of either, not 10000000",
        ),
        ("QuarterMask(1.5)", "QuarterMask: probability is a number from 0 up to 1, not 1.5"),
        ("Zoom((2, 1))", r"Zoom: amount is Z, from 0 to 1, .*, not \(2, 1\)"),
        ("Shift(())", r"Shift: width is a fraction below 1, .*, not \(\)"),
        (
            "RandomResizedCrop((0, 1))",
            r"RandomResizedCrop: area is two numbers \(LOW, HIGH\) above 0, not \(0, 1\)",
        ),
        ("Affine(fill='mirror')", "Affine: fill is one of constant, nearest, reflect, wrap, not 'mirror'"),
        ("Affine(rotation=__import__('os').getpid())", "Affine: rotation is a number from 0, not __import__"),
        ("Rotate(2 ** 3)", r"Rotate: degrees is a number from 0, not 2 \*\* 3"),
        ("Rotate(**{'degrees': 1})", "Rotate: there is no option None"),
        ("__import__('os')", "__import__: there is no such step"),
        ("os.Flip()", "'os.Flip\\(\\)': is no list of steps like 'RandomCrop\\(\\), Flip\\(\\)'; the steps are"),
        ("Flip(", "is no list of steps"),
        ("Flip()] + [Flip()", "is no list of steps"),
        ("'Flip()'", "is no list of steps"),
        ("\0", "is no list of steps"),
        ("(" * 5000, "is no list of steps"),
        ("Flip(), RandomCrop()", r"RandomCrop\(\): makes the square that the other steps change; put it first"),
        ("RandomCrop, CentreCrop", r"CentreCrop\(\): makes the square"),
        ("Mixup(0.2), CutMix(0.5)", r"Mixup\(alpha=0.2\) and CutMix\(alpha=0.5\): both mix labels"),
    ],
)
def test_mistakes_are_one_line(written, said):
    with pytest.raises(UserError, match=f"^.*{said}") as caught:
        parse(written)
    assert "\n" not in str(caught.value)


# The order of the draws


def test_offsets():
    policy = (RandomCrop(), Flip(), ALL, Rescale(1.0), Mixup())
    assert offsets(policy) == (slice(0, 2), slice(2, 4), slice(4, 12), slice(12, 12), slice(12, 14))
    assert offsets(()) == ()


def test_every_step_takes_as_many_draws_as_it_says():
    required = {"Rotate": (10,), "Shear": (5,), "Zoom": (0.2,), "Brightness": (0.1,), "Contrast": (0.1,)}
    required |= {"Saturation": (0.1,), "Hue": (0.1,), "ChannelShift": (9,), "Rescale": (2,), "Noise": (3,)}
    for name, kind in STEPS.items():
        step = kind(*required.get(name, ()))
        u = uniform(7, (step,))
        for drawn in step.parameters(u).values():
            assert drawn.shape[0] == 7
        single = step.parameters(u[0])
        for key, drawn in step.parameters(u).items():
            # NumPy 1 reckons with one number in float64, rounded only at the end.
            np.testing.assert_allclose(single[key], drawn[0], rtol=3e-7, err_msg=name)


# Geometry, against Keras


def keras(step: Affine, drawn: dict[str, tf.Tensor], images: np.ndarray, fill: str) -> np.ndarray:
    """What Keras's legacy generator makes of the same draws; its tx is the shift of columns, whatever it is called."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    order = int(step.interpolation == "bilinear")
    generator = ImageDataGenerator(fill_mode=fill, cval=step.value, interpolation_order=order)
    values = {name: np.asarray(value, np.float64) for name, value in drawn.items()}
    results = []
    for i, image in enumerate(images):
        parameters = {
            "theta": values["Rotate.degrees"][i],
            "tx": values["Shift.width"][i] * image.shape[1],
            "ty": values["Shift.height"][i] * image.shape[0],
            "shear": values["Shear.degrees"][i],
            "zx": values["Zoom.x"][i],
            "zy": values["Zoom.y"][i],
            "flip_horizontal": bool(drawn["Flip.horizontal"][i]),
            "flip_vertical": bool(drawn["Flip.vertical"][i]),
        }
        results.append(generator.apply_transform(image.astype(np.float64), parameters))
    return np.stack(results)


def difference(step: Affine, fill: str, n: int = 12) -> np.ndarray:
    images = pictures(n, 24, 24, 3)
    drawn = step.parameters(uniform(n, (step,)))
    return np.abs(step.apply(tf.constant(images), drawn) - keras(step, drawn, images, fill))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_affine_is_kerass(fill, interpolation):
    """On noise; for "wrap" SciPy's mode of the documented meaning is asked for."""
    step = dataclasses.replace(ALL, fill=fill, value=50.0, interpolation=interpolation)
    found = difference(step, "grid-wrap" if fill == "wrap" else fill)
    if interpolation == "bilinear":
        # Places in float32 are right to some 1e-5 pixels, times a slope of up to 255 a pixel.
        assert found.max() < 0.05
    else:  # a place half way between two pixels may fall to either side
        assert (found.max(-1) > 1e-3).mean() < 1e-3


def test_wrap_differs_from_scipys_only_outside():
    step = dataclasses.replace(ALL, fill="wrap")
    differs = difference(step, "wrap").max(-1) > 0.05
    outside = difference(dataclasses.replace(ALL, fill="constant", value=-1e4), "nearest").max(-1) > 1e3
    assert 0.1 < differs.mean() < 0.6
    assert not (differs & ~outside).any()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rotation", lambda degrees: affine.rotation(-degrees)),
        ("shear", lambda degrees: affine.shear(-degrees)),
        ("zoom", lambda x, y: affine.zoom(1 / x, 1 / y)),
        ("zoom", lambda x, y: affine.zoom(y, x)),
        ("shift", lambda x, y: affine.shift(y, x)),
        ("shift", lambda x, y: affine.shift(-x, -y)),
        ("flip", lambda horizontal, vertical: affine.flip(vertical, horizontal)),
    ],
)
def test_a_wrong_matrix_would_be_noticed(monkeypatch, name, wrong):
    assert difference(ALL, "nearest").max() < 0.05
    monkeypatch.setattr(steps, name, wrong)
    assert difference(ALL, "nearest").max() > 50


def test_a_wrong_order_would_be_noticed(monkeypatch):
    right = ALL.steps
    monkeypatch.setattr(Affine, "steps", property(lambda self: (right[0], right[2], right[1], right[3], right[4])))
    assert difference(ALL, "nearest").max() > 50


def test_width_is_width_where_kerass_is_height():
    """And pictures that are not square turn about their middle."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    image = np.zeros([5, 9, 1], np.float32)
    image[2, 5] = 1
    theirs = ImageDataGenerator(fill_mode="constant").apply_transform(image, {"tx": 1})  # height_shift_range's
    assert np.argwhere(theirs)[:, :2].tolist() == [[2, 4]]
    turned = ImageDataGenerator(fill_mode="constant").apply_transform(image, {"theta": 180})
    assert np.argwhere(turned > 0.5)[:, :2].tolist() != [[2, 3]]

    def ours(step: Geometric, u: list[float]) -> list[list[int]]:
        u = tf.constant([u])
        return np.argwhere(changed([step], image[None], u)[0][0] > 0.5)[:, :2].tolist()

    assert ours(Shift(width=2), [0.5, 0]) == [[2, 4]]  # of 0, 0, 1, -1
    assert ours(Shift(height=2), [0, 0.5]) == [[1, 5]]
    assert ours(Rotate(180, fill="constant"), [0.99999999]) == [[2, 3]]


def test_shifts_in_fractions_and_pixels():
    """Whole numbers are exact, and fractions are of the width and of the height."""
    images = pictures(1, 10, 20, 3)

    def moved(step: Shift, *u: float) -> np.ndarray:
        return changed([step], images, tf.constant([u]))[0].numpy()

    np.testing.assert_array_equal(moved(Shift(0.5, 0.2, fill="wrap"), 0.0, 1.0), np.roll(images, (-2, 10), (1, 2)))
    np.testing.assert_array_equal(moved(Shift(4.0, 0, fill="wrap"), 0.25, 0.5), np.roll(images, 2, 2))
    np.testing.assert_array_equal(moved(Shift(0, (3, 7), fill="wrap"), 0.0, 0.8), np.roll(images, 7, 1))
    np.testing.assert_array_equal(moved(Shift(0, (0.3, 0.7), fill="wrap"), 0.0, 0.6), np.roll(images, -7, 1))
    assert {float(Shift(3).parameters(tf.constant([i / 60, 0]))["width"]) for i in range(60)} == {-2, -1, 0, 1, 2}


# Neighbours are one interpolation


def interpolations(policy: list[augment.Step]) -> int:
    n = sum(step.draws for step in policy)
    f = tf.function(lambda images, u: changed(policy, images, u)[0])
    graph = f.get_concrete_function(tf.TensorSpec([None, 8, 8, 3]), tf.TensorSpec([None, n])).graph
    return sum(operation.type == "ImageProjectiveTransformV3" for operation in graph.get_operations())


def test_neighbours_are_one_interpolation():
    assert interpolations([Flip(), Rotate(10), Shift(0.1), Shear(5), Zoom(0.1), ALL, Flip()]) == 1
    assert interpolations([Rotate(10), Brightness(0.1), Zoom(0.1)]) == 2
    assert interpolations([Rotate(10), Flip(), Zoom(0.1, fill="reflect")]) == 2
    assert interpolations([Flip(), Flip(vertical=True), Noise(2)]) == 0


def test_steps_apart_are_as_the_affine_of_all():
    """And in the other order something else."""
    apart = ALL.steps
    images, u = pictures(6, 12, 12, 3), uniform(6, (ALL,))
    whole = changed([ALL], images, u)[0].numpy()
    np.testing.assert_array_equal(changed(apart, images, u)[0], whole)
    backwards = np.concatenate([u[:, columns] for columns in reversed(offsets(apart))], 1)
    assert np.abs(changed(apart[::-1], images, backwards)[0] - whole).max() > 50


def test_a_lone_flip_is_exact():
    images = pictures(4, 5, 8, 3)
    u = tf.constant([[0.0, 0.0], [0.4999, 0.5], [0.5, 0.4999], [0.9, 0.9]])
    for policy in ([Flip(vertical=True)], [Affine(horizontal_flip=True, vertical_flip=True)]):
        found = changed(policy, images, tf.pad(u, [[0, 0], [policy[0].draws - 2, 0]]))[0].numpy()
        expected = [images[0, ::-1, ::-1], images[1, :, ::-1], images[2, ::-1], images[3]]
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(changed([Flip(False)], images, u)[0], images)


@pytest.mark.parametrize(
    "policy",
    [
        *([Affine(fill=fill)] for fill in FILLS),
        *([step] for step in (Rotate(0), Shift(), Shear(0), Zoom(0), Zoom((1, 1)), Flip(False))),
        *([step] for step in (Brightness(0), Contrast(0), Saturation(0), Hue(0), ChannelShift(0), Noise(0))),
        *([step] for step in (PasteZoom(1, 1), Combine(0), QuarterMask(0), Mixup(1, 0), CutMix(1, 0))),
        [Rescale(1)],
        [Rotate(0), Zoom(0), Combine(0), Brightness(0), Flip(False), Mixup(1, 0)],
    ],
    ids=text,
)
def test_drawing_nothing_changes_nothing(policy):
    images, others = pictures(3, 7, 9, 3), pictures(3, 7, 9, 3, seed=1)
    partners = [others for step in policy if isinstance(step, Blend)]
    found, share = changed(policy, images, uniform(3, tuple(policy)), partners)
    np.testing.assert_array_equal(found, images)
    assert share is None or (share.numpy() == 1).all()


# Colour: the steps hand their draws to ops.colour, which has tests of its own


@pytest.mark.parametrize(
    ("step", "u", "expected"),
    [
        (Brightness(0.5), 0.0, lambda x: x * 0.5),
        (Brightness((0.25, 0.75)), 0.5, lambda x: x * 0.5),
        (Contrast(1), 0.0, lambda x: np.full_like(x, np.round((x @ [0.299, 0.587, 0.114]).mean()))),
        (Saturation(1), 0.0, lambda x: np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, -1)),
        (ChannelShift(10), 0.0, lambda x: np.maximum(x - 10, x.min())),
    ],
)
def test_colour(step, u, expected):
    images = pictures(1, 6, 5, 3)
    np.testing.assert_allclose(changed([step], images, tf.constant([[u]]))[0][0], expected(images[0]), atol=1e-3)


def test_hue_and_rescale():
    red = np.tile(np.float32([200, 50, 50]), (1, 2, 2, 1))
    third = tf.constant([[0.5 + 1 / 3]])
    np.testing.assert_allclose(changed([Hue(0.5)], red, third)[0], red[..., [1, 0, 1]], atol=1e-2)
    np.testing.assert_allclose(changed([Rescale(0.5, 1)], red, tf.zeros([1, 0]))[0], red / 2 + 1)


def test_noise_is_of_its_draws():
    images, u = np.full([4, 8, 8, 3], 128, np.float32), uniform(4, (Noise(9),))
    found = changed([Noise(9)], images, u)[0].numpy()
    assert len({noisy.tobytes() for noisy in found}) == 4
    np.testing.assert_array_equal(changed([Noise(9)], images[:2], u[[2, 0]])[0], found[[2, 0]])


# Two pictures


SIZES = [(8, 8), (7, 10), (9, 5), (1, 1), (2, 3)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_quarter_mask(height, width):
    images = pictures(5, height, width, 3)
    u = tf.constant([[0.0, 0.1], [0.1, 0.3], [0.2, 0.6], [0.49, 0.9], [0.5, 0.9]])
    found = changed([QuarterMask(0.5, value=9)], images, u)[0].numpy()
    y, x = (height + 1) // 2, (width + 1) // 2
    expected = images.copy()
    for i, part in enumerate([np.s_[:y, :x], np.s_[:y, x:], np.s_[y:, :x], np.s_[y:, x:]]):
        expected[i][part] = 9
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_combine(height, width):
    images, others = pictures(5, height, width, 3), pictures(5, height, width, 3, seed=1)
    u = tf.constant([[0.0, 0.1], [0.0, 0.3], [0.0, 0.6], [0.0, 0.9], [0.6, 0.9]])
    found, share = changed([Combine(0.5)], images, u, [others])
    expected = others.copy()
    expected[4] = images[4]
    for place in np.ndindex(height, width):
        y, x = (2 * place[0] + 1) * width, (2 * place[1] + 1) * height  # of 2 height width
        kept = [x <= height * width, y <= height * width, x >= y, x + y <= 2 * height * width]
        for way in range(4):
            if kept[way]:
                expected[(way, *place)] = images[(way, *place)]
    np.testing.assert_array_equal(found, expected)
    assert share is None
    np.testing.assert_array_equal(Combine(0.5).wanted(u), [True] * 4 + [False])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_paste_zoom(height, width):
    """A shrunk picture covers the pixels whose middles lie in it, the other the rest; an enlarged one all."""
    images, others = pictures(4, height, width, 3), pictures(4, height, width, 3, seed=1)
    step = PasteZoom(0.5, 1.5)
    factors = np.float32([0.5, 0.8, 1.0, 1.5])
    u = (factors - np.float32(0.5))[:, None]
    found, share = changed([step], images, u, [others])
    assert share is None
    np.testing.assert_array_equal(step.wanted(u), factors < 1)
    for image, other, factor, mine in zip(images, others, factors.astype(np.float64), found.numpy(), strict=True):
        for y, x in np.ndindex(height, width):
            down, across = y - (height - 1) / 2, x - (width - 1) / 2
            if abs(abs(down) - factor * height / 2) < 1e-4 or abs(abs(across) - factor * width / 2) < 1e-4:
                assert (mine[y, x] == other[y, x]).all() or factor * height / 2 >= abs(down) - 1e-4
                continue
            if abs(down) > factor * height / 2 or abs(across) > factor * width / 2:
                np.testing.assert_array_equal(mine[y, x], other[y, x])
                continue
            # Bilinear between the nearest pixels, those at the border going on.
            row = np.clip(down / factor + (height - 1) / 2, 0, height - 1)
            column = np.clip(across / factor + (width - 1) / 2, 0, width - 1)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = row - top, column - left
            upper = image[top, left] * (1 - b) + image[top, right] * b
            lower = image[bottom, left] * (1 - b) + image[bottom, right] * b
            np.testing.assert_allclose(mine[y, x], upper * (1 - a) + lower * a, atol=0.01)
    np.testing.assert_array_equal(found[2], images[2])


def test_mixup():
    images, others = pictures(6, 4, 5, 3), pictures(6, 4, 5, 3, seed=1)
    step, u = Mixup(0.4, probability=0.7), uniform(6, (Mixup(),))
    u[0, 0], u[1, 0] = 0.1, 0.9
    found, share = changed([step], images, u, [others])
    assert 0 < share[0] < 1 == share[1]
    np.testing.assert_array_equal(step.wanted(u), u[:, 0] < 0.7)
    for image, other, own, mine in zip(images, others, share.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(mine, own * image + (1 - own) * other, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cutmix(height, width):
    """The paper's algorithm A1 by a loop, and the share from the pixels that are left."""
    n = 40
    images, others = pictures(n, height, width, 3), pictures(n, height, width, 3, seed=1)
    step, u = CutMix(1.0, probability=0.8), uniform(n, (CutMix(),))
    drawn = {name: np.asarray(value) for name, value in step.parameters(u).items()}
    found, share = changed([step], images, u, [others])
    kept = []
    for i in range(n):
        ratio = np.sqrt(1 - drawn["share"][i])
        cut_height, cut_width = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
        y, x = int(drawn["y"][i] * height), int(drawn["x"][i] * width)
        y1, y2 = np.clip([y - cut_height // 2, y + cut_height // 2], 0, height)
        x1, x2 = np.clip([x - cut_width // 2, x + cut_width // 2], 0, width)
        expected = images[i].copy()
        expected[y1:y2, x1:x2] = others[i, y1:y2, x1:x2]
        np.testing.assert_array_equal(found[i], expected)
        kept.append((expected == images[i]).all(-1).mean())
    np.testing.assert_allclose(share, kept, atol=1e-6)
    assert share.dtype == tf.float32
    wanted = np.asarray(step.wanted(u))
    np.testing.assert_array_equal(wanted, u[:, 0] < 0.8)
    assert (share.numpy()[~wanted] == 1).all()


def test_others_are_given_in_order():
    images = pictures(2, 4, 4, 3)
    first, second = np.full_like(images, 10), np.full_like(images, 20)
    policy = [Combine(), Mixup(1.0)]
    u = tf.constant([[0.0, 0.0, 0.0, 0.5]] * 2)
    found, share = changed(policy, images, u, [first, second])
    np.testing.assert_allclose(share, [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[:, :, 2:], 15, atol=1e-4)
    with pytest.raises(ValueError, match="blends 2 times; got 1 batches"):
        changed(policy, images, u, [first])


# Frames


PLAIN = Preprocessing(crop=6, resize=9)


def test_crops():
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    np.testing.assert_array_equal(CentreCrop().frame(picture, PLAIN, tf.zeros([0])), picture[1:7, 3:9])
    for top in range(4):
        for left in range(7):
            u = tf.constant([(top + 0.5) / 4, (left + 0.5) / 7])
            found = RandomCrop().frame(picture, PLAIN, u)
            np.testing.assert_array_equal(found, picture[top : top + 6, left : left + 6])
    ends = RandomCrop().frame(picture, PLAIN, tf.constant([0.0, 0.99999994]))
    np.testing.assert_array_equal(ends, picture[:6, 6:])


def test_pad():
    picture = np.random.default_rng(0).integers(0, 256, (3, 6, 3), np.uint8)
    found = Pad(7).frame(tf.constant(picture), PLAIN, tf.zeros([0])).numpy()
    np.testing.assert_array_equal(found[1:4], picture)
    assert (found[[0, 4, 5]] == 7).all()


def torchvisions(height: int, width: int, step: RandomResizedCrop, u: np.ndarray) -> tuple[int, int, int, int]:
    """Its `get_params`, with the numbers of `u` for its draws: top, left, height, width."""
    low, high = np.log(step.aspect)
    for area, aspect in zip(u[:10], u[10:20], strict=True):
        target = height * width * (step.area[0] + area * (step.area[1] - step.area[0]))
        ratio = np.exp(low + aspect * (high - low))
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    h, w = height, width
    if width / height < step.aspect[0]:
        h = round(width / step.aspect[0])
    elif width / height > step.aspect[1]:
        w = round(height * step.aspect[1])
    h, w = max(h, 1), max(w, 1)  # which torchvision does not look after
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(300, 400), (57, 91), (20, 400), (400, 20), (1, 1), (1, 9)])
@pytest.mark.parametrize("step", [RandomResizedCrop(), RandomResizedCrop((0.9, 1.0), (0.2, 0.3))], ids=str)
def test_random_resized_crop(height, width, step):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    boxes = set()
    for u in uniform(30, (step,)):
        top, left, h, w = torchvisions(height, width, step, u.astype(np.float64))
        begin, size = step.box(tf.constant([height, width]), step.parameters(u))
        assert (*begin.numpy(), *size.numpy()) == (top, left, h, w)
        boxes.add((top, left, h, w))
    found = step.frame(tf.constant(picture), PLAIN, tf.constant(u))
    part = picture[top : top + h, left : left + w]
    np.testing.assert_array_equal(found, tf.image.resize(part, [6, 6], "bilinear", antialias=True))
    assert len(boxes) > 20 or height * width <= 400 * 20 or step.aspect[0] < 0.5  # none of its draws fits


def test_sides_that_do_not_fit_into_32_bits():
    """Of an extreme aspect a column is left, whole; of a sliver every place, not only the first, is as likely."""
    step = RandomResizedCrop((0.5, 1.0), (1e-9, 1e-8))
    begin, size = step.box(tf.constant([400, 300]), step.parameters(uniform(1, (step,))[0]))
    assert (begin.numpy().tolist(), size.numpy().tolist()) == ([0, 149], [400, 1])
    sliver = tf.constant(np.repeat(np.arange(225, dtype=np.uint8), 400)[None, :, None].repeat(3, 2))
    found = RandomCrop().frame(sliver, Preprocessing(crop=1, resize=30_000), tf.constant([0.0, 0.9]))
    np.testing.assert_allclose(found, 202, atol=1e-3)


# In the pipeline


def test_in_tf_data_as_in_a_call_and_whatever_the_batch():
    n = 7
    policy = (
        RandomResizedCrop(),
        Flip(),
        Combine(0.5),
        ALL,
        PasteZoom(),
        Contrast(0.2),
        Noise(4),
        QuarterMask(),
        CutMix(),
    )
    preprocessing = Preprocessing(crop=10, resize=12)
    raw = np.random.default_rng(0).integers(0, 256, (n, 14, 17, 3), np.uint8)
    others = pictures(n, 10, 10, 3, seed=1)
    u = uniform(n, policy)

    def run(batch: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
        def framed(picture: tf.Tensor, u: tf.Tensor, other: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return policy[0].frame(picture, preprocessing, u[:22]), u, other

        def altered(images: tf.Tensor, u: tf.Tensor, other: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return changed(policy, images, u, [other, other, other])

        data = tf.data.Dataset.from_tensor_slices((raw, u, others))
        data = data.map(framed, num_parallel_calls=workers, deterministic=True).batch(batch).map(altered)
        images, shares = zip(*data, strict=True)
        return np.concatenate(images), np.concatenate(shares)

    images, shares = run(batch=7, workers=1)
    assert (images.shape, shares.shape) == ((n, 10, 10, 3), (n,))
    np.testing.assert_array_equal(run(batch=3, workers=2)[0], images)
    framed = tf.stack([policy[0].frame(raw[i], preprocessing, u[i, :22]) for i in range(n)])
    called, share = changed(policy, framed, u, [others] * 3)
    np.testing.assert_allclose(called, images, atol=0.05)
    np.testing.assert_allclose(share, shares, atol=1e-6)


@pytest.mark.parametrize("size", [6, 61])
def test_a_picture_is_the_same_in_any_batch(size):
    """To the bit, at any place of it: also where TensorFlow computes the last few numbers in another way."""
    policy = (*ONE_OF_EACH[1:6], *ONE_OF_EACH[7:], Affine(rotation=90, zoom=0.5), CutMix(0.7))
    n = 11
    images, others, u = pictures(n, size, size, 3), pictures(n, size, size, 3, seed=1), uniform(n, policy)
    f = tf.function(
        lambda images, u, others: changed(policy, images, u, [others] * 4)[0],
        input_signature=[tf.TensorSpec([None, *shape]) for shape in ([size, size, 3], u.shape[1:], [size, size, 3])],
    )
    whole = f(images, u, others).numpy()
    for begin, end in [(0, 1), (1, 4), (4, 11), (2, 11)]:
        part = f(images[begin:end], u[begin:end], others[begin:end])
        np.testing.assert_array_equal(part, whole[begin:end])


@pytest.mark.parametrize(("n", "height", "width"), [(0, 6, 6), (1, 1, 1), (1, 3, 8)])
def test_small_batches_and_pictures(n, height, width):
    for mixing in (Mixup(0.2), CutMix()):
        policy = (*ONE_OF_EACH[:-1], mixing)
        images = pictures(n, height, width, 3)
        found, share = changed(policy, images, uniform(n, policy), [images] * 3)
        assert (found.shape, share.shape) == (images.shape, (n,))
        assert np.isfinite(found).all()

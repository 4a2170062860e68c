"""What the steps draw: 10,000 of every random parameter against its documented distribution."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from barenets.ops import Preprocessing
from barenets.train.data import Batches, Records
from barenets.train.data.augment import (
    Affine,
    Brightness,
    ChannelShift,
    Combine,
    Contrast,
    CutMix,
    Flip,
    Hue,
    Mixup,
    Noise,
    PasteZoom,
    QuarterMask,
    RandomCrop,
    RandomResizedCrop,
    Rotate,
    Saturation,
    Shear,
    Shift,
    Step,
    Zoom,
)
from barenets.train.data.pipeline import uniform as uniform_of

N = 10_000
P = 0.001  # below it a fit is refused; the seed is fixed, so none is refused by chance


@functools.cache
def seeds(epochs: int) -> np.ndarray:
    """Of N pictures in this many epochs, where every record comes four times in each."""
    count = N // epochs // 4
    records = Records(("x",) * count, np.zeros(count, np.int32), ("a",), "x")

    class FourTimes:
        def order(self, labels, epoch):
            return np.tile(np.arange(count, dtype=np.int32), 4)

    data = Batches(records, Preprocessing(crop=8, resize=8), 4, seed=5, sampler=FourTimes())
    return np.concatenate([data._seeds(*data._drawn(epoch)[:2], epoch) for epoch in range(epochs)])


@functools.cache
def numbers(epochs: int = 2) -> tf.Tensor:
    """float32 [N, 22], from the very seeds and generator that give the pipeline its numbers."""
    draw = tf.function(lambda seeds: tf.map_fn(lambda seed: uniform_of(22, seed), seeds, tf.float32))
    return draw(tf.constant(seeds(epochs)))


def draws(step: Step) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in step.parameters(numbers()[:, : step.draws]).items()}


@pytest.mark.parametrize("epochs", [2, 50])
def test_neighbours_draw_by_themselves(epochs):
    """A picture, the next one, and the same in another occurrence or epoch."""
    assert len(np.unique(seeds(epochs), axis=0)) == N
    u = numbers(epochs).numpy()
    assert len(np.unique(u, axis=0)) == N
    for lag in (1, N // epochs // 4, N // epochs):
        assert stats.pearsonr(u[lag:, 0], u[:-lag, 0]).pvalue > P
    assert stats.pearsonr(u[:, 0], u[:, 1]).pvalue > P


def uniform(low: float, high: float) -> stats.rv_continuous:
    return stats.uniform(low, high - low)


CONTINUOUS = [
    (RandomCrop(), "top", uniform(0, 1)),
    (RandomCrop(), "left", uniform(0, 1)),
    (RandomResizedCrop(), "area", uniform(0.08, 1)),
    (RandomResizedCrop(), "aspect", stats.loguniform(3 / 4, 4 / 3)),
    (RandomResizedCrop((0.2, 0.5), (1, 3)), "area", uniform(0.2, 0.5)),
    (RandomResizedCrop((0.2, 0.5), (1, 3)), "aspect", stats.loguniform(1, 3)),
    (RandomResizedCrop(), "top", uniform(0, 1)),
    (RandomResizedCrop(), "left", uniform(0, 1)),
    (Rotate(40), "degrees", uniform(-40, 40)),
    (Shift(0.2, 30.0), "width", uniform(-0.2, 0.2)),
    (Shift(0.2, 30.0), "height", uniform(-30, 30)),
    (Shear(0.2), "degrees", uniform(-0.2, 0.2)),
    (Zoom(0.2), "x", uniform(0.8, 1.2)),
    (Zoom((0.5, 3)), "y", uniform(0.5, 3)),
    (Affine(rotation=40), "Rotate.degrees", uniform(-40, 40)),
    (Affine(width_shift=0.2), "Shift.width", uniform(-0.2, 0.2)),
    (Affine(height_shift=0.3), "Shift.height", uniform(-0.3, 0.3)),
    (Affine(shear=5), "Shear.degrees", uniform(-5, 5)),
    (Affine(zoom=0.2), "Zoom.x", uniform(0.8, 1.2)),
    (Affine(zoom=0.2), "Zoom.y", uniform(0.8, 1.2)),
    (Brightness(0.3), "factor", uniform(0.7, 1.3)),
    (Contrast((0.5, 2)), "factor", uniform(0.5, 2)),
    (Saturation(1), "factor", uniform(0, 2)),
    (Hue(0.1), "turns", uniform(-0.1, 0.1)),
    (ChannelShift(20), "amount", uniform(-20, 20)),
    (PasteZoom(0.8, 1.2), "factor", uniform(0.8, 1.2)),
    *((Mixup(alpha), "share", stats.beta(alpha, alpha)) for alpha in (0.2, 0.5, 1, 1.5, 8, 100)),
    (CutMix(0.7), "share", stats.beta(0.7, 0.7)),
    (CutMix(), "x", uniform(0, 1)),
    (CutMix(), "y", uniform(0, 1)),
]


@pytest.mark.parametrize(("step", "name", "distribution"), CONTINUOUS, ids=lambda value: str(value)[:60])
def test_distribution(step, name, distribution):
    drawn = draws(step)[name]
    if drawn.ndim == 2:  # one for each attempt
        drawn = drawn[:, 3]
    assert drawn.shape == (N,)
    assert stats.kstest(drawn, distribution.cdf).pvalue > P


CHOICES = [
    (Flip(vertical=True), "horizontal", {0: 1, 1: 1}),
    (Flip(vertical=True), "vertical", {0: 1, 1: 1}),
    (Affine(horizontal_flip=True), "Flip.horizontal", {0: 1, 1: 1}),
    (Affine(vertical_flip=True), "Flip.vertical", {0: 1, 1: 1}),
    (Shift(width=3), "width", {0: 2, 1: 1, -1: 1, 2: 1, -2: 1}),  # as Keras: 0, 1 or 2, and a sign
    (Shift(height=(2, 5, 9)), "height", dict.fromkeys([2, -2, 5, -5, 9, -9], 1)),
    (QuarterMask(), "quarter", dict.fromkeys(range(4), 1)),
    (QuarterMask(0.3), "masked", {0: 7, 1: 3}),
    (Combine(), "way", dict.fromkeys(range(4), 1)),
    (Combine(0.8), "combined", {0: 2, 1: 8}),
]


@pytest.mark.parametrize(("step", "name", "odds"), CHOICES, ids=lambda value: str(value)[:60])
def test_choices(step, name, odds):
    values, counts = np.unique(draws(step)[name], return_counts=True)
    assert set(values.tolist()) == set(odds)
    expected = np.array([odds[value] for value in values.tolist()]) * N / sum(odds.values())
    assert stats.chisquare(counts, expected).pvalue > P


def test_a_flip_that_is_not_asked_for_never_comes():
    assert not draws(Flip())["vertical"].any()
    assert not draws(Flip(False))["horizontal"].any()


def test_zoom_draws_x_and_y_apart():
    drawn = draws(Zoom(0.2))
    assert abs(stats.pearsonr(drawn["x"], drawn["y"]).statistic) < 0.04


def test_whole_pixels_are_as_often_as_in_keras():
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    np.random.seed(0)  # Keras draws from it
    generator = ImageDataGenerator(height_shift_range=3)
    theirs = [generator.get_random_transform((8, 8, 3))["tx"] for _ in range(2000)]
    ours = draws(Shift(height=3))["height"]
    table = [[np.sum(np.equal(side, value)) for value in range(-2, 3)] for side in (theirs, ours)]
    assert stats.chi2_contingency(table).pvalue > P


def test_noise_seeds_differ():
    seeds = draws(Noise(3))["seed"]
    assert seeds.dtype == np.int32
    assert (seeds >= 0).all()
    assert len(np.unique(seeds, axis=0)) == N
    assert stats.kstest(seeds[:, 0] / 2**24, "uniform").pvalue > P


def test_probabilities_of_blends():
    for step in (Mixup(0.2, 0.3), CutMix(1, 0.3)):
        share = draws(step)["share"]
        assert stats.binomtest(int((share < 1).sum()), N, 0.3).pvalue > P


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1, 2.5, 30, 100])
def test_beta_by_its_inverse(alpha):
    """λ(u) is the inverse distribution function within 0.001 in u, everywhere, its ends included."""
    u = np.concatenate([np.geomspace(1e-7, 0.01, 300), np.linspace(0, 1, 2001)[:-1]]).astype(np.float32)
    share = Mixup(alpha).parameters(tf.constant(np.stack([np.zeros_like(u), u], 1)))["share"].numpy()
    assert (share >= 0).all()
    assert (share <= 1).all()
    ours = stats.beta(alpha, alpha).cdf(share.astype(np.float64))
    # Below float32's smallest number, and above 1 minus its last bit, shares are 0 and 1.
    told_apart = (share > 1e-30) & (share < 1 - 1e-6)
    assert np.abs(ours - u)[told_apart].max() < 1e-3
    assert (np.diff(share[300:]) >= 0).all()

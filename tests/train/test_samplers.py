"""Samplers: pure, and as likely as they say, against exact probabilities and a slow sampler of its own."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from barenets.train.data import ClassPaired, ClassWeighted, InOrder, Sampler, Shuffled
from tests.train.forms import error_of

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4, 5], [50, 30, 10, 1, 9])).astype(np.int32)
"""Class 3 is empty, class 4 has one picture."""

ALL = [
    InOrder(),
    Shuffled(3),
    ClassWeighted(3),
    ClassWeighted(3, (1.0, 2.0, 0.0, 4.0, 5.0, 6.0)),
    ClassPaired(3, 4),
    ClassPaired(3, 2, (1.0, 2.0, 0.0, 4.0, 5.0, 6.0)),
]


@pytest.mark.parametrize("sampler", ALL, ids=str)
def test_pure(sampler: Sampler) -> None:
    first, labels = sampler.order(LABELS, 5), LABELS.copy()
    np.random.default_rng(9).random(5)
    for _ in range(2):
        sampler.order(LABELS, 4)
        np.testing.assert_array_equal(sampler.order(LABELS, 5), first)
    np.testing.assert_array_equal(type(sampler)(**vars(sampler)).order(LABELS, 5), first)
    np.testing.assert_array_equal(LABELS, labels)
    assert first.dtype == np.int32
    assert 0 <= first.min() <= first.max() < len(LABELS)
    if sampler != InOrder():
        assert (first != sampler.order(LABELS, 6)).any()
        other = type(sampler)(**{**vars(sampler), "seed": 4})
        assert (first != other.order(LABELS, 5)).any()


def test_in_order_and_shuffled() -> None:
    assert InOrder().order(LABELS, 7).tolist() == list(range(100))
    for epoch in range(3):
        expected = np.random.default_rng([8, epoch]).permutation(100)  # as it was before there were samplers
        assert Shuffled(8).order(LABELS, epoch).tolist() == expected.tolist()


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.0, 7.0, 5.0, 6.0)])
def test_class_weighted_fits_its_weights(weights: tuple[float, ...] | None) -> None:
    orders = np.concatenate([ClassWeighted(1, weights).order(LABELS, epoch) for epoch in range(200)])
    assert len(orders) == 200 * 100
    wanted = np.array(weights or [1.0] * 6) * [1, 1, 1, 0, 1, 1]
    present = wanted > 0
    counts = np.bincount(LABELS[orders], minlength=6)
    assert counts[~present].sum() == 0
    expected = wanted[present] / wanted.sum() * len(orders)
    assert stats.chisquare(counts[present], expected).pvalue > 0.001
    # Within a class every picture is as likely.
    for label in np.flatnonzero(present):
        members = np.flatnonzero(label == LABELS)
        assert stats.chisquare(np.bincount(orders, minlength=100)[members]).pvalue > 0.001 or len(members) == 1
    # And draws do not depend on those before.
    classes = LABELS[orders]
    pairs = np.zeros([6, 6])
    np.add.at(pairs, (classes[:-1:2], classes[1::2]), 1)
    pairs = pairs[np.ix_(present, present)]
    assert stats.chi2_contingency(pairs).pvalue > 0.001


def test_class_paired_has_two_of_each() -> None:
    for epoch, (classes, weights) in itertools.product(
        range(20), ((1, None), (3, None), (5, None), (2, (1, 0, 2, 9, 3, 0)))
    ):
        order = ClassPaired(2, classes, weights).order(LABELS, epoch)
        assert len(order) == max(1, round(100 / (2 * classes))) * 2 * classes
        steps = order.reshape(-1, classes, 2)
        labels = LABELS[steps]
        assert (labels[..., 0] == labels[..., 1]).all()
        for step, step_labels in zip(steps, labels[..., 0], strict=True):
            assert len(set(step_labels.tolist())) == classes
            assert 3 not in step_labels
            for label, (one, two) in zip(step_labels, step, strict=True):
                assert (one == two) == (label == 4)  # which has one picture
                assert weights is None or weights[label] > 0


def successive(weights: np.ndarray, classes: int) -> dict[tuple[int, ...], float]:
    """The probability of each ordered draw without replacement, multiplied out."""
    found = {}
    for drawn in itertools.permutations(np.flatnonzero(weights).tolist(), classes):
        probability, left = 1.0, weights.sum()
        for label in drawn:
            probability *= weights[label] / left
            left -= weights[label]
        found[drawn] = probability
    return found


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 4.0, 7.0, 0.5, 3.0)])
def test_class_paired_draws_without_replacement(weights: tuple[float, ...] | None) -> None:
    expected = successive(np.array(weights or [1.0] * 6) * [1, 1, 1, 0, 1, 1], 2)
    assert sum(expected.values()) == pytest.approx(1)
    steps = np.concatenate([ClassPaired(5, 2, weights).order(LABELS, epoch) for epoch in range(400)]).reshape(-1, 2, 2)
    drawn = [tuple(row) for row in LABELS[steps[..., 0]].tolist()]
    counts = [drawn.count(key) for key in expected]
    assert sum(counts) == len(drawn) == 400 * 25
    assert stats.chisquare(counts, np.array(list(expected.values())) * len(drawn)).pvalue > 0.001
    # Every pair of different pictures of a class is as likely.
    members = np.flatnonzero(LABELS == 2).tolist()
    pairs = [tuple(pair) for pair in steps.reshape(-1, 2).tolist() if pair[0] in members]
    counts = [pairs.count(pair) for pair in itertools.permutations(members, 2)]
    assert sum(counts) == len(pairs) > 1000
    assert stats.chisquare(counts).pvalue > 0.001


def slow_pairs(rng: np.random.Generator, labels: np.ndarray, classes: int, weights: np.ndarray) -> list[int]:
    """A step of the same kind, as one would write it down."""
    left, step = weights.copy(), []
    for _ in range(classes):
        label = rng.choice(len(left), p=left / left.sum())
        left[label] = 0
        members = np.flatnonzero(labels == label)
        step += rng.choice(members, 2, replace=len(members) == 1).tolist()
    return step


def test_class_paired_against_a_slow_one() -> None:
    """The classes of a step, in their order, and the pictures of a class: counts of both come from one distribution."""
    weights = np.array([1.0, 2.0, 4.0, 0.0, 0.5, 3.0])
    rng = np.random.default_rng(6)
    slow = np.array([slow_pairs(rng, LABELS, 3, weights) for _ in range(3000)])
    fast = np.concatenate([ClassPaired(1, 3, tuple(weights)).order(LABELS, epoch) for epoch in range(200)])
    steps = slow.reshape(-1, 3, 2), fast.reshape(-1, 3, 2)
    for step in ([LABELS[each[..., 0]] for each in steps], [each[LABELS[each[..., 0]] == 5] for each in steps]):
        keys = [np.ravel_multi_index(tuple(each.T), [100] * each.shape[1]) for each in step]
        found = np.unique(np.concatenate(keys))
        table = np.array([[(key == value).sum() for value in found] for key in keys])
        assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 0.001


def test_many_steps_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(20_000, dtype=np.int32) % 3
    whole = ClassPaired(0, 2).order(labels, 0)
    monkeypatch.setattr("barenets.train.data.samplers._BLOCK", 100)
    np.testing.assert_array_equal(ClassPaired(0, 2).order(labels, 0), whole)
    order = whole.reshape(-1, 2, 2)
    assert len(order) == 5000
    found = labels[order]
    assert (found[:, 0, 0] != found[:, 1, 0]).all()
    assert (order[..., 0] != order[..., 1]).all()


def test_memory_of_many_classes() -> None:
    labels = np.arange(20_000, dtype=np.int32)
    tracemalloc.start()
    order = ClassPaired(0, 32).order(labels, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(order.reshape(-1, 64)[-1].tolist())) == 32
    assert peak < 48 << 20  # all steps at once take 100 MB


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (ClassWeighted(0, (1.0, 2.0)), "2 weights for 6 classes: give one for each"),
        (ClassWeighted(0, (1.0, -2.0, 1, 1, 1, 1)), "weights of classes must not be negative"),
        (ClassWeighted(0, (1.0, float("nan"), 1, 1, 1, 1)), "weights of classes must not be negative"),
        (ClassWeighted(0, (0, 0, 0, 1.0, 0, 0)), "no class that has pictures has a weight above 0"),
        (ClassPaired(0, 6), "steps of 6 classes: there are 5 to draw from"),
        (ClassPaired(0, 0), "steps of 0 classes: there are 5 to draw from"),
    ],
)
def test_mistakes(sampler: Sampler, reason: str) -> None:
    assert error_of(sampler.order, LABELS, 0).startswith(reason)


def test_no_pictures() -> None:
    for sampler in ALL[2:]:
        assert error_of(sampler.order, LABELS[:0], 0) == "there are no pictures to draw from"
    assert len(Shuffled(0).order(LABELS[:0], 0)) == len(InOrder().order(LABELS[:0], 0)) == 0

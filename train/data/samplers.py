"""Which records an epoch shows, and in which order: pure functions of (seed, epoch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from barenets import UserError

_BLOCK = 1 << 20  # numbers that are drawn at once


class Sampler(Protocol):
    """`labels` are int32 [N], of all records; the order is int32 [M], indices of records, which may repeat."""

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        """The records of an epoch, in the order in which they are drawn."""


@dataclass(frozen=True)
class InOrder(Sampler):
    """Every record once, as they come."""

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        return np.arange(len(labels), dtype=np.int32)


@dataclass(frozen=True)
class Shuffled(Sampler):
    """Every record once, each epoch in another order."""

    seed: int = 0

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(labels)).astype(np.int32)


@dataclass(frozen=True)
class ClassWeighted(Sampler):
    """As many pictures as there are records: of each the class is drawn by its weight, then one of its pictures.

    `weights` are one number for each class; None: all classes are equally likely. Only their ratios count. Draws are
    independent: a picture of a rare class comes often, one of a common class perhaps not at all. Classes without
    pictures are left out. Raises UserError for weights that are negative, too few, or all of empty classes.
    """

    seed: int = 0
    weights: tuple[float, ...] | None = None

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        members = _Members(labels, self.weights)
        rng = np.random.default_rng([self.seed, epoch])
        classes = rng.choice(members.classes, len(labels), p=members.weights / members.weights.sum())
        return members.pick(classes, rng.integers(members.counts[classes]))


@dataclass(frozen=True)
class ClassPaired(Sampler):
    """Steps of `classes` classes, drawn by weight without replacement, with two different pictures of each.

    The two are neighbours in the order, so that a batch of 2·`classes` is a step; a class with a single picture shows
    it twice. An epoch has about as many pictures as there are records, and at least one step. Drawn without
    replacement means one after the other, each by the weights of those that are left. `weights` are as in
    `ClassWeighted`. Raises UserError as that does, and if fewer than `classes` classes can be drawn.
    """

    seed: int = 0
    classes: int = 16
    weights: tuple[float, ...] | None = None

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        members = _Members(labels, self.weights)
        if not 1 <= self.classes <= len(members.classes):
            raise UserError(f"steps of {self.classes} classes: there are {len(members.classes)} to draw from")
        rng = np.random.default_rng([self.seed, epoch])
        steps = max(1, round(len(labels) / (2 * self.classes)))
        block = max(1, _BLOCK // len(members.classes))
        drawn = np.concatenate(
            [self._classes(rng, members, min(block, steps - at)) for at in range(0, steps, block)]
        ).reshape(-1)
        counts = members.counts[drawn]
        first = rng.integers(counts)
        second = rng.integers(np.maximum(counts - 1, 1))  # among the others
        second += (second >= first) & (counts > 1)
        return np.stack([members.pick(drawn, first), members.pick(drawn, second)], 1).reshape(-1)

    def _classes(self, rng: np.random.Generator, members: "_Members", steps: int) -> np.ndarray:
        """Classes [steps, self.classes], in the order drawn."""
        # Of exponential waiting times with these rates the first to end is drawn by weight, then the next of the rest.
        waits = rng.exponential(size=(steps, len(members.classes))) / members.weights
        return members.classes[np.argsort(waits, axis=1)[:, : self.classes]]


class _Members:
    """The records of each class, and the classes that can be drawn, with their weights."""

    def __init__(self, labels: np.ndarray, weights: Sequence[float] | None) -> None:
        if not len(labels):
            raise UserError("there are no pictures to draw from")
        self.counts = np.bincount(labels)
        self._records = np.argsort(labels, kind="stable").astype(np.int32)
        self._starts = np.cumsum(self.counts) - self.counts
        given = np.ones(len(self.counts)) if weights is None else np.array(weights, np.float64)
        if len(given) < len(self.counts):
            raise UserError(f"{len(given)} weights for {len(self.counts)} classes: give one for each")
        if not (np.isfinite(given).all() and (given >= 0).all()):
            raise UserError("weights of classes must not be negative, and must be numbers")
        self.classes = np.flatnonzero((given[: len(self.counts)] > 0) & (self.counts > 0))
        self.weights = given[self.classes]
        if not len(self.classes):
            raise UserError("no class that has pictures has a weight above 0")

    def pick(self, classes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The record at each place among those of its class."""
        found: np.ndarray = self._records[self._starts[classes] + places]
        return found

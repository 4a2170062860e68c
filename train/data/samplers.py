"""In which order, and how often, the records of an epoch come: pure functions of (seed, epoch)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Sampler(Protocol):
    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        """int32, the indices of the records of one epoch; some may come again."""
        ...


@dataclass(frozen=True)
class InOrder:
    """As the records are."""

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        return np.arange(len(labels), dtype=np.int32)


@dataclass(frozen=True)
class Shuffled:
    """Each record once, each order as likely."""

    seed: int

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(labels)).astype(np.int32)

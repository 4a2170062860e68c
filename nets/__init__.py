"""The networks, by name."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from barenets import UserError
from barenets.nets import alexnet
from barenets.nets.alexnet import AlexNet

__all__ = ["NETWORKS", "AlexNet", "build", "variants"]

NETWORKS: dict[str, tuple[Callable[..., tf.Module], tuple[str, ...]]] = {
    "alexnet": (AlexNet, tuple(alexnet.VARIANTS)),
}
"""Name -> (constructor, names of its variants, the default first)."""


def variants(name: str) -> tuple[str, ...]:
    """The variants of the network `name`, the default first. Raises UserError for an unknown network."""
    if name not in NETWORKS:
        raise UserError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name][1]


def build(name: str, *, num_classes: int = 1000, variant: str | None = None, **options: Any) -> Any:
    """The network `name`, e.g. `build("alexnet", num_classes=2, variant="one_tower", seed=1)`.

    Raises UserError for an unknown network or variant.
    """
    known = variants(name)
    variant = variant or known[0]
    if variant not in known:
        raise UserError(f"{name} has no variant {variant!r}; there are {', '.join(known)}")
    return NETWORKS[name][0](num_classes, variant, **options)

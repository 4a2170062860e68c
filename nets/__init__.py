"""The networks, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from barenets import UserError
from barenets.nets import alexnet, googlenet, inception, resnet
from barenets.nets.alexnet import AlexNet
from barenets.nets.googlenet import GoogLeNet
from barenets.nets.heads import DenseHead, GLUHead, Headed, LinearHead
from barenets.nets.inception import InceptionV2, InceptionV3
from barenets.nets.resnet import ResNet
from barenets.nets.vgg import VGG
from barenets.nets.xception import Xception

__all__ = [
    "NETWORKS",
    "VGG",
    "AlexNet",
    "DenseHead",
    "GLUHead",
    "GoogLeNet",
    "Headed",
    "InceptionV2",
    "InceptionV3",
    "LinearHead",
    "ResNet",
    "Xception",
    "build",
    "variants",
]

NETWORKS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "alexnet": (AlexNet, tuple(alexnet.VARIANTS)),
    "vgg11": (partial(VGG, depth=11), ("paper",)),
    "vgg13": (partial(VGG, depth=13), ("paper",)),
    "vgg16": (partial(VGG, depth=16), ("paper",)),
    "vgg19": (partial(VGG, depth=19), ("paper",)),
    "googlenet": (GoogLeNet, tuple(googlenet.VARIANTS)),
    "inception_v2": (InceptionV2, ("slim",)),
    "inception_v3": (InceptionV3, tuple(inception.VARIANTS)),
    "resnet18": (partial(ResNet, depth=18), resnet.variants(18)),
    "resnet34": (partial(ResNet, depth=34), resnet.variants(34)),
    "resnet50": (partial(ResNet, depth=50), resnet.variants(50)),
    "resnet101": (partial(ResNet, depth=101), resnet.variants(101)),
    "resnet152": (partial(ResNet, depth=152), resnet.variants(152)),
    "xception": (Xception, ("keras",)),
}
"""Name -> (constructor, names of its variants, the default first)."""


def variants(name: str) -> tuple[str, ...]:
    """The variants of the network `name`, the default first. Raises UserError for an unknown network."""
    if name not in NETWORKS:
        raise UserError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name][1]


def build(name: str, *, num_classes: int | None = 1000, variant: str | None = None, **options: Any) -> Any:
    """The network `name`, e.g. `build("alexnet", num_classes=2, variant="one_tower", seed=1)`.

    `num_classes` None leaves the classifier out. Raises UserError for an unknown network or variant.
    """
    known = variants(name)
    variant = variant or known[0]
    if variant not in known:
        raise UserError(f"{name} has no variant {variant!r}; there are {', '.join(known)}")
    return NETWORKS[name][0](num_classes, variant=variant, **options)

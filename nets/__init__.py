"""The networks and their heads, by name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from barenets import UserError
from barenets.nets import alexnet, googlenet, inception, resnet
from barenets.nets.alexnet import AlexNet
from barenets.nets.googlenet import GoogLeNet
from barenets.nets.heads import HEADS, Centers, DenseHead, GLUHead, Headed, LinearHead, Maps
from barenets.nets.inception import InceptionV2, InceptionV3
from barenets.nets.resnet import ResNet
from barenets.nets.vgg import VGG
from barenets.nets.xception import Xception
from barenets.ops import layer_table

__all__ = [
    "HEADS",
    "NETWORKS",
    "VGG",
    "AlexNet",
    "Centers",
    "DenseHead",
    "GLUHead",
    "GoogLeNet",
    "Headed",
    "InceptionV2",
    "InceptionV3",
    "LinearHead",
    "Maps",
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


def build(
    name: str,
    *,
    num_classes: int | None = 1000,
    variant: str | None = None,
    head: str | None = None,
    head_options: Mapping[str, Any] | None = None,
    size: int | None = None,
    dropout_rate: float | None = None,
    **options: Any,
) -> Any:
    """The network `name`, e.g. `build("alexnet", num_classes=2, variant="one_tower", seed=1)`.

    `num_classes` None leaves the classifier out. With `head`, one of HEADS, which `head_options` are for, it is
    `Headed` with it in place of the network's own classifier; `dropout_rate` (None: its usual) is then that of the
    head, `seed` of both. `size` is the side of the pictures, the network's usual when not given.

    Raises UserError for an unknown network, variant, head or option of it, and for a size that it cannot take.
    """
    known = variants(name)
    variant = variant or known[0]
    if variant not in known:
        raise UserError(f"{name} has no variant {variant!r}; there are {', '.join(known)}")
    constructor = NETWORKS[name][0]
    dropout = {} if dropout_rate is None else {"dropout_rate": dropout_rate}
    if head is None:
        if head_options:
            raise UserError(f"{', '.join(head_options)}: of a head, and none is chosen; there are {', '.join(HEADS)}")
        net = constructor(num_classes, variant=variant, **dropout, **options)
        if size is not None:
            _resize(net, name, size)
        return net

    chosen = _checked(head, head_options or {})
    if num_classes is None:
        raise ValueError(f"the head {head!r} needs a number of classes")
    base = constructor(None, variant=variant, **options)
    shape = _resize(base, name, base.input_shape[0] if size is None else size)
    try:
        return Headed(base, HEADS[head](shape, num_classes, seed=options.get("seed", 0), **dropout, **chosen))
    except ValueError as error:  # of a value among the options
        raise UserError(f"the head {head!r}: {error}") from None


def _checked(head: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options `given`, if `head` is a head that has them and they are of the right type."""
    if head not in HEADS:
        raise UserError(f"there is no head {head!r}; there are {', '.join(HEADS)}")
    own = {"seed", "dropout_rate"}  # which are the network's options
    parameters = inspect.signature(HEADS[head]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in own}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"the head {head!r} has no option {name!r}; there are {', '.join(known) or 'none'}")
        kind = type(known[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"the option {name!r} of the head {head!r} must be of type {kind.__name__}, got {value!r}")
    return given


def _resize(net: Any, name: str, size: int) -> tuple[int, ...]:
    """Makes `net` one for pictures of that side, and returns the shape of what it gives for one of them.

    Raises UserError if a trace says that it cannot take them. Nothing is computed.
    """
    usual, shape = net.input_shape[0], (size, size, net.input_shape[2])
    try:
        table = layer_table(net, shape)
    except ValueError:
        hint = "; auxiliary=False, or a head, leaves its auxiliary classifiers out, which need that size"
        raise UserError(
            f"{name} {net.variant} cannot take pictures of {size}×{size} pixels, it is made for {usual}×{usual}"
            f"{hint if getattr(net, 'auxiliary', None) else ''}"
        ) from None
    if size != usual:
        net.input_shape = shape
    return table[-1].output_shape

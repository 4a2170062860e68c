"""A network with all that it takes to use it: its weights, its classes, and what its pictures must go through."""

from dataclasses import dataclass
from typing import Any

from barenets import UserError, nets, weights
from barenets.ops import Preprocessing
from barenets.train import checkpoints
from barenets.weights import Kind, catalog


@dataclass(frozen=True)
class Model:
    net: Any
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    settings: dict[str, Any]
    """Of the run that it comes from; empty if it comes from a weight file."""


def choose_network(source: str | None, net: str | None, variant: str | None) -> tuple[str, str]:
    """The network and variant meant by --weights, --net and --variant, any of which may be missing.

    What is missing follows from the weights' content. Raises UserError if that does not tell the network.
    """
    return _choose(source, weights.identify(source) if source else None, net, variant)


def _choose(source: str | None, kind: Kind | None, net: str | None, variant: str | None) -> tuple[str, str]:
    if net is None:
        if source and kind is None:
            raise UserError(f"{source}: is for no network that is known by its layers; say which with --net")
        net = kind.net if kind else "alexnet"
    if variant is None:
        variant = kind.variant if kind and kind.net == net and kind.variant else nets.variants(net)[0]
    return net, variant


def preprocessing_for(
    source: str | None, arrays: weights.Weights | None, name: str, variant: str, net: Any
) -> Preprocessing:
    """What the weights `source`, read as `arrays`, want.

    Raises UserError if that is not the size of picture that `net` takes.
    """
    kind = arrays.kind if arrays is not None else None
    entry = weights.known(source)
    side = net.input_shape[0]
    guess = catalog.preprocessing(Kind(name, variant, kind.origin if kind else ""), side)
    wanted = entry.preprocessing if entry else guess
    if wanted.crop != side:
        raise UserError(
            f"{source}: wants pictures of {wanted.crop} pixels and {name} {variant} takes {side}; "
            "choose the --variant that the weights are for"
        )
    return wanted


def from_checkpoint(source: str) -> Model:
    """The best checkpoint of the run in the folder `source`, or the checkpoint file of that name."""
    checkpoint = checkpoints.best(source)
    state = checkpoint.state
    net = nets.build(state["net"], num_classes=len(state["class_names"]), variant=state["variant"])
    weights.load(net, checkpoint.weights)
    return Model(net, tuple(state["class_names"]), Preprocessing(**state["preprocessing"]), state["settings"])


def from_weights(source: str, net: str | None, variant: str | None, num_classes: int | None) -> Model:
    """A weight file's network; what is None follows from the file. 1000 classes have ImageNet's names."""
    entry = weights.known(source)
    arrays = weights.read(source)
    kind = entry.kind if entry else arrays.kind
    name, variant = _choose(source, kind, net, variant)
    num_classes = num_classes or arrays.num_classes or 1000
    built = nets.build(name, num_classes=num_classes, variant=variant)
    preprocessing = preprocessing_for(source, arrays, name, variant, built)
    weights.load(built, arrays, origin=source)
    names = catalog.imagenet_classes() if num_classes == 1000 else tuple(map(str, range(num_classes)))
    return Model(built, names, preprocessing, {})

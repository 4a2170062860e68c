"""A network with all that it takes to use it: its weights, its classes, and what its pictures must go through."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import Preprocessing, named_variables
from barenets.train import checkpoints
from barenets.train.blend import Blend, Blended
from barenets.train.settings import Settings
from barenets.weights import Kind, catalog


@dataclass(frozen=True)
class Model:
    """A network with what its use needs: the names of its classes, and how its pictures are prepared."""

    net: Any
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    settings: dict[str, Any]
    """Of the run that it comes from; of a weight file's, only those that the network is built by."""


def choose_network(source: str | None, net: str | None, variant: str | None) -> tuple[str, str]:
    """The network and variant meant by --weights, --net and --variant, any of which may be missing.

    What is missing follows from the weights' content. Raises UserError if that does not tell the network.
    """
    if source and (checkpoint := checkpoints.find(source)):
        kind = Kind(checkpoint.state["net"], checkpoint.state["variant"], "")
        return _choose(source, kind, net, variant)
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
    source: str | None, arrays: weights.Weights | None, name: str, variant: str, net: Any, size: int | None = None
) -> Preprocessing:
    """What the weights `source`, read as `arrays`, want; with `size`, for pictures that have this side instead.

    Raises UserError if, without it, that is not the size of picture that `net` takes.
    """
    kind = arrays.kind if arrays is not None else None
    entry = weights.known(source)
    side = net.input_shape[0]
    guess = catalog.preprocessing(Kind(name, variant, kind.origin if kind else ""), side)
    wanted = entry.preprocessing if entry else guess
    if size is not None:  # enlarged or shrunk as much as the crop is
        return replace(wanted, crop=size, resize=round(wanted.resize * size / wanted.crop))
    if wanted.crop != side:
        raise UserError(
            f"{source}: wants pictures of {wanted.crop} pixels and {name} {variant} takes {side}; "
            "choose the --variant that the weights are for"
        )
    return wanted


def from_checkpoint(source: str) -> Model:
    """The best checkpoint of the run in the folder `source`, or the checkpoint file of that name.

    Raises UserError, too, for one that says of itself what no run says.
    """
    checkpoint = checkpoints.best(source)
    state = checkpoint.state
    with _sound(checkpoint.path):
        blend = Blend(**state["blend"]).weight if state.get("blend") else None
        return _built(state, state["settings"], blend, checkpoint.judged, checkpoint.path)


@contextlib.contextmanager
def _sound(path: str) -> Iterator[None]:
    """Raises UserError for what any nonsense, of any type, in a file leads to."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(path):
            raise
        raise UserError(f"{path}: is no checkpoint of this program's, nor an export: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration, tf.errors.OpError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: is no checkpoint of this program's, nor an export: {reason!r:.200}") from None


def _built(
    state: Mapping[str, Any],
    settings: dict[str, Any],
    blend: float | None,
    arrays: Mapping[str, np.ndarray],
    path: str,
) -> Model:
    names = tuple(state["class_names"])
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise UserError(f"{path}: has classes whose names cannot be shown")
    described = Settings.from_json(settings)
    if (described.size or 0) > 512 or len(names) > 25_000 or any(n > 256 for n in described.head_options.values()):
        with tf.Graph().as_default():  # seconds for ResNet, but nothing is allocated, whatever sizes the file speaks of
            weights.plan(described.build(len(names)), arrays, origin=path)
    net = described.build(len(names))
    weights.load(net, arrays, origin=path)
    preprocessing = Preprocessing(**state["preprocessing"])
    if preprocessing.crop != net.input_shape[0]:
        raise UserError(f"{path}: wants pictures of {preprocessing.crop} pixels, which its network does not take")
    if preprocessing.resize > max(512, 4 * preprocessing.crop):
        raise UserError(f"{path}: resizes pictures to {preprocessing.resize} pixels for {preprocessing.crop} of them")
    preprocessing.normalized(tf.zeros([1, 1, 1, 3]))  # or fails, if its numbers are none
    if blend is not None:
        net = Blended(net, next(iter(net.auxiliary)), blend)
    return Model(net, names, preprocessing, settings)


_NETWORK = ("net", "variant", "head", "head_options", "size")
"""The settings that a network is built by."""


def use(model: Model) -> dict[str, Any]:
    """What, beside its weights, the use of `model` takes, for JSON: `weights.Weights(arrays, use=use(model))`.

    Of the run's settings only those that the network is built by: no paths, which are nobody else's business.
    """
    own = {
        "class_names": list(model.class_names),
        "preprocessing": model.preprocessing.to_json(),
        "blend": model.net.weight if isinstance(model.net, Blended) else None,
    }
    return {key: model.settings[key] for key in _NETWORK if key in model.settings} | own


def from_weights(source: str, net: str | None, variant: str | None, num_classes: int | None) -> Model:
    """A weight file's network; what is None follows from the file. 1000 classes have ImageNet's names.

    A file that `barenets export` wrote has names and preprocessing of its own.
    """
    entry = weights.known(source)
    arrays = weights.read(source)
    kind = entry.kind if entry else arrays.kind
    name, variant = _choose(source, kind, net, variant)
    if arrays.use and Kind(name, variant) == arrays.kind:  # `barenets export` wrote it
        with _sound(source):
            settings = {"train": ""} | {key: arrays.use[key] for key in _NETWORK if key in arrays.use}
            exported = _built(arrays.use, settings, arrays.use["blend"], arrays, source)
        if num_classes not in (None, len(exported.class_names)):
            raise UserError(
                f"{source}: has {len(exported.class_names)} classes, not {num_classes}; leave out --num-classes"
            )
        return exported
    num_classes = num_classes or arrays.num_classes or 1000
    built = nets.build(name, num_classes=num_classes, variant=variant)
    preprocessing = preprocessing_for(source, arrays, name, variant, built)
    weights.load(built, arrays, origin=source)
    return Model(built, _names(num_classes), preprocessing, {"net": name, "variant": variant})


def from_scratch(net: str, variant: str | None, num_classes: int | None) -> Model:
    """The network `net` as it starts, from random numbers; pictures go in as weights of unknown origin want them."""
    name, variant = _choose(None, None, net, variant)
    built = nets.build(name, num_classes=num_classes or 1000, variant=variant)
    preprocessing = preprocessing_for(None, None, name, variant, built)
    return Model(built, _names(num_classes or 1000), preprocessing, {"net": name, "variant": variant})


def _names(num_classes: int) -> tuple[str, ...]:
    return catalog.imagenet_classes() if num_classes == 1000 else tuple(map(str, range(num_classes)))


def initialise(net: Any, s: Settings) -> tuple[Preprocessing, weights.LoadReport | None]:
    """Loads `s.weights`, if any, into `net`, but for what `s.reinit` selects; what pictures then must go through.

    On a network with a new head the weights are those of its base, and a classifier that they have is passed over;
    or, of a run that had a head itself, those of the whole. Raises UserError.
    """
    if s.preprocessing and s.preprocessing.crop != (side := net.input_shape[0]):
        raise UserError(f"{s.net} {s.variant} takes pictures of {side} pixels, not {s.preprocessing.crop}; give --size")
    if s.weights is None:
        if s.reinit:
            raise UserError("--reinit starts layers afresh instead of loading them; without --weights all of them are")
        return s.preprocessing or preprocessing_for(None, None, s.net, s.variant, net, s.size), None
    of_run: Mapping[str, Any] | None
    if checkpoint := checkpoints.find(s.weights):
        arrays: Mapping[str, np.ndarray] = checkpoint.judged
        origin, of_run = checkpoint.path, checkpoint.state
    else:
        read = weights.read(s.weights)
        arrays, origin, of_run = read, s.weights, read.use
    if of_run:
        with _sound(origin):
            wanted = Preprocessing(**of_run["preprocessing"])
        if s.preprocessing is None and wanted.crop != (side := net.input_shape[0]):
            raise UserError(
                f"{origin}: was trained on pictures of {wanted.crop} pixels, not {side}; --size {wanted.crop}"
            )
    else:
        wanted = s.preprocessing or preprocessing_for(s.weights, read, s.net, s.variant, net, s.size)
    if s.head is None or any(name.startswith("base/") for name in arrays):
        report = weights.load(net, arrays, skip=s.reinit, origin=origin)
    else:
        if others := [pattern for pattern in s.reinit if pattern.split("/")[0] != "head"]:
            raise UserError(f"--reinit {others[0]}: with --head, the base is loaded whole and the head starts afresh")
        passed_over = [name for name in _classifier(s.net, s.variant) if name in arrays]
        report = weights.load(net.base, arrays, skip=passed_over, origin=origin)
    return s.preprocessing or wanted, report


def _classifier(name: str, variant: str) -> list[str]:
    """The variables of a network that it has without a head of ours only."""
    with tf.Graph().as_default():  # for their names; nothing is allocated
        whole, base = (named_variables(nets.build(name, num_classes=n, variant=variant)) for n in (1000, None))
    return [name for name in whole if name not in base]

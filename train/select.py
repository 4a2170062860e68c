"""Which variables train, and how fast each of them."""

from collections.abc import Iterable, Mapping

import tensorflow as tf

from barenets import UserError
from barenets.ops import BatchNorm
from barenets.ops.module import named_variables, select


def trained_variables(net: tf.Module, patterns: Iterable[str]) -> dict[str, tf.Variable]:
    """The variables of `net` that `patterns` select (`ops.select`), by name, in the network's order.

    No patterns select all. Moving averages are never trained. Raises UserError for a pattern that selects
    nothing.
    """
    variables = {name: v for name, v in named_variables(net).items() if v.trainable}
    patterns = list(patterns)
    return {name: variables[name] for name in select(variables, patterns)} if patterns else variables


def multipliers(names: Iterable[str], patterns: Mapping[str, float]) -> dict[str, float]:
    """For each name the factor of the first of `patterns` that selects it, 1 where none does.

    `{"fc8/biases": 20, "fc8": 10, "*/biases": 2}` trains fc8 ten times as fast, and biases twice as fast
    again, as Caffe's fine-tuning prototxts do. Raises UserError for a pattern that selects nothing and for
    a negative factor.
    """
    names = list(names)
    factors: dict[str, float] = {}
    for pattern, factor in patterns.items():
        if factor < 0:
            raise UserError(f"the learning-rate multiplier of {pattern!r} is negative: {factor}")
        for name in select(names, [pattern]):
            factors.setdefault(name, factor)
    return {name: factors.get(name, 1.0) for name in names}


def rate_decay(names: Iterable[str], factor: float) -> dict[str, float]:
    """For each name the factor of its layer's learning rate: 1 for the last layer, `factor`, `factor`², ... below.

    `names` are in the network's order. A layer is what has a kernel; what has none, a batch norm or centers, belongs to
    the layer before it. Layers of parallel branches count one after the other. Raises UserError unless
    0 < factor ≤ 1.
    """
    if not 0 < factor <= 1:
        raise UserError(f"the rate decay must be above 0 and at most 1, got {factor}")
    layers: dict[str, None] = {}
    places: dict[str, int] = {}
    for name in names:
        layer, _, kind = name.rpartition("/")
        if kind.endswith("weights"):
            layers[layer] = None
        places[name] = max(len(layers), 1)
    return {name: factor ** (max(len(layers), 1) - place) for name, place in places.items()}


def freeze_norms(net: tf.Module, trained: Mapping[str, tf.Variable]) -> None:
    """Freezes each batch norm of `net` that has nothing in `trained`: its moving averages then stay, too.

    A layer that does not train shall give in training what it gives afterwards.
    """
    ids = set(map(id, trained.values()))
    for module in net.submodules:
        if isinstance(module, BatchNorm):
            module.frozen = not any(id(variable) in ids for variable in module.trainable_variables)

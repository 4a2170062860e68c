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


def freeze_norms(net: tf.Module, trained: Mapping[str, tf.Variable]) -> None:
    """Freezes each batch norm of `net` that has nothing in `trained`: its moving averages then stay, too.

    A layer that does not train shall give in training what it gives afterwards.
    """
    ids = set(map(id, trained.values()))
    for module in net.submodules:
        if isinstance(module, BatchNorm):
            module.frozen = not any(id(variable) in ids for variable in module.trainable_variables)

"""Names of variables, patterns that choose among them, and the table of a network's layers."""

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from barenets import UserError

Tap = Callable[[str, tf.Tensor], tf.Tensor]
"""Sees every named activation; what it returns flows on in its place.

If it has a method `enters`, that is told (name, layer, x) beforehand: which layer will be applied to what.
"""


Apply = Callable[[str, Callable[[Any], tf.Tensor], Any], tf.Tensor]
"""Applies a layer: (name, layer, x) -> tensor."""


def layers(tap: Tap | None) -> Apply:
    """How a network applies its layers: `layer("conv1", self.conv1, x)` is `self.conv1(x)`, named and tapped.

    The name becomes the name scope in TensorBoard's graph and the first argument of `tap`. `x` is what the layer
    takes: a tensor, or a list of them.
    """
    enters = getattr(tap, "enters", None)

    def layer(name: str, op: Callable[[Any], tf.Tensor], x: Any) -> tf.Tensor:
        if enters is not None:
            enters(name, op, x)
        with tf.name_scope(name):
            y = op(x)
        return y if tap is None else tap(name, y)

    return layer


class Within:
    """`tap` as a part of a network is given it: what the part calls NAME it sees as PART/NAME."""

    def __init__(self, tap: Tap, part: str) -> None:
        self._tap, self._part = tap, part
        if hasattr(tap, "enters"):
            self.enters = lambda name, layer, x: tap.enters(f"{part}/{name}", layer, x)

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        return self._tap(f"{self._part}/{name}", x)


def named_variables(module: tf.Module) -> dict[str, tf.Variable]:
    """The variables of `module` by attribute path, `conv1/weights`, in the order of construction.

    Loading, selecting, histograms, checkpoints and tables all take their names from here:
    `variable.name` repeats itself across layers, and `tf.Module.variables` sorts conv10 before conv2.
    A list contributes its indices to the path, a dict its keys. A variable that is reachable twice
    is named by the path that was made first.
    """
    names: dict[str, tf.Variable] = {}
    seen: set[int] = set()
    for name, variable in _walk(module, ""):
        if id(variable) not in seen:
            seen.add(id(variable))
            names[name] = variable
    return names


def _walk(value: Any, path: str) -> Iterator[tuple[str, tf.Variable]]:
    if isinstance(value, tf.Variable):
        yield path, value
        return
    children: Iterable[tuple[Any, Any]]
    if isinstance(value, tf.Module):
        # vars() keeps the order of assignment; tf.Module's own bookkeeping starts with "_".
        children = [(key, child) for key, child in vars(value).items() if not key.startswith("_")]
    elif isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    else:
        return
    for key, child in children:
        yield from _walk(child, f"{path}/{key}" if path else str(key))


def select(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that any of `patterns` selects, in the order of `names`.

    A pattern is a glob that selects a name if it matches the whole name or a parent of it: `fc8`
    selects `fc8/weights` and `fc8/biases`, `conv1` leaves `conv10/weights` alone, `conv5_*` and
    `*/biases` do what they say (in a glob of several parts each part matches within one).

    Raises UserError, with the nearest names, for a pattern that selects nothing.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if _selects(pattern, name)]
        if not hits:
            raise UserError(_nothing_matches(pattern, names))
        chosen.update(hits)
    return [name for name in names if name in chosen]


def _selects(pattern: str, name: str) -> bool:
    globs, parts = pattern.strip("/").split("/"), name.split("/")
    return len(globs) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, globs))


def _nothing_matches(pattern: str, names: list[str]) -> str:
    parents = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 1)}
    layers = sorted(parents, key=lambda parent: next(i for i, n in enumerate(names) if n.startswith(parent + "/")))
    near = difflib.get_close_matches(pattern, [*layers, *names], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(layers) or 'none'}"
    return f"the pattern {pattern!r} selects nothing; {hint}"


@dataclass(frozen=True)
class Layer:
    """One row of a layer table: what is called `name` in the network, for one picture."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class LayerTable(tuple[Layer, ...]):
    """The rows of `layer_table`; prints as a table with totals."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [("layer", "output", "parameters", "multiply-adds")]
        for layer in self:
            shape = "×".join(map(str, layer.output_shape))
            rows.append((layer.name, shape, _count(layer.parameters), _count(layer.multiply_adds)))
        total = (sum(row.parameters for row in self), sum(row.multiply_adds for row in self))
        rows.append(("total", "", _count(total[0]), _count(total[1])))
        return aligned(rows)


def aligned(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """`rows` as the lines of a table: the first `left` columns to the left, the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        sides = [str.ljust] * left + [str.rjust] * (len(widths) - left)
        return "  ".join(side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)).rstrip()

    return "\n".join(map(line, rows))


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def layer_table(net: Any, input_shape: tuple[int, int, int] | None = None) -> LayerTable:
    """Name, output shape, parameters and multiply-adds of every named activation of `net`.

    `input_shape` is (height, width, channels), the network's own `input_shape` when not given. The
    shapes are those of one real trace of the network, without computing it. Multiply-adds count the
    products of convolutions and dense layers for one picture, as the papers do; biases,
    normalization and pooling are left out. Moving averages are no parameters.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, x: tf.Tensor) -> tf.Tensor:
        shapes[name] = tuple(x.shape[1:])
        return x

    height, width, channels = input_shape or net.input_shape
    spec = tf.TensorSpec([1, height, width, channels], tf.float32)
    # Auxiliary classifiers are there in training only.
    mode = {"train": True, "rng": tf.constant([0, 0])} if getattr(net, "auxiliary", None) else {}
    tf.function(lambda x: net(x, tap=note, **mode), autograph=False).get_concrete_function(spec)

    variables = named_variables(net)
    rows = []
    for name, shape in shapes.items():
        own = {key: variables.pop(key) for key in list(variables) if key.rpartition("/")[0] == name}
        kernels = [tuple(variable.shape) for key, variable in own.items() if key.endswith("weights")]
        # A kernel is used once at each place of the output map; a dense layer has one place.
        products = sum(math.prod(k) * (math.prod(shape[:-1]) if len(k) == 4 else 1) for k in kernels)
        parameters = sum(math.prod(variable.shape) for variable in own.values() if variable.trainable)
        rows.append(Layer(name, shape, parameters, products))
    if variables:
        raise ValueError(
            f"no activation is named after the layers of {', '.join(variables)}: the network must tap them"
        )
    return LayerTable(rows)

"""Names of variables and activations, and patterns that choose among them."""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from barenets import UserError, printable

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


def aligned(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """`rows` as the lines of a table: the first `left` columns to the left, the others to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        sides = [str.ljust] * left + [str.rjust] * (len(widths) - left)
        return "  ".join(side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)).rstrip()

    return "\n".join(map(line, rows))

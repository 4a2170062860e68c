"""The strict load: everything that differs is named before anything is assigned."""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops.module import aligned, named_variables, select
from barenets.weights import copies
from barenets.weights.npy import write_npy, write_npz
from barenets.weights.open import read
from barenets.weights.rename import AUXILIARY, Arrays, Weights
from barenets.weights.safetensors import write_safetensors

_LARGE = 1 << 16
"""Numbers from which on a variable is written in place, on all cores."""


def save(path: str, weights: tf.Module | Arrays) -> None:
    """Writes a network's variables, or named arrays, as `path` says: `.npz`, `.safetensors`, or `.npy` of
    `{layer: [W, b]}`.

    What a file was recognised as is written with its arrays, but in `.npy`, which has no place for it. The file
    is there whole or not at all. Raises UserError.
    """
    writers: dict[str, Callable[[str, Arrays], None]] = {
        ".npz": write_npz,
        ".npy": write_npy,
        ".safetensors": write_safetensors,
    }
    ending = os.path.splitext(path)[1]
    if ending not in writers:
        raise UserError(
            f"{path}: weights are written as {', '.join(writers)}, not as {ending or 'a file without an ending'}"
        )
    if isinstance(weights, tf.Module):
        weights = {name: variable.numpy() for name, variable in named_variables(weights).items()}
    writers[ending](path, weights)


@dataclass(frozen=True)
class LoadReport:
    """What a load did, or would do: one row for each variable of the network."""

    source: str
    rows: tuple[tuple[str, tuple[int, ...], str], ...]
    """Name, shape, and "loaded" or "skipped"."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the network's variables that got a value."""
        return tuple(name for name, _, what in self.rows if what == "loaded")

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of those that were meant to keep theirs."""
        return tuple(name for name, _, what in self.rows if what == "skipped")

    def __str__(self) -> str:
        table = aligned((name, _shape(shape), what) for name, shape, what in self.rows)
        summary = f"{len(self.loaded)} variables loaded from {self.source}"
        if self.skipped:
            summary += f", {len(self.skipped)} skipped: they keep their first values"
        return f"{table}\n{summary}"


def load(
    net: tf.Module, source: str | Arrays, skip: Iterable[str] = (), origin: str = "the given arrays"
) -> LoadReport:
    """Assigns the weights in `source`, a file or named arrays from `origin`, to the variables of `net`.

    Strict and two-sided: unless the network and the source have the same names and shapes, apart from
    what the patterns `skip` select (`ops.select`) on either side, it raises UserError with every
    difference, and nothing is assigned. A variable that is skipped keeps its value. So do those of an auxiliary
    head that the file lacks whole, and one that the network lacks is passed over.

    Large variables are written where they lie, so nothing may run the network meanwhile. Values that were read before
    stay as they were. Warns where the weights fit by their shapes but are known to be another variant's.
    """
    arrays, origin = (read(source), source) if isinstance(source, str) else (source, origin)
    report = plan(net, arrays, skip, origin)
    theirs, ours = _variant(arrays), getattr(net, "variant", None)
    if theirs and ours and theirs != ours:
        warnings.warn(
            f"{origin}: has weights of the variant {theirs}, and the network is the variant {ours}: it takes them, "
            f"and gives other numbers than theirs. Build it with variant={theirs!r} (--variant {theirs})",
            stacklevel=2,
        )
    _assign(named_variables(net), arrays, report.loaded)
    return report


def _assign(variables: dict[str, tf.Variable], arrays: Arrays, names: Iterable[str]) -> None:
    large = []
    own = {name: getattr(variables[name], "values", [variables[name]]) for name in names}  # on several devices, several
    for name, variable in ((name, variable) for name, each in own.items() for variable in each):
        array = arrays.view(name) if isinstance(arrays, Weights) else arrays[name]
        room = copies.memory(variable) if array.size >= _LARGE else None
        if room is not None:
            large.append((room.reshape(array.shape), array))
        else:
            value = np.asarray(array, variable.dtype.as_numpy_dtype).reshape(variable.shape)
            # variable.assign() does the same, after 0.2 ms of Python: for each of ResNet-152's 777.
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.constant(value))
    # Only now: Python at work on other things would keep the threads waiting for its lock.
    for copy in [copies.Copy(room, array) for room, array in large]:
        copy.wait()


def plan(net: tf.Module, arrays: Arrays, skip: Iterable[str] = (), origin: str = "the given arrays") -> LoadReport:
    """The report of `load` without assigning; raises UserError, naming every difference, where it would."""
    variables = {name: tuple(variable.shape) for name, variable in named_variables(net).items()}
    skipped = set(select([*variables, *(name for name in arrays if name not in variables)], skip))
    for head in AUXILIARY:
        sides = [[name for name in side if name.startswith(f"{head}/")] for side in (variables, arrays)]
        if not all(sides):
            skipped |= {*sides[0], *sides[1]}
    shapes = arrays.shapes if isinstance(arrays, Weights) else {name: array.shape for name, array in arrays.items()}
    theirs = {name: shape for name, shape in shapes.items() if name not in skipped}
    ours = {name: shape for name, shape in variables.items() if name not in skipped}

    differences = []
    if missing := [name for name in ours if name not in theirs]:
        differences.append(f"the file lacks {_names(missing)}")
    if unknown := [name for name in theirs if name not in ours]:
        differences.append(f"the network lacks {_names(unknown)}")
    differences += [
        f"{name} is {_shape(theirs[name])} in the file and {_shape(shape)} in the network"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    if differences:
        kind = arrays.kind if isinstance(arrays, Weights) else None
        raise UserError(
            f"{origin}: {f'holds {kind} and ' if kind else ''}does not fit the network, nothing was loaded: "
            f"{'; '.join(differences)}. "
            "Choose the network and variant that the file is for, or skip the layers that shall start afresh "
            "(--reinit PATTERN)"
        )
    rows = ((name, shape, "skipped" if name in skipped else "loaded") for name, shape in variables.items())
    return LoadReport(origin, tuple(rows))


def _variant(arrays: Arrays) -> str | None:
    return arrays.kind.variant if isinstance(arrays, Weights) and arrays.kind else None


def _names(names: list[str]) -> str:
    # Those of a file may hold line breaks and control characters.
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"

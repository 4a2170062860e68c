"""Checkpoints: one `.npz` each, whole or not there, with all that a run needs to go on to the bit.

A checkpoint holds the network's variables under their names, the optimizer's under `optimizer/`, and
`state.json`: step, epoch, place in the epoch, settings, preprocessing, class names. So it is also a
weight file: `weights.load(net, path)` reads it, and NumPy opens it. The zip format's checksums tell a
damaged file.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops.module import named_variables
from barenets.weights import files
from barenets.weights.npy import AVERAGES, OPTIMIZER, STATE, read_archive, write_npz

FOLDER = "checkpoints"
"""Where in a run's log folder they are."""

_NAME = re.compile(r"step-(\d{8,})\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: variables of the network and of the optimizer, by name, and the run's own state."""

    path: str
    weights: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    state: dict[str, Any]
    """What `save` was given, through JSON."""

    @property
    def judged(self) -> dict[str, np.ndarray]:
        """The weights that were validated: averages in place of the variables that have them."""
        averages = AVERAGES.removeprefix(OPTIMIZER)
        return {name: self.optimizer.get(averages + name, array) for name, array in self.weights.items()}


def save(folder: str, step: int, net: tf.Module, optimizer: tf.Module, state: Mapping[str, Any]) -> str:
    """Writes `folder/step-00000120.npz`, whole or not at all, and returns its path.

    Raises UserError if it cannot be written; the checkpoints before it are then still there.
    """
    arrays = {name: variable.numpy() for name, variable in named_variables(net).items()}
    arrays |= {OPTIMIZER + name: variable.numpy() for name, variable in named_variables(optimizer).items()}
    arrays[STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    write_npz(path(folder, step), arrays)
    return path(folder, step)


def path(folder: str, step: int) -> str:
    """That of the checkpoint of `step` in `folder`."""
    return os.path.join(folder, f"step-{step:08d}.npz")


def steps(folder: str) -> dict[int, str]:
    """Step -> path of the checkpoints in `folder`, oldest first; empty if there is no such folder."""
    if not tf.io.gfile.isdir(folder):
        return {}
    matches = {name: _NAME.fullmatch(name) for name in tf.io.gfile.listdir(folder)}
    found = {int(match[1]): os.path.join(folder, name) for name, match in matches.items() if match}
    return dict(sorted(found.items()))


def prune(folder: str, step: int, keep: int, best: int | None) -> None:
    """Deletes the checkpoints before `step` but for the last `keep`, itself among them, and the one of step `best`.

    Later ones are damaged, or the run would have gone on from them: they do not count.
    """
    found = {number: path for number, path in steps(folder).items() if number <= step}
    for number in list(found)[:-keep]:
        if number != best:
            tf.io.gfile.remove(found[number])


def read(path: str) -> Checkpoint:
    """The checkpoint at `path`. Raises UserError if it is damaged or is no checkpoint of ours."""
    arrays = read_archive(path)
    if STATE not in arrays:
        raise UserError(f"{path}: is no checkpoint: it has no {STATE}; weight files are given with --weights")
    try:
        state = files.parsed(arrays.pop(STATE).tobytes(), STATE)
    except UserError as error:
        raise UserError(f"{path}: is no checkpoint that can be read: {error}") from None
    if not _of_a_run(state):
        raise UserError(f"{path}: is no checkpoint of this program's: its {STATE} says nothing of a run")
    optimizer = {name.removeprefix(OPTIMIZER): arrays.pop(name) for name in list(arrays) if name.startswith(OPTIMIZER)}
    return Checkpoint(path, arrays, optimizer, state)


def _of_a_run(state: Any) -> bool:
    """Whether `state` has, of the types they have, the values that say which checkpoint and which network it is."""
    if not isinstance(state, dict) or not all(isinstance(state.get(key), str) for key in ("net", "variant")):
        return False
    best = state.get("best")
    return all(isinstance(some, dict) and isinstance(some.get("step"), int) for some in (state, best or state))


def latest(logdir: str) -> Checkpoint:
    """The newest checkpoint of the run in `logdir` that can be read; a warning names those that cannot.

    Raises UserError if there is none.
    """
    found = steps(os.path.join(logdir, FOLDER))
    for path in reversed(found.values()):
        try:
            return read(path)
        except UserError as error:
            warnings.warn(f"{error}; taking the checkpoint before it", stacklevel=2)
    what = "no checkpoint that can be read" if found else "no checkpoints"
    raise UserError(f"{logdir}: has {what}; name another run's log folder, or start the run anew")


def find(source: str) -> Checkpoint | None:
    """The checkpoint that `source` means, as `best` has it; None if it is something else, a weight file perhaps."""
    if tf.io.gfile.isdir(source):
        return best(source) if steps(os.path.join(source, FOLDER)) else None
    if _NAME.fullmatch(os.path.basename(source)) and tf.io.gfile.exists(source):
        return read(source)
    return None


def best(source: str) -> Checkpoint:
    """The checkpoint file `source`, or of the run in the folder `source` the one that validated best.

    A run without validation gives its newest, and so does, with a warning, one whose best is damaged.
    """
    if tf.io.gfile.exists(source) and not tf.io.gfile.isdir(source):
        return read(source)
    newest = latest(source)
    step = (newest.state.get("best") or {}).get("step", newest.state["step"])
    path = steps(os.path.join(source, FOLDER)).get(step)
    if path and path != newest.path:
        try:
            return read(path)
        except UserError as error:
            warnings.warn(f"{error}; taking the newest checkpoint in place of the best", stacklevel=2)
    return newest

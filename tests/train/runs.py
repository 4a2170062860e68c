"""Runs of the program with the tiny networks, killed or not, and what they leave."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from barenets import nets
from barenets.train import checkpoints, evaluate, finetune, loop
from barenets.weights import files
from tests import program
from tests.train.tiny import NETWORK, TinyXception

# Where a run can be struck: before a step, in the middle of a file, before and after it gets its name, ...
PLACES = {
    "step": (loop.Trainer, "step"),
    "write": (files._Writer, "write"),
    "rename": (tf.io.gfile, "rename"),
    "prune": (checkpoints, "prune"),
    "validate": (evaluate.Evaluator, "evaluate"),
    "save": (finetune.Run, "save"),
    "advance": (finetune.Run, "advance"),
}


def kill_at(place: str, call: int) -> None:
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), 0

    def struck(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, struck)


def _prepare(kill: str | None, before: Callable[[], None] | None) -> None:
    """In the process of the program."""
    nets.NETWORKS["tiny"] = NETWORK
    nets.NETWORKS["xception"] = (TinyXception, ("keras",))
    if kill:
        place, _, call = kill.partition(":")
        kill_at(place, int(call))
    if before:
        before()


def start(*arguments: object, kill: str | None = None, before: Callable[[], None] | None = None) -> program.Running:
    """kill="step:4" kills it, as `kill -9` does, at the 4th call of the place of that name."""
    return program.Running(*arguments, before=partial(_prepare, kill, before))


def run(*arguments: object, **options) -> program.Done:
    """Options as of `start`."""
    return start(*arguments, **options).done()


def last_checkpoint(logdir: Path, step: int) -> dict[str, np.ndarray]:
    with np.load(logdir / f"checkpoints/step-{step:08d}.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "state.json"}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].tobytes() == array.tobytes(), name

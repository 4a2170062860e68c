"""Runs of the program that something is done to."""

import ctypes
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from barenets.train import checkpoints
from tests.pictures import write_pictures
from tests.train import runs

State = tuple[dict[str, bytes], dict[str, Any]]
"""Bytes of the network's and the optimizer's variables; step, epoch, place in the epoch, what was best, ..."""


class Lab:
    """A run of 5 steps an epoch, 3 epochs, a checkpoint at every step; `folder` holds its pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_pictures(folder / "pictures/train", 9)
        write_pictures(folder / "pictures/val", 3, seed=1)

    def finetune(self, logdir: Path, *others: object, pictures: Path | None = None) -> list[object]:
        """The command of that run."""
        place = pictures or self.folder / "pictures"
        sets = ["--train", place / "train", "--val", place / "val", "--batch-size", 4, "--epochs", 3]
        how = ["--net", "tiny", "--optimizer", "adam", "--checkpoint-every", 1, "--summary-every", 0]
        return ["finetune", *sets, *how, *others, "--logdir", logdir]

    @cached_property
    def undisturbed(self) -> dict[int, State]:
        """Step -> state, of a run that nothing happens to."""
        logdir = self.folder / "undisturbed"
        done = runs.run(*self.finetune(logdir, "--keep", 99))
        assert done.code == 0, done.err
        return {step: state(path) for step, path in checkpoints.steps(str(logdir / "checkpoints")).items()}

    def sound(self, logdir: Path) -> int:
        """Checks that all checkpoints are there to the bit as in the undisturbed run; returns the last one's step."""
        found = checkpoints.steps(str(logdir / "checkpoints"))
        for step, path in found.items():
            (arrays, rest), (wanted, then) = state(path), self.undisturbed[step]
            assert arrays == wanted, path
            if not (rest["position"] == 18 and then["position"] == 0):  # the epoch is over, its validation is not
                assert rest == then, path
        return max(found, default=0)

    def resumes(self, logdir: Path) -> None:
        """Checks that the run, taken up again, ends bit for bit where the undisturbed one ends."""
        again = ["finetune", "--resume", "--logdir", logdir]
        done = runs.run(*(again if checkpoints.steps(str(logdir / "checkpoints")) else self.finetune(logdir)))
        assert done.code == 0, done.err
        assert self.sound(logdir) == max(self.undisturbed)
        assert not list(logdir.rglob(".*.tmp"))


def state(path: str) -> State:
    checkpoint = checkpoints.read(path)
    arrays = {**checkpoint.weights, **{f"optimizer/{name}": array for name, array in checkpoint.optimizer.items()}}
    rest = {key: value for key, value in checkpoint.state.items() if key != "settings"}
    return {name: array.tobytes() for name, array in arrays.items()}, json.loads(json.dumps(rest))


def bound_by_permissions() -> None:
    """From here on permissions count for root, too: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH are given up."""
    libc, header, sets = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110
    assert libc.capset(header, sets) == 0

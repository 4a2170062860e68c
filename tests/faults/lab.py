"""Runs of the program that something is done to: forked from a process that has imported TensorFlow but not used it."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from barenets import nets
from barenets.train import checkpoints, cli, finetune  # noqa: F401 (finetune is imported before the fork)
from tests.pictures import write_pictures
from tests.train.tiny import NETWORK

LIMIT = 180
"""Seconds that no run of the lab takes, on a busy machine either."""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.faults.lab"])


def _main(arguments: list[str], said: str, before: Callable[[], None] | None) -> None:
    for file, ending in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(f"{said}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), file.fileno())
    nets.NETWORKS["tiny"] = NETWORK
    code = 1
    try:
        if before:
            before()
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def refused(self, *words: object) -> None:
        """Checks that it ended as by the user's mistake, with these words in the last line of what it said."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("barenets: "), self.err
        assert all(str(word) in line for word in words), self.err


class Running:
    """The program at work."""

    def __init__(self, said: Path, arguments: tuple[object, ...], before: Callable[[], None] | None) -> None:
        self._said = said
        self._process = CONTEXT.Process(target=_main, args=([*map(str, arguments)], str(said), before))
        self._process.start()

    @property
    def over(self) -> bool:
        return not self._process.is_alive()

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self.over:
                os.kill(self._process.pid, number)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Returns when it has, or when the program is over."""
        begun = time.monotonic()
        while not self.over and not happened():
            assert time.monotonic() < begun + LIMIT
            time.sleep(0.001)

    def done(self) -> Done:
        self._process.join(LIMIT)
        if not self.over:
            self._process.kill()
            self._process.join()
        said = [Path(f"{self._said}.{ending}") for ending in ("out", "err")]
        return Done(self._process.exitcode, *(path.read_text() if path.exists() else "" for path in said))


State = tuple[dict[str, bytes], dict[str, Any]]
"""Bytes of the network's and the optimizer's variables; step, epoch, place in the epoch, what was best, ..."""


class Lab:
    """A run of 5 steps an epoch, 3 epochs, a checkpoint at every step; `folder` holds its pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0
        write_pictures(folder / "pictures/train", 9)
        write_pictures(folder / "pictures/val", 3, seed=1)
        (folder / "said").mkdir()

    def finetune(self, logdir: Path, *others: object, pictures: Path | None = None) -> list[object]:
        """The command of that run."""
        place = pictures or self.folder / "pictures"
        sets = ["--train", place / "train", "--val", place / "val", "--batch-size", 4, "--epochs", 3]
        how = ["--net", "tiny", "--optimizer", "adam", "--checkpoint-every", 1, "--summary-every", 0]
        return ["finetune", *sets, *how, *others, "--logdir", logdir]

    def start(self, *arguments: object, before: Callable[[], None] | None = None) -> Running:
        """The program, with `before` called first in its process."""
        self._count += 1
        return Running(self.folder / f"said/{self._count}", arguments, before)

    def run(self, *arguments: object, before: Callable[[], None] | None = None) -> Done:
        return self.start(*arguments, before=before).done()

    @cached_property
    def undisturbed(self) -> dict[int, State]:
        """Step -> state, of a run that nothing happens to."""
        logdir = self.folder / "undisturbed"
        done = self.run(*self.finetune(logdir, "--keep", 99))
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
        done = self.run(*(again if checkpoints.steps(str(logdir / "checkpoints")) else self.finetune(logdir)))
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

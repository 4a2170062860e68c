"""What can happen to a run. Each function is one try, in an empty `folder`, and fails if anything is lost."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from barenets.train import checkpoints, evaluate, loop
from tests.faults.lab import Lab, bound_by_permissions
from tests.train import runs


@dataclass(frozen=True)
class Fault:
    name: str
    tries: int
    """In a full run."""
    quick: int
    """In CI."""
    ends: str
    """How it does."""
    attempt: Callable[[Lab, Path, random.Random], float | None]
    """May return how many seconds it took until the program was over."""


FAULTS: list[Fault] = []


def fault(name: str, tries: int, ends: str, quick: int = 1) -> Callable[..., Callable[..., None]]:
    def add(attempt: Callable[[Lab, Path, random.Random], float | None]) -> Callable[..., None]:
        FAULTS.append(Fault(name, tries, quick, ends, attempt))
        return attempt

    return add


def steps(logdir: Path) -> dict[int, str]:
    return checkpoints.steps(str(logdir / "checkpoints"))


def some_way(run: object, logdir: Path, rng: random.Random, most: int = 10) -> None:
    """Waits until the run has written some more checkpoints, and then some milliseconds more."""
    there, more = max(steps(logdir), default=0), rng.randrange(1, most)
    run.wait_for(lambda: max(steps(logdir), default=0) >= there + more)
    time.sleep(rng.uniform(0, 0.05))


@fault("SIGKILL at a random moment", 200, "goes on bit for bit; no checkpoint that cannot be read", quick=3)
def killed(lab: Lab, folder: Path, rng: random.Random) -> None:
    """The run is killed again and again; each process takes up what the one before left. It is checked each time."""
    logdir, code = folder.parent / "killed", 0
    while code == 0:  # it was over before
        code = strike(lab, logdir, rng)
    assert code == -signal.SIGKILL


def strike(lab: Lab, logdir: Path, rng: random.Random) -> int:
    """How one process ended."""
    there = max(steps(logdir), default=0)
    if there == max(lab.undisturbed):
        lab.resumes(logdir)
        shutil.rmtree(logdir)
        there = 0
    run = runs.start(*(["finetune", "--resume", "--logdir", logdir] if there else lab.finetune(logdir)))
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 3))  # as it starts
    else:
        some_way(run, logdir, rng, most=4)
    run.send(signal.SIGKILL)
    done = run.done()
    assert lab.sound(logdir) >= there, done.err
    assert len(list(logdir.rglob(".*.tmp"))) <= 1  # what this kill left; what earlier ones did is gone
    return done.code


@fault("SIGTERM at a random moment", 10, "ends with a checkpoint of the last step; goes on bit for bit")
def terminated(lab: Lab, folder: Path, rng: random.Random) -> float | None:
    run = runs.start(*lab.finetune(folder, "--checkpoint-every", 0))
    run.wait_for(lambda: bool(steps(folder)))
    time.sleep(rng.uniform(0, 0.5))
    begun = time.monotonic()
    run.send(signal.SIGTERM)
    done, seconds = run.done(), time.monotonic() - begun
    assert done.code in (130, 0), done.err
    assert f"{max(steps(folder))} steps" in done.out
    assert ("interrupted; go on with:  barenets finetune --resume" in done.out) == (done.code == 130)
    lab.resumes(folder)
    return seconds


def slow_validation() -> None:
    original, calls = evaluate.Evaluator.evaluate, []

    def slow(self: evaluate.Evaluator, batches: object, progress: Callable[[int], None]) -> evaluate.Evaluation:
        calls.append(1)
        for _ in range(3000 if len(calls) > 1 else 0):
            time.sleep(0.1)
            progress(1)
        return original(self, batches, progress)

    evaluate.Evaluator.evaluate = slow


@fault("SIGTERM in a validation of five minutes", 3, "ends with a checkpoint of the last step; goes on bit for bit")
def terminated_in_validation(lab: Lab, folder: Path, rng: random.Random) -> float | None:
    run = runs.start(*lab.finetune(folder), before=slow_validation)
    run.wait_for(lambda: 5 in steps(folder))
    time.sleep(rng.uniform(0.2, 1))
    begun = time.monotonic()
    run.send(signal.SIGTERM)
    done, seconds = run.done(), time.monotonic() - begun
    assert done.code == 130, done.err
    assert max(steps(folder)) == 5
    lab.resumes(folder)
    return seconds


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 2 MB, in memory. Skips where none may be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@fault("disk full while checkpointing", 5, "one line; the checkpoints before are there; goes on bit for bit")
def disk_full(lab: Lab, folder: Path, rng: random.Random) -> None:
    with small_disk(folder):
        run = runs.start(*lab.finetune(folder / "run"))
        some_way(run, folder / "run", rng)
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while not run.over:
                filler.write(bytes(512))
        done = run.done()
        if done.code:  # else it was faster
            done.refused("cannot be written", "No space left on device")
        assert lab.sound(folder / "run")
        os.remove(folder / "filler")
        lab.resumes(folder / "run")


def file_limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@fault("no room for the summaries", 5, "one line that says so; goes on bit for bit")
def summaries_full(lab: Lab, folder: Path, rng: random.Random) -> None:
    size = rng.randrange(40_000, 60_000)  # more than a checkpoint has, less than an event file
    done = runs.run(*lab.finetune(folder, "--summary-every", 1), before=partial(file_limit, size))
    done.refused("tfevents", "cannot be written", "make room, then go on with --resume")
    lab.sound(folder)
    lab.resumes(folder)


@fault("no room for a checkpoint", 3, "one line; nothing half-written; goes on bit for bit")
def checkpoint_limit(lab: Lab, folder: Path, rng: random.Random) -> None:
    run = runs.start(*lab.finetune(folder))
    some_way(run, folder, rng)
    run.send(signal.SIGKILL)
    run.done()
    there = lab.sound(folder)
    if there < 15:
        size = rng.randrange(1, 8_000)
        done = runs.run("finetune", "--resume", "--logdir", folder, before=partial(file_limit, size))
        done.refused("cannot be written", "File too large")
    assert lab.sound(folder) == there
    lab.resumes(folder)


@fault("log folder deleted", 5, "made again; ends bit for bit the same, or, hit while it writes, with one line")
def folder_deleted(lab: Lab, folder: Path, rng: random.Random) -> None:
    run = runs.start(*lab.finetune(folder / "run"))
    some_way(run, folder / "run", rng)
    for _ in range(3):
        shutil.rmtree(folder / "run", ignore_errors=True)
    done = run.done()
    if done.code == 0:
        assert lab.sound(folder / "run") == 15 or not (folder / "run/checkpoints").exists()
    else:
        done.refused(folder / "run", "cannot be written")


@fault("checkpoint cut short or a bit of it flipped", 2000, "noticed, and the one before taken, or harmless", quick=300)
def damaged(lab: Lab, folder: Path, rng: random.Random) -> None:
    lab.undisturbed  # noqa: B018
    source = lab.folder / "undisturbed/checkpoints"
    (folder / "checkpoints").mkdir()
    for step in (14, 15):
        shutil.copy(source / f"step-{step:08d}.npz", folder / "checkpoints")
    path = folder / "checkpoints/step-00000015.npz"
    content = bytearray(path.read_bytes())
    if rng.random() < 0.2:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = checkpoints.latest(str(folder))
    assert found.state["step"] == (14 if said else 15)
    assert all(str(path) in str(warning.message) for warning in said)
    if said:
        os.remove(path)
    lab.sound(folder)


@fault("a run with its newest or best checkpoint damaged", 3, "goes on bit for bit; predict says so and takes another")
def damaged_run(lab: Lab, folder: Path, rng: random.Random) -> None:
    lab.undisturbed  # noqa: B018
    shutil.copytree(lab.folder / "undisturbed/checkpoints", folder / "checkpoints")
    best = lab.undisturbed[15][1]["best"]["step"]
    for step in {15, best}:
        path = folder / f"checkpoints/step-{step:08d}.npz"
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])
    done = runs.run("predict", "--checkpoint", folder, "--images", lab.folder / "pictures/val")
    assert done.code == 0, done.err
    assert "step-00000015.npz" in done.err
    assert len(done.out.splitlines()) >= 6
    os.remove(folder / f"checkpoints/step-{best:08d}.npz")
    lab.resumes(folder)


def plant(layer: str, kind: str, at: int) -> None:
    original = loop.Trainer.step

    def step(self: loop.Trainer, images: object, labels: object, number: int, *rest: object, **how: bool) -> object:
        if number == at:
            variable = getattr(getattr(self.net, layer), kind)
            values = variable.numpy()
            values.flat[values.size // 2] = np.nan
            variable.assign(values)
        return original(self, images, labels, number, *rest, **how)

    loop.Trainer.step = step


@fault("NaN in a variable", 10, "stops and names it; no checkpoint has it; goes on bit for bit", quick=3)
def planted(lab: Lab, folder: Path, rng: random.Random) -> None:
    layer, kind, at = rng.choice(["conv1", "fc2", "fc3"]), rng.choice(["weights", "biases"]), rng.randrange(1, 14)
    done = runs.run(*lab.finetune(folder), before=partial(plant, layer, kind, at))
    assert done.code == 1, done
    # A ReLU hides it from the loss: then it is found before the next checkpoint would be written.
    assert re.search(rf"step ({at}|{at + 1}): not a finite number, first in the variable {layer}/{kind}", done.err)
    assert lab.sound(folder) == at
    lab.resumes(folder)


@fault("pictures deleted during the run", 5, "one line, the last step saved; put back, goes on bit for bit")
def pictures_deleted(lab: Lab, folder: Path, rng: random.Random) -> None:
    pictures, part, logdir = folder / "pictures", rng.choice(["train", "val"]), folder / "run"
    shutil.copytree(lab.folder / "pictures", pictures)
    run = runs.start(*lab.finetune(logdir, "--checkpoint-every", 0, pictures=pictures))
    run.wait_for(lambda: bool(steps(logdir)))
    os.rename(pictures / part / "below", folder / "kept")
    done = run.done()
    os.rename(folder / "kept", pictures / part / "below")
    if done.code:
        done.refused(pictures / part / "below", "there is no such file", f"step {lab.sound(logdir)} is saved")
    lab.resumes(logdir)


def jumping_clock(seed: int) -> None:
    rng = random.Random(seed)
    time.time = lambda: rng.uniform(0, 4e9)


@fault("a clock that jumps between 1970 and 2096", 3, "ends bit for bit the same, killed and taken up or not")
def clock(lab: Lab, folder: Path, rng: random.Random) -> None:
    run = runs.start(*lab.finetune(folder), before=partial(jumping_clock, rng.randrange(1000)))
    some_way(run, folder, rng)
    run.send(signal.SIGKILL)
    assert run.done().code in (-signal.SIGKILL, 0)
    done = runs.run("finetune", "--resume", "--logdir", folder, before=partial(jumping_clock, rng.randrange(1000)))
    assert done.code == 0, done.err
    assert lab.sound(folder) == 15


@fault("two runs in one folder", 5, "the second is refused in one line; the first ends as if alone")
def two_runs(lab: Lab, folder: Path, rng: random.Random) -> None:
    first = runs.start(*lab.finetune(folder))
    some_way(first, folder, rng)
    first.send(signal.SIGSTOP)  # so that it does not end too soon
    again = ["finetune", "--resume", "--logdir", folder]
    second = runs.run(*(again if rng.random() < 0.5 else lab.finetune(folder)))
    first.send(signal.SIGCONT)
    second.refused(folder, "another process is training")
    assert first.done().code == 0
    assert lab.sound(folder) == 15


def read_only_home(folder: Path) -> None:
    os.environ |= {"HOME": str(folder), "BARENETS_CACHE": str(folder), "XDG_CACHE_HOME": str(folder)}
    os.environ.pop("MPLCONFIGDIR", None)
    folder.chmod(0o555)
    bound_by_permissions()


@fault("read-only home, caches and log folder", 2, "no cache is needed; a log folder, or fetch: one line")
def read_only(lab: Lab, folder: Path, rng: random.Random) -> None:
    home = folder / "home"
    home.mkdir()
    done = runs.run(*lab.finetune(folder / "run"), before=partial(read_only_home, home))
    assert done.code == 0, done.err
    assert lab.sound(folder / "run") == 15
    for command in (lab.finetune(home / "run"), ["fetch", "mnist"]):
        runs.run(*command, before=partial(read_only_home, home)).refused(home, "cannot be written")

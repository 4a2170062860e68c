"""A run that is killed, or interrupted, and taken up again ends bit for bit where an undisturbed one ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import write_pictures

ROOT = Path(__file__).resolve().parents[2]


def tiny(*arguments: object, kill: str | None = None, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, **({"KILL": kill} if kill else {})}
    command = [sys.executable, "-m", "tests.train.tiny", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **options)


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.train.tiny", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[object]:
    """The options of a run: 5 steps an epoch, 3 epochs, a checkpoint at each 2nd step and each epoch's end."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", 9)
    write_pictures(folder / "val", 3, seed=1)
    data = ["--train", folder / "train", "--val", folder / "val", "--net", "tiny"]
    return ["finetune", *data, "--epochs", 3, "--batch-size", 4, "--checkpoint-every", 2, "--optimizer", "adam"]


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory) -> dict[str, np.ndarray]:
    logdir = tmp_path_factory.mktemp("undisturbed")
    done = tiny(*pictures, "--logdir", logdir)
    assert done.returncode == 0, done.stderr
    return last_checkpoint(logdir, step=15)


def last_checkpoint(logdir: Path, step: int) -> dict[str, np.ndarray]:
    with np.load(logdir / f"checkpoints/step-{step:08d}.npz") as archive:
        return {name: archive[name] for name in archive.files if name != "state.json"}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(
    "kill",
    [
        "step:4",  # between two checkpoints
        pytest.param("step:6", marks=pytest.mark.slow),  # the first of an epoch
        pytest.param("write:200", marks=pytest.mark.slow),  # in the middle of the second checkpoint
        pytest.param("rename:2", marks=pytest.mark.slow),  # a checkpoint is whole but has no name yet
        pytest.param("prune:3", marks=pytest.mark.slow),  # it has its name, and an older one is still there
        pytest.param("validate:3", marks=pytest.mark.slow),  # an epoch's last step is done
    ],
)
def test_killed_and_resumed(pictures, undisturbed, tmp_path, kill):
    killed = tiny(*pictures, "--logdir", tmp_path, kill=kill)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "checkpoints/step-00000015.npz").exists()
    resumed = tiny("finetune", "--resume", "--logdir", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)


@pytest.mark.slow
def test_killed_and_resumed_with_blends_and_a_sampler(pictures, tmp_path):
    """Partners, mixed labels, and records that repeat."""
    options = [*pictures, "--epochs", 2, "--augment", "standard, Mixup(0.2)", "--sampler", "weighted"]
    whole = tiny(*options, "--logdir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    killed = tiny(*options, "--logdir", tmp_path / "killed", kill="step:4")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = tiny("finetune", "--resume", "--logdir", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(last_checkpoint(tmp_path / "killed", step=10), last_checkpoint(tmp_path / "whole", step=10))


@pytest.mark.slow
def test_killed_at_random_moments(pictures, undisturbed, tmp_path):
    """Six times in a row: twice while it starts, else some milliseconds after it has written one more checkpoint."""
    rng, kills = np.random.default_rng(0), 0

    def written() -> set[Path]:
        return set(tmp_path.glob("run/checkpoints/step-*.npz"))

    def arguments() -> list[object]:
        return ["finetune", "--resume", *logdir] if written() else [*pictures, *logdir]

    logdir = ["--logdir", tmp_path / "run"]
    for turn in range(6):
        before = written()
        process = start(*arguments())
        if turn in (0, 3):
            time.sleep(rng.uniform(0, 2))
        else:
            while process.poll() is None and not written() - before:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    done = tiny(*arguments())
    assert done.returncode == 0, done.stderr
    assert kills >= 3
    assert_same(last_checkpoint(tmp_path / "run", step=15), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_says_how_to_go_on(pictures, undisturbed, tmp_path, number):
    process = start(*pictures, "--logdir", tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoints/step-*2.npz")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    go_on = re.search(r"barenets (finetune --resume --logdir \S+)", out)
    assert go_on, out
    assert tiny(*go_on[1].split()).returncode == 0
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)


@pytest.mark.slow
def test_resume_of_a_finished_run_changes_nothing(pictures, undisturbed, tmp_path):
    assert tiny(*pictures, "--logdir", tmp_path).returncode == 0
    again = tiny("finetune", "--resume", "--logdir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)

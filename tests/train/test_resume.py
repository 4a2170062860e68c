"""A run that is killed, or interrupted, and taken up again ends bit for bit where an undisturbed one ends."""

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import write_pictures
from tests.train import runs
from tests.train.runs import assert_same, last_checkpoint


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
    done = runs.run(*pictures, "--logdir", logdir)
    assert done.code == 0, done.err
    return last_checkpoint(logdir, step=15)


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
    killed = runs.run(*pictures, "--logdir", tmp_path, kill=kill)
    assert killed.code == -signal.SIGKILL, killed.err
    assert not (tmp_path / "checkpoints/step-00000015.npz").exists()
    resumed = runs.run("finetune", "--resume", "--logdir", tmp_path)
    assert resumed.code == 0, resumed.err
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)


@pytest.mark.slow
def test_killed_and_resumed_with_blends_and_a_sampler(pictures, tmp_path):
    """Partners, mixed labels, and records that repeat."""
    options = [*pictures, "--epochs", 2, "--augment", "standard, Mixup(0.2)", "--sampler", "weighted"]
    whole = runs.run(*options, "--logdir", tmp_path / "whole")
    assert whole.code == 0, whole.err
    killed = runs.run(*options, "--logdir", tmp_path / "killed", kill="step:4")
    assert killed.code == -signal.SIGKILL, killed.err
    resumed = runs.run("finetune", "--resume", "--logdir", tmp_path / "killed")
    assert resumed.code == 0, resumed.err
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
        running = runs.start(*arguments())
        if turn in (0, 3):
            time.sleep(rng.uniform(0, 1))
        else:
            running.wait_for(lambda before=before: written() - before)
            time.sleep(rng.uniform(0, 0.05))
        running.send(signal.SIGKILL)
        kills += running.done().code == -signal.SIGKILL
    done = runs.run(*arguments())
    assert done.code == 0, done.err
    assert kills >= 3
    assert_same(last_checkpoint(tmp_path / "run", step=15), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_says_how_to_go_on(pictures, undisturbed, tmp_path, number):
    running = runs.start(*pictures, "--logdir", tmp_path)
    running.wait_for(lambda: list(tmp_path.glob("checkpoints/step-*2.npz")))
    running.send(number)
    done = running.done(60)
    if done.code == 0:
        pytest.skip("the run was over before the signal came")
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    go_on = re.search(r"barenets (finetune --resume --logdir \S+)", done.out)
    assert go_on, done.out
    assert runs.run(*go_on[1].split()).code == 0
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)


@pytest.mark.slow
def test_resume_of_a_finished_run_changes_nothing(pictures, undisturbed, tmp_path):
    assert runs.run(*pictures, "--logdir", tmp_path).code == 0
    again = runs.run("finetune", "--resume", "--logdir", tmp_path)
    assert again.code == 0, again.err
    assert_same(last_checkpoint(tmp_path, step=15), undisturbed)

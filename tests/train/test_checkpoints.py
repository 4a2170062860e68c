"""Checkpoints: the same to the bit, whole or not there, and read past a damaged one."""

from __future__ import annotations

import json
import os
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, ops, weights
from barenets.ops import named_variables
from barenets.train import checkpoints
from barenets.train.optimizers import SGD, Adam, Optimizer, RMSprop


class Net(tf.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv1 = ops.Conv2D(3, 4, 3, seed=(seed, 1))
        self.fc2 = ops.Dense(4, 2, seed=(seed, 2))
        self.mean = tf.Variable([1.5, float("nan"), -0.0], trainable=False)


NAMED = {"net": "tiny", "variant": "tiny"}
STATE = {**NAMED, "step": 12, "best": None, "class_names": ["Katze", "犬"], "rate": 0.1, "settings": {"seed": 3}}


def trained(make: type[Optimizer] = Adam, seed: int = 0) -> tuple[Net, Optimizer]:
    """A net and its optimizer after two steps."""
    net = Net(seed)
    variables = {name: v for name, v in named_variables(net).items() if v.trainable}
    optimizer = make(variables)
    for step in range(2):
        gradients = {name: tf.random.stateless_normal(v.shape, [seed, step]) for name, v in variables.items()}
        optimizer.apply(gradients, tf.constant(0.1))
    return net, optimizer


def save(logdir: Path, step: int, seed: int = 0, **state: object) -> str:
    return checkpoints.save(
        str(logdir / checkpoints.FOLDER), step, *trained(seed=seed), {**NAMED, "step": step, **state}
    )


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """To the bit, with names, shapes and types."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


def values(module: tf.Module) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in named_variables(module).items()}


@pytest.mark.parametrize("make", [SGD, Adam, RMSprop])
def test_what_is_saved_is_read(tmp_path, make):
    net, optimizer = trained(make)
    path = checkpoints.save(str(tmp_path / "new" / "folder"), 12, net, optimizer, STATE)
    assert path == str(tmp_path / "new" / "folder" / "step-00000012.npz")
    assert os.listdir(tmp_path / "new" / "folder") == ["step-00000012.npz"]
    checkpoint = checkpoints.read(path)
    assert checkpoint.path == path
    assert_same(dict(checkpoint.weights), values(net))
    assert_same(dict(checkpoint.optimizer), values(optimizer))
    assert checkpoint.state == STATE

    other, other_optimizer = trained(make, seed=1)
    weights.load(other, checkpoint.weights)
    weights.load(other_optimizer, checkpoint.optimizer)
    assert_same(values(other), values(net))
    assert_same(values(other_optimizer), values(optimizer))


def test_it_is_a_weight_file(tmp_path):
    net, optimizer = trained()
    path = checkpoints.save(str(tmp_path), 12, net, optimizer, STATE)
    other = Net(seed=1)
    assert weights.load(other, path).loaded == tuple(values(net))
    assert_same(values(other), values(net))
    with np.load(path) as archive:
        names = [*values(net), *(f"optimizer/{name}" for name in values(optimizer)), "state.json"]
        assert archive.files == names
        np.testing.assert_array_equal(archive["conv1/weights"], net.conv1.weights)
        assert json.loads(bytes(archive["state.json"])) == STATE


def test_a_weight_file_is_no_checkpoint(tmp_path):
    path = str(tmp_path / "weights.npz")
    weights.save(path, Net())
    with pytest.raises(UserError, match=rf"^{path}: is no checkpoint: it has no state.json; .*--weights$"):
        checkpoints.read(path)


def test_saving_again_replaces(tmp_path):
    save(tmp_path, 3, seed=0)
    path = save(tmp_path, 3, seed=1)
    assert_same(dict(checkpoints.read(path).weights), values(trained(seed=1)[0]))


# Which one


def test_steps(tmp_path):
    folder = tmp_path / checkpoints.FOLDER
    assert checkpoints.steps(str(folder)) == {}
    for step in (10, 9, 123_456_789, 0):
        save(tmp_path, step)
    for name in ("step-00000007.npz.tmp", ".step-00000007.npz.12.tmp", "step-7.npz", "notes.txt", "xstep-00000007.npz"):
        (folder / name).write_text("")
    found = {step: str(folder / f"step-{step:08d}.npz") for step in (0, 9, 10, 123_456_789)}
    assert list(checkpoints.steps(str(folder)).items()) == list(found.items())
    assert checkpoints.latest(str(tmp_path)).state["step"] == 123_456_789


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (1, None, [5]),
        (2, None, [4, 5]),
        (2, 1, [1, 4, 5]),
        (2, 5, [4, 5]),
        (2, 77, [4, 5]),
        (9, 1, [1, 2, 3, 4, 5]),
    ],
)
def test_prune(tmp_path, keep, best, left):
    folder = tmp_path / checkpoints.FOLDER
    folder.mkdir()
    for name in [f"step-{step:08d}.npz" for step in range(1, 6)] + ["notes.txt"]:
        (folder / name).write_text("")
    checkpoints.prune(str(folder), 5, keep, best)
    assert list(checkpoints.steps(str(folder))) == left
    assert (folder / "notes.txt").exists()


def test_prune_does_not_count_later_ones(tmp_path):
    """They are damaged, or the run would have gone on from them: the one just written must not go in their place."""
    for step in (2, 3, 4, 8, 9):
        (tmp_path / f"step-{step:08d}.npz").write_text("")
    checkpoints.prune(str(tmp_path), 4, 1, None)
    assert list(checkpoints.steps(str(tmp_path))) == [4, 8, 9]


def test_a_damaged_best_makes_way_for_the_newest(tmp_path):
    for i in (1, 2, 3):
        save(tmp_path, i, best={"step": 1, "top1": 0.5})
    path = tmp_path / checkpoints.FOLDER / "step-00000001.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.warns(UserWarning, match=rf"^{path}: .*; taking the newest checkpoint in place of the best$"):
        assert checkpoints.best(str(tmp_path)).state["step"] == 3


@pytest.mark.parametrize(
    ("best", "step"), [(None, 3), ({"step": 1, "top1": 0.5}, 1), ({"step": 3, "top1": 0.5}, 3), ({"step": 77}, 3)]
)
def test_best(tmp_path, best, step):
    for i in (1, 2, 3):
        path = save(tmp_path, i, best=best)
    assert checkpoints.best(str(tmp_path)).state["step"] == step
    assert checkpoints.best(path).state["step"] == 3
    assert checkpoints.best(path.replace("3.npz", "2.npz")).state["step"] == 2


def test_a_run_without_checkpoints(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=rf"^{folder}: has no checkpoints;"):
            checkpoints.latest(str(folder))


# Damage


def damaged(content: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "text":
        return b"<html>"
    if how.startswith("cut"):
        return content[: int(len(content) * float(how.split()[1]))]
    flipped = bytearray(content)  # a bit in the middle of the values of conv1/weights
    flipped[content.index(values(trained(seed=2)[0])["conv1/weights"].tobytes()) + 50] ^= 0x10
    return bytes(flipped)


@pytest.mark.parametrize("how", ["empty", "text", "cut 0.1", "cut 0.5", "cut 0.999", "flip"])
def test_latest_takes_the_one_before_a_damaged_one(tmp_path, how):
    save(tmp_path, 1, seed=1)
    path = Path(save(tmp_path, 2, seed=2))
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.warns(UserWarning, match=rf"^{path}: .*; taking the checkpoint before it$") as caught:
        checkpoint = checkpoints.latest(str(tmp_path))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert checkpoint.state["step"] == 1
    assert_same(dict(checkpoint.weights), values(trained(seed=1)[0]))


def test_all_are_damaged(tmp_path):
    for step in (1, 2):
        Path(save(tmp_path, step)).write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="taking the checkpoint before it"),
        pytest.raises(UserError, match=rf"^{tmp_path}: has no checkpoint that can be read;"),
    ):
        checkpoints.latest(str(tmp_path))


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Each byte of a small checkpoint in turn: it is refused in so many words, or is still the same to the bit."""
    net = tf.Module()
    net.fc = ops.Dense(2, 3, seed=(1, 2))
    path = Path(checkpoints.save(str(tmp_path), 1, net, SGD({}, momentum=0.0), {"step": 1}))
    content, wrong = path.read_bytes(), []
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            checkpoint = checkpoints.read(str(path))
            assert_same(dict(checkpoint.weights), values(net))
            assert checkpoint.state == {"step": 1}
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
        except Exception as error:
            wrong.append(f"byte {place} {content[place]:#x} to {flipped[place]:#x}: {type(error).__name__}")
    assert not wrong, f"{len(wrong)} of {len(content)}: {wrong[:20]}"


# Writing


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / checkpoints.FOLDER).write_text("")
    with pytest.raises(UserError, match=r"step-00000001\.npz: cannot be written \(.*\); nothing there was changed$"):
        save(tmp_path, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / checkpoints.FOLDER
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError, match=r"cannot be written \(.*\)"):
            save(tmp_path, 2)
    finally:
        folder.chmod(stat.S_IRWXU)
    assert checkpoints.latest(str(tmp_path)).state["step"] == 1


class Failing:
    """A GFile that fails once it has written some bytes, or when it is closed."""

    def __init__(self, file: tf.io.gfile.GFile, room: float, error: BaseException) -> None:
        self._file, self._room, self._error = file, room, error

    def write(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._file.write(data[: len(data) // 2])
            raise self._error
        self._file.write(data)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._room == float("inf"):
            raise self._error


@pytest.mark.parametrize("room", [0, 700, 2000, float("inf")])
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "full"), KeyboardInterrupt()],
    ids=["OSError", "OpError", "interrupt"],
)
@pytest.mark.parametrize("step", [1, 2], ids=["the same step", "the next step"])
def test_a_crash_while_writing_leaves_what_was_there(tmp_path, monkeypatch, room, error, step):
    path = save(tmp_path, 1, seed=1)
    before = Path(path).read_bytes()
    gfile = tf.io.gfile.GFile
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "GFile", lambda path, mode: Failing(gfile(path, mode), room, error))
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, step, seed=2)
        else:
            message = rf"step-0000000{step}\.npz: cannot be written \((No space.*|full)\); nothing there was changed$"
            with pytest.raises(UserError, match=message):
                save(tmp_path, step, seed=2)
    assert os.listdir(tmp_path / checkpoints.FOLDER) == ["step-00000001.npz"]
    assert Path(path).read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.latest(str(tmp_path)).state["step"] == 1


def test_a_kill_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    """Not even the clean-up runs: the unfinished file stays, under a name that is not taken for a checkpoint."""
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        for what in ("rename", "remove"):
            patch.setattr(tf.io.gfile, what, lambda *args, **options: None)
        save(tmp_path, 2)
    assert len(os.listdir(tmp_path / checkpoints.FOLDER)) == 2
    assert list(checkpoints.steps(str(tmp_path / checkpoints.FOLDER))) == [1]
    assert checkpoints.latest(str(tmp_path)).state["step"] == 1

"""Several devices, and several workers, make the step of one; and what is said where one is gone, or misnamed."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.ops import replicas
from barenets.train import distribute
from barenets.train.cli import main
from tests import program
from tests.pictures import write_pictures
from tests.train import devices, runs

ROOT = Path(__file__).resolve().parents[2]
ROUNDING = 2e-5
"""Of the largest value of each variable: sums over 1, 2 and 4 parts are rounded otherwise, and 6 steps carry it on."""


def boundaries(rows: int, parts: int) -> list[int]:
    return [int(replicas.boundary(rows, i, parts)) for i in range(parts + 1)]


@pytest.mark.parametrize("rows", [0, 1, 3, 7, 8, 32])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8])
def test_parts_are_those_of_numpy(rows, parts):
    found = boundaries(rows, parts)
    expected = [len(part) for part in np.array_split(np.arange(rows), parts)]
    assert np.diff(found).tolist() == expected


@pytest.mark.parametrize("rows", range(13))
def test_parts_of_a_workers_part_are_those_of_the_batch(rows):
    """4 devices on 2 workers: dropout's rows rely on the order."""
    whole = boundaries(rows, 4)
    for worker in range(2):
        first, last = whole[2 * worker], whole[2 * worker + 2]
        assert [first + i for i in boundaries(last - first, 2)] == whole[2 * worker : 2 * worker + 3]


def test_alone_nothing_is_exchanged():
    x = tf.constant([1.0, 2.0])
    assert replicas.total(x) is x
    assert [int(n) for n in replicas.place(tf.constant(5))] == [0, 5]
    one = distribute.Devices()
    assert (one.part, one.chief, one.replicas) == ((0, 1, 1), True, 1)
    assert not one.any(False)
    one.check("its nothing", {"a": None})


@pytest.fixture(scope="module")
def of_one() -> dict[str, np.ndarray]:
    return devices.curves(distribute.Devices())


@pytest.fixture(scope="module", params=[2, 4])
def of_several(request, tmp_path_factory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("devices") / "curves.npz"
    command = [sys.executable, "-m", "tests.train.devices", str(request.param), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("case", devices.CASES)
def test_devices_make_the_step_of_one(of_one, of_several, case):
    alone, together = (
        {name.split("|")[1]: array for name, array in arrays.items() if name.startswith(f"{case}|")}
        for arrays in (of_one, of_several)
    )
    assert list(together) == list(alone)
    assert len(alone) > 5
    np.testing.assert_array_equal(together["curve"][:, 1:3], alone["curve"][:, 1:3])  # right ones, and pictures
    for name, expected in alone.items():
        far = np.abs(together[name] - expected).max() / max(np.abs(expected).max(), 1e-6)
        assert far < ROUNDING, name


@pytest.mark.slow
def test_batch_norm_of_a_single_value(of_one, of_several):
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(of_several[f"single|{name}"], of_one[f"single|{name}"], rtol=1e-6)


def free_addresses(count: int) -> str:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    addresses = ",".join(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for s in sockets:
        s.close()
    return addresses


class Workers:
    """Processes of the program, one for each worker, on the tiny network."""

    def __init__(
        self, count: int, *arguments: object, kill: tuple[int, str] | None = None, differing: dict | None = None
    ) -> None:
        addresses = free_addresses(count)
        self.runs = []
        for worker in range(count):
            options = ["--workers", addresses, "--worker", worker, *(differing or {}).get(worker, [])]
            struck = kill[1] if kill and kill[0] == worker else None
            self.runs.append(runs.start(*arguments, *options, kill=struck))

    def end(self) -> list[program.Done]:
        return [run.done() for run in self.runs]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> list[object]:
    """The options of a run: 18 pictures, so 5 steps an epoch, the last of 2 pictures; 2 epochs."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", 9)
    write_pictures(folder / "val", 3, seed=1)
    data = ["finetune", "--train", folder / "train", "--val", folder / "val", "--net", "tiny", "--batch-size", 4]
    return [*data, "--epochs", 2, "--checkpoint-every", 2, "--report-every", 1]


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory) -> Path:
    logdir = tmp_path_factory.mktemp("alone")
    done = runs.run(*run, "--logdir", logdir)
    assert done.code == 0, done.err
    return logdir


def assert_same_run(logdir: Path, expected: Path, curve: bool = True) -> None:
    name = "checkpoints/step-00000010.npz"
    with np.load(logdir / name) as ours, np.load(expected / name) as theirs:
        assert ours.files == theirs.files
        states = [json.loads(bytes(arrays["state.json"])) for arrays in (ours, theirs)]
        for key in ("step", "epoch", "position"):
            assert states[0][key] == states[1][key]
        # The same validation pictures, each once.
        assert states[0]["best"]["top1"] == states[1]["best"]["top1"]
        assert states[0]["best"]["loss"] == pytest.approx(states[1]["best"]["loss"], rel=1e-5)
        for key in set(ours.files) - {"state.json"}:
            assert np.abs(ours[key] - theirs[key]).max() < ROUNDING * np.abs(theirs[key]).max(), key
    if curve:
        ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (logdir, expected))
        assert ours["steps"] == theirs["steps"] == list(range(10))
        np.testing.assert_allclose(ours["scalars"]["loss"], theirs["scalars"]["loss"], rtol=1e-4)  # has 5 digits
        np.testing.assert_array_equal(ours["scalars"]["accuracy"], theirs["scalars"]["accuracy"])


@pytest.mark.slow
def test_two_workers_make_the_run_of_one(run, alone, tmp_path):
    chief, other = Workers(2, *run, "--logdir", tmp_path).end()
    assert (chief.code, other.code) == (0, 0), chief.err + other.err
    assert_same_run(tmp_path, alone)
    assert "validation accuracy after" in chief.out
    assert (other.out, "epoch" in other.err) == ("", False)  # one of them speaks
    assert len(list(tmp_path.glob("events.*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed(run, alone, tmp_path, killed):
    workers = Workers(2, *run, "--logdir", tmp_path, kill=(killed, "step:8"))
    assert workers.runs[killed].done().code == -signal.SIGKILL
    began = time.monotonic()
    left = workers.runs[1 - killed].done()
    assert time.monotonic() - began < 60
    left.refused()
    assert left.err.splitlines()[-1] == (
        f"barenets: worker {1 - killed}: another worker is gone, so this one stops; go on from the last checkpoint "
        "with --resume, on as many workers as there are"
    )
    # On another number: two parts of one processor.
    resumed = runs.run("finetune", "--resume", "--logdir", tmp_path, "--devices", 2)
    assert resumed.code == 0, resumed.err
    assert "each batch goes to 2 devices" in resumed.err
    assert_same_run(tmp_path, alone, curve=False)


@pytest.mark.slow
def test_workers_with_other_settings_are_told(run, tmp_path):
    for options in (["--seed", "7"], ["--optimizer", "adam"]):
        for done in Workers(2, *run, "--logdir", tmp_path, differing={1: options}).end():
            done.refused()
            assert done.err.splitlines()[-1].endswith("start all with the same options")


@pytest.mark.slow
def test_a_worker_that_cannot_begin(run, tmp_path):
    chief, other = Workers(2, *run, "--logdir", tmp_path, differing={1: ["--train", "nowhere"]}).end()
    other.refused("nowhere: no such file")
    chief.refused("another worker is gone")
    assert "waiting until all 2 workers are there" in chief.err


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        workers = ["--workers", f"{address},127.0.0.1:1", "--worker", 0]
        done = program.run("finetune", "--train", "x", "--logdir", tmp_path, *workers)
    done.refused()
    assert done.err.splitlines()[-1].endswith("is its port free?")


@pytest.mark.slow
def test_waiting_ends_with_ctrl_c(tmp_path):
    first, second = free_addresses(2).split(",")
    workers = ["--workers", f"{first},{second}", "--worker", 1]
    running = program.Running("finetune", "--train", "x", "--logdir", tmp_path, *workers)
    running.wait_for(running.said)
    assert "waiting until all 2 workers are there" in running.said()
    time.sleep(2)
    running.send(signal.SIGINT)
    assert running.done(30).code == -signal.SIGINT


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--workers", "a:1,b:2"], "--workers wants --worker N"),
        (["--worker", "0"], "--worker says which of --workers"),
        (["--workers", "a:1,b", "--worker", "0"], "--workers: 'b' is no address; give HOST:PORT"),
        (["--workers", "a:1,a:1", "--worker", "0"], "--workers: a:1 is there twice"),
        (["--workers", "a:1,b:2", "--worker", "2"], "--worker 2: the workers are 0 to 1"),
        (["--workers", "a:1,b:2", "--worker", "0", "--devices", "2"], "takes all devices of each machine"),
        (["--devices", "0"], "--devices"),
    ],
)
def test_mistakes_are_one_line(options, complaint, capsys):
    try:
        status = main(["finetune", "--train", "nowhere", *options])
    except SystemExit as end:
        status = end.code
    assert status == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "TF_CONFIG is not a cluster"),
        ('{"cluster": 3}', "TF_CONFIG is not a cluster"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "TF_CONFIG names ps"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "TF_CONFIG must say which of its 2 workers this is"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 5}}',
            "TF_CONFIG must say which of its 2 workers this is",
        ),
    ],
)
def test_a_wrong_environment_is_named(monkeypatch, text, complaint):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=complaint):
        distribute.of_environment()


def test_an_environment_of_one_worker_is_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    assert distribute.of_environment().strategy is None

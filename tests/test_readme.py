"""Every command and every line of Python in the README, run as they stand."""

import contextlib
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from barenets import nets, weights
from tests import program
from tests.pictures import write_pictures

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def commands(page: str = README) -> list[list[str]]:
    lines = "".join(blocks("sh", page)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_ci_runs_the_make_targets() -> None:
    targets = {" ".join(words) for words in commands() if words[0] == "make"}
    assert targets == {"make demo", "make test"}
    assert targets <= set((ROOT / ".ci/run").read_text().splitlines())


def test_nothing_but_our_programs_is_called() -> None:
    assert {words[0] for words in commands()} == {"make", "barenets", "tensorboard"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bvlc_alexnet.npy and pictures/{train,val}, as the README has them."""
    folder = tmp_path_factory.mktemp("readme")
    weights.save(str(folder / "bvlc_alexnet.npy"), nets.build("alexnet"))
    write_pictures(folder / "pictures/train", 3)
    write_pictures(folder / "pictures/val", 2, seed=1)
    return folder


@pytest.mark.slow
def test_commands(folder: Path) -> None:
    for words in commands():
        if words[0] == "barenets":
            run(words, folder)
        elif words[0] == "tensorboard":
            assert_tensorboard_shows_histograms(words[1:], folder)


def run(words: list[str], folder: Path) -> None:
    done = program.run(*words[1:], folder=folder)
    assert done.code == 0, f"{words}: {done.err}"
    assert "Traceback" not in done.err


def assert_tensorboard_shows_histograms(arguments: list[str], folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "tensorboard", *arguments, "--port", str(port), "--load_fast=false"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/data/plugin/histograms"
        tags = _get(f"{address}/tags")
        assert {"gradients/fc7/weights", "gradients/fc8/biases", "variables/fc8/weights"} <= set(tags["."])
        points = _get(f"{address}/histograms?run=.&tag=gradients/fc7/weights")
        assert len(points) == 10  # one step an epoch
        total = sum(count for _, _, count in points[0][2])
        assert total == pytest.approx(4096 * 4096)
        address = address.replace("histograms", "distributions")
        distribution = _get(f"{address}/distributions?run=.&tag=gradients/fc8/weights")
        assert len(distribution) == 10
    finally:
        server.terminate()
        server.wait()


def _get(address: str) -> dict:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(address) as answer:
                content = json.load(answer)
            if content:  # empty until the event files have been read
                return content
        assert time.monotonic() < deadline, f"TensorBoard does not answer at {address}"
        time.sleep(0.5)


@pytest.mark.slow
def test_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert "60,965,224" in out.getvalue()
    assert "16 variables loaded from bvlc_alexnet.npy" in out.getvalue()
    assert "'relu5': TensorShape([2, 13, 13, 256])" in out.getvalue()

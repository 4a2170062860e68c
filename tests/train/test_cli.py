"""The commands that look after weights: list, fetch, convert, and what evaluate finds out by itself."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from barenets import nets, weights
from barenets.train.cli import main
from barenets.weights import catalog, fetch
from barenets.weights.rename import Kind, Weights


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in nets.NETWORKS:
        assert re.search(rf"^{name} +{', '.join(nets.variants(name))}$", text, re.MULTILINE)
    for entry in catalog.ENTRIES:
        assert re.search(rf"^{entry.name} +{entry.net} +{entry.variant} ", text, re.MULTILINE)
    for name, size in (("mnist", 12), ("fashion_mnist", 31), ("cifar10", 170), ("cifar100", 169)):
        assert re.search(rf"^{name} +{size}$", text, re.MULTILINE)


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["networks"]["googlenet"] == ["bvlc", "torchvision", "slim"]
    googlenet = next(entry for entry in content["weights"] if entry["name"] == "bvlc_googlenet")
    assert googlenet["kind"] == {"net": "googlenet", "variant": "bvlc", "origin": "caffe"}
    assert googlenet["preprocessing"]["channels"] == "BGR"
    assert (googlenet["top1"], googlenet["size"]) == (68.7, 53_533_754)
    assert {name: len(files) for name, files in content["data"].items()} == {
        "mnist": 4,
        "fashion_mnist": 4,
        "cifar10": 1,
        "cifar100": 1,
    }
    assert all(len(file["sha256"]) == 64 for files in content["data"].values() for file in files)


def test_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in the cache already is not asked for; offline, it says what to do, and a name it does not know, all."""
    monkeypatch.setenv("BARENETS_CACHE", str(tmp_path))
    (tmp_path / "torchvision_resnet18").mkdir()
    file = tmp_path / "torchvision_resnet18" / "resnet18-f37072fd.pth"
    file.write_bytes(b"whole")
    assert main(["fetch", "torchvision_resnet18"]) == 0
    assert capsys.readouterr().out == f"{file}\n"

    def offline(*_: object) -> None:
        raise fetch._CutError("no connection")

    monkeypatch.setattr(fetch, "_download", offline)
    assert main(["fetch", "slim_inception_v1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"get inception_v1.ckpt another way and put it into {tmp_path}/slim_inception_v1" in error
    assert main(["fetch", "resnet"]) == 2
    assert "torchvision_resnet50" in capsys.readouterr().err


def test_convert_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "conv1/weights": rng.normal(size=(11, 11, 3, 64)).astype(np.float16),
        "conv1/biases": rng.normal(size=64).astype(np.float32),
        "fc8/weights": rng.normal(size=(5, 7)),
        "fc8/biases": np.arange(7),
    }
    first, second, third = (str(tmp_path / name) for name in ("a.npz", "b.safetensors", "c.npz"))
    weights.save(first, Weights(arrays, Kind("alexnet", "one_tower", "torch")))
    assert main(["convert", first, second]) == main(["convert", second, third]) == 0
    assert "b.safetensors: alexnet one_tower (torch): 4 arrays, 23,338 values" in capsys.readouterr().out
    assert Path(first).read_bytes() == Path(third).read_bytes()
    old = str(tmp_path / "d.npy")
    assert main(["convert", third, old]) == 0
    back = weights.read(old)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize(
    ("target", "message"),
    [("out.pth", r"out\.pth: weights are written as \.npz, \.npy, \.safetensors"), ("out.npy", "has no place for")],
)
def test_convert_into_what_cannot_be(tmp_path, capsys, target, message) -> None:
    source = str(tmp_path / "a.npz")
    weights.save(source, {"bn/gamma": np.ones(3)})
    assert main(["convert", source, str(tmp_path / target)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_network_that_cannot_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(tmp_path / "a.npz")
    weights.save(source, {"x/weights": np.ones(3)})
    assert main(["predict", "--weights", source, "--images", str(tmp_path)]) == 2
    assert main(["evaluate", "--weights", source, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("is for no network that is known by its layers; say which with --net") == 2


@pytest.mark.slow
def test_real_resnet50(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Network, variant, epsilon and preprocessing follow from the file. Keras by itself reached 0.90 and 0.99."""
    synsets = [line.split()[0] for line in (shared_data / "imagenet_synsets.txt").read_text().splitlines()]
    files = sorted((shared_data / "imagenet_samples").glob("*.JPEG"))
    labels = tmp_path / "val.txt"
    labels.write_text("".join(f"{file} {synsets.index(file.name.partition('_')[0])}\n" for file in files))
    file = str(shared_data / "weights" / "resnet50_imagenet.h5")
    assert main(["evaluate", "--weights", file, "--data", str(labels), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == 100
    assert result["top1"] >= 0.88
    assert result["top5"] >= 0.97

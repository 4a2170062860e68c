"""Data sets by name: found where `barenets fetch` puts them, and named where they are not."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from barenets.train import data
from barenets.train.cli import main
from barenets.train.data import published
from barenets.weights import catalog, fetch
from tests.train.forms import cifar_rows, error_of, mnist, pictures


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BARENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_names() -> None:
    assert published.NAMES == ("mnist", "fashion_mnist", "cifar10", "cifar100")
    assert not set(published.NAMES) & {entry.name for entry in catalog.ENTRIES}
    for file in published._FILES:
        assert file.url.startswith("https://")
        assert len(file.sha256) == len(bytes.fromhex(file.sha256)) * 2 == 64
    assert len({file.sha256 for file in published._FILES}) == len(published._FILES) == 10


def test_mnist(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(data.read, "mnist:train")
    assert message.startswith("mnist:train: is not on this machine; `barenets fetch mnist` downloads it, or put ")
    assert "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz" in message
    assert message.endswith(f" into {cache}/mnist")
    for name in ("mnist", "fashion_mnist"):
        mnist(cache / name, pictures(1), np.arange(12, dtype=np.uint8) % 10, zipped=True)
        mnist(cache / name, pictures(2), np.arange(12, dtype=np.uint8) % 10, "t10k", zipped=True)
    records = data.read("mnist:test")
    np.testing.assert_array_equal(records.pixels[..., 0], pictures(2))
    assert records.source == "mnist:test"
    assert data.read("fashion_mnist:train").class_names[0] == "T-shirt/top"
    assert "has several parts" in error_of(data.read, "mnist")
    assert main(["fetch", "mnist"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{cache}/mnist/train-images-idx3-ubyte.gz"
    # What is here by that name comes first.
    mnist(Path("mnist"), pictures(5), np.zeros(12, np.uint8))
    np.testing.assert_array_equal(data.read("mnist:train").pixels[..., 0], pictures(5))


def test_cifar_as_it_was_downloaded(cache: Path, tmp_path: Path) -> None:
    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    images = pictures(1, 2, 32, 32, 3)
    content = {b"labels": [3, 0], b"data": cifar_rows(images)}
    (inner / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    (inner / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a", b"b", b"c", b"d"]}, protocol=2))
    (cache / "cifar10").mkdir(parents=True)
    with tarfile.open(cache / "cifar10/cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(inner, inner.name)
    records = data.read("cifar10:test")
    np.testing.assert_array_equal(records.pixels, images)
    assert records.class_names == ("a", "b", "c", "d")


def test_offline(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def offline(*_: object) -> None:
        raise fetch._CutError("no connection")

    monkeypatch.setattr(fetch, "_download", offline)
    assert main(["fetch", "cifar100"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"get cifar-100-python.tar.gz another way and put it into {cache}/cifar100" in error


def test_what_comes_is_checked(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "_download", lambda url, part, size: part.append(b"no data set"))
    assert main(["fetch", "mnist"]) == 2
    assert "has 11 bytes where 9,912,422 were expected" in capsys.readouterr().err
    assert not any((cache / "mnist").iterdir())

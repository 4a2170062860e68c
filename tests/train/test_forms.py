"""MNIST's files, .npz, CIFAR's and CSV: read to the byte, and refused in one line where they are damaged."""

import csv
import gzip
import io
import pickle
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets.train import data
from barenets.train.cli import main
from barenets.train.data import lists
from barenets.train.data.idx import FASHION
from barenets.weights import catalog
from tests.train.forms import assert_refused_or_read, cifar10, cifar_rows, error_of, idx, mnist, pictures

DIGITS = tuple("0123456789")
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


# idx


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(tmp_path: Path, zipped: bool) -> None:
    train, test = pictures(1), pictures(2, 7)
    mnist(tmp_path, train, np.arange(12, dtype=np.uint8) % 10, zipped=zipped)
    mnist(tmp_path, test, np.full(7, 3, np.uint8), "t10k", zipped)
    for part, expected, labels in (("train", train, [*range(10), 0, 1]), ("test", test, [3] * 7)):
        records = data.read(f"{tmp_path}:{part}")
        np.testing.assert_array_equal(records.pixels, expected[..., None])
        assert records.pixels.dtype == np.uint8
        assert (records.labels.tolist(), records.labels.dtype) == (labels, np.int32)
        assert records.class_names == DIGITS
        assert records.source == f"{tmp_path}:{part}"
    end = ".gz" if zipped else ""
    file = f"{tmp_path}/t10k-images-idx3-ubyte{end}"
    assert data.read(file).paths == records.paths == tuple(f"{file}#{i}" for i in range(7))
    message = error_of(data.read, str(tmp_path))
    assert message == f"{tmp_path}: has several parts; name one: {tmp_path}:train, {tmp_path}:test"
    assert "has no part 'val'" in error_of(data.read, f"{tmp_path}:val")


def test_mnist_is_mapped_not_read(tmp_path: Path) -> None:
    """Whoever reads a large file gets a window into it; a gzipped one is unpacked once."""
    mnist(tmp_path, pictures(1), np.zeros(12, np.uint8))
    pixels = data.read(f"{tmp_path}:train").pixels
    base = pixels
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base.obj).__name__ == "mmap"


@pytest.mark.parametrize(
    ("folder", "names"),
    [("Fashion-MNIST", FASHION), ("old-fashioned/mnist", DIGITS), ("fashion/fashion_mnist", FASHION)],
)
def test_fashion_mnist_has_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, names: tuple[str, ...]
) -> None:
    mnist(tmp_path / folder, pictures(1), np.arange(12, dtype=np.uint8) % 10)
    assert data.read(f"{tmp_path}/{folder}").class_names == names
    monkeypatch.chdir(tmp_path / folder)
    assert data.read("train-images-idx3-ubyte").class_names == names
    assert len(set(FASHION)) == 10


def test_letters_keep_their_numbers(tmp_path: Path) -> None:
    mnist(tmp_path, pictures(1), np.arange(12, dtype=np.uint8) + 15, "emnist-letters-train")
    records = data.read(f"{tmp_path}/emnist-letters-train-images-idx3-ubyte")
    assert (records.class_names, records.labels.tolist()) == (tuple(map(str, range(15, 27))), list(range(12)))


def test_mnist_agrees_with_the_classes_of_a_run(tmp_path: Path) -> None:
    mnist(tmp_path, pictures(1), np.arange(12, dtype=np.uint8) % 3)
    assert data.read(f"{tmp_path}:train", ("2", "1", "0")).labels.tolist() == [2, 1, 0] * 4
    assert data.read(f"{tmp_path}:train", ("null", "eins", "zwei")).labels.tolist() == [0, 1, 2] * 4
    message = error_of(data.read, f"{tmp_path}:train", ("null", "eins"))
    assert message.startswith(f"{tmp_path}/train-images-idx3-ubyte#2: label 2 is beyond the 2 classes, 0 = null, eins;")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("images-idx3", b"", "the file is empty"),
        ("images-idx3", b"\0\0\x08\x03\0\0", "is no idx file of pictures"),
        ("images-idx3", b"\0\0\x0d\x03" + bytes(60), "is no idx file of pictures"),
        ("images-idx3", idx(pictures(1))[:-1], "255 bytes where its head says 256; is the file complete?"),
        ("images-idx3", idx(pictures(1)) + b"\0", "257 bytes where its head says 256"),
        ("images-idx3", b"\0\0\x08\x03" + b"\xff" * 12, "16 bytes where its head says"),
        ("images-idx3", gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "claim to unpack to 79,228,162,"),
        ("images-idx3", gzip.compress(idx(pictures(1)) + b"\0"), "257 bytes where its head says 256"),
        ("images-idx3", gzip.compress(idx(pictures(1)))[:-9], "cannot be unzipped"),
        ("images-idx3", gzip.compress(b"<html>"), "is no idx file of pictures"),
        ("labels-idx1", idx(np.zeros(11, np.uint8)), "has 11 labels where"),
        ("labels-idx1", idx(pictures(1)), "is no idx file of labels"),
        ("labels-idx1", idx(np.zeros(12, np.uint8))[:-2], "18 bytes where its head says 20"),
    ],
)
def test_damaged_mnist(tmp_path: Path, file: str, content: bytes, reason: str) -> None:
    mnist(tmp_path, pictures(1), np.zeros(12, np.uint8))
    damaged = tmp_path / f"train-{file}-ubyte"
    damaged.write_bytes(content)
    message = error_of(data.read, f"{tmp_path}:train")
    assert message.startswith(f"{damaged}: ")
    assert reason in message


def test_the_command_says_it_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mnist(tmp_path, pictures(1), np.zeros(12, np.uint8))
    damaged = tmp_path / "train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert main(["data", "check", f"{tmp_path}:train"]) == 2
    assert capfd.readouterr() == (
        "",
        f"barenets: {damaged}: 100 bytes where its head says 256; is the file complete?\n",
    )


def test_mnist_without_labels(tmp_path: Path) -> None:
    mnist(tmp_path, pictures(1), np.zeros(12, np.uint8))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    message = error_of(data.read, str(tmp_path))
    assert message.endswith("put train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz beside it")
    (tmp_path / "other").write_bytes(idx(pictures(1)))
    assert "is not called as a file of pictures is" in error_of(data.read, f"{tmp_path}/other")


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_damaged_at_random(tmp_path: Path, zipped: bool) -> None:
    mnist(tmp_path, pictures(1), np.arange(12, dtype=np.uint8) % 10, zipped=zipped)
    for path in sorted(tmp_path.iterdir()):
        assert_refused_or_read(path, str(tmp_path), 150)


def test_memory_of_a_gzipped_set(shared_data: Path) -> None:
    """Twice the pictures at most, and once afterwards."""
    data.read(f"{shared_data}/mnist:test")
    tracemalloc.start()
    records = data.read(f"{shared_data}/mnist:train")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    names = len(records) * 200  # the pictures' names, and the tuple of them
    assert kept < records.pixels.nbytes + names
    assert peak < 2.2 * records.pixels.nbytes + names


# npz


def test_npz_of_parts(tmp_path: Path) -> None:
    file = tmp_path / "mnist.npz"
    train, test = pictures(1), pictures(2, 3)
    np.savez_compressed(file, x_train=train, y_train=np.arange(12) % 10, x_test=test, y_test=np.array([[4], [5], [9]]))
    records = data.read(f"{file}:train")
    np.testing.assert_array_equal(records.pixels, train[..., None])
    assert (records.class_names, records.labels.tolist()) == (DIGITS, [*range(10), 0, 1])
    assert records.paths[3] == f"{file}:train#3"
    records = data.read(f"{file}:test")
    np.testing.assert_array_equal(records.pixels, test[..., None])
    assert (records.class_names, records.labels.tolist()) == (("4", "5", "9"), [0, 1, 2])
    assert data.read(f"{file}:test", DIGITS).labels.tolist() == [4, 5, 9]
    assert error_of(data.read, str(file)) == f"{file}: has several parts; name one: {file}:train, {file}:test"


def test_npz_of_images_and_labels(tmp_path: Path) -> None:
    file, images = tmp_path / "mine.npz", pictures(3, 4, channels=3)
    np.savez(file, images=images.astype(np.int64), labels=np.array(["dog", "cat", "dog", "ant bear"]))
    records = data.read(str(file))
    np.testing.assert_array_equal(records.pixels, images)
    assert records.pixels.dtype == np.uint8
    assert (records.class_names, records.labels.tolist()) == (("ant bear", "cat", "dog"), [2, 1, 2, 0])
    np.savez(file, train_images=images, train_labels=np.array([12, 3, 3, 7]))
    assert data.read(str(file)).class_names == ("3", "7", "12")
    assert data.read(f"{file}:train").labels.tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize("numbers", [(0, 1), (3, 7)])
def test_npz_has_the_classes_of_its_labels(tmp_path: Path, numbers: tuple[int, int]) -> None:
    np.savez(tmp_path / "a.npz", x=pictures(1), y=np.array(numbers * 6, np.uint8))
    records = data.read(f"{tmp_path}/a.npz")
    assert (records.class_names, records.labels.tolist()) == (tuple(map(str, numbers)), [0, 1] * 6)


def test_npz_of_members_that_are_no_arrays(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train", b"text")
        archive.writestr("y_train", b"text")
    message = f"{file}: its members x_train and y_train are no arrays; write it with numpy.savez"
    assert error_of(data.read, str(file)) == message


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.zeros(3)}, "has the arrays a; pictures and labels must be called x_train and y_train"),
        ({"x": pictures(1), "y": np.zeros(11, int)}, "y has the shape (11,) where x has 12 pictures"),
        ({"x": pictures(1) / 255, "y": np.zeros(12, int)}, "x has the type float64; save whole numbers"),
        ({"x": pictures(1).astype(int) + 1, "y": np.zeros(12, int)}, "x has the type int64; save whole numbers"),
        ({"x": np.zeros([12, 5, 4, 2], np.uint8), "y": np.zeros(12, int)}, "x has the shape (12, 5, 4, 2)"),
        ({"x": np.zeros([0, 5, 4], np.uint8), "y": np.zeros(0, int)}, "x has the shape (0, 5, 4, 1)"),
        ({"x": pictures(1), "y": np.zeros(12)}, "y has the type float64; labels must be"),
        ({"x": pictures(1), "y": np.arange(12) - 1}, "y[0]: label -1 is negative"),
        ({"x": pictures(1), "y": np.array([None] * 12)}, "Object arrays cannot be loaded"),
    ],
)
def test_unfit_npz(tmp_path: Path, arrays: dict, reason: str) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    message = error_of(data.read, str(file))
    assert message.startswith(f"{file}: ")
    assert reason in message


def test_damaged_npz(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x_train=pictures(1), y_train=np.arange(12))
    assert_refused_or_read(file, str(file), 200)
    with zipfile.ZipFile(file, "w") as archive:
        head = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }"
        archive.writestr("x.npy", head.ljust(127) + b"\n")
        archive.writestr("y.npy", head.ljust(127) + b"\n")
    assert error_of(data.read, str(file)).startswith(f"{file}: ")


# CIFAR


def test_cifar10_pickles(tmp_path: Path) -> None:
    first, second, test = (pictures(seed, 3, 32, 32, 3) for seed in (1, 2, 3))
    cifar10(tmp_path, first, [3, 0, 9])
    cifar10(tmp_path, second, [1, 1, 2], "data_batch_2")
    cifar10(tmp_path, test, [8, 7, 6], "test_batch")
    records = data.read(f"{tmp_path}:train")
    np.testing.assert_array_equal(records.pixels, np.concatenate([first, second]))
    assert records.pixels.flags.c_contiguous
    assert records.labels.tolist() == [3, 0, 9, 1, 1, 2]
    assert records.class_names == tuple(f"class {i}" for i in range(10))
    assert records.paths[4] == f"{tmp_path}/data_batch_2#1"
    np.testing.assert_array_equal(data.read(f"{tmp_path}:test").pixels, test)
    one = data.read(f"{tmp_path}/data_batch_2")
    np.testing.assert_array_equal(one.pixels, second)
    assert (one.labels.tolist(), one.class_names) == ([1, 1, 2], records.class_names)
    assert f"name one: {tmp_path}:train, {tmp_path}:test" in error_of(data.read, str(tmp_path))
    assert "has no data or no coarse_labels" in error_of(data.read, f"{tmp_path}:train:coarse")


def cifar100(folder: Path, images: np.ndarray, text: bool = False) -> None:
    def key(name: str) -> str | bytes:
        return name if text else name.encode()

    fine, coarse = [7, 99, 0], [1, 19, 0]
    batch = {key("data"): cifar_rows(images), key("fine_labels"): fine, key("coarse_labels"): coarse}
    names = {
        f"{kind}_label_names": [f"{kind} {i}" for i in range(count)] for kind, count in (("fine", 100), ("coarse", 20))
    }
    folder.mkdir()
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {key(name): [key(value) for value in values] for name, values in names.items()}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))


@pytest.mark.parametrize("text", [False, True])
def test_cifar100_pickles(tmp_path: Path, text: bool) -> None:
    images = pictures(1, 3, 32, 32, 3)
    cifar100(tmp_path / "cifar-100-python", images, text)
    for source in (tmp_path, tmp_path / "cifar-100-python"):  # the folder that the archive was unpacked in, too
        records = data.read(f"{source}:train")
        np.testing.assert_array_equal(records.pixels, images)
        assert (records.labels.tolist(), records.num_classes, records.class_names[99]) == ([7, 99, 0], 100, "fine 99")
        records = data.read(f"{source}:test:coarse")
        assert (records.labels.tolist(), records.num_classes, records.class_names[19]) == ([1, 19, 0], 20, "coarse 19")
    assert data.read(f"{tmp_path}/cifar-100-python/train:coarse").labels.tolist() == [1, 19, 0]
    with tarfile.open(tmp_path / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-100-python", "cifar-100-python")
    records = data.read(f"{tmp_path}/cifar-100-python.tar.gz:train")
    np.testing.assert_array_equal(records.pixels, images)
    assert records.class_names[7] == "fine 7"
    lists.write(records.subset([2, 0]), f"{tmp_path}/list.txt")
    again = data.read(f"{tmp_path}/list.txt")
    np.testing.assert_array_equal(again.pixels, images[[2, 0]])
    assert (again.labels.tolist(), again.paths) == ([0, 7], (records.paths[2], records.paths[0]))
    damaged = tmp_path / "cifar-100-python.tar.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert error_of(data.read, f"{damaged}:train").startswith(f"{damaged}: ")


def test_cifar_archive_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar100(tmp_path / "cifar-100-python", pictures(1, 3, 32, 32, 3))
    file = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(tmp_path / "cifar-100-python", "cifar-100-python")
    with tarfile.open(file) as archive:
        most = max(-(-item.size // 512) * 512 + item.offset_data for item in archive)
    monkeypatch.setattr("barenets.train.data.cifar._LARGEST", most)
    assert len(data.read(f"{file}:train")) == len(data.read(f"{file}:test")) == 3
    monkeypatch.setattr("barenets.train.data.cifar._LARGEST", most - 1)
    assert f"claims more than {most - 1:,} bytes" in error_of(data.read, str(file))


def test_cifar_binary(tmp_path: Path) -> None:
    images = pictures(1, 3, 32, 32, 3)
    rows = cifar_rows(images)
    ten, hundred = tmp_path / "ten", tmp_path / "hundred"
    for folder in (ten, hundred):
        folder.mkdir()
    (ten / "data_batch_1.bin").write_bytes(
        b"".join(bytes([label]) + row.tobytes() for label, row in zip((3, 0, 9), rows, strict=True))
    )
    (ten / "batches.meta.txt").write_text("".join(f"class {i}\n" for i in range(10)) + "\n")
    both = zip((1, 19, 0), (7, 99, 0), rows, strict=True)
    (hundred / "test.bin").write_bytes(b"".join(bytes([coarse, fine]) + row.tobytes() for coarse, fine, row in both))
    for kind, count in (("fine", 100), ("coarse", 20)):
        (hundred / f"{kind}_label_names.txt").write_text("".join(f"{kind} {i}\n" for i in range(count)))
    for source in (f"{ten}:train", str(ten), f"{ten}/data_batch_1.bin"):
        records = data.read(source)
        np.testing.assert_array_equal(records.pixels, images)
        assert (records.labels.tolist(), records.class_names[9], records.num_classes) == ([3, 0, 9], "class 9", 10)
    assert "has no coarse labels" in error_of(data.read, f"{ten}:train:coarse")
    for source, labels, name in (
        (f"{hundred}:test", [7, 99, 0], "fine 0"),
        (f"{hundred}:test:coarse", [1, 19, 0], "coarse 0"),
    ):
        records = data.read(source)
        np.testing.assert_array_equal(records.pixels, images)
        assert (records.labels.tolist(), records.class_names[0]) == (labels, name)
    batch = ten / "data_batch_1.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    assert error_of(data.read, str(ten)) == f"{batch}: 9,218 bytes are not rows of 3,073; is the file complete?"
    batch.write_bytes(bytes([10]) + bytes(3072))
    assert error_of(data.read, str(ten)) == f"{batch}#0: label 10 is none of the 10 classes; is the file damaged?"


class _Hostile:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(_Hostile(), protocol=2), "it asks for '__builtin__.print'"),
        (pickle.dumps([1, 2], protocol=2), "it is no dict"),
        (pickle.dumps({b"labels": [0]}, protocol=2), "has no data or no labels"),
        (pickle.dumps({b"labels": [0], b"data": b"x"}, protocol=2), "are not rows of 3,072 bytes"),
        (pickle.dumps({b"labels": [0], b"data": np.zeros([1, 3072])}, protocol=2), "are not rows of 3,072 bytes"),
        (
            pickle.dumps({b"labels": [0], b"data": np.zeros([2, 3072], np.uint8)}, protocol=2),
            "does not have a label for",
        ),
        (
            pickle.dumps({b"labels": [b"a"], b"data": np.zeros([1, 3072], np.uint8)}, protocol=2),
            "that are no class numb",
        ),
        (
            pickle.dumps({b"labels": [10], b"data": np.zeros([1, 3072], np.uint8)}, protocol=2),
            "label 10 is none of the 10",
        ),
    ],
)
def test_unfit_cifar(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str) -> None:
    cifar10(tmp_path, pictures(1, 3, 32, 32, 3), [3, 0, 9])
    (tmp_path / "data_batch_1").write_bytes(content)
    message = error_of(data.read, str(tmp_path))
    assert message.startswith(f"{tmp_path}/data_batch_1")
    assert reason in message
    assert capsys.readouterr().out == ""


def test_cifar_damaged_at_random(tmp_path: Path) -> None:
    cifar10(tmp_path, pictures(1, 3, 32, 32, 3), [3, 0, 9])
    assert_refused_or_read(tmp_path / "data_batch_1", str(tmp_path), 150)
    assert_refused_or_read(tmp_path / "batches.meta", str(tmp_path), 150)


# CSV


def rows_of(*rows: tuple[str, ...], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def test_csv_of_dog_breeds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.png", "c.JPEG"):
        (tmp_path / "images" / name).touch()
    file = tmp_path / "labels.csv"
    file.write_text(rows_of(("id", "breed"), ("b", "pug"), ("a", "basenji, African"), ("c", "pug")))
    records = data.read(str(file))
    assert records.paths == tuple(f"{tmp_path}/images/{name}" for name in ("b.png", "a.jpg", "c.JPEG"))
    assert (records.class_names, records.labels.tolist()) == (("basenji, African", "pug"), [1, 0, 1])
    assert records.labels.dtype == np.int32
    assert data.read(str(file), ("pug", "cat", "basenji, African")).labels.tolist() == [0, 2, 0]
    message = error_of(data.read, str(file), ("pug", "cat"))
    assert message.startswith(f"{file} line 3: 'basenji, African' is not one of the classes pug, cat;")


@pytest.mark.parametrize("delimiter", list(",;\t"))
def test_csv_with_other_columns(tmp_path: Path, delimiter: str) -> None:
    for folder in ("cat", "train"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cat/x 1.jpg").touch()
    (tmp_path / "train/y.jpg").touch()
    file = tmp_path / "list.csv"
    rows = (("Split", "Filename", "Label"), ("0", "cat/x 1.jpg", "12"), ("0", "y.jpg", "3"), (), ("0", "gone.jpg", "7"))
    file.write_text("\ufeff" + rows_of(*rows, delimiter=delimiter))
    records = data.read(str(file))
    assert records.paths == tuple(f"{tmp_path}/{name}" for name in ("cat/x 1.jpg", "train/y.jpg", "gone.jpg"))
    assert (records.class_names, records.labels.tolist()) == (("3", "7", "12"), [2, 0, 1])


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a.jpg,cat\n", "", "no column of the picture: the header has a.jpg, cat; call it path"),
        ("path,who\na.jpg,cat\n", "", "no column of the class: the header has path, who; call it label"),
        ("\n", "", "there is no header"),
        ("path,label\n", "", "has a header only"),
        ("path,label\na.jpg,cat\nb.jpg\n", " line 3", "1 values where the header has 2"),
        ("path,label\na.jpg,\n", " line 2", "no class; write both"),
        ("path,label\n,cat\n", " line 2", "no picture; write both"),
        ('path,label\n"a.jpg,cat\n', " line ", "check the quotes"),
        ("path,label\n\na,cat\n", " line 3", "no picture a.jpg or the like lies beside"),
        ("path,label\na.jpg,-1\n", " line 2", "label -1 is negative"),
        (b"path,label\n\xff.jpg,cat\n", "", "not UTF-8 text"),
        (b"path,label\na\0.jpg,cat\n", "", ""),
    ],
)
def test_unfit_csv(tmp_path: Path, text: str | bytes, where: str, reason: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not reason:  # Pythons differ about a zero byte
        return
    message = error_of(data.read, str(file))
    assert message.startswith(f"{file}{where}")
    assert reason in message


# ImageNet


def test_synset_folders_find_their_classes(tmp_path: Path) -> None:
    for name in ("n02084071/a.jpg", "n02012849/b.jpg", "n03126707/c.jpg", "n15075141/d.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "n02084071/a.jpg").unlink()  # not one of the 1000, but then without pictures
    own = data.read(str(tmp_path))
    assert own.class_names == ("n02012849", "n02084071", "n03126707", "n15075141")
    names = catalog.imagenet_classes()
    records = data.read(str(tmp_path), names)
    assert records.labels.tolist() == [134, 517, 999]  # both cranes
    assert [names[i] for i in records.labels] == ["crane", "crane", "toilet tissue, toilet paper, bathroom tissue"]
    (tmp_path / "n02084071/a.jpg").touch()
    assert error_of(data.read, str(tmp_path), names).startswith(f"{tmp_path}/n02084071: 'n02084071' is not one of")


def test_synsets_in_names_of_files(tmp_path: Path) -> None:
    for name in ("n01443537_2.JPEG", "n01440764_10026.JPEG", "n01443537_11.JPEG"):
        (tmp_path / name).touch()
    records = data.read(str(tmp_path))
    assert (records.class_names, records.labels.tolist()) == (("n01440764", "n01443537"), [0, 1, 1])
    lines = "n01443537_2.JPEG\nn01440764_my tench.JPEG\n"
    (tmp_path / "list.txt").write_text(lines)
    assert data.read(str(tmp_path)).labels.tolist() == [0, 1, 1]  # a list is no picture
    records = data.read(f"{tmp_path}/list.txt", catalog.imagenet_classes())
    assert records.labels.tolist() == [1, 0]
    assert records.paths[1] == f"{tmp_path}/n01440764_my tench.JPEG"
    (tmp_path / "other.jpg").touch()
    assert "no pictures in class folders" in error_of(data.read, str(tmp_path))


def test_validation_list_of_ilsvrc(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n")
    records = data.read(f"{tmp_path}/val.txt", catalog.imagenet_classes())
    assert records.labels.tolist() == [65, 970]


def test_two_classes_of_one_name_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg crane\n")
    message = error_of(data.read, f"{tmp_path}/list.txt", catalog.imagenet_classes())
    assert message == f"{tmp_path}/list.txt line 1: 2 classes are called 'crane'; give their indices instead"


# Elsewhere than on a disk


def test_all_goes_through_gfile(tmp_path: Path) -> None:
    """TensorFlow's file system in memory stands for gs:// and the like."""

    def copy(source: Path, target: str) -> None:
        with tf.io.gfile.GFile(target, "wb") as file:
            file.write(source.read_bytes())

    root = "ram://forms"
    mnist(tmp_path, pictures(1), np.arange(12, dtype=np.uint8) % 10)
    cifar10(tmp_path, pictures(1, 3, 32, 32, 3), [3, 0, 9])
    np.savez_compressed(tmp_path / "a.npz", x=pictures(1), y=np.arange(12))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data_batch_1", "cifar-10-batches-py/data_batch_1")
        archive.add(tmp_path / "batches.meta", "cifar-10-batches-py/batches.meta")
    (tmp_path / "l.csv").write_text("id,breed\nb,x\n")
    (tmp_path / "b.png").write_bytes(b"picture")
    for path in tmp_path.iterdir():
        copy(path, f"{root}/{path.suffix or path.name[:5]}/{path.name}")
    copy(tmp_path / "b.png", f"{root}/.csv/images/b.png")
    for source, count in (
        ("train:train", 12),
        ("train/train-images-idx3-ubyte", 12),
        ("data_/data_batch_1", 3),
        (".npz/a.npz", 12),
        (".gz/cifar-10-python.tar.gz", 3),
        (".csv/l.csv", 1),
    ):
        assert len(data.read(f"{root}/{source}")) == count, source
    records = data.read(f"{root}/.csv/l.csv")
    assert records.content(0) == b"picture"
    data.pack(records, f"{root}/out", "x")
    for source in (f"{root}/out", f"{root}/out/*"):
        assert data.read(source).content(0) == b"picture"
    lists.write(data.read(f"{root}/out"), f"{root}/lists/train.txt")
    assert data.read(f"{root}/lists/train.txt").content(0) == b"picture"


# Real ones


def test_real_sets(shared_data: Path) -> None:
    for source, count, names in (
        ("mnist:train", 25_000, DIGITS),
        ("mnist:test", 10_000, DIGITS),
        ("cifar10:train", 600, CIFAR),
        ("cifar10:test", 300, CIFAR),
        ("hotdog/train", 200, ["hotdog", "not_hotdog"]),
        ("hotdog/val", 50, ["hotdog", "not_hotdog"]),
    ):
        records = data.read(f"{shared_data}/{source}")
        assert (len(records), records.class_names) == (count, tuple(names)), source
        assert np.bincount(records.labels, minlength=len(names)).min() > 0
    # The first ten digits of the test set, as everybody has seen them.
    assert data.read(f"{shared_data}/mnist:test").labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_real_dog_breeds(shared_data: Path) -> None:
    records = data.read(f"{shared_data}/dog_breeds/labels.csv")
    with open(shared_data / "dog_breeds/labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(records), records.num_classes) == (482, 40)
    assert [records.class_names[label] for label in records.labels] == [row["breed"] for row in rows]
    assert [Path(path).stem for path in records.paths] == [row["id"] for row in rows]
    assert all(Path(path).is_file() for path in records.paths)


def test_real_imagenet_samples(shared_data: Path) -> None:
    lines = (shared_data / "imagenet_synsets.txt").read_text().splitlines()
    index = {line.split()[0]: i for i, line in enumerate(lines)}
    records = data.read(f"{shared_data}/imagenet_samples", catalog.imagenet_classes())
    assert len(records) == len(set(records.labels.tolist())) == 100
    assert records.labels.tolist() == [index[Path(path).name[:9]] for path in records.paths]

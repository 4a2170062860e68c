"""Splits: every record once, each class in proportion; and lists that read back as what was written."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets.train import data
from barenets.train.cli import main
from barenets.train.data import lists
from tests.train.forms import cifar10, error_of, example, mnist, pictures, png, shard


def table(*counts: int) -> data.Records:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    names = tuple(f"class {i}" for i in range(len(counts)))
    return data.Records(tuple(f"/p/{i}.jpg" for i in range(len(labels))), labels, names, "list.txt")


def counts_of(records: data.Records) -> list[int]:
    return np.bincount(records.labels, minlength=records.num_classes).tolist()


def assert_partition(records: data.Records, parts: tuple[data.Records, ...]) -> None:
    paths = [path for part in parts for path in part.paths]
    assert sorted(paths) == sorted(records.paths)
    label = dict(zip(records.paths, records.labels.tolist(), strict=True))
    place = {path: i for i, path in enumerate(records.paths)}
    for part in parts:
        assert part.class_names == records.class_names
        assert part.labels.tolist() == [label[path] for path in part.paths]
        assert [place[path] for path in part.paths] == sorted(place[path] for path in part.paths)


@pytest.mark.parametrize(
    ("fractions", "counts", "expected"),
    [
        ((0.9, 0.1), (100, 10, 20), [[90, 9, 18], [10, 1, 2]]),
        ((0.7, 0.15, 0.15), (100, 20, 3), [[70, 14, 1], [15, 3, 1], [15, 3, 1]]),
        ((0.9, 0.1), (3, 2, 1, 0), [[2, 1, 1, 0], [1, 1, 0, 0]]),
        ((0.98, 0.01, 0.01), (3, 4, 2), [[1, 2, 2], [1, 1, 0], [1, 1, 0]]),
        ((0.29, 0.71), (100,), [[29], [71]]),  # 0.29 * 100 is 28.999999999999996
        ((1.0,), (5, 1), [[5, 1]]),
    ],
)
def test_counts(fractions: tuple[float, ...], counts: tuple[int, ...], expected: list[list[int]]) -> None:
    records = table(*counts)
    parts = records.split(fractions, 3)
    assert [counts_of(part) for part in parts] == expected
    assert_partition(records, parts)


def test_many_splits_are_partitions() -> None:
    rng = np.random.default_rng(0)
    for seed in range(200):
        records = table(*rng.integers(0, 40, rng.integers(1, 6)).tolist())
        fractions = rng.dirichlet(np.ones(rng.integers(1, 5)) * 2) + 1e-3
        fractions /= fractions.sum()
        parts = records.split(fractions.tolist(), seed)
        assert_partition(records, parts)
        for label, total in enumerate(counts_of(records)):
            found = np.array([counts_of(part)[label] for part in parts])
            if total >= len(parts):
                assert found.min() >= 1
            if (total * fractions >= 1).all():
                assert np.abs(found - total * fractions).max() < 1


def test_a_split_follows_from_its_seed() -> None:
    records = table(50, 50)
    one, two, three = (records.split((0.5, 0.5), seed)[0].paths for seed in (1, 1, 2))
    assert one == two != three
    # Over many seeds each picture is as often in the first part.
    times = np.zeros(100)
    for seed in range(400):
        times[[int(Path(path).stem) for path in records.split((0.5, 0.5), seed)[0].paths]] += 1
    assert abs(times.mean() - 200) < 1e-9
    assert np.abs(times - 200).max() < 5 * 10


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.1, -0.1), (1.0, 0.0), (0.5, float("nan")), (0.9, 0.05)])
def test_fractions_that_are_none(fractions: tuple[float, ...]) -> None:
    assert "must be positive and add up to 1, as 0.9 0.1" in error_of(table(3).split, fractions)


# Lists


def assert_same(found: data.Records, expected: data.Records) -> None:
    assert found.paths == expected.paths
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.labels, expected.labels)
    for name in ("pixels", "spans"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert found.fingerprint == expected.fingerprint


def test_lists_of_files(tmp_path: Path) -> None:
    names = ("a: b", "0", "my  class", "  ", "Kätzchen", "#")
    paths = ("/p/1.jpg", "/p/my pictures/2 3.jpg", "/p/#4.jpg", "gs://b/ 5.jpg", "/p/pic#6", "/p/ä.jpg", "/p/7")
    records = data.Records(paths, np.array([2, 0, 4, 4, 5, 1, 0], np.int32), names, "")
    lists.write(records, str(tmp_path / "new/list.txt"))
    assert_same(data.read(f"{tmp_path}/new/list.txt"), records)
    lines = (tmp_path / "new/list.txt").read_text().splitlines()
    assert lines[1] == "/p/my pictures/2 3.jpg 0"
    assert (tmp_path / "new/labels.txt").read_text() == "0:a: b\n1:0\n2:my  class\n3:  \n4:Kätzchen\n5:#\n"
    run = ("Kätzchen", "#", "a: b", "0", "my  class")
    assert data.read(f"{tmp_path}/new/list.txt", run).labels.tolist() == [4, 2, 0, 0, 1, 3, 2]
    message = error_of(data.read, f"{tmp_path}/new/list.txt", ("Kätzchen", "#"))
    assert message.startswith(f"{tmp_path}/new/list.txt line 1: 'my  class' is not one of the classes Kätzchen, #;")


def test_lists_keep_the_numbers_of_classes_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("a.jpg 7\nb.jpg 3\nc.jpg 12\nd.jpg 7\n")
    records = data.read(f"{tmp_path}/old.txt")
    lists.write(records, f"{tmp_path}/out/train.txt")
    again = data.read(f"{tmp_path}/out/train.txt")
    assert_same(again, records)
    assert again.class_names == ("3", "7", "12")
    assert data.read(f"{tmp_path}/old.txt", again.class_names).labels.tolist() == [1, 0, 2, 1]


def test_lists_of_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/list.txt").write_text("sub/a.jpg 0\n")
    monkeypatch.chdir(tmp_path)
    lists.write(data.read("in/list.txt"), "out/list.txt")
    monkeypatch.chdir(tmp_path.parent)
    assert data.read(f"{tmp_path}/out/list.txt").paths == (f"{tmp_path}/in/sub/a.jpg",)


@pytest.mark.parametrize("path", ["/p/a\nb.jpg", "/p/a.jpg ", "/p/a\u2028b.jpg", "/p/a.jpg\r"])
def test_paths_that_no_list_can_have(tmp_path: Path, path: str) -> None:
    records = data.Records((path,), np.zeros(1, np.int32), ("a",), "")
    assert "cannot stand in a list" in error_of(lists.write, records, f"{tmp_path}/list.txt")
    assert not any(tmp_path.iterdir())


def test_lists_of_pixels(tmp_path: Path) -> None:
    mnist(tmp_path / "m", pictures(1), np.arange(12, dtype=np.uint8) % 10)
    mnist(tmp_path / "m", pictures(2), np.arange(12, dtype=np.uint8) % 7, "t10k", zipped=True)
    np.savez(tmp_path / "a.npz", x_train=pictures(3, channels=3), y_train=np.array([5, 9] * 6))
    for seed in (1, 2):
        cifar10(tmp_path / "c", pictures(seed, 3, 32, 32, 3), [3, 0, 9], f"data_batch_{seed}")
    for i, source in enumerate(("m:train", "m:test", "a.npz:train", "c:train")):
        records = data.read(f"{tmp_path}/{source}")
        part = records.subset(np.random.default_rng(0).permutation(len(records))[:5])
        lists.write(part, f"{tmp_path}/{i}/list.txt")
        assert_same(data.read(f"{tmp_path}/{i}/list.txt"), part)


def test_lists_of_shards(tmp_path: Path) -> None:
    for number in range(2):
        made = [example(image_encoded=png(10 * number + i), image_class_label=i % 3) for i in range(6)]
        shard(tmp_path / f"s/train-0000{number}-of-00002", made)
    records = data.read(f"{tmp_path}/s")
    part = records.subset([11, 0, 5, 6, 3])
    lists.write(part, f"{tmp_path}/list.txt")
    found = [line.split()[0] for line in (tmp_path / "list.txt").read_text().splitlines()]
    first, second = (f"{tmp_path}/s/train-0000{number}-of-00002" for number in range(2))
    assert found == [f"{second}#5", f"{first}#0", f"{first}#5", f"{second}#0", f"{first}#3"]
    assert_same(data.read(f"{tmp_path}/list.txt"), part)


def test_mistakes_in_lists_of_pictures_within_files(tmp_path: Path) -> None:
    mnist(tmp_path, pictures(1), np.zeros(12, np.uint8))
    mnist(tmp_path / "other", pictures(1, 12, 6, 6), np.zeros(12, np.uint8))
    shard(tmp_path / "s", [example(image=png(0), label=0)])
    (tmp_path / "plain.txt").write_text("a.jpg 0\n")
    file, source = "train-images-idx3-ubyte", tmp_path / "list.txt"
    for lines, line, reason in (
        ([f"{file}#12"], 1, f"{tmp_path}/{file} has 12 pictures; count them from 0"),
        ([f"{file}#1", "a.jpg"], 2, "is no FILE#INDEX, as other lines are"),
        ([f"{file}#1", f"other/{file}#1"], 2, "has pictures of another size than those before"),
        (["plain.txt#0"], 1, f"{tmp_path}/plain.txt is no file of many pictures"),
    ):
        source.write_text("".join(f"{each} 0\n" for each in lines))
        message = error_of(data.read, str(source))
        assert message.startswith(f"{source} line {line}: ")
        assert reason in message
    source.write_text(f"{file}#1 0\ns#0 0\n")
    assert error_of(data.read, str(source)).startswith(f"{source}: has decoded pictures and shards of encoded ones")
    source.write_text(f"{source}#0 0\n")  # itself
    assert "is no file of many pictures" in error_of(data.read, str(source))


def test_labels_txt_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a.jpg 1\nb.jpg 0\n")
    assert data.read(f"{tmp_path}/labels.txt").labels.tolist() == [1, 0]
    (tmp_path / "list.txt").write_text("a.jpg 1\nb.jpg 0\n")
    assert data.read(f"{tmp_path}/list.txt").class_names == ("0", "1")
    message = error_of(lists.write, table(1, 1), f"{tmp_path}/new.txt")
    assert message.startswith(f"{tmp_path}/labels.txt: is there already, and names other classes")


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        path = tmp_path / "my pictures" / ("big cat", "dog")[i % 3 == 0] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(pictures(i, 1, channels=3)[0]).numpy())
    source, out = f"{tmp_path}/my pictures", f"{tmp_path}/lists"
    assert main(["data", "split", source, "--fractions", "0.7", "0.15", "0.15", "--out", out, "--seed", "4"]) == 0
    expected = "".join(
        f"{out}/{name}.txt: {n} pictures of 2 classes\n" for name, n in (("train", 21), ("val", 5), ("test", 4))
    )
    assert capsys.readouterr().out == expected
    records = data.read(source)
    for name, part in zip(("train", "val", "test"), records.split((0.7, 0.15, 0.15), 4), strict=True):
        assert_same(data.read(f"{out}/{name}.txt"), part)
    assert main(["data", "check", f"{out}/train.txt", f"{out}/val.txt", f"{out}/test.txt"]) == 0
    capsys.readouterr()
    for arguments, reason in (
        (["--fractions", "0.5", "0.6"], "fractions 0.5 0.6: must be positive and add up to 1"),
        (["--fractions", "1"], "--fractions: give two, for train.txt and val.txt, or three"),
    ):
        assert main(["data", "split", source, *arguments, "--out", f"{out}2"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"barenets: {reason}")
        assert error.count("\n") == 1


def test_the_command_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "val.txt"
    source.write_text("".join(f"/p/{i}.jpg {i % 2}\n" for i in range(20)))
    before = source.read_bytes()
    assert main(["data", "split", str(source), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"barenets: {source}: is there already; choose another --out, or remove it\n"
    assert (source.read_bytes(), list(tmp_path.iterdir())) == (before, [source])


def test_real_sets_split(shared_data: Path, tmp_path: Path) -> None:
    for i, (source, counts) in enumerate((("mnist:train", [22_500, 2_500]), ("dog_breeds/labels.csv", [434, 48]))):
        records = data.read(f"{shared_data}/{source}")
        parts = records.split((0.9, 0.1), 0)
        assert np.abs(np.array([len(part) for part in parts]) - counts).max() <= records.num_classes
        for name, part in zip("ab", parts, strict=True):
            lists.write(part, f"{tmp_path}/{i}/{name}.txt")
            assert_same(data.read(f"{tmp_path}/{i}/{name}.txt"), part)

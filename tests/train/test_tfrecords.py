"""Shards of tf.train.Example: read without a copy, written so that they read back the same, refused where damaged."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets.train import data
from barenets.train.cli import main
from barenets.train.data import table
from barenets.weights import catalog, tables
from tests.train.forms import assert_refused_or_read, error_of, example, mnist, pictures, png, shard


def slim(label: int, seed: int, **more: object) -> bytes:
    return example(image_encoded=png(seed), image_format=b"png", image_class_label=label, image_height=5, **more)


def contents(records: data.Records) -> list[bytes]:
    """The pictures' bytes, read at their places by plain file access."""
    found = []
    for path, (offset, length) in zip(records.paths, records.spans.tolist(), strict=True):
        with open(path, "rb") as file:
            file.seek(offset)
            found.append(file.read(length))
    return found


def test_the_bytes_within_a_shard(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tfrecord", [slim(i % 2, i) for i in range(5)])
    records = data.read(str(file))
    assert contents(records) == [png(i) for i in range(5)]
    assert [records.content(i) for i in range(5)] == contents(records)
    assert (records.paths, records.spans.dtype, records.pixels) == ((str(file),) * 5, np.int64, None)
    assert (records.labels.tolist(), records.labels.dtype) == ([0, 1, 0, 1, 0], np.int32)
    assert records.class_names == ("0", "1")
    part = records.subset([3, 1])
    assert contents(part) == [png(3), png(1)]
    assert len({records.fingerprint, part.fingerprint, records.subset([1, 3]).fingerprint}) == 3


def test_a_shard_is_recognised_by_its_content(tmp_path: Path) -> None:
    file = shard(tmp_path / "whatever", [slim(0, 1)])
    assert contents(data.read(str(file))) == [png(1)]


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("train-00000-of-00002", "train-00001-of-00002"), ":train"),
        (("flowers_train_00000-of-00002.tfrecord", "flowers_train_00001-of-00002.tfrecord"), ":train"),
        (("mnist-train.tfrecord-00000-of-00002", "mnist-train.tfrecord-00001-of-00002"), ":mnist-train"),
        (("a.tfrecord", "b.tfrecords"), "/*.tfrecord*"),
    ],
)
def test_sets_of_shards(tmp_path: Path, names: tuple[str, str], source: str) -> None:
    shard(tmp_path / names[0], [slim(0, 1), slim(1, 2)])
    shard(tmp_path / names[1], [slim(2, 3)])
    shard(tmp_path / "flowers_validation_00000-of-00001", [slim(0, 4)])
    records = data.read(f"{tmp_path}{source}")
    assert contents(records) == [png(1), png(2), png(3)]
    assert records.paths == tuple(str(tmp_path / name) for name in (names[0], names[0], names[1]))
    assert contents(data.read(f"{tmp_path}:validation")) == [png(4)]
    assert "name one: " in error_of(data.read, str(tmp_path))
    if source.startswith(":"):
        (tmp_path / names[0]).unlink()
        message = error_of(data.read, f"{tmp_path}{source}")
        assert message == f"{tmp_path}{source}: has 1 of 2 shards; number 0 is missing"


def test_no_match(tmp_path: Path) -> None:
    assert (
        error_of(data.read, f"{tmp_path}/*.tfrecord")
        == f"{tmp_path}/*.tfrecord: no file has such a name; check the path"
    )


def test_shards_of_two_sets_under_one_name(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"):
        shard(tmp_path / name, [slim(0, 1)])
    assert "has shards of several sets, train-00000-of-00001 and train-00001-of-00002" in error_of(
        data.read, str(tmp_path)
    )


@pytest.mark.parametrize(
    ("names", "source", "reason"),
    [
        (("t-00000-of-00001", "t-00000-of-00001.tfrecord"), ":t", "has a shard twice, "),
        (("t-00000-of-00001", "t-00000-of-00001.tfrecord"), "/t-*", "has a shard twice, "),
        (("t-00000-of-00002", "t-00000-of-00002.tfrecord", "t-00001-of-00002"), "/t-00000*", "has a shard twice, "),
        (("t.tfrecord", "t.tfrecords"), "", "has shards of several sets, t.tfrecord and t.tfrecords;"),
        (("t-00000-of-00001", "t-00000-of-00002"), "/*", "has shards of several sets, "),
        (("t-00000-of-00003", "t-00002-of-00003"), "/t-*", "has 2 of 3 shards; number 1 is missing"),
    ],
)
def test_shards_that_do_not_fit_together(tmp_path: Path, names: tuple[str, ...], source: str, reason: str) -> None:
    for name in names:
        shard(tmp_path / name, [slim(0, 1)])
    assert error_of(data.read, f"{tmp_path}{source}").startswith(f"{tmp_path}{source}: {reason}")


def test_patterns_pick_out_and_leave_out_what_is_hidden(tmp_path: Path) -> None:
    for i in range(3):
        shard(tmp_path / f"t-0000{i}-of-00003", [slim(0, i)])
    (tmp_path / ".t-00003-of-00004.77.tmp").write_bytes(b"half a record")
    assert contents(data.read(f"{tmp_path}/*")) == [png(0), png(1), png(2)]
    assert contents(data.read(f"{tmp_path}/t-0000[02]-*")) == [png(0), png(2)]


# Names of classes


def test_names_in_the_records(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tfrecord", [slim(7, 1, image_class_text=b"cat"), slim(3, 2, image_class_text=b"my dog")])
    records = data.read(str(file))
    assert (records.class_names, records.labels.tolist()) == (("my dog", "cat"), [1, 0])
    assert data.read(str(file), ("cat", "horse", "my dog")).labels.tolist() == [0, 2]
    # One text for two numbers names neither.
    shard(file, [slim(7, 1, image_class_text=b"cat"), slim(3, 2, image_class_text=b"cat")])
    assert data.read(str(file)).class_names == ("3", "7")
    shard(file, [slim(7, 1, image_class_text=b"cat"), slim(3, 2)])
    assert data.read(str(file)).class_names == ("3", "7")


def test_names_beside(tmp_path: Path) -> None:
    shard(tmp_path / "a.tfrecord", [slim(1, 1, image_class_text=b"x"), slim(2, 2)])
    (tmp_path / "labels.txt").write_text("0:daisy\n1:a: b\n2:rose\n")
    records = data.read(f"{tmp_path}/a.tfrecord")
    assert (records.class_names, records.labels.tolist()) == (("daisy", "a: b", "rose"), [1, 2])
    (tmp_path / "labels.txt").write_text("0:background\n1:tench\n2:goldfish\n")
    records = data.read(f"{tmp_path}/a.tfrecord")
    assert (records.class_names, records.labels.tolist()) == (("tench", "goldfish"), [0, 1])
    (tmp_path / "labels.txt").write_text("0:daisy\n2:rose\n")
    message = error_of(data.read, f"{tmp_path}/a.tfrecord")
    assert message == f"{tmp_path}/labels.txt: must have INDEX:NAME lines that count from 0; mend or remove it"
    (tmp_path / "labels.txt").write_text("0:daisy\n1:rose\n")
    message = error_of(data.read, f"{tmp_path}/a.tfrecord")
    assert message == f"{tmp_path}/a.tfrecord record 1: label 2 is none of the 2 that the file beside it names"


def test_as_tensorflow_datasets_writes_them(tmp_path: Path) -> None:
    file = shard(tmp_path / "mnist-test.tfrecord-00000-of-00001", [example(image=png(i), label=i) for i in (1, 0)])
    (tmp_path / "label.labels.txt").write_text("zero\none\ntwo\n")
    records = data.read(str(file))
    assert contents(records) == [png(1), png(0)]
    assert (records.class_names, records.labels.tolist()) == (("zero", "one", "two"), [1, 0])


def test_imagenet_of_slim(tmp_path: Path) -> None:
    """Its labels count from 1, after the background; its texts are the names, two of them alike."""
    names = catalog.imagenet_classes()
    chosen = [(134, b"n02012849"), (517, b"n03126707"), (0, b"n01440764"), (999, b"n15075141")]
    made = [slim(i + 1, i, image_class_synset=s, image_class_text=names[i].encode()) for i, s in chosen]
    records = data.read(str(shard(tmp_path / "validation-00000-of-00128", made)))
    assert records.labels.tolist() == [134, 517, 0, 999]
    assert records.class_names == names
    made = [slim(i + 1, i, image_class_text=names[i].encode()) for i, _ in chosen]
    records = data.read(str(shard(tmp_path / "validation-00000-of-00128", made)))
    assert (records.labels.tolist(), records.class_names) == ([134, 517, 0, 999], names)
    assert data.read(f"{tmp_path}/validation-00000-of-00128", names).labels.tolist() == [134, 517, 0, 999]


# Damage


def test_damage_is_named_by_file_and_record(tmp_path: Path) -> None:
    examples = [slim(i, i) for i in range(3)]
    file = shard(tmp_path / "a.tfrecord", examples)
    whole = file.read_bytes()
    second = 16 + len(examples[0])

    def damaged(content: bytes) -> str:
        file.write_bytes(content)
        return error_of(data.read, str(file))

    def turned(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]

    assert damaged(turned(second)) == f"{file} record 1: the length of it is damaged: its checksum is wrong"
    assert damaged(turned(second + 9)) == f"{file} record 1: the length of it is damaged: its checksum is wrong"
    for at in (second + 12, second + 40, second + 12 + len(examples[1])):
        expected = "the content of it is damaged: its checksum is wrong; get the file again, or leave it out"
        assert damaged(turned(at)) == f"{file} record 1: {expected}"
    for end in (second + 1, second + 12, second + 50, second + 15 + len(examples[1])):
        expected = "it ends in the middle of a record; is the file complete?"
        assert damaged(whole[:end]) == f"{file} record 1: {expected}"
    assert damaged(b"") == f"{file}: the file is empty"
    file.write_bytes(whole)
    assert_refused_or_read(file, str(file), 150)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no picture (image/encoded or image) of the right type, but nothing"),
        (
            example(image_encoded=b"x"),
            "it has no label (image/class/label or label) of the right type, but 'image/encoded'",
        ),
        (example(image_encoded=b"x", label=0.5), "it has no label (image/class/label or label) of the right type"),
        (example(image_encoded=b"x", label=b"cat"), "it has no label (image/class/label or label) of the right type"),
        (example(image_encoded=7, label=1), "it has no picture (image/encoded or image) of the right type"),
        (example(image_encoded=b"", label=1), "its picture has no bytes"),
        (example(image_encoded=b"x", label=-1), "its label, -1, is no class"),
        (example(image_encoded=b"x", label=1 << 62), f"its label, {1 << 62}, is no class"),
        (b"\xff" * 20, "it is no tf.train.Example, or a damaged one"),
        (b"\x0a\x50abc", "it is no tf.train.Example, or a damaged one"),
    ],
)
def test_records_of_another_kind(tmp_path: Path, content: bytes, reason: str) -> None:
    file = shard(tmp_path / "a.tfrecord", [slim(0, 0), content])
    message = error_of(data.read, str(file))
    assert message.startswith(f"{file} record 1: ")
    assert reason in message


def test_a_negative_or_huge_label(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tfrecord", [slim(0, 0), slim(1 << 20, 1)])
    assert error_of(data.read, str(file)).startswith(f"{file} record 1: label 1048576 is too large")


def test_a_zipped_shard(tmp_path: Path) -> None:
    file = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
        writer.write(slim(0, 1))
    assert "(or the file is zipped: unzip it)" in error_of(data.read, str(file))


# Writing


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Seven pictures of three classes, one of them empty."""
    for i in range(7):
        path = tmp_path / "pictures" / ("my cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(pictures(i, 1, channels=3)[0]).numpy() + b"trailing bytes")
    (tmp_path / "pictures/none").mkdir()
    return tmp_path / "pictures"


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_packed_reads_back(folders: Path, tmp_path: Path, shards: int) -> None:
    original = data.read(str(folders))
    out = tmp_path / "out"
    paths = data.pack(original, str(out), "train", shards)
    assert paths == [f"{out}/train-{i:05}-of-{shards:05}" for i in range(shards)]
    assert sorted(path.name for path in out.iterdir()) == sorted(["labels.txt", *(Path(path).name for path in paths)])
    records = data.read(f"{out}:train")
    assert contents(records) == [Path(path).read_bytes() for path in original.paths]
    assert records.labels.tolist() == original.labels.tolist()
    assert records.class_names == original.class_names == ("dog", "my cat", "none")
    # TensorFlow reads them as slim's.
    found = []
    for serialised in tf.data.TFRecordDataset(paths):
        features = tf.io.parse_single_example(
            serialised,
            {
                "image/encoded": tf.io.FixedLenFeature([], tf.string),
                "image/format": tf.io.FixedLenFeature([], tf.string),
                "image/class/label": tf.io.FixedLenFeature([], tf.int64),
                "image/class/text": tf.io.FixedLenFeature([], tf.string),
                "image/filename": tf.io.FixedLenFeature([], tf.string),
            },
        )
        found.append([value.numpy() for value in features.values()])
    assert [row[0] for row in found] == original.labels.tolist()
    assert [row[1].decode() for row in found] == [original.class_names[label] for label in original.labels]
    assert [row[2] for row in found] == contents(records)
    assert {row[4] for row in found} == {b"jpeg"}
    assert [row[3].decode() for row in found] == [Path(path).name for path in original.paths]


def test_packed_shards_pack_again_to_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    first = data.pack(data.read(str(folders)), str(tmp_path / "one"), "train", 2)
    second = data.pack(data.read(f"{tmp_path}/one"), str(tmp_path / "two"), "train", 2)
    for one, two in zip(first, second, strict=True):
        records, again = data.read(one), data.read(two)
        assert contents(records) == contents(again)
        assert records.class_names == again.class_names


@pytest.mark.parametrize("channels", [0, 3])
def test_pixels_are_packed_without_loss(tmp_path: Path, channels: int) -> None:
    images = pictures(1, channels=channels)
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(12) % 3)
    original = data.read(f"{tmp_path}/a.npz")
    data.pack(original, str(tmp_path / "out"), "a", 2)
    records = data.read(f"{tmp_path}/out")
    decoded = np.stack([tf.io.decode_png(content).numpy() for content in contents(records)])
    np.testing.assert_array_equal(decoded, original.pixels)
    assert records.labels.tolist() == original.labels.tolist()
    assert records.class_names == original.class_names == ("0", "1", "2")


def test_packing_in_another_order(folders: Path, tmp_path: Path) -> None:
    original = data.read(str(folders))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        data.pack(original, str(tmp_path / "out"), name, 2, seed)
    a, b, c = (contents(data.read(f"{tmp_path}/out:{name}")) for name in "abc")
    assert a == b != c
    assert sorted(a) == sorted(c) == sorted(Path(path).read_bytes() for path in original.paths)
    assert a != [Path(path).read_bytes() for path in original.paths]


def test_packing_that_cannot_be(folders: Path, tmp_path: Path) -> None:
    original, out = data.read(str(folders)), str(tmp_path / "out")
    assert error_of(data.pack, original, out, "a", 8).startswith("8 shards of 7 pictures: give each at least one")
    assert error_of(data.pack, original.subset([]), out, "a").endswith("has no pictures to pack")
    (path,) = data.pack(original, out, "a")
    assert error_of(data.pack, original, out, "a", 2).startswith(f"{path}: is there already; remove all of its set")
    other = data.Records(original.paths, original.labels, ("cat", "dog", "none"), "")
    assert error_of(data.pack, other, out, "b").startswith(
        f"{out}/labels.txt: is there already, and names other classes"
    )
    Path(original.paths[4]).unlink()
    assert error_of(data.pack, original, out, "b", 2).startswith(f"{original.paths[4]}: cannot be read (")
    # The shard before was done; of the one that failed there is nothing.
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a-00000-of-00001",
        "b-00000-of-00002",
        "labels.txt",
    ]
    Path(original.paths[4]).touch()
    assert error_of(data.pack, original, out, "c").startswith(f"{original.paths[4]}: the file is empty;")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{folders}", "{tmp}/file"], "{tmp}/file: is a file, not a folder"),
        (["{folders}", "{tmp}/out", "--name", "a/b"], "'a/b': is no name for a set of shards; give one of letters"),
        (["{tmp}/one/train-*", "{tmp}/out"], "'train-*': is no name for a set of shards; give one of letters"),
    ],
)
def test_packing_under_an_unfit_name(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (tmp_path / "file").touch()
    data.pack(data.read(str(folders)), str(tmp_path / "one"), "train")
    assert main(["data", "pack", *(each.format(folders=folders, tmp=tmp_path) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"barenets: {reason.format(tmp=tmp_path)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_frames_are_those_of_tensorflow(tmp_path: Path) -> None:
    from barenets.train.data.tfrecords import framed

    for content in (b"", b"a", bytes(range(256)) * 9):
        file = shard(tmp_path / "a", [content])
        assert framed(content) == file.read_bytes()
        length, checksum = struct.unpack_from("<QI", framed(content))
        assert length == len(content)
        tables.check(memoryview(framed(content)[:8]), checksum, "")


def test_the_command(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "packed"
    assert main(["data", "pack", str(folders), str(out), "--name", "train", "--shards", "2", "--seed", "3"]) == 0
    assert capsys.readouterr().out == f"{out}/train-00000-of-00002\n{out}/train-00001-of-00002\n"
    # The second set has the classes of the first, whatever it has itself.
    (tmp_path / "val").mkdir()
    (folders / "my cat").rename(tmp_path / "val/my cat")
    assert main(["data", "pack", f"{tmp_path}/val/", str(out)]) == 0
    records = data.read(f"{out}:val")
    assert (records.class_names, set(records.labels.tolist())) == (("dog", "my cat", "none"), {1})
    assert table.names_beside(f"{out}/x") == records.class_names
    (tmp_path / "val/my cat").rename(tmp_path / "val/cow")
    assert main(["data", "pack", f"{tmp_path}/val", str(out), "--name", "test"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"barenets: {tmp_path}/val/cow: 'cow' is not one of the classes dog, my cat, none")
    mnist(tmp_path / "mnist", pictures(1), np.arange(12, dtype=np.uint8) % 10)
    assert main(["data", "pack", f"{tmp_path}/mnist:train", str(tmp_path / "digits")]) == 0
    assert len(data.read(f"{tmp_path}/digits:train")) == 12
    (tmp_path / "hundred").mkdir()
    (tmp_path / "hundred/test.bin").write_bytes(bytes(3074))
    (tmp_path / "hundred/fine_label_names.txt").write_text("a\n")
    assert main(["data", "pack", f"{tmp_path}/hundred:test:coarse", str(tmp_path / "coarse")]) == 0
    assert (tmp_path / "coarse/test-coarse-00000-of-00001").exists()


def test_the_doctor_looks_into_shards(folders: Path, tmp_path: Path) -> None:
    from barenets.train.data import doctor

    out = str(tmp_path / "out")
    data.pack(data.read(str(folders)), out, "train")
    shard(tmp_path / "out/bad.tfrecord", [example(image_encoded=b"no picture", image_class_label=0)])
    report = doctor.check([f"{out}:train", f"{out}:bad"])
    kinds = [problem.kind for problem in report.problems]
    assert kinds == ["unreadable", "absent", "gap"]
    assert report.splits[0].pictures == 7
    assert report.splits[0].largest_side == 5
    mnist(tmp_path / "mnist", pictures(1), np.arange(12, dtype=np.uint8) % 10)
    assert doctor.check([f"{tmp_path}/mnist:train"]).ok

"""The data-set doctor finds each ailment it knows, and nothing in a healthy set."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from barenets import UserError
from barenets.train.data import doctor


def pixels(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], np.uint8)


def jpeg(seed: int, height: int = 12, width: int = 16) -> bytes:
    return tf.io.encode_jpeg(pixels(seed, height, width)).numpy()


def png(seed: int) -> bytes:
    return tf.io.encode_png(pixels(seed)).numpy()


def pillow(seed: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).save(file, kind)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def found(report: doctor.Report) -> dict[str, list[tuple[str, ...]]]:
    """The file names of the problems by kind."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for problem in report.problems:
        assert "\n" not in problem.message
        kinds.setdefault(problem.kind, []).append(tuple(Path(path).name for path in problem.paths))
    return kinds


def test_a_healthy_set(tmp_path):
    formats = {"c.gif": "GIF", "d.bmp": "BMP", "no_extension": "PNG", "f.tif.jpg": "JPEG"}
    files = {f"dog/{name}": pillow(i, kind) for i, (name, kind) in enumerate(formats.items(), 10)}
    train = write(tmp_path / "train", {"cat/a.jpg": jpeg(0, 9, 30), "cat/b.PNG": png(1), **files})
    val = write(tmp_path / "val", {"cat/a.jpg": jpeg(2), "dog/b.jpg": jpeg(3)})
    report = doctor.check([train, val])
    assert report.ok
    assert report.problems == ()
    assert report.splits == (
        doctor.Split(train, 6, {"cat": 2, "dog": 4}, 9, 30),
        doctor.Split(val, 2, {"cat": 1, "dog": 1}, 12, 16),
    )


def test_files_that_are_of_no_use(tmp_path):
    files = {
        "good.jpg": jpeg(0),
        "empty.jpg": b"",
        "cut.jpg": jpeg(1)[:300],
        "cut.png": png(2)[:200],
        "page.jpg": b"<!DOCTYPE html>\n<title>404 Not Found</title>",
        "scan.jpg": pillow(3, "TIFF"),
    }
    write(tmp_path, files)
    lines = [f"{name} thing\n" for name in (*files, "gone.jpg")]
    source = tmp_path / "list.txt"
    source.write_text("".join(lines))
    report = doctor.check([str(source)])
    assert not report.ok
    assert found(report) == {
        "empty": [("empty.jpg",)],
        "unreadable": [("cut.jpg",), ("cut.png",), ("page.jpg",), ("scan.jpg",)],
        "missing": [("gone.jpg",)],
    }
    messages = {Path(p.paths[0]).name: p.message for p in report.problems}
    assert messages["cut.jpg"].startswith(f"{tmp_path}/cut.jpg: JPEG that cannot be decoded (")
    assert "PNG that" in messages["cut.png"]
    assert "text that" in messages["page.jpg"]
    assert "unknown format that" in messages["scan.jpg"]
    assert not any("{{" in message or "[Op" in message for message in messages.values())
    assert report.splits[0].pictures == 7


def test_a_folder_listed_as_a_picture(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "list.txt").write_text("x.jpg 0\n")
    assert list(found(doctor.check([str(tmp_path / "list.txt")]))) == ["unreadable"]


def test_a_split_without_a_readable_picture_has_no_sides(tmp_path):
    split = doctor.check([write(tmp_path, {"cat/a.jpg": b""})]).splits[0]
    assert (split.pictures, split.smallest_side, split.largest_side) == (1, 0, 0)


def test_extensions_of_another_format(tmp_path):
    files = {"a/1.jpg": pillow(1, "GIF"), "a/2.png": jpeg(2), "a/3.gif": png(3), "a/4.JPEG": pillow(4, "BMP")}
    report = doctor.check([write(tmp_path, files)])
    assert found(report) == {"misnamed": [("1.jpg",), ("2.png",), ("3.gif",), ("4.JPEG",)]}
    assert report.problems[0].message == f"{tmp_path}/a/1.jpg: GIF under the name of JPEG"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_formats_are_told_by_content(kind):
    assert doctor._kind(pillow(0, kind)).upper() == kind


def test_duplicates_conflicts_and_leaks(tmp_path):
    train = {"cat/1.jpg": jpeg(1), "cat/copy.jpg": jpeg(1), "cat/2.jpg": jpeg(2), "cat/3.jpg": jpeg(3)}
    train |= {"dog/2.jpg": jpeg(2), "dog/4.jpg": jpeg(4)}
    val = {"cat/3v.jpg": jpeg(3), "cat/4v.jpg": jpeg(4), "dog/5.jpg": jpeg(5)}
    report = doctor.check([write(tmp_path / "train", train), write(tmp_path / "val", val)])
    assert found(report) == {
        "duplicate": [("1.jpg", "copy.jpg")],
        "conflict": [("2.jpg", "2.jpg"), ("4.jpg", "4v.jpg")],
        "leak": [("3.jpg", "3v.jpg"), ("4.jpg", "4v.jpg")],
    }
    conflict = next(p for p in report.problems if p.kind == "conflict")
    assert conflict.message.startswith("one picture in the classes cat, dog: ")


def test_one_path_with_two_labels(tmp_path):
    write(tmp_path, {"a.jpg": jpeg(1), "list.txt": b"a.jpg cat\na.jpg dog\n"})
    assert found(doctor.check([str(tmp_path / "list.txt")])) == {"conflict": [("a.jpg",)]}


def test_labels_without_pictures(tmp_path):
    write(tmp_path, {f"{i}.jpg": jpeg(i) for i in range(5)})
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("0.jpg 0\n1.jpg 1\n2.jpg 3\n")
    val.write_text("3.jpg 0\n4.jpg 3\n")
    (tmp_path / "labels.txt").write_text("0:0\n1:1\n2:2\n3:3\n")
    report = doctor.check([str(train), str(val)])
    assert [(p.kind, p.message) for p in report.problems] == [
        ("absent", f"class 1: no picture in {val}, which others have"),
        ("gap", f"class 2: no picture in {train} or {val}"),
    ]
    assert report.splits[0].class_counts == {"0": 1, "1": 1, "2": 0, "3": 1}
    assert report.splits[1].class_counts == {"0": 1, "1": 0, "2": 0, "3": 1}


def test_a_class_in_one_split_only(tmp_path):
    train = write(tmp_path / "train", {"cat/1.jpg": jpeg(1), "dog/2.jpg": jpeg(2)})
    val = write(tmp_path / "val", {"cat/3.jpg": jpeg(3), "bird/4.jpg": jpeg(4)})
    report = doctor.check([train, val])
    assert {p.kind: p.message.split(":")[0] for p in report.problems} == {
        "classes": f"{val}/bird",
        "absent": "class bird",
    }
    assert sum(p.kind == "absent" for p in report.problems) == 2


def test_integers_of_a_second_list_are_classes_of_the_first(tmp_path):
    """The first list names its classes by their folders; the second, all in one folder, cannot."""
    write(tmp_path, {"cat/1.jpg": jpeg(1), "dog/2.jpg": jpeg(2), "all/3.jpg": jpeg(3), "all/4.jpg": jpeg(4)})
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("cat/1.jpg 0\ndog/2.jpg 1\n")
    val.write_text("all/3.jpg 0\nall/4.jpg 1\n")
    report = doctor.check([str(train), str(val)])
    assert report.ok
    assert report.splits[1].class_counts == {"cat": 1, "dog": 1}


def test_lists_that_number_their_folders_differently(tmp_path):
    files = {"cat/1.jpg": jpeg(1), "dog/2.jpg": jpeg(2), "v/cat/3.jpg": jpeg(3), "v/dog/4.jpg": jpeg(4)}
    write(tmp_path, files)
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("cat/1.jpg 0\ndog/2.jpg 1\n")
    val.write_text("v/cat/3.jpg 1\nv/dog/4.jpg 0\n")
    report = doctor.check([str(train), str(val)])
    assert [(p.kind, p.message) for p in report.problems] == [
        ("classes", f"{val}: label 0 is dog by its folder, but cat in {train}"),
        ("classes", f"{val}: label 1 is cat by its folder, but dog in {train}"),
    ]


def test_sources_that_cannot_be_read_at_all():
    with pytest.raises(UserError, match=r"^nothing to check; name"):
        doctor.check([])
    with pytest.raises(UserError, match=r"^/no/such: no such file or folder"):
        doctor.check(["/no/such"])


def test_the_report_prints_and_is_json(tmp_path):
    files = {f"c{i:02}/1.jpg": jpeg(i) for i in range(12)} | {f"c00/e{i:02}.jpg": b"" for i in range(11)}
    source = write(tmp_path, files)
    report = doctor.check([source])
    lines = str(report).splitlines()
    assert lines[0].split() == [source]
    assert [line.split() for line in lines[1:5]] == [
        ["pictures", "23"],
        ["smallest", "side", "12"],
        ["largest", "side", "16"],
        ["class", "c00", "12"],
    ]
    assert len({len(line) for line in lines[:14]}) == 1
    assert lines[14] == "... and 2 more classes"
    assert lines[16] == "empty: 11"
    assert lines[17] == f"  {source}/c00/e00.jpg: no bytes in it"
    assert lines[-1] == "  ... and 1 more"

    answer = json.loads(json.dumps(report.to_json()))
    assert answer["ok"] is False
    assert len(answer["problems"]) == 11
    assert answer["problems"][0] == {
        "kind": "empty",
        "message": f"{source}/c00/e00.jpg: no bytes in it",
        "paths": [f"{source}/c00/e00.jpg"],
    }
    assert answer["splits"][0]["class_counts"]["c11"] == 1
    assert str(doctor.check([write(tmp_path / "good", {"cat/a.jpg": jpeg(1)})])).endswith("\n\nno problems")


def test_no_progress_where_stderr_is_no_terminal(tmp_path, capsys):
    doctor.check([write(tmp_path, {"cat/a.jpg": jpeg(1)})])
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_cats_and_dogs_are_healthy(shared_data):
    report = doctor.check([str(shared_data / "cats_dogs/train"), str(shared_data / "cats_dogs/val")])
    assert report.ok, str(report)
    counts = [split.class_counts for split in report.splits]
    assert counts == [{"cat": 500, "dog": 500}, {"cat": 200, "dog": 200}]

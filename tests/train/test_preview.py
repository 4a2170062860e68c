"""The contact sheet and the single files."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest
from PIL import Image

from barenets import UserError
from barenets.ops import Preprocessing
from barenets.train import data
from barenets.train.cli import main
from barenets.train.data import augment, preview
from barenets.train.data.preview import contact_sheet, save_pictures
from tests.pictures import write_pictures


def flat(*shades: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.stack([np.full([height, width, 3], shade, np.uint8) for shade in shades])


def sheet(tmp_path, before: np.ndarray, after: np.ndarray, **options) -> np.ndarray:
    path = tmp_path / "folder" / "sheet.png"
    contact_sheet(before, after, str(path), **options)
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]
    return np.asarray(Image.open(path).convert("RGB"))


def blocks(picture: np.ndarray, shade: int) -> tuple[float, float, int]:
    """The middle of the pixels of a shade, down and across, and how many there are."""
    rows, columns = np.nonzero((picture == shade).all(-1))
    return rows.mean(), columns.mean(), len(rows)


def test_pairs_in_rows(tmp_path):
    """Five pairs, three in a row: each after below its before, in reading order, all of one size."""
    before, after = flat(40, 60, 80, 100, 120), flat(45, 65, 85, 105, 125)
    picture = sheet(
        tmp_path, before, after, titles=["cat", "dog"] * 2 + ["a rather long name of a breed of dogs"], columns=3
    )
    found = {shade: blocks(picture, shade) for shade in (40, 60, 80, 100, 120, 45, 65, 85, 105, 125)}
    sizes = [pixels for _, _, pixels in found.values()]
    assert max(sizes) <= 1.03 * min(sizes)
    assert min(sizes) > 200 * 130
    for shade in (40, 60, 80, 100, 120):
        (down, across, _), (below, same, _) = found[shade], found[shade + 5]
        assert below > down + 140
        assert abs(across - same) < 1
    assert found[40][1] < found[60][1] < found[80][1]
    assert abs(found[40][0] - found[80][0]) < 2
    assert found[100][0] > found[45][0]
    assert abs(found[100][1] - found[40][1]) < 1


def test_words_are_written(tmp_path):
    plain = sheet(tmp_path, flat(99), flat(98))
    titled = sheet(tmp_path, flat(99), flat(98), titles=["cat"])
    assert titled.shape == plain.shape
    assert (titled != plain).any()
    headed = sheet(tmp_path, flat(99), flat(98), heading="RandomCrop(), Flip()")
    assert headed.shape[0] > plain.shape[0]
    assert headed.shape[1] == plain.shape[1]


def test_floats_are_rounded_and_single_pixels_shown(tmp_path):
    before, after = np.full([2, 1, 1, 3], 99.6), np.full([2, 1, 1, 3], 300.0)
    picture = sheet(tmp_path, before, after)
    assert blocks(picture, 100)[2] > 2 * 200 * 200


@pytest.mark.parametrize("words", [r"$a_{$", r"$\frac$"])
def test_words_are_no_formulas(tmp_path, words):
    sheet(tmp_path, flat(99), flat(98), titles=[words], heading=words)


def test_more_than_a_canvas_holds(tmp_path):
    path, many = tmp_path / "x.png", np.broadcast_to(flat(1, width=20), [1100, 20, 20, 3])
    with pytest.raises(UserError, match=r"x.png: 1,100 pictures are too many for one sheet, where 1,\d+ fit; lower"):
        contact_sheet(many, many, str(path))
    assert not path.exists()


def test_without_global_state(tmp_path):
    """Figures of `matplotlib.pyplot` stay open until they are closed."""
    sheet(tmp_path, flat(1), flat(2))
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_what_does_not_pair(tmp_path):
    path = str(tmp_path / "x.png")
    with pytest.raises(ValueError, match="2 pictures before, 1 after and 2 titles do not pair"):
        contact_sheet(flat(1, 2), flat(3), path)
    with pytest.raises(ValueError, match="0 pictures before"):
        contact_sheet(flat(1)[:0], flat(1)[:0], path)
    with pytest.raises(ValueError, match=r"RGB \[N, H, W, 3\], not \[1, 20, 30, 1\]"):
        contact_sheet(flat(1)[..., :1], flat(1), path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x.png: cannot be written"):
        contact_sheet(flat(1), flat(1), str(tmp_path / "file" / "x.png"))


@pytest.mark.parametrize(("extension", "tolerance"), [("jpg", 3), ("jpeg", 3), ("png", 0)])
def test_save_pictures(tmp_path, extension, tolerance):
    smooth = np.indices((16, 24, 3), np.float32).sum(0)[None] * np.array([1, 4, 5], np.float32)[:, None, None, None]
    paths = save_pictures(smooth + 0.2, ["cat.1", "a/b", "dog"], str(tmp_path / "preview"), extension)
    assert paths == [str(tmp_path / "preview" / f"{name}.{extension}") for name in ("cat.1", "a_b", "dog")]
    assert sorted(map(str, (tmp_path / "preview").iterdir())) == sorted(paths)  # nothing unfinished
    for path, picture in zip(paths, smooth, strict=True):
        with open(path, "rb") as file:
            image = Image.open(io.BytesIO(file.read()))
        assert image.format == ("PNG" if extension == "png" else "JPEG")
        assert np.abs(np.asarray(image, np.float32) - picture).max() <= tolerance


def test_names_that_come_again(tmp_path):
    """As the VGG16 article writes several pictures of one."""
    paths = save_pictures(flat(1, 2, 3, 4, 5), ["cat", "cat", "dog", "cat_1", "cat"], str(tmp_path), "png")
    assert len(set(paths)) == 5
    assert paths[2:4] == [str(tmp_path / "dog.png"), str(tmp_path / "cat_1.png")]
    for path, shade in zip(paths, range(1, 6), strict=True):
        assert (np.asarray(Image.open(path)) == shade).all()


def test_save_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"^gif: pictures are written as jpg, jpeg or png"):
        save_pictures(flat(1), ["a"], str(tmp_path), "gif")
    with pytest.raises(ValueError, match="1 pictures and 2 names"):
        save_pictures(flat(1), ["a", "b"], str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a.jpg: cannot be written"):
        save_pictures(flat(1), ["a"], str(tmp_path / "file"))


def test_no_file_is_replaced(tmp_path):
    (tmp_path / "b.jpg").write_text("mine")
    with pytest.raises(UserError, match=r"b.jpg: exists already, and no picture was written; choose another folder"):
        save_pictures(flat(1, 2), ["a", "b"], str(tmp_path))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_many_names_are_soon_told_apart():
    started = time.process_time()
    names = preview._unlike([f"{i % 2000}" for i in range(40_000)])
    assert len(set(names)) == 40_000
    assert time.process_time() - started < 3


# barenets data preview


def test_what_is_previewed_is_what_a_run_trains_on(tmp_path):
    """The first pictures of a shuffled epoch, each as it comes in that epoch and the next."""
    write_pictures(tmp_path, 4)
    records = data.read(str(tmp_path))
    policy = augment.parse("CentreCrop(), Affine(rotation=40, zoom=0.2), Noise(5)")
    seen = preview.preview(records, policy, 3, size=28, seed=7, epoch=2, times=2)
    plain = Preprocessing(crop=28, resize=32)
    batches = data.Batches(records, plain, 3, seed=7, sampler=data.Shuffled(7), policy=policy)
    first = next(batches.epoch(2))
    assert seen.records.tolist() == first.indices.repeat(2).tolist()
    np.testing.assert_array_equal(seen.after[::2], plain.pictures(first.images))
    next_epoch = {i: image for batch in batches.epoch(3) for i, image in zip(batch.indices, batch.images, strict=True)}
    for record, image in zip(seen.records[1::2], seen.after[1::2], strict=True):
        np.testing.assert_array_equal(image, plain.pictures(next_epoch[record]))
    np.testing.assert_array_equal(seen.before[::2], seen.before[1::2])
    assert (seen.before != seen.after).any()


def test_the_command(tmp_path, capsys):
    write_pictures(tmp_path / "in", 2)
    out, folder = tmp_path / "sheet.png", tmp_path / "single"
    options = ["--augment", "Flip, Rotate(10)", "--count", "3", "--times", "2", "--size", "28"]
    command = ["data", "preview", str(tmp_path / "in"), *options, "--out", str(out), "--save-dir", str(folder)]
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    with Image.open(out) as sheet:
        assert sheet.width > 300
    assert len(list(folder.iterdir())) == 6
    for file in folder.iterdir():
        with Image.open(file) as picture:
            assert picture.size == (28, 28)


def test_pixels_keep_their_numbers(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=flat(1, 2), labels=[0, 1])
    options = ["--size", "28", "--out", str(tmp_path / "sheet.png"), "--save-dir", str(tmp_path / "single")]
    assert main(["data", "preview", str(tmp_path / "x.npz"), *options]) == 0
    assert sorted(file.name for file in (tmp_path / "single").iterdir()) == ["x.npz#0.jpg", "x.npz#1.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "Rotat(10)"], "there is no such step"),
        (["--augment", "__import__('os')"], "there is no such step"),
        (["--out", "/proc/none/x.png"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    write_pictures(tmp_path, 1)
    assert main(["data", "preview", str(tmp_path), "--out", str(tmp_path / "x.png"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

"""The contact sheet and the single files."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from barenets import UserError
from barenets.train.data.preview import contact_sheet, save_pictures


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

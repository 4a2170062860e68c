"""Pictures that people have and should not: each is decoded right, or refused by name in one line."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from barenets import UserError
from barenets.ops import Preprocessing
from barenets.train.data import Batches, Records, doctor
from barenets.train.data.pipeline import MOST_PIXELS, decode

SMOOTH = (np.indices((60, 80)).sum(0)[..., None] * np.array([1.0, 0.7, 0.5]) + 20).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


def pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6  # stored on its side
    return encoded(SMOOTH, "JPEG", exif=exif)


def frames(kind: str) -> bytes:
    images = [Image.fromarray(SMOOTH).convert("P"), Image.fromarray(NOISE).convert("P")]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"\0", depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def with_sides(content: bytes, at: int, form: str, *sides: int) -> bytes:
    return content[:at] + struct.pack(form, *sides) + content[at + struct.calcsize(form) :]


def jpeg_claim(side: int) -> bytes:
    content = encoded(SMOOTH, "JPEG")
    return with_sides(content, content.index(b"\xff\xc0") + 5, ">HH", side, side)


def gif(*frames: tuple[int, int]) -> bytes:
    """Frames of so many rows and columns on a screen of 1 × 1, with hardly any data."""
    each = [b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0" for height, width in frames]
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + b"!\xfe\1x\0" + b"".join(each) + b";"


# JPEG: TensorFlow takes the fast transform and Pillow the exact one.
DECODED = {
    "CMYK JPEG": (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95), 4),
    "grey JPEG": (encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG"), 4),
    "progressive JPEG": (encoded(SMOOTH, "JPEG", progressive=True), 4),
    "JPEG turned by Exif": (turned(), 4),  # as it is stored: Pillow does not turn it either, unless it is asked to
    "1 × 1 PNG": (encoded(SMOOTH[:1, :1], "PNG"), 0),
    "1 × 1 JPEG": (encoded(SMOOTH[:1, :1], "JPEG"), 4),
    "PNG of 1 bit": (encoded(Image.fromarray(NOISE).convert("1"), "PNG"), 0),
    "grey PNG with alpha": (encoded(Image.fromarray(NOISE).convert("LA"), "PNG"), 0),
    "PNG with alpha": (encoded(Image.fromarray(NOISE).convert("RGBA"), "PNG"), 0),
    "PNG with palette": (encoded(Image.fromarray(NOISE).convert("P"), "PNG"), 0),
    "animated GIF": (frames("GIF"), 0),
    "BMP": (encoded(NOISE, "BMP"), 0),
}
if hasattr(tf.io, "decode_webp"):
    DECODED |= {
        "WebP": (encoded(SMOOTH, "WebP"), 1),
        "WebP without loss": (encoded(NOISE, "WebP", lossless=True), 0),
    }


@pytest.mark.parametrize("name", DECODED)
def test_decoded_as_pillow_does(name):
    content, tolerance = DECODED[name]
    ours, theirs = decode(tf.constant(content)).numpy(), pillow(content)
    assert (ours.dtype, ours.shape) == (np.uint8, theirs.shape)
    assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("colour", ["grey", "RGB"])
def test_16_bits_are_scaled(colour):
    """65535 is white: v / 257, here its upper 8 bits, less than one grey level from it."""
    channels = {"grey": 1, "RGB": 3}[colour]
    values = np.random.default_rng(1).integers(0, 1 << 16, (20, 30, channels), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = png(30, 20, rows, 16, {"grey": 0, "RGB": 2}[colour])
    assert np.abs(decode(tf.constant(content)).numpy() - values / 257).max() < 1


CLAIMS = {
    "PNG": png(20_000, 20_000),
    "PNG that is not lying": png(20_000, 20_000, b"\0" * 20_001 * 20_000),
    "JPEG": jpeg_claim(20_000),
    "GIF": gif((1, 1), (16_000, 16_000)),
    "GIF of no known version": gif((20_000, 20_000)).replace(b"89a", b"8xa"),
    "GIF of many frames": gif(*[(40, 9_000)] * 1_000),
    "BMP": with_sides(encoded(SMOOTH, "BMP"), 18, "<ii", 20_000, -20_000),
    "WebP": with_sides(encoded(SMOOTH, "WebP"), 26, "<HH", 16_000, 16_000),
    "WebP without loss": with_sides(encoded(SMOOTH, "WebP", lossless=True), 21, "<I", 15_999 << 14 | 15_999),
    "WebP with alpha": with_sides(
        encoded(np.dstack([SMOOTH, NOISE[..., 0]]), "WebP"), 24, "<HBHB", 15_999, 0, 15_999, 0
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_claims_too_many_pixels_is_refused_before_there_is_room_for_them(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(CLAIMS[name])
    side = 16_000 if name == "GIF" or "WebP" in name else 20_000
    sides = "40000 × 9000" if "many" in name else f"{side} × {side}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    expected = f"claims more than the {MOST_PIXELS:,} pixels that are decoded: {sides}"
    assert refused(path).endswith(
        f"({expected}); mend or remove it, or go on without it with --on-error skip "
        "(`barenets data check` lists all such files)"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; 400 MB would be needed


def refused(path: Path) -> str:
    records = Records((str(path),), np.zeros(1, np.int32), ("a",), "list")
    with pytest.raises(UserError) as caught:
        list(Batches(records, Preprocessing(crop=8, resize=8), 1).epoch(0))
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = {
    "empty": b"",
    "text": b"<!DOCTYPE html>\n<title>404</title>",
    "animated WebP": frames("WebP"),
    "TIFF": encoded(NOISE, "TIFF"),
    "sliver": png(900_000, 1, bytes(900_001)),
} | {
    f"{kind}, {int(100 * share)} %": content[: int(len(content) * share)]
    for kind, content in {
        "JPEG": encoded(NOISE, "JPEG"),
        "progressive JPEG": encoded(NOISE, "JPEG", progressive=True),
        "PNG": encoded(NOISE, "PNG"),
        "GIF": encoded(NOISE, "GIF"),
        "BMP": encoded(NOISE, "BMP"),
        "WebP": encoded(NOISE, "WebP"),
    }.items()
    for share in (0.02, 0.3, 0.9, 0.99)
}


def test_refused_by_name_here_and_by_the_doctor(tmp_path):
    for number, content in enumerate(REFUSED.values()):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        assert refused(tmp_path / f"{number}.jpg").startswith(f"{tmp_path}/{number}.jpg: cannot be read as a picture (")
    good = len(REFUSED)
    (tmp_path / f"{good}.jpg").write_bytes(encoded(SMOOTH, "JPEG"))
    (tmp_path / f"{good + 1}.jpg").write_bytes(CLAIMS["PNG"])
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg thing\n" for i in range(good + 2)))
    report = doctor.check([str(tmp_path / "list.txt")])
    useless = [p for p in report.problems if p.kind in ("empty", "unreadable")]
    assert {Path(p.paths[0]).stem for p in useless} == {str(i) for i in range(good + 2) if i != good}
    claim = next(p.message for p in useless if p.paths[0].endswith(f"/{good + 1}.jpg"))
    assert claim.endswith(
        f"PNG that cannot be decoded (claims more than the {MOST_PIXELS:,} pixels that are decoded: 20000 × 20000)"
    )
    assert not any("\n" in p.message or "{{" in p.message for p in useless)


def test_all_in_one_run(tmp_path):
    """With --on-error skip the good ones come, each as it is alone, and the others are listed."""
    contents = [*(content for content, _ in DECODED.values()), *REFUSED.values(), CLAIMS["PNG"]]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    paths = tuple(str(tmp_path / str(i)) for i in range(len(contents)))
    records = Records(paths, np.zeros(len(paths), np.int32), ("a",), "list")
    preprocessing = Preprocessing(crop=16, resize=20)
    data = Batches(records, preprocessing, 8, on_error="skip")
    read = {int(i): image for batch in data.epoch(0) for i, image in zip(batch.indices, batch.images, strict=True)}
    assert list(read) == list(range(len(DECODED)))
    for i, image in read.items():
        expected = preprocessing.centre_crop(decode(tf.constant(contents[i])))
        np.testing.assert_array_equal(image, expected)
    assert set(data.skipped) == set(paths[len(DECODED) :])

"""The pipeline: the order, the place in it, the formats, the preprocessing, and pictures that cannot be read."""

from __future__ import annotations

import dataclasses
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from barenets import UserError
from barenets.ops import Preprocessing
from barenets.train.data import Batch, Batches, ClassPaired, ClassWeighted, Records, Shuffled, pipeline
from barenets.train.data import read as data_of
from barenets.train.data.augment import POLICIES, parse
from barenets.train.data.pipeline import decode

PLAIN = Preprocessing(crop=6, resize=8)


def pixels(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], np.uint8)


def encoded(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


@pytest.fixture
def records(tmp_path) -> Records:
    """Eleven pictures of three classes."""
    paths = []
    for i in range(11):
        path = tmp_path / f"{i}.png"
        path.write_bytes(encoded(pixels(i)))
        paths.append(str(path))
    return Records(tuple(paths), (np.arange(11) % 3).astype(np.int32), ("a", "b", "c"), "list.txt")


def batches(records: Records, **options) -> Batches:
    return Batches(records, options.pop("preprocessing", PLAIN), options.pop("batch_size", 4), **options)


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.images.numpy().tobytes() == theirs.images.numpy().tobytes()
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        assert ours.position == theirs.position


def indices(epoch: list[Batch]) -> list[int]:
    return [int(i) for batch in epoch for i in batch.indices]


SHUFFLED = {"sampler": Shuffled(3), "policy": POLICIES["standard"], "seed": 3}


# Order and place


def test_the_order_is_a_function_of_seed_and_epoch(records):
    orders = {}
    for seed in range(3):
        for epoch in range(4):
            order = batches(records, sampler=Shuffled(seed)).order(epoch)
            np.testing.assert_array_equal(batches(records, sampler=Shuffled(seed)).order(epoch), order)
            assert order.dtype == np.int32
            assert sorted(order) == list(range(11))
            orders[tuple(order)] = seed, epoch
    assert len(orders) == 12
    np.testing.assert_array_equal(batches(records, seed=7).order(5), np.arange(11))


@pytest.mark.parametrize("batch_size", [4, 11, 100])
def test_every_record_once(records, batch_size):
    data = batches(records, batch_size=batch_size, **SHUFFLED)
    epoch = list(data.epoch(2))
    assert indices(epoch) == data.order(2).tolist()
    sizes = [len(batch.indices) for batch in epoch]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert [batch.position for batch in epoch] == np.cumsum(sizes).tolist()
    for batch in epoch:
        assert (batch.images.shape, batch.images.dtype) == ((len(batch.indices), 6, 6, 3), tf.float32)
        assert (batch.labels.dtype, batch.indices.dtype) == (tf.int32, np.int32)
        np.testing.assert_array_equal(batch.labels, records.labels[batch.indices])
    assert data.skipped == {}


def test_the_end_of_an_epoch_does_not_wait_for_autotuning(records):
    # Its thread wakes after up to a minute, and now and then the iterator waited for that: 0 to 45 s an epoch.
    data = batches(records, **SHUFFLED)
    assert data._dataset(*data._drawn(0), 0, np.arange(11)).options().autotune.enabled is False


@pytest.mark.parametrize("options", [{}, SHUFFLED], ids=["in order", "shuffled"])
def test_an_epoch_can_be_taken_up_anywhere(records, options):
    whole = list(batches(records, **options).epoch(2))
    for done in range(len(whole) + 1):
        start = whole[done - 1].position if done else 0
        assert_same(list(batches(records, **options).epoch(2, start)), whole[done:])
    # Between batches too: the same pictures, in other batches.
    pictures = np.concatenate([batch.images for batch in whole])
    rest = np.concatenate([batch.images for batch in batches(records, **options).epoch(2, 3)])
    np.testing.assert_array_equal(rest, pictures[3:])


def test_epochs_repeat_and_differ(records):
    data = batches(records, **SHUFFLED)
    first = list(data.epoch(0))
    assert_same(list(data.epoch(0)), first)
    assert indices(list(data.epoch(1))) != indices(first)


# Pictures


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_formats_are_told_by_content(tmp_path, kind):
    picture = np.indices((9, 12, 3), np.uint8).sum(0, np.uint8) * 10  # smooth, as JPEG likes it
    content = encoded(picture, kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"), np.int32)
    for extension in ("jpg", "PNG", "bmp", "gif", "txt", ""):
        path = tmp_path / f"x.{extension}"
        path.write_bytes(content)
        found = decode(tf.io.read_file(str(path)))
        assert (found.dtype, found.shape) == (tf.uint8, picture.shape)
        # TensorFlow takes JPEG's fast transform and Pillow the exact one.
        assert np.abs(expected - found).max() <= (4 if kind == "JPEG" else 0)


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.fromarray(np.full([4, 5, 3], shade, np.uint8)) for shade in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(tf.io.read_file(str(tmp_path / "x.gif"))), np.asarray(frames[0]))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P"])
def test_all_become_rgb(tmp_path, mode):
    picture = Image.fromarray(pixels(0)).convert(mode)
    picture.save(tmp_path / "x.png")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode(tf.io.read_file(str(tmp_path / "x.png"))), expected)


def shrunk(picture: np.ndarray, factor: int) -> np.ndarray:
    """Antialiased bilinear shrinking: the mean of pixels under a tent two output pixels wide, in float64."""

    def weights(n: int) -> np.ndarray:
        centres = (np.arange(n // factor) + 0.5) * factor
        tent = np.maximum(1 - np.abs(np.arange(n) + 0.5 - centres[:, None]) / factor, 0)
        return tent / tent.sum(1, keepdims=True)

    height, width, _ = picture.shape
    return np.einsum("ih,jw,hwc->ijc", weights(height), weights(width), picture.astype(np.float64))


def test_preprocessing_by_hand(tmp_path):
    """A picture of 16 × 24 shrunk by half, its middle 6 × 6, BGR, scaled, less the mean, over the deviation."""
    picture, path = pixels(1, 16, 24), tmp_path / "x.png"
    path.write_bytes(encoded(picture))
    preprocessing = Preprocessing(
        crop=6, resize=8, channels="BGR", scale=2.0, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0)
    )
    data = batches(Records((str(path),), np.zeros(1, np.int32), ("a",), ""), preprocessing=preprocessing)
    (batch,) = data.epoch(0)
    middle = shrunk(picture, 2)[1:7, 3:9, ::-1]
    expected = (middle / 2 - [10, 20, 30]) / [1, 2, 4]
    np.testing.assert_allclose(batch.images[0], expected, rtol=0, atol=1e-3)  # float32 sums of numbers up to 255


def test_augmentation_crops_and_flips(records):
    """Pictures as large as the resized side: what comes out is a window of the picture, mirrored or not."""
    whole = Preprocessing(crop=6, resize=9)  # of 9 × 12 pixels, so nothing is resized
    windows: set[tuple[int, int, int, bool]] = set()
    for epoch in range(6):
        for batch in batches(records, preprocessing=whole, policy=POLICIES["standard"], batch_size=11).epoch(epoch):
            for index, image in zip(batch.indices, batch.images.numpy(), strict=True):
                found = [
                    (int(index), top, left, mirrored)
                    for top in range(4)
                    for left in range(7)
                    for mirrored in (False, True)
                    if np.allclose(image, pixels(index)[top : top + 6, left : left + 6][:, :: -1 if mirrored else 1])
                ]
                assert len(found) == 1
                windows.update(found)
    # 66 draws: every row, column and direction of 4, 7 and 2 is met, and hardly a window of one picture twice.
    assert [len({window[i] for window in windows}) for i in (1, 2, 3)] == [4, 7, 2]
    assert len(windows) > 50
    for picture in range(11):
        assert len({window[1:] for window in windows if window[0] == picture}) > 2


def test_augmentation_is_of_seed_epoch_and_record_only(records):
    """Whatever the order and the batches are."""

    def pictures(**options) -> dict[int, bytes]:
        epoch = batches(records, policy=POLICIES["standard"], **options.pop("more", {}), seed=options["seed"]).epoch(
            options["epoch"]
        )
        return {int(i): image.tobytes() for b in epoch for i, image in zip(b.indices, b.images.numpy(), strict=True)}

    first = pictures(seed=0, epoch=0)
    assert pictures(seed=0, epoch=0, more={"batch_size": 3}) == first
    np.testing.assert_equal(pictures(seed=0, epoch=0, more={"sampler": Shuffled(5)}), first)
    for other in (pictures(seed=0, epoch=1), pictures(seed=1, epoch=0)):
        assert sum(other[i] != first[i] for i in first) > 6


# Pictures that cannot be read


def spoil(records: Records, *which: int) -> dict[int, str]:
    """Makes pictures of `records` unreadable, each in another way; index -> what is said of it."""
    ways = {"gone": "there is no such file", "text": "Unknown image file format", "cut": "", "empty": ""}
    said = {}
    for i, (way, reason) in zip(which, ways.items(), strict=False):
        path, said[i] = Path(records.paths[i]), reason
        if way == "gone":
            path.unlink()
        else:
            path.write_bytes({"text": b"<html>404</html>", "cut": path.read_bytes()[:60], "empty": b""}[way])
    return said


def until_error(epoch: Iterator[Batch]) -> tuple[list[Batch], str]:
    """The batches that come before the UserError, and its message, which is one line."""
    given: list[Batch] = []
    with pytest.raises(UserError) as caught:
        given.extend(epoch)
    assert "\n" not in str(caught.value)
    return given, str(caught.value)


@pytest.mark.parametrize("options", [{}, SHUFFLED], ids=["in order", "shuffled"])
@pytest.mark.parametrize("which", [(0, 2), (9, 10)])
def test_a_picture_that_cannot_be_read_stops(records, options, which):
    """The batches before it come; then it is named, the first of them in the order of the epoch."""
    said = spoil(records, *which)
    data = batches(records, **options)
    order = data.order(1).tolist()
    first = min(map(order.index, which))
    given, message = until_error(data.epoch(1))
    assert indices(given) == order[: first // 4 * 4]
    culprit = order[first]
    assert message.startswith(f"{records.paths[culprit]}: cannot be read as a picture ({said[culprit]}")
    assert "--on-error skip" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"", "Input is empty"),
        (b"<html>404</html>", "Unknown image file format"),
        (b"\xff\x0a" + bytes(40), "it is no JPEG, PNG, BMP, GIF or WebP"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "it is no JPEG, PNG, BMP, GIF or WebP"),
        (encoded(pixels(0), "JPEG")[:200], "JPEG"),
        (encoded(pixels(0), "PNG")[:60], ""),
    ],
    ids=["gone", "empty", "text", "JPEG XL", "JPEG XL in boxes", "cut JPEG", "cut PNG"],
)
def test_the_reason_is_in_a_few_words(tmp_path, content, reason):
    """Without TensorFlow's names of its nodes and operations."""
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    found = batches(Records((str(path),), np.zeros(1, np.int32), ("a",), ""))._unreadable(0)
    assert reason in found
    assert found.strip() == found != ""
    for inside in ("{{", "}}", "[Op", "/device:", "\n"):
        assert inside not in found


def test_an_error_without_a_culprit_is_one_line_too(records, monkeypatch):
    """A picture that could not be read when it was needed and can be now."""
    spoil(records, 0, 1)
    monkeypatch.setattr(Batches, "_unreadable", lambda self, index: None)
    for start in (0, 1):  # that is not there, that is no picture
        _, message = until_error(batches(records).epoch(0, start))
        assert message.startswith("list.txt: cannot be read (")
        assert "{{" not in message
        assert "[Op" not in message


@pytest.mark.parametrize("options", [{}, SHUFFLED], ids=["in order", "shuffled"])
@pytest.mark.parametrize("which", [(0, 10), (7, 8, 9, 10)])
def test_pictures_that_cannot_be_read_are_skipped(records, options, which):
    said = spoil(records, *which)
    data = batches(records, on_error="skip", **options)
    whole = list(data.epoch(1))
    assert indices(whole) == [i for i in data.order(1) if i not in which]
    assert [len(batch.indices) for batch in whole[:-1]] == [4] * (len(whole) - 1)
    assert set(data.skipped) == {records.paths[i] for i in which}
    for i, reason in said.items():
        assert reason in data.skipped[records.paths[i]]
        assert "\n" not in data.skipped[records.paths[i]]
    for done, batch in enumerate(whole):
        assert batch.position == data.order(1).tolist().index(batch.indices[-1]) + 1
        again = batches(records, on_error="skip", **options)
        assert_same(list(again.epoch(1, batch.position)), whole[done + 1 :])


def test_skipped_are_listed_as_they_are_met(records):
    spoil(records, 1, 6, 10)
    data = batches(records, on_error="skip")
    listed = [[Path(path).stem for path in data.skipped] for _ in data.epoch(0)]
    assert listed == [["1"], ["1", "6"]]  # 10 is behind the last batch
    assert [Path(path).stem for path in data.skipped] == ["1", "6", "10"]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_none_can_be_read(records, on_error):
    for path in records.paths:
        Path(path).write_bytes(b"")
    data = batches(records, on_error=on_error, **SHUFFLED)
    if on_error == "skip":
        assert list(data.epoch(0)) == []
        assert len(data.skipped) == 11
        assert all(data.skipped.values())
    else:
        with pytest.raises(UserError, match=f"^{records.paths[data.order(0)[0]]}: cannot be read as a picture"):
            list(data.epoch(0))


def test_pictures_are_opened_when_their_batch_is_near(tmp_path):
    """What is shuffled are indices: of 500 pictures those far down the order can go after the first batch, and only
    then, at their place, is it noticed. A buffer of decoded pictures would have had them already.
    """
    picture, paths = encoded(pixels(0)), [str(tmp_path / f"{i}.png") for i in range(500)]
    for path in paths:
        Path(path).write_bytes(picture)
    data = batches(Records(tuple(paths), np.zeros(500, np.int32), ("a",), ""), sampler=Shuffled(0))
    order = data.order(0)
    epoch = data.epoch(0)
    next(epoch)
    # Of 4 pictures each: the next batch, two that wait, one being made, and as many in hand as there are cores.
    far = 250
    for i in order[far:]:
        Path(paths[i]).unlink()
    given, message = until_error(epoch)
    assert message.startswith(f"{paths[order[far]]}: cannot be read as a picture")
    assert indices(given) == order[4 : far // 4 * 4].tolist()


# Samplers, policies, and where pictures come from


FULL = parse("RandomCrop(), Flip(), Rotate(10), Combine(0.5), Mixup(0.4)")
REPEATING = {"sampler": ClassWeighted(1), "policy": FULL, "seed": 4}


@pytest.mark.parametrize("options", [SHUFFLED, REPEATING, REPEATING | {"sampler": ClassPaired(2, 2)}], ids=str)
def test_batches_do_not_depend_on_workers_nor_on_where_an_epoch_is_taken_up(records, options):
    whole = list(batches(records, workers=1, **options).epoch(3))
    again = batches(records, workers=2, **options)
    assert_same(list(again.epoch(3)), whole)
    assert indices(whole) == again.order(3).tolist()
    for start in (4, 8):
        rest = [batch for batch in whole if batch.position > start]
        assert_same(list(again.epoch(3, start)), rest)
    other = next(again.epoch(4)).images.numpy()
    assert not np.array_equal(other, whole[0].images.numpy())


def test_a_record_that_repeats_is_another_picture_each_time(records):
    """And the k-th time the same, whatever else the order has."""

    class Repeating:
        def __init__(self, order):
            self._order = np.array(order, np.int32)

        def order(self, labels, epoch):
            return self._order

    def pictures(order):
        data = batches(records, batch_size=3, policy=parse("standard, Brightness(0.5)"), sampler=Repeating(order))
        return [image for batch in data.epoch(0) for image in batch.images.numpy()]

    first = pictures([5, 2, 5, 5])
    assert not np.array_equal(first[0], first[2])
    assert not np.array_equal(first[2], first[3])
    second = pictures([2, 5, 7, 5])
    for ours, theirs in ((first[0], second[1]), (first[2], second[3]), (first[1], second[0])):
        np.testing.assert_array_equal(ours, theirs)


def test_occurrences():
    np.testing.assert_array_equal(pipeline.occurrences(np.array([3, 1, 3, 3, 1, 0])), [0, 0, 1, 2, 1, 0])


def test_partners_are_others_and_of_the_class_where_it_is_asked_for(records):
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 2], np.int32)
    data = batches(dataclasses.replace(records, labels=labels), policy=parse("Combine(), Mixup()"), seed=1)
    mates, any_other = np.concatenate([data._drawn(epoch)[2] for epoch in range(300)]).T
    order = np.tile(np.arange(11), 300)
    np.testing.assert_array_equal(labels[mates], labels[order])
    np.testing.assert_array_equal(mates == order, order == 10)  # the only one of its class
    assert np.all(any_other != order)
    assert stats.chisquare(np.bincount(any_other[order == 4], minlength=11)[np.arange(11) != 4]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(mates[order == 0])[[1, 2, 5, 6, 7, 8, 9]]).pvalue > 1e-3


def test_mixup_mixes_pictures_and_labels(records):
    """Of pictures of one shade each, the shade says how much of which is in it."""
    for i, path in enumerate(records.paths):
        Path(path).write_bytes(encoded(np.full([9, 12, 3], 20 * i, np.uint8)))
    data = batches(records, policy=parse("Mixup(1.0)"), batch_size=11)
    (batch,) = data.epoch(0)
    labels, shades = batch.labels.numpy(), batch.images.numpy()[:, 0, 0, 0]
    assert (labels.dtype, labels.shape) == (np.float32, (11, 3))
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    for i, (label, shade) in enumerate(zip(labels, shades, strict=True)):
        partner = data._drawn(0)[2][i, 0]
        share = (shade / 20 - partner) / (i - partner)
        assert 0 <= share <= 1
        expected = share * np.eye(3)[i % 3] + (1 - share) * np.eye(3)[partner % 3]
        np.testing.assert_allclose(label, expected, atol=1e-4)


def test_second_pictures_are_read_only_where_they_show(records):
    """Of eleven pictures that can be read, none is shown with one that cannot; with a chance of 1 all are."""
    Path(records.paths[3]).unlink()
    alone = dataclasses.replace(records, labels=np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], np.int32))
    for chance, skipped in ((0.0, [3]), (1.0, [3])):
        data = batches(alone, policy=parse(f"Combine({chance})"), on_error="skip")
        assert indices(list(data.epoch(0))) == [i for i in range(11) if i not in skipped]
    data = batches(records, policy=parse("Mixup(0.2, probability=1.0)"), on_error="skip")
    partners = data._drawn(0)[2][:, 0]
    assert indices(list(data.epoch(0))) == [i for i in range(11) if 3 not in (i, partners[i])]
    assert set(data.skipped) == {records.paths[3]}
    assert batches(records, policy=parse("Mixup(0.2, probability=0.0)"), on_error="skip").skipped == {}


def test_a_second_picture_that_cannot_be_read_is_named(records):
    data = batches(records, policy=parse("Mixup()"))
    partner = int(data._drawn(0)[2][0, 0])
    Path(records.paths[partner]).write_bytes(b"")
    _, message = until_error(data.epoch(0))
    assert message.startswith(f"{records.paths[partner]}: cannot be read as a picture (Input is empty")


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_go_through_the_preprocessing(channels):
    """Grey ones become RGB; 28 × 28 are resized as files of that size are."""
    images = np.random.default_rng(0).integers(0, 256, [5, 28, 28, channels], np.uint8)
    names = tuple(f"set#{i}" for i in range(5))
    data = Records(names, np.arange(5, dtype=np.int32), ("a", "b", "c", "d", "e"), "set", pixels=images)
    preprocessing = Preprocessing(crop=40, resize=48)
    (batch,) = batches(data, preprocessing=preprocessing, batch_size=5).epoch(0)
    rgb = np.repeat(images, 3 // channels, 3)
    expected = [preprocessing.crop_at(preprocessing.resized(tf.constant(image)), [4, 4]) for image in rgb]
    np.testing.assert_allclose(batch.images, expected, atol=5e-3)
    order = [
        int(i)
        for batch in batches(data, sampler=Shuffled(1), preprocessing=preprocessing).epoch(0)
        for i in batch.labels
    ]
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_many_pixels_stay_where_they_are(tmp_path):
    """800 pictures of 500 × 500 in an idx file, which is mapped: 200 MB."""

    def own_memory() -> int:
        return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

    with open(tmp_path / "train-images-idx3-ubyte", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, 800, 500, 500) + b"\7")
        file.truncate(16 + 800 * 500 * 500)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 800) + bytes(800))
    data = batches(data_of(str(tmp_path)), preprocessing=Preprocessing(crop=500, resize=500))
    next(batches(data.records.subset(range(4)), preprocessing=data.preprocessing).epoch(0))  # what the first use takes
    before = own_memory()
    batch = next(data.epoch(0))
    assert own_memory() - before < 80_000  # kB: four batches of 12 MB
    assert (batch.images[0, 0, 0, 0], np.sum(batch.images)) == (7, 21)


def test_spans_are_the_files_they_hold(records, tmp_path):
    contents = [Path(path).read_bytes() for path in records.paths]
    lengths = np.array([len(content) for content in contents])
    (tmp_path / "shard").write_bytes(b"head" + b"".join(contents) + b"tail")
    spans = np.stack([4 + np.cumsum(lengths) - lengths, lengths], 1)
    shards = dataclasses.replace(records, paths=(str(tmp_path / "shard"),) * 11, spans=spans)
    assert_same(list(batches(shards, **SHUFFLED).epoch(1)), list(batches(records, **SHUFFLED).epoch(1)))
    spans[7, 1] = 20
    _, message = until_error(batches(shards).epoch(0))
    assert message.startswith(f"{tmp_path / 'shard'} byte {spans[7, 0]}: cannot be read as a picture (")


def test_evaluation_gives_what_it_gave_before(shared_data):
    """The centre crop's numbers: those of resizing all of each picture and slicing, to float32 rounding."""
    paths = sorted(map(str, (shared_data / "imagenet_samples").iterdir()))[:12]
    data = Records(tuple(paths), np.zeros(len(paths), np.int32), ("a",), "")
    torch = {"scale": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    bgr = {"channels": "BGR", "mean": (104.0, 117.0, 123.0)}
    for options in ({**torch}, {**bgr, "antialias": False}, {**bgr, "antialias": False, "keep_aspect": False}):
        preprocessing = Preprocessing(crop=224, resize=256, **options)
        (batch,) = batches(data, preprocessing=preprocessing, batch_size=12).epoch(0)
        for image, path in zip(batch.images.numpy(), paths, strict=True):
            whole = preprocessing.resized(tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)).numpy()
            top, left = (np.array(whole.shape[:2]) - 224) // 2
            window = whole[top : top + 224, left : left + 224].astype(np.float64)
            window = window[..., ::-1] if preprocessing.channels == "BGR" else window
            expected = (window / preprocessing.scale - preprocessing.mean) / preprocessing.std
            # Positions of float32 in pictures of up to 2,000 pixels, times the steepest slope in them.
            np.testing.assert_allclose(
                image, expected, rtol=0, atol=0.05 / preprocessing.scale / min(preprocessing.std)
            )


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [0, 4])
def test_parts_are_rows_of_the_whole_batches(records, workers, start):
    """Each picture once, in the same order, with what happened to it; 11 pictures: the last batch has 3."""
    options = {"sampler": Shuffled(3), "policy": parse("standard"), "seed": 5}
    whole = list(batches(records, **options).epoch(1, start))
    parts = [
        list(batches(records, **options, part=(i, i + 1, workers) if workers > 1 else (0, 1, 1)).epoch(1, start))
        for i in range(workers)
    ]
    for batch, *own in zip(whole, *parts, strict=True):
        assert all(part.position == batch.position for part in own)
        for field in ("images", "labels", "indices"):
            found = np.concatenate([np.asarray(getattr(part, field)) for part in own])
            assert found.tobytes() == np.asarray(getattr(batch, field)).tobytes()


def test_parts_need_whole_batches(records):
    with pytest.raises(ValueError, match="no picture is left out"):
        batches(records, part=(0, 1, 2), on_error="skip")
    with pytest.raises(ValueError, match="one picture at least"):
        batches(records, part=(0, 1, 8))

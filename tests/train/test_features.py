"""Maps on disk: as the base gives them, whole after a kill, refused if something else made them, trained on alike."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.nets import DenseHead, Headed
from barenets.ops import BatchNorm, Conv2D, Preprocessing, named_variables
from barenets.train import data
from barenets.train.data import Batches, ClassPaired, ClassWeighted, Records, Shuffled, features
from barenets.train.data.augment import parse
from barenets.train.data.features import FeatureBatches, Features, compute
from barenets.train.loop import Trainer
from barenets.train.optimizers import RMSprop
from barenets.train.select import freeze_norms, trained_variables
from tests.pictures import write_pictures
from tests.train.forms import error_of

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Preprocessing(crop=16, resize=16, scale=255.0)
MAP = 4 * 8 * 8 * 6
"""Bytes of a map of the base below."""


class Base(tf.Module):
    """Convolution and batch norm, on 16 × 16 pictures."""

    input_shape = (16, 16, 3)

    def __init__(self, seed=0, variant="one"):
        super().__init__()
        self.variant = variant
        self.conv = Conv2D(3, 6, 3, stride=2, padding=1, seed=(seed, 1))
        self.norm = BatchNorm(6)
        self.norm.moving_mean.assign([0.1, -0.2, 0.3, 0.0, 0.5, -0.1])

    def __call__(self, x, *, train=False, rng=None, tap=None):
        return tf.nn.relu(self.norm(self.conv(x), train=train))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of seven."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "train", 7)


@pytest.fixture(scope="module")
def base() -> Base:
    return Base()


@pytest.fixture
def small_shards(monkeypatch) -> None:
    """Of two batches of three pictures."""
    monkeypatch.setattr(features, "SHARD_BYTES", 6 * MAP)


@pytest.fixture(scope="module")
def plain(pictures) -> Batches:
    """Of all pictures; traced once."""
    return batches(read(pictures))


def read(pictures: Path) -> Records:
    return data.read(str(pictures))


def batches(records: Records, **options) -> Batches:
    return Batches(records, options.pop("preprocessing", PLAIN), options.pop("batch_size", 3), **options)


def damaged(pictures: Path, tmp_path: Path, *numbers: int) -> Records:
    """A copy of the pictures, those with these numbers unreadable."""
    shutil.copytree(pictures, tmp_path / "damaged")
    records = read(tmp_path / "damaged")
    for number in numbers:
        Path(records.paths[number]).write_bytes(b"no picture")
    return records


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is on disk


@pytest.mark.usefixtures("small_shards")
def test_shards(plain, base, tmp_path):
    seen = []
    made = compute(base, plain, str(tmp_path), seen.append)
    assert seen == [0, 3, 3, 3, 3, 2]
    assert sorted(contents(tmp_path)) == ["00000.npy", "00001.npy", "00002.npy", "features.json"]
    index = json.loads((tmp_path / "features.json").read_text())
    shards = [np.load(tmp_path / f"0000{i}.npy") for i in range(3)]
    assert [(len(shard), shard.dtype) for shard in shards] == [(6, np.float32), (6, np.float32), (2, np.float32)]
    for i, shard in enumerate(index["shards"]):
        assert shard["crc32"] == zlib.crc32((tmp_path / f"0000{i}.npy").read_bytes())
    # Picture by picture through the base; sums of 27 products may be taken in another order.
    alone = np.concatenate([base(batch.images) for batch in batches(plain.records, batch_size=1).epoch(0)])
    np.testing.assert_allclose(np.concatenate(shards), alone, rtol=1e-5, atol=1e-6)
    order = np.array([13, 0, 5, 6, 0, 12])
    assert made.maps(order).tobytes() == np.concatenate(shards)[order].tobytes()
    assert made.shape == (8, 8, 6)


def test_the_last_shard_may_be_full(pictures, base, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 1)  # a batch is the least that a shard has
    seen = []
    compute(base, batches(read(pictures), batch_size=7), str(tmp_path), seen.append)
    assert (seen, len(contents(tmp_path))) == ([0, 7, 7], 3)


def test_nothing_is_computed_twice(pictures, plain, base, tmp_path, monkeypatch):
    first = compute(base, plain, str(tmp_path))
    monkeypatch.setattr(Batches, "epoch", None)
    again = compute(Base(), batches(read(pictures), batch_size=5), str(tmp_path))
    np.testing.assert_array_equal(again.maps(np.arange(14)), first.maps(np.arange(14)))


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(plain, base, tmp_path_factory) -> dict[str, bytes]:
    """What undisturbed work leaves, in small shards."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "SHARD_BYTES", 6 * MAP)
        compute(base, plain, str(folder))
    return contents(folder)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "done"), [("00000.npy", 0), ("00001.npy", 6), ("00002.npy", 12), ("features.json", 0)]
)
def test_work_that_ends_early_goes_on(plain, base, whole, tmp_path, monkeypatch, name, when, done):
    rename, struck = tf.io.gfile.rename, []

    def strike(source, target, overwrite=False):
        doomed = os.path.basename(target) == name and not struck
        if not (doomed and when == "before"):
            rename(source, target, overwrite)
        if doomed:
            struck.append(target)
            raise Killed

    monkeypatch.setattr(tf.io.gfile, "rename", strike)
    with pytest.raises(Killed):
        compute(base, plain, str(tmp_path))
    seen = []
    compute(base, plain, str(tmp_path), seen.append)
    if name == "features.json" and when == "after":
        done = 6
    assert (seen[0], sum(seen)) == (done, 14)
    assert contents(tmp_path) == whole


KILLED_AT_8 = """
import os, signal, sys
from barenets.train import data
from barenets.train.data import features
from tests.train.test_features import MAP, Base, batches
features.SHARD_BYTES, done = 6 * MAP, []
def progress(pictures):
    done.append(pictures)
    if sum(done) > 8:
        os.kill(os.getpid(), signal.SIGKILL)
features.compute(Base(), batches(data.read(sys.argv[1])), sys.argv[2], progress)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_kill_9(pictures, plain, base, whole, tmp_path):
    command = [sys.executable, "-c", KILLED_AT_8, str(pictures), str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert sorted(contents(tmp_path)) == ["00000.npy", "features.json"]
    compute(base, plain, str(tmp_path))
    assert contents(tmp_path) == whole


# Batches


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("sampler", "broken"),
    [(ClassWeighted(3), ()), (Shuffled(3), (0, 1, 2, 3, 4, 5, 9, 13)), (ClassPaired(3, 2), (0, 7, 8))],
    ids=["weighted", "shuffled, some unreadable", "paired, some unreadable"],
)
def test_the_same_batches_as_of_pictures(pictures, base, tmp_path, sampler, broken):
    records = damaged(pictures, tmp_path, *broken)
    made = compute(base, batches(records, on_error="skip"), str(tmp_path / "features"))
    ours = FeatureBatches(made, records, 4, sampler)
    theirs = batches(records, batch_size=4, on_error="skip", sampler=sampler)
    for epoch, start in ((0, 0), (0, 4), (2, 5)):
        np.testing.assert_array_equal(ours.order(epoch), theirs.order(epoch))
        found, expected = list(ours.epoch(epoch, start)), list(theirs.epoch(epoch, start))
        assert len(found) == len(expected) > 0
        for a, b in zip(found, expected, strict=True):
            assert (a.images.dtype, a.labels.dtype, a.indices.dtype) == (tf.float32, tf.int32, np.int32)
            np.testing.assert_allclose(a.images, base(b.images), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(a.labels, b.labels)
            np.testing.assert_array_equal(a.indices, b.indices)
            assert a.position == b.position
    assert ours.skipped.items() >= theirs.skipped.items()
    assert list(ours.skipped) == [records.paths[i] for i in broken]


def test_what_cannot_be_read_is_there_after_going_on(pictures, base, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_BYTES", 3 * MAP)
    records, folder = damaged(pictures, tmp_path, 1, 12, 13), str(tmp_path / "features")

    def strike(pictures):
        strike.done += pictures
        if strike.done > 6:
            raise Killed

    strike.done = 0
    with pytest.raises(Killed):
        compute(base, batches(records, on_error="skip"), folder, strike)
    made = compute(base, batches(records, on_error="skip"), folder)
    assert list(made.skipped) == [records.paths[i] for i in (1, 12, 13)]
    assert np.flatnonzero(~made.has(np.arange(14))).tolist() == [1, 12, 13]
    with pytest.raises(ValueError, match=r"has no features of the records \[1\]"):
        made.maps(np.array([0, 1]))
    message = error_of(compute, base, batches(records), folder)
    assert message.startswith(f"{folder}: lacks 3 pictures that could not be read, {records.paths[1]} first; ")


def test_none_can_be_read(pictures, base, tmp_path):
    records = damaged(pictures, tmp_path, *range(14))
    made = compute(base, batches(records, on_error="skip"), str(tmp_path / "features"))
    assert list(FeatureBatches(made, records, 4).epoch(0)) == []
    assert len(made.skipped) == 14


def test_a_picture_that_cannot_be_read_is_named(pictures, base, tmp_path):
    records = damaged(pictures, tmp_path, 4)
    assert records.paths[4] in error_of(compute, base, batches(records), str(tmp_path / "features"))


def test_an_epoch_may_be_left(plain, base, made):
    epoch = FeatureBatches(compute(base, plain, str(made)), plain.records, 2).epoch(0)
    next(epoch)
    epoch.close()


# Mistakes


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": Shuffled(0)},
        {"policy": parse("Flip()")},
        {"policy": parse("RandomCrop()")},
        {"ten_crop": True},
    ],
)
def test_batches_that_are_not_the_same_in_each_epoch(pictures, base, tmp_path, options):
    with pytest.raises(ValueError, match="one crop of each picture, in order"):
        compute(base, batches(read(pictures), **options), str(tmp_path))


@pytest.fixture(scope="module")
def made(plain, base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    compute(base, plain, str(folder))
    return folder


def relabelled(records: Records) -> Records:
    labels = records.labels.copy()
    labels[9] = 0
    return replace(records, labels=labels)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.subset(range(13)), "of the 14 pictures of SOURCE, not of the 13 of SOURCE"),
        (lambda r: replace(r, class_names=("above", "low")), "whose class 1 is 'below', and not 'low' as in SOURCE"),
        (lambda r: replace(r, class_names=("above",)), "for 2 classes, not for the 1 of SOURCE"),
        (relabelled, "for other labels: picture 9 of SOURCE was 'below' and is 'above'"),
        (lambda r: r.subset([1, 0, *range(2, 14)]), "of other pictures than SOURCE has: their names, order or sizes"),
    ],
)
def test_features_of_another_list(pictures, base, made, change, says):
    records = read(pictures)
    says = f"{made}: holds features {says.replace('SOURCE', records.source)}"
    for message in (
        error_of(compute, base, batches(change(records)), str(made)),
        error_of(FeatureBatches, compute(base, batches(records), str(made)), change(records), 4),
    ):
        assert message.startswith(says)
        assert message.endswith(f"; remove {made}, or choose another folder")


def test_other_pictures_of_the_same_names(base, made, tmp_path):
    records = read(write_pictures(tmp_path / "val", 7, seed=1))
    message = error_of(compute, base, batches(records), str(made))
    assert f"of other pictures than {records.source} has" in message


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"variant": "two"}, {}, "of Base one, not of Base two"),
        ({"seed": 1}, {}, "of Base one with other weights"),
        ({}, {"preprocessing": replace(PLAIN, resize=20)}, "of pictures prepared otherwise: resize 16, not 20"),
        ({}, {"preprocessing": replace(PLAIN, channels="BGR")}, "prepared otherwise: channels RGB, not BGR"),
    ],
)
def test_features_that_something_else_made(pictures, made, change, options, says):
    assert says in error_of(compute, Base(**change), batches(read(pictures), **options), str(made))


def test_features_of_a_base_that_has_trained_since(pictures, made):
    base = Base()
    base.norm.moving_mean.assign_add([0, 0, 0, 0, 0, 1e-7])
    assert "of Base one with other weights" in error_of(compute, base, batches(read(pictures)), str(made))


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("00000.npy", lambda x: x[:-4], "is damaged, its checksum is wrong"),
        ("00000.npy", lambda x: x[:-1] + bytes([x[-1] ^ 1]), "is damaged, its checksum is wrong"),
        ("00000.npy", lambda x: b"", "the file is empty"),
        ("00000.npy", None, "there is no such file"),
        ("features.json", lambda x: x[:50], "is damaged, or another version wrote it"),
        ("features.json", lambda x: b"[]", "is damaged, or another version wrote it"),
        ("features.json", lambda x: b"\xff", "is damaged, or another version wrote it"),
    ],
)
def test_damage(pictures, base, made, tmp_path, name, spoil, says):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    file = folder / name
    if spoil is None:
        file.unlink()
    else:
        file.write_bytes(spoil(file.read_bytes()))
    message = error_of(compute, base, batches(read(pictures)), str(folder))
    assert message == f"{file}: {says}; remove {folder}, or choose another folder"


# Training


def trained(net, batches, patterns, *, epochs: int) -> dict[str, np.ndarray]:
    """The head after some epochs of RMSprop, with dropout."""
    variables = trained_variables(net, patterns)
    freeze_norms(net, variables)
    trainer, step = Trainer(net, variables, RMSprop(variables), seed=5), 0
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            trainer.step(batch.images, batch.labels, step, 1e-3)
            step += 1
    return {name.removeprefix("head/"): variable.numpy() for name, variable in named_variables(net).items()}


def head_on(made: Features) -> DenseHead:
    head = DenseHead(made.shape, 2, width=16, dropout_rate=0.5, seed=7)
    head.input_shape = made.shape
    return head


def assert_same_head(base, records: Records, preprocessing: Preprocessing, folder: Path, epochs: int) -> None:
    options = {"preprocessing": preprocessing, "batch_size": 4}
    made = compute(base, batches(records, **options), str(folder))
    start = {name: variable.numpy() for name, variable in named_variables(head_on(made)).items()}
    found = trained(head_on(made), FeatureBatches(made, records, 4, Shuffled(3)), (), epochs=epochs)
    whole = Headed(base, head_on(made), input_shape=(preprocessing.crop, preprocessing.crop, 3))
    expected = trained(whole, batches(records, sampler=Shuffled(3), **options), ["head"], epochs=epochs)
    for name, value in found.items():
        assert np.abs(value - start[name]).max() > 1e-3, "it has not trained"
        # Adding up in another order: the base sees these pictures in other batches.
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


def test_the_same_head_as_on_the_frozen_network(pictures, tmp_path):
    assert_same_head(Base(), read(pictures), PLAIN, tmp_path, epochs=4)


@pytest.mark.slow
def test_the_same_head_as_on_a_frozen_vgg(pictures, tmp_path):
    base = nets.build("vgg11", num_classes=None, seed=1)
    assert_same_head(base, read(pictures), Preprocessing(crop=64, resize=64), tmp_path, epochs=5)

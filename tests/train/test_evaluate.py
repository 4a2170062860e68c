"""Evaluation and prediction of a net that looks its logits up, against NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets.ops import Preprocessing
from barenets.train.data import Batches, Records
from barenets.train.data.augment import POLICIES
from barenets.train.evaluate import Evaluation, TenCropped, evaluate, predict

COUNT = 23


class LookUp(tf.Module):
    """Logits by the shade of a picture's first pixel."""

    input_shape = (2, 2, 3)

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.logits = tf.Variable(logits.astype(np.float32))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        assert not train
        return tf.gather(self.logits, tf.cast(tf.round(x[:, 0, 0, 0]), tf.int32))


def data(folder: Path, classes: int, count: int = COUNT, **options) -> Batches:
    """Pictures of which each has a shade of its own; no picture of the last class."""
    paths = [folder / f"{i:02}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(tf.io.encode_png(np.full([2, 2, 3], i, np.uint8)).numpy())
    labels = np.random.default_rng(0).integers(0, classes - 1, count).astype(np.int32)
    names = tuple(f"class {chr(97 + i)}" for i in range(classes))
    preprocessing = Preprocessing(crop=2, resize=2)
    return Batches(Records(tuple(map(str, paths)), labels, names, "list"), preprocessing, 5, **options)


def random_logits(classes: int) -> np.ndarray:
    return 3 * np.random.default_rng(classes).standard_normal([COUNT, classes]).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_against_numpy(tmp_path, classes):
    batches, logits = data(tmp_path, classes), random_logits(classes)
    labels, z = batches.records.labels, logits.astype(np.float64)
    told: list[int] = []
    result = evaluate(LookUp(logits), batches, told.append)

    ranks = (z > z[np.arange(COUNT), labels][:, None]).sum(1)
    confusion = np.zeros([classes, classes], int)
    for true, predicted in zip(labels, z.argmax(1), strict=True):
        confusion[true, predicted] += 1
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert result.count == COUNT
    assert result.top1 == (ranks == 0).mean()
    assert result.top5 == (ranks < 5).mean()
    assert result.loss == pytest.approx(-log_p[np.arange(COUNT), labels].mean(), rel=1e-5)  # float32 sums of five
    np.testing.assert_array_equal(result.confusion, confusion)
    assert result.confusion.dtype == np.int64
    for i, name in enumerate(batches.records.class_names):
        of_class = ranks[labels == i] == 0
        assert result.per_class[name] == pytest.approx(of_class.mean() if of_class.size else math.nan, nan_ok=True)
    assert math.isnan(result.per_class[batches.records.class_names[-1]])
    assert told == [5, 5, 5, 5, 3]
    assert result.skipped == {}
    if classes <= 5:
        assert result.top5 == 1


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_of_probabilities_it_is_the_same(tmp_path, classes):
    batches, logits = data(tmp_path, classes), random_logits(classes)
    expected, labels = evaluate(LookUp(logits), batches), batches.records.labels
    found = Evaluation.of(tf.nn.softmax(logits).numpy(), labels, batches.records.class_names)
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert (found.top5_correct, found.class_names, found.skipped) == (expected.top5_correct, expected.class_names, {})
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)  # float32
    none = Evaluation.of(np.zeros([0, 3]), labels[:0], "abc", {"x": "is gone"})
    assert (none.count, none.loss, none.skipped) == (0, 0, {"x": "is gone"})
    assert math.isfinite(Evaluation.of(np.array([[0.0, 1.0]]), np.array([0]), "ab").loss)


def test_it_is_json(tmp_path):
    batches = data(tmp_path, 3)
    result = evaluate(LookUp(random_logits(3)), batches)
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert found == {
        "count": COUNT,
        "loss": result.loss,
        "top1": result.top1,
        "top5": 1.0,
        "per_class": {name: result.per_class[name] for name in ("class a", "class b")},
        "classes": ["class a", "class b", "class c"],
        "confusion": result.confusion.tolist(),
        "skipped": {},
    }


def test_it_prints(tmp_path):
    batches = data(tmp_path, 3)
    (labels := batches.records.labels)[:] = 0
    labels[:3] = 1
    logits = np.eye(3)[labels]
    logits[0] = [0, 0, 1]
    lines = str(evaluate(LookUp(logits), batches)).splitlines()
    assert lines[0].startswith(f"23 pictures: top-1 {22 / 23:.2%}, top-5 100.00%, loss ")
    assert " ".join(lines[1].split()) == "class a 100.00% of 20"
    assert " ".join(lines[2].split()) == "class b 66.67% of 3 most often taken for class c"
    assert [line.split()[-3:] for line in lines[5:]] == [["20", "0", "0"], ["0", "2", "1"], ["0", "0", "0"]]
    many = str(evaluate(LookUp(random_logits(13)), data(tmp_path, 13)))
    assert "confusion" not in many


def test_skipped_pictures_are_listed_and_not_counted(tmp_path):
    batches, logits = data(tmp_path, 3, on_error="skip"), random_logits(3)
    gone, cut = (Path(batches.records.paths[i]) for i in (4, 22))
    gone.unlink()
    cut.write_bytes(b"")
    result = evaluate(LookUp(logits), batches)
    left = np.delete(np.arange(COUNT), [4, 22])
    assert result.count == COUNT - 2
    assert result.top1 == pytest.approx((logits.argmax(1) == batches.records.labels)[left].mean())
    assert list(result.skipped) == [str(gone), str(cut)]
    assert result.skipped[str(gone)] == "there is no such file"
    assert str(result).splitlines()[-2] == f"not read: {gone} (there is no such file)"
    assert result.to_json()["skipped"] == result.skipped


def test_no_picture_can_be_read(tmp_path):
    batches = data(tmp_path, 3, on_error="skip")
    for path in batches.records.paths:
        Path(path).write_bytes(b"")
    result = evaluate(LookUp(random_logits(3)), batches)
    assert (result.count, result.top1, result.top5, result.loss) == (0, 0, 0, 0)
    assert str(result).startswith("0 pictures")
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["per_class"] == {}


@pytest.mark.parametrize(("classes", "top"), [(2, 5), (7, 5), (7, 100)])
def test_predictions(tmp_path, classes, top):
    """In the order of the pictures; the likeliest classes first, with their shares."""
    batches, logits = data(tmp_path, classes), random_logits(classes)
    names = [f"name {i}" for i in range(classes)]
    found = list(predict(LookUp(logits), batches, names, top))
    assert [prediction.path for prediction in found] == list(batches.records.paths)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    for prediction, share in zip(found, p, strict=True):
        likeliest = np.argsort(-share)[:top]
        assert prediction.classes == tuple(names[i] for i in likeliest)
        assert prediction.probabilities == pytest.approx(share[likeliest], rel=1e-5)  # float32
        assert all(type(x) is float for x in prediction.probabilities)


@pytest.mark.parametrize("steep", [0.01, 0.1])  # a little of each class, and nearly one class only
def test_ten_crops_by_hand(tmp_path, steep):
    """Shares averaged over the corners and the middle of 4 × 4 pixels, and over the same mirrored."""

    class FirstRow(tf.Module):
        input_shape = (2, 2, 3)

        def __call__(self, x, *, train=False):
            return steep * tf.stack([x[:, 0, 0, 0], x[:, 0, 1, 0], x[:, 1, 0, 0]], 1)

    images = np.random.default_rng(0).integers(0, 256, [7, 4, 4, 1], np.uint8)
    labels = (np.arange(7) % 3).astype(np.int32)
    records = Records(tuple(f"x#{i}" for i in range(7)), labels, ("a", "b", "c"), "x", images)
    batches = Batches(records, Preprocessing(crop=2, resize=4), 3, ten_crop=True)

    expected = np.zeros([7, 3])
    for image, share in zip(images[..., 0].astype(np.float64), expected, strict=True):
        for top, left in [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]:
            crop = image[top : top + 2, left : left + 2]
            for piece in (crop, crop[:, ::-1]):
                logits = steep * np.array([piece[0, 0], piece[0, 1], piece[1, 0]])
                share += np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum() / 10
    for found, share in zip(predict(TenCropped(FirstRow()), batches, "abc", 3), expected, strict=True):
        np.testing.assert_allclose(found.probabilities, np.sort(share)[::-1], rtol=1e-4, atol=1e-6)
    result = evaluate(TenCropped(FirstRow()), batches)
    assert result.top1 == (expected.argmax(1) == labels).mean()
    assert result.loss == pytest.approx(-np.log(expected[np.arange(7), labels]).mean(), rel=1e-4)
    with pytest.raises(ValueError, match="either augmented or shown in ten crops"):
        Batches(records, batches.preprocessing, 3, policy=POLICIES["standard"], ten_crop=True)


def test_predictions_come_as_they_are_made(tmp_path):
    batches = data(tmp_path, 3)
    predictions = predict(LookUp(random_logits(3)), batches, "abc")
    assert next(predictions).path == batches.records.paths[0]
    batches.on_error = "skip"
    Path(batches.records.paths[1]).unlink()
    kept = [Path(prediction.path).stem for prediction in predict(LookUp(random_logits(3)), batches, "abc")]
    assert kept == [f"{i:02}" for i in range(COUNT) if i != 1]
    assert list(batches.skipped) == [batches.records.paths[1]]

"""Writers of data sets' files, each in its own way and not the package's; and how a damaged one is answered."""

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.train import data


def error_of(call: Callable, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + b"".join(struct.pack("B", value) for value in array.reshape(-1).tolist())


def mnist(folder: Path, pictures: np.ndarray, labels: np.ndarray, part: str = "train", zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{part}-images-idx3-ubyte", pictures), (f"{part}-labels-idx1-ubyte", labels)):
        content = gzip.compress(idx(array)) if zipped else idx(array)
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(content)
    return folder


def pictures(seed: int, count: int = 12, height: int = 5, width: int = 4, channels: int = 0) -> np.ndarray:
    shape = [count, height, width, channels] if channels else [count, height, width]
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def cifar_rows(images: np.ndarray) -> np.ndarray:
    """[N, 32, 32, 3] as rows of all red, then green, then blue, value by value."""
    rows = np.zeros([len(images), 3072], np.uint8)
    for n, image in enumerate(images):
        rows[n] = [image[y, x, c] for c in range(3) for y in range(32) for x in range(32)]
    return rows


def cifar10(folder: Path, images: np.ndarray, labels: list[int], batch: str = "data_batch_1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        b"batch_label": b"one",
        b"labels": labels,
        b"data": cifar_rows(images),
        b"filenames": [b"x.png"] * len(labels),
    }
    (folder / batch).write_bytes(pickle.dumps(content, protocol=2))
    names = {b"label_names": [f"class {i}".encode() for i in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


def example(**features: object) -> bytes:
    """A serialised Example; `_` in a name stands for /."""

    def feature(value: object) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if isinstance(value, float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    named = {name.replace("_", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString(deterministic=True)


def shard(path: Path, examples: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in examples:
            writer.write(content)
    return path


def png(seed: int) -> bytes:
    return tf.io.encode_png(pictures(seed, 1, channels=3)[0]).numpy()


def assert_refused_or_read(path: Path, source: str, damages: int, seed: int = 0) -> None:
    """Damages of one file: cut short, or some bits turned over. Each is read as what it says, or refused in a line."""
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    refused = 0
    for i in range(damages):
        content = bytearray(whole)
        if i % 3 == 0:
            del content[int(rng.integers(len(whole))) :]
        else:
            # Half of them near the start, where what matters is.
            for at in rng.integers(min(len(whole), 60) if i % 2 else len(whole), size=1 + i % 4):
                content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            records = data.read(source)
        except UserError as error:
            refused += 1
            message = str(error)
            assert "\n" not in message
            assert path.name in message or str(path.parent) in message, message
        else:
            assert len(records.labels) == len(records.paths)
            assert 0 <= records.labels.min() <= records.labels.max() < records.num_classes
    path.write_bytes(whole)
    assert refused > damages // 4

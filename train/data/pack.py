"""Writes a data set as shards of tf.train.Example, under slim's names of the features."""

import os
import re

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from barenets import UserError
from barenets.train.data import tfrecords
from barenets.train.data.place import exists
from barenets.train.data.table import Records, write_names
from barenets.weights import files

_NAME = r"\w[\w.-]*"
_MOST_SHARDS = 99_999  # their numbers have five digits
_FORMATS = {b"\xff\xd8\xff": b"jpeg", b"\x89PNG": b"png", b"GIF8": b"gif", b"BM": b"bmp", b"RIFF": b"webp"}


def pack(records: Records, folder: str, name: str, shards: int = 1, seed: int | None = None) -> list[str]:
    """Writes FOLDER/NAME-00000-of-0000N, and `labels.txt` beside them with all class names; returns the paths.

    Files are copied byte for byte, pixels become PNGs. The order is that of `records`, or one drawn by `seed`. Reading
    FOLDER:NAME gives the same labels, names and pictures. Each file is there whole or not at all, `labels.txt` first;
    no more than one picture is in memory. Raises UserError if a picture or the folder cannot be read or written, for
    a name that is not made of letters, digits and `_.-`, and if there are shards of that name already.
    """
    if not 1 <= shards <= min(max(len(records), 1), _MOST_SHARDS):
        raise UserError(
            f"{shards} shards of {len(records):,} pictures: give each at least one, of {_MOST_SHARDS:,} at most"
        )
    if not len(records):
        raise UserError(f"{records.source}: has no pictures to pack")
    if not re.fullmatch(_NAME, name):
        raise UserError(f"{name!r}: is no name for a set of shards; give one of letters, digits and _ . - with --name")
    if exists(folder) and not tf.io.gfile.isdir(folder):
        raise UserError(f"{folder}: is a file, not a folder; choose another for the shards")
    present = [file for file in tf.io.gfile.listdir(folder) if file.startswith(f"{name}-")] if exists(folder) else []
    if present:
        raise UserError(f"{os.path.join(folder, present[0])}: is there already; remove all of its set, or name another")
    order = np.arange(len(records)) if seed is None else np.random.default_rng(seed).permutation(len(records))
    write_names(folder, records.class_names)
    paths = [os.path.join(folder, f"{name}-{i:05}-of-{shards:05}") for i in range(shards)]
    # disable=None: unless stderr is a terminal.
    with tqdm(desc=name, total=len(records), unit=" pictures", disable=None) as bar:
        for path, part in zip(paths, np.array_split(order, shards), strict=True):
            with files.replacing(path) as file:
                for index in part.tolist():
                    file.write(tfrecords.framed(_example(records, index)))
                    bar.update()
    return paths


def _example(records: Records, index: int) -> bytes:
    path, label = records.paths[index], int(records.labels[index])
    try:
        content = records.content(index)
    except tf.errors.OpError as error:
        raise UserError(
            f"{path}: cannot be read ({error.message.splitlines()[0]}); `barenets data check` finds all such"
        ) from None
    if not content:
        raise UserError(f"{path}: the file is empty; `barenets data check` finds all such")
    kind = next((kind for magic, kind in _FORMATS.items() if content.startswith(magic)), b"")
    features = {
        "image/encoded": _bytes(content),
        "image/format": _bytes(kind),
        "image/filename": _bytes(os.path.basename(path).encode()),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": _bytes(records.class_names[label].encode()),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True))


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

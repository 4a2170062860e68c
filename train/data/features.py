"""The maps that a frozen base gives for a data set, kept on disk: bottleneck features.

    features = compute(base, Batches(records, preprocessing, 32), "runs/features")
    batches = FeatureBatches(features, records, 32, Shuffled(seed))

    runs/features/00000.npy, ...   float32 [rows, *map], some 16 MB each
    runs/features/features.json    what they were made from, and the checksum of each

A base that does not train gives the same map for the same picture in each epoch, so without augmentation it needs to
be run once. Which record a row belongs to is written down, not counted, and before a row is used its list, the
labels, the network and the preprocessing are compared with those that made it: labels cannot slip.
"""

import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from isal.isal_zlib import crc32

from barenets import UserError
from barenets.ops.module import named_variables
from barenets.train.data import augment
from barenets.train.data.pipeline import Batch, Batches
from barenets.train.data.samplers import InOrder, Sampler
from barenets.train.data.table import Records
from barenets.weights import files

INDEX = "features.json"
SHARD_BYTES = 1 << 24
"""About what a shard has. Who is killed loses what is not yet in one: some 40 s of VGG16 on two cores."""
_KEPT = {"shape", "position", "missing", "skipped", "shards"}
"""What the index has besides what the features were made from."""


class Features:
    """The maps of `records` in `folder`, as far as they are computed. Local files are mapped, so any size works."""

    def __init__(self, folder: str, records: Records, index: dict[str, Any]) -> None:
        """`index` is the content of features.json. Raises UserError for a shard that is not as it was written."""
        self.folder, self.records = folder, records
        self.shape: tuple[int, ...] = tuple(index["shape"])
        """Of one map."""
        self.skipped: dict[str, str] = dict(index["skipped"])
        """Path -> reason, of the pictures that could not be read, and of which there is no map."""
        self._shards = [_shard(folder, i, self.shape, **shard) for i, shard in enumerate(index["shards"])]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self._has = np.arange(len(records)) < index["position"]
        self._has[index["missing"]] = False
        self._row = np.cumsum(self._has) - 1

    def has(self, indices: np.ndarray) -> np.ndarray:
        """bool [N], whether there are maps of these records."""
        found: np.ndarray = self._has[indices]
        return found

    def maps(self, indices: np.ndarray) -> np.ndarray:
        """float32 [N, *shape], of the records `indices`. Raises ValueError for one of which there is none."""
        if not self.has(indices).all():
            raise ValueError(f"{self.folder} has no features of the records {indices[~self.has(indices)]}")
        maps = np.empty((len(indices), *self.shape), np.float32)
        rows = self._row[indices]
        shards = np.searchsorted(self._ends, rows, side="right")
        for i in np.unique(shards):
            chosen = shards == i
            maps[chosen] = self._shards[i][rows[chosen] - self._ends[i]]  # from the shard's end, below 0
        return maps


def compute(
    base: Any, batches: Batches, folder: str, progress: Callable[[int], None] = lambda pictures: None
) -> Features:
    """What `base` gives, not in training, for each picture of `batches`, from `folder` as far as it is there already.

    Work that was killed goes on after its last whole shard and ends in the same bytes. `progress` is told how many
    pictures there are maps of already, and how many each batch adds. Pictures that cannot be read are left out if
    `batches` says so. All of a folder is read, for its checksums; the content of the pictures' files is not compared,
    only their names, order and sizes.

    Raises ValueError for batches in another order than that of the records, and with random steps; UserError if the
    folder holds features that were made from something else, or damaged ones.
    """
    if not isinstance(batches.sampler, InOrder) or batches.ten_crop or any(step.draws for step in batches.policy):
        raise ValueError("features are computed of one crop of each picture, in order, by a policy that draws nothing")
    records = batches.records
    run = tf.function(
        lambda images: base(images),
        input_signature=[tf.TensorSpec([None, *[batches.preprocessing.crop] * 2, 3], tf.float32)],
        autograph=False,
    )
    made = {**_of_records(records), **_of_maker(base, batches)}
    index = _read(folder, made)
    if index is None:
        shape = run.get_concrete_function().output_shapes[1:].as_list()
        index = {**made, "shape": shape, "position": 0, "missing": [], "skipped": {}, "shards": []}
    if index["missing"] and batches.on_error != "skip":
        raise UserError(
            f"{folder}: lacks {len(index['missing'])} pictures that could not be read, {next(iter(index['skipped']))} "
            "first; go on without them with --on-error skip, or mend them and remove the folder"
        )
    Features(folder, records, index)  # before anything is added: are its shards whole?
    progress(index["position"])

    def computed() -> Iterator[tuple[np.ndarray, Batch]]:
        for batch in batches.epoch(0, index["position"]):
            maps = run(batch.images).numpy()
            progress(len(batch.indices))
            yield maps, batch

    # Shards are whole batches: who goes on forms the batches that would have come, and they give the same bits.
    each = max(1, SHARD_BYTES // (4 * math.prod(index["shape"]) * batches.batch_size))
    rest = computed()
    while index["position"] < len(records):
        part = list(itertools.islice(rest, each))
        end = part[-1][1].position if len(part) == each else len(records)
        there = {int(i) for _, batch in part for i in batch.indices}
        index["missing"] += sorted(set(range(index["position"], end)) - there)
        index["skipped"] |= batches.skipped
        if part:
            maps = np.concatenate([maps for maps, _ in part])
            index["shards"].append({"rows": len(maps), "crc32": _write_shard(folder, len(index["shards"]), maps)})
        index["position"] = end
        with files.replacing(os.path.join(folder, INDEX)) as file:
            file.write(json.dumps(index).encode())
    return Features(folder, records, index)


@dataclass
class FeatureBatches:
    """What `Batches` are to pictures, to their features: same order, same positions, the maps for images.

    What trains on pictures trains on these. Records of which there are no features are left out. Raises UserError if
    the features are not those of `records`.
    """

    features: Features
    records: Records
    batch_size: int
    sampler: Sampler = field(default_factory=InOrder)

    def __post_init__(self) -> None:
        if self.records is not self.features.records:
            _compare(self.features.folder, _of_records(self.features.records), _of_records(self.records))

    @property
    def skipped(self) -> dict[str, str]:
        """Path -> reason, of the pictures that are left out."""
        return self.features.skipped

    def order(self, epoch: int) -> np.ndarray:
        """int32, the indices of the records in the order of this epoch."""
        return self.sampler.order(self.records.labels, epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position `start` of its order on; the next is read while one is used."""
        order = self.order(epoch)
        places = start + np.flatnonzero(self.features.has(order[start:]))

        def batch(places: np.ndarray) -> Batch:
            indices = order[places]
            maps, labels = self.features.maps(indices), self.records.labels[indices]
            return Batch(tf.convert_to_tensor(maps), tf.convert_to_tensor(labels), indices, int(places[-1]) + 1)

        with ThreadPoolExecutor(1) as pool:
            parts = (places[i : i + self.batch_size] for i in range(0, len(places), self.batch_size))
            coming = [pool.submit(batch, part) for part in itertools.islice(parts, 1)]
            while coming:
                ready = coming.pop()
                coming += [pool.submit(batch, part) for part in itertools.islice(parts, 1)]
                yield ready.result()


# The folder


def _read(folder: str, made: dict[str, Any]) -> dict[str, Any] | None:
    """The index in `folder`, None if there is none. Raises UserError if it is not of features `made` so."""
    path = os.path.join(folder, INDEX)
    if not tf.io.gfile.exists(path):
        return None
    try:
        index = json.loads(bytes(files.view(path)))
    except ValueError:
        index = None
    if not isinstance(index, dict) or set(index) != {*made, *_KEPT}:
        raise UserError(f"{path}: is damaged, or another version wrote it; {_remove(folder)}")
    _compare(folder, index, made)
    return index


def _shard(folder: str, number: int, shape: tuple[int, ...], *, rows: int, crc32: int) -> np.ndarray:
    """float32 [rows, *shape]. Raises UserError if the file is not there or not as it was written."""
    path = _path(folder, number)
    try:
        data = files.view(path)
    except UserError as error:
        raise UserError(f"{error}; {_remove(folder)}") from None
    if _crc(data) != crc32:
        raise UserError(f"{path}: is damaged, its checksum is wrong; {_remove(folder)}")
    size = 4 * rows * math.prod(shape)
    return files.numbers(data[len(data) - size :], np.float32, (rows, *shape))


def _write_shard(folder: str, number: int, maps: np.ndarray) -> int:
    """Writes a shard, whole or not at all; returns its checksum."""
    file = io.BytesIO()
    np.save(file, maps)
    with files.replacing(_path(folder, number)) as target:
        target.write(file.getbuffer())
    return _crc(file.getbuffer())


def _path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:05d}.npy")


def _crc(data: Any, before: int = 0) -> int:
    return int(crc32(data, before))


# What features are made from


def _of_records(records: Records) -> dict[str, Any]:
    return {
        "source": records.source,
        "count": len(records),
        "class_names": list(records.class_names),
        "labels": records.labels.tolist(),
        "fingerprint": records.fingerprint,
        "sizes": _sizes(records),
    }


def _sizes(records: Records) -> int:
    """Of the sizes of the pictures' files: train/1.jpg and val/1.jpg have one name, and one fingerprint."""

    def size(path: str) -> int:
        try:
            return int(tf.io.gfile.stat(path).length)
        except tf.errors.OpError:
            return -1

    alone = records.pixels is None and records.spans is None
    return _crc(np.array([size(path) for path in records.paths] if alone else [], np.int64))


def _of_maker(base: Any, batches: Batches) -> dict[str, Any]:
    crc = 0
    for name, variable in named_variables(base).items():
        value = np.ascontiguousarray(variable.numpy())
        crc = _crc(value.data, _crc(f"{name} {value.shape} {value.dtype}".encode(), crc))
    return {
        # Variants of a network may have the same variables.
        "base": f"{type(base).__name__} {getattr(base, 'variant', '')}".strip(),
        "variables": crc,
        "preprocessing": {**batches.preprocessing.to_json(), "policy": augment.text(batches.policy)},
    }


def _compare(folder: str, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError that says what differs, if what features `was` made from is not what there is `now`."""

    def first(old: list[Any], new: list[Any]) -> int:
        return next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)

    def classes(old: list[str], new: list[str]) -> str:
        if len(old) != len(new):
            return f"for {len(old)} classes, not for the {len(new)} of {now['source']}"
        i = first(old, new)
        return f"whose class {i} is {old[i]!r}, and not {new[i]!r} as in {now['source']}"

    def label(old: list[int], new: list[int]) -> str:
        i, names = first(old, new), now["class_names"]
        return f"for other labels: picture {i} of {now['source']} was {names[old[i]]!r} and is {names[new[i]]!r}"

    def prepared(old: dict[str, Any], new: dict[str, Any]) -> str:
        key = next(key for key in new if old.get(key) != new[key])
        return f"of pictures prepared otherwise: {key} {old.get(key)}, not {new[key]}"

    others = f"of other pictures than {now.get('source')} has: their names, order or sizes differ"
    says: dict[str, Callable[[Any, Any], str]] = {
        "count": lambda old, new: f"of the {old} pictures of {was['source']}, not of the {new} of {now['source']}",
        "class_names": classes,
        "labels": label,
        "fingerprint": lambda old, new: others,
        "sizes": lambda old, new: others,
        "base": lambda old, new: f"of {old}, not of {new}",
        "variables": lambda old, new: f"of {now['base']} with other weights",
        "preprocessing": prepared,
    }
    now = json.loads(json.dumps(now))  # tuples become lists, as they were written
    for key, say in says.items():
        if key in now and was[key] != now[key]:
            raise UserError(f"{folder}: holds features {say(was[key], now[key])}; {_remove(folder)}")


def _remove(folder: str) -> str:
    return f"remove {folder}, or choose another folder"

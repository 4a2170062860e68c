"""CIFAR-10 and CIFAR-100 (cs.toronto.edu/~kriz/cifar.html), their Python and their binary form.

    data_batch_1 ... data_batch_5, test_batch, batches.meta            CIFAR-10, pickles of a dict
    train, test, meta                                                  CIFAR-100, the same
    data_batch_1.bin ... test_batch.bin, batches.meta.txt              CIFAR-10: label, 3072 bytes; and so on
    train.bin, test.bin, fine_label_names.txt, coarse_label_names.txt  CIFAR-100: coarse label, fine label, 3072 bytes

in a folder, or in the archive as it was downloaded. A picture's bytes are all of its red, then green, then blue.
Pickles are read by the restricted unpickler: no code from them runs.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.train.data.place import Place, entries, exists, numbered
from barenets.train.data.table import Records, closed
from barenets.weights import files, pickles

_PARTS = {
    "train": re.compile(r"(data_batch_\d+|train)(\.bin)?"),
    "test": re.compile(r"(test_batch|test)(\.bin)?"),
}
_META = ("batches.meta", "meta", "batches.meta.txt", "fine_label_names.txt")
_COARSE = "coarse_label_names.txt"
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
_SIDE = 32
_LARGEST = 1 << 28  # bytes that are unpacked of an archive; CIFAR-100 has 186 million

_Open = Callable[[], memoryview]


def fits(place: Place) -> bool:
    """Whether CIFAR's files lie there, as binaries, as pickles or packed."""
    if place.names is not None:
        return _is_set(place) or bool(_inner(place))
    name = os.path.basename(place.path)
    return place.head[:1] == b"\x80" or _is_archive(name) or (_part(name) is not None and name.endswith(".bin"))


def _is_set(place: Place) -> bool:
    return any(place.files(_part)) and any(place.files(_META.__contains__))


def _inner(place: Place) -> list[str]:
    """The folders as they come out of the archives."""
    return [name for name in place.names or () if name in _FOLDERS and tf.io.gfile.isdir(place.child(name))]


def _part(name: str) -> str | None:
    """Which part a batch belongs to; None if it is no batch by its name."""
    return next((part for part, pattern in _PARTS.items() if pattern.fullmatch(name)), None)


def _is_meta(name: str) -> bool:
    return name in (*_META, _COARSE)


def _is_archive(name: str) -> bool:
    return bool(re.fullmatch(r"cifar-100?-(python|binary)\.tar(\.gz)?", name))


def read(place: Place) -> Records:
    """The part of a folder or archive that is named, or the batch at `place`; with fine labels unless `coarse` is."""
    coarse = place.words[-1:] == ("coarse",)
    words = place.words[:-1] if coarse else place.words
    plain = replace(place, words=words)
    archive = place.names is None and _is_archive(os.path.basename(place.path))
    if place.names is None and not archive:
        plain.whole()
        folder, name = os.path.split(place.path)
        members: dict[str, _Open] = {meta: _opener(os.path.join(folder, meta)) for meta in _all_meta(folder)}
        batches = {name: _opener(place.path)}
    else:
        folder, members = _members(plain)
        parts = {part: _batches(members, part) for part in _PARTS}
        batches = plain.choose({part: found for part, found in parts.items() if found})

    read_batches = [_batch(os.path.join(folder, name), content(), members, coarse) for name, content in batches.items()]
    pixels = np.empty((sum(len(rows) for rows, _ in read_batches), _SIDE, _SIDE, 3), np.uint8)
    paths: tuple[str, ...] = ()
    start = 0
    for name, (rows, _) in zip(batches, read_batches, strict=True):
        # One copy, from all of red, green and blue to pixel by pixel.
        pixels[start : start + len(rows)] = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        paths += numbered(os.path.join(folder, name), len(rows))
        start += len(rows)
    if archive:  # whose members cannot be read one by one
        paths = numbered(":".join((place.path, *words)), start)
    numbers = np.concatenate([labels for _, labels in read_batches])
    names = _names(folder, members, coarse, next(iter(batches)))
    if names is None:
        return Records(paths, *closed(numbers.tolist(), paths.__getitem__), place.source, pixels)
    for i in np.flatnonzero((numbers < 0) | (numbers >= len(names)))[:1]:
        raise UserError(f"{paths[i]}: label {numbers[i]} is none of the {len(names)} classes; is the file damaged?")
    return Records(paths, numbers.astype(np.int32), names, place.source, pixels)


def _batches(members: Mapping[str, _Open], part: str) -> dict[str, _Open]:
    names = [name for name in sorted(members) if _part(name) == part]
    pickled = [name for name in names if not name.endswith(".bin")]  # where both forms are, they are the same pictures
    return {name: members[name] for name in pickled or names}


def _opener(path: str) -> _Open:
    return lambda: files.view(path)


def _all_meta(folder: str) -> list[str]:
    return [meta for meta in (*_META, _COARSE) if exists(os.path.join(folder, meta))]


def _members(place: Place) -> tuple[str, dict[str, _Open]]:
    """The folder that has the batches, in an archive or not, and name -> opens it."""
    if place.names is None:
        return place.path, _unpacked(place)
    if not _is_set(place):
        inner = _inner(place)
        if len(inner) > 1:
            raise UserError(f"{place.source}: has several sets; name one: {', '.join(map(place.child, inner))}")
        folder = place.child(inner[0])
        place = replace(place, path=folder, names=entries(folder))
    names = place.files(lambda name: _is_meta(name) or _part(name))
    return place.path, {name: _opener(place.child(name)) for name in names}


def _unpacked(place: Place) -> dict[str, _Open]:
    """What a .tar or .tar.gz has, in memory: the names of classes, and the part that is named, or all parts."""
    path = place.path
    found: dict[str, _Open] = {}
    try:
        with files.opened(path) as file:
            for member, pieces in files.untarred(file, _LARGEST):
                name = os.path.basename(member)
                part = _part(name)
                if not (_is_meta(name) or part):
                    continue
                # Of a part that is not asked for only the name counts.
                wanted = not (part and place.words) or part in place.words
                content = memoryview(b"".join(pieces()) if wanted else b"")
                found[name] = lambda content=content: content  # type: ignore[misc]
    except UserError:
        raise
    except Exception as error:  # a damaged archive can be any nonsense
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: cannot be unpacked ({reason}); is it complete?") from None
    return found


def _batch(path: str, content: memoryview, members: Mapping[str, Any], coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pixels, uint8 [N, 3072], and labels, int64 [N]."""
    if path.endswith(".bin"):
        hundred = os.path.basename(path) in ("train.bin", "test.bin")
        before = 2 if hundred else 1
        size = before + 3 * _SIDE**2
        if coarse and not hundred:
            raise UserError(f"{path}: has no coarse labels; leave out :coarse")
        if not len(content) or len(content) % size:
            raise UserError(f"{path}: {len(content):,} bytes are not rows of {size:,}; is the file complete?")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        return rows[:, before:], rows[:, 0 if coarse else before - 1].astype(np.int64)

    content_of = _dict(path, content)
    key = "coarse_labels" if coarse else "fine_labels" if "fine_labels" in content_of else "labels"
    if "data" not in content_of or key not in content_of:
        raise UserError(f"{path}: has no data or no {key}; it is no batch of CIFAR's, or not of this kind")
    data, labels = getattr(content_of["data"], "value", None), content_of[key]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _SIDE**2:
        raise UserError(f"{path}: its data are not rows of 3,072 bytes; is it a batch of CIFAR's?")
    labels = getattr(labels, "value", labels)
    if not isinstance(labels, (list, np.ndarray)) or len(labels) != len(data) or not len(data):
        raise UserError(f"{path}: does not have a label for each of its {len(data):,} pictures")
    if not all(isinstance(label, (int, np.integer)) and 0 <= label < 1 << 31 for label in labels):
        raise UserError(f"{path}: has labels that are no class numbers; is the file damaged?")
    return data, np.array(labels, np.int64)


def _dict(path: str, content: memoryview) -> dict[str, Any]:
    """A pickled dict; its keys are bytes from Python 2, text from Python 3."""

    def refuse(reason: str) -> UserError:
        return UserError(f"{path}: cannot be read: {reason}")

    loaded = pickles.loads(content, refuse)
    if not isinstance(loaded, dict):
        raise refuse("it is no dict, as a batch of CIFAR's is")
    return {_text(key): value for key, value in loaded.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _names(folder: str, members: Mapping[str, _Open], coarse: bool, batch: str) -> tuple[str, ...] | None:
    """The classes, from what lies beside the batches; None where nothing does."""
    key = "coarse_label_names" if coarse else "fine_label_names"
    if batch.endswith(".bin"):
        hundred = batch in ("train.bin", "test.bin")
        meta = f"{key}.txt" if hundred else "batches.meta.txt"
        if meta not in members:
            return None
        lines = bytes(members[meta]()).decode("utf-8", "backslashreplace").split("\n")
        return tuple(line.strip() for line in lines if line.strip())
    meta = "meta" if batch in ("train", "test") else "batches.meta"
    if meta not in members:
        return None
    content = _dict(os.path.join(folder, meta), members[meta]())
    names = content.get("label_names" if meta == "batches.meta" else key)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise UserError(f"{os.path.join(folder, meta)}: has no names of classes")
    return tuple(map(_text, names))

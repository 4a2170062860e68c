"""The table that a data set of any form is read into, and how its classes agree with those of a run."""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.weights import catalog, files

_NUMBER = re.compile(r"[+-]?[0-9]+")
_SYNSET = re.compile(r"n[0-9]{8}")
# A number beyond this is an identifier or a date, not a class.
_MOST_CLASSES = 100_000
_MOST_NAMES = 900_000  # bytes; a checkpoint's state may have them twice, and 2 MiB of it are read
_MOST_DIGITS = 9  # with which int() and int64 are safe
_NAMES = "labels.txt"


@dataclass(frozen=True, eq=False)
class Records:
    """Pictures and their classes, in the order of `source`; no picture has been decoded yet.

    A picture is a file of its own, or a row of `pixels`, or bytes within a file: `spans`. Only `pixels` are in memory,
    and of an unpacked idx file not even these: they are mapped. Of other pictures memory has the places.
    """

    paths: tuple[str, ...]
    """The pictures' files; with `pixels` FILE#INDEX, a name for messages; with `spans` the shards."""
    labels: np.ndarray
    """int32 [N], indices into `class_names`."""
    class_names: tuple[str, ...]
    source: str
    """What this was read from."""
    pixels: np.ndarray | None = None
    """uint8 [N, H, W, 1 or 3], of sets that keep their pictures decoded (MNIST, CIFAR, .npz)."""
    spans: np.ndarray | None = None
    """int64 [N, 2], offset and length of each encoded picture's bytes within its file."""

    def __post_init__(self) -> None:
        for name in self.class_names:
            if not name.isprintable():
                raise UserError(f"{self.source}: the class {name!r:.99} has a name that cannot be shown; rename it")
        if (size := len(json.dumps(self.class_names))) > _MOST_NAMES:
            raise UserError(
                f"{self.source}: the names of its {self.num_classes:,} classes take {size:,} bytes as JSON, and "
                f"checkpoints have room for {_MOST_NAMES:,}; shorten them"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        """How many classes have a name."""
        return len(self.class_names)

    @property
    def empty_classes(self) -> list[str]:
        """The names of the classes that have no pictures."""
        counts = np.bincount(self.labels, minlength=self.num_classes)
        return [name for name, count in zip(self.class_names, counts, strict=True) if not count]

    @cached_property
    def fingerprint(self) -> int:
        """Of the pictures' names, order and labels, wherever the data lies: tells whether a data set has changed.

        Pixels, and places within files, count too; the content of files does not.
        """
        names = "\n".join(os.path.basename(path) for path in self.paths)
        crc = zlib.crc32(self.labels.tobytes(), zlib.crc32(names.encode()))
        for more in (self.pixels, self.spans):
            crc = crc if more is None else zlib.crc32(np.ascontiguousarray(more).data, crc)
        return crc

    def subset(self, indices: Iterable[int]) -> "Records":
        """The records at `indices`, in that order, with the same classes."""
        chosen = np.fromiter(indices, np.int64)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            labels=self.labels[chosen],
            pixels=None if self.pixels is None else self.pixels[chosen],
            spans=None if self.spans is None else self.spans[chosen],
        )

    def split(self, fractions: Sequence[float], seed: int = 0) -> tuple["Records", ...]:
        """Parts with these fractions of each class, drawn by `seed`; every record is in exactly one, in its old order.

        A class with as many pictures as there are parts has at least one in each. Raises UserError for
        fractions that are not positive or do not add up to 1.
        """
        shares = np.array(fractions, np.float64)
        if len(shares) < 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise UserError(f"fractions {' '.join(map(str, fractions))}: must be positive and add up to 1, as 0.9 0.1")
        part = np.empty(len(self), np.int64)
        for label in range(self.num_classes):
            members = np.flatnonzero(self.labels == label)
            drawn = np.random.default_rng([seed, label]).permutation(members)
            part[drawn] = np.repeat(np.arange(len(shares)), _counts(len(members), shares))
        return tuple(self.subset(np.flatnonzero(part == i)) for i in range(len(shares)))

    def content(self, index: int) -> bytes:
        """The encoded picture: its file's bytes, those within it, or a PNG of the pixels. Raises tf.errors.OpError."""
        if self.pixels is not None:
            return bytes(tf.io.encode_png(self.pixels[index]).numpy())
        with tf.io.gfile.GFile(self.paths[index], "rb") as file:
            if self.spans is None:
                return bytes(file.read())
            offset, length = self.spans[index].tolist()
            file.seek(offset)
            return bytes(file.read(length))


def _counts(members: int, shares: np.ndarray) -> np.ndarray:
    """How many of a class go into each part: rounded by the largest remainders, and none without a picture."""
    exact = members * shares
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: members - counts.sum()]] += 1
    while members >= len(shares) and not counts.all():
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return counts


Where = Callable[[int], str]
"""Index of a record -> where a message should say that its label stands."""


def classes(
    labels: Sequence[str], where: Where, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices (int32) and names of the classes that `labels` are written as.

    Integers are in the order of their numbers, which are their names, whatever is missing between
    them; anything else is in sorted order. Raises UserError for integers that are no class.
    """
    names = set(labels)
    # Folders 1, 10, 2 sort as text: where numbers are class names, a number is not a place among them.
    if all(map(_NUMBER.fullmatch, names)) and (class_names is None or not names <= set(class_names)):
        return closed(whole(labels, where), where)
    order = sorted(names)
    index = {name: i for i, name in enumerate(order)}
    return np.array([index[label] for label in labels], np.int32), tuple(order)


def whole(labels: Sequence[str], where: Where) -> list[int]:
    """The numbers that `labels`, all of digits, are. Raises UserError for one of more digits than any class has."""
    for i, label in enumerate(labels):
        if len(label) > _MOST_DIGITS:
            raise UserError(f"{where(i)}: label {label:.30} is too large; number the classes from 0")
    return [int(label) for label in labels]


def closed(numbers: Sequence[int], where: Where) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `classes`, of numbers: 3, 7, 12 become 0, 1, 2 and keep their numbers as names."""
    for i, number in enumerate(numbers):
        if number < 0:
            raise UserError(f"{where(i)}: label {number} is negative; number the classes from 0")
        if number >= _MOST_CLASSES:
            raise UserError(f"{where(i)}: label {number} is too large; number the classes from 0")
    found, labels = np.unique(np.array(numbers, np.int64), return_inverse=True)
    return labels.astype(np.int32), tuple(map(str, found.tolist()))


def agree(own: Records, class_names: Sequence[str] | None, where: Where | None = None) -> Records:
    """`own` with the classes of a run, None for its own.

    Names must be among them. Numbers are names where those are numbers, too, else indices. Synsets
    find their place among ImageNet's names. Raises UserError for the first label that is no class.
    """
    if class_names is None or tuple(class_names) == own.class_names:
        return own
    wanted = tuple(class_names)
    used, first = np.unique(own.labels, return_index=True)
    names = [own.class_names[i] for i in used]
    numbers = all(map(_NUMBER.fullmatch, names)) and not set(names) <= set(wanted)
    if numbers and not all(map(_NUMBER.fullmatch, wanted)):
        index = {name: int(name) for name in names if len(name) <= _MOST_DIGITS and 0 <= int(name) < len(wanted)}
    elif wanted == catalog.imagenet_classes() and all(map(_SYNSET.fullmatch, names)):
        index = {synset: i for i, synset in enumerate(catalog.imagenet_synsets())}
        numbers = False
    else:
        index, numbers = {name: i for i, name in enumerate(wanted)}, False
    table = np.zeros(own.num_classes, np.int32)
    for old, record, name in sorted(zip(used, first, names, strict=True), key=lambda each: each[1]):
        said = where(record) if where else own.paths[record]
        if name not in index:
            raise UserError(f"{said}: {_beyond(name, wanted) if numbers else _unknown(name, wanted)}")
        if not numbers and wanted.count(name) > 1:
            raise UserError(f"{said}: {wanted.count(name)} classes are called {name!r}; give their indices instead")
        table[old] = index[name]
    return replace(own, labels=table[own.labels], class_names=wanted)


def _unknown(name: str, names: Sequence[str]) -> str:
    return f"{name!r} is not one of the classes {_listed(names)}; use one of these, or train with it"


def _beyond(label: str, names: Sequence[str]) -> str:
    return f"label {label} is beyond the {len(names)} classes, 0 = {_listed(names)}; number them from 0"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ... ({len(names)} in all)"


# Names beside the data


def with_names(own: Records, names: Sequence[str], where: Where) -> Records:
    """`own`, whose labels are numbers, with names of classes 0, 1, ... Raises UserError for a number without one."""
    for i in np.flatnonzero((own.labels < 0) | (own.labels >= len(names)))[:1]:
        raise UserError(f"{where(i)}: label {own.labels[i]} is none of the {len(names)} that the file beside it names")
    return replace(own, labels=own.labels.astype(np.int32), class_names=tuple(names))


def names_beside(path: str) -> tuple[str, ...] | None:
    """The names of classes 0, 1, ... that a file beside `path` gives, or None.

    `labels.txt` has INDEX:NAME lines, as slim and this package write them; `label.labels.txt` a NAME on each,
    as TensorFlow Datasets does. A `labels.txt` of another kind is none of this. Raises UserError for one that cannot
    be read.
    """
    folder = os.path.dirname(path)
    where = os.path.join(folder, _NAMES)
    lines = _text_lines(where)
    if lines and re.match(r"\d+:", lines[0]):
        pairs = [line.partition(":") for line in lines]
        if [index for index, _, _ in pairs] != [str(i) for i in range(len(lines))]:
            raise UserError(f"{where}: must have INDEX:NAME lines that count from 0; mend or remove it")
        return tuple(name for _, _, name in pairs)
    return tuple(_text_lines(os.path.join(folder, "label.labels.txt"))) or None


def write_names(folder: str, names: Sequence[str]) -> None:
    """Writes `labels.txt`. Raises UserError if there is one of other classes."""
    path = os.path.join(folder, _NAMES)
    present = names_beside(path) if _text_lines(path) else tuple(names)
    if present != tuple(names):
        raise UserError(f"{path}: is there already, and names other classes; choose another folder, or remove it")
    with files.replacing(path) as file:
        file.write("".join(f"{i}:{name}\n" for i, name in enumerate(names)).encode())


def _text_lines(path: str) -> list[str]:
    try:
        if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
            return []
        with tf.io.gfile.GFile(path, "rb") as file:
            return [line.rstrip("\r") for line in file.read().decode("utf-8-sig").split("\n") if line.strip()]
    except tf.errors.OpError as error:
        raise UserError(f"{path}: cannot be read ({error.message}); check its permissions, or remove it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; mend or remove it") from None

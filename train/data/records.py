"""Which pictures there are, and of which class: from class folders or from a label list."""

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from barenets import UserError

_NUMBER = re.compile(r"[+-]?[0-9]+")
_PICTURE_NAME = re.compile(r".*\.(jpe?g|png|gif|bmp|webp)", re.IGNORECASE)
# Anything else may be a picture, whatever its extension; that is for the decoder to say.
_OTHER_NAME = re.compile(r".*\.(txt|csv|tsv|json|md|xml|html|ya?ml|ini|log|db)", re.IGNORECASE)
# A number beyond this is an identifier or a date; as a class index it would ask for as many classes.
_MOST_CLASSES = 100_000


@dataclass(frozen=True, eq=False)
class Records:
    """Pictures and their classes, in the order of `source`; nothing has been opened yet."""

    paths: tuple[str, ...]
    labels: np.ndarray
    """int32 [N], indices into `class_names`."""
    class_names: tuple[str, ...]
    source: str
    """The folder or the label list that this was read from."""

    pixels: np.ndarray | None = None
    """uint8 [N, H, W, 1 or 3], decoded pictures of sets that keep them so."""
    spans: np.ndarray | None = None
    """int64 [N, 2], offset and length of each encoded picture's bytes within the file `paths[i]`."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def fingerprint(self) -> int:
        """Of the pictures' names, order and labels, wherever the data lies: tells whether a data set has changed."""
        names = "\n".join(os.path.basename(path) for path in self.paths)
        return zlib.crc32(self.labels.tobytes(), zlib.crc32(names.encode()))

    def subset(self, indices: Iterable[int]) -> "Records":
        """The records at `indices`, in that order, with the same classes."""
        chosen = np.fromiter(indices, np.int64)
        return replace(self, paths=tuple(self.paths[i] for i in chosen), labels=self.labels[chosen])


def read(source: str, class_names: Sequence[str] | None = None) -> Records:
    """The pictures of `source`, which is a folder of class folders or a label list.

    In a folder each sub-folder is a class, in the order of the names, even if it has no pictures. Pictures
    are found at any depth; those outside the sub-folders are left out.

    In a list (UTF-8) each line is `path label`, the label being what follows the last white space; relative
    paths start at the list's folder; blank lines and lines that start with `#` are ignored. Labels that are
    all integers are class indices, 0 to the largest; otherwise they are class names, in sorted order.
    Classes given by index take their names from the folders, if each one's pictures lie in a folder of
    its own (`cat/1.jpg 0`, `dog/1.jpg 1`); otherwise the number is the name.

    `class_names` are the classes of a training run, for a validation set to agree with: names must be
    among them and indices below their count. Integers that all are names there are names.

    Raises UserError, with the file, the line and what to do. Whether the pictures exist is not looked at:
    see `barenets.train.data.doctor`.
    """
    if _is_folder(source):
        return _from_folders(source, class_names)
    return _from_list(source, class_names)


def read_paths(sources: Iterable[str]) -> list[str]:
    """Pictures without labels, from files and folders; in a folder they are found at any depth.

    The order is that of `sources`, sorted within a folder. Raises UserError for what does not exist and
    for a folder without pictures.
    """
    paths: list[str] = []
    for source in sources:
        found = list(_pictures(source)) if _is_folder(source) else [source]
        if not found:
            raise UserError(f"{source}: no pictures in this folder; name a folder or a file that has some")
        paths += found
    if not paths:
        raise UserError("no pictures are given; name files or folders")
    return paths


def _is_folder(source: str) -> bool:
    try:
        if tf.io.gfile.exists(source):
            return bool(tf.io.gfile.isdir(source))
    except tf.errors.OpError as error:  # no such file system, no permission
        raise UserError(f"{source}: {error.message}; check the path") from error
    raise UserError(f"{source}: no such file or folder; check the path")


def _pictures(folder: str) -> Iterator[str]:
    for parent, folders, files in tf.io.gfile.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))  # in place: walk reads it next
        for name in sorted(files):
            if not _is_hidden(name) and not _OTHER_NAME.fullmatch(name):
                yield os.path.join(parent, name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.rstrip("/") == "__MACOSX"  # what a Mac adds to a zip file


def _from_folders(source: str, class_names: Sequence[str] | None) -> Records:
    entries = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(source))  # gs:// gives "cat/"
    folders = {name: os.path.join(source, name) for name in entries if not _is_hidden(name)}
    folders = {name: folder for name, folder in folders.items() if tf.io.gfile.isdir(folder)}
    classes = tuple(folders if class_names is None else class_names)
    index = {name: i for i, name in enumerate(classes)}
    for name, folder in folders.items():
        if name not in index:
            raise UserError(f"{folder}: {_unknown(name, classes)}")

    found = [(path, index[name]) for name, folder in folders.items() for path in _pictures(folder)]
    if not found:
        raise UserError(f"{source}: no pictures in class folders; give each class a sub-folder of pictures")
    paths, labels = zip(*found, strict=True)
    return Records(paths, np.array(labels, np.int32), classes, source)


def _from_list(source: str, class_names: Sequence[str] | None) -> Records:
    lines, paths, labels = zip(*_lines(source), strict=True)
    names = set(labels)
    # Folders 1, 10, 2 sort as text: where numbers are class names, a number is not a place among them.
    if all(map(_NUMBER.fullmatch, names)) and (class_names is None or not names <= set(class_names)):
        indices = [int(label) for label in labels]
        most = _MOST_CLASSES if class_names is None else len(class_names)
        for line, label in zip(lines, indices, strict=True):
            if not 0 <= label < most:
                raise UserError(f"{source} line {line}: {_out_of_range(label, class_names)}")
        classes = _folder_names(paths, indices) if class_names is None else tuple(class_names)
    else:
        classes = tuple(sorted(names) if class_names is None else class_names)
        index = {name: i for i, name in enumerate(classes)}
        for line, name in zip(lines, labels, strict=True):
            if name not in index:
                raise UserError(f"{source} line {line}: {_unknown(name, classes)}")
        indices = [index[name] for name in labels]
    return Records(paths, np.array(indices, np.int32), classes, source)


def _lines(source: str) -> list[tuple[int, str, str]]:
    """The line number, the path and the label of each picture of a list."""
    try:
        with tf.io.gfile.GFile(source, "rb") as file:
            text = file.read().decode("utf-8-sig")  # Windows editors put a byte-order mark first
    except tf.errors.OpError as error:
        raise UserError(f"{source}: cannot be read ({error.message}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text; give a folder or a list of `path label` lines") from error

    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        # From the right, since paths have spaces; so "my cat.jpg" alone would read as a class "cat.jpg".
        path, *label = line.rsplit(maxsplit=1)
        if not label or _PICTURE_NAME.fullmatch(label[0]):
            raise UserError(f"{source} line {number}: no label after {line!r}; write `path label`")
        if not os.path.isabs(path) and "://" not in path:
            path = os.path.join(os.path.dirname(source), path)
        entries.append((number, path, label[0]))
    if not entries:
        raise UserError(f"{source}: the list is empty; write one `path label` for each picture")
    return entries


def _folder_names(paths: Sequence[str], labels: Sequence[int]) -> tuple[str, ...]:
    """A name for each class index: that of its folder if every class has its own, else the number."""
    folders: list[set[str]] = [set() for _ in range(max(labels) + 1)]
    for path, label in zip(paths, labels, strict=True):
        folders[label].add(os.path.dirname(path))
    names = [os.path.basename(folder) for own in folders if len(own) == 1 for folder in own]
    # A folder called 0 that holds class 1 would only mislead.
    if len(set(filter(None, names))) == len(folders) and not any(map(_NUMBER.fullmatch, names)):
        return tuple(names)
    return tuple(map(str, range(len(folders))))


def _unknown(name: str, classes: Sequence[str]) -> str:
    return f"{name!r} is not one of the classes {_listed(classes)}; use one of these, or train with it"


def _out_of_range(label: int, classes: Sequence[str] | None) -> str:
    if label < 0:
        return f"label {label} is negative; number the classes from 0"
    if classes is None:
        return f"label {label} is too large; number the classes from 0"
    return f"label {label} is beyond the {len(classes)} classes, 0 = {_listed(classes)}; number them from 0"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ... ({len(names)} in all)"

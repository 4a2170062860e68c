"""Label lists: text files with `path label` on each line, read and written.

A picture within a file of many is FILE#INDEX. Beside a list, `labels.txt` may name the classes 0, 1, ... of its
numbers, with an INDEX:NAME on each line.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.train.data import tfrecords
from barenets.train.data.folders import PICTURE_NAME, synset
from barenets.train.data.place import Place, exists, locate
from barenets.train.data.table import Records, agree, classes, names_beside, whole, with_names, write_names
from barenets.weights import files

_NUMBER = re.compile(r"[0-9]+")
_WITHIN = re.compile(r"(.+)#([0-9]{1,18})")


def read(place: Place, class_names: Sequence[str] | None, held: Callable[[Place], Records | None]) -> Records:
    """The pictures of the list at `place`, with the classes of a run if these are given.

    `held` reads a file that holds pictures, for those that are FILE#INDEX.
    """
    source = place.path
    lines, paths, labels = zip(*_lines(source), strict=True)

    def where(i: int) -> str:
        return f"{source} line {lines[i]}"

    place.inside(paths, where)
    beside = names_beside(source)
    if beside and all(map(_NUMBER.fullmatch, labels)):
        own = with_names(Records(paths, np.array(whole(labels, where), np.int64), (), place.source), beside, where)
    else:
        indices, names = classes(labels, where, class_names)
        if class_names is None and names == tuple(map(str, range(len(names)))):
            names = _folder_names(paths, indices, names)
        own = Records(paths, indices, names, place.source)
    return agree(_within(own, where, held), class_names, where)


def write(records: Records, path: str) -> None:
    """Writes a list that reads back as `records`: places and class numbers, and `labels.txt` beside it.

    Local places are written whole. Raises UserError if a path cannot stand in a list, if the file cannot be
    written, and if the folder has a `labels.txt` of other classes.
    """
    within = records.spans is not None
    places = tfrecords.numbered(records) if within else records.paths
    lines = []
    for place, label in zip(places, records.labels.tolist(), strict=True):
        whole = place if "://" in place else os.path.abspath(place)
        if whole != whole.strip() or len(whole.splitlines()) != 1:
            raise UserError(f"{place!r}: cannot stand in a list, for its line breaks or outer spaces; rename it")
        lines.append(f"{whole} {label}\n")
    write_names(os.path.dirname(path), records.class_names)
    with files.replacing(path) as file:
        file.write("".join(lines).encode())


def text_of(source: str, what: str) -> str:
    """The text in a file. Raises UserError if it cannot be read as such."""
    try:
        with tf.io.gfile.GFile(source, "rb") as file:
            text: str = file.read().decode("utf-8-sig")  # Windows editors put a byte-order mark first
            return text
    except tf.errors.OpError as error:
        raise UserError(f"{source}: cannot be read ({error.message}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text; give {what}") from error


def is_absolute(path: str) -> bool:
    """Whether `path` says where it is without a folder to start from: `/...`, `gs://...`."""
    return os.path.isabs(path) or "://" in path


def _lines(source: str) -> list[tuple[int, str, str]]:
    """The line number, the path and the label of each picture of a list."""
    entries = []
    for number, line in enumerate(text_of(source, "a folder or a list of `path label` lines").split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        # From the right, since paths have spaces; so "my cat.jpg" alone would read as a class "cat.jpg".
        path, *rest = line.rsplit(maxsplit=1)
        label = rest[0] if rest and not PICTURE_NAME.fullmatch(rest[0]) else None
        if label is None:
            path, label = line, synset(line)
        if label is None:
            raise UserError(f"{source} line {number}: no label after {line!r:.200}; write `path label`")
        if not is_absolute(path):
            path = os.path.join(os.path.dirname(source), path)
        entries.append((number, path, label))
    if not entries:
        raise UserError(f"{source}: the list is empty; write one `path label` for each picture")
    return entries


def _folder_names(paths: Sequence[str], labels: np.ndarray, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each class index: that of its folder if every class has its own, else the number."""
    folders: list[set[str]] = [set() for _ in numbers]
    for path, label in zip(paths, labels, strict=True):
        folders[label].add(os.path.dirname(path))
    names = [os.path.basename(folder) for own in folders if len(own) == 1 for folder in own]
    # A folder called 0 that holds class 1 would only mislead.
    if len(set(filter(None, names))) == len(folders) and not any(map(_NUMBER.fullmatch, names)):
        return tuple(names)
    return numbers


def _within(own: Records, where: Callable[[int], str], held: Callable[[Place], Records | None]) -> Records:
    """`own`, with the pictures that are FILE#INDEX taken out of their files."""
    matches = [_WITHIN.fullmatch(path) for path in own.paths]
    members: dict[str, list[int]] = {}
    for i, match in enumerate(matches):
        if match:
            members.setdefault(match[1], []).append(i)
    # A picture of its own may have such a name, too.
    places = {file: locate(file) for file, records in members.items() if not exists(own.paths[records[0]])}
    if not any(places.values()):
        return own
    inside = {i for file in places for i in members[file] if places[file]}
    for i in range(len(own)):
        if i not in inside:
            raise UserError(f"{where(i)}: is no FILE#INDEX, as other lines are; make a list of each kind")
    paths: list[str] = list(own.paths)
    pixels = spans = None
    for file, lines in members.items():
        place = places[file]
        source = held(place) if place else None
        if source is None:
            raise UserError(f"{where(lines[0])}: {file} is no file of many pictures")
        indices = [int(own.paths[i].rpartition("#")[2]) for i in lines]
        for i, index in zip(lines, indices, strict=True):
            if index >= len(source):
                raise UserError(f"{where(i)}: {file} has {len(source):,} pictures; count them from 0")
            paths[i] = source.paths[index]
        if source.pixels is not None:
            pixels = np.empty((len(own), *source.pixels.shape[1:]), np.uint8) if pixels is None else pixels
            if pixels.shape[1:] != source.pixels.shape[1:]:
                raise UserError(f"{where(lines[0])}: has pictures of another size than those before; make two lists")
            pixels[lines] = source.pixels[indices]
        if source.spans is not None:
            spans = np.empty((len(own), 2), np.int64) if spans is None else spans
            spans[lines] = source.spans[indices]
    if pixels is not None and spans is not None:
        raise UserError(f"{own.source}: has decoded pictures and shards of encoded ones; make a list of each kind")
    return replace(own, paths=tuple(paths), pixels=pixels, spans=spans)

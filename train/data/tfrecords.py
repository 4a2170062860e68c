"""Shards of tf.train.Example, as slim and TensorFlow Datasets write them.

    record     length, 8 bytes; its checksum, 4; an Example; its checksum, 4   (tensorflow/core/lib/io/record_writer.h)

    image/encoded or image      the picture's file
    image/class/label or label  its class, a number
    image/class/text            the name of the class, where there is one
    image/class/synset          of ImageNet

Of each record the table keeps where the picture's bytes lie, and nothing else. Both checksums are compared.
"""

import bisect
import os
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tqdm import tqdm

from barenets import UserError
from barenets.train.data.place import Place, entries
from barenets.train.data.table import Records, Where, closed, names_beside, with_names
from barenets.weights import catalog, files, tables

_SHARD = re.compile(r"(.*?)(?:\.tfrecords?)?[-_.]?(\d{5})-of-(\d{5})(\.tfrecords?)?")
_FILE = re.compile(r"(.*)\.tfrecords?")
_HEAD = struct.Struct("<QI")
_PATIENCE = 1  # seconds before a progress bar


def fits(place: Place) -> bool:
    """Whether there are shards, by name or by how the first begins."""
    if place.names is not None:
        return any(place.files(_is_shard))
    return _set(os.path.basename(place.path)) is not None or _begins(place.head)


def _begins(head: bytes) -> bool:
    if len(head) < _HEAD.size:
        return False
    try:
        tables.check(memoryview(head[:8]), _HEAD.unpack_from(head)[1], "")
    except UserError:
        return False
    return True


def _set(name: str) -> str | None:
    """The set that a shard belongs to, by its name; None if it is no shard by its name."""
    match = _SHARD.fullmatch(name) or _FILE.fullmatch(name)
    return match and match[1]


def _is_shard(name: str) -> bool:
    return _set(name) is not None


def read(place: Place) -> Records:
    """The shard at `place`, or the set of shards in a folder; the only one, or that which is named.

    A set is named by the part of the files' names before the numbers, or by a word of that.
    """
    if place.names is None:
        place.whole()
        return shards([place.path], place.source)
    sets: dict[str, list[str]] = {}
    for name in place.files(_is_shard):
        sets.setdefault(_set(name) or "", []).append(name)
    parts = {key: key for key in sets}
    for word in place.words:
        meant = [key for key in sets if word in re.split(r"[-_.]", key)]
        if word not in parts and len(meant) == 1:
            parts[word] = meant[0]
    names = sets[place.choose(parts)]
    _check(place.source, names)
    return shards([place.child(name) for name in names], place.source)


def matched(paths: Sequence[str], pattern: str) -> Records:
    """The records of the files that `pattern` has found; those of one set must fit together, as in `read`."""
    folders, names = zip(*map(os.path.split, paths), strict=True)
    sets = {_set(name) for name in names}
    if len(set(folders)) == len(sets) == 1 and None not in sets:
        there = sum(_set(name) in sets for name in entries(folders[0]))
        _check(pattern, names, whole=len(names) == there)  # else some were picked out: train-0000[0-4]*
    return shards(paths, pattern)


def _check(source: str, names: Sequence[str], whole: bool = True) -> None:
    """Raises UserError if there are shards of two sets, or one twice, and if one of a `whole` set is missing."""
    found = {name: (int(match[2]), int(match[3])) for name in names if (match := _SHARD.fullmatch(name))}
    counts = {count for _, count in found.values()}
    if len(counts) > 1 or len(found) < len(names) > 1:
        raise UserError(f"{source}: has shards of several sets, {names[0]} and {names[-1]}; remove one of them")
    first: dict[tuple[int, int], str] = {}
    for name, number in found.items():
        if first.setdefault(number, name) != name:
            raise UserError(f"{source}: has a shard twice, {first[number]} and {name}; remove one of them")
    for count in counts if whole else ():
        if missing := sorted(set(range(count)) - {number for number, _ in found.values()}):
            raise UserError(f"{source}: has {len(names)} of {count} shards; number {missing[0]} is missing")


def shards(paths: Sequence[str], source: str) -> Records:
    """The records of these files, in their order. Raises UserError that names the file and the record."""
    examples = [(path, i, example) for path in _watched(paths) for i, example in enumerate(_examples(path))]
    if not examples:
        raise UserError(f"{source}: has no records")

    def where(i: int) -> str:
        path, record, _ = examples[i]
        return f"{path} record {record}"

    own = Records(
        paths=tuple(path for path, _, _ in examples),
        labels=np.array([example.label for _, _, example in examples], np.int64),
        class_names=(),
        source=source,
        spans=np.array([example.span for _, _, example in examples], np.int64),
    )
    texts = [example.text for _, _, example in examples]
    return _classed(own, texts, [example.synset for _, _, example in examples], where)


def _watched(paths: Sequence[str]) -> Iterator[str]:
    # disable=None: unless stderr is a terminal.
    return iter(tqdm(paths, "reading", unit=" shards", disable=None, delay=_PATIENCE))


def _classed(own: Records, texts: list[str], synsets: list[str], where: Where) -> Records:
    """Names for the numbers: ImageNet's, those of a file beside, those in the records, or the numbers themselves."""
    shifted = own.labels - 1  # slim's ImageNet has the background in front
    known = [*zip(catalog.imagenet_synsets(), catalog.imagenet_classes(), strict=True)]
    rows = zip(shifted.tolist(), synsets, texts, strict=True)
    if all(
        0 <= label < 1000 and (synset == known[label][0] or text == known[label][1]) for label, synset, text in rows
    ):
        return with_names(replace(own, labels=shifted), catalog.imagenet_classes(), where)
    names = names_beside(own.paths[0])
    if names and names[0] == "background" and own.labels.min() > 0:
        return with_names(replace(own, labels=shifted), names[1:], where)
    if names:
        return with_names(own, names, where)
    labels, numbers = closed(own.labels.tolist(), where)
    pairs = dict(zip(labels.tolist(), texts, strict=True))
    agree = all(pairs[label] == text for label, text in zip(labels.tolist(), texts, strict=True))
    if agree and all(texts) and len(set(pairs.values())) == len(pairs):
        numbers = tuple(pairs[label] for label in range(len(numbers)))
    return replace(own, labels=labels, class_names=numbers)


class _Example(NamedTuple):
    span: tuple[int, int]
    label: int
    text: str
    synset: str


def numbered(records: Records) -> list[str]:
    """FILE#INDEX of each record: which of its shard it is. Raises UserError if a shard is not as it was read."""
    assert records.spans is not None
    begins = {path: [offset for offset, _, _ in _frames(path, files.view(path))] for path in set(records.paths)}
    offsets = records.spans[:, 0].tolist()
    return [
        f"{path}#{bisect.bisect_right(begins[path], offset) - 1}"
        for path, offset in zip(records.paths, offsets, strict=True)
    ]


def _examples(path: str) -> Iterator[_Example]:
    view = files.view(path)
    for i, (offset, length, checksum) in enumerate(_frames(path, view)):
        content = view[offset : offset + length]
        try:
            tables.check(content, checksum, "the content")
            yield _example(bytes(content), offset)
        except UserError as error:
            raise UserError(f"{path} record {i}: {error}; get the file again, or leave it out") from None


def _frames(path: str, view: memoryview) -> Iterator[tuple[int, int, int]]:
    """Offset, length and checksum of each record's content."""
    at = i = 0
    while at < len(view):
        try:
            head = view[at : at + _HEAD.size]
            if len(head) < _HEAD.size:
                raise UserError("it ends in the middle of a record; is the file complete?")
            length, checksum = _HEAD.unpack(head)
            tables.check(head[:8], checksum, "the length")
            begin, end = at + _HEAD.size, at + _HEAD.size + length
            if end + 4 > len(view):
                raise UserError("it ends in the middle of a record; is the file complete?")
        except UserError as error:
            zipped = " (or the file is zipped: unzip it)" if view[:2] == b"\x1f\x8b" else ""
            raise UserError(f"{path} record {i}: {error}{zipped}") from None
        yield begin, length, int.from_bytes(view[end : end + 4], "little")
        at, i = end + 4, i + 1


def _example(content: bytes, offset: int) -> _Example:
    """What there is in an Example that stands at `offset`."""
    try:
        features = tf.train.Example.FromString(content).features.feature
    except DecodeError:
        raise UserError("it is no tf.train.Example, or a damaged one") from None

    def first(kind: str, *names: str) -> Any:
        lists = (getattr(features[name], kind).value for name in names if name in features)
        return next((values[0] for values in lists if values), None)

    picture = first("bytes_list", "image/encoded", "image")
    label = first("int64_list", "image/class/label", "label")
    if picture is None or label is None:
        missing = "picture (image/encoded or image)" if picture is None else "label (image/class/label or label)"
        have = ", ".join(map(repr, sorted(features)))[:200]
        raise UserError(f"it has no {missing} of the right type, but {have or 'nothing'}")
    if not picture:
        raise UserError("its picture has no bytes")
    if not 0 <= label < 1 << 31:
        raise UserError(f"its label, {label}, is no class")
    text, synset = (first("bytes_list", f"image/class/{key}") or b"" for key in ("text", "synset"))
    # The parser does not tell where the bytes lay; wherever they are found, they are the picture's.
    place = offset + content.index(picture), len(picture)
    # Interned: a million records have a thousand names.
    return _Example(place, label, *(sys.intern(name.decode("utf-8", "backslashreplace")) for name in (text, synset)))


def framed(content: bytes) -> bytes:
    """A record with `content`, as it stands in a shard."""
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(data: bytes) -> bytes:
    crc = tables.crc32c(memoryview(data))
    return struct.pack("<I", (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)

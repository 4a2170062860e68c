"""MNIST's files, and those of the sets that took its form: Fashion-MNIST, KMNIST, EMNIST.

    00 00 08 sides     unsigned bytes; 3 sides for pictures, 1 for labels
    the sides          4 bytes each, the highest first
    the bytes          of the last side first

(yann.lecun.com/exdb/mnist.) They may be gzipped. An unpacked file is mapped: its pictures take no memory of their own.
"""

import gzip
import math
import os
import re
import zlib

import numpy as np

from barenets import UserError
from barenets.train.data.place import Place, exists, numbered
from barenets.train.data.table import Records, closed
from barenets.weights import files

_PIECE = 1 << 20  # bytes
_PICTURES = re.compile(r"(train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""The ten classes of Fashion-MNIST (zalandoresearch/fashion-mnist, README)."""


def fits(place: Place) -> bool:
    """Whether MNIST's files lie there, compressed or not."""
    if place.names is not None:
        return any(place.files(_PICTURES.fullmatch))
    return place.head.startswith((b"\0\0\x08", b"\x1f\x8b")) or bool(_PICTURES.fullmatch(os.path.basename(place.path)))


def read(place: Place) -> Records:
    """The set in the folder, or with the file of pictures, at `place`; its labels must lie beside it."""
    path = place.path
    if place.names is None:
        place.whole()
    else:
        found = [(match[1], name) for name in place.files(_PICTURES.fullmatch) if (match := _PICTURES.fullmatch(name))]
        # Backwards: of a file and its gzipped form the former counts.
        parts = {"train" if part == "train" else "test": place.child(name) for part, name in reversed(found)}
        path = place.choose(dict(sorted(parts.items(), reverse=True)))
    pixels = _array(path, 3)
    labels_path = _labels_beside(path)
    labels = _array(labels_path, 1)
    if len(labels) != len(pixels):
        raise UserError(f"{labels_path}: has {len(labels):,} labels where {path} has {len(pixels):,} pictures")
    if not len(pixels):
        raise UserError(f"{path}: has no pictures")
    indices, names = _named(labels, path)
    return Records(numbered(path, len(pixels)), indices, names, place.source, pixels[..., None])


def _named(labels: np.ndarray, path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices and names of the classes: ten, if no number is above 9."""
    if labels.max() > 9:
        return closed(labels.tolist(), lambda i: f"{path}#{i}")
    folder, file = os.path.split(os.path.abspath(path))
    own = f"{os.path.basename(folder)}/{file}"  # a folder further up may be called anything
    names = FASHION if "fashion" in own.lower() else tuple(map(str, range(10)))
    return labels.astype(np.int32), names


def _labels_beside(path: str) -> str:
    folder, name = os.path.split(path)
    plain = name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if plain == name.removesuffix(".gz"):
        raise UserError(f"{path}: is not called as a file of pictures is (...-images-idx3-ubyte); name that one")
    for candidate in (f"{plain}.gz", plain) if name.endswith(".gz") else (plain, f"{plain}.gz"):
        labels = os.path.join(folder, candidate)
        if exists(labels):
            return labels
    raise UserError(f"{path}: its labels are missing; put {plain} or {plain}.gz beside it")


def _array(path: str, sides: int) -> np.ndarray:
    """uint8, with so many sides, of the file at `path`."""
    start = 4 + 4 * sides
    view = files.view(path)
    zipped = view[:2] == b"\x1f\x8b"
    head = _unzipped(path, start) if zipped else view[:start]
    if head[:4] != bytes((0, 0, 8, sides)) or len(head) < start:
        what = "pictures" if sides == 3 else "labels"
        raise UserError(f"{path}: is no idx file of {what}, which starts with 0000080{sides}")
    shape = [int(side) for side in np.frombuffer(head, ">u4", offset=4)]
    expected = start + math.prod(shape)
    if zipped:
        try:
            files.check_unpacked(expected, len(view))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        view = _unzipped(path, expected + 1)
    if len(view) != expected:
        raise UserError(f"{path}: {len(view):,} bytes where its head says {expected:,}; is the file complete?")
    return np.frombuffer(view, np.uint8, offset=start).reshape(shape)


def _unzipped(path: str, size: int) -> memoryview:
    try:
        with files.opened(path) as file, gzip.GzipFile(fileobj=file) as unzipped:
            content = bytearray()  # which grows with what there is, and not with what is claimed
            while piece := unzipped.read(min(_PIECE, size - len(content))):
                content += piece
            return memoryview(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unzipped ({error}); is the file complete?") from None

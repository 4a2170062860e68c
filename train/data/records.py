"""Which pictures there are, and of which class: a data set of any form, read into one table."""

import os
from collections.abc import Iterable, Sequence

import tensorflow as tf

from barenets import UserError
from barenets.train.data import cifar, folders, idx, lists, npz, published, tables, tfrecords
from barenets.train.data.place import Place, is_hidden, locate
from barenets.train.data.table import Records, agree

__all__ = ["Records", "absolute", "read", "read_paths"]

_FORMS = (tfrecords, npz, cifar, idx)
"""In this order; each says whether a place is of its form."""


def read(source: str, class_names: Sequence[str] | None = None) -> Records:
    """The pictures of `source`, whose form is recognised by its content and names:

    - a folder with a sub-folder for each class; each is a class, in the order of the names, even if it has no
      pictures. Pictures are found at any depth; those outside the sub-folders are left out;
    - a folder of ILSVRC's files, `n01440764_10026.JPEG`: the synset is the class;
    - a label list (UTF-8): each line is `path label`, the label being what follows the last white space; relative
      paths start at the list's folder; blank lines and lines that start with `#` are ignored; a picture within one
      of the files below is FILE#INDEX. `labels.txt` beside it may name the classes, INDEX:NAME on each line;
    - a CSV file with a header (`train.data.tables`); lines of a list or CSV file that is named LIST:inside may not lead
      out of its folder;
    - MNIST's and Fashion-MNIST's files, gzipped or not: FOLDER:train, FOLDER:test, or a file of pictures;
    - CIFAR-10 and CIFAR-100, Python's or binary: FOLDER:train, FOLDER:test, the archive in place of a folder, or a
      batch; `:coarse` after it for the 20 classes of CIFAR-100;
    - an `.npz` of arrays (`train.data.npz`): FILE.npz:train, FILE.npz:test, FILE.npz;
    - shards of tf.train.Example (`train.data.tfrecords`): a file, a pattern, FOLDER:SET;
    - `mnist`, `fashion_mnist`, `cifar10`, `cifar100`: what `barenets fetch` has downloaded, mnist:train.

    Labels that are all integers are numbers of classes: 3, 7, 12 become the classes 0, 1, 2 with the names "3", "7",
    "12". Otherwise they are class names, in sorted order. In a list whose numbers count from 0 without a gap they take
    their names from the folders, if each one's pictures lie in a folder of its own (`cat/1.jpg 0`, `dog/1.jpg 1`).

    `class_names` are the classes of a training run, for a validation set to agree with: names must be among them.
    Numbers are names where all class names are numbers, or where all of them are names; otherwise they are indices.
    Where `class_names` are ImageNet's, synsets find their place among them.

    Raises UserError, with the file, the line or record, and what to do. Whether the pictures of lists and
    folders exist is not looked at: see `barenets.train.data.doctor`.
    """
    place = locate(source) or published.locate(source)
    if place is None:
        if _is_pattern(source):
            return agree(tfrecords.matched(_matches(source), source), class_names)
        raise UserError(f"{source}: no such file or folder; check the path")
    if (records := _held(place)) is not None:
        return agree(records, class_names)
    if place.names is not None:
        return folders.read(place, class_names)
    if tables.fits(place):
        return tables.read(place, class_names)
    return lists.read(place, class_names, _held)


def _held(place: Place) -> Records | None:
    """The pictures that the files at `place` hold; None if they are none of those that hold pictures."""
    form = next((form for form in _FORMS if form.fits(place)), None)
    if form is None:
        return None
    if not place.words and (folder := folders.of_class(place)):  # class folders have no parts: FOLDER:train is clear
        other = next((name for name in place.names or () if _holds(place.child(name))), "files of another form")
        raise UserError(
            f"{place.source}: has pictures in the folder {folder} and in {other}; name one of them, or keep them apart"
        )
    return form.read(place)


def _holds(path: str) -> bool:
    place = locate(path)
    return place is not None and any(form.fits(place) for form in _FORMS)


def absolute(source: str) -> str:
    """`source` as it means the same in any working directory."""
    if "://" in source or (locate(source) is None and not _is_pattern(source)):  # the name of a published set
        return source
    return os.path.abspath(source)


def _is_pattern(source: str) -> bool:
    return any(character in source for character in "*?[")


def read_paths(sources: Iterable[str]) -> list[str]:
    """Pictures without labels, from files and folders; in a folder they are found at any depth.

    The order is that of `sources`, sorted within a folder. Raises UserError for what does not exist and
    for a folder without pictures.
    """
    paths: list[str] = []
    for source in sources:
        found = list(folders.pictures(source)) if _is_folder(source) else [source]
        if not found:
            raise UserError(f"{source}: no pictures in this folder; name a folder or a file that has some")
        paths += found
    if not paths:
        raise UserError("no pictures are given; name files or folders")
    return paths


def _is_folder(source: str) -> bool:
    place = locate(source)
    if place is None or place.words:
        raise UserError(f"{source}: no such file or folder; check the path")
    return place.names is not None


def _matches(pattern: str) -> list[str]:
    try:
        found = [path for path in sorted(tf.io.gfile.glob(pattern)) if _may_hold(os.path.basename(path))]
    except tf.errors.OpError as error:
        raise UserError(f"{pattern}: {error.message}; check the path") from error
    if not found:
        raise UserError(f"{pattern}: no file has such a name; check the path")
    return found


def _may_hold(name: str) -> bool:
    return not is_hidden(name) and not folders.OTHER_NAME.fullmatch(name)  # what a killed `pack` leaves is hidden

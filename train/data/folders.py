"""Folders of pictures: a sub-folder for each class, or files whose names begin with their synset."""

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.train.data.place import Place, is_hidden
from barenets.train.data.table import Records, agree, classes

# Anything else may be a picture, whatever its extension; that is for the decoder to say.
OTHER_NAME = re.compile(r".*\.(txt|csv|tsv|json|md|xml|html|ya?ml|ini|log|db)", re.IGNORECASE)
PICTURE_NAME = re.compile(r".*\.(jpe?g|png|gif|bmp|webp)", re.IGNORECASE)
_SYNSET = re.compile(r"(n\d{8})[_.].*")


def read(place: Place, class_names: Sequence[str] | None) -> Records:
    """The pictures of the folder at `place`, with the classes of a run if these are given."""
    assert place.names is not None
    place.whole()
    source = place.path
    folders = {name: place.child(name) for name in place.names if tf.io.gfile.isdir(place.child(name))}
    found = [(path, i) for i, folder in enumerate(folders.values()) for path in pictures(folder)]
    if found:
        paths, labels = zip(*found, strict=True)
        own = Records(paths, np.array(labels, np.int32), tuple(folders), place.source)
        return agree(own, class_names, lambda i: place.child(own.class_names[own.labels[i]]))
    files = [name for name in place.names if name not in folders and not OTHER_NAME.fullmatch(name)]
    if files and all(map(synset, files)):
        paths = tuple(map(place.child, files))
        own = Records(paths, *classes([synset(name) or "" for name in files], paths.__getitem__), place.source)
        return agree(own, class_names)
    raise UserError(f"{source}: no pictures in class folders; give each class a sub-folder of pictures")


def of_class(place: Place) -> str | None:
    """The first sub-folder of the folder at `place` that has what is called as pictures are."""
    for name in place.names or ():
        if tf.io.gfile.isdir(place.child(name)) and any(map(PICTURE_NAME.fullmatch, pictures(place.child(name)))):
            return name
    return None


def synset(path: str) -> str | None:
    """The synset that ILSVRC's files have in front of their names: n01440764_10026.JPEG."""
    match = _SYNSET.fullmatch(os.path.basename(path))
    return match and match[1]


def pictures(folder: str) -> Iterator[str]:
    """What may be a picture in `folder`, at any depth, in sorted order; no folder twice, whatever leads to it.

    Two links from a folder to itself are 2^40 ways through it.
    """
    seen = set()
    for parent, folders, files in tf.io.gfile.walk(folder):
        place = parent if "://" in parent else os.path.realpath(parent)
        if place in seen:
            folders[:] = ()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_hidden(name))  # in place: walk reads it next
        for name in sorted(files):
            if not is_hidden(name) and not OTHER_NAME.fullmatch(name):
                yield os.path.join(parent, name)

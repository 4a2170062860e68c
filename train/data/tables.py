"""CSV files with a header: a column of pictures and a column of their classes.

    id,breed                                 the dog-breed identification of Kaggle: images/ID.jpg
    000bec180eb18c7604dcecc8fe0dba07,boston_bull

The header tells the columns, and whether commas, semicolons or tabs part them. A picture may be named without its
extension; it lies beside the CSV file or in the folder `images` or `train` there.
"""

import csv
import io
import os
from collections.abc import Callable, Sequence
from functools import cache

import tensorflow as tf

from barenets import UserError, printable
from barenets.train.data.lists import is_absolute, text_of
from barenets.train.data.place import Place, entries
from barenets.train.data.table import Records, agree, classes

_PICTURES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_id", "id")
_LABELS = ("label", "labels", "class", "class_name", "breed", "category", "target", "species")
_FOLDERS = ("", "images", "train")
_EXTENSIONS = ("", ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".JPG", ".JPEG", ".PNG", ".BMP", ".GIF")


def fits(place: Place) -> bool:
    """Whether it is called `.csv` or `.tsv`."""
    return place.names is None and place.path.lower().endswith((".csv", ".tsv"))


def read(place: Place, class_names: Sequence[str] | None) -> Records:
    """The rows of the CSV file at `place`, with the classes of a run if these are given."""
    source = place.path
    text = text_of(source, "a CSV file with a header")
    header = next((line for line in text.splitlines() if line.strip()), "")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    lines, names, labels = [], [], []
    try:
        columns = [name.strip().lower() for name in next((row for row in rows if row), [])]
        picture = _column(source, columns, _PICTURES, "picture")
        label = _column(source, columns, _LABELS, "class")
        for row in rows:
            if not row:
                continue
            if len(row) != len(columns):
                raise UserError(f"{source} line {rows.line_num}: {len(row)} values where the header has {len(columns)}")
            name, value = row[picture].strip(), row[label].strip()
            if not name or not value:
                raise UserError(f"{source} line {rows.line_num}: no {'class' if name else 'picture'}; write both")
            lines.append(rows.line_num)
            names.append(name)
            labels.append(value)
    except csv.Error as error:
        raise UserError(f"{source} line {rows.line_num}: cannot be read as CSV ({error}); check the quotes") from None
    if not names:
        raise UserError(f"{source}: has a header only; write a row for each picture")

    def where(i: int) -> str:
        return f"{source} line {lines[i]}"

    folder = os.path.dirname(source)
    look = cache(_names)  # each folder is looked at once
    paths = tuple(_find(folder, name, look, where(i)) for i, name in enumerate(names))
    place.inside(paths, where)
    own = Records(paths, *classes(labels, where, class_names), place.source)
    return agree(own, class_names, where)


def _column(source: str, columns: list[str], known: tuple[str, ...], what: str) -> int:
    found = [columns.index(name) for name in known if name in columns]
    if not found:
        have = f"the header has {printable(', '.join(columns)[:200])}" if columns else "there is no header"
        raise UserError(f"{source}: no column of the {what}: {have}; call it {known[0]}")
    return found[0]


def _names(folder: str) -> frozenset[str]:
    return frozenset(entries(folder)) if tf.io.gfile.isdir(folder or ".") else frozenset()


def _find(folder: str, name: str, look: Callable[[str], frozenset[str]], where: str) -> str:
    """The picture's path; what has an extension and is not there is left for others to miss."""
    if is_absolute(name):
        return name
    parent, base = os.path.split(name)
    for place in _FOLDERS:
        held = os.path.join(folder, place, parent).rstrip("/")
        for extension in _EXTENSIONS:
            if base + extension in look(held):
                return os.path.join(held, base + extension)
    if os.path.splitext(name)[1]:
        return os.path.join(folder, name)
    raise UserError(
        f"{where}: no picture {printable(name)}.jpg or the like lies beside the file, or in images or train there"
    )

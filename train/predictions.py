"""Predictions as a file, in the form that Kaggle's competitions take."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from barenets import UserError
from barenets.weights import files


def write(path: str, ids: Sequence[str], class_names: Sequence[str], probabilities: np.ndarray) -> None:
    """A CSV file (UTF-8) with the line `id,affenpinscher,...`, then one for each picture: id, its probabilities.

    `probabilities` is floating [len(ids), len(class_names)]; each value is written with the nine digits that tell
    any two float32 apart. The file is there whole or not at all. Raises UserError if an id comes twice, or if the
    file cannot be written, and ValueError for another shape.
    """
    if probabilities.shape != (len(ids), len(class_names)):
        raise ValueError(f"{probabilities.shape} probabilities are not those of {len(ids)} × {len(class_names)}")
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise UserError(f"{path}: is not written: two pictures have the id {twice!r}; rename or leave out one of them")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *class_names])
    table.writerows([name, *(f"{p:.9g}" for p in row)] for name, row in zip(ids, probabilities, strict=True))
    with files.replacing(path) as file:
        file.write(text.getvalue().encode())

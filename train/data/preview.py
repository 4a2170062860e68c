"""To look at augmentation: a contact sheet of a batch before and after it, and single files."""

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.weights import files

_INCHES, _DPI = 1.5, 150  # of a picture on the sheet; 225 pixels, so those of 224 are not enlarged
_TITLE = 26  # characters that fit above a picture


def contact_sheet(
    before: Any,
    after: Any,
    path: str,
    titles: Sequence[str] | None = None,
    heading: str = "",
    columns: int = 8,
) -> None:
    """A PNG at `path`: each picture of `before`, and below it what became of it.

    Args:
        before, after: RGB [N, H, W, 3], uint8, or numbers in 0..255, which are rounded and clipped.
        titles: one for each picture, its class for example, written above it.
        heading: written above all, the policy for example.
        columns: pictures in a row.

    Raises ValueError if the numbers of pictures differ or there is none, UserError if `path` cannot be written.
    """
    import matplotlib.figure  # a second of start-up that most commands need not pay

    before, after = _bytes(before), _bytes(after)
    titles = [""] * len(before) if titles is None else titles
    if not len(before) == len(after) == len(titles) > 0:
        raise ValueError(f"{len(before)} pictures before, {len(after)} after and {len(titles)} titles do not pair")
    columns = min(columns, len(before))
    rows = -(-len(before) // columns)

    # In inches: the words at the side, the line with titles above each row, the space between pictures.
    left, line, space = 0.55, 0.22, 0.04
    tall, across = _INCHES * before.shape[1] / before.shape[2], _INCHES + space
    width = left + columns * across + 0.1
    lines = textwrap.wrap(heading, int((width - left) * 14))
    head, block = 0.1 + 0.14 * len(lines), line + 2 * (tall + space) + 0.08
    height = head + rows * block + 0.1
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=_DPI)
    figure.text(left / width, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=8)
    for i, pair in enumerate(zip(before, after, strict=True)):
        row, column = divmod(i, columns)
        for below, picture in enumerate(pair):
            x, y = left + column * across, height - head - row * block - line - below * space - (below + 1) * tall
            axes = figure.add_axes((x / width, y / height, _INCHES / width, tall / height))
            axes.imshow(picture, aspect="auto", interpolation="antialiased")
            axes.set_axis_off()
            if not below:
                axes.set_title(_shortened(titles[i]), fontsize=8, pad=3)
            if not column:
                place = ((left - 0.08) / width, (y + tall / 2) / height)
                figure.text(*place, ("before", "after")[below], ha="right", va="center", fontsize=8)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DPI)


def save_pictures(pictures: Any, names: Sequence[str], folder: str, extension: str = "jpg") -> list[str]:
    """Writes `pictures`, as `contact_sheet` takes them, to FOLDER/NAME.EXTENSION each, and returns the paths.

    A `/` in a name becomes `_`; a name that comes again gets a number: `cat.1_0`, `cat.1_1`. Each file appears whole or
    not at all. Raises ValueError for other numbers of pictures and names, UserError for an extension
    that is not jpg, jpeg or png and for a folder that cannot be written.
    """
    pictures = _bytes(pictures)
    if len(pictures) != len(names):
        raise ValueError(f"{len(pictures)} pictures and {len(names)} names")
    if extension not in ("jpg", "jpeg", "png"):
        raise UserError(f"{extension}: pictures are written as jpg, jpeg or png")
    paths = []
    for picture, name in zip(pictures, _unlike(names), strict=True):
        encoded = tf.io.encode_png(picture) if extension == "png" else tf.io.encode_jpeg(picture, quality=95)
        paths.append(os.path.join(folder, f"{name}.{extension}"))
        with files.replacing(paths[-1]) as file:
            file.write(encoded.numpy())
    return paths


def _bytes(pictures: Any) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"pictures are RGB [N, H, W, 3], not {list(pictures.shape)}")
    return pictures if pictures.dtype == np.uint8 else np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def _unlike(names: Sequence[str]) -> list[str]:
    plain = [name.replace("/", "_").replace(os.sep, "_") for name in names]
    taken, result = set(plain), []
    for i, name in enumerate(plain):
        if plain.count(name) == 1:
            result.append(name)
            continue
        number = plain[:i].count(name)
        while f"{name}_{number}" in taken:
            number += 1
        taken.add(f"{name}_{number}")
        result.append(f"{name}_{number}")
    return result


def _shortened(title: str) -> str:
    return title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"

"""To look at augmentation: a contact sheet of a batch before and after it, and single files."""

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops.image import Preprocessing
from barenets.train.data.augment import Policy
from barenets.train.data.pipeline import Batches
from barenets.train.data.records import Records
from barenets.train.data.samplers import Shuffled
from barenets.weights import files

_INCHES, _DPI = 1.5, 150  # of a picture on the sheet; 225 pixels, so those of 224 are not enlarged
_TITLE = 26  # characters that fit above a picture
_CANVAS = 2**16 - 1  # pixels, the longest side that matplotlib draws


@dataclass(frozen=True)
class Previewed:
    """Pictures before and after augmentation, uint8 [N, size, size, 3] each, and which records they are, [N]."""

    before: np.ndarray
    after: np.ndarray
    records: np.ndarray


@dataclass(frozen=True)
class _Chosen:
    """A sampler that gives the same few records in every epoch."""

    records: np.ndarray

    def order(self, labels: np.ndarray, epoch: int) -> np.ndarray:
        return self.records


def preview(
    records: Records, policy: Policy, count: int, *, size: int = 224, seed: int = 0, epoch: int = 0, times: int = 1
) -> Previewed:
    """The first `count` pictures of a shuffled epoch, each as it comes in `times` epochs from `epoch` on.

    They, and the numbers drawn for each, are those of a training run with the same seed and the sampler "shuffled".
    The frame may be another: pictures are resized to 8/7 of `size` before a crop, as 256 is to 224, whatever the
    run's weights want. Raises UserError that names the file for a picture that cannot be decoded.
    """
    chosen = _Chosen(Shuffled(seed).order(records.labels, epoch)[:count])
    plain = Preprocessing(crop=size, resize=size * 8 // 7)

    def seen(policy: Policy, epoch: int) -> np.ndarray:
        batches = Batches(records, plain, len(chosen.records), seed=seed, sampler=chosen, policy=policy)
        return np.concatenate([plain.pictures(batch.images).numpy() for batch in batches.epoch(epoch)])

    after = np.stack([seen(policy, epoch + i) for i in range(times)], 1)  # [count, times, size, size, 3]
    before = np.repeat(seen((), epoch), times, 0)
    return Previewed(before, after.reshape(before.shape), np.repeat(chosen.records, times))


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

    Raises ValueError if the numbers of pictures differ or there is none, UserError if `path` cannot be written and,
    before anything is drawn, for more pictures than fit on a canvas.
    """
    if not len(before) == len(after) == len(before if titles is None else titles) > 0:
        named = len(before if titles is None else titles)
        raise ValueError(f"{len(before)} pictures before, {len(after)} after and {named} titles do not pair")
    sheet({"before": before, "after": after}, path, titles, heading, columns)


def grid(pictures: Any, path: str, titles: Sequence[str] | None = None, heading: str = "", columns: int = 8) -> None:
    """A PNG at `path` of `pictures`, as `contact_sheet` takes them, with its errors."""
    sheet({"": pictures}, path, titles, heading, columns)


def sheet(
    strips: Mapping[str, Any],
    path: str,
    titles: Sequence[str] | None = None,
    heading: str = "",
    columns: int = 8,
) -> None:
    """A PNG at `path`: rows of pictures, those of each strip below those of the one before, with its name at the side.

    Strips are name -> pictures, as many in each and as `contact_sheet` takes them, with its errors.
    """
    import matplotlib.figure  # a second of start-up that most commands need not pay

    strips = {name: _bytes(pictures) for name, pictures in strips.items()}
    count, tallness, wideness, _ = next(iter(strips.values())).shape
    titles = [""] * count if titles is None else titles
    if not count == len(titles) > 0:
        raise ValueError(f"{count} pictures and {len(titles)} titles do not pair")
    columns = min(columns, count)
    rows = -(-count // columns)

    # In inches: the words at the side, the line with titles above each row, the space between pictures.
    left, line, space = 0.55 if any(strips) else 0.1, 0.22, 0.04
    tall, across = _INCHES * tallness / wideness, _INCHES + space
    width = left + columns * across + 0.1
    lines = textwrap.wrap(heading, int((width - left) * 14))
    head, block = 0.1 + 0.14 * len(lines), line + len(strips) * (tall + space) + 0.08
    height = head + rows * block + 0.1
    if rows > (most := int((_CANVAS / _DPI - head - 0.1) / block)) or width * _DPI > _CANVAS:
        raise UserError(
            f"{path}: {count:,} pictures are too many for one sheet, where {most * columns:,} fit; "
            "lower --count or --times"
        )
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=_DPI)
    figure.text(left / width, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=8, parse_math=False)
    for i, stack in enumerate(zip(*strips.values(), strict=True)):
        row, column = divmod(i, columns)
        for below, picture in enumerate(stack):
            x, y = left + column * across, height - head - row * block - line - below * space - (below + 1) * tall
            axes = figure.add_axes((x / width, y / height, _INCHES / width, tall / height))
            axes.imshow(picture, aspect="auto", interpolation="antialiased")
            axes.set_axis_off()
            if not below:
                axes.set_title(_shortened(titles[i]), fontsize=8, pad=3, parse_math=False)
            if not column:
                place = ((left - 0.08) / width, (y + tall / 2) / height)
                figure.text(*place, list(strips)[below], ha="right", va="center", fontsize=8)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DPI)


def save_pictures(pictures: Any, names: Sequence[str], folder: str, extension: str = "jpg") -> list[str]:
    """Writes `pictures`, as `contact_sheet` takes them, to FOLDER/NAME.EXTENSION each, and returns the paths.

    A `/` in a name becomes `_`; a name that comes again gets a number: `cat.1_0`, `cat.1_1`. Each file appears whole or
    not at all. Raises ValueError for other numbers of pictures and names, UserError for an extension
    that is not jpg, jpeg or png, for a folder that cannot be written and, before anything is, for a file that is
    there already: it may be one of the data set.
    """
    pictures = _bytes(pictures)
    if len(pictures) != len(names):
        raise ValueError(f"{len(pictures)} pictures and {len(names)} names")
    if extension not in ("jpg", "jpeg", "png"):
        raise UserError(f"{extension}: pictures are written as jpg, jpeg or png")
    paths = [os.path.join(folder, f"{name}.{extension}") for name in _unlike(names)]
    if there := next(filter(tf.io.gfile.exists, paths), None):
        raise UserError(f"{there}: exists already, and no picture was written; choose another folder")
    for picture, path in zip(pictures, paths, strict=True):
        encoded = tf.io.encode_png(picture) if extension == "png" else tf.io.encode_jpeg(picture, quality=95)
        with files.replacing(path) as file:
            file.write(encoded.numpy())
    return paths


def _bytes(pictures: Any) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"pictures are RGB [N, H, W, 3], not {list(pictures.shape)}")
    return pictures if pictures.dtype == np.uint8 else np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def _unlike(names: Sequence[str]) -> list[str]:
    plain = [name.replace("/", "_").replace(os.sep, "_") for name in names]
    times, number, taken, result = Counter(plain), Counter[str](), set(plain), []
    for name in plain:
        unlike = name
        while times[name] > 1 and unlike in taken:
            unlike = f"{name}_{number[name]}"
            number[name] += 1
        taken.add(unlike)
        result.append(unlike)
    return result


def _shortened(title: str) -> str:
    return title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"

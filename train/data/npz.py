"""Pictures and labels as arrays in a NumPy archive: Keras's mnist.npz, MedMNIST's files, and your own.

    x_train, y_train, x_test, y_test      or train_images, train_labels, ...: parts, FILE:train
    images, labels                        or x, y: one set

Pictures are whole numbers from 0 to 255, [N, H, W] or [N, H, W, 1 or 3]; labels are numbers or text, [N] or [N, 1].
"""

import numpy as np

from barenets import UserError
from barenets.train.data.place import Place, numbered
from barenets.train.data.table import Records, classes, closed
from barenets.weights import files

_WHOLE = (("images", "labels"), ("x", "y"))
_PARTS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))


def fits(place: Place) -> bool:
    """Whether it is a zip file, as NumPy's `.npz` are."""
    return place.head.startswith(b"PK\x03\x04") or (place.names is None and place.path.endswith(".npz"))


def read(place: Place) -> Records:
    """The arrays of the file at `place`, or of the part of it that is named."""
    path = place.path
    try:
        with files.opened(path) as file, np.load(file, allow_pickle=False) as archive:
            x, y = _choose(place, archive.files)
            entries = [entry for entry in archive.zip.infolist() if entry.filename.removesuffix(".npy") in (x, y)]
            files.check_unpacked(sum(e.file_size for e in entries), sum(e.compress_size for e in entries))
            pixels, labels = archive[x], archive[y]
            if not (isinstance(pixels, np.ndarray) and isinstance(labels, np.ndarray)):
                raise UserError(f"{path}: its members {x} and {y} are no arrays; write it with numpy.savez")
    except UserError as error:
        raise error if str(error).startswith(path) else UserError(f"{path}: {error}") from None
    except MemoryError:
        raise UserError(f"{path}: claims arrays larger than memory; is it damaged?") from None
    except Exception as error:  # a damaged archive can be any nonsense
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: is no sound .npz of pictures and labels ({reason}); is it complete?") from None
    where = ":".join((path, *place.words))
    pixels = _pixels(pixels, f"{path}: {x}")
    if labels.shape not in ((len(pixels),), (len(pixels), 1)):
        raise UserError(f"{path}: {y} has the shape {labels.shape} where {x} has {len(pixels):,} pictures")
    indices, names = _classes(labels.reshape(-1), f"{path}: {y}")
    return Records(numbered(where, len(pixels)), indices, names, place.source, pixels)


def _choose(place: Place, keys: list[str]) -> tuple[str, str]:
    """The names of the arrays that are meant."""
    parts = {}
    for x, y in _PARTS:
        begin, end = x.split("{}")
        for key in keys:
            if key.startswith(begin) and key.endswith(end):
                part = key[len(begin) : len(key) - len(end)]
                if y.format(part) in keys:
                    parts[part] = key, y.format(part)
    if parts:
        return place.choose(parts)
    for x, y in _WHOLE:
        if x in keys and y in keys:
            place.whole()
            return x, y
    raise UserError(
        f"{place.path}: has the arrays {', '.join(keys)[:200]}; pictures and labels must be called "
        "x_train and y_train, or images and labels"
    )


def _pixels(pixels: np.ndarray, what: str) -> np.ndarray:
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
        raise UserError(f"{what} has the shape {pixels.shape}; pictures must be [N, H, W] or [N, H, W, 1 or 3]")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise UserError(f"{what} has the type {pixels.dtype}; save whole numbers from 0 to 255, as uint8")
    return np.ascontiguousarray(pixels, np.uint8)


def _classes(labels: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    def place(i: int) -> str:
        return f"{what}[{i}]"

    if labels.dtype.kind == "U":
        return classes(labels.tolist(), place)
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} has the type {labels.dtype}; labels must be whole numbers or text")
    return closed(labels.tolist(), place)

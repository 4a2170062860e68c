"""Small pictures of two classes that a tiny network can tell apart: bright above, or bright below."""

from pathlib import Path

import numpy as np
import tensorflow as tf

CLASSES = ("above", "below")


def write_pictures(folder: Path, per_class: int, seed: int = 0, side: int = 40) -> Path:
    """`folder/above/0.jpg` and so on; noise, and one half brighter than the other."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            picture = rng.integers(0, 150, (side, side, 3))
            half = slice(0, side // 2) if name == "above" else slice(side // 2, side)
            picture[half] += 100
            encoded = tf.io.encode_jpeg(picture.astype(np.uint8))
            (folder / name / f"{i}.jpg").write_bytes(encoded.numpy())
    return folder


def write_list(path: Path, folder: Path) -> Path:
    """A label list, relative to itself, of the pictures in `folder`: above is 0, below is 1."""
    lines = [
        f"{file.relative_to(path.parent)} {label}"
        for label, name in enumerate(CLASSES)
        for file in sorted((folder / name).iterdir())
    ]
    path.write_text("\n".join(lines))
    return path

"""Pictures per second of the input pipeline, beside what people would use instead.

    python -m benchmarks.data [--quick] [--data FOLDER]

The training pictures of cats_dogs in ../shared/data ($BARENETS_DATA, or --data: any folder of class folders; drawn
ones if there are none), shuffled, in batches of 32 of float32 [32, 227, 227, 3], RGB, 0 to 255, taken by a loop that
does nothing else with them. All variants have the files in the page cache, and all the cores there are.

Plain is decoding, resizing to 227 × 227 and a random flip:

    barenets                     Batches, bilinear from four pixels as in the second row; also with the pictures in a
                                 TFRecord shard, with those pictures kept decoded (256 × 256), and with what the
                                 published AlexNet (256 × 256, random crop of 227, BGR, less the mean) and torchvision's
                                 (shorter side 256 with antialias, random crop, mean and deviation) want
    image_dataset_from_directory Keras's, which resizes as the first row does, and tf.image.random_flip_left_right of
                                 each batch in a parallel map, and prefetch
    ImageDataGenerator           Keras's legacy one, flow_from_directory; it takes the nearest pixel, does not
                                 average, and has one thread
    Pillow, 2 processes          open, convert, resize (bilinear, which in Pillow is with antialias), transpose; 32 at
                                 a time, stacked as bytes, which a pool of two processes sends back

Full is rotation 40°, shifts 0.2, shear 0.2, zoom 0.2 and horizontal flip, the VGG16 article's, with bilinear
interpolation and the nearest pixel outside, in ImageDataGenerator, in barenets and, with Keras's preprocessing
layers (RandomRotation, RandomTranslation, RandomShear, RandomZoom, RandomFlip: not quite the same), in a map over
image_dataset_from_directory.

The time over that of the first row is also how many times as many pictures per second the first row has.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image

from barenets.ops import Preprocessing
from barenets.train import data
from barenets.train.data import Batches, Records, Shuffled, augment
from benchmarks.timing import Table, Times, interleaved, parser, ratios, report, spread

BATCH, SIDE = 32, 227
DIRECTORY, GENERATOR, PILLOW = "image_dataset_from_directory", "ImageDataGenerator", "Pillow, 2 processes"
OURS = "barenets"
FULL = "CentreCrop(), Affine(rotation=40, width_shift=0.2, height_shift=0.2, shear=0.2, zoom=0.2, horizontal_flip=True)"

Variants = dict[str, Callable[[], int]]


def counted(batches: Callable[[], Iterable[Any]], pictures: int) -> Callable[[], int]:
    """Takes one epoch; what it returns is in memory, not promised."""

    def run() -> int:
        seen = sum(int(batch[0].shape[0]) for batch in batches())
        assert seen == pictures, f"{seen} pictures of {pictures}"
        return seen

    return run


def barenets(records: Records, policy: str = "CentreCrop(), Flip()", **preprocessing: Any) -> Callable[[], int]:
    options = {"crop": SIDE, "resize": SIDE, "keep_aspect": False, "antialias": False, **preprocessing}
    batches = Batches(records, Preprocessing(**options), BATCH, sampler=Shuffled(0), policy=augment.parse(policy))
    return counted(lambda: batches.epoch(0), len(records))


def directory(folder: str, pictures: int, change: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[], int]:
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIDE, SIDE), batch_size=BATCH, seed=0, verbose=False
    )
    dataset = dataset.map(lambda images, labels: (change(images), labels), num_parallel_calls=tf.data.AUTOTUNE)
    return counted(lambda: dataset.prefetch(tf.data.AUTOTUNE), pictures)


def generator(folder: str, pictures: int, **options: Any) -> Callable[[], int]:
    flow = ImageDataGenerator(horizontal_flip=True, **options).flow_from_directory(
        folder, target_size=(SIDE, SIDE), batch_size=BATCH, seed=0
    )
    return counted(lambda: (next(flow) for _ in range(len(flow))), pictures)


def pillow_batch(paths: list[str], flips: np.ndarray) -> np.ndarray:
    images = []
    for path, flip in zip(paths, flips, strict=True):
        with Image.open(path) as file:
            image = file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        images.append(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image))
    return np.stack(images)


def pillow(records: Records, pool: ProcessPoolExecutor) -> Callable[[], int]:
    def batches() -> Iterable[tuple[np.ndarray]]:
        rng = np.random.default_rng(0)
        order = rng.permutation(len(records))
        parts = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        paths = [[records.paths[i] for i in part] for part in parts]
        flips = [rng.random(len(part)) < 0.5 for part in parts]
        return ((images.astype(np.float32),) for images in pool.map(pillow_batch, paths, flips))

    return counted(batches, len(records))


def decoded(records: Records, side: int) -> Records:
    """`records` with their pictures decoded and resized to squares, as data sets of small pictures come."""
    pixels = np.empty((len(records), side, side, 3), np.uint8)
    for path, row in zip(records.paths, pixels, strict=True):
        with Image.open(path) as file:
            row[:] = file.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    names = tuple(f"decoded#{i}" for i in range(len(records)))
    return Records(names, records.labels, records.class_names, "decoded", pixels=pixels)


def plain(folder: str, records: Records, shard: Records, pool: ProcessPoolExecutor) -> Variants:
    crop = {"resize": 256, "policy": "standard"}
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch = {**crop, "keep_aspect": True, "antialias": True, "scale": 255.0, "mean": mean, "std": std}
    return {
        OURS: barenets(records),
        DIRECTORY: directory(folder, len(records), tf.image.random_flip_left_right),
        GENERATOR: generator(folder, len(records)),
        PILLOW: pillow(records, pool),
        f"{OURS}, TFRecord": barenets(shard),
        f"{OURS}, pixels": barenets(decoded(records, 256)),
        f"{OURS}, AlexNet's": barenets(records, **crop, channels="BGR", mean=(104.0, 117.0, 123.0)),
        f"{OURS}, torchvision's": barenets(records, **torch),
    }


def full(folder: str, records: Records) -> Variants:
    layers = keras.Sequential(
        [
            keras.layers.RandomRotation(40 / 360, fill_mode="nearest"),
            keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
            keras.layers.RandomShear(0.2 / 90, 0.0, fill_mode="nearest"),
            keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
            keras.layers.RandomFlip("horizontal"),
        ]
    )
    shifts = {"rotation_range": 40, "width_shift_range": 0.2, "height_shift_range": 0.2}
    return {
        OURS: barenets(records, FULL),
        GENERATOR: generator(folder, len(records), **shifts, shear_range=0.2, zoom_range=0.2),
        f"{DIRECTORY} and layers": directory(folder, len(records), lambda images: layers(images, training=True)),
    }


def table(title: str, times: Times, pictures: int, notes: list[str]) -> Table:
    rows = [
        (
            name,
            spread([pictures / t for t in values], ".0f"),
            "1" if name == OURS else spread(ratios(times, name, OURS)),
        )
        for name, values in times.items()
    ]
    return Table(title, ("variant", "pictures/s", f"time / {OURS}"), rows, times, notes)


def verdict(times: Times, rivals: list[str], goal: float) -> str:
    """The goal, beside the rival that is fastest by its median."""
    best = min(rivals, key=lambda name: float(np.median(times[name])))
    reached = ratios(times, best, OURS)
    met = "met" if np.median(reached) >= goal else "missed"
    return f"Goal: {goal} times the fastest of the others ({best}): {spread(reached)}, {met}."


def draw(folder: Path, pictures: int) -> None:
    """Noise that is smooth, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(pictures):
        target = folder / ("cat", "dog")[i % 2] / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (40, 45, 3), np.uint8))
        coarse.resize((382, 338), Image.Resampling.BICUBIC).save(target)


def main() -> None:
    options = parser(__doc__, rounds=7)
    options.add_argument("--data", metavar="FOLDER", help="class folders of pictures")
    args = options.parse_args()
    shared = Path(os.environ.get("BARENETS_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    source = args.data or (shared / "cats_dogs/train" if (shared / "cats_dogs/train").is_dir() else None)

    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        if source is None or args.quick:
            source = Path(temporary, "drawn")
            draw(source, 40 if args.quick else 1000)
        records = data.read(str(source))
        shards = str(Path(temporary, "shards"))
        data.pack(records, shards, "train")
        shard = data.read(f"{shards}:train")
        rounds = 1 if args.quick else args.rounds
        where = f"{len(records)} pictures from {'a drawing' if temporary in str(source) else source}, {rounds} rounds."

        times = interleaved(plain(str(source), records, shard, pool), rounds)
        goal = verdict(times, [DIRECTORY, GENERATOR, PILLOW], 1.3)
        tables = [table(f"Decode, resize to {SIDE} × {SIDE}, flip", times, len(records), [goal, where])]
        times = interleaved(full(str(source), records), rounds)
        goal = verdict(times, [GENERATOR], 5)
        tables.append(table("Rotate, shift, shear, zoom, flip", times, len(records), [goal, where]))
    report(tables, args.json)


if __name__ == "__main__":
    main()

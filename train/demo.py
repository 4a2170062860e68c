"""`barenets demo`: the main job at work within minutes, on pictures that it draws itself or on yours."""

import itertools
import math
import os
from collections.abc import Callable
from multiprocessing.pool import ThreadPool

import numpy as np
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import named_variables
from barenets.train import checkpoints, data, finetune
from barenets.train.progress import Progress
from barenets.weights import fetch, files

REAL = ("torchvision_alexnet", "lpips_alexnet_conv")
"""What --real tries to fetch, the more complete first."""

HEAD = ("fc6", "fc7", "fc8")
"""The layers that train on top of loaded ones."""

SIDE = 256
"""Height and width of a drawn picture, in pixels."""

SPLITS = {"train": 200, "val": 48}
"""How many pictures of each class are drawn."""

PASSES = {"scratch": 2000, "head": 2000}
"""How many pictures are trained on, counted anew in each epoch: what two cores do in a few minutes."""


def start(source: str | None, train: str | None, val: str | None, logdir: str, real: bool) -> finetune.Run:
    """The demo's run, ready to train: from the weights `source`, from fetched ones if `real`, or from scratch.

    Without `train` and `val` it draws pictures. All goes into the folder `logdir` or, if that holds another
    run, into the first free one of `logdir`-2, `logdir`-3, ... Raises UserError.
    """
    if real and source:
        raise UserError("--real fetches weights; leave out --weights, or --real")
    if (train is None) != (val is None):
        raise UserError("give both --train and --val: the demo shows the accuracy on --val before and after")
    say = Progress().say
    free = _free(logdir)
    if free != logdir:
        say(f"{logdir} holds another run; this one goes to {free}")
    if real:
        source = _fetched(say)
    folders = {split: os.path.join(free, "pictures", split) for split in SPLITS}
    say(_introduction(source, train, free))
    if train is None:
        for split, folder in folders.items():
            draw(folder, SPLITS[split], 0, split)
        train, val = folders["train"], folders["val"]
    return finetune.start(_settings(source, train, val, free))


def _introduction(source: str | None, train: str | None, logdir: str) -> str:
    """What is going to happen, for someone who sees this for the first time."""
    how = f"fine-tunes AlexNet's {', '.join(HEAD)} on top of {source}" if source else "trains AlexNet from scratch"
    if train:
        first, last = f"This demo {how} to tell the classes of {train} apart.", ""
    else:
        count = f"{len(PATTERNS) * SPLITS['train']:,} pictures of {len(PATTERNS)} patterns ({', '.join(PATTERNS)})"
        first = f"This demo draws {count} and {how} to tell them apart."
        last = " The pictures are drawn: the result shows that training works, not how it does on photographs."
    return (
        f"{first}\nIt takes some minutes on two cores, and ends with the accuracy on other pictures before and after, "
        f"and the sizes of each layer's gradients.\nAll that it writes goes to {logdir}.{last}"
    )


def _free(logdir: str) -> str:
    """The first of `logdir`, `logdir`-2, `logdir`-3, ... that holds no run."""
    names = itertools.chain([logdir], (f"{logdir.rstrip('/')}-{i}" for i in itertools.count(2)))
    return next(name for name in names if not checkpoints.steps(os.path.join(name, checkpoints.FOLDER)))


def _fetched(say: Callable[[str], None]) -> str:
    """The first of REAL that is on this machine or can be fetched; what fails on the way is said in a line."""
    for name in REAL:
        try:
            fetch.fetch(name)
        except UserError as error:
            say(f"barenets: {error}")
        else:
            return name
    raise UserError(
        f"none of the real weights can be fetched (tried {', '.join(REAL)}); "
        "name a weight file with --weights, or leave out --real to train from scratch"
    )


def _settings(source: str | None, train: str, val: str | None, logdir: str) -> finetune.Settings:
    records = data.read(train)

    def epochs(passes: int) -> int:
        return max(1, round(passes / len(records)))

    if source is None:
        return finetune.Settings(
            train,
            val,
            variant="one_tower",
            epochs=epochs(PASSES["scratch"]),
            batch_size=16,
            optimizer="adam",
            learning_rate=2e-4,
            # Adam moves every weight by about the rate, so a sum over 9216 inputs moves the most.
            rates={"fc6": 0.2, "fc7": 0.4},
            schedule="cosine",
            warm_up=20,
            dropout=0.0,  # costs more steps than the demo has
            keep=1,
            logdir=logdir,
        )
    net, variant, reinit = _fit(source, records.num_classes)
    return finetune.Settings(
        train,
        val,
        net=net,
        variant=variant,
        weights=source,
        layers=tuple(dict.fromkeys([*reinit, *HEAD])),
        reinit=reinit,
        epochs=epochs(PASSES["head"]),
        batch_size=32,
        optimizer="adam",  # as steady on pictures scaled to 255, for Caffe's weights, as on pictures scaled to 1
        learning_rate=1e-4,
        schedule="cosine",
        keep=1,
        logdir=logdir,
    )


def _fit(source: str, num_classes: int) -> tuple[str, str, tuple[str, ...]]:
    """Network and variant that the weights fit best, and the layers that they lack or hold in another shape."""
    arrays = weights.read(source)

    def misfits(name: str, variant: str) -> tuple[str, ...]:
        with tf.Graph().as_default():  # only shapes are wanted: nothing is computed
            variables = named_variables(nets.build(name, num_classes=num_classes, variant=variant))
        wrong = (key for key, v in variables.items() if key not in arrays or arrays[key].shape != tuple(v.shape))
        return tuple(dict.fromkeys(key.rpartition("/")[0] for key in wrong))

    kind = weights.identify(source)
    name = kind.net if kind else "alexnet"
    if name != "alexnet":
        raise UserError(f"{source}: holds {kind}; the demo is AlexNet's. Use barenets finetune --weights {source}")
    variants = (kind.variant,) if kind and kind.variant else nets.variants(name)
    found = {variant: misfits(name, variant) for variant in variants}
    best = min(found, key=lambda variant: len(found[variant]))
    return name, best, found[best]


# What is drawn. A pattern is a distance to its edge, positive inside, on a plane whose unit is about one
# repeat; `width`, 0.17 to 0.33, says how bold it is.

Pattern = Callable[[np.ndarray, np.ndarray, np.float32], np.ndarray]


def _off(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest integer."""
    return np.abs(x - np.round(x))


def _bricks(u: np.ndarray, v: np.ndarray, width: np.float32) -> np.ndarray:
    return np.minimum(1 - 2 * _off(u / 2 + np.round(v) % 2 / 2), 0.5 - _off(v)) - 0.4 * width


def _checks(u: np.ndarray, v: np.ndarray, width: np.float32) -> np.ndarray:
    a, b = _off(u / 2) - 0.25, _off(v / 2) - 0.25
    return 2 * np.sign(a * b) * np.minimum(np.abs(a), np.abs(b))


def _dots(u: np.ndarray, v: np.ndarray, width: np.float32) -> np.ndarray:
    return width + 0.1 - np.hypot(_off(u + np.round(v) % 2 / 2), _off(v))


def _stripes(u: np.ndarray, v: np.ndarray, width: np.float32) -> np.ndarray:
    return width - _off(u)


def _zigzag(u: np.ndarray, v: np.ndarray, width: np.float32) -> np.ndarray:
    return 0.75 * (width - _off(u + 1.2 * _off(0.7 * v)))


PATTERNS: dict[str, Pattern] = {
    "bricks": _bricks,
    "checks": _checks,
    "dots": _dots,
    "stripes": _stripes,
    "zigzag": _zigzag,
}


def draw(folder: str, per_class: int, seed: int, split: str) -> None:
    """Draws `folder`/bricks/0000.jpg and so on: `per_class` JPEG files of SIDE × SIDE for each of PATTERNS.

    A pure function of (seed, split): drawn again, the same files come out. Each picture has its own two
    colours (either of them the lighter), scale, angle, place, boldness, bend, light from one side, noise,
    and things that lie on it, all drawn alike for every class. Mean colours and thumbnails therefore say
    next to nothing about the class, no two pictures agree pixel by pixel, and the discs, bars and squares
    of the clutter come on every pattern: only the arrangement of edges tells, and it must be recognised in
    colours and at scales and angles (up to half a radian either way) that training never showed.
    """

    def write(task: tuple[str, int]) -> None:
        name, index = task
        rng = np.random.default_rng([seed, *split.encode(), *name.encode(), index])
        encoded = tf.io.encode_jpeg(picture(PATTERNS[name], rng), quality=90).numpy()
        with files.replacing(os.path.join(folder, name, f"{index:04}.jpg")) as file:
            file.write(encoded)

    with ThreadPool(min(4, os.cpu_count() or 1)) as pool:
        pool.map(write, itertools.product(PATTERNS, range(per_class)))


def picture(pattern: Pattern, rng: np.random.Generator) -> np.ndarray:
    """One picture of `pattern`, uint8 RGB [SIDE, SIDE, 3]."""

    def uniform(low: float, high: float) -> np.float32:
        return np.float32(rng.uniform(low, high))

    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
    sway, length = uniform(0, 6), uniform(16, 48)
    bent_x = x + sway * np.sin(y / length + uniform(0, 6.3))
    bent_y = y + sway * np.sin(x / length + uniform(0, 6.3))
    u, v = _turned(bent_x, bent_y, uniform(-0.5, 0.5))
    repeat = np.exp(uniform(math.log(16), math.log(34)))  # pixels
    distance = pattern(u / repeat + uniform(-9, 9), v / repeat + uniform(-9, 9), uniform(0.17, 0.33))
    shades = [_colour(rng, uniform(0.7, 0.95)), _colour(rng, uniform(0.05, 0.35))]
    inside, outside = rng.permutation(np.stack(shades))
    image = np.broadcast_to(outside, (SIDE, SIDE, 3)).copy()
    _paint(image, distance * repeat, inside)

    for _ in range(rng.integers(2, 7)):  # clutter
        p, q = _turned(x - uniform(-128, 128), y - uniform(-128, 128), uniform(0, 2 * math.pi))
        size = uniform(6, 40)
        shape = rng.choice(["disc", "square", "bar"])
        if shape == "disc":
            distance = size - np.hypot(p, q)
        else:
            long, short = (size, size) if shape == "square" else (3 * size, uniform(3, 8))
            distance = np.minimum(long - np.abs(p), short - np.abs(q))
        _paint(image, distance, _colour(rng, uniform(0.1, 0.9)))

    towards, _ = _turned(x, y, uniform(0, 2 * math.pi))
    light = 1 + uniform(0, 0.004) * towards
    noise = uniform(0.01, 0.08) * rng.standard_normal((SIDE, SIDE), np.float32)
    return (np.clip(image * light[..., None] + noise[..., None], 0, 1) * 255).astype(np.uint8)


def _turned(x: np.ndarray, y: np.ndarray, angle: np.float32) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y


def _colour(rng: np.random.Generator, lightness: np.float32) -> np.ndarray:
    """float32 RGB of any hue and a vividness from dull to strong, about as light as `lightness`."""
    hue = np.cos(2 * math.pi * (rng.random() + np.arange(3) / 3))
    return np.clip(0.4 * rng.uniform(0.2, 0.9) * hue + lightness, 0, 1).astype(np.float32)


def _paint(image: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Colours the pixels inside of an edge, `distance` pixels away, and those on it in part."""
    image += np.clip(distance + 0.5, 0, 1)[..., None] * (colour - image)

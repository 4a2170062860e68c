"""What each part of the dog-breed recipe adds or costs: `python -m benchmarks.ablation [DATA] [SIDE]`.

The heads alone, on features of pictures of SIDE (192) pixels, for three seeds on one split; DATA is a folder with
dog_breeds and weights. It measures accuracy, not speed, so `make bench` leaves it out; docs/recipes.md has the table.
"""

import dataclasses
import os
import shutil
import sys
import tempfile
from typing import Any

import numpy as np

from barenets.ops import aligned
from barenets.train import checkpoints, data
from barenets.train.data import lists
from barenets.train.progress import Progress
from barenets.train.recipes import dog_breeds_xception as recipe

SEEDS = (0, 1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "all of it": {},
    "no gate: 64 linear features": {"gated": False},
    "no center loss": {"centers": 0.0},
    "no second classifier, no blend": {"auxiliary": 0.0},
    "no pairs: plain shuffling": {"paired": 0},
}


def main(folder: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        labelled = data.read(os.path.join(folder, "dog_breeds/labels.csv"))
        train, val = labelled.split([380 / 482, 102 / 482])
        half, other = train.split([0.5, 0.5])
        for name, records in {"train": train, "val": val, "half": half}.items():
            lists.write(records, f"{work}/{name}.txt")
        os.mkdir(f"{work}/other")
        for path in other.paths:
            shutil.copy(path, f"{work}/other")
        common = recipe.Settings(
            train=f"{work}/train.txt",
            val=f"{work}/val.txt",
            weights=os.path.join(folder, "weights/xception_imagenet_notop.h5"),
            size=size,
            epochs=0,
            last_epochs=0,
            features=f"{work}/features",
        )
        print(f"{len(train)} training and {len(val)} validation pictures of {train.num_classes} breeds, {size} pixels")
        rows = [("heads alone", "best epoch", "lowest", "highest", "last: first", "second", "blend")]
        for name, options in VARIANTS.items():
            rows.append(row(name, [result(dataclasses.replace(common, seed=n, **options), work, val) for n in SEEDS]))
            print(aligned(rows[-1:]), file=sys.stderr, flush=True)
        few = dataclasses.replace(common, train=f"{work}/half.txt", features=f"{work}/half-features")
        for name, options in {
            "half of the labels": {},
            "half, the others pseudo-labelled": {"unlabelled": f"{work}/other", "confidence": 0.9},
        }.items():
            rows.append(row(name, [result(dataclasses.replace(few, seed=n, **options), work, val) for n in SEEDS]))
            print(aligned(rows[-1:]), file=sys.stderr, flush=True)
        print(aligned(rows))


def result(settings: recipe.Settings, work: str, val: data.Records) -> dict[str, float]:
    """The accuracy on the validation pictures: at the best epoch, and of each classifier after the last one."""
    settings = dataclasses.replace(settings, logdir=tempfile.mkdtemp(dir=work))
    figures = recipe.run(settings, Progress(quiet=True)).figures
    last = max(name for name in os.listdir(settings.logdir) if name.startswith("round-"))
    best = figures[f"round {last[-1]}, best"]
    end = checkpoints.latest(os.path.join(settings.logdir, last)).path
    says = recipe.probabilities(end, val, Progress(quiet=True))
    truth = val.labels[says.pop("indices")]
    shutil.rmtree(settings.logdir)
    return {"best": float(best), **{name: float((p.argmax(1) == truth).mean()) for name, p in says.items()}}


def row(name: str, found: list[dict[str, float]]) -> tuple[str, ...]:
    best = [f["best"] for f in found]
    each = [np.mean([f[key] for f in found]) if key in found[0] else None for key in ("head", "auxiliary", "blend")]
    return (name, *(f"{x:.1%}" if x is not None else "-" for x in (np.mean(best), min(best), max(best), *each)))


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["../shared/data"]), size=int(sys.argv[2]) if sys.argv[2:] else 192)

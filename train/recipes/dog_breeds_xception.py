"""Breeds of dogs with Xception: gated features, center loss, two classifiers blended, pairs, pseudo-labels.

The dog article, a Kaggle write-up. A gated linear unit of 64 features stands on the pooled map; the loss is that of the
classifier on it, a quarter of that of a second one straight on the map, and a quarter of the features' squared
distances to the centers of their classes, which are trained. Steps show two pictures of each of some classes. First the
heads train (Adam), then the network from block13 up (SGD), then that with less augmentation. Validation pictures choose
how the two classifiers are blended. Then come rounds in which pictures without labels that are classified
with confidence join the training set.

    barenets run dog_breeds_xception --train labels.csv --weights keras_xception --unlabelled more/

Expect 98 % on 104 pictures of 40 breeds from 378, which the heads alone reach (--epochs 0 --last-epochs 0, 3 minutes);
20 minutes on two busy cores with --epochs 2.

Differs from the article: the validation pictures, and copies of their files, never come among the pseudo-labelled ones;
the blend is chosen at each validation and kept in the checkpoint.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.train import data, finetune, model, predictions
from barenets.train.blend import Blended, Classifiers
from barenets.train.data.place import exists
from barenets.train.progress import Progress
from barenets.train.recipes.recipe import Common, Report, figures, labelled, setting, written

TOP = ("base/block13*", "base/block14*", "head")


@dataclass(frozen=True)
class Settings(Common):
    """The options of `barenets run dog_breeds_xception`."""

    train: str = setting("pictures with their breeds")
    val: str | None = setting("pictures to validate on (default a part of --train)", None)
    held_out: float = setting("that part", 0.21)
    unlabelled: str | None = setting("a folder of pictures without labels", None)
    weights: str = setting("Xception's weights", "keras_xception")
    size: int = setting("side of the pictures in pixels", 299, least=1)
    units: int = setting("features of the gated linear unit", 64, least=1)
    gated: bool = setting("False leaves the gate out", True)
    auxiliary: float = setting("share of the second classifier's loss; 0 leaves it out", 0.25)
    centers: float = setting("share of the center loss; 0 leaves it out", 0.25)
    paired: int = setting("classes a step, with two pictures each; 0 for plain shuffling", 16)
    head_epochs: int = setting("epochs of the heads alone, on features that are kept", 30, least=1)
    rate: float = setting("Adam's rate for these", 1e-3)
    epochs: int = setting("epochs from block13 up", 3)
    last_epochs: int = setting("epochs of that with less augmentation", 1)
    rounds: int = setting("in which the unlabelled pictures are labelled and trained on", 1)
    confidence: float = setting("probability from which on a label is believed", 0.9)
    features: str | None = setting("where the first round's maps are kept (default in --logdir)", None)
    logdir: str = setting("where all goes", "runs/dog_breeds_xception")


def run(s: Settings, progress: Progress) -> Report:
    """Three stages, then rounds that start from the best of them with pseudo-labelled pictures more."""
    train, val = divided(s)
    unlabelled = strangers(s.unlabelled, train, val, progress) if s.unlabelled else None

    pairs = {"sampler": f"paired:{s.paired}" if s.paired else "shuffled", "keep_best": True}
    heads = {**pairs, "bottleneck": True, "layers": ("head",), "augment": "none", "epochs": s.head_epochs}
    heads |= {"optimizer": "adam", "learning_rate": s.rate, "weight_decay": 0.0}
    upper = {**pairs, "layers": TOP, "augment": "dogs", "epochs": s.epochs, "learning_rate": 1e-4, "momentum": 0.9}
    last = {**upper, "augment": "standard", "epochs": s.last_epochs}
    stages = [heads, *([upper] if s.epochs else []), *([last] if s.last_epochs else [])]

    shown: dict[str, Any] = {}
    best, where, start_from = -1.0, "", s.weights
    for number in range(1 + (s.rounds if unlabelled else 0)):
        listed = f"{s.logdir}/lists/train-{number}.txt"
        if number:
            assert unlabelled
            if not exists(listed):
                written(with_pseudo_labels(train, unlabelled, start_from, s.confidence, progress), listed)
            shown[f"round {number}, pseudo-labelled"] = len(data.read(listed)) - len(train)
        settings = finetune.Settings(
            train=listed,
            val=val.source,
            net="xception",
            head="glu",
            head_options={"features": s.units, "gated": s.gated, "auxiliary": s.auxiliary, "centers": s.centers},
            weights=start_from,
            size=s.size,
            batch_size=2 * s.paired or 32,
            blend=s.auxiliary > 0,
            features=None if number else s.features,
            stages=tuple(stages),
            **s.common(),
            logdir=f"{s.logdir}/round-{number}",
        )
        result = finetune.train(finetune.start_or_resume(settings, progress), progress)
        shown |= {f"round {number}, {name}": value for name, value in figures(result).items()}
        if result.interrupted:
            return Report(shown, interrupted=True)
        start_from = settings.logdir
        if result.best and result.best["top1"] >= best:
            best, where = result.best["top1"], settings.logdir
        stages = [upper] if s.epochs else [heads]

    shown["best"] = best
    write_predictions(s, where, unlabelled or val, progress)
    use = f"use it:  barenets predict --checkpoint {where} --images FILES_OR_FOLDER"
    return Report(shown, (f"predictions of {(unlabelled or val).source}: {s.logdir}/predictions", use))


def divided(s: Settings) -> tuple[data.Records, data.Records]:
    """What is trained on, and what is validated on: by lists that stay, however --train may change meanwhile."""
    places = [f"{s.logdir}/lists/{name}.txt" for name in ("train-0", "val")]
    if not all(map(exists, places)):
        train = labelled(s.train)
        if s.val:
            val = data.read(s.val, train.class_names)
        else:
            train, val = train.split([1 - s.held_out, s.held_out], s.seed)
        for place, records in zip(places, (train, val), strict=True):
            written(records, place)
    train = data.read(places[0])
    return train, data.read(places[1], train.class_names)


def strangers(source: str, train: data.Records, val: data.Records, progress: Progress) -> data.Records:
    """The pictures of `source` that are, byte by byte, neither among those trained on nor those validated on."""
    if train.pixels is not None or train.spans is not None:
        raise UserError(f"{train.source}: pictures without labels can join those that are files of their own only")
    paths = data.read_paths([source])
    records = data.Records(tuple(paths), np.zeros(len(paths), np.int32), train.class_names, source)
    with progress.pictures("comparing", len(train) + len(val) + len(records)) as advance:
        known = {digest(part, i, advance) for part in (train, val) for i in range(len(part))}
        new = [i for i in range(len(records)) if digest(records, i, advance) not in known]
    if not new:
        raise UserError(f"{source}: all of its {len(paths)} pictures are among the labelled ones; name others")
    progress.say(f"{source}: {len(new)} pictures, without {len(paths) - len(new)} that are among the labelled ones")
    return records.subset(new)


def digest(records: data.Records, index: int, advance: Callable[[int], None]) -> bytes:
    """SHA-256 of a picture's file; raises UserError if it cannot be read."""
    advance(1)
    try:
        return hashlib.sha256(records.content(index)).digest()
    except tf.errors.OpError:
        raise UserError(f"{records.paths[index]}: cannot be read; see `barenets data check`") from None


def probabilities(logdir: str, records: data.Records, progress: Progress) -> dict[str, np.ndarray]:
    """What each classifier of the run in `logdir`, and their blend, says of each picture: float32 [N, classes].

    "indices" are the records that could be read, int32 [N].
    """
    trained = model.from_checkpoint(logdir)
    blended = trained.net if isinstance(trained.net, Blended) else None
    classifiers = Classifiers(blended.net, [blended.name]) if blended else Classifiers(trained.net)
    batches = data.Batches(records, trained.preprocessing, 32, on_error="skip")
    with progress.pictures("predicting", len(records)) as advance:
        found = classifiers.probabilities(batches, advance)
    says = {"indices": found["indices"], "head": found[""], "blend": found[""]}
    if blended:
        other = says["auxiliary"] = found[blended.name]
        says["blend"] = blended.weight * found[""] + (1 - blended.weight) * other
    return says


def with_pseudo_labels(
    train: data.Records, unlabelled: data.Records, logdir: str, confidence: float, progress: Progress
) -> data.Records:
    """`train`, and of the unlabelled pictures those that the run in `logdir` is sure of, as what it takes them for."""
    says = probabilities(logdir, unlabelled, progress)
    sure = says["blend"].max(1) >= confidence
    chosen = unlabelled.subset(says["indices"][sure])
    labels = says["blend"].argmax(1)[sure].astype(np.int32)
    return replace(train, paths=train.paths + chosen.paths, labels=np.concatenate([train.labels, labels]))


def write_predictions(s: Settings, logdir: str, records: data.Records, progress: Progress) -> None:
    """A file of each classifier's probabilities of the pictures, and of the blend's, in the form of Kaggle's."""
    says = probabilities(logdir, records, progress)
    paths = [records.paths[i] for i in says.pop("indices")]
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    ids = stems if len(set(stems)) == len(stems) else paths
    for name, table in says.items():
        predictions.write(f"{s.logdir}/predictions/{name}.csv", ids, records.class_names, table)

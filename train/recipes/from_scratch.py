"""AlexNet, VGG-11, GoogLeNet and ResNet-18 from random numbers, on small pictures: MNIST, Fashion-MNIST, CIFAR.

The overview article's experiment: SGD with a rate of 0.01. GoogLeNet trains with both of its auxiliary classifiers.

    barenets run from_scratch --net resnet18 --train mnist:train --val mnist:test

Expect 95 % on 1,000 digits of ResNet-18 from 5,000 (--size 32 --pictures 5000 --val-pictures 1000 --epochs 2), in 9
minutes on two busy cores.

Pictures are enlarged to what the network takes, or, with --size 32, VGG and ResNet see them at about their own size.
"""

from dataclasses import dataclass

import numpy as np

from barenets import UserError
from barenets.ops import Preprocessing
from barenets.train import data, finetune, model
from barenets.train.data import preview
from barenets.train.evaluate import predict
from barenets.train.progress import Progress
from barenets.train.recipes.recipe import Common, Report, report, setting, taken

VARIANTS = {"alexnet": "one_tower", "vgg11": "paper", "googlenet": "bvlc", "resnet18": "torchvision"}
SAMPLES = 32


@dataclass(frozen=True)
class Settings(Common):
    """The options of `barenets run from_scratch`."""

    net: str = setting(f"one of {', '.join(VARIANTS)}", "resnet18")
    train: str = setting("pictures to train on", "mnist:train")
    val: str = setting("pictures to validate on", "mnist:test")
    size: int | None = setting("side of the pictures in pixels (default the network's)", None, least=1)
    epochs: int = setting("passes over the pictures", 5, least=1)
    batch_size: int = setting("pictures a step", 64, least=1)
    learning_rate: float = setting("of SGD with momentum 0.9", 0.01)
    augment: str = setting("a policy; digits must not be mirrored", "none")
    pictures: int | None = setting("how many of the pictures to train on (default all)", None, least=1)
    val_pictures: int | None = setting("how many to validate on (default all)", None, least=1)
    logdir: str = setting("where all goes", "runs/from_scratch")


def run(s: Settings, progress: Progress) -> Report:
    """One call of `finetune`, and what it reached."""
    if s.net not in VARIANTS:
        raise UserError(f"--net {s.net}: this recipe has {', '.join(VARIANTS)}; others train with barenets finetune")
    side = s.size or 224
    settings = finetune.Settings(
        train=taken(s.train, s.pictures, f"{s.logdir}/lists/train.txt", seed=s.seed),
        val=taken(s.val, s.val_pictures, f"{s.logdir}/lists/val.txt", seed=s.seed),
        net=s.net,
        variant=VARIANTS[s.net],
        size=s.size,
        # Whole pictures, about ±2, without the rim that crops of photographs leave out.
        preprocessing=Preprocessing(crop=side, resize=side, mean=(127.5,) * 3, std=(64.0,) * 3),
        epochs=s.epochs,
        batch_size=s.batch_size,
        learning_rate=s.learning_rate,
        augment=s.augment,
        **s.common(),
        logdir=s.logdir,
    )
    result = finetune.train(finetune.start_or_resume(settings, progress), progress)
    if result.interrupted:
        return report(result)
    picture = f"{s.logdir}/samples.png"
    draw_samples(s, picture)
    return report(result, f"pictures with what they are taken for: {picture}")


def draw_samples(s: Settings, path: str) -> None:
    """Some validation pictures with what the network takes them for, and what they are where that is wrong."""
    trained = model.from_checkpoint(s.logdir)
    records = data.read(s.val, trained.class_names)
    some = records.subset(np.sort(data.Shuffled(s.seed).order(records.labels, 0)[:SAMPLES]))
    batches = data.Batches(some, trained.preprocessing, SAMPLES)
    guesses = [prediction.classes[0] for prediction in predict(trained.net, batches, trained.class_names, top=1)]
    truth = [trained.class_names[label] for label in some.labels]
    titles = [g if g == t else f"{g}, is {t}" for g, t in zip(guesses, truth, strict=True)]
    (batch,) = batches.epoch(0)
    preview.grid(trained.preprocessing.pictures(batch.images), path, titles)

"""Hot dog or not: a new classifier in place of ResNet-50's own, then, if wanted, the network from the top down.

The overview article's experiment. First the head alone trains, on what the frozen base, its batch norm frozen, too,
gives for each picture; then stages from res5 down join in, each slower than the one above it.

    barenets run hotdog_resnet50 --train hotdog/train --val hotdog/val --weights keras_resnet50

Expect 94 % on 50 pictures from 200 (head alone; an untrained head has about half), in 50 seconds on two cores.

Differs from the article: the new classifier takes the place of the 1000-way softmax instead of being stacked on
it, and pictures go in as the weights want them, not divided by 255.
"""

from dataclasses import dataclass

from barenets.train import finetune, model
from barenets.train.progress import Progress
from barenets.train.recipes.recipe import Common, Report, report, setting, taken

DOWN = ("base/res5*", "base/bn5*", "base/res4*", "base/bn4*", "base/res3*", "base/bn3*")


@dataclass(frozen=True)
class Settings(Common):
    """The options of `barenets run hotdog_resnet50`."""

    train: str = setting("pictures of two or more classes")
    val: str = setting("pictures to validate on")
    weights: str = setting("ResNet-50's weights, in any variant; with or without its classifier", "keras_resnet50")
    size: int = setting("side of the pictures in pixels", 224, least=1)
    head_epochs: int = setting("epochs of the head alone, on features that are kept", 20, least=1)
    unfreeze: int = setting(
        "stages that then train too, from the top: 1 for res5, 2 for res4 as well, at most 3", 0, most=3
    )
    epochs: int = setting("epochs of each further stage", 3, least=1)
    rate: float = setting("Adam's rate for these, at the top; each layer below trains 0.95 times as fast", 1e-5)
    batch_size: int = setting("pictures a step", 20, least=1)
    pictures: int | None = setting("how many of the pictures to train on (default all)", None, least=1)
    logdir: str = setting("where all goes", "runs/hotdog_resnet50")


def run(s: Settings, progress: Progress) -> Report:
    """The head on kept features, then a stage for each of `unfreeze`."""
    head = {
        "bottleneck": True,
        "layers": ("head",),
        "epochs": s.head_epochs,
        "learning_rate": 1e-3,
        "augment": "none",
        "keep_best": True,
    }
    further = [
        {
            "layers": (*DOWN[: 2 * (i + 1)], "head"),
            "epochs": s.epochs,
            "learning_rate": s.rate,
            "rate_decay": 0.95,
            "keep_best": True,
        }
        for i in range(s.unfreeze)
    ]
    net, variant = model.choose_network(s.weights, "resnet50", None)
    settings = finetune.Settings(
        train=taken(s.train, s.pictures, f"{s.logdir}/lists/train.txt", seed=s.seed),
        val=s.val,
        net=net,
        variant=variant,
        head="linear",
        weights=s.weights,
        size=s.size,
        optimizer="adam",
        weight_decay=0.0,
        batch_size=s.batch_size,
        stages=(head, *further),
        **s.common(),
        logdir=s.logdir,
    )
    return report(finetune.train(finetune.start_or_resume(settings, progress), progress))

"""Fine-tuning AlexNet with TensorFlow: cats against dogs, its last two layers.

The AlexNet article of 2017. All layers are loaded, the last starts afresh for the new classes, and it and the one below
train, while every layer's gradient goes to TensorBoard. It starts from any weights, or from any checkpoint of ours.

    barenets run alexnet_finetune --train train.txt --val val.txt --weights bvlc_alexnet.npy

Expect 93.5 % on 400 pictures from 1,000 with the convolutions of the one-tower AlexNet alone (--layers and --reinit
fc6 fc7 fc8, README.md), in 12 minutes on two busy cores. No trained bvlc_alexnet was at hand to measure with.

Differs from the article: the norm stands before the pool, as in the network the weights are of; what is loaded,
what starts afresh and what trains are three choices; the first and the last batch are not left out.
"""

from dataclasses import dataclass

from barenets.train import finetune, model
from barenets.train.progress import Progress
from barenets.train.recipes.recipe import Common, Report, report, setting, taken


@dataclass(frozen=True)
class Settings(Common):
    """The options of `barenets run alexnet_finetune`."""

    train: str = setting("label list or folder of the pictures")
    val: str = setting("pictures to validate on")
    weights: str = setting("weights, or a run's log folder, to start from", "bvlc_alexnet")
    variant: str | None = setting("of AlexNet (default what the weights are for)", None)
    layers: tuple[str, ...] = setting("what trains", ("fc7", "fc8"))
    reinit: tuple[str, ...] = setting("what starts afresh", ("fc8",))
    epochs: int = setting("passes over the pictures", 10, least=1)
    batch_size: int = setting("pictures a step", 128, least=1)
    learning_rate: float = setting("of SGD with momentum 0.9", 0.001)
    pictures: int | None = setting("how many of the pictures to train on (default all)", None, least=1)
    logdir: str = setting("where all goes", "runs/alexnet_finetune")


def run(s: Settings, progress: Progress) -> Report:
    """One call of `finetune`, and what it reached."""
    net, variant = model.choose_network(s.weights, "alexnet", s.variant)
    settings = finetune.Settings(
        train=taken(s.train, s.pictures, f"{s.logdir}/lists/train.txt", seed=s.seed),
        val=s.val,
        net=net,
        variant=variant,
        weights=s.weights,
        layers=s.layers,
        reinit=s.reinit,
        epochs=s.epochs,
        batch_size=s.batch_size,
        learning_rate=s.learning_rate,
        **s.common(),
        logdir=s.logdir,
    )
    return report(finetune.train(finetune.start_or_resume(settings, progress), progress))

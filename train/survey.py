"""What one step of training would do to each layer of a network, measured without being done."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from barenets.look.report import Report
from barenets.ops import named_variables
from barenets.train.data import Batches
from barenets.train.finetune import note
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.summaries import SummaryWriter


def survey(
    net: Any,
    trained: Mapping[str, tf.Variable],
    batches: Batches,
    report: Report,
    writer: SummaryWriter,
    *,
    labels: bool = True,
    learning_rate: float = 0.001,
    seed: int = 0,
    advance: Callable[[int], None] = lambda pictures: None,
) -> None:
    """Tells `report` and `writer` of a step on each of `batches`, as SGD would train `trained`, and takes it back.

    The steps are numbered from 0. All values of all pictures are looked at, and the gradient is taken down to the
    pictures themselves. Without `labels` a picture counts as what the network takes it for. What each picture's own
    gradient comes to, over all variables that have one, goes to `report.pictures`, the largest first.
    """
    variables = named_variables(net)
    # Eager: a graph of a few steps takes longer to make than to run.
    trainer = Trainer(net, trained, SGD(trained, momentum=0.0), seed=seed, exact=True, eager=True)
    for step, batch in enumerate(batches.epoch(0)):
        before = {name: tf.identity(variable) for name, variable in variables.items()}
        classes = batch.labels if labels else tf.argmax(net(batch.images), 1, tf.int32)
        result = trainer.step(batch.images, classes, step, learning_rate, inside=True)
        for name, variable in variables.items():
            variable.assign(before[name])
        note(writer, report, step, result, learning_rate)
        norms = np.sqrt(np.sum([x.numpy() for x in result.inside["picture_squares"].values()], axis=0))
        losses = result.inside["losses"].numpy()
        for i, label, loss, norm in zip(batch.indices, classes.numpy(), losses, norms, strict=True):
            picture = {"path": batches.records.paths[i], "label": batches.records.class_names[label]}
            report.pictures.append(picture | {"loss": float(loss), "norm": float(norm)})
        advance(len(batch.indices))
    report.pictures.sort(key=lambda picture: -picture["norm"])

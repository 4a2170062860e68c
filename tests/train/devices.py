"""`python -m tests.train.devices COUNT OUT`: some training on so many logical devices, into an .npz.

A process of its own: how many devices a processor is must be said before TensorFlow is at work, and only once.
"""

import sys

import numpy as np
import tensorflow as tf

from barenets import ops
from barenets.ops import named_variables
from barenets.train import distribute
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD, Adam, Averaged

SIZES = (10, 8, 3, 9, 8, 1)
"""Pictures of each batch: also fewer than devices."""
CASES = {
    "watched": {"watched": True},
    "adam": {"optimizer": Adam, "rate": 0.003, "average": 0.9},
    "clipped": {"clip_norm": 0.5, "class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1, "shares": True},
    "accumulate": {"accumulate": 3, "norm": False, "dropout": 0.0},
}


class Net(tf.Module):
    """Convolution, batch norm, dropout, dense: all that a part of a batch cannot do alone, and what it can."""

    input_shape = (8, 8, 3)

    def __init__(self, norm: bool, dropout: float) -> None:
        super().__init__()
        self.conv1 = ops.Conv2D(3, 4, 3, bias=not norm, seed=(1, 0))
        self.bn1 = ops.BatchNorm(4) if norm else None
        self.conv2 = ops.SeparableConv2D(4, 4, 3, seed=(3, 0))
        self.fc2 = ops.Dense(256, 3, seed=(2, 0))
        self._dropout = dropout

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = ops.layers(tap)
        x = layer("conv1", self.conv1, x)
        if self.bn1:
            x = layer("bn1", lambda x: self.bn1(x, train=train), x)
        x = layer("relu1", tf.nn.relu, x)
        x = layer("conv2", self.conv2, x)
        x = layer("drop2", ops.layer_dropout("drop2", self._dropout, rng, train=train), tf.reshape(x, [-1, 256]))
        return layer("fc2", self.fc2, x)


def curve(
    devices, *, norm=True, dropout=0.5, optimizer=SGD, rate=0.05, average=0.0, shares=False, watched=False, **options
):
    """Loss, right ones, count and gradient's norm of each step, and all variables afterwards."""
    with devices.scope():
        net = Net(norm, dropout)
        trained = {name: v for name, v in named_variables(net).items() if v.trainable}
        stepping = optimizer(trained, weight_decay=0.01)
        if average:
            stepping = Averaged(stepping, average)
    trainer = Trainer(net, trained, stepping, devices=devices, **options)
    rng, found = np.random.default_rng(0), []
    for step, size in enumerate(SIZES):
        images = rng.standard_normal((size, *Net.input_shape)).astype(np.float32)
        labels = rng.integers(0, 3, size).astype(np.int32)
        if shares:
            labels = 0.3 + 0.1 * np.eye(3, dtype=np.float32)[labels]
        result = trainer.step(
            tf.constant(images),
            tf.constant(labels),
            step,
            rate,
            watch=watched and step > 3,
            inside=watched and step == 5,
        )
        found.append([result.loss, result.correct, result.count, result.gradient_norm])
        assert bool(result.finite)
        assert bool(result.seen) == (watched and step > 3)
    variables = named_variables(net) | {f"optimizer/{n}": v for n, v in named_variables(stepping).items()}
    copies = {name: [c.numpy() for c in getattr(v, "values", [v])] for name, v in variables.items()}
    for each in copies.values():  # all devices have the same to the bit
        assert all(copy.tobytes() == each[0].tobytes() for copy in each)
    return {"curve": np.array(found, np.float64), **{name: each[0] for name, each in copies.items()}}


def single(devices):
    """The moving averages of batch norm after a batch of one value."""
    with devices.scope():
        norm = ops.BatchNorm(2)
    step = tf.function(lambda x, y: devices.run(lambda x, y: norm(x, train=True), x, y), autograph=False)
    step(tf.constant([[[[2.0, 3.0]]]]), tf.constant([0]))
    return {name: variable.numpy() for name, variable in named_variables(norm).items()}


def curves(devices):
    """Case|name -> array, of all cases."""
    # A last batch of 3 in 3 pieces: the last of them may be without a picture on every device. Steps are finite.
    curve(devices, accumulate=3, dropout=0.0)
    found = {case: curve(devices, **options) for case, options in CASES.items()} | {"single": single(devices)}
    return {f"{case}|{name}": array for case, arrays in found.items() for name, array in arrays.items()}


if __name__ == "__main__":
    np.savez(sys.argv[2], **curves(distribute.local(int(sys.argv[1]))))

"""Steps of AlexNet: barenets, Keras 3 and torch.

    python -m benchmarks.step_time [--quick] [--batch-size N]

The forward pass, a training step of fc7 and fc8, and one of all variables (SGD, momentum 0.9, dropout), of the
network of 2012 with groups and LRN, float32, on what this machine has:

    barenets               Trainer.step
    Keras                  Conv2D(groups=2), compile() as it is, which means XLA; train_on_batch
    Keras, split           groups split by hand, compile(jit_compile=False), since without XLA TensorFlow's CPU
                           kernels have no gradient for Conv2D(groups=2)
    torch                  eager, channels_last
    torch.compile          the same, compiled

Before the clock starts, all engines get the same weights and four pictures, without dropout: the logits and the
losses of three steps must agree, and the losses must move, so that gradients, updates and freezing agree too.
(--quick times that very step, without compilers.)

The product of two 4096×4096 float32 matrices, in the same rounds, is the machine's peak. A step's own products
are those of ops.layer_table for the forward pass, and as many again for the gradients of each trained layer's
kernel and input, except the input of the lowest one, which nobody needs.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import torch

from barenets import weights
from barenets.nets import AlexNet
from barenets.ops import layer_table, named_variables, select
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import trained_variables
from benchmarks.timing import Table, comparison, interleaved, parser, ratios, report, spread

Weights = Mapping[str, np.ndarray]
MOMENTUM = 0.9
OURS = "barenets"
CHECKED = 4
"""Pictures that the engines are checked with."""


class Task(NamedTuple):
    layers: Sequence[str] | None
    """Patterns of what trains; none: everything; None: the forward pass."""
    weights: Weights
    images: np.ndarray
    """float32 NHWC"""
    labels: np.ndarray
    dropout: float
    rate: float
    """Learning rate."""

    @property
    def trained(self) -> list[str]:
        return select(self.weights, self.layers) if self.layers else list(self.weights)


class Engine(NamedTuple):
    forward: Callable[[], np.ndarray]
    """Logits, without dropout."""
    step: Callable[[], float]
    """One training step; its loss."""


Builder = Callable[[Task], Engine]


def barenets(task: Task) -> Engine:
    net = AlexNet(dropout_rate=task.dropout)
    weights.load(net, task.weights)
    trained = trained_variables(net, task.layers or ())
    trainer = Trainer(net, trained, SGD(trained, momentum=MOMENTUM))
    x, y, numbers = tf.constant(task.images), tf.constant(task.labels), itertools.count()
    forward = tf.function(net)
    return Engine(lambda: forward(x).numpy(), lambda: float(trainer.step(x, y, next(numbers), task.rate).loss))


def keras_alexnet(dropout: float, split: bool) -> keras.Model:
    kl = keras.layers
    lrn = partial(tf.nn.local_response_normalization, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)

    def grouped(x: keras.KerasTensor, name: str, filters: int, size: int) -> keras.KerasTensor:
        if not split:
            return kl.Conv2D(filters, size, padding="same", groups=2, activation="relu", name=name)(x)
        half = x.shape[-1] // 2
        parts = [kl.Lambda(lambda x: x[..., :half])(x), kl.Lambda(lambda x: x[..., half:])(x)]
        convs = [kl.Conv2D(filters // 2, size, padding="same", activation="relu", name=name + end) for end in "ab"]
        return kl.Concatenate()([conv(part) for conv, part in zip(convs, parts, strict=True)])

    x = inputs = keras.Input((227, 227, 3))
    x = kl.Conv2D(96, 11, strides=4, activation="relu", name="conv1")(x)
    x = kl.MaxPooling2D(3, 2)(kl.Lambda(lrn)(x))
    x = grouped(x, "conv2", 256, 5)
    x = kl.MaxPooling2D(3, 2)(kl.Lambda(lrn)(x))
    x = kl.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = grouped(x, "conv4", 384, 3)
    x = grouped(x, "conv5", 256, 3)
    x = kl.Flatten()(kl.MaxPooling2D(3, 2)(x))
    x = kl.Dropout(dropout)(kl.Dense(4096, activation="relu", name="fc6")(x))
    x = kl.Dropout(dropout)(kl.Dense(4096, activation="relu", name="fc7")(x))
    return keras.Model(inputs, kl.Dense(1000, name="fc8")(x))


def keras_engine(task: Task, *, split: bool) -> Engine:
    model = keras_alexnet(task.dropout, split)
    for layer in model.layers:
        if not layer.weights:
            continue
        name = layer.name.rstrip("ab")
        values = [task.weights[f"{name}/weights"], task.weights[f"{name}/biases"]]
        if layer.name != name:  # one half: of the kernel, the output channels
            values = [np.split(value, 2, -1)["ab".index(layer.name[-1])] for value in values]
        layer.set_weights(values)
        layer.trainable = f"{name}/weights" in task.trained
    model.compile(
        keras.optimizers.SGD(task.rate, momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False if split else "auto",
    )
    x, y = tf.constant(task.images), tf.constant(task.labels)

    def step() -> float:
        model.reset_metrics()  # or the loss is the mean over all steps so far
        return float(model.train_on_batch(x, y))

    return Engine(lambda: np.asarray(model.predict_on_batch(x)), step)


def torch_alexnet(dropout: float) -> torch.nn.Sequential:
    nn = torch.nn
    lrn, pool = partial(nn.LocalResponseNorm, 5, 1e-4, 0.75, 1.0), partial(nn.MaxPool2d, 3, 2)
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), lrn(), pool()),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), lrn(), pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), pool(), nn.Flatten()),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(4096, 1000),
    )


def torch_engine(task: Task, *, compiled: bool) -> Engine:
    with torch.device("meta"):  # no time spent on first values
        net = torch_alexnet(task.dropout)
    net = net.to_empty(device="cpu")
    with torch.no_grad():
        for (name, value), parameter in zip(task.weights.items(), net.parameters(), strict=True):
            if name == "fc6/weights":  # its rows: from height, width, channel order to torch's
                value = value.reshape(6, 6, 256, -1).transpose(2, 0, 1, 3).reshape(value.shape)
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value.transpose(axes))))
            parameter.requires_grad_(name in task.trained)
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], task.rate, MOMENTUM)
    x = torch.from_numpy(task.images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(task.labels).long()
    model = torch.compile(net) if compiled else net

    def forward() -> np.ndarray:
        net.eval()
        with torch.no_grad():
            return model(x).numpy()

    def step() -> float:
        net.train()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Engine(forward, step)


ENGINES: dict[str, Builder] = {
    OURS: barenets,
    "Keras": partial(keras_engine, split=False),
    "Keras, split": partial(keras_engine, split=True),
    "torch": partial(torch_engine, compiled=False),
    "torch.compile": partial(torch_engine, compiled=True),
}


@cache
def alexnet() -> AlexNet:
    """For its shapes."""
    return AlexNet()


@cache
def start() -> Weights:
    """He et al.'s scale, so that every layer's activations and gradients count; conv3 shrinks what LRN needs large."""
    rng = np.random.default_rng(0)
    values = {}
    for name, variable in named_variables(alexnet()).items():
        shape = tuple(variable.shape)
        scale = 0.1 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[:-1]))
        scale *= 0.02 if name == "conv3/weights" else 1
        values[name] = np.float32(scale) * rng.standard_normal(shape, np.float32)
    return values


def task(layers: Sequence[str] | None, batch: int, *, dropout: float, rate: float) -> Task:
    rng = np.random.default_rng(1)
    images = 50 * rng.standard_normal((batch, 227, 227, 3), np.float32)
    return Task(layers, start(), images, rng.integers(0, 1000, batch, np.int32), dropout, rate)


def checked(builders: Mapping[str, Builder], layers: Sequence[str] | None) -> tuple[dict[str, Engine], str]:
    """The engines for a small task, and by how much they differ. AssertionError if they compute different things."""
    rate = 1e-4 if layers else 1e-6  # conv1, with pictures of ±50, has the larger gradients
    engines = {name: build(task(layers, CHECKED, dropout=0.0, rate=rate)) for name, build in builders.items()}
    logits = {name: engine.forward() for name, engine in engines.items()}
    losses = {name: np.array([engine.step() for _ in range(3)]) for name, engine in engines.items()}
    wanted = losses[OURS]
    assert abs(wanted[-1] - wanted[0]) > 0.1 * wanted[0], f"the losses {wanted} hardly move, so they show nothing"
    for name in engines:
        limit = 1e-3 * np.abs(logits[OURS]).max()
        np.testing.assert_allclose(logits[name], logits[OURS], rtol=0, atol=limit, err_msg=name)
        np.testing.assert_allclose(losses[name], wanted, rtol=2e-3, err_msg=name)  # ties in max pooling fall either way
    difference = max(float(np.abs(values / wanted - 1).max()) for values in losses.values())
    return engines, f"Checked: losses {wanted.round(3).tolist()} in all engines, relative difference {difference:.0e}."


def operations(layers: Sequence[str] | None) -> float:
    """Floating-point operations of the products in one picture's share of a task."""
    rows = {row.name: 2.0 * row.multiply_adds for row in layer_table(alexnet()) if row.multiply_adds}
    trained = [] if layers is None else select(rows, layers) if layers else list(rows)
    backward = 2 * sum(rows[name] for name in trained) - (rows[trained[0]] if trained else 0.0)
    return sum(rows.values()) + backward


def compare(
    title: str, builders: Mapping[str, Builder], layers: Sequence[str] | None, batch: int, rounds: int, side: int
) -> Table:
    engines, note = checked(builders, layers)
    if batch != CHECKED:
        engines.clear()
        # With a rate that changes nothing: a loss that grew to NaN would be another step than the one that is meant.
        engines = {name: build(task(layers, batch, dropout=0.5, rate=1e-9)) for name, build in builders.items()}
    calls: dict[str, Callable[[], object]] = {
        name: engine.forward if layers is None else engine.step for name, engine in engines.items()
    }
    peak = f"matmul {side}"
    a, b = (tf.random.stateless_normal((side, side), (0, seed)) for seed in (1, 2))
    times = interleaved({**calls, peak: lambda: tf.matmul(a, b).numpy()}, rounds)
    assert layers is None or all(math.isfinite(engine.step()) for engine in engines.values())
    work = operations(layers) * batch / (2.0 * side**3)  # in matrix products
    return comparison(
        f"{title}, batch of {batch}",
        times,
        OURS,
        [note],
        pictures_per_second={name: f"{batch / np.median(times[name]):.1f}" for name in calls},
        percent_of_matmul={name: spread((100 * work / r for r in ratios(times, name, peak)), ".0f") for name in calls},
    )


def main() -> None:
    options = parser(__doc__, rounds=10)
    options.add_argument("--batch-size", type=int, default=128)
    args = options.parse_args()
    batch, rounds, side = args.batch_size, args.rounds, 4096
    builders = ENGINES
    tasks: dict[str, Sequence[str] | None] = {
        "Forward": None,
        "Training step of fc7 and fc8": ("fc7", "fc8"),
        "Training step of all variables": (),
    }
    if args.quick:
        batch, rounds, side = CHECKED, 1, 256
        builders = {name: ENGINES[name] for name in (OURS, "Keras, split", "torch")}
        tasks = {"Training step of fc7 and fc8": ("fc7", "fc8")}
    report([compare(title, builders, layers, batch, rounds, side) for title, layers in tasks.items()], args.json)


if __name__ == "__main__":
    main()

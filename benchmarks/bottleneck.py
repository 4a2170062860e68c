"""Fifty epochs of a new head on a frozen VGG16: on features kept on disk, and on the network run whole.

    python -m benchmarks.bottleneck [--quick]

Drawn pictures of two classes, of 64 × 64 and in batches of 20, without augmentation; the network has random values.
The head is dense-256, dropout, two classes, trained with RMSprop. Each variant makes its trainer anew and reads the
pictures from files, so tracing, the base's one pass and writing its maps to disk are in the time:

    barenets, features   compute, then FeatureBatches: the base once, the head 50 times
    barenets, whole      Headed(base, head), of which the head trains: the base's forward pass in every epoch
    Keras, features      image_dataset_from_directory, predict, and fit of a Sequential on the result in memory; the
                         same head, and as it comes

Before the clock starts, two epochs: both heads of barenets must agree, and Keras's features with those on disk.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from barenets import nets
from barenets.nets import DenseHead, Headed
from barenets.ops import Preprocessing, named_variables
from barenets.train import data
from barenets.train.data import Batches, Records, Shuffled
from barenets.train.data.features import FeatureBatches, compute
from barenets.train.loop import Trainer
from barenets.train.optimizers import RMSprop
from barenets.train.select import trained_variables
from benchmarks.data import draw
from benchmarks.timing import comparison, interleaved, parser, ratios, report, spread

SIDE, BATCH, RATE = 64, 20, 1e-4
OURS, WHOLE, KERAS = "barenets, features", "barenets, whole", "Keras, features"
PREPROCESSING = Preprocessing(crop=SIDE, resize=SIDE, keep_aspect=False, antialias=False, scale=127.5, mean=(1, 1, 1))


def trained(net: tf.Module, batches: Batches | FeatureBatches, epochs: int) -> dict[str, np.ndarray]:
    """The head's variables, after training them alone."""
    variables = trained_variables(net, ["head"] if isinstance(net, Headed) else [])
    trainer, step = Trainer(net, variables, RMSprop(variables)), 0
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            result = trainer.step(batch.images, batch.labels, step, RATE)
            step += 1
    assert bool(result.finite)
    return {name.removeprefix("head/"): variable.numpy() for name, variable in variables.items()}


def on_features(base: tf.Module, records: Records, epochs: int) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        features = compute(base, Batches(records, PREPROCESSING, BATCH), folder)
        head = DenseHead(features.shape, 2)
        head.input_shape = features.shape
        return trained(head, FeatureBatches(features, records, BATCH, Shuffled()), epochs)


def on_whole(base: tf.Module, records: Records, epochs: int) -> dict[str, np.ndarray]:
    net = Headed(base, DenseHead((SIDE // 32, SIDE // 32, 512), 2), input_shape=(SIDE, SIDE, 3))
    return trained(net, Batches(records, PREPROCESSING, BATCH, sampler=Shuffled()), epochs)


def keras_base(base: tf.Module) -> keras.Model:
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    model.set_weights([variable.numpy() for variable in named_variables(base).values()])
    return model


def keras_features(model: keras.Model, folder: str) -> tuple[np.ndarray, np.ndarray]:
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIDE, SIDE), batch_size=BATCH, shuffle=False, verbose=False
    )
    labels = np.concatenate([labels for _, labels in dataset])
    return model.predict(dataset.map(lambda images, _: images / 127.5 - 1), verbose=0), labels


def with_keras(base: keras.Model, folder: str, epochs: int) -> float:
    maps, labels = keras_features(base, folder)
    layers = keras.layers
    top = keras.Sequential([layers.Flatten(), layers.Dense(256, "relu"), layers.Dropout(0.5), layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    top.compile(keras.optimizers.RMSprop(RATE), loss, metrics=["accuracy"])
    history = top.fit(maps, labels, BATCH, epochs, verbose=0)
    return float(history.history["loss"][-1])


def checked(base: tf.Module, model: keras.Model, records: Records, folder: str) -> str:
    """By how much the variants differ. AssertionError if they compute different things."""
    found, expected = (function(base, records, 2) for function in (on_features, on_whole))
    off = max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in found)
    assert off < 1e-5, f"the heads differ by {off:.0e} of their largest weight"
    maps, labels = keras_features(model, folder)
    np.testing.assert_array_equal(labels, records.labels)
    with tempfile.TemporaryDirectory() as place:
        ours = compute(base, Batches(records, PREPROCESSING, BATCH), place).maps(np.arange(len(records)))
    apart = float(np.abs(maps - ours).max() / np.abs(ours).max())
    assert apart < 1e-4, f"Keras's features differ by {apart:.0e} of the largest"
    with_keras(model, folder, 2)
    return f"Checked: barenets's heads differ by {off:.0e} of the largest weight, Keras's features by {apart:.0e}."


def main() -> None:
    args = parser(__doc__, rounds=3).parse_args()
    pictures, epochs, rounds = (20, 2, 1) if args.quick else (40, 50, args.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, "pictures"))
        draw(Path(folder), pictures)
        records = data.read(folder)
        base = nets.build("vgg16", num_classes=None)
        model = keras_base(base)
        note = checked(base, model, records, folder)
        variants: Mapping[str, Callable[[], object]] = {
            OURS: lambda: on_features(base, records, epochs),
            WHOLE: lambda: on_whole(base, records, epochs),
            KERAS: lambda: with_keras(model, folder, epochs),
        }
        times = interleaved(variants, rounds, warm_up=0)
    faster = f"Features are {spread(ratios(times, WHOLE, OURS), '.1f')} times as fast as the network run whole."
    title = f"{epochs} epochs of {pictures} pictures"
    report([comparison(title, times, OURS, [faster, note])], args.json)


if __name__ == "__main__":
    main()

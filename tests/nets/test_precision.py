"""One step of every family in 16 bits: it is finite, and its gradient points where float32's does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.ops import named_variables
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import freeze_norms

SIDES = {"alexnet": 224, "vgg11": 32, "googlenet": 64, "inception_v2": 64, "inception_v3": 75, "resnet18": 64}
SIDES["xception"] = 71


def gradient(name: str, precision: str) -> np.ndarray:
    """That of all variables together, of a head on the last map of small pictures."""
    side = SIDES[name]
    variant = "one_tower" if name == "alexnet" else None
    net = nets.build(name, num_classes=3, variant=variant or nets.variants(name)[0], head="linear", size=side)
    trained = {name: v for name, v in named_variables(net).items() if v.trainable}
    if name.startswith("inception"):  # on maps of a pixel or two, statistics of 8 pictures turn with any rounding
        freeze_norms(net, {})
    before = [v.numpy() for v in trained.values()]
    ours = Trainer(net, trained, SGD(trained, momentum=0.0), precision=precision)
    rng = np.random.default_rng(1)
    images, labels = tf.constant(rng.normal(0, 1, (8, side, side, 3)), tf.float32), tf.constant([0, 1, 2, 0] * 2)
    while not (result := ours.step(images, labels, 0, 1e-3)).finite:
        assert ours.accepts(result)
    return np.concatenate([np.ravel(a - v.numpy()) for a, v in zip(before, trained.values(), strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDES)
def test_a_step(name):
    exact = gradient(name, "float32")
    for precision, cosine in {"bfloat16": 0.85, "float16": 0.98}.items():
        ours = gradient(name, precision)
        assert float(ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact)) > cosine, precision

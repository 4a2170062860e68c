"""VGG16, GoogLeNet and ResNet-50 against OpenCV's Caffe importer with the same weights, activation by activation."""

from collections.abc import Callable

import numpy as np
import pytest

from barenets import nets, weights
from barenets.ops import named_variables
from tests.nets import prototxt
from tests.nets.parity import agrees, opencv_network, opencv_outputs

LOGITS = 1e-4
"""Largest difference of a logit, as a part of the largest one where that is above 1."""
MAPS = {"vgg16": {"fc6": 7}}
"""Dense layers that read a map, with its side."""

NETWORKS: dict[str, tuple[str, Callable[[], str]]] = {
    "vgg16": ("paper", prototxt.vgg16),
    "googlenet": ("bvlc", prototxt.bvlc_googlenet),
    "resnet50": ("caffe", prototxt.resnet50),
}


def random_weights(net, seed: int = 0) -> dict[str, np.ndarray]:
    """He's scale, so that activations keep theirs; batch norm's statistics are not those of the data."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, variable in named_variables(net).items():
        shape, part = tuple(variable.shape), name.rpartition("/")[2]
        if part in ("gamma", "moving_variance"):
            value = rng.uniform(0.7, 1.3, shape)
        elif part == "weights":
            value = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        arrays[name] = value.astype(np.float32)
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_opencv(name):
    variant, text = NETWORKS[name]
    options = {"auxiliary": False} if name == "googlenet" else {}
    net = nets.build(name, variant=variant, **options)
    arrays = random_weights(net)
    weights.load(net, arrays)
    theirs = opencv_network(text(), arrays, MAPS.get(name, {}))
    # As loud as pictures are: LRN's 1 + 2e-5 Σ x² is then far from 1.
    x = np.random.default_rng(1).normal(0, 70 if name == "googlenet" else 1, (1, 224, 224, 3)).astype(np.float32)

    seen: dict[str, np.ndarray] = {}
    logits = net(x, tap=lambda key, y: seen.setdefault(key, y)).numpy()
    # Our batch norm ends with gamma and beta, as Caffe's Scale does.
    outputs = opencv_outputs(theirs, x)
    expected = {layer: y for layer, y in outputs.items() if layer in seen and not layer.startswith("bn")}
    expected |= {layer.replace("scale", "bn"): y for layer, y in outputs.items() if layer.startswith("scale")}
    ours = {layer: np.asarray(seen[layer]).reshape(y.shape) for layer, y in expected.items()}
    assert len(expected) > 0.9 * len(seen)
    agrees(ours, expected, 1e-3)
    last = expected[list(seen)[-1]]
    assert np.abs(logits - last).max() < LOGITS * max(1.0, np.abs(last).max())
    assert np.abs(last).max() > 0.1

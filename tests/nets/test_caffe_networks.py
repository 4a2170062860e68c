"""VGG16, GoogLeNet and ResNet-50 against OpenCV's Caffe importer with the same weights, activation by activation."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from barenets import nets, weights
from barenets.ops import named_variables
from tests.caffe import caffemodel
from tests.nets import prototxt
from tests.nets.parity import agrees, nhwc

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


def caffe_layers(arrays: dict[str, np.ndarray], maps: dict[str, int]) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Our arrays as Caffe's layers; a batch norm becomes BatchNorm, with a factor that is not 1, and Scale."""
    layers: dict[str, tuple[str, list[np.ndarray]]] = {}
    for layer in dict.fromkeys(name.rpartition("/")[0] for name in arrays):
        own = {name.rpartition("/")[2]: a for name, a in arrays.items() if name.rpartition("/")[0] == layer}
        if "gamma" in own:
            factor = np.float32([4.0])
            layers[layer] = "BatchNorm", [own["moving_mean"] * 4, own["moving_variance"] * 4, factor]
            layers[layer.replace("bn", "scale")] = "Scale", [own["gamma"], own["beta"]]
            continue
        w = own["weights"]
        rest = [own["biases"]] if "biases" in own else []
        if w.ndim == 4:
            layers[layer] = "Convolution", [w.transpose(3, 2, 0, 1), *rest]
        else:
            if side := maps.get(layer):
                w = w.reshape(side, side, -1, w.shape[1]).transpose(2, 0, 1, 3).reshape(w.shape)
            layers[layer] = "InnerProduct", [w.T, *rest]
    return layers


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_opencv(name):
    variant, text = NETWORKS[name]
    options = {"auxiliary": False} if name == "googlenet" else {}
    net = nets.build(name, variant=variant, **options)
    arrays = random_weights(net)
    weights.load(net, arrays)
    model = caffemodel(caffe_layers(arrays, MAPS.get(name, {})))
    theirs = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8) for part in (text().encode(), model)))
    theirs.enableFusion(False)
    # As loud as pictures are: LRN's 1 + 2e-5 Σ x² is then far from 1.
    x = np.random.default_rng(1).normal(0, 70 if name == "googlenet" else 1, (1, 224, 224, 3)).astype(np.float32)
    theirs.setInput(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    seen: dict[str, np.ndarray] = {}
    logits = net(x, tap=lambda key, y: seen.setdefault(key, y)).numpy()
    # Our batch norm ends with gamma and beta, as Caffe's Scale does.
    names = [layer for layer in theirs.getLayerNames() if layer in seen and not layer.startswith("bn")]
    names += [layer for layer in theirs.getLayerNames() if layer.startswith("scale")]
    expected = {layer.replace("scale", "bn"): nhwc(y) for layer, y in zip(names, theirs.forward(names), strict=True)}
    ours = {layer: np.asarray(seen[layer]).reshape(y.shape) for layer, y in expected.items()}
    assert len(names) > 0.9 * len(seen)
    agrees(ours, expected, 1e-3)
    last = expected[list(seen)[-1]]
    assert np.abs(logits - last).max() < LOGITS * max(1.0, np.abs(last).max())
    assert np.abs(last).max() > 0.1

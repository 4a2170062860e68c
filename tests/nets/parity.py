"""A Caffe network's activations as OpenCV computes them, and how near ours must come."""

from collections.abc import Mapping

import cv2
import numpy as np

from tests.caffe import caffemodel

RELATIVE = 1e-3
"""Largest difference in an activation, as a part of that activation's largest absolute value."""
SOFTMAX = 1e-5
"""Largest absolute difference in a probability."""


def caffe_layers(
    weights: Mapping[str, np.ndarray], map_sides: Mapping[str, int] | None = None
) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Layer -> Caffe's type and blobs, from our `conv1/weights` (HWIO, [in, out]); torch has the same layout.

    `map_sides` names the dense layers that read a map, with its side (default fc6: 6): their rows go
    from our H, W, C order to C, H, W. A batch norm becomes BatchNorm, with a factor that is not 1, and Scale.
    """
    map_sides = {"fc6": 6} if map_sides is None else map_sides
    layers = {}
    for layer in dict.fromkeys(name.rpartition("/")[0] for name in weights):
        own = {key.rpartition("/")[2]: np.asarray(a) for key, a in weights.items() if key.rpartition("/")[0] == layer}
        if "gamma" in own:
            factor = np.float32([4.0])
            layers[layer] = "BatchNorm", [own["moving_mean"] * factor, own["moving_variance"] * factor, factor]
            layers[layer.replace("bn", "scale")] = "Scale", [own["gamma"], own["beta"]]
            continue
        w, *b = (own[kind] for kind in ("weights", "biases") if kind in own)
        if w.ndim == 4:
            layers[layer] = "Convolution", [w.transpose(3, 2, 0, 1), *b]
            continue
        if side := map_sides.get(layer):
            w = w.reshape(side, side, -1, w.shape[1]).transpose(2, 0, 1, 3).reshape(w.shape)
        layers[layer] = "InnerProduct", [w.T, *b]
    return layers


def opencv_network(
    text: str, weights: Mapping[str, np.ndarray], map_sides: Mapping[str, int] | None = None
) -> cv2.dnn.Net:
    """The network of the prototxt `text` with our `weights`, which reach OpenCV in a caffemodel made here."""
    model = caffemodel(caffe_layers(weights, map_sides))
    net = cv2.dnn.readNetFromCaffe(*(np.frombuffer(part, np.uint8) for part in (text.encode(), model)))
    net.enableFusion(False)  # or relu1 would be computed inside conv1
    return net


def opencv_outputs(net: cv2.dnn.Net, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output by name, NHWC and in the prototxt's order, for pictures `x` (NHWC)."""
    net.setInput(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32))
    names = net.getLayerNames()
    return {name: nhwc(y) for name, y in zip(names, net.forward(names), strict=True)}


def opencv_activations(
    text: str, weights: Mapping[str, np.ndarray], x: np.ndarray, map_sides: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """`opencv_outputs` of a network that is needed once."""
    return opencv_outputs(opencv_network(text, weights, map_sides), x)


def nhwc(y: np.ndarray) -> np.ndarray:
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def agrees(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], relative: float = RELATIVE
) -> dict[str, float]:
    """The largest difference in each layer; but for "prob", relative to the layer's largest value.

    Raises AssertionError that names the first layer, in `theirs`' order, that differs too much.
    """
    assert set(ours) == set(theirs), f"layers that only one side has: {sorted(set(ours) ^ set(theirs))}"
    differences = {}
    for name, expected in theirs.items():
        got = np.asarray(ours[name])
        assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
        scale, limit = (1.0, SOFTMAX) if name == "prob" else (np.abs(expected).max(), relative)
        differences[name] = float(np.abs(got - expected).max() / scale)
        assert differences[name] <= limit, f"{name}: differs by {differences[name]:.2g}, limit {limit:.0e}"
    return differences

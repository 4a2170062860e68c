"""The networks against keras.applications with the same weights: every comparable activation."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from barenets import nets, weights
from barenets.ops import layer_table, named_variables
from tests.nets.parity import agrees

LOGITS = 1e-4
"""Largest absolute difference of a logit; they are of the order of 1."""
ACTIVATION = 1e-4
"""Largest difference of an activation, as a part of the layer's largest value: float32 sums in another order."""

PARTS = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}


def vgg(name: str) -> str:
    fc = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}
    return fc.get(name) or re.sub(r"block(\d)_(conv\d|pool)", lambda m: _vgg_part(m[1], m[2]), name)


def _vgg_part(block: str, part: str) -> str:
    return f"pool{block}" if part == "pool" else f"conv{block}_{part[-1]}"


def resnet(depth: int) -> Callable[[str], str]:
    def rename(name: str) -> str:
        if match := re.fullmatch(r"conv(\d)_block(\d+)_(?:(\d)_(conv|bn)|(add|out))", name):
            stage, block, branch, kind, sum_ = match.groups()
            letter = "abcdef"[int(block) - 1 : int(block)]
            if depth > 50 and stage in "34":
                letter = f"b{int(block) - 1}" if int(block) > 1 else "a"
            if sum_:
                return f"res{stage}{letter}" + ("_relu" if sum_ == "out" else "")
            part = "branch1" if branch == "0" else "branch2" + "abc"[int(branch) - 1]
            return f"{'res' if kind == 'conv' else 'bn'}{stage}{letter}_{part}"
        top = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "conv1_relu": "conv1_relu", "pool1_pool": "pool1"}
        return top.get(name) or {"avg_pool": "pool5", "predictions": "fc1000"}.get(name, "")

    return rename


def xception(name: str) -> str:
    if match := re.fullmatch(r"(conv2d|batch_normalization)_?(\d*)", name):
        block = (2, 3, 4, 13)[int(match[2] or 0) % 4]
        return f"block{block}_residual" + ("_bn" if match[1] != "conv2d" else "")
    if match := re.fullmatch(r"add_?(\d*)", name):
        return f"block{(*range(2, 14),)[int(match[1] or 0) % 12]}_add"
    return name


def inception_v3(net) -> Callable[[str], str]:
    """Keras numbers its convolutions in the order in which slim makes them."""
    convs = [key.removesuffix("/weights") for key in named_variables(net) if key.endswith("/weights")][:-1]
    mixed = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]

    def rename(name: str) -> str:
        if match := re.fullmatch(r"(conv2d|batch_normalization|activation)_?(\d*)", name):
            conv = convs[int(match[2] or 0)]
            parent, slash, last = conv.rpartition("/")
            return {
                "conv2d": conv,
                "batch_normalization": f"{conv}/bn",
                "activation": f"{parent}{slash}relu_{last}",
            }[match[1]]
        if match := re.fullmatch(r"mixed(\d+)", name):
            return f"Mixed_{mixed[int(match[1])]}"
        return {"avg_pool": "Logits/AvgPool_1a", "predictions": "Logits/Conv2d_1c_1x1"}.get(name, "")

    return rename


MODELS = {
    "vgg16": ("VGG16", "paper", 224),
    "vgg19": ("VGG19", "paper", 224),
    "resnet50": ("ResNet50", "keras", 224),
    "resnet101": ("ResNet101", "keras", 224),
    "resnet152": ("ResNet152", "keras", 224),
    "inception_v3": ("InceptionV3", "slim", 299),
    "xception": ("Xception", "keras", 299),
}


def pair(name: str):
    """Ours and Keras's network with the same random weights, and how Keras's layers are called here."""
    import keras

    kind, variant, _ = MODELS[name]
    keras.backend.clear_session()  # layer counters start from 0
    keras.utils.set_random_seed(1)
    model = getattr(keras.applications, kind)(weights=None, classifier_activation=None)
    options = {"auxiliary": False} if name == "inception_v3" else {}
    net = nets.build(name, variant=variant, **options)
    rename = {"vgg": lambda: vgg, "res": lambda: resnet(int(name[6:])), "inc": lambda: inception_v3(net)}.get(
        name[:3], lambda: xception
    )()
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in model.layers:
        for variable in layer.weights:
            value = variable.numpy()
            if "moving_variance" in variable.path or "gamma" in variable.path:
                value = rng.uniform(0.7, 1.3, value.shape).astype(np.float32)
            elif value.ndim == 1:
                value = rng.normal(0, 0.1, value.shape).astype(np.float32)
            variable.assign(value)
            part = variable.path.rpartition("/")[2]
            arrays[f"{rename(layer.name)}/{PARTS.get(part, part)}"] = value
    weights.load(net, arrays)
    return net, model, rename


def pictures(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, side, side, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_activations(name):
    import keras

    net, model, rename = pair(name)
    x = pictures(MODELS[name][2])
    seen = {}
    ours = net(x, tap=lambda key, y: seen.setdefault(key, y)).numpy()
    fused = {layer.name for layer in model.layers if getattr(layer, "activation", None) not in (None, _linear())}
    comparable = {
        layer.name: seen[rename(layer.name)]
        for layer in model.layers
        if rename(layer.name) in seen and layer.name not in fused
    }
    expected = keras.Model(model.input, {key: model.get_layer(key).output for key in comparable})(x)
    assert len(comparable) > 5
    agrees(
        {key: np.asarray(value) for key, value in comparable.items()},
        {key: np.asarray(value) for key, value in expected.items()},
        ACTIVATION,
    )
    logits = np.asarray(model(x))
    assert 0.1 < np.abs(logits).max() < 100
    assert np.abs(ours - logits).max() < LOGITS * max(1.0, np.abs(logits).max())


def _linear():
    import keras

    return keras.activations.linear


COUNTS = {  # keras.applications' own, trainable
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "inception_v3": 23_817_352,
    "xception": 22_855_952,
    "resnet50": 25_583_592,
    "resnet101": 44_601_832,
    "resnet152": 60_268_520,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    options = {"auxiliary": False} if name == "inception_v3" else {}
    net = nets.build(name, variant=MODELS[name][1], **options)
    assert sum(layer.parameters for layer in layer_table(net)) == COUNTS[name]

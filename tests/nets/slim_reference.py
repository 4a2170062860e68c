"""TF-slim's networks at inference, and the variables of their checkpoints: what its published sources say, with
tf.nn alone and nothing of ours.

`tensorflow/models`, research/slim/nets: vgg.py, resnet_v1.py, resnet_utils.py, inception_v1.py to inception_v3.py,
inception_utils.py.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import tensorflow as tf

Shape = tuple[int, ...]
Get = Callable[[str, Shape], tf.Tensor]
"""The variable of a full name and a shape."""


def logits(network: str, values: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Of a network, or an auxiliary head, in NETWORKS; with the background's class, for the 1001 of Inception."""

    def get(name: str, shape: Shape) -> np.ndarray:
        assert values[name].shape == shape, name
        return values[name]

    return NETWORKS[network](get, tf.constant(x)).numpy()


def shapes(network: str) -> dict[str, Shape]:
    """Of the network's variables, by full name."""
    found: dict[str, Shape] = {}

    def get(name: str, shape: Shape) -> tf.Tensor:
        found[name] = shape
        return tf.compat.v1.placeholder(tf.float32, shape)

    side = 299 if network == "inception_v3" else 224
    with tf.Graph().as_default():
        for head in (network, f"{network}/AuxLogits"):
            if head in NETWORKS:
                NETWORKS[head](get, tf.zeros((1, side, side, 3)))
    return found


def variables(network: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Those of the network by full name, with random values: kernels at He's scale, statistics that are some."""
    rng = np.random.default_rng(seed)
    return {name: _value(name, shape, rng) for name, shape in shapes(network).items()}


def bookkeeping(network: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What else checkpoints hold: those published the step and, of VGG and ResNet, the mean; those of a training run
    what the optimizer and averages keep for each variable (here for the first), which are not the variables' values.
    """
    found = {"global_step": np.int64(470_000), "beta1_power": np.float32(0.9)}
    if not network.startswith("inception"):
        found[f"{network}/mean_rgb"] = np.float32([123.68, 116.78, 103.94])
    for name in list(values)[:5]:
        for slot in ("Momentum", "RMSProp", "RMSProp_1", "Adam", "Adam_1", "ExponentialMovingAverage"):
            found[f"{name}/{slot}"] = values[name] + 7
    return found


def _value(name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    kind = name.rpartition("/")[2]
    value = rng.standard_normal(shape, np.float32)
    if kind == "depthwise_weights":
        return value * np.float32((2 / np.prod(shape[:2])) ** 0.5)
    if kind in ("weights", "pointwise_weights"):
        return value * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
    if kind == "moving_variance":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "gamma":  # so that the sums of ResNet's units stay of the size of their terms
        return rng.uniform(0.4, 0.8, shape).astype(np.float32)
    return value * np.float32(0.3)


def conv(
    get: Get,
    scope: str,
    x: tf.Tensor,
    filters: int,
    size: Shape = (1, 1),
    stride: int = 1,
    padding: str = "SAME",
    epsilon: float | None = None,
    gamma: bool = False,
    relu: bool = True,
) -> tf.Tensor:
    """slim.conv2d: batch norm of `epsilon`, with a gamma only where `gamma`, or else biases; then ReLU."""
    x = tf.nn.conv2d(x, get(f"{scope}/weights", (*size, x.shape[-1], filters)), stride, padding)
    if epsilon is None:
        x = x + get(f"{scope}/biases", (filters,))
    else:
        scale, beta, mean, variance = (
            get(f"{scope}/BatchNorm/{kind}", (filters,)) if kind != "gamma" or gamma else tf.ones(filters)
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = scale * (x - mean) / tf.sqrt(variance + epsilon) + beta
    return tf.nn.relu(x) if relu else x


def vgg_16(get: Get, x: tf.Tensor) -> tf.Tensor:
    for block, (count, filters) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, count + 1):
            x = conv(get, f"vgg_16/conv{block}/conv{block}_{i}", x, filters, (3, 3))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = conv(get, "vgg_16/fc6", x, 4096, (7, 7), padding="VALID")
    x = conv(get, "vgg_16/fc7", x, 4096)
    return tf.squeeze(conv(get, "vgg_16/fc8", x, 1000, relu=False), [1, 2])


def resnet_v1(depth: int, units: tuple[int, ...], get: Get, x: tf.Tensor) -> tf.Tensor:
    """The last unit of a block strides: its 3×3 convolution, and its shortcut, which leaves pixels out."""
    norm = partial(conv, get, epsilon=1e-5, gamma=True)

    def conv2d_same(scope: str, x: tf.Tensor, filters: int, side: int, stride: int) -> tf.Tensor:
        if stride == 1:
            return norm(scope, x, filters, (side, side))
        before = (side - 1) // 2
        pad = [before, side - 1 - before]
        return norm(scope, tf.pad(x, [[0, 0], pad, pad, [0, 0]]), filters, (side, side), stride, "VALID")

    top = f"resnet_v1_{depth}"
    x = conv2d_same(f"{top}/conv1", x, 64, 7, 2)
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for block, count in enumerate(units, 1):
        inner = 32 * 2**block
        for unit in range(1, count + 1):
            scope = f"{top}/block{block}/unit_{unit}/bottleneck_v1"
            stride = 2 if unit == count and block < 4 else 1
            if x.shape[-1] == 4 * inner:
                shortcut = tf.nn.max_pool2d(x, 1, stride, "SAME")
            else:
                shortcut = norm(f"{scope}/shortcut", x, 4 * inner, stride=stride, relu=False)
            y = norm(f"{scope}/conv1", x, inner)
            y = conv2d_same(f"{scope}/conv2", y, inner, 3, stride)
            x = tf.nn.relu(shortcut + norm(f"{scope}/conv3", y, 4 * inner, relu=False))
    x = tf.reduce_mean(x, [1, 2], keepdims=True)
    return tf.squeeze(conv(get, f"{top}/logits", x, 1000, relu=False), [1, 2])


def chain(get: Get, scope: str, x: tf.Tensor, *layers: tuple) -> tf.Tensor:
    """Inception's convolutions, each by name, filters and what its name leaves out or has wrong; norms, no gammas."""
    for name, filters, *options in layers:
        height, width = name[-3:].split("x")
        given = {"size": (int(height), int(width)), "epsilon": 1e-3, **dict(*options)}
        x = conv(get, f"{scope}/{name}", x, filters, **given)
    return x


def inception_head(get: Get, scope: str, x: tf.Tensor) -> tf.Tensor:
    """slim averages over 7×7 or 8×8: the whole map of a picture of the size that the network is made for."""
    x = tf.reduce_mean(x, [1, 2], keepdims=True)
    return tf.squeeze(conv(get, scope, x, 1001, relu=False), [1, 2])


INCEPTION_V1 = {  # Branch_0 to Branch_3
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def inception_v1(get: Get, x: tf.Tensor) -> tf.Tensor:
    top = "InceptionV1"
    x = chain(get, top, x, ("Conv2d_1a_7x7", 64, {"stride": 2}))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = chain(get, top, x, ("Conv2d_2b_1x1", 64), ("Conv2d_2c_3x3", 192))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for cell, (b0, b1a, b1b, b2a, b2b, b3) in INCEPTION_V1.items():
        if cell in ("4b", "5b"):
            side = 3 if cell == "4b" else 2
            x = tf.nn.max_pool2d(x, side, 2, "SAME")
        scope = f"{top}/Mixed_{cell}/Branch"
        odd = "Conv2d_0a_3x3" if cell == "5b" else "Conv2d_0b_3x3"
        branches = (
            chain(get, f"{scope}_0", x, ("Conv2d_0a_1x1", b0)),
            chain(get, f"{scope}_1", x, ("Conv2d_0a_1x1", b1a), ("Conv2d_0b_3x3", b1b)),
            chain(get, f"{scope}_2", x, ("Conv2d_0a_1x1", b2a), (odd, b2b)),
            chain(get, f"{scope}_3", tf.nn.max_pool2d(x, 3, 1, "SAME"), ("Conv2d_0b_1x1", b3)),
        )
        x = tf.concat(branches, 3)
    return inception_head(get, f"{top}/Logits/Conv2d_0c_1x1", x)


INCEPTION_V2 = {
    "3b": (64, (64, 64), (64, 96), 32),
    "3c": (64, (64, 96), (64, 96), 64),
    "4a": ((128, 160), (64, 96)),
    "4b": (224, (64, 96), (96, 128), 128),
    "4c": (192, (96, 128), (96, 128), 128),
    "4d": (160, (128, 160), (128, 160), 96),
    "4e": (96, (128, 192), (160, 192), 96),
    "5a": ((128, 192), (192, 256)),
    "5b": (352, (192, 320), (160, 224), 128),
    "5c": (352, (192, 320), (192, 224), 128),
}


def inception_v2(get: Get, x: tf.Tensor) -> tf.Tensor:
    top, halved = "InceptionV2", {"stride": 2}
    first = f"{top}/Conv2d_1a_7x7"  # slim's arg scope gives batch norm to conv2d alone, so this has biases
    kernels = get(f"{first}/depthwise_weights", (7, 7, 3, 8)), get(f"{first}/pointwise_weights", (1, 1, 24, 64))
    x = tf.nn.relu(tf.nn.separable_conv2d(x, *kernels, (1, 2, 2, 1), "SAME") + get(f"{first}/biases", (64,)))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = chain(get, top, x, ("Conv2d_2b_1x1", 64), ("Conv2d_2c_3x3", 192))
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for cell, widths in INCEPTION_V2.items():
        scope = f"{top}/Mixed_{cell}/Branch"
        if cell in ("4a", "5a"):
            (b0a, b0b), (b1a, b1b) = widths
            branches = (
                chain(get, f"{scope}_0", x, ("Conv2d_0a_1x1", b0a), ("Conv2d_1a_3x3", b0b, halved)),
                chain(
                    get, f"{scope}_1", x,
                    ("Conv2d_0a_1x1", b1a), ("Conv2d_0b_3x3", b1b), ("Conv2d_1a_3x3", b1b, halved),
                ),
                tf.nn.max_pool2d(x, 3, 2, "SAME"),
            )  # fmt: skip
        else:
            b0, (b1a, b1b), (b2a, b2b), b3 = widths
            pool = tf.nn.max_pool2d if cell == "5c" else tf.nn.avg_pool2d
            branches = (
                chain(get, f"{scope}_0", x, ("Conv2d_0a_1x1", b0)),
                chain(get, f"{scope}_1", x, ("Conv2d_0a_1x1", b1a), ("Conv2d_0b_3x3", b1b)),
                chain(get, f"{scope}_2", x, ("Conv2d_0a_1x1", b2a), ("Conv2d_0b_3x3", b2b), ("Conv2d_0c_3x3", b2b)),
                chain(get, f"{scope}_3", pool(x, 3, 1, "SAME"), ("Conv2d_0b_1x1", b3)),
            )
        x = tf.concat(branches, 3)
    return inception_head(get, f"{top}/Logits/Conv2d_1c_1x1", x)


def inception_v3(get: Get, x: tf.Tensor, auxiliary: bool = False) -> tf.Tensor:
    top, valid, halved = "InceptionV3", {"padding": "VALID"}, {"padding": "VALID", "stride": 2}
    x = chain(get, top, x, ("Conv2d_1a_3x3", 32, halved), ("Conv2d_2a_3x3", 32, valid), ("Conv2d_2b_3x3", 64))
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = chain(get, top, x, ("Conv2d_3b_1x1", 80, valid), ("Conv2d_4a_3x3", 192, valid))
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")

    def branches(cell: str, x: tf.Tensor, *layers: tuple[tuple, ...], last: int | None = None) -> list[tf.Tensor]:
        scope = f"{top}/Mixed_{cell}/Branch"
        out = [chain(get, f"{scope}_{i}", x, *branch) for i, branch in enumerate(layers)]
        if last is None:
            return [*out, tf.nn.max_pool2d(x, 3, 2, "VALID")]
        return [*out, chain(get, f"{scope}_3", tf.nn.avg_pool2d(x, 3, 1, "SAME"), ("Conv2d_0b_1x1", last))]

    for cell, last in (("5b", 32), ("5c", 64), ("5d", 64)):
        odd = ("Conv2d_0b_1x1", "Conv_1_0c_5x5") if cell == "5c" else ("Conv2d_0a_1x1", "Conv2d_0b_5x5")
        three = (("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_0c_3x3", 96))
        x = tf.concat(branches(cell, x, (("Conv2d_0a_1x1", 64),), ((odd[0], 48), (odd[1], 64)), three, last=last), 3)
    misnamed = {"size": (3, 3), **halved}
    one = (("Conv2d_1a_1x1", 384, misnamed),)
    two = (("Conv2d_0a_1x1", 64), ("Conv2d_0b_3x3", 96), ("Conv2d_1a_1x1", 96, misnamed))
    x = tf.concat(branches("6a", x, one, two), 3)
    for cell, n in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        two = (("Conv2d_0a_1x1", n), ("Conv2d_0b_1x7", n), ("Conv2d_0c_7x1", 192))
        three = (*two[:1], ("Conv2d_0b_7x1", n), ("Conv2d_0c_1x7", n), ("Conv2d_0d_7x1", n), ("Conv2d_0e_1x7", 192))
        x = tf.concat(branches(cell, x, (("Conv2d_0a_1x1", 192),), two, three, last=192), 3)
    if auxiliary:
        x = tf.nn.avg_pool2d(x, 5, 3, "VALID")
        x = chain(get, f"{top}/AuxLogits", x, ("Conv2d_1b_1x1", 128), ("Conv2d_2a_5x5", 768, valid))
        return tf.squeeze(conv(get, f"{top}/AuxLogits/Conv2d_2b_1x1", x, 1001, relu=False), [1, 2])
    one = (("Conv2d_0a_1x1", 192), ("Conv2d_1a_3x3", 320, halved))
    two = (*one[:1], ("Conv2d_0b_1x7", 192), ("Conv2d_0c_7x1", 192), ("Conv2d_1a_3x3", 192, halved))
    x = tf.concat(branches("7a", x, one, two), 3)
    for cell, odd in (("7b", "Conv2d_0b_3x1"), ("7c", "Conv2d_0c_3x1")):
        two, three = (("Conv2d_0a_1x1", 384),), (("Conv2d_0a_1x1", 448), ("Conv2d_0b_3x3", 384))
        b0, b1, b2, b3 = branches(cell, x, (("Conv2d_0a_1x1", 320),), two, three, last=192)
        scope = f"{top}/Mixed_{cell}/Branch"
        split = [chain(get, f"{scope}_1", b1, (name, 384)) for name in ("Conv2d_0b_1x3", odd)]
        split += [chain(get, f"{scope}_2", b2, (name, 384)) for name in ("Conv2d_0c_1x3", "Conv2d_0d_3x1")]
        x = tf.concat([b0, *split, b3], 3)
    return inception_head(get, f"{top}/Logits/Conv2d_1c_1x1", x)


NETWORKS: dict[str, Callable[[Get, tf.Tensor], tf.Tensor]] = {
    "vgg_16": vgg_16,
    "resnet_v1_50": partial(resnet_v1, 50, (3, 4, 6, 3)),
    "resnet_v1_101": partial(resnet_v1, 101, (3, 4, 23, 3)),
    "inception_v1": inception_v1,
    "inception_v2": inception_v2,
    "inception_v3": inception_v3,
    "inception_v3/AuxLogits": partial(inception_v3, auxiliary=True),
}

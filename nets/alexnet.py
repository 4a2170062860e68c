"""AlexNet: the two Caffe forms, the single tower of 2014, and the plain form that tutorials teach."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.ops import (
    Conv2D,
    Dense,
    Tap,
    gaussian,
    he_normal,
    layer_dropout,
    layers,
    local_response_normalization,
    max_pool,
)


@dataclass(frozen=True)
class Variant:
    """Where the four networks that are called AlexNet differ."""

    side: int
    """Height and width of the pictures."""
    widths: tuple[int, int, int, int, int]
    """Channels of conv1 to conv5."""
    groups: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)
    conv1_padding: str | int = "VALID"
    after_relu: tuple[str, ...] = ("pool",)
    """What follows relu1 and relu2, in this order."""
    dropout_before: tuple[str, str] = ("fc7", "fc8")
    ones: float | None = None
    """Caffe's fillers: where the paper's biases start from 1, the prototxt's from this. None: He et al.'s."""


VARIANTS = {
    "alexnet": Variant(227, (96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), after_relu=("norm", "pool"), ones=0.1),
    "caffenet": Variant(227, (96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), after_relu=("pool", "norm"), ones=1.0),
    "one_tower": Variant(224, (64, 192, 384, 256, 256), conv1_padding=2, dropout_before=("fc6", "fc7")),
    "plain": Variant(227, (96, 256, 384, 384, 256)),
}


class AlexNet(tf.Module):
    """ImageNet Classification with Deep Convolutional Neural Networks (Krizhevsky et al. 2012, figure 2).

    variant "alexnet": BVLC's bvlc_alexnet, norm before pool (models/bvlc_alexnet/deploy.prototxt).

        layer   output      kernel         groups  parameters
        conv1   55×55×96    11×11/4 VALID  1       34,944
        norm1   55×55×96
        pool1   27×27×96    3×3/2
        conv2   27×27×256   5×5 pad 2      2       307,456
        norm2   27×27×256
        pool2   13×13×256   3×3/2
        conv3   13×13×384   3×3 pad 1      1       885,120
        conv4   13×13×384   3×3 pad 1      2       663,936
        conv5   13×13×256   3×3 pad 1      2       442,624
        pool5   6×6×256     3×3/2
        fc6     4096                               37,752,832
        fc7     4096                               16,781,312
        fc8     1000                               4,097,000
        total                                      60,965,224

    variant "caffenet": BVLC's reference CaffeNet, pool before norm: the same shapes, names and
    parameters, other numbers (models/bvlc_reference_caffenet/deploy.prototxt).

        layer   output      kernel         groups  parameters
        conv1   55×55×96    11×11/4 VALID  1       34,944
        pool1   27×27×96    3×3/2
        norm1   27×27×96
        conv2   27×27×256   5×5 pad 2      2       307,456
        pool2   13×13×256   3×3/2
        norm2   13×13×256
        conv3   13×13×384   3×3 pad 1      1       885,120
        conv4   13×13×384   3×3 pad 1      2       663,936
        conv5   13×13×256   3×3 pad 1      2       442,624
        pool5   6×6×256     3×3/2
        fc6     4096                               37,752,832
        fc7     4096                               16,781,312
        fc8     1000                               4,097,000
        total                                      60,965,224

    variant "one_tower": One Weird Trick (Krizhevsky 2014), which torchvision ships; dropout stands
    before fc6 and fc7 instead of after.

        layer   output      kernel         groups  parameters
        conv1   55×55×64    11×11/4 pad 2  1       23,296
        pool1   27×27×64    3×3/2
        conv2   27×27×192   5×5 pad 2      1       307,392
        pool2   13×13×192   3×3/2
        conv3   13×13×384   3×3 pad 1      1       663,936
        conv4   13×13×256   3×3 pad 1      1       884,992
        conv5   13×13×256   3×3 pad 1      1       590,080
        pool5   6×6×256     3×3/2
        fc6     4096                               37,752,832
        fc7     4096                               16,781,312
        fc8     1000                               4,097,000
        total                                      61,100,840

    variant "plain": no groups and no normalization, as in the overview articles; with `channels=1`
    it takes 227×227×1 digits.

        layer   output      kernel         groups  parameters
        conv1   55×55×96    11×11/4 VALID  1       34,944
        pool1   27×27×96    3×3/2
        conv2   27×27×256   5×5 pad 2      1       614,656
        pool2   13×13×256   3×3/2
        conv3   13×13×384   3×3 pad 1      1       885,120
        conv4   13×13×384   3×3 pad 1      1       1,327,488
        conv5   13×13×256   3×3 pad 1      1       884,992
        pool5   6×6×256     3×3/2
        fc6     4096                               37,752,832
        fc7     4096                               16,781,312
        fc8     1000                               4,097,000
        total                                      62,378,344

    Differs from the paper: LRN has Caffe's constants (k = 1, α/n) instead of k = 2, α.
    """

    def __init__(
        self,
        num_classes: int | None = 1000,
        variant: str = "alexnet",
        *,
        channels: int = 3,
        dropout_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Variables are float32 and drawn from `seed`. `num_classes` None leaves fc6 to fc8 out.

        Raises ValueError for an unknown variant.
        """
        super().__init__()
        self.variant = variant
        if variant not in VARIANTS:
            raise ValueError(f"AlexNet has no variant {variant!r}; there are {', '.join(VARIANTS)}")
        v = self._variant = VARIANTS[variant]
        self._dropout_rate = dropout_rate
        self._input_shape = (v.side, v.side, channels)

        def start(index: int, std: float, bias: float) -> dict[str, Any]:
            """Section 5 with the constants of train_val.prototxt; He et al. below the top where there is no LRN."""
            as_caffe = v.ones is not None or index == 8
            return {
                "seed": (seed, index),
                "initializer": gaussian(std) if as_caffe else he_normal(),
                "bias_value": bias if as_caffe else 0.0,
            }

        c1, c2, c3, c4, c5 = v.widths
        g1, g2, g3, g4, g5 = v.groups
        one = v.ones or 0.0
        self.conv1 = Conv2D(channels, c1, 11, stride=4, padding=v.conv1_padding, groups=g1, **start(1, 0.01, 0.0))
        self.conv2 = Conv2D(c1, c2, 5, padding=2, groups=g2, **start(2, 0.01, one))
        self.conv3 = Conv2D(c2, c3, 3, padding=1, groups=g3, **start(3, 0.01, 0.0))
        self.conv4 = Conv2D(c3, c4, 3, padding=1, groups=g4, **start(4, 0.01, one))
        self.conv5 = Conv2D(c4, c5, 3, padding=1, groups=g5, **start(5, 0.01, one))
        self._has_head = num_classes is not None
        if num_classes is not None:
            self.fc6 = Dense(6 * 6 * c5, 4096, **start(6, 0.005, one))
            self.fc7 = Dense(4096, 4096, **start(7, 0.005, one))
            self.fc8 = Dense(4096, num_classes, **start(8, 0.01, 0.0))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pictures that the network takes."""
        return self._input_shape

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, *input_shape]; without the head, pool5 [N, 6, 6, 256].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true: dropout draws from it.
        """
        if x.shape[1:] != self.input_shape:
            raise ValueError(f"this AlexNet takes pictures of shape {self.input_shape}, got {tuple(x.shape[1:])}")
        layer = layers(tap)

        def norm_and_pool(x: tf.Tensor, index: int) -> tf.Tensor:
            steps: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {"norm": local_response_normalization, "pool": pool}
            for step in self._variant.after_relu:
                x = layer(f"{step}{index}", steps[step], x)
            return x

        def dropout_if_before(x: tf.Tensor, fc: str, name: str) -> tf.Tensor:
            if fc not in self._variant.dropout_before:
                return x
            return layer(name, layer_dropout(name, self._dropout_rate, rng, train=train), x)

        pool = partial(max_pool, size=3, stride=2)
        relu = tf.nn.relu

        x = layer("conv1", self.conv1, x)  # 55×55
        x = layer("relu1", relu, x)
        x = norm_and_pool(x, 1)  # 27×27
        x = layer("conv2", self.conv2, x)
        x = layer("relu2", relu, x)
        x = norm_and_pool(x, 2)  # 13×13
        x = layer("conv3", self.conv3, x)
        x = layer("relu3", relu, x)
        x = layer("conv4", self.conv4, x)
        x = layer("relu4", relu, x)
        x = layer("conv5", self.conv5, x)
        x = layer("relu5", relu, x)
        x = layer("pool5", pool, x)  # 6×6
        if not self._has_head:
            return x
        x = tf.reshape(x, [-1, self.fc6.weights.shape[0]])
        x = dropout_if_before(x, "fc6", "drop5")
        x = layer("fc6", self.fc6, x)
        x = layer("relu6", relu, x)
        x = dropout_if_before(x, "fc7", "drop6")
        x = layer("fc7", self.fc7, x)
        x = layer("relu7", relu, x)
        x = dropout_if_before(x, "fc8", "drop7")
        return layer("fc8", self.fc8, x)

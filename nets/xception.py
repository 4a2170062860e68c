"""Xception: separable convolutions with shortcuts, in Keras's form."""

from functools import partial
from typing import Any

import tensorflow as tf

from barenets.ops import (
    BatchNorm,
    Conv2D,
    Dense,
    SeparableConv2D,
    Tap,
    gaussian,
    global_avg_pool,
    layer_dropout,
    layers,
    max_pool,
)

ENTRY = {2: 128, 3: 256, 4: 728}
"""Block -> channels of its two separable convolutions, which halve the map."""
MIDDLE = range(5, 13)
EPSILON = 1e-3


class Xception(tf.Module):
    """Xception: Deep Learning with Depthwise Separable Convolutions (Chollet 2017, figure 5), with Keras's names.

        layer              output       kernel   parameters
        block1_conv1       149×149×32   3×3/2    864
        block1_conv2       147×147×64   3×3      18,432
        block2_residual    74×74×128    1×1/2    8,192
        block2_sepconv1    147×147×128  3×3      8,768
        block2_sepconv2    147×147×128  3×3      17,536
        block2_pool        74×74×128    3×3/2
        block3_residual    37×37×256    1×1/2    32,768
        block3_sepconv1    74×74×256    3×3      33,920
        block3_sepconv2    74×74×256    3×3      67,840
        block3_pool        37×37×256    3×3/2
        block4_residual    19×19×728    1×1/2    186,368
        block4_sepconv1    37×37×728    3×3      188,672
        block4_sepconv2    37×37×728    3×3      536,536
        block4_pool        19×19×728    3×3/2
        block5_sepconv1    19×19×728    3×3      536,536
        block5_sepconv2    19×19×728    3×3      536,536
        block5_sepconv3    19×19×728    3×3      536,536
        ...                                      blocks 6 to 12 as block 5
        block13_residual   10×10×1024   1×1/2    745,472
        block13_sepconv1   19×19×728    3×3      536,536
        block13_sepconv2   19×19×1024   3×3      752,024
        block13_pool       10×10×1024   3×3/2
        block14_sepconv1   10×10×1536   3×3      1,582,080
        block14_sepconv2   10×10×2048   3×3      3,159,552
        avg_pool           2048
        predictions        1000                  2,049,000
        total                                    22,855,952

    Every convolution has a batch norm, block1_conv1_bn and so on, which the total counts: 54,528 gammas and
    betas. Up to block13 the ReLU stands before a separable convolution, in block14 after it; block2 begins
    without one. Pictures are 299×299, or of any size from 71×71 on.

    Differs from the paper: no dropout before the last layer, as in Keras.
    """

    def __init__(
        self,
        num_classes: int | None = 1000,
        variant: str = "keras",
        *,
        dropout_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        """`num_classes` None leaves avg_pool and predictions out. Raises ValueError for an unknown variant."""
        super().__init__()
        self.variant = variant
        if variant != "keras":
            raise ValueError(f"Xception has no variant {variant!r}; there is keras")
        self._dropout_rate = dropout_rate or 0.0
        self._has_head = num_classes is not None
        self.input_shape = (299, 299, 3)
        made = 0

        def conv(name: str, inputs: int, outputs: int, size: int, **options: Any) -> None:
            add(name, Conv2D(inputs, outputs, size, bias=False, seed=(seed, made), **options), outputs)

        def sepconv(name: str, inputs: int, outputs: int) -> None:
            add(name, SeparableConv2D(inputs, outputs, 3, seed=(seed, made)), outputs)

        def add(name: str, layer: tf.Module, channels: int) -> None:
            nonlocal made
            made += 1
            setattr(self, name, layer)
            setattr(self, f"{name}_bn", BatchNorm(channels, epsilon=EPSILON))

        conv("block1_conv1", 3, 32, 3, stride=2, padding="VALID")
        conv("block1_conv2", 32, 64, 3, padding="VALID")
        width = 64
        for block, outputs in ENTRY.items():
            conv(f"block{block}_residual", width, outputs, 1, stride=2)
            sepconv(f"block{block}_sepconv1", width, outputs)
            sepconv(f"block{block}_sepconv2", outputs, outputs)
            width = outputs
        for block in MIDDLE:
            for i in (1, 2, 3):
                sepconv(f"block{block}_sepconv{i}", width, width)
        conv("block13_residual", width, 1024, 1, stride=2)
        sepconv("block13_sepconv1", width, width)
        sepconv("block13_sepconv2", width, 1024)
        sepconv("block14_sepconv1", 1024, 1536)
        sepconv("block14_sepconv2", 1536, 2048)
        if num_classes is not None:
            self.predictions = Dense(2048, num_classes, initializer=gaussian(0.01), seed=(seed, 999))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, H, W, 3]; without the head, the last map [N, 10, 10, 2048].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true and there is dropout.
        """
        layer = layers(tap)

        def conv(x: tf.Tensor, name: str) -> tf.Tensor:
            x = layer(name, getattr(self, name), x)
            return layer(f"{name}_bn", partial(getattr(self, f"{name}_bn"), train=train), x)

        def relu(x: tf.Tensor, name: str) -> tf.Tensor:
            return layer(f"{name}_act", tf.nn.relu, x)

        def halving(x: tf.Tensor, block: int) -> tf.Tensor:
            name = f"block{block}"
            residual = conv(x, f"{name}_residual")
            if block > 2:
                x = relu(x, f"{name}_sepconv1")
            x = conv(x, f"{name}_sepconv1")
            x = relu(x, f"{name}_sepconv2")
            x = conv(x, f"{name}_sepconv2")
            x = layer(f"{name}_pool", partial(max_pool, size=3, stride=2, padding="SAME"), x)
            return layer(f"{name}_add", tf.add_n, [residual, x])

        def middle(x: tf.Tensor, block: int) -> tf.Tensor:
            before = x
            for i in (1, 2, 3):
                x = relu(x, f"block{block}_sepconv{i}")
                x = conv(x, f"block{block}_sepconv{i}")
            return layer(f"block{block}_add", tf.add_n, [before, x])

        x = relu(conv(x, "block1_conv1"), "block1_conv1")  # 149×149
        x = relu(conv(x, "block1_conv2"), "block1_conv2")  # 147×147
        for block in ENTRY:  # 74×74, 37×37, 19×19
            x = halving(x, block)
        for block in MIDDLE:
            x = middle(x, block)
        x = halving(x, 13)  # 10×10
        x = relu(conv(x, "block14_sepconv1"), "block14_sepconv1")
        x = relu(conv(x, "block14_sepconv2"), "block14_sepconv2")
        if not self._has_head:
            return x
        x = layer("avg_pool", global_avg_pool, x)
        x = layer("dropout", layer_dropout("dropout", self._dropout_rate, rng, train=train), x)
        return layer("predictions", self.predictions, x)

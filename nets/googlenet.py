"""GoogLeNet, which is Inception v1: nine modules of four branches each."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.nets.conv_norm import ConvNorm, conv_norm_relu
from barenets.ops import (
    Conv2D,
    Dense,
    Tap,
    adaptive_avg_pool,
    avg_pool,
    gaussian,
    global_avg_pool,
    layer_dropout,
    layers,
    local_response_normalization,
    max_pool,
)

INCEPTIONS = {
    # 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1 of the paper: channels of each module's convolutions."""

POOL_BEFORE = {"inception_3a": "pool2", "inception_4a": "pool3", "inception_5a": "pool4"}
AUXILIARY_AFTER = {"inception_4a": "loss1", "inception_4d": "loss2"}


@dataclass(frozen=True)
class Variant:
    """Where the published networks differ."""

    norm: dict[str, Any] | None
    """Keywords of each convolution's batch norm; None: biases, and LRN around conv2."""
    largest: int
    """Side of the kernel that the paper's 5×5 branch has."""
    pool4_size: int
    auxiliary: bool
    same: bool = False
    """Padding as TensorFlow's SAME, where an odd pixel stands after; otherwise as much before as after."""
    dropout_rate: float = 0.4
    """Before the last layer."""


VARIANTS = {
    "bvlc": Variant(norm=None, largest=5, pool4_size=3, auxiliary=True),
    "torchvision": Variant(norm={"epsilon": 1e-3}, largest=3, pool4_size=2, auxiliary=True, dropout_rate=0.2),
    "slim": Variant(
        norm={"epsilon": 1e-3, "scale": False}, largest=3, pool4_size=2, auxiliary=False, same=True, dropout_rate=0.2
    ),
}


class GoogLeNet(tf.Module):
    """Going Deeper with Convolutions (Szegedy et al. 2015, table 1), with the names of BVLC's prototxt.

        module        output       1×1  3×3 reduce  3×3  5×5 reduce  5×5  pool proj  parameters
        conv1         112×112×64                                                     9,472
        pool1         56×56×64
        conv2         56×56×192         64          192                              114,944
        pool2         28×28×192
        inception_3a  28×28×256    64   96          128  16          32   32         163,696
        inception_3b  28×28×480    128  128         192  32          96   64         388,736
        pool3         14×14×480
        inception_4a  14×14×512    192  96          208  16          48   64         376,176
        inception_4b  14×14×512    160  112         224  24          64   64         449,160
        inception_4c  14×14×512    128  128         256  24          64   64         510,104
        inception_4d  14×14×528    112  144         288  32          64   64         605,376
        inception_4e  14×14×832    256  160         320  32          128  128        868,352
        pool4         7×7×832
        inception_5a  7×7×832      256  160         320  32          128  128        1,043,456
        inception_5b  7×7×1024     384  192         384  48          128  128        1,444,080
        pool5         1024
        loss3         1000                                                           1,025,000
        total                                                                        6,998,552

    In training two more classifiers, loss1 and loss2, hang on inception_4a and 4d (3,188,840 and 3,190,888
    parameters more); their losses count `auxiliary` times as much as the last one's. Otherwise they are
    not computed.

    Variants, which weights come for:

        bvlc         bvlc_googlenet (models/bvlc_googlenet/train_val.prototxt): LRN, biases, 5×5
        torchvision  batch norm, 3×3 where the paper has 5×5, pool4 2×2
        slim         "Inception v1": as torchvision, SAME padding, batch norm without gamma, no loss1 and loss2

    Pictures are 224×224; without loss1 and loss2, any size from 32×32 on.
    """

    def __init__(
        self,
        num_classes: int | None = 1000,
        variant: str = "bvlc",
        *,
        auxiliary: bool = True,
        dropout_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        """`num_classes` None leaves all classifiers out, `auxiliary` False loss1 and loss2.

        `dropout_rate` is that before the last layer; None: the variant's. Raises ValueError for an unknown variant.
        """
        super().__init__()
        self.variant = variant
        if variant not in VARIANTS:
            raise ValueError(f"GoogLeNet has no variant {variant!r}; there are {', '.join(VARIANTS)}")
        v = self._variant = VARIANTS[variant]
        self._dropout_rate = v.dropout_rate if dropout_rate is None else dropout_rate
        self._has_head = num_classes is not None
        self.auxiliary: dict[str, float] = {}
        self.input_shape = (224, 224, 3)
        made = 0

        def conv(name: str, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
            nonlocal made
            made += 1
            options: dict[str, Any] = {
                "stride": stride,
                "padding": "SAME" if v.same else size // 2,
                "seed": (seed, made),
            }
            made_of = partial(Conv2D, bias_value=0.2) if v.norm is None else partial(ConvNorm, norm=v.norm)
            setattr(self, name, made_of(inputs, outputs, size, **options))

        conv("conv1/7x7_s2", 3, 64, 7, 2)
        conv("conv2/3x3_reduce", 64, 64, 1)
        conv("conv2/3x3", 64, 192, 3)
        inputs = 192
        for name, (n1, n3r, n3, n5r, n5, proj) in INCEPTIONS.items():
            conv(f"{name}/1x1", inputs, n1, 1)
            conv(f"{name}/3x3_reduce", inputs, n3r, 1)
            conv(f"{name}/3x3", n3r, n3, 3)
            conv(f"{name}/5x5_reduce", inputs, n5r, 1)
            conv(f"{name}/5x5", n5r, n5, v.largest)
            conv(f"{name}/pool_proj", inputs, proj, 1)
            inputs = n1 + n3 + n5 + proj
            if name in AUXILIARY_AFTER and v.auxiliary and auxiliary and num_classes is not None:
                head = AUXILIARY_AFTER[name]
                self.auxiliary[f"{head}/classifier"] = 0.3
                conv(f"{head}/conv", inputs, 128, 1)
                setattr(self, f"{head}/fc", Dense(4 * 4 * 128, 1024, bias_value=0.2, seed=(seed, 1000 + made)))
                setattr(self, f"{head}/classifier", Dense(1024, num_classes, seed=(seed, 2000 + made)))
        if num_classes is not None:
            last = Dense(inputs, num_classes, initializer=gaussian(0.01), seed=(seed, 0))
            setattr(self, "loss3/classifier", last)

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, 224, 224, 3]; without the head, the last map [N, 7, 7, 1024].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true: dropout draws from it. The
        logits of loss1 and loss2 are then among what `tap` sees, under the names in `auxiliary`.
        """
        layer = layers(tap)
        same = self._variant.same

        def conv(x: tf.Tensor, name: str) -> tf.Tensor:
            return conv_norm_relu(layer, getattr(self, name), x, name, train=train)

        def pool(x: tf.Tensor, name: str, size: int = 3) -> tf.Tensor:
            halve = partial(max_pool, size=size, stride=2, **({"padding": "SAME"} if same else {"ceil": True}))
            return layer(f"{name}/{size}x{size}_s2", halve, x)

        def norm(x: tf.Tensor, name: str) -> tf.Tensor:
            return layer(name, local_response_normalization, x) if self._variant.norm is None else x

        def drop(x: tf.Tensor, name: str, rate: float) -> tf.Tensor:
            return layer(name, layer_dropout(name, rate, rng, train=train), x)

        def inception(x: tf.Tensor, name: str) -> tf.Tensor:
            pooled = layer(f"{name}/pool", partial(max_pool, size=3, stride=1, padding=1), x)
            branches = [
                conv(x, f"{name}/1x1"),
                conv(conv(x, f"{name}/3x3_reduce"), f"{name}/3x3"),
                conv(conv(x, f"{name}/5x5_reduce"), f"{name}/5x5"),
                conv(pooled, f"{name}/pool_proj"),
            ]
            return layer(f"{name}/output", partial(tf.concat, axis=-1), branches)

        def classify(x: tf.Tensor, name: str) -> None:
            paper = partial(avg_pool, size=5, stride=3)
            x = layer(
                f"{name}/ave_pool", paper if self._variant.norm is None else partial(adaptive_avg_pool, side=4), x
            )
            x = conv(x, f"{name}/conv")
            x = layer(f"{name}/fc", getattr(self, f"{name}/fc"), tf.reshape(x, [-1, math.prod(x.shape[1:])]))
            x = layer(f"{name}/relu_fc", tf.nn.relu, x)
            x = drop(x, f"{name}/drop_fc", 0.7)
            layer(f"{name}/classifier", getattr(self, f"{name}/classifier"), x)

        x = conv(x, "conv1/7x7_s2")  # 112×112
        x = norm(pool(x, "pool1"), "pool1/norm1")  # 56×56
        x = conv(x, "conv2/3x3_reduce")
        x = norm(conv(x, "conv2/3x3"), "conv2/norm2")
        for name in INCEPTIONS:
            if name in POOL_BEFORE:  # 28×28, 14×14, 7×7
                before = POOL_BEFORE[name]
                x = pool(x, before, self._variant.pool4_size if before == "pool4" else 3)
            x = inception(x, name)
            head = AUXILIARY_AFTER.get(name)
            if train and f"{head}/classifier" in self.auxiliary:
                classify(x, str(head))
        if not self._has_head:
            return x
        x = layer("pool5/7x7_s1", global_avg_pool, x)
        x = drop(x, "pool5/drop_7x7_s1", self._dropout_rate)
        return layer("loss3/classifier", getattr(self, "loss3/classifier"), x)

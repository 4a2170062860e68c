"""ResNet: 18 to 152 layers with shortcuts around every two or three of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import tensorflow as tf

from barenets.ops import BatchNorm, Conv2D, Dense, Tap, gaussian, global_avg_pool, layer_dropout, layers, max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth -> blocks of the stages res2 to res5."""

WIDTHS = (64, 128, 256, 512)
"""Channels inside the blocks of each stage; a bottleneck puts out four times as many."""


@dataclass(frozen=True)
class Variant:
    """Where the published networks differ; weights of one give other numbers, or do not fit, in another."""

    downsampling: str
    """Which convolution of a stage's first bottleneck has the stride of 2: "1×1" (v1) or "3×3" (v1.5)."""
    epsilon: float
    """Of batch normalization."""
    biases: str = "none"
    """Which convolutions have biases besides batch norm's: "none", "conv1" or "all"."""
    pool1_padding: int | str = 1
    """Of pool1 on each side; 0 is Caffe's: none before, and rounded up. SAME is the same where conv1's map is even."""


VARIANTS = {
    "torchvision": Variant(downsampling="3×3", epsilon=1e-5),
    "caffe": Variant(downsampling="1×1", epsilon=1e-5, biases="conv1", pool1_padding=0),
    "slim": Variant(downsampling="1×1", epsilon=1e-5, pool1_padding="SAME"),
    "keras": Variant(downsampling="1×1", epsilon=1.001e-5, biases="all"),
    "keras_2016": Variant(downsampling="1×1", epsilon=1e-3, biases="all"),
}


class ResNet(tf.Module):
    """Deep Residual Learning for Image Recognition (He et al. 2016, table 1).

        layer    output        18  34  50  101  152  two layers      bottleneck
        conv1    112×112×64                          7×7/2           7×7/2
        pool1    56×56×64                            3×3/2           3×3/2
        res2     56×56×w       2   3   3   3    3    3×3-64 3×3-64   1×1-64 3×3-64 1×1-256
        res3     28×28×w       2   4   4   4    8    3×3-128 3×3-128 1×1-128 3×3-128 1×1-512
        res4     14×14×w       2   6   6   23   36   3×3-256 3×3-256 1×1-256 3×3-256 1×1-1024
        res5     7×7×w         2   3   3   3    3    3×3-512 3×3-512 1×1-512 3×3-512 1×1-2048
        pool5    w                                   mean            mean
        fc1000   1000

        depth    parameters (torchvision)
        18       11,689,512
        34       21,797,672
        50       25,557,032
        101      44,549,160
        152      60,192,808

    Layers are named as in the authors' prototxts: res3b_branch2a and bn3b_branch2a, or in 101 and 152
    res3b1_branch2a. The first block of a stage has a projection, res3a_branch1, where shapes differ.

    Variants, which weights come for:

        torchvision  "v1.5": the 3×3 has the stride of 2, pool1 padded by 1
        caffe        the authors': the first 1×1 has the stride, pool1 rounds up, conv1 of 50 has a bias
        slim         TensorFlow's resnet_v1: as caffe, without that bias; pool1 SAME, the same at 224×224
        keras        keras.applications: as caffe, but pool1 padded by 1, and biases everywhere
        keras_2016   its first ResNet50 file (old layer names, fchollet's v0.2 release): epsilon 1e-3

    18 and 34 have no bottleneck; they exist as torchvision's alone. Pictures may have any size from 32×32 on.
    """

    def __init__(
        self,
        num_classes: int | None = 1000,
        depth: int = 50,
        variant: str = "torchvision",
        *,
        dropout_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        """`num_classes` None leaves pool5 and fc1000 out. There is dropout only if `dropout_rate` says so.

        Raises ValueError for an unknown depth or variant.
        """
        super().__init__()
        self.variant = variant
        if depth not in BLOCKS:
            raise ValueError(f"there is no ResNet of depth {depth}; there are {', '.join(map(str, BLOCKS))}")
        self._bottleneck = depth >= 50
        known = variants(depth)
        if variant not in known:
            raise ValueError(f"ResNet-{depth} has no variant {variant!r}; there are {', '.join(known)}")
        v = self._variant = VARIANTS[variant]
        self._depth = depth
        self._dropout_rate = dropout_rate or 0.0
        self._has_head = num_classes is not None
        self.input_shape = (224, 224, 3)
        made = 0

        def conv_and_norm(name: str, inputs: int, outputs: int, size: int, stride: int, bias: bool) -> None:
            nonlocal made
            made += 1
            conv = Conv2D(inputs, outputs, size, stride=stride, padding=size // 2, bias=bias, seed=(seed, made))
            setattr(self, name if name == "conv1" else f"res{name}", conv)
            setattr(self, _norm(name), BatchNorm(outputs, epsilon=v.epsilon))

        biases = v.biases == "all"
        conv_and_norm("conv1", 3, 64, 7, 2, biases or (v.biases == "conv1" and depth == 50))
        inputs = 64
        for stage, name, first in self._block_names():
            width = WIDTHS[stage - 2]
            stride = 2 if first and stage > 2 else 1
            outputs = 4 * width if self._bottleneck else width
            if first and (stride, inputs) != (1, outputs):
                conv_and_norm(f"{name}_branch1", inputs, outputs, 1, stride, biases)
            if self._bottleneck:
                strides = (stride, 1) if v.downsampling == "1×1" else (1, stride)
                conv_and_norm(f"{name}_branch2a", inputs, width, 1, strides[0], biases)
                conv_and_norm(f"{name}_branch2b", width, width, 3, strides[1], biases)
                conv_and_norm(f"{name}_branch2c", width, outputs, 1, 1, biases)
            else:
                conv_and_norm(f"{name}_branch2a", inputs, width, 3, stride, biases)
                conv_and_norm(f"{name}_branch2b", width, width, 3, 1, biases)
            inputs = outputs
        if num_classes is not None:
            self.fc1000 = Dense(inputs, num_classes, initializer=gaussian(0.01), seed=(seed, 0))

    def _block_names(self) -> Iterator[tuple[int, str, bool]]:
        """(stage, name such as 3a, whether it is the stage's first) of every block."""
        for stage, count in enumerate(BLOCKS[self._depth], 2):
            numbered = self._depth > 50 and stage in (3, 4)
            for i in range(count):
                yield stage, f"{stage}b{i}" if numbered and i else f"{stage}{chr(ord('a') + i)}", i == 0

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, H, W, 3]; without the head, the last map [N, H/32, W/32, w].

        In training the statistics of batch norm move. `rng`, a stateless seed (int32 [2]), is needed where
        `train` is true and there is dropout.
        """
        layer = layers(tap)

        def conv_and_norm(x: tf.Tensor, name: str) -> tf.Tensor:
            conv = name if name == "conv1" else f"res{name}"
            x = layer(conv, getattr(self, conv), x)
            return layer(_norm(name), partial(getattr(self, _norm(name)), train=train), x)

        def branch(x: tf.Tensor, name: str) -> tf.Tensor:
            parts = "abc" if self._bottleneck else "ab"
            for part in parts[:-1]:
                x = conv_and_norm(x, f"{name}_branch2{part}")
                x = layer(f"res{name}_branch2{part}_relu", tf.nn.relu, x)
            return conv_and_norm(x, f"{name}_branch2{parts[-1]}")

        x = conv_and_norm(x, "conv1")  # 112×112
        x = layer("conv1_relu", tf.nn.relu, x)
        padding = self._variant.pool1_padding
        x = layer("pool1", partial(max_pool, size=3, stride=2, padding=padding, ceil=padding == 0), x)  # 56×56
        for _, name, _ in self._block_names():  # 56×56, 28×28, 14×14, 7×7
            projected = hasattr(self, f"res{name}_branch1")
            shortcut = conv_and_norm(x, f"{name}_branch1") if projected else x
            x = layer(f"res{name}", tf.add_n, [shortcut, branch(x, name)])
            x = layer(f"res{name}_relu", tf.nn.relu, x)
        if not self._has_head:
            return x
        x = layer("pool5", global_avg_pool, x)
        x = layer("dropout", layer_dropout("dropout", self._dropout_rate, rng, train=train), x)
        return layer("fc1000", self.fc1000, x)


def variants(depth: int) -> tuple[str, ...]:
    """The names in VARIANTS that exist at this depth."""
    if depth < 50:
        return ("torchvision",)
    return tuple(name for name in VARIANTS if depth == 50 or name != "keras_2016")


def _norm(name: str) -> str:
    return "bn_conv1" if name == "conv1" else f"bn{name}"

"""VGG: five blocks of 3×3 convolutions, 11 to 19 layers deep."""

from functools import partial

import tensorflow as tf

from barenets.ops import Conv2D, Dense, Tap, adaptive_avg_pool, gaussian, he_normal, layer_dropout, layers, max_pool

DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""How many convolutions each block has: columns A, B, D and E of table 1."""

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each block."""


class VGG(tf.Module):
    """Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman 2015, table 1).

    Names are those of the authors' prototxts; 13 (column B) lacks the rows marked 16 and 19, 11 (column A)
    those marked 13 as well.

        layer    output       kernel  from  parameters
        conv1_1  224×224×64   3×3           1,792
        conv1_2  224×224×64   3×3     13    36,928
        pool1    112×112×64   2×2/2
        conv2_1  112×112×128  3×3           73,856
        conv2_2  112×112×128  3×3     13    147,584
        pool2    56×56×128    2×2/2
        conv3_1  56×56×256    3×3           295,168
        conv3_2  56×56×256    3×3           590,080
        conv3_3  56×56×256    3×3     16    590,080
        conv3_4  56×56×256    3×3     19    590,080
        pool3    28×28×256    2×2/2
        conv4_1  28×28×512    3×3           1,180,160
        conv4_2  28×28×512    3×3           2,359,808
        conv4_3  28×28×512    3×3     16    2,359,808
        conv4_4  28×28×512    3×3     19    2,359,808
        pool4    14×14×512    2×2/2
        conv5_1  14×14×512    3×3           2,359,808
        conv5_2  14×14×512    3×3           2,359,808
        conv5_3  14×14×512    3×3     16    2,359,808
        conv5_4  14×14×512    3×3     19    2,359,808
        pool5    7×7×512      2×2/2
        fc6      4096                       102,764,544
        fc7      4096                       16,781,312
        fc8      1000                       4,097,000

        depth    total
        11       132,863,336
        13       133,047,848
        16       138,357,544
        19       143,667,240

    Pictures may have any size from 32×32 on. Where the last map is not 7×7 it is averaged to 7×7 before fc6, as
    torchvision does.

    Differs from the paper: the convolutions start from He et al.'s normal distribution, with which the
    deeper columns train without being started from a shallower one (section 3.1).
    """

    def __init__(
        self,
        num_classes: int | None = 1000,
        depth: int = 16,
        variant: str = "paper",
        *,
        channels: int = 3,
        dropout_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        """`num_classes` None leaves fc6 to fc8 out. Raises ValueError for an unknown depth or variant."""
        super().__init__()
        self.variant = variant
        if variant != "paper":
            raise ValueError(f"VGG has no variant {variant!r}; there is paper")
        if depth not in DEPTHS:
            raise ValueError(f"there is no VGG of depth {depth}; there are {', '.join(map(str, DEPTHS))}")
        self._dropout_rate = dropout_rate
        self._blocks = DEPTHS[depth]
        self.input_shape = (224, 224, channels)

        inputs = channels
        for block, (count, width) in enumerate(zip(self._blocks, WIDTHS, strict=True), 1):
            for i in range(1, count + 1):
                conv = Conv2D(inputs, width, 3, padding=1, initializer=he_normal(), seed=(seed, 10 * block + i))
                setattr(self, f"conv{block}_{i}", conv)
                inputs = width
        self._has_head = num_classes is not None
        if num_classes is not None:
            self.fc6 = Dense(7 * 7 * inputs, 4096, initializer=he_normal(), seed=(seed, 6))
            self.fc7 = Dense(4096, 4096, initializer=he_normal(), seed=(seed, 7))
            self.fc8 = Dense(4096, num_classes, initializer=gaussian(0.01), seed=(seed, 8))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, H, W, channels]; without the head, pool5 [N, H/32, W/32, 512].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true: dropout draws from it.
        """
        layer = layers(tap)

        def drop(x: tf.Tensor, name: str) -> tf.Tensor:
            return layer(name, layer_dropout(name, self._dropout_rate, rng, train=train), x)

        for block, count in enumerate(self._blocks, 1):
            for i in range(1, count + 1):
                x = layer(f"conv{block}_{i}", getattr(self, f"conv{block}_{i}"), x)
                x = layer(f"relu{block}_{i}", tf.nn.relu, x)
            x = layer(f"pool{block}", partial(max_pool, size=2, stride=2), x)
        if not self._has_head:
            return x
        x = tf.reshape(adaptive_avg_pool(x, 7), [-1, self.fc6.weights.shape[0]])
        x = layer("fc6", self.fc6, x)
        x = layer("relu6", tf.nn.relu, x)
        x = drop(x, "drop6")
        x = layer("fc7", self.fc7, x)
        x = layer("relu7", tf.nn.relu, x)
        x = drop(x, "drop7")
        return layer("fc8", self.fc8, x)

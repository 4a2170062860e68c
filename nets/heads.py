"""New classifiers for the last map of a network, and the network with such a head.

A head is called as a network is, on the map; where `train` is true and there is dropout it needs `rng`, a
stateless seed (int32 [2]). Rates of dropout are the fraction dropped. First values are drawn from
(seed, 9000 + i): no base reaches that far, so one seed serves both. Dropout draws as
head/dropout, its name in the whole network: the base may have a layer called dropout, too.
"""

import math
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.ops import Dense, Tap, gaussian, he_normal, layer_dropout, layers


class Headed(tf.Module):
    """The network `base`, built with `num_classes=None`, with the classifier `head` on its last map.

    Variables are called base/... and head/..., and so are the activations that `tap` sees:
    `weights.load(net.base, file)` loads the base alone, the pattern `head` trains the classifier alone.
    """

    def __init__(self, base: Any, head: Any, *, input_shape: tuple[int, int, int] | None = None) -> None:
        """`input_shape` is that of the pictures (height, width, channels), if not the base's own."""
        super().__init__()
        self.base, self.head = base, head
        self.input_shape = input_shape or base.input_shape
        self.auxiliary: dict[str, float] = {}
        for part in ("base", "head"):
            shares = getattr(getattr(self, part), "auxiliary", {})
            self.auxiliary.update({f"{part}/{name}": share for name, share in shares.items()})

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes], float32, of pictures [N, *input_shape].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true and there is dropout. Raises
        ValueError if the head is for another map than the base gives.
        """

        def apply(part: str, x: tf.Tensor) -> tf.Tensor:
            inner = None if tap is None else lambda name, y: tap(f"{part}/{name}", y)
            with tf.name_scope(part):
                return getattr(self, part)(x, train=train, rng=rng, tap=inner)

        return apply("head", apply("base", x))


class LinearHead(tf.Module):
    """pool → dropout → classifier: one dense layer on each channel's average, as ResNet and Xception end.

    With two classes it is the hot-dog network of the overview article.
    """

    def __init__(self, channels: int, num_classes: int, *, dropout_rate: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self._dropout_rate = dropout_rate
        self.classifier = Dense(channels, num_classes, initializer=gaussian(0.01), seed=(seed, 9000))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of maps [N, H, W, channels], float32. Raises ValueError for other channels."""
        layer = layers(tap)
        x = layer("pool", partial(_averages, channels=self.classifier.weights.shape[0]), x)
        x = layer("dropout", layer_dropout("head/dropout", self._dropout_rate, rng, train=train), x)
        return layer("classifier", self.classifier, x)


class DenseHead(tf.Module):
    """flatten → fc → relu → dropout → classifier: a hidden layer on the whole map.

    The VGG16 article has it (Chollet, "Building powerful image classification models using very little data",
    Keras blog, 2016). The one logit of `num_classes=1` goes with `ops.sigmoid_cross_entropy`: its sigmoid is the
    probability of class 1. The softmax of `train.loop.Trainer` wants two.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int = 1,
        *,
        width: int = 256,
        dropout_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        """`shape` is that of the map: height, width, channels."""
        super().__init__()
        self._shape, self._dropout_rate = tuple(shape), dropout_rate
        self.fc = Dense(math.prod(shape), width, initializer=he_normal(), seed=(seed, 9001))
        self.classifier = Dense(width, num_classes, initializer=gaussian(0.01), seed=(seed, 9000))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of maps [N, *shape], float32. Raises ValueError for another shape."""
        if tuple(x.shape[1:]) != self._shape:
            raise ValueError(f"this head takes maps of shape {tuple(self._shape)}, got {tuple(x.shape[1:])}")
        layer = layers(tap)
        x = layer("flatten", partial(tf.reshape, shape=[-1, math.prod(self._shape)]), x)
        x = layer("fc", self.fc, x)
        x = layer("relu", tf.nn.relu, x)
        x = layer("dropout", layer_dropout("head/dropout", self._dropout_rate, rng, train=train), x)
        return layer("classifier", self.classifier, x)


class GLUHead(tf.Module):
    """pool → glu → dropout → classifier, with the gated linear unit (Dauphin et al. 2017) glu = linear · σ(gate).

    The dog article, a Kaggle write-up on breeds, has it on Xception. A second classifier, auxiliary_classifier,
    goes straight from pool to the classes. Its loss counts a quarter as much as the last one's; its logits are
    among what `tap` sees, in training or not.
    """

    def __init__(
        self, channels: int, num_classes: int, *, features: int = 64, dropout_rate: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self._dropout_rate = dropout_rate
        self.auxiliary = {"auxiliary_classifier": 0.25}
        self.auxiliary_classifier = Dense(channels, num_classes, initializer=gaussian(0.01), seed=(seed, 9003))
        self.linear = Dense(channels, features, seed=(seed, 9001))
        self.gate = Dense(channels, features, seed=(seed, 9002))
        self.classifier = Dense(features, num_classes, initializer=gaussian(0.01), seed=(seed, 9000))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of maps [N, H, W, channels], float32. Raises ValueError for other channels."""
        layer = layers(tap)
        x = layer("pool", partial(_averages, channels=self.linear.weights.shape[0]), x)
        layer("auxiliary_classifier", self.auxiliary_classifier, x)
        both = [layer("linear", self.linear, x), layer("gate", self.gate, x)]
        x = layer("glu", lambda both: both[0] * tf.sigmoid(both[1]), both)
        x = layer("dropout", layer_dropout("head/dropout", self._dropout_rate, rng, train=train), x)
        return layer("classifier", self.classifier, x)


def _averages(x: tf.Tensor, channels: int) -> tf.Tensor:
    """Global average pooling of [N, H, W, channels]."""
    if tuple(x.shape[3:]) != (channels,):
        raise ValueError(f"this head takes maps [N, H, W, {channels}], got a tensor of shape {tuple(x.shape)}")
    return tf.reduce_mean(x, axis=[1, 2])

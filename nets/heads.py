"""New classifiers for the last map of a network, and the network with such a head.

A head is called as a network is, on the map; where `train` is true and there is dropout it needs `rng`, a
stateless seed (int32 [2]). Rates of dropout are the fraction dropped. First values are drawn from
(seed, 9000 + i): no base reaches that far, so one seed serves both. Dropout draws as
head/dropout, its name in the whole network: the base may have a layer called dropout, too.
"""

import math
import operator
from collections.abc import Callable
from functools import partial, reduce, wraps
from typing import Any

import tensorflow as tf

from barenets.ops import Dense, Tap, Within, gaussian, global_avg_pool, he_normal, layer_dropout, layers, wide


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
        self.auxiliary, self.center_losses = (self._shares(kind) for kind in ("auxiliary", "center_losses"))

    def _shares(self, kind: str) -> dict[str, float]:
        """What both parts have of one kind of further losses: name that `tap` sees -> share of it."""
        parts = {"base": self.base, "head": self.head}
        shares = {part: getattr(module, kind, {}) for part, module in parts.items()}
        return {f"{part}/{name}": share for part, own in shares.items() for name, share in own.items()}

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes], float32, of pictures [N, *input_shape].

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true and there is dropout. Raises
        ValueError if the head is for another map than the base gives.
        """

        def apply(part: str, x: tf.Tensor) -> tf.Tensor:
            with tf.name_scope(part):
                return getattr(self, part)(x, train=train, rng=rng, tap=tap and Within(tap, part))

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
    Keras blog, 2016). As there, two classes share one unit z: the logits are (0, z), of which softmax makes
    1 − σ(z) and σ(z), and softmax cross-entropy the binary one.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        num_classes: int = 2,
        *,
        width: int = 256,
        dropout_rate: float = 0.5,
        seed: int = 0,
    ) -> None:
        """`shape` is that of the map: height, width, channels. Raises ValueError for fewer than two classes."""
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a classifier tells at least 2 classes apart, got num_classes={num_classes}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self._shape, self._dropout_rate = tuple(shape), dropout_rate
        units = 1 if num_classes == 2 else num_classes
        self.fc = Dense(math.prod(shape), width, initializer=he_normal(), seed=(seed, 9001))
        self.classifier = Dense(width, units, initializer=gaussian(0.01), seed=(seed, 9000))

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
        x = layer("classifier", self.classifier, x)
        if x.shape[1] > 1:
            return x
        return layer("logits", partial(tf.pad, paddings=[[0, 0], [1, 0]]), x)  # (0, z)


class Centers(tf.Module):
    """A point for each class among the features, which center loss (Wen et al. 2016) draws its pictures to.

    `means` is [num_classes, features]. It trains by its gradient as all else does, not by the paper's own rule; its
    name keeps weight decay, which is for weights, off. The points lie apart at first: from points at 0 the features
    are drawn to 0 as well, and then the classifier on them hardly learns.
    """

    def __init__(
        self, num_classes: int, features: int, *, seed: tuple[int, int] = (0, 0), dtype: tf.DType = tf.float32
    ) -> None:
        super().__init__()
        self.means = tf.Variable(gaussian(0.5)((num_classes, features), seed, dtype))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Squared distances [N, num_classes], at least float32, of features [N, features] to each center."""
        # Not |x|² − 2x·c + |c|², which loses the digits of what is close.
        return tf.reduce_sum(tf.math.squared_difference(wide(x)[:, None], self.means), 2)


class GLUHead(tf.Module):
    """pool → glu → dropout → classifier, with the gated linear unit (Dauphin et al. 2017) glu = linear · σ(gate).

    The dog article, a Kaggle write-up on breeds, has it on Xception, with two further losses. A second classifier,
    auxiliary_classifier, goes straight from pool to the classes. Its logits are among what `tap` sees, in training
    or not, and so are "centers", the squared distances of glu to the `Centers` of the classes.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        features: int = 64,
        gated: bool = True,
        auxiliary: float = 0.25,
        centers: float = 0.25,
        dropout_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Without `gated`, glu = linear. `auxiliary` and `centers` are how much the second classifier's loss and the
        center loss count against the last one's; 0 leaves the classifier, or the centers, out.

        Raises ValueError for fewer than one feature and for a negative share.
        """
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        for name, share in {"auxiliary": auxiliary, "centers": centers}.items():
            if not share >= 0:
                raise ValueError(f"{name} must be 0 or more, got {share}")
        self._dropout_rate = dropout_rate
        self.auxiliary = {"auxiliary_classifier": auxiliary} if auxiliary else {}
        self.center_losses = {"centers": centers} if centers else {}
        if auxiliary:
            self.auxiliary_classifier = Dense(channels, num_classes, initializer=gaussian(0.01), seed=(seed, 9003))
        self._units = ("linear", "gate") if gated else ("linear",)
        for i, name in enumerate(self._units):
            setattr(self, name, Dense(channels, features, seed=(seed, 9001 + i)))
        self.classifier = Dense(features, num_classes, initializer=gaussian(0.01), seed=(seed, 9000))
        if centers:
            self.centers = Centers(num_classes, features, seed=(seed, 9004))

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of maps [N, H, W, channels], float32. Raises ValueError for other channels."""
        layer = layers(tap)
        x = layer("pool", partial(_averages, channels=self.linear.weights.shape[0]), x)
        if self.auxiliary:
            layer("auxiliary_classifier", self.auxiliary_classifier, x)
        units = [layer(name, getattr(self, name), x) for name in self._units]
        if len(units) > 1:
            units[1] = layer("sigmoid", tf.sigmoid, units[1])
        x = layer("glu", partial(reduce, operator.mul), units)
        if self.center_losses:
            layer("centers", self.centers, x)
        x = layer("dropout", layer_dropout("head/dropout", self._dropout_rate, rng, train=train), x)
        return layer("classifier", self.classifier, x)


class Maps(tf.Module):
    """In the place of a base whose maps are there already: gives what it is given, float32 [N, *input_shape]."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        return x


def _averages(x: tf.Tensor, channels: int) -> tf.Tensor:
    """Global average pooling of [N, H, W, channels]."""
    if tuple(x.shape[3:]) != (channels,):
        raise ValueError(f"this head takes maps [N, H, W, {channels}], got a tensor of shape {tuple(x.shape)}")
    return global_avg_pool(x)


def _of_channels(head: Callable[..., Any]) -> Callable[..., Any]:
    """`head`, made from the shape of the map where it wants its channels."""

    @wraps(head, updated=())
    def make(shape: tuple[int, int, int], num_classes: int, **options: Any) -> Any:
        return head(shape[-1], num_classes, **options)

    return make


HEADS: dict[str, Callable[..., Any]] = {
    "linear": _of_channels(LinearHead),
    "dense": DenseHead,
    "glu": _of_channels(GLUHead),
}
"""Name -> what makes the head of (shape of the last map, num_classes, **options)."""

"""Why a network says what it says of a picture: maps of what its answer depends on.

Pictures are float32 [N, *net.input_shape], as the network takes them; classes int32 [N], or None for the likeliest.
Every map is of the class's logit, but for occlusion, which is of its probability.
"""

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.look.activations import Watch
from barenets.ops import Tap

Maps = np.ndarray
"""float32 [N, H, W], or [N, H, W, channels] where it says so."""


def likeliest(net: Any, images: tf.Tensor) -> tf.Tensor:
    """int32 [N]: what the network takes each picture for."""
    return tf.argmax(net(images), 1, tf.int32)


def _logits(net: Any, images: tf.Tensor, classes: tf.Tensor, tap: Tap | None = None) -> tf.Tensor:
    """float32 [N]: each picture's logit of its class."""
    return tf.gather(net(images, tap=tap), classes, batch_dims=1)


def _probability(net: Any, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.nn.softmax(net(images)), classes, batch_dims=1)


def input_gradient(net: Any, images: Any, classes: Any = None, tap: Tap | None = None) -> tf.Tensor:
    """The gradient of each picture's logit with respect to its pixels, float32 [N, H, W, channels]."""
    images = tf.convert_to_tensor(images, tf.float32)
    classes = likeliest(net, images) if classes is None else classes
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = _logits(net, images, classes, tap)
    return tape.gradient(logits, images)  # the logits of the other pictures do not depend on a picture


def _traced(function: Callable[..., tf.Tensor], net: Any) -> Callable[..., tf.Tensor]:
    """`function` of (net, images, classes) as one of the other two, to be called many times: twice as fast."""
    return tf.function(lambda images, classes: function(net, images, classes), autograph=False, reduce_retracing=True)


def saliency(net: Any, images: Any, classes: Any = None) -> Maps:
    """The largest magnitude over the channels of the gradient (Simonyan et al. 2014, section 3.1)."""
    return tf.reduce_max(tf.abs(input_gradient(net, images, classes)), -1).numpy()


def smooth_grad(
    net: Any, images: Any, classes: Any = None, *, samples: int = 25, noise: float = 0.15, seed: int = 0
) -> Maps:
    """Saliency of the mean gradient over `samples` noisy copies of each picture (Smilkov et al. 2017).

    The noise is normal, its standard deviation `noise` times the picture's range, and follows from `seed`.
    """
    images = tf.convert_to_tensor(images, tf.float32)
    classes = likeliest(net, images) if classes is None else classes
    spread = noise * (tf.reduce_max(images, [1, 2, 3], True) - tf.reduce_min(images, [1, 2, 3], True))
    total, gradient = tf.zeros_like(images), _traced(input_gradient, net)
    for sample in range(samples):
        drawn = tf.random.stateless_normal(images.shape, [seed, sample])
        total += gradient(images + spread * drawn, classes)
    return tf.reduce_max(tf.abs(total / samples), -1).numpy()


def integrated_gradients(
    net: Any, images: Any, classes: Any = None, *, baseline: Any = 0.0, steps: int = 64
) -> tuple[Maps, np.ndarray]:
    """Each value's share in the logit's rise from `baseline` to the picture (Sundararajan et al. 2017).

    The shares are float32 [N, H, W, channels]: the gradient, averaged at the middles of `steps` equal parts of the
    straight way, times the difference. Also returned is, for each picture, by how much they miss the rise that they
    add up to, as a part of it: float32 [N]. It falls with `steps`, but slowly and
    unevenly, for the gradient jumps at each ReLU on the way: of a picture of ResNet-50's 11 % at 64, 0.7 % at 512.
    """
    images = tf.convert_to_tensor(images, tf.float32)
    start = tf.zeros_like(images) + baseline
    classes = likeliest(net, images) if classes is None else classes
    total, gradient = tf.zeros_like(images), _traced(input_gradient, net)
    for step in range(steps):
        total += gradient(start + (step + 0.5) / steps * (images - start), classes)
    shares = (images - start) * total / steps
    rise = _logits(net, images, classes) - _logits(net, start, classes)
    return shares.numpy(), (tf.reduce_sum(shares, [1, 2, 3]) / rise - 1).numpy()


class _Guided:
    """A tap through which only what is positive comes back from a ReLU."""

    def __init__(self) -> None:
        self._relus: set[str] = set()

    def enters(self, name: str, layer: Any, x: Any) -> None:
        if layer is tf.nn.relu:
            self._relus.add(name)

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        return _positive_back(x) if name in self._relus else x


@tf.custom_gradient
def _positive_back(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    return tf.identity(x), tf.nn.relu


def guided_backpropagation(net: Any, images: Any, classes: Any = None) -> Maps:
    """The gradient where each ReLU lets only positive ones back (Springenberg et al. 2015), [N, H, W, channels]."""
    return input_gradient(net, images, classes, _Guided()).numpy()


def grad_cam(net: Any, images: Any, classes: Any = None, *, layer: str | None = None) -> Maps:
    """Where in the map `layer` the class is seen (Selvaraju et al. 2017), at the size of the pictures and at most 1.

    The map's channels are added, each weighted by the mean of its gradient, and what is negative is left out. `layer`
    is any activation of the network that is a map; the last one that has more than one place when not given. Raises
    UserError for another.
    """
    images = tf.convert_to_tensor(images, tf.float32)
    classes = likeliest(net, images) if classes is None else classes
    watch = Watch()
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = _logits(net, images, classes, watch)
    maps = {name: x for name, x in watch.outputs.items() if x.shape.rank == 4 and x.shape[1] * x.shape[2] > 1}
    layer = layer or next(reversed(maps), None)
    if layer not in maps:
        raise UserError(no_such_map(layer or "", list(maps)))
    weights = tf.reduce_mean(tape.gradient(logits, maps[layer]), [1, 2], keepdims=True)
    seen = tf.nn.relu(tf.reduce_sum(weights * maps[layer], -1, keepdims=True))
    seen = tf.math.divide_no_nan(seen, tf.reduce_max(seen, [1, 2], keepdims=True))
    return tf.image.resize(seen, images.shape[1:3])[..., 0].numpy()


def no_such_map(layer: str, maps: list[str]) -> str:
    """What to say of a `layer` that is none of `maps`."""
    near = difflib.get_close_matches(layer, maps, 3) or maps[-3:]
    return f"there is no map {layer!r} in this network; did you mean {' or '.join(near) or 'another network'}?"


def occlusion(
    net: Any, images: Any, classes: Any = None, *, size: int = 32, stride: int = 16, value: float = 0.0, batch: int = 32
) -> Maps:
    """By how much the class's probability falls where a square is covered with `value` (Zeiler and Fergus 2014, 4.2).

    Squares of `size` pixels lie `stride` apart, the last ones at the edge; what is told of a pixel is the mean over
    the squares that cover it.
    """
    images = tf.convert_to_tensor(images, tf.float32)
    classes = likeliest(net, images) if classes is None else tf.convert_to_tensor(classes)
    count, height, width, _ = images.shape

    def places(side: int) -> list[int]:
        return sorted({*range(0, max(side - size, 0) + 1, stride), max(side - size, 0)})

    probability = _traced(_probability, net)
    squares = [(top, left) for top in places(height) for left in places(width)]
    result = np.zeros((count, height, width), np.float32)
    covering = np.zeros((height, width), np.float32)
    for top, left in squares:
        covering[top : top + size, left : left + size] += 1
    whole = probability(images, classes).numpy()
    for i in range(count):
        for begin in range(0, len(squares), batch):
            some = squares[begin : begin + batch]
            covered = np.repeat(images[i : i + 1].numpy(), len(some), 0)
            for picture, (top, left) in zip(covered, some, strict=True):
                picture[top : top + size, left : left + size] = value
            left_over = probability(covered, tf.repeat(classes[i : i + 1], len(some))).numpy()
            for (top, left), share in zip(some, left_over, strict=True):
                result[i, top : top + size, left : left + size] += whole[i] - share
    return result / covering


def heat(values: Maps) -> Maps:
    """Maps as they are drawn, float32 [N, H, W], 0 to 1: magnitudes over the channels, up to the 99.5th percentile."""
    values = np.abs(values).sum(-1) if values.ndim == 4 else np.maximum(values, 0)
    most = np.percentile(values, 99.5, axis=(1, 2), keepdims=True)
    return np.clip(np.divide(values, most, out=np.zeros_like(values), where=most > 0), 0, 1)


def overlay(pictures: np.ndarray, values: Maps) -> np.ndarray:
    """`heat` in colours over the pictures in grey: uint8 [N, H, W, 3], of uint8 RGB [N, H, W, 3] and maps."""
    import matplotlib

    colours = matplotlib.colormaps["inferno"](heat(values))[..., :3]
    grey = pictures.mean(-1, keepdims=True) / 255
    return np.rint(255 * (0.35 * grey + 0.65 * colours)).astype(np.uint8)


METHODS: dict[str, Callable[..., Any]] = {
    "saliency": saliency,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
    "guided": guided_backpropagation,
    "grad_cam": grad_cam,
    "occlusion": occlusion,
}
"""Name -> what makes the maps of (net, images, classes); integrated gradients come with what they miss."""

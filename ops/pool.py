"""Max and average pooling, with Caffe's way of rounding up and of counting padding."""

import math

import numpy as np
import tensorflow as tf

from barenets.ops.conv import explicit_padding
from barenets.ops.precision import wide


def max_pool(x: tf.Tensor, size: int, stride: int, *, padding: str | int = 0, ceil: bool = False) -> tf.Tensor:
    """Largest value of each size×size window; `x` and the result are NHWC.

    With integer padding the output side is floor((n + 2p − size) / stride) + 1, or with `ceil`, Caffe's
    rule, ceil((n + 2p − size) / stride) + 1 less a last window that would start beyond the picture and its
    padding before. Padding is −inf: it never wins.
    """
    pads = _pads(x, size, stride, padding, ceil)
    if isinstance(pads, str):
        return tf.nn.max_pool2d(x, size, stride, pads)
    # Not tf.nn.max_pool2d's own explicit padding, which XLA does not compile.
    return tf.nn.max_pool2d(tf.pad(x, pads, constant_values=-math.inf), size, stride, "VALID")


def avg_pool(
    x: tf.Tensor, size: int, stride: int, *, padding: str | int = 0, ceil: bool = False, count_padding: bool = True
) -> tf.Tensor:
    """Mean of each size×size window; `x` and the result are NHWC, sides as in `max_pool`.

    `count_padding` (Caffe, torch's default) divides by the window clipped to the padded input, so
    padding counts as zeros but what rounding up adds beyond it does not; without it only real pixels
    count, as in TensorFlow, where "SAME" always leaves padding out.
    """
    pads = _pads(x, size, stride, padding, ceil)
    if isinstance(pads, str):
        return tf.nn.avg_pool2d(x, size, stride, pads)
    counted = int(padding) if count_padding else 0
    ones = tf.ones(tf.concat([[1], tf.shape(x)[1:3] + 2 * counted, [1]], 0), x.dtype)
    beyond = [[max(before - counted, 0), max(after - counted, 0)] for before, after in pads]
    total = tf.nn.avg_pool2d(tf.pad(x, pads), size, stride, "VALID")
    share = tf.nn.avg_pool2d(tf.pad(ones, beyond), size, stride, "VALID")
    return total / share


def global_avg_pool(x: tf.Tensor) -> tf.Tensor:
    """Mean over height and width: [N, channels] of `x` [N, H, W, channels]."""
    return tf.cast(tf.reduce_mean(wide(x), [1, 2]), x.dtype)  # the sum may be more than float16 has


def adaptive_avg_pool(x: tf.Tensor, side: int) -> tf.Tensor:
    """Means of side×side windows that share the map out as evenly as whole pixels can; NHWC.

    Window i of an axis of n pixels goes from floor(i·n / side) up to ceil((i + 1)·n / side), as in torch's
    AdaptiveAvgPool2d: neighbours overlap where n is no multiple of `side`, and pixels repeat where it is
    smaller. A map of side×side comes out as it is.
    """

    def windows(n: int | None) -> tf.Tensor:  # [side, n]: row i averages over window i
        if n is None:
            raise ValueError("adaptive pooling needs to know the height and width of its input")
        rows = np.zeros((side, n), np.float32)
        for i in range(side):
            begin, end = i * n // side, -(-(i + 1) * n // side)
            rows[i, begin:end] = 1 / (end - begin)
        return tf.constant(rows, x.dtype)

    height, width = x.shape[1:3]
    if (height, width) == (side, side):
        return x
    x = tf.einsum("nhwc,ih->niwc", x, windows(height))
    return tf.einsum("niwc,jw->nijc", x, windows(width))


def _pads(x: tf.Tensor, size: int, stride: int, padding: str | int, ceil: bool) -> str | list[list[int]]:
    """ "SAME", "VALID", or how much to pad each axis so that VALID pooling gives the sides that are wanted."""
    if isinstance(padding, str):
        return explicit_padding(padding)
    if not 0 <= padding < size:
        raise ValueError(f"padding {padding} must be at least 0 and less than the window {size}")
    if ceil:
        pads = [[0, 0], *(_ceil_pads(n, size, stride, padding) for n in x.shape[1:3]), [0, 0]]
    else:
        pads = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    return pads if any(map(any, pads)) else "VALID"


def _ceil_pads(n: int | None, size: int, stride: int, padding: int) -> list[int]:
    if n is None:
        raise ValueError("pooling with ceil=True needs to know the height and width of its input")
    out = math.ceil((n + 2 * padding - size) / stride) + 1
    if (out - 1) * stride >= n + padding:
        out -= 1  # the last window would see no pixel (Caffe's pooling_layer.cpp)
    return [padding, max((out - 1) * stride + size - n - padding, padding)]

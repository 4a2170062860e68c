"""Max and average pooling, with Caffe's way of rounding up and of counting padding."""

import math

import tensorflow as tf

from barenets.ops.conv import explicit_padding


def max_pool(x: tf.Tensor, size: int, stride: int, *, padding: str | int = 0, ceil: bool = False) -> tf.Tensor:
    """Largest value of each size×size window; `x` and the result are NHWC.

    With integer padding the output side is floor((n + 2p − size) / stride) + 1, or with `ceil`, Caffe's
    rule, ceil((n + 2p − size) / stride) + 1 less a last window that would start in the padding. Padding
    is −inf: it never wins.
    """
    _check(size, padding)
    pads = _pads(x, size, stride, padding, ceil)
    # tf.nn.max_pool2d takes explicit padding and pads with −inf itself.
    return tf.nn.max_pool2d(x, size, stride, pads)


def avg_pool(
    x: tf.Tensor,
    size: int,
    stride: int,
    *,
    padding: str | int = 0,
    ceil: bool = False,
    count_padding: bool = True,
) -> tf.Tensor:
    """Mean of each size×size window; `x` and the result are NHWC, sides as in `max_pool`.

    `count_padding` (Caffe, torch's default) divides by the window clipped to the padded input, so
    padding counts as zeros but what rounding up adds beyond it does not; without it only real pixels
    count, as in TensorFlow, where "SAME" always leaves padding out.
    """
    _check(size, padding)
    pads = _pads(x, size, stride, padding, ceil)
    if isinstance(pads, str):
        return tf.nn.avg_pool2d(x, size, stride, pads)
    ones = tf.ones(tf.concat([[1], tf.shape(x)[1:3], [1]], 0), x.dtype)
    if count_padding and padding:
        p = int(padding)
        ones = tf.pad(ones, [[0, 0], [p, p], [p, p], [0, 0]], constant_values=1)
        beyond = [[0, 0], *([0, after - p] for _, after in pads[1:3]), [0, 0]]
    else:
        beyond = pads
    total = tf.nn.avg_pool2d(tf.pad(x, pads), size, stride, "VALID")
    share = tf.nn.avg_pool2d(tf.pad(ones, beyond), size, stride, "VALID")
    return total / share


def _check(size: int, padding: str | int) -> None:
    if isinstance(padding, int) and not 0 <= padding < size:
        raise ValueError(f"padding {padding} must be at least 0 and less than the window {size}")


def _pads(x: tf.Tensor, size: int, stride: int, padding: str | int, ceil: bool) -> str | list[list[int]]:
    if isinstance(padding, str) or not ceil:
        return explicit_padding(padding)
    return [[0, 0], *(_ceil_pads(n, size, stride, padding) for n in x.shape[1:3]), [0, 0]]


def _ceil_pads(n: int | None, size: int, stride: int, padding: int) -> list[int]:
    """How much to pad before and after an axis of n pixels so that VALID pooling rounds up as Caffe does."""
    if n is None:
        raise ValueError("pooling with ceil=True needs to know the height and width of its input")
    out = math.ceil((n + 2 * padding - size) / stride) + 1
    if padding and (out - 1) * stride >= n + padding:
        out -= 1  # the last window would lie in the padding only (Caffe's pooling_layer.cpp)
    return [padding, max((out - 1) * stride + size - n - padding, 0)]

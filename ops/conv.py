"""Convolution with groups and explicit padding, and in separable form."""

import math

import tensorflow as tf

from barenets.ops.initializers import Initializer, he_normal
from barenets.ops.precision import like

Padding = str | int | tuple[int, int]

_PATCHES = 1 << 24
"""Values of the patches of one picture from which on they are made for one picture at a time."""


def explicit_padding(padding: Padding) -> str | list[list[int]]:
    """`padding` as `tf.nn` takes it: "SAME" and "VALID" as they are, integers as NHWC pairs.

    An integer pads all four sides by as much, as Caffe and torch do; (vertical, horizontal) pads each
    axis symmetrically. TensorFlow's SAME puts an odd pixel after, not before, so a strided SAME
    convolution sees other pixels than Caffe's.
    """
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding must be 'SAME', 'VALID', an int or a pair of ints, not {padding!r}")
        return padding
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    if vertical < 0 or horizontal < 0:
        raise ValueError(f"padding must not be negative, got {padding!r}")
    return [[0, 0], [vertical, vertical], [horizontal, horizontal], [0, 0]]


class Conv2D(tf.Module):
    """y[n,i,j,o] = Σ x[n, i·s+u−p, j·s+v−p, c] · weights[u,v,c,o] + biases[o].

    `weights` is [height, width, in_channels / groups, out_channels], `biases` [out_channels]; `size` is
    (height, width), or one number for both. With
    groups, output channel o sees only the input channels of its own group (Krizhevsky et al. 2012,
    figure 2: the two GPUs): the input is split, convolved and put together again. `tf.nn.conv2d` takes
    the shallower kernel as it is, too, but its gradient on a CPU then depends on how TensorFlow was
    built and on the CPU, and where it works it is no faster (benchmarks/grouped_conv.py).

    `x` is [N, H, W, in_channels]; the result [N, H', W', out_channels], where
    H' = floor((H + 2p − size) / stride) + 1 for integer padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        groups: int = 1,
        bias: bool = True,
        initializer: Initializer | None = None,
        bias_value: float = 0.0,
        seed: tuple[int, int] = (0, 0),
        dtype: tf.DType = tf.float32,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} -> {out_channels} channels")
        self._stride, self._padding, self._groups = stride, explicit_padding(padding), groups
        height, width = (size, size) if isinstance(size, int) else size
        shape = (height, width, in_channels // groups, out_channels)
        self.weights = tf.Variable((initializer or he_normal())(shape, seed, dtype))
        self.biases = tf.Variable(tf.fill([out_channels], tf.cast(bias_value, dtype))) if bias else None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        weights = like(self.weights, x)
        if self._groups == 1:
            y = tf.nn.conv2d(x, weights, self._stride, self._padding)
        else:
            groups = zip(tf.split(x, self._groups, -1), tf.split(weights, self._groups, -1), strict=True)
            y = tf.concat([tf.nn.conv2d(part, kernel, self._stride, self._padding) for part, kernel in groups], -1)
        return y if self.biases is None else tf.nn.bias_add(y, like(self.biases, x))

    def gradient_squares(self, x: tf.Tensor, gradient: tf.Tensor) -> dict[str, tf.Tensor]:
        """The square of the norm of each picture's own gradient of `weights` and `biases`, float32 [N] each.

        `x` is what the layer was given, `gradient` that of its output. The kernel's gradient is patches' · gradient,
        which is made for one picture at a time where the patches are large.
        """
        size = self.weights.shape[:2]
        groups = self._groups

        def of_kernel(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            patches, dy = (
                tf.split(part, groups, -1) for part in (_patches(pair[0], size, self._stride, self._padding), pair[1])
            )
            kernels = [
                tf.matmul(_positions(part, 2), _positions(d, 1), transpose_a=True)
                for part, d in zip(patches, dy, strict=True)
            ]
            return tf.add_n([tf.reduce_sum(tf.square(kernel), [1, 2]) for kernel in kernels])

        places = math.prod(gradient.shape[1:3]) * math.prod(size) * x.shape[-1]
        if places <= _PATCHES:
            squares = {"weights": of_kernel((x, gradient))}
        else:
            alone = tf.map_fn(
                lambda pair: of_kernel((pair[0][None], pair[1][None]))[0],
                (x, gradient),
                fn_output_signature=tf.float32,
                parallel_iterations=1,
            )
            squares = {"weights": alone}
        if self.biases is not None:
            squares["biases"] = tf.reduce_sum(tf.square(tf.reduce_sum(gradient, [1, 2])), 1)
        return squares


class SeparableConv2D(tf.Module):
    """A convolution of each channel by itself, then a 1×1 convolution across them (Chollet 2017, section 2).

    `depthwise_weights` is [size, size, in_channels, multiplier]: each input channel gives `multiplier`
    channels, input channel after input channel. `pointwise_weights` is
    [1, 1, in_channels · multiplier, out_channels]; nothing stands between the two. `biases`, [out_channels] and
    zero at first, are there only if `bias` says so.

    `x` is [N, H, W, in_channels]; the result [N, H', W', out_channels], sides as in Conv2D.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        multiplier: int = 1,
        bias: bool = False,
        initializer: Initializer | None = None,
        seed: tuple[int, int] = (0, 0),
        dtype: tf.DType = tf.float32,
    ) -> None:
        super().__init__()
        self._stride, self._padding = stride, explicit_padding(padding)
        initializer = initializer or he_normal()
        # One output of the depthwise step sees size² inputs, which the axes of its kernel do not tell.
        depthwise = initializer((size, size, 1, in_channels * multiplier), tf.random.fold_in(seed, 0), dtype)
        self.depthwise_weights = tf.Variable(tf.reshape(depthwise, [size, size, in_channels, multiplier]))
        shape = (1, 1, in_channels * multiplier, out_channels)
        self.pointwise_weights = tf.Variable(initializer(shape, tf.random.fold_in(seed, 1), dtype))
        self.biases = tf.Variable(tf.zeros([out_channels], dtype)) if bias else None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        strides = [1, self._stride, self._stride, 1]
        y = tf.nn.depthwise_conv2d(x, like(self.depthwise_weights, x), strides, self._padding)
        y = tf.nn.conv2d(y, like(self.pointwise_weights, x), 1, "VALID")
        return y if self.biases is None else tf.nn.bias_add(y, like(self.biases, x))

    def gradient_squares(self, x: tf.Tensor, gradient: tf.Tensor) -> dict[str, tf.Tensor]:
        """The square of the norm of each picture's own gradient of each variable, float32 [N].

        `x` is what the layer was given, `gradient` that of its output.
        """
        strides = [1, self._stride, self._stride, 1]
        middle = tf.nn.depthwise_conv2d(x, self.depthwise_weights, strides, self._padding)
        pointwise = tf.matmul(_positions(middle, 1), _positions(gradient, 1), transpose_a=True)
        back = tf.nn.conv2d(gradient, tf.transpose(self.pointwise_weights, [0, 1, 3, 2]), 1, "VALID")
        patches = _patches(x, self.depthwise_weights.shape[:2], self._stride, self._padding)
        back = tf.reshape(back, [-1, *back.shape[1:3], *self.depthwise_weights.shape[2:]])
        depthwise = tf.einsum("nhwkc,nhwcm->nkcm", patches, back)
        squares = {
            "depthwise_weights": tf.reduce_sum(tf.square(depthwise), [1, 2, 3]),
            "pointwise_weights": tf.reduce_sum(tf.square(pointwise), [1, 2]),
        }
        if self.biases is not None:
            squares["biases"] = tf.reduce_sum(tf.square(tf.reduce_sum(gradient, [1, 2])), 1)
        return squares


def _patches(x: tf.Tensor, size: tf.TensorShape, stride: int, padding: str | list[list[int]]) -> tf.Tensor:
    """What each place of the output sees: [N, H', W', height · width, channels]."""
    if not isinstance(padding, str):
        x, padding = tf.pad(x, padding), "VALID"
    patches = tf.image.extract_patches(x, [1, *size, 1], [1, stride, stride, 1], [1, 1, 1, 1], padding)
    return tf.reshape(patches, [-1, *patches.shape[1:3], math.prod(size), x.shape[-1]])


def _positions(x: tf.Tensor, last: int) -> tf.Tensor:
    """[N, H, W, ...] as [N, H · W, the product of the `last` axes]."""
    return tf.reshape(x, [-1, math.prod(x.shape[1:3]), math.prod(x.shape[-last:])])

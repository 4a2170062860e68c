"""Batch normalization, and local response normalization in Caffe's parameters and in TensorFlow's.

Three definitions go by the name of local response normalization (n channels wide, r = (n − 1) / 2 on each side):

    Caffe                      y = x / (k + α/n · Σ x²)^β      k = 1 in bvlc_alexnet, α = 1e-4, β = .75
    TensorFlow                 y = x / (bias + α · Σ x²)^β     the α of Caffe divided by n
    Krizhevsky et al. 2012     y = x / (k + α · Σ x²)^β        k = 2, α = 1e-4, section 3.3
"""

from typing import Any

import tensorflow as tf

from barenets.ops import replicas
from barenets.ops.precision import wide


class BatchNorm(tf.Module):
    """y = gamma · (x − mean) / √(variance + epsilon) + beta, channel by channel (Ioffe and Szegedy 2015).

    Mean and variance are the batch's own in training, over N, H and W, and on all devices that have parts of it, and
    the moving averages otherwise.
    A call in training moves these: moving ← decay · moving + (1 − decay) · batch, where the batch's
    variance is the unbiased one, Σ (x − mean)² / (n − 1), as in Caffe, torch and TensorFlow's kernels
    (Keras 3 has Σ / n there). torch's `momentum` is 1 − decay. Statistics are float32, whatever `x` is.

    All variables are [channels]; without `scale` there is no gamma. `x` is [N, H, W, channels].
    """

    frozen = False
    """True: the moving averages are used and stay as they are, in training too. gamma and beta may still train."""

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        decay: float = 0.9,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.epsilon, self._decay = epsilon, decay
        self.gamma = tf.Variable(tf.ones([channels])) if scale else None
        self.beta = tf.Variable(tf.zeros([channels]))
        self.moving_mean = tf.Variable(tf.zeros([channels]), trainable=False)
        self.moving_variance = tf.Variable(tf.ones([channels]), trainable=False)

    def __call__(self, x: tf.Tensor, *, train: bool) -> tf.Tensor:
        gamma = tf.ones_like(self.beta) if self.gamma is None else self.gamma
        batch = train and not self.frozen
        if batch and replicas.count() > 1:
            mean, variance, count = self._moments(wide(x))
            y = (wide(x) - mean) * (tf.math.rsqrt(variance + self.epsilon) * gamma) + self.beta
            # As FusedBatchNorm has it of one value; and a piece of no pictures on any device moves nothing.
            self._move(mean, variance * count / tf.maximum(count - 1, 1), tf.minimum(count, 1))
            return tf.cast(y, x.dtype)
        # Not tf.nn.fused_batch_norm, which raises an epsilon of 1e-5 to 1.001e-5.
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=self.beta,
            mean=[] if batch else self.moving_mean,
            variance=[] if batch else self.moving_variance,
            epsilon=self.epsilon,
            is_training=batch,
        )
        if batch:
            self._move(mean, variance)
        return y

    def _move(self, mean: tf.Tensor, variance: tf.Tensor, share: Any = 1) -> None:
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            replicas.assign(moving, moving - share * (1 - self._decay) * (moving - value))

    def _moments(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Mean and variance of each channel on all devices, 0 if there are no values, and how many there are."""
        count = replicas.total(tf.cast(tf.size(x) / tf.shape(x)[-1], x.dtype))
        divisor = tf.maximum(count, 1)
        mean = replicas.total(tf.reduce_sum(x, [0, 1, 2])) / divisor
        # Two passes: the mean of the squares less the square of the mean would lose digits.
        return mean, replicas.total(tf.reduce_sum(tf.square(x - mean), [0, 1, 2])) / divisor, count

    def gradient_squares(self, x: tf.Tensor, gradient: tf.Tensor, *, train: bool) -> dict[str, tf.Tensor]:
        """The square of the norm of each picture's part in the gradient of gamma and of beta, float32 [N] each.

        `x` is what the layer was given, `gradient` that of its output. Where the batch's statistics are used a
        picture has no gradient of its own, but the gradient still is a sum over the pictures' values.
        """
        squares = {"beta": tf.reduce_sum(tf.square(tf.reduce_sum(gradient, [1, 2])), 1)}
        if self.gamma is not None:
            batch = train and not self.frozen
            mean, variance = self._moments(x)[:2] if batch else (self.moving_mean, self.moving_variance)
            normal = (x - mean) * tf.math.rsqrt(variance + self.epsilon)
            squares["gamma"] = tf.reduce_sum(tf.square(tf.reduce_sum(gradient * normal, [1, 2])), 1)
        return squares


def local_response_normalization(
    x: tf.Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, fast: bool = True
) -> tf.Tensor:
    """LRN across channels as Caffe defines it: alpha is divided by `size`.

    `x` is [N, H, W, C] floating; `size` is odd. `fast` computes it as shifted sums that XLA fuses into
    one pass forward and one backward; otherwise it is `tf.nn.local_response_normalization`, float32
    only. Both agree to about 1e-6 (benchmarks/lrn.py has the times).
    """
    if size % 2 == 0:
        raise ValueError(f"the size of the normalized neighbourhood must be odd, got {size}")
    return local_response_normalization_tf(x, (size - 1) // 2, k, alpha / size, beta, fast=fast)


def local_response_normalization_tf(
    x: tf.Tensor,
    depth_radius: int = 5,
    bias: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.5,
    *,
    fast: bool = True,
) -> tf.Tensor:
    """LRN across channels with the parameters and defaults of `tf.nn.local_response_normalization`."""
    given, x = x.dtype, wide(x)  # float16 has no squares of more than 255
    if not fast:
        return tf.cast(tf.nn.local_response_normalization(x, depth_radius, bias, alpha, beta), given)

    # Written out because XLA fuses these two expressions; the tape's own chain of a dozen gradients
    # costs twice as much (benchmarks/lrn.py).
    @tf.custom_gradient
    def normalize(x: tf.Tensor):  # type: ignore[no-untyped-def]
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            return _backward(x, dy, depth_radius, bias, alpha, beta)

        return _forward(x, depth_radius, bias, alpha, beta), gradient

    return tf.cast(normalize(x), given)


@tf.function(jit_compile=True)
def _forward(x: tf.Tensor, radius: int, bias: float, alpha: float, beta: float) -> tf.Tensor:
    return x * _power(bias + alpha * _channel_sums(x * x, radius), beta)


@tf.function(jit_compile=True)
def _backward(x: tf.Tensor, dy: tf.Tensor, radius: int, bias: float, alpha: float, beta: float) -> tf.Tensor:
    # With s = bias + α Σ x²: dx = dy · s^−β − 2αβ · x · Σ (dy · x · s^(−β−1)), both sums over the channels.
    s = bias + alpha * _channel_sums(x * x, radius)
    scale = _power(s, beta)
    return dy * scale - (2.0 * alpha * beta) * x * _channel_sums(dy * x * scale / s, radius)


def _power(s: tf.Tensor, beta: float) -> tf.Tensor:
    """s^−β; for AlexNet's β = 3/4 by square roots, which are several times cheaper than pow."""
    if beta != 0.75:
        return s**-beta
    root = tf.math.rsqrt(s)
    return root * tf.sqrt(root)


def _channel_sums(v: tf.Tensor, radius: int) -> tf.Tensor:
    """The sum of each channel and of `radius` neighbours to both sides, as far as there are any."""
    channels = v.shape[-1]
    padded = tf.pad(v, [[0, 0]] * (v.shape.rank - 1) + [[radius, radius]])
    return tf.add_n([padded[..., shift : shift + channels] for shift in range(2 * radius + 1)])

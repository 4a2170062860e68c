"""Convolution, batch norm and ReLU: what the Inception networks are made of."""

from functools import partial
from typing import Any

import tensorflow as tf

from barenets.ops import Apply, BatchNorm, Conv2D, SeparableConv2D


class ConvNorm(Conv2D):
    """A convolution without bias, and its batch norm `bn` (its keywords: `norm`)."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int | tuple[int, int], *, norm: dict[str, Any], **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, size, bias=False, **options)
        self.bn = BatchNorm(out_channels, **norm)


def conv_norm_relu(layer: Apply, conv: Conv2D | SeparableConv2D, x: tf.Tensor, name: str, *, train: bool) -> tf.Tensor:
    """The activations are `name`, with batch norm `name`/bn, and after the ReLU, as Caffe has it, parent/relu_last."""
    x = layer(name, conv, x)
    if isinstance(conv, ConvNorm):
        x = layer(f"{name}/bn", partial(conv.bn, train=train), x)
    parent, slash, last = name.rpartition("/")
    return layer(f"{parent}{slash}relu_{last}", tf.nn.relu, x)

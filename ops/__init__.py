"""Primitives: `tf.nn` calls and `tf.Variable`s, no Keras. Knows nothing of networks.

Activations are NHWC float tensors, convolution kernels HWIO, dense kernels `[in, out]`.
"""

from barenets.ops.conv import Conv2D, SeparableConv2D
from barenets.ops.dense import Dense
from barenets.ops.dropout import dropout, fold_in, layer_dropout
from barenets.ops.image import Preprocessing
from barenets.ops.initializers import Initializer, gaussian, glorot_uniform, he_normal
from barenets.ops.losses import center_loss, sigmoid_cross_entropy, softmax_cross_entropy
from barenets.ops.module import Apply, Tap, Within, aligned, layers, named_variables, select
from barenets.ops.norm import BatchNorm, local_response_normalization, local_response_normalization_tf
from barenets.ops.pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool
from barenets.ops.precision import PRECISIONS, like, wide
from barenets.ops.table import Layer, LayerTable, layer_table

__all__ = [
    "PRECISIONS",
    "Apply",
    "BatchNorm",
    "Conv2D",
    "Dense",
    "Initializer",
    "Layer",
    "LayerTable",
    "Preprocessing",
    "SeparableConv2D",
    "Tap",
    "Within",
    "adaptive_avg_pool",
    "aligned",
    "avg_pool",
    "center_loss",
    "dropout",
    "fold_in",
    "gaussian",
    "global_avg_pool",
    "glorot_uniform",
    "he_normal",
    "layer_dropout",
    "layer_table",
    "layers",
    "like",
    "local_response_normalization",
    "local_response_normalization_tf",
    "max_pool",
    "named_variables",
    "select",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "wide",
]

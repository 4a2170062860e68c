"""The table of a network's layers: what each gives, what it sees of the picture, and what it costs."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.ops.module import aligned, named_variables

Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One row of a layer table: what is called `name` in the network, for one picture."""

    name: str
    kind: str
    """What it applies, by its name in the code: Conv2D, relu, max_pool, ..."""
    output_shape: tuple[int, ...]
    receptive_field: Pair
    """Height and width in pixels of what one of its places sees; not cut off at the edges of the picture."""
    stride: Pair
    """How many pixels further its next place sees, down and to the right."""
    parameters: int
    multiply_adds: int

    @property
    def memory(self) -> int:
        """Bytes of the output as float32."""
        return 4 * math.prod(self.output_shape)


class LayerTable(tuple[Layer, ...]):
    """The rows of `layer_table`; prints as a table with totals."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.text()

    def text(self, batch_size: int = 1) -> str:
        """The table; memory is that of all outputs for so many pictures at once, as float32.

        Training keeps them until the gradient comes back, but for those that TensorFlow computes in place.
        """
        heads = ("layer", "kind", "output", "sees", "stride", "parameters", "multiply-adds", "memory")
        rows: list[tuple[str, ...]] = [heads]
        for layer in self:
            pairs = ("×".join(map(str, pair)) for pair in (layer.output_shape, layer.receptive_field, layer.stride))
            counts = _count(layer.parameters), _count(layer.multiply_adds), _bytes(batch_size * layer.memory)
            rows.append((layer.name, layer.kind, *pairs, *counts))
        totals = (sum(row.parameters for row in self), sum(row.multiply_adds for row in self))
        memory = _bytes(batch_size * sum(row.memory for row in self))
        rows.append(("total", "", "", "", "", *map(_count, totals), memory))
        return aligned(rows, left=2)


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _bytes(number: int) -> str:
    return f"{number / 1e6:,.2f} MB"


class _Trace:
    """A tap that keeps tensors and what they came from."""

    def __init__(self) -> None:
        self.tensors: dict[str, tf.Tensor] = {}
        self.layers: dict[str, Any] = {}

    def enters(self, name: str, layer: Any, x: Any) -> None:
        self.layers[name] = layer

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        self.tensors[name] = x
        return x


def layer_table(net: Any, input_shape: tuple[int, int, int] | None = None) -> LayerTable:
    """Kind, output shape, receptive field, stride, parameters and multiply-adds of every named activation of `net`.

    `input_shape` is (height, width, channels), the network's own `input_shape` when not given. All is taken from one
    real trace of the network, without computing it: receptive fields from the operations between picture and
    activation (Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks"; where branches meet,
    the largest). Multiply-adds count the products of convolutions and dense layers for one picture, as the papers do;
    biases, normalization and pooling are left out. Moving averages are no parameters.
    """
    trace = _Trace()
    height, width, channels = input_shape or net.input_shape
    spec = tf.TensorSpec([1, height, width, channels], tf.float32)
    # Auxiliary classifiers are there in training only.
    mode = {"train": True, "rng": tf.constant([0, 0])} if getattr(net, "auxiliary", None) else {}
    pictures: list[tf.Tensor] = []

    def run(x: tf.Tensor) -> tf.Tensor:
        pictures.append(x)
        return net(x, tap=trace, **mode)

    tf.function(run, autograph=False).get_concrete_function(spec)
    fields = _Fields(pictures[0])
    variables = named_variables(net)
    rows = []
    for name, x in trace.tensors.items():
        shape = tuple(x.shape[1:])
        own = {key: variables.pop(key) for key in list(variables) if key.rpartition("/")[0] == name}
        kernels = [tuple(variable.shape) for key, variable in own.items() if key.endswith("weights")]
        # A kernel is used once at each place of the output map; a dense layer has one place.
        products = sum(math.prod(k) * (math.prod(shape[:-1]) if len(k) == 4 else 1) for k in kernels)
        parameters = sum(math.prod(variable.shape) for variable in own.values() if variable.trainable)
        kind = _kind(trace.layers[name]) if name in trace.layers else x.op.type
        rows.append(Layer(name, kind, shape, *fields.of(x), parameters, products))
    if variables:
        raise ValueError(
            f"no activation is named after the layers of {', '.join(variables)}: the network must tap them"
        )
    return LayerTable(rows)


def _kind(layer: Any) -> str:
    while isinstance(layer, partial):
        layer = layer.func
    return getattr(layer, "__name__", None) or next(c.__name__ for c in type(layer).__mro__ if c.__module__ in _PLAIN)


_PLAIN = {f"barenets.ops.{name}" for name in ("conv", "dense", "norm")} | {"barenets.nets.heads", "builtins"}


class _Fields:
    """Receptive field and stride of the tensors of a graph, with respect to the pictures."""

    def __init__(self, pictures: tf.Tensor) -> None:
        self._known: dict[Any, tuple[Pair, Pair] | None] = {pictures.ref(): ((1, 1), (1, 1))}

    def of(self, x: tf.Tensor) -> tuple[Pair, Pair]:
        """Raises ValueError for a tensor that does not come from the pictures."""
        waiting = [x]  # not recursion, for which deep networks are too deep
        while waiting:
            now = waiting[-1]
            missing = [y for y in now.op.inputs if y.ref() not in self._known and now.ref() not in self._known]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if now.ref() not in self._known:
                self._known[now.ref()] = self._step(now)
        found = self._known[x.ref()]
        if found is None:
            raise ValueError(f"{x.name} does not depend on the pictures")
        return found

    def _step(self, x: tf.Tensor) -> tuple[Pair, Pair] | None:
        """From what the operation's inputs see."""
        op = x.op
        sources = [(y, known) for y in op.inputs if (known := self._known[y.ref()]) is not None]
        if not sources:
            return None
        below = sources[0][0]
        field, stride = (1, 1), (1, 1)
        for _, (other, step) in sources:
            field, stride = _larger(field, other), _larger(stride, step)
        window = _window(op, below)
        if window is None:
            return field, stride
        size, step = window
        grown = tuple(f + (k - 1) * s for f, k, s in zip(field, size, stride, strict=True))
        return (grown[0], grown[1]), (stride[0] * step[0], stride[1] * step[1])


def _larger(a: Pair, b: Pair) -> Pair:
    return max(a[0], b[0]), max(a[1], b[1])


def _window(op: tf.Operation, x: tf.Tensor) -> tuple[Pair, Pair] | None:
    """Size and stride of the window through which `op` sees `x`; None where each place sees one place.

    Raises ValueError for an operation that changes the size of the map in a way that is not known.
    """
    kind = op.type
    if kind in ("Conv2D", "DepthwiseConv2dNative"):
        height, width = op.inputs[1].shape[:2]
        _, down, right, _ = op.get_attr("dilations")
        _, *stride, _ = op.get_attr("strides")
        return ((height - 1) * down + 1, (width - 1) * right + 1), (stride[0], stride[1])
    if kind in ("MaxPool", "AvgPool"):
        _, *size, _ = op.get_attr("ksize")
        _, *stride, _ = op.get_attr("strides")
        return (size[0], size[1]), (stride[0], stride[1])
    before, after = x.shape, op.outputs[0].shape
    if before.rank != 4 or (after.rank == 4 and before[1:3] == after[1:3]):
        return None
    if kind in ("Pad", "PadV2", "MirrorPad"):
        return None
    if after.rank == 4 and kind in ("Einsum", "BatchMatMulV2", "Transpose"):  # adaptive pooling: its widest window
        size = tuple(math.ceil(n / m) + (n % m > 0) for n, m in zip(before[1:3], after[1:3], strict=True))
        return (size[0], size[1]), (before[1] // after[1], before[2] // after[2])
    if kind in ("Mean", "Sum", "Max", "Reshape", "Shape"):  # every place of what follows sees all of the map
        return (before[1], before[2]), (before[1], before[2])
    raise ValueError(f"{op.name}: what {kind} makes of a map of {before[1]}×{before[2]} places is not known")

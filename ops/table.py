"""The table of a network's layers: what each is, gives and sees of the picture, and what it costs."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from barenets.ops.module import aligned, named_variables

KINDS = {
    "DepthwiseConv2dNative": "separable convolution",
    "Conv2D": "convolution",
    "MatMul": "dense",
    "FusedBatchNormV3": "batch norm",
    "LRN": "local response normalization",
    "MaxPool": "max pool",
    "AvgPool": "average pool",
    "Einsum": "adaptive average pool",
    "Mean": "mean",
    "Relu": "ReLU",
    "Sigmoid": "sigmoid",
    "ConcatV2": "concatenation",
    "AddN": "sum",
    "AddV2": "sum",
    "Mul": "product",
}
"""TensorFlow's operation -> kind of the layer. Of what a layer is made of, the first of these names it."""


@dataclass(frozen=True)
class Layer:
    """One row of a layer table: the activation `name` of a network, for one picture.

    `receptive_field` is (height, width), in pixels, of what one place of the map depends on, and `stride` how many
    pixels further down and to the right the next place looks (Araujo et al. 2019, "Computing Receptive Fields of
    Convolutional Neural Networks"). It is the theoretical field: padding counts, so it is not cut off at the edges
    and may be larger than the picture. What sees a whole map, a dense layer or a global mean, counts as seeing the
    whole picture, and as one picture wide in its stride.
    """

    name: str
    kind: str
    """One of KINDS; where no operation says, the name of what the network applies there, such as `dropout`."""
    output_shape: tuple[int, ...]
    receptive_field: tuple[int, int]
    stride: tuple[int, int]
    parameters: int
    multiply_adds: int

    @property
    def memory(self) -> int:
        """Bytes of the output in float32."""
        return 4 * math.prod(self.output_shape)


class LayerTable(tuple[Layer, ...]):
    """The rows of `layer_table`; prints as a table with totals."""

    __slots__ = ()

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self)

    @property
    def multiply_adds(self) -> int:
        """Of all layers, for one picture."""
        return sum(layer.multiply_adds for layer in self)

    @property
    def memory(self) -> int:
        """Bytes of the outputs of all rows in float32, for one picture.

        All of them are there at once when a step of training turns back, if TensorFlow fuses nothing. Not in it:
        the picture, parameters, gradients, the optimizer's state, and what an operation needs while it runs.
        """
        return sum(layer.memory for layer in self)

    def __str__(self) -> str:
        return self.text()

    def text(self, batch_size: int = 1) -> str:
        """The table as text, a line for each layer and the total; memory is for `batch_size` pictures, in 10⁶ bytes."""
        memory = "memory, MB" if batch_size == 1 else f"memory of {batch_size}, MB"
        rows: list[tuple[str, ...]] = [
            ("layer", "kind", "output", "sees", "stride", "parameters", "multiply-adds", memory)
        ]
        for layer in self:
            sees = _times(layer.receptive_field), _times(layer.stride) if len(layer.output_shape) > 1 else "-"
            rows.append((layer.name, layer.kind, _times(layer.output_shape), *sees, *_costs(layer, batch_size)))
        rows.append(("total", "", "", "", "", *_costs(self, batch_size)))
        return aligned(rows, left=2)


def _times(numbers: Sequence[int]) -> str:
    return "×".join(map(str, numbers))


def _costs(of: Layer | LayerTable, batch_size: int) -> tuple[str, ...]:
    counts = (f"{number:,}" if number else "-" for number in (of.parameters, of.multiply_adds))
    return *counts, f"{batch_size * of.memory / 1e6:,.3f}"


class _Trace:
    """A tap that notes the activations, and what the network applies to get them."""

    def __init__(self) -> None:
        self.activations: dict[str, tf.Tensor] = {}
        self.applied: dict[str, Any] = {}

    def enters(self, name: str, layer: Any, x: Any) -> None:
        self.applied[name] = layer

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        self.activations[name] = x
        return x


def layer_table(net: Callable[..., Any], input_shape: tuple[int, int, int] | None = None) -> LayerTable:
    """A row for every named activation of `net`, in its order.

    `input_shape` is (height, width, channels), the network's own `input_shape` when not given. All is read from one
    real trace of the network, without computing it. Multiply-adds count the products of convolutions and dense
    layers for one picture, as the papers do; biases, normalization and pooling are left out. Moving averages are no
    parameters.

    Raises ValueError for variables that no activation is named after, and where an operation changes the size of a
    map in a way that is not known here. One that keeps the size, such as the function that LRN is, is taken to work
    place by place; batch norm is, though in training its statistics are those of all places.
    """
    trace = _Trace()
    height, width, channels = input_shape or net.input_shape  # type: ignore[attr-defined]
    pictures: list[tf.Tensor] = []
    # Auxiliary classifiers are there in training only.
    mode = {"train": True, "rng": tf.constant([0, 0])} if getattr(net, "auxiliary", None) else {}

    def run(x: tf.Tensor) -> tf.Tensor:
        pictures.append(x)
        return net(x, tap=trace, **mode)

    spec = tf.TensorSpec([1, height, width, channels], tf.float32)
    tf.function(run, autograph=False).get_concrete_function(spec)
    spans = _spans(pictures[0], trace.activations.values())

    variables = named_variables(net)
    known = {pictures[0].ref()}
    rows = []
    for name, x in trace.activations.items():
        shape = tuple(x.shape[1:])
        own = {key: variables.pop(key) for key in list(variables) if key.rpartition("/")[0] == name}
        kernels = [tuple(variable.shape) for key, variable in own.items() if key.endswith("weights")]
        # A kernel is used once at each place of the output map; a dense layer has one place.
        products = sum(math.prod(k) * (math.prod(shape[:-1]) if len(k) == 4 else 1) for k in kernels)
        parameters = sum(math.prod(variable.shape) for variable in own.values() if variable.trainable)
        if x.ref() not in spans:
            raise ValueError(f"the activation {name} does not depend on the picture")
        down, right = spans[x.ref()]
        fields = (down.field(height), right.field(width)), (down.stride(height), right.stride(width))
        types = {op.type for op in _back([x], known) if op.outputs[0].ref() in spans}
        kind = _kind(x, types, trace.applied.get(name))
        rows.append(Layer(name, kind, shape, *fields, parameters, products))
        known.add(x.ref())
    if variables:
        raise ValueError(
            f"no activation is named after the layers of {', '.join(variables)}: the network must tap them"
        )
    return LayerTable(rows)


def _kind(x: tf.Tensor, types: set[str], applied: Any) -> str:
    """What operations of these `types`, which lead to `x` from the activations before it, amount to."""
    for operation, kind in KINDS.items():
        if operation in types:
            return kind
    while isinstance(applied, partial):
        applied = applied.func
    name = getattr(applied, "__name__", None if applied is None else type(applied).__name__)
    return str(x.op.type) if name is None or name == "<lambda>" else name.replace("_", " ")


def _back(tensors: Iterable[tf.Tensor], known: Iterable[Any] = ()) -> Iterator[tf.Operation]:
    """The operations that `tensors` come from, without those that what is `known` comes from."""
    waiting, seen = list(tensors), set(known)
    while waiting:
        y = waiting.pop()
        if y.ref() not in seen:
            seen.add(y.ref())
            yield y.op
            waiting.extend(y.op.inputs)


class _Span(NamedTuple):
    """Along one axis of a map: its place i sees the pixels from step · i + first to step · i + last."""

    first: float
    last: float
    step: float

    def field(self, side: int) -> int:
        return side if math.isinf(self.first) else round(self.last - self.first + 1)

    def stride(self, side: int) -> int:
        return side if math.isinf(self.step) else round(self.step)

    def window(self, size: int, stride: float = 1, padding: int = 0) -> "_Span":
        """Of the map whose place i sees places stride · i − padding ... + size − 1 of this one."""
        first = self.first - padding * self.step
        return _Span(first, self.last + (size - 1 - padding) * self.step, self.step * stride)


_Pair = tuple[_Span, _Span]
_WHOLE = (_Span(-math.inf, math.inf, math.inf),) * 2


def _spans(pictures: tf.Tensor, activations: Iterable[tf.Tensor]) -> dict[Any, _Pair]:
    """The spans of everything between `pictures` and `activations`, down and to the right, by reference."""
    spans = {pictures.ref(): (_Span(0, 0, 1),) * 2}
    needed = set(_back(activations))
    for op in pictures.graph.get_operations():  # inputs stand before what uses them
        if op in needed and op.type not in ("Shape", "ZerosLike", "OnesLike"):
            sources = [_through(op, x, spans[x.ref()]) for x in op.inputs if x.ref() in spans]
            if sources:
                down, right = (_union(op, axis) for axis in zip(*sources, strict=True))
                spans |= {y.ref(): (down, right) for y in op.outputs}
    return spans


def _union(op: tf.Operation, spans: Sequence[_Span]) -> _Span:
    # What sees the whole picture from one place has no step.
    steps = {span.step for span in spans if math.isfinite(span.step)} or {math.inf}
    if len(steps) > 1:
        raise ValueError(f"{op.name} brings maps together whose strides differ: {', '.join(map(str, sorted(steps)))}")
    return _Span(min(span.first for span in spans), max(span.last for span in spans), steps.pop())


def _through(op: tf.Operation, x: tf.Tensor, spans: _Pair) -> _Pair:
    """What the output of `op` sees through its input `x`, which sees `spans`. Raises ValueError if it is not known."""
    before, after = x.shape, op.outputs[0].shape
    windows: Iterable[tuple[int, float, int]]
    if spans == _WHOLE:
        return spans
    if op.type in ("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"):
        windows = zip(*_windows(op, before, after), strict=True)
    elif op.type in ("Pad", "PadV2"):
        windows = ((1, 1, int(before)) for before in tf.get_static_value(op.inputs[1])[1:3, 0])
    elif op.type == "Einsum" and after.rank == 4 and (matrix := tf.get_static_value(op.inputs[1])) is not None:
        # adaptive_avg_pool, one axis at a time: row i of the matrix is window i. Where these differ the largest counts.
        size, stride = int(np.count_nonzero(matrix, 1).max()), matrix.shape[1] / matrix.shape[0]
        windows = ((size, stride, 0) if a != b else (1, 1, 0) for a, b in zip(before[1:3], after[1:3], strict=True))
    elif before[1:3] == after[1:3]:
        return spans
    elif _keeps_nothing(op, before, after):
        return _WHOLE
    else:
        raise ValueError(f"{op.name}: what {op.type} does to a map of {_times(before[1:3])} places is not known")
    down, right = (span.window(*window) for span, window in zip(spans, windows, strict=True))
    return down, right


def _keeps_nothing(op: tf.Operation, before: tf.TensorShape, after: tf.TensorShape) -> bool:
    """Whether each place of the output sees all places of the map."""
    if op.type == "Reshape":
        return after.rank == 2 and after[0] == before[0]
    reduced = tf.get_static_value(op.inputs[1]) if op.type in ("Mean", "Sum", "Max") else ()
    return {1, 2} <= {int(axis) % before.rank for axis in np.ravel(reduced)}


def _windows(op: tf.Operation, before: tf.TensorShape, after: tf.TensorShape) -> Iterator[Sequence[int]]:
    """Sizes, strides and paddings before, each down and to the right, of a convolution or pooling."""
    strides = op.get_attr("strides")[1:3]
    if "Pool" in op.type:
        sizes = op.get_attr("ksize")[1:3]
    else:
        dilations = op.get_attr("dilations")[1:3]
        sizes = [(n - 1) * d + 1 for n, d in zip(op.inputs[1].shape[:2], dilations, strict=True)]
    yield sizes
    yield strides
    padding = op.get_attr("padding")
    if padding == b"SAME":
        sides = zip(before[1:3], after[1:3], sizes, strides, strict=True)
        yield [max((m - 1) * stride + size - n, 0) // 2 for n, m, size, stride in sides]
    else:
        yield op.get_attr("explicit_paddings")[2:6:2] if padding == b"EXPLICIT" else (0, 0)

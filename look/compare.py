"""Two networks on the same pictures, activation by activation: which layer is the first to differ, and how.

A is another engine, B the network that is asked about. What is said of a fault is tried out first: that A's
activations, or B's layer, with the fault undone, agree with the other side.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import permutations, product
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.look.activations import INPUT
from barenets.ops import BatchNorm, aligned, local_response_normalization
from barenets.weights import files
from barenets.weights.npy import read_archive, write_npz

TOLERANCE = 1e-4
"""As a part of the largest magnitude in a layer; float32 engines that compute the same differ by 1e-7 to 1e-5."""

Activations = Mapping[str, np.ndarray]
"""Name -> array whose first axis is the pictures', in the network's order."""

_VARIABLE = re.compile(r"(^|[/._])(weights?|bias(es)?|kernel|gamma|beta|W|b|(moving|running)_(mean|var\w*))(:0)?$")


def dump(net: Any, images: Any, path: str | None = None) -> dict[str, np.ndarray]:
    """float32 arrays by name: `input`, which is `images`, and every tapped activation in the network's order.

    `images` is floating [N, *input_shape]. With `path` they are written there, too, as a `.npz`. Raises UserError if
    that cannot be written.
    """
    seen = {INPUT: np.asarray(images, np.float32)}

    def keep(name: str, x: tf.Tensor) -> tf.Tensor:
        seen[name] = np.asarray(x, np.float32)
        return x

    net(tf.constant(seen[INPUT]), tap=keep)
    if path is not None:
        write_npz(path, seen)
    return seen


def read_dump(path: str) -> dict[str, np.ndarray] | None:
    """Name -> array of the dump at `path`; None if that is something else, such as weights.

    A dump is a `.npz` with an entry `input`, or where no name is that of a variable. Raises UserError for one that is
    damaged, or holds anything but numbers.
    """
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path) or bytes(files.view(path)[:2]) != b"PK":
        return None
    try:
        members = list(files.members(path))
    except UserError:  # which the readers of weights say in full
        return None
    names = [name.removesuffix(".npy") for name in members]
    if not all(name.endswith(".npy") for name in members):  # torch's zip, or Keras's
        return None
    if INPUT not in names and any(map(_VARIABLE.search, names)):
        return None
    arrays = read_archive(path)
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.ndim == 0 or array.size == 0:
            raise UserError(f"{path}: {name!r:.80} is no array of numbers with an axis of pictures; leave it out")
    return arrays


def as_nhwc(arrays: Activations, input_shape: Sequence[int], path: str) -> tuple[dict[str, np.ndarray], bool]:
    """A dump read from `path`, in the layout of a network that takes `input_shape`; and whether it was in another.

    If its input is [N, C, H, W], arrays of four axes become [N, H, W, C]. Raises UserError for any other input.
    """
    height, width, channels = input_shape
    got = arrays[INPUT].shape if INPUT in arrays else None
    if got is None or got[1:] == (height, width, channels):
        return dict(arrays), False
    if got[1:] != (channels, height, width):
        sides = "×".join(map(str, got))
        raise UserError(f"{path}: its input is {sides}, and the network takes N×{height}×{width}×{channels}")
    return {name: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for name, a in arrays.items()}, True


@dataclass(frozen=True)
class Row:
    """An activation that both sides have."""

    name: str
    """B's."""
    other: str
    """A's name for it."""
    shape: tuple[int, ...]
    other_shape: tuple[int, ...]
    difference: float
    """The largest magnitude of a difference; NaN where shapes differ, as are the next two."""
    relative: float
    """`difference` over the largest magnitude on either side."""
    cosine: float
    """Of the angle between the two as vectors."""
    at: tuple[int, ...]
    """Where the largest difference is, in B's axes."""
    agrees: bool


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; prints as a table, with the verdict below it."""

    rows: tuple[Row, ...]
    """In B's order."""
    tolerance: float
    only_first: tuple[str, ...]
    """Names that A alone has."""
    only_second: tuple[str, ...]
    hints: tuple[str, ...]
    """What makes the first activations that differ agree."""
    pairs: Mapping[str, str]
    """A's name -> B's, of names that one side alone has, whose numbers agree."""

    @property
    def first(self) -> Row | None:
        """The first activation that differs."""
        return next((row for row in self.rows if not row.agrees), None)

    @property
    def last_agreeing(self) -> Row | None:
        """The one before it; the last of all if none differs."""
        rows = self.rows[: self.rows.index(self.first)] if self.first else self.rows
        return rows[-1] if rows else None

    @property
    def agrees(self) -> bool:
        """Whether any activation, besides the input, was compared, and none differs."""
        return self.first is None and any(row.name != INPUT for row in self.rows)

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [("layer", "shape", "difference", "relative", "cosine", "at")]
        for row in self.rows:
            name = row.name if row.name == row.other else f"{row.name} ({row.other})"
            shapes = [row.shape] if row.shape == row.other_shape else [row.other_shape, row.shape]
            shape = " / ".join("×".join(map(str, sides)) for sides in shapes)
            numbers = (f"{row.difference:.1e}", f"{row.relative:.1e}", f"{row.cosine:.6f}", ",".join(map(str, row.at)))
            rows.append((name + " <-" * (row is self.first), shape, *(numbers if row.at else "----")))
        return f"{aligned(rows, left=2)}\n\n{self.verdict}"

    @property
    def verdict(self) -> str:
        """What is below the table."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        first, last = self.first, self.last_agreeing
        compared = [row.relative for row in self.rows if row.name != INPUT]
        if first is not None:
            how = "in shape" if not first.at else f"by {first.relative:.1e} of the largest value"
            before = f"; {last.name}, before it, agrees {_to(last.relative)}" if last else ""
            yield f"{first.name} is the first that differs, {how} (tolerance {self.tolerance:.0e}){before}"
        elif compared:
            yield f"all {len(compared)} activations agree {_to(max(compared))}"
        else:
            yield "nothing was compared: no activation has one name on both sides"
        yield from (f"  {hint}" for hint in self.hints)
        for side, names in (("A", self.only_first), ("B", self.only_second)):
            if names:
                yield f"only in {side}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        if self.pairs:
            yield "agree under other names: --map " + " ".join(f"{a}={b}" for a, b in self.pairs.items())
            if alone := [name for name in self.only_second if name not in self.pairs.values()]:
                yield f"the first of B's that no activation of A agrees with: {alone[0]}"

    def to_json(self) -> dict[str, Any]:
        """Everything, for JSON: None is a number that is not there, or is not finite."""

        def number(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "agrees": self.agrees,
            "tolerance": self.tolerance,
            "first_difference": self.first.name if self.first else None,
            "last_agreeing": self.last_agreeing.name if self.last_agreeing else None,
            "hints": list(self.hints),
            "layers": [{key: number(value) for key, value in asdict(row).items()} for row in self.rows],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "pairs": dict(self.pairs),
        }


def compare(
    first: Activations,
    second: Activations,
    tolerance: float = TOLERANCE,
    *,
    names: Mapping[str, str] | None = None,
    net: Any = None,
) -> Comparison:
    """Compares A, `first`, with B, `second`, activation by activation, in B's order.

    Those of the same name belong together, and those that `names` pairs, A's name -> B's. They agree if no value
    differs by more than `tolerance` times the largest magnitude on either side. Axes of length 1 do not count: Caffe's
    [N, C, 1, 1] is [N, C]. With `net`, which made `second`, its layers are tried out for hints, too.

    Raises UserError for a name in `names` that is not there, or is paired twice.
    """
    names = names or {}
    for given, there, side in ((names, first, "A"), (names.values(), second, "B")):
        for name in given:
            if name not in there:
                near = difflib.get_close_matches(name, there, 3) or list(there)[:5]
                raise UserError(f"--map: {side} has no activation {name!r}; it has {', '.join(near)}")
    partner = {b: a for a, b in names.items()}
    if twice := [f"{a}={b}" for a, b in names.items() if partner[b] != a]:
        raise UserError(f"--map: {twice[0]}: B's is paired with another of A's, too")
    partner |= {name: name for name in second if name in first and name not in names and name not in partner}
    rows = tuple(_row(name, partner[name], first, second, tolerance) for name in second if name in partner)
    of_first = {name: array for name, array in first.items() if name not in partner.values()}
    of_second = {name: array for name, array in second.items() if name not in partner}
    pairs = _pairs(of_first, of_second, tolerance)
    found = Comparison(rows, tolerance, tuple(of_first), tuple(of_second), (), pairs)
    if found.first is None:
        return found
    return replace(found, hints=tuple(_hints(found.first, found, first, second, net)))


def _to(relative: float) -> str:
    return f"to {relative:.0e}" if relative else "exactly"


def _row(name: str, other: str, first: Activations, second: Activations, tolerance: float) -> Row:
    a, b = _pair(first[other], second[name])
    shapes = b.shape, a.shape
    if a.shape != b.shape:
        return Row(name, other, *shapes, math.nan, math.nan, math.nan, (), False)
    with np.errstate(invalid="ignore"):  # inf − inf
        gap = np.abs(a - b)
        x, y = (side.astype(np.float64).ravel() for side in (a, b))
        relative, norms = _relative(a, b), math.sqrt(x @ x) * math.sqrt(y @ y)
        cosine = float(x @ y) / norms if norms else math.nan if np.any(gap) else 1.0
    worst = np.argmax(gap)  # a NaN, if there is one
    at = tuple(map(int, np.unravel_index(worst, gap.shape)))
    return Row(name, other, *shapes, float(gap.flat[worst]), relative, cosine, at, relative <= tolerance)


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as floating arrays, `a` in the shape of `b` if they differ in axes of length 1 alone."""
    a, b = (np.asarray(x, np.promote_types(np.asarray(x).dtype, np.float32)) for x in (a, b))
    same = [n for n in a.shape if n > 1] == [n for n in b.shape if n > 1]
    return (a.reshape(b.shape) if same else a), b


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over largest magnitude; infinite where a value is not finite."""
    scale = max(float(np.abs(x).max()) for x in (a, b))
    if not math.isfinite(scale):
        return math.inf
    return float(np.abs(a - b).max()) / scale if scale else 0.0


def _proven(a: np.ndarray, b: np.ndarray) -> float:
    """`_relative`, but infinite where agreement would say nothing: other shapes, or one value everywhere."""
    if a.shape != b.shape or not b.size or b.min() == b.max():
        return math.inf
    return _relative(a, b)


def _pairs(first: Activations, second: Activations, tolerance: float) -> dict[str, str]:
    """A's name -> B's, of equal numbers. What passes its input on, such as dropout, is paired with the next like it."""
    found: dict[str, str] = {}
    left = dict(second)
    for name, array in first.items():
        other = next((o for o in left if _proven(*_pair(array, left[o])) <= tolerance), None)
        if other is not None:
            found[name] = other
            del left[other]
    return found


Trial = tuple[str, Any, Any]
"""What is tried, and what A's and B's activations are with it."""


def _hints(row: Row, found: Comparison, first: Activations, second: Activations, net: Any) -> Iterator[str]:
    a, b = _pair(first[row.other], second[row.name])
    if broken := [side for side, x in (("A", a), ("B", b)) if not np.isfinite(x).all()]:
        yield f"not finite in {' and '.join(broken)}"
        return
    ours, theirs = found.rows, sorted(found.rows, key=lambda r: list(first).index(r.other))
    swapped = next(((t.name, o.name) for t, o in zip(theirs, ours, strict=True) if t != o), ())
    if row.name in swapped:
        yield "A has {} where B has {}: they come in another order".format(*swapped)

    def agreeing(trials: Iterator[Trial]) -> list[str]:
        gaps = ((text, _proven(np.asarray(x), np.asarray(y))) for text, x, y in trials)
        return [f"agrees {_to(gap)} {text}" for text, gap in gaps if gap <= found.tolerance]

    yield from (
        agreeing(_of_output(a, b))
        or (agreeing(_of_layer(row.name, a, second, net)) if net is not None else [])
        or agreeing(_of_channels(a, b))
    )


_AROUND = [shift for shift in product((-1, 0, 1), repeat=2) if shift != (0, 0)]
"""Down and to the right, in pixels."""


def _of_output(a: np.ndarray, b: np.ndarray) -> Iterator[Trial]:
    """What may have been done to one of them."""
    if min(a.ndim, b.ndim) < 2 or len(a) != len(b):
        return
    for order in permutations(range(1, a.ndim)):
        if order != tuple(range(1, a.ndim)):
            yield f"after transposing A to {(0, *order)}", a.transpose(0, *order), b
    if (a.ndim, b.ndim, a.size) == (2, 4, b.size):
        n, h, w, c = b.shape
        yield f"as A's values are {h}×{w}×{c}, flattened", a.reshape(b.shape), b
        yield f"as A's values are {c}×{h}×{w}, flattened", a.reshape(n, c, h, w).transpose(0, 2, 3, 1), b
    if a.ndim == b.ndim == 4 and a.shape[3] == b.shape[3] and a.shape != b.shape:
        h, w = np.minimum(a.shape[1:3], b.shape[1:3])
        yield f"in the {h}×{w} values that both have: look at padding and at rounding", a[:, :h, :w], b[:, :h, :w]
        yield "at every second place of A: look at the strides", a[:, ::2, ::2], b
        yield "at every second place of B: look at the strides", a, b[:, ::2, ::2]
    if a.shape != b.shape:
        return
    if a.shape[-1] == 3:
        yield "after swapping channels 0 and 2", a[..., ::-1], b
    yield "after reversing the pictures' order", a[::-1], b
    yield "after a ReLU on A", np.maximum(a, 0), b
    yield "after a ReLU on B", a, np.maximum(b, 0)
    if a.ndim == 2:
        yield "after a softmax on A", tf.nn.softmax(a), b
        yield "after a softmax on B", a, tf.nn.softmax(b)
    factor = _dot(a, b) / (_dot(b, b) or 1)
    yield f"after multiplying B by {factor:.6g}", a, b * a.dtype.type(factor)
    for down, right in _AROUND if a.ndim == 4 else ():
        x, y = (_moved(side, sign * down, sign * right) for side, sign in ((a, 1), (b, -1)))
        yield f"after moving B {_way(down, right)}: look at the padding", x, y


def _way(down: int, right: int) -> str:
    ways = (("", "1 down", "1 up")[down], ("", "1 right", "1 left")[right])
    return " and ".join(way for way in ways if way)


def _moved(x: np.ndarray, down: int, right: int) -> np.ndarray:
    """`x` without the rows above `down`, or the -`down` last ones; and so with its columns."""
    rows, columns = (slice(max(0, by), min(0, by) or None) for by in (down, right))
    return x[:, rows, columns]


def _of_layer(name: str, a: np.ndarray, second: Activations, net: Any) -> Iterator[Trial]:
    """What may be different in B's layer, or in what it is given."""
    entered = _Entered(name)
    net(tf.constant(second[INPUT], tf.float32), tap=entered)
    layer, x = entered.layer, entered.x
    if not tf.is_tensor(x):  # or it is a sum, say
        return
    x = x.numpy()

    def given(x: np.ndarray) -> np.ndarray:
        return np.asarray(layer(tf.constant(x)))

    before = list(second)[: list(second).index(name)]
    if x.ndim == 2:
        for maps in (second[n] for n in reversed(before) if second[n].ndim == 4 and second[n].size == x.size):
            yield f"if {name}'s rows are in C, H, W order", a, given(maps.transpose(0, 3, 1, 2).reshape(x.shape))
            break
    if x.shape[-1] == 3:
        yield f"if {name} is given channels 0 and 2 swapped", a, given(x[..., ::-1])
    if (x < 0).any():
        yield f"if {name} is given its input after a ReLU", a, given(np.maximum(x, 0))
    for other in [n for n in reversed(before) if second[n].shape == x.shape and not np.array_equal(second[n], x)][:3]:
        yield f"if {name} is given {other}", a, given(second[other])
    if x.ndim == a.ndim == 4:
        yield from _of_map(name, a, x, given)
    kind, options = getattr(layer, "func", layer), getattr(layer, "keywords", {})
    if kind is local_response_normalization:
        alpha, size = (options.get(key, usual) for key, usual in (("alpha", 1e-4), ("size", 5)))
        for text, more in (("alpha is not divided by the size", {"alpha": alpha * size}), ("k is 2", {"k": 2.0})):
            yield f"if {text}: there are three definitions of LRN", a, partial(layer, **more)(tf.constant(x))
    if isinstance(kind, BatchNorm):
        beta, b = kind.beta.numpy(), given(x)
        variance, places = kind.moving_variance.numpy() + kind.epsilon, tuple(range(x.ndim - 1))
        # a − beta is b − beta times √(variance + ours) / √(variance + theirs), in each channel
        factor = np.sum((a - beta) * (b - beta), places) / np.maximum(np.sum((b - beta) ** 2, places), 1e-30)
        apart = float(np.median(variance / np.maximum(factor, 1e-30) ** 2 - variance))
        y = beta + (b - beta) * np.sqrt(variance / np.maximum(variance + apart, 1e-30))
        yield f"if epsilon is {kind.epsilon + apart:.1e}, not {kind.epsilon:.1e}", a, y


def _of_map(name: str, a: np.ndarray, x: np.ndarray, given: Callable[[np.ndarray], np.ndarray]) -> Iterator[Trial]:
    """What may be different in what B's layer does in the plane: it makes given(x) of the map `x`."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for down, right in _AROUND:
        y = given(_moved(padded, 1 - down, 1 - right)[:, : x.shape[1], : x.shape[2]])
        h, w = np.minimum(a.shape[1:3], y.shape[1:3])
        middle = slice(None), slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)
        text = f"in the middle if {name}'s input is moved {_way(down, right)}: look at the padding"
        yield text, a[middle], y[middle]
    # Of a picture in the mirror the kernel sees what its mirror image sees of the picture.
    yield f"if {name}'s kernel has height and width swapped", a, given(x.swapaxes(1, 2)).swapaxes(1, 2)
    yield f"if {name}'s kernel is turned by 180 degrees", a, given(x[:, ::-1, ::-1])[:, ::-1, ::-1]


class _Entered:
    """A tap that keeps the layer `name` and what it is given."""

    layer: Any = None
    x: Any = None

    def __init__(self, name: str) -> None:
        self._name = name

    def enters(self, name: str, layer: Callable[[Any], tf.Tensor], x: Any) -> None:
        if name == self._name:
            self.layer, self.x = layer, x

    def __call__(self, name: str, x: tf.Tensor) -> tf.Tensor:
        return x


def _of_channels(a: np.ndarray, b: np.ndarray) -> Iterator[Trial]:
    """A line through the values of each channel, where there are many more of them than the two that it takes."""
    if a.shape != b.shape or b[..., 0].size < 32:
        return
    places = tuple(range(b.ndim - 1))
    means = a.mean(places, np.float64), b.mean(places, np.float64)
    spread = ((b - means[1]) ** 2).mean(places)
    factor = np.where(spread > 0, ((a - means[0]) * (b - means[1])).mean(places) / np.where(spread > 0, spread, 1), 1)
    offset = means[0] - factor * means[1]

    def said(x: np.ndarray) -> str:
        return ", ".join(f"{v:.4g}" for v in (x if len(x) < 5 else (x.min(), np.median(x), x.max())))

    by = "lowest, median, highest" if b.shape[-1] > 4 else "in order"
    yield f"if B's channels are multiplied by {said(factor)}, and {said(offset)} added ({by})", a, factor * b + offset

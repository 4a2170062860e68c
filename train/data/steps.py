"""The steps of an augmentation policy (`augment.py`): what each draws, and what it does to a batch.

A step draws nothing itself. It is given uniform numbers in [0, 1), `draws` of them for each picture, and
turns them into its parameters, so that a picture's augmentation is a function of its numbers alone: not of
the batch it is in, nor of how many workers there are. Everything works on whole batches, in a tf.function too.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops import colour, crops
from barenets.ops.affine import FILLS, INTERPOLATIONS, affine, composed, flip, of_each, rotation, shear, shift, zoom
from barenets.ops.image import Preprocessing

Parameters = dict[str, tf.Tensor]


# Options of steps, and what they may be


def _option(what: str, valid: Any, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"what": what, "valid": valid})


def _plain(value: Any) -> Any:
    """A list as a tuple, and NumPy's float as Python's, which is written shorter."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return float(value) if isinstance(value, float) else value


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
    )  # so neither nan nor inf


def _number(low: float = -math.inf, high: float = math.inf, default: Any = dataclasses.MISSING) -> Any:
    bounds = f" from {low:g}" * (low > -math.inf) + f" up to {high:g}" * (high < math.inf)
    return _option(f"a number{bounds}", lambda value: _is_number(value) and low <= value <= high, default)


def _positive_pair(default: Any) -> Any:
    def valid(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]

    return _option("two numbers (LOW, HIGH) above 0", valid, default)


def _around_one(default: Any = dataclasses.MISSING) -> Any:
    """Z for the range from 1 − Z to 1 + Z, or the range itself: Keras's `zoom_range` and `brightness_range`."""

    def valid(value: Any) -> bool:
        if isinstance(value, tuple):
            return len(value) == 2 and all(map(_is_number, value)) and 0 <= value[0] <= value[1]
        return _is_number(value) and 0 <= value <= 1

    return _option("Z, from 0 to 1, for 1 - Z to 1 + Z, or (LOW, HIGH)", valid, default)


def _chance(default: float = 1.0) -> Any:
    return _number(0, 1, default)


def _flag(default: bool) -> Any:
    return _option("True or False", lambda value: isinstance(value, bool), default)


def _choice(values: Sequence[str], default: str) -> Any:
    return _option("one of " + ", ".join(values), lambda value: value in values, default)


def _shift(default: Any = dataclasses.MISSING) -> Any:
    def valid(value: Any) -> bool:
        if isinstance(value, tuple):
            return bool(value) and all(map(_is_number, value))
        return _is_number(value) and 0 <= value < 1e6

    return _option("a fraction below 1, a number of pixels, or a tuple of either", valid, default)


def _uniform(u: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + u * (high - low)


def _choose(u: tf.Tensor, n: int) -> tf.Tensor:
    """int32, each of 0..n−1 as likely."""
    return tf.minimum(tf.cast(u * n, tf.int32), n - 1)  # u * n may round up to n


def _bounds(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (1 - value, 1 + value)


# Steps


class Step:
    """One entry of a policy: a frozen dataclass. A wrong option's value is a UserError."""

    draws: ClassVar[int] = 0
    """How many uniform numbers it takes for each picture."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            value = _plain(value)
            object.__setattr__(self, field.name, value)
            if not field.metadata["valid"](value):
                raise UserError(f"{type(self).__name__}: {field.name} is {field.metadata['what']}, not {value!r}")

    def parameters(self, u: tf.Tensor) -> Parameters:
        """Name -> what is drawn, of shape [...], from uniform numbers in [0, 1), float32 [..., draws]."""
        return {}

    def __str__(self) -> str:
        """As it is written in a policy, without the options that are at their defaults."""
        values = [(field, getattr(self, field.name)) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={v!r}' for f, v in values if v != f.default)})"


class Frame(Step):
    """Makes the square that the network sees from a decoded picture of any size; a policy's first step.

    A policy without one starts with CentreCrop.
    """

    def frame(self, picture: tf.Tensor, preprocessing: Preprocessing, u: tf.Tensor) -> tf.Tensor:
        """float32 [crop, crop, 3] in 0..255 of `picture`, uint8 [H, W, 3], with `u`, float32 [draws]."""
        raise NotImplementedError


class Change(Step):
    """Changes the pictures of a batch, each by itself."""

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """`pictures`, float32 [N, H, W, 3] in 0..255, changed; their shape stays. `parameters` have shape [N]."""
        raise NotImplementedError


class Blend(Step):
    """Makes one picture of two. The first draw decides whether the second is looked at at all."""

    partner: ClassVar[str]
    """Which second picture: "any", or of the same "class"."""
    mixes: ClassVar[bool] = False
    """Whether the label becomes a mixture of both pictures' labels."""

    def wanted(self, u: tf.Tensor) -> tf.Tensor:
        """bool [...]: whether the second picture is looked at, with `u` float32 [..., draws]."""
        raise NotImplementedError

    def apply(
        self, pictures: tf.Tensor, others: tf.Tensor, parameters: Parameters
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Blended pictures, and how much of each label is still the picture's own: float32 [N]; None: all."""
        raise NotImplementedError


def offsets(steps: Sequence[Step]) -> tuple[slice, ...]:
    """Which columns of the uniform numbers, float32 [N, total draws], are each step's."""
    ends = np.cumsum([0, *(step.draws for step in steps)]).tolist()
    return tuple(slice(begin, end) for begin, end in itertools.pairwise(ends))


# Frames


@dataclass(frozen=True)
class CentreCrop(Frame):
    """The middle of the resized picture, as in evaluation."""

    def frame(self, picture: tf.Tensor, preprocessing: Preprocessing, u: tf.Tensor) -> tf.Tensor:
        return preprocessing.centre_crop(picture)


@dataclass(frozen=True)
class RandomCrop(Frame):
    """A square of the resized picture, each place as likely."""

    draws: ClassVar[int] = 2

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"top": u[..., 0], "left": u[..., 1]}

    def frame(self, picture: tf.Tensor, preprocessing: Preprocessing, u: tf.Tensor) -> tf.Tensor:
        drawn = self.parameters(u)
        place = _places(tf.stack([drawn["top"], drawn["left"]]), preprocessing.room(picture))
        return preprocessing.framed(picture, place)


@dataclass(frozen=True)
class RandomResizedCrop(Frame):
    """A part of the picture of random `area` (a fraction) and `aspect` (width over height), resized to the square.

    Inception's and torchvision's: the area is uniform, the aspect is in its logarithm, each place is as
    likely; the first of ten drawn sizes that fits is taken, and where none does, the middle of the picture, as
    much of it as `aspect` allows.
    """

    area: tuple[float, float] = _positive_pair((0.08, 1.0))
    aspect: tuple[float, float] = _positive_pair((3 / 4, 4 / 3))

    draws: ClassVar[int] = 22

    def parameters(self, u: tf.Tensor) -> Parameters:
        """`area` and `aspect` are [..., 10], one for each attempt."""
        low, high = (math.log(bound) for bound in self.aspect)
        area = _uniform(u[..., :10], *self.area)
        aspect = of_each(tf.exp, _uniform(u[..., 10:20], low, high))
        return {"area": area, "aspect": aspect, "top": u[..., 20], "left": u[..., 21]}

    def frame(self, picture: tf.Tensor, preprocessing: Preprocessing, u: tf.Tensor) -> tf.Tensor:
        begin, size = self.box(tf.shape(picture)[:2], self.parameters(u))
        part = tf.slice(picture, tf.concat([begin, [0]], 0), tf.concat([size, [3]], 0))
        crop = preprocessing.crop
        part = tf.image.resize(part, [crop, crop], "bilinear", antialias=preprocessing.antialias)
        return tf.ensure_shape(part, [crop, crop, 3])

    def box(self, sides: tf.Tensor, parameters: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """Upper left corner and size, int32 [2] each, height first, in a picture of `sides` int32 [2]."""
        height, width = tf.unstack(tf.cast(sides, tf.float32))
        area, aspect = parameters["area"] * (height * width), parameters["aspect"]
        tried = _whole(of_each(tf.sqrt, tf.stack([area / aspect, area * aspect], -1)))  # [10, 2]
        # The whole picture if its aspect is allowed, else all of one side.
        most = _whole(tf.stack([width / self.aspect[0], height * self.aspect[1]]))
        middle = tf.maximum(tf.minimum(sides, most), 1)

        fits = tf.reduce_all((tried > 0) & (tried <= sides), -1)
        found = tf.reduce_any(fits)
        size = tf.where(found, tf.gather(tried, tf.argmax(fits)), middle)
        drawn = _places(tf.stack([parameters["top"], parameters["left"]]), sides - size)
        return tf.where(found, drawn, (sides - size) // 2), size


@dataclass(frozen=True)
class Pad(Frame):
    """The whole picture, its aspect kept, in the middle of a square of `value`."""

    value: float = _number(0, 255, 0.0)

    def frame(self, picture: tf.Tensor, preprocessing: Preprocessing, u: tf.Tensor) -> tf.Tensor:
        return crops.pad_resize(picture, preprocessing.crop, self.value, antialias=preprocessing.antialias)


def _places(u: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """Of the type of `room`, each of 0..room as likely."""
    return tf.minimum(tf.cast(u * tf.cast(room + 1, tf.float32), room.dtype), room)


def _whole(pixels: tf.Tensor) -> tf.Tensor:
    """int32, rounded; more than any side for what would not fit."""
    return tf.cast(tf.round(tf.minimum(pixels, 2e9)), tf.int32)


# Geometry


class Geometric(Change):
    """A step that is an affine map. Neighbours that fill alike are composed into one map with one interpolation."""

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """float32 [N, 3, 3], as `ops.affine` takes it, for pictures of `height` and `width`."""
        raise NotImplementedError

    @property
    def filling(self) -> dict[str, Any] | None:
        """The options of `ops.affine`; None where nothing is ever filled or interpolated."""
        return {name: getattr(self, name) for name in ("fill", "value", "interpolation")}

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return warped([(self, parameters)], pictures)


def warped(steps: Sequence[tuple[Geometric, Parameters]], pictures: tf.Tensor) -> tf.Tensor:
    """`pictures` under several steps that fill alike, interpolated once."""
    filling = next((step.filling for step, _ in steps if step.filling), None)
    if filling is None:  # flips only: pixels are moved
        for step, drawn in steps:
            for name, axis in (("horizontal", 2), ("vertical", 1)):
                if getattr(step, name) and pictures.shape[0] == 1:  # as in the pipeline: half of the time no work
                    pictures = tf.cond(
                        drawn[name][0], partial(tf.reverse, pictures, [axis]), partial(tf.identity, pictures)
                    )
                elif getattr(step, name):
                    # The first Select takes whole pictures, where tf.where would look at each value.
                    mirrored = tf.reverse(pictures, [axis])
                    pictures = tf.raw_ops.Select(condition=drawn[name], x=mirrored, y=pictures)
        return pictures
    height, width = tf.shape(pictures)[1], tf.shape(pictures)[2]
    matrices = composed(step.matrix(drawn, height, width) for step, drawn in steps)
    return tf.ensure_shape(affine(pictures, matrices, **filling), pictures.shape)


def _fill(default: str = "nearest") -> Any:
    return _choice(FILLS, default)


def _interpolation() -> Any:
    return _choice(INTERPOLATIONS, "bilinear")


@dataclass(frozen=True)
class Flip(Geometric):
    """Left and right exchanged half of the time, and top and bottom half of the time."""

    horizontal: bool = _flag(True)
    vertical: bool = _flag(False)

    draws: ClassVar[int] = 2

    @property
    def filling(self) -> None:
        return None

    def parameters(self, u: tf.Tensor) -> Parameters:
        wanted = {"horizontal": self.horizontal, "vertical": self.vertical}
        return {name: (u[..., i] < 0.5) & wanted[name] for i, name in enumerate(wanted)}

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        return flip(**parameters)


@dataclass(frozen=True)
class Rotate(Geometric):
    """By an angle from −`degrees` to `degrees`; counter-clockwise is positive."""

    degrees: float = _number(0)
    fill: str = _fill()
    value: float = _number(default=0.0)
    interpolation: str = _interpolation()

    draws: ClassVar[int] = 1

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"degrees": _uniform(u[..., 0], -self.degrees, self.degrees)}

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        return rotation(parameters["degrees"])


@dataclass(frozen=True)
class Shift(Geometric):
    """`width` to the side and `height` up or down, in the three ways of Keras's `width_shift_range`:

    a number below 1: uniform from −s to s, as a fraction of the side; a larger float: the same in pixels;
    a whole number n: 0..n−1 pixels, each as likely, to either side; a tuple: one of its values, to
    either side, fractions if all are below 1.
    """

    width: float | tuple[float, ...] = _shift(0.0)
    height: float | tuple[float, ...] = _shift(0.0)
    fill: str = _fill()
    value: float = _number(default=0.0)
    interpolation: str = _interpolation()

    draws: ClassVar[int] = 2

    def parameters(self, u: tf.Tensor) -> Parameters:
        """In fractions or pixels, as the options are."""
        return {"width": self._drawn(u[..., 0], self.width), "height": self._drawn(u[..., 1], self.height)}

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        across = self._pixels(parameters["width"], self.width, width)
        return shift(across, self._pixels(parameters["height"], self.height, height))

    @staticmethod
    def _drawn(u: tf.Tensor, option: float | tuple[float, ...]) -> tf.Tensor:
        if isinstance(option, float):
            return _uniform(u, -option, option)
        among = len(option) if isinstance(option, tuple) else max(option, 1)
        index = _choose(u, 2 * among)
        value = tf.cast(index // 2, tf.float32)
        if isinstance(option, tuple):
            value = tf.gather(tf.constant(option, tf.float32), index // 2)
        return value * (1 - 2 * tf.cast(index % 2, tf.float32))

    @staticmethod
    def _pixels(drawn: tf.Tensor, option: float | tuple[float, ...], side: tf.Tensor) -> tf.Tensor:
        largest = max(option) if isinstance(option, tuple) else option
        return drawn * tf.cast(side, tf.float32) if largest < 1 else drawn


@dataclass(frozen=True)
class Shear(Geometric):
    """By an angle from −`degrees` to `degrees`, Keras's `shear_range`: 0.2 is a fifth of a degree, not 0.2 radians."""

    degrees: float = _number(0)
    fill: str = _fill()
    value: float = _number(default=0.0)
    interpolation: str = _interpolation()

    draws: ClassVar[int] = 1

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"degrees": _uniform(u[..., 0], -self.degrees, self.degrees)}

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        return shear(parameters["degrees"])


@dataclass(frozen=True)
class Zoom(Geometric):
    """By a factor of its own in x and y, Keras's `zoom_range`: `amount` Z for 1 − Z to 1 + Z, or (LOW, HIGH).

    Above 1 the picture gets smaller.
    """

    amount: float | tuple[float, float] = _around_one()
    fill: str = _fill()
    value: float = _number(default=0.0)
    interpolation: str = _interpolation()

    draws: ClassVar[int] = 2

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {name: _uniform(u[..., i], *_bounds(self.amount)) for i, name in enumerate("xy")}

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        return zoom(**parameters)


@dataclass(frozen=True)
class Affine(Geometric):
    """All of Keras's ImageDataGenerator that is geometry: Rotate, Shift, Shear, Zoom and Flip, in its order.

    Differs from Keras's: since its legacy module swaps the axes of the matrix but not of the shifts and the
    centre, there `width_shift_range` moves pictures up and down, and pictures that are not square
    turn about another point than their centre. Here width is width, and the centre is the centre.
    """

    rotation: float = _number(0, default=0.0)
    width_shift: float | tuple[float, ...] = _shift(0.0)
    height_shift: float | tuple[float, ...] = _shift(0.0)
    shear: float = _number(0, default=0.0)
    zoom: float | tuple[float, float] = _around_one(0.0)
    horizontal_flip: bool = _flag(False)
    vertical_flip: bool = _flag(False)
    fill: str = _fill()
    value: float = _number(default=0.0)
    interpolation: str = _interpolation()

    draws: ClassVar[int] = 8

    @property
    def steps(self) -> tuple[Geometric, ...]:
        """What it is composed of, the first first."""
        return (
            Rotate(self.rotation),
            Shift(self.width_shift, self.height_shift),
            Shear(self.shear),
            Zoom(self.zoom),
            Flip(self.horizontal_flip, self.vertical_flip),
        )

    def parameters(self, u: tf.Tensor) -> Parameters:
        """Those of `steps`: `Rotate.degrees`, `Shift.width` and so on."""
        drawn: Parameters = {}
        for step, columns in zip(self.steps, offsets(self.steps), strict=True):
            drawn |= {f"{type(step).__name__}.{k}": v for k, v in step.parameters(u[..., columns]).items()}
        return drawn

    def matrix(self, parameters: Parameters, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        matrices = []
        for step in self.steps:
            prefix = f"{type(step).__name__}."
            own = {key.removeprefix(prefix): v for key, v in parameters.items() if key.startswith(prefix)}
            matrices.append(step.matrix(own, height, width))
        return composed(matrices)


# Colour


@dataclass(frozen=True)
class Brightness(Change):
    """Times a factor, Keras's `brightness_range`: `amount` A for 1 − A to 1 + A, or (LOW, HIGH). Clipped."""

    amount: float | tuple[float, float] = _around_one()

    draws: ClassVar[int] = 1

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"factor": _uniform(u[..., 0], *_bounds(self.amount))}

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.brightness(pictures, parameters["factor"])


@dataclass(frozen=True)
class Contrast(Brightness):
    """The distance from the picture's mean grey times a factor, drawn as in Brightness. Clipped."""

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.contrast(pictures, parameters["factor"])


@dataclass(frozen=True)
class Saturation(Brightness):
    """The distance from the pixel's own grey times a factor, drawn as in Brightness. Clipped."""

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.saturation(pictures, parameters["factor"])


@dataclass(frozen=True)
class Hue(Change):
    """The hue turned by −`turns` to `turns` of the colour circle."""

    turns: float = _number(0, 0.5)

    draws: ClassVar[int] = 1

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"turns": _uniform(u[..., 0], -self.turns, self.turns)}

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.hue(pictures, parameters["turns"])


@dataclass(frozen=True)
class ChannelShift(Change):
    """Plus −`amount` to `amount`, the same for all channels, within the picture's own range: Keras's."""

    amount: float = _number(0)

    draws: ClassVar[int] = 1

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"amount": _uniform(u[..., 0], -self.amount, self.amount)}

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.channel_shift(pictures, parameters["amount"])


@dataclass(frozen=True)
class Rescale(Change):
    """Times `factor` plus `offset`, not random and not clipped. The weights' own preprocessing comes after it."""

    factor: float = _number()
    offset: float = _number(default=0.0)

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.rescale(pictures, self.factor, self.offset)


@dataclass(frozen=True)
class Noise(Change):
    """Plus Gaussian noise of a standard deviation of `deviation` grey levels. Clipped."""

    deviation: float = _number(0)

    draws: ClassVar[int] = 2

    def parameters(self, u: tf.Tensor) -> Parameters:
        """`seed` is int32 [..., 2]: the noise itself is drawn from it."""
        return {"seed": tf.cast(u * 2**24, tf.int32)}  # float32 has no more bits

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        return colour.noise(pictures, self.deviation, parameters["seed"])


# The dog article's


@dataclass(frozen=True)
class QuarterMask(Change):
    """One of the four quarters becomes `value`, with `probability`. The middle row and column of odd sides are masked
    with the left and the upper quarters.
    """

    probability: float = _chance()
    value: float = _number(0, 255, 0.0)

    draws: ClassVar[int] = 2

    def parameters(self, u: tf.Tensor) -> Parameters:
        """`quarter` is 0 to 3 in reading order."""
        return {"masked": u[..., 0] < self.probability, "quarter": _choose(u[..., 1], 4)}

    def apply(self, pictures: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        rows, columns, area = _middles(pictures)
        quarter = parameters["quarter"][:, None, None, None]
        inside = ((rows > area) == (quarter >= 2)) & ((columns > area) == (quarter % 2 == 1))
        return tf.where(inside & parameters["masked"][:, None, None, None], float(self.value), pictures)


@dataclass(frozen=True)
class PasteZoom(Blend):
    """Enlarged or shrunk about the middle by a factor from `low` to `high`; a shrunk picture lies on another one.

    Here a factor below 1 shrinks, as people say it; in Zoom, as Keras has it, one above 1 does. The label stays.
    """

    low: float = _number(0.01, 1, 0.8)
    high: float = _number(1, default=1.2)

    draws: ClassVar[int] = 1
    partner: ClassVar[str] = "any"

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"factor": _uniform(u[..., 0], self.low, self.high)}

    def wanted(self, u: tf.Tensor) -> tf.Tensor:
        return self.parameters(u)["factor"] < 1

    def apply(self, pictures: tf.Tensor, others: tf.Tensor, parameters: Parameters) -> tuple[tf.Tensor, None]:
        factor = parameters["factor"]
        closer = of_each(tf.math.reciprocal, factor)
        zoomed = affine(pictures, zoom(closer, closer), fill="nearest")
        rows, columns, area = _middles(pictures)
        edge = factor[:, None, None, None] * tf.cast(area, tf.float32)  # pixels whose middle the shrunk picture covers
        covered = [tf.cast(tf.abs(middles - area), tf.float32) <= edge for middles in (rows, columns)]
        return tf.where(covered[0] & covered[1], zoomed, others), None


@dataclass(frozen=True)
class Combine(Blend):
    """Halves of two pictures of one class, with `probability`: side by side, one above the other, or along a diagonal.

    The four ways are equally likely. The picture keeps its left half, its upper half, or the upper right or the upper
    left triangle, and the pixels on the line between. The label stays.
    """

    probability: float = _chance()

    draws: ClassVar[int] = 2
    partner: ClassVar[str] = "class"

    def parameters(self, u: tf.Tensor) -> Parameters:
        """`way` is 0 for columns, 1 for rows, 2 for the falling diagonal, 3 for the rising one."""
        return {"combined": self.wanted(u), "way": _choose(u[..., 1], 4)}

    def wanted(self, u: tf.Tensor) -> tf.Tensor:
        return u[..., 0] < self.probability

    def apply(self, pictures: tf.Tensor, others: tf.Tensor, parameters: Parameters) -> tuple[tf.Tensor, None]:
        rows, columns, area = _middles(pictures)
        # [4, H, W, 1], of which each picture takes its own.
        ways = [rows * 0 + columns <= area, rows + columns * 0 <= area, columns >= rows, 2 * area - columns >= rows]
        own = tf.gather(tf.concat(ways, 0), parameters["way"]) | ~parameters["combined"][:, None, None, None]
        return tf.where(own, pictures, others), None


def _middles(pictures: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where the pixels' middles are, from 0 to 2 H W: down [1, H, 1, 1], across [1, 1, W, 1]; and H W, half of it.

    As whole numbers, so that the middle and the diagonals are where they are.
    """
    height, width = tf.shape(pictures)[1], tf.shape(pictures)[2]
    rows, columns = (2 * tf.range(height) + 1) * width, (2 * tf.range(width) + 1) * height
    return rows[None, :, None, None], columns[None, None, :, None], height * width


# Mixing labels


@dataclass(frozen=True)
class Mixup(Blend):
    """λ of the picture and 1 − λ of the other, labels too, with λ ~ Beta(`alpha`, `alpha`) (arXiv 1710.09412)."""

    alpha: float = _number(0.01, 100, 1.0)
    probability: float = _chance()

    draws: ClassVar[int] = 2
    partner: ClassVar[str] = "any"
    mixes: ClassVar[bool] = True

    def parameters(self, u: tf.Tensor) -> Parameters:
        return {"share": tf.where(self.wanted(u), _beta(u[..., 1], self.alpha), 1.0)}

    def wanted(self, u: tf.Tensor) -> tf.Tensor:
        return u[..., 0] < self.probability

    def apply(self, pictures: tf.Tensor, others: tf.Tensor, parameters: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        share = parameters["share"]
        wide = share[:, None, None, None]
        return wide * pictures + (1 - wide) * others, share


@dataclass(frozen=True)
class CutMix(Blend):
    """A box of the other picture in its own place, of 1 − λ of the area, with λ ~ Beta(`alpha`, `alpha`).

    Its middle is anywhere in the picture, and what sticks out is cut off; the share of the label is what is left of
    the picture then (arXiv 1905.04899, algorithm A1).
    """

    alpha: float = _number(0.01, 100, 1.0)
    probability: float = _chance()

    draws: ClassVar[int] = 4
    partner: ClassVar[str] = "any"
    mixes: ClassVar[bool] = True

    def parameters(self, u: tf.Tensor) -> Parameters:
        """`share` before the box is cut off; `x` and `y`, its middle, are fractions of the sides."""
        share = tf.where(self.wanted(u), _beta(u[..., 1], self.alpha), 1.0)
        return {"share": share, "x": u[..., 2], "y": u[..., 3]}

    def wanted(self, u: tf.Tensor) -> tf.Tensor:
        return u[..., 0] < self.probability

    def apply(self, pictures: tf.Tensor, others: tf.Tensor, parameters: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        height, width = tf.shape(pictures)[1], tf.shape(pictures)[2]
        inside_y, tall = self._span(parameters["share"], parameters["y"], height)
        inside_x, wide = self._span(parameters["share"], parameters["x"], width)
        cut = inside_y[:, :, None, None] & inside_x[:, None, :, None]
        share = 1 - tf.cast(tall * wide, tf.float32) / tf.cast(height * width, tf.float32)
        return tf.where(cut, others, pictures), share

    @staticmethod
    def _span(share: tf.Tensor, middle: tf.Tensor, side: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """bool [N, side], which pixels of a side the box covers, and int32 [N], how many."""
        half = tf.cast(of_each(tf.sqrt, 1 - share) * tf.cast(side, tf.float32), tf.int32) // 2
        middle = _places(middle, side - 1)
        begin, end = tf.maximum(middle - half, 0), tf.minimum(middle + half, side)
        pixels = tf.range(side)
        return (pixels >= begin[:, None]) & (pixels < end[:, None]), end - begin


_BETA_STEPS = 1024


def _beta(u: tf.Tensor, alpha: float) -> tf.Tensor:
    """Beta(alpha, alpha) of uniform `u`: its inverse distribution function, from a table."""
    table = tf.constant(_beta_table(alpha), tf.float32)
    lower = tf.minimum(u, 1 - u)  # it is symmetric
    place = lower * (2 * _BETA_STEPS)
    index = tf.minimum(tf.cast(place, tf.int32), _BETA_STEPS - 1)
    left, right = tf.gather(table, index), tf.gather(table, index + 1)
    root = left + (place - tf.cast(index, tf.float32)) * (right - left)
    x = of_each(lambda root: root ** (1 / min(alpha, 1.0)), root)
    return tf.where(u < 0.5, x, 1 - x)


@functools.cache
def _beta_table(alpha: float) -> np.ndarray:
    """x ** min(alpha, 1) for u = 0 to 1/2 in _BETA_STEPS, where x is where the distribution function is u.

    With alpha below 1 the density goes to infinity at 0 like x ** (alpha − 1), that of x ** alpha does not.
    """
    power = min(alpha, 1.0)
    t = np.linspace(0, 0.5**power, 1 << 16)
    density = t ** (alpha / power - 1) * (1 - t ** (1 / power)) ** (alpha - 1)
    mass = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return np.interp(np.linspace(0, 0.5, _BETA_STEPS + 1), mass / mass[-1] / 2, t)

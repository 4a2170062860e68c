"""Inception v2 and v3, with slim's names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from barenets.nets.conv_norm import ConvNorm, conv_norm_relu
from barenets.ops import (
    Apply,
    Dense,
    SeparableConv2D,
    Tap,
    avg_pool,
    gaussian,
    global_avg_pool,
    layer_dropout,
    layers,
    max_pool,
)

Step = str | tuple[str, str]
"""`Conv2d_0a_1x1 64`: slim's name, which tells the kernel, and the channels; a kernel that the name gets wrong
follows. What is called 1a has a stride of 2. A pair: two convolutions side by side."""

V2_STEM = ("Conv2d_1a_7x7 64", "MaxPool_2a_3x3", "Conv2d_2b_1x1 64", "Conv2d_2c_3x3 192", "MaxPool_3a_3x3")


def _v2(b0: int, b1: tuple[int, int], b2: tuple[int, int, int], b3: int, pool: str = "AvgPool") -> list[list[Step]]:
    """A module that keeps the side of the map."""
    return [
        [f"Conv2d_0a_1x1 {b0}"],
        [f"Conv2d_0a_1x1 {b1[0]}", f"Conv2d_0b_3x3 {b1[1]}"],
        [f"Conv2d_0a_1x1 {b2[0]}", f"Conv2d_0b_3x3 {b2[1]}", f"Conv2d_0c_3x3 {b2[2]}"],
        [f"{pool}_0a_3x3", f"Conv2d_0b_1x1 {b3}"],
    ]


def _v2_halving(b0: tuple[int, int], b1: tuple[int, int, int]) -> list[list[Step]]:
    return [
        [f"Conv2d_0a_1x1 {b0[0]}", f"Conv2d_1a_3x3 {b0[1]}"],
        [f"Conv2d_0a_1x1 {b1[0]}", f"Conv2d_0b_3x3 {b1[1]}", f"Conv2d_1a_3x3 {b1[2]}"],
        ["MaxPool_1a_3x3"],
    ]


V2_MODULES: dict[str, list[list[Step]]] = {
    "Mixed_3b": _v2(64, (64, 64), (64, 96, 96), 32),
    "Mixed_3c": _v2(64, (64, 96), (64, 96, 96), 64),
    "Mixed_4a": _v2_halving((128, 160), (64, 96, 96)),
    "Mixed_4b": _v2(224, (64, 96), (96, 128, 128), 128),
    "Mixed_4c": _v2(192, (96, 128), (96, 128, 128), 128),
    "Mixed_4d": _v2(160, (128, 160), (128, 160, 160), 96),
    "Mixed_4e": _v2(96, (128, 192), (160, 192, 192), 96),
    "Mixed_5a": _v2_halving((128, 192), (192, 256, 256)),
    "Mixed_5b": _v2(352, (192, 320), (160, 224, 224), 128),
    "Mixed_5c": _v2(352, (192, 320), (192, 224, 224), 128, "MaxPool"),
}

V3_STEM = (
    "Conv2d_1a_3x3 32",
    "Conv2d_2a_3x3 32",
    "Conv2d_2b_3x3 64",
    "MaxPool_3a_3x3",
    "Conv2d_3b_1x1 80",
    "Conv2d_4a_3x3 192",
    "MaxPool_5a_3x3",
)


def _v3_35(pooled: int, first: str = "Conv2d_0a_1x1", second: str = "Conv2d_0b_5x5") -> list[list[Step]]:
    """35×35, figure 5 of the paper, but with a 5×5 in the second branch."""
    return [
        ["Conv2d_0a_1x1 64"],
        [f"{first} 48", f"{second} 64"],
        ["Conv2d_0a_1x1 64", "Conv2d_0b_3x3 96", "Conv2d_0c_3x3 96"],
        ["AvgPool_0a_3x3", f"Conv2d_0b_1x1 {pooled}"],
    ]


def _v3_17(n: int) -> list[list[Step]]:
    """17×17, figure 6: n×n factorized into 1×7 and 7×1."""
    return [
        ["Conv2d_0a_1x1 192"],
        [f"Conv2d_0a_1x1 {n}", f"Conv2d_0b_1x7 {n}", "Conv2d_0c_7x1 192"],
        [
            f"Conv2d_0a_1x1 {n}",
            f"Conv2d_0b_7x1 {n}",
            f"Conv2d_0c_1x7 {n}",
            f"Conv2d_0d_7x1 {n}",
            "Conv2d_0e_1x7 192",
        ],
        ["AvgPool_0a_3x3", "Conv2d_0b_1x1 192"],
    ]


def _v3_8(tall: str) -> list[list[Step]]:
    """8×8, figure 7: 1×3 and 3×1 side by side. slim's name of the first 3×1 differs between the two modules."""
    return [
        ["Conv2d_0a_1x1 320"],
        ["Conv2d_0a_1x1 384", ("Conv2d_0b_1x3 384", f"{tall} 384")],
        ["Conv2d_0a_1x1 448", "Conv2d_0b_3x3 384", ("Conv2d_0c_1x3 384", "Conv2d_0d_3x1 384")],
        ["AvgPool_0a_3x3", "Conv2d_0b_1x1 192"],
    ]


V3_MODULES: dict[str, list[list[Step]]] = {
    "Mixed_5b": _v3_35(32),
    "Mixed_5c": _v3_35(64, "Conv2d_0b_1x1", "Conv_1_0c_5x5"),
    "Mixed_5d": _v3_35(64),
    "Mixed_6a": [
        ["Conv2d_1a_1x1 384 3x3"],
        ["Conv2d_0a_1x1 64", "Conv2d_0b_3x3 96", "Conv2d_1a_1x1 96 3x3"],
        ["MaxPool_1a_3x3"],
    ],
    "Mixed_6b": _v3_17(128),
    "Mixed_6c": _v3_17(160),
    "Mixed_6d": _v3_17(160),
    "Mixed_6e": _v3_17(192),
    "Mixed_7a": [
        ["Conv2d_0a_1x1 192", "Conv2d_1a_3x3 320"],
        ["Conv2d_0a_1x1 192", "Conv2d_0b_1x7 192", "Conv2d_0c_7x1 192", "Conv2d_1a_3x3 192"],
        ["MaxPool_1a_3x3"],
    ],
    "Mixed_7b": _v3_8("Conv2d_0b_3x1"),
    "Mixed_7c": _v3_8("Conv2d_0c_3x1"),
}


@dataclass(frozen=True)
class Variant:
    """Where the published networks differ."""

    scale: bool = False
    """Whether batch norm has a gamma."""
    count_padding: bool = False
    """Whether average pooling counts the padding, as zeros."""
    dropout_rate: float = 0.2


VARIANTS = {
    "slim": Variant(),
    "torchvision": Variant(scale=True, count_padding=True, dropout_rate=0.5),
}


class _Inception(tf.Module):
    """A stem, modules of branches, and a classifier; where padding is not SAME it is VALID."""

    _valid: bool
    """Whether the stem, from v3's Conv2d_2b on excepted, and what halves the map have VALID padding."""

    def __init__(
        self,
        num_classes: int | None,
        variant: str,
        stem: Sequence[str],
        modules: Mapping[str, list[list[Step]]],
        dropout_rate: float | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.variant, self._settings = variant, VARIANTS[variant]
        self._stem, self._modules = tuple(stem), modules
        self._dropout_rate = self._settings.dropout_rate if dropout_rate is None else dropout_rate
        self._has_head = num_classes is not None
        self._norm, self._seed, self._made = {"epsilon": 1e-3, "scale": self._settings.scale}, seed, 0
        self.auxiliary: dict[str, float] = {}

        channels = 3
        for step in stem:
            channels = self._make("", step, channels)
        for module, branches in modules.items():
            channels = sum(self._make_branch(f"{module}/Branch_{i}/", b, channels) for i, b in enumerate(branches))
            self._after(module, channels, num_classes)
        if num_classes is not None:
            last = Dense(channels, num_classes, initializer=gaussian(0.01), seed=(seed, 0))
            setattr(self, "Logits/Conv2d_1c_1x1", last)

    def _after(self, module: str, channels: int, num_classes: int | None) -> None:
        """Makes what hangs on `module`."""

    def _make_branch(self, path: str, branch: list[Step], channels: int) -> int:
        for step in branch:
            parts = (step,) if isinstance(step, str) else step
            channels = sum(self._make(path, part, channels) for part in parts)
        return channels

    def _make(self, path: str, step: str, channels: int) -> int:
        """Makes the convolution of `step`, if it is one; returns the channels that come out."""
        if "Pool" in step:
            return channels
        name, outputs, size = _parsed(step)
        self._made += 1
        options: dict[str, Any] = {"seed": (self._seed, self._made), "padding": self._padding(name)}
        setattr(self, path + name, self._convolution(name, channels, outputs, size, options))
        return outputs

    def _convolution(
        self, name: str, channels: int, outputs: int, size: tuple[int, int], options: dict[str, Any]
    ) -> ConvNorm | SeparableConv2D:
        return ConvNorm(channels, outputs, size, stride=_stride(name), norm=self._norm, **options)

    def _padding(self, name: str) -> str:
        return "VALID" if self._valid and re.search(r"_(1a|2a|3a|3b|4a|5a)_", name) else "SAME"

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, num_classes] of pictures [N, H, W, 3]; without the head, the last map.

        `rng`, a stateless seed (int32 [2]), is needed where `train` is true: dropout draws from it.
        """
        layer = layers(tap)

        def apply(x: tf.Tensor, path: str, step: str) -> tf.Tensor:
            name = step.split()[0]
            if "Pool" not in step:
                return conv_norm_relu(layer, getattr(self, path + name), x, path + name, train=train)
            options: dict[str, Any] = {"size": 3, "stride": _stride(name), "padding": self._padding(name)}
            if name.startswith("MaxPool"):
                return layer(path + name, partial(max_pool, **options), x)
            if self._settings.count_padding:
                options["padding"] = 1
            return layer(path + name, partial(avg_pool, **options), x)

        def apply_branch(x: tf.Tensor, path: str, branch: list[Step]) -> tf.Tensor:
            for step in branch:
                parts = (step,) if isinstance(step, str) else step
                x = tf.concat([apply(x, path, part) for part in parts], -1)
            return x

        for step in self._stem:
            x = apply(x, "", step)
        for module, branches in self._modules.items():
            outputs = [apply_branch(x, f"{module}/Branch_{i}/", branch) for i, branch in enumerate(branches)]
            x = layer(module, partial(tf.concat, axis=-1), outputs)
            if train and self.auxiliary:
                self._auxiliary_head(layer, module, x)
        if not self._has_head:
            return x
        x = layer("Logits/AvgPool_1a", global_avg_pool, x)
        x = layer("Logits/Dropout_1b", layer_dropout("Dropout_1b", self._dropout_rate, rng, train=train), x)
        return layer("Logits/Conv2d_1c_1x1", getattr(self, "Logits/Conv2d_1c_1x1"), x)

    def _auxiliary_head(self, layer: Apply, module: str, x: tf.Tensor) -> None:
        """Applies what hangs on `module`."""


def _parsed(step: str) -> tuple[str, int, tuple[int, int]]:
    """Name, channels and kernel of `Conv2d_0b_1x7 128`."""
    name, channels, *size = step.split()
    height, width = (size[0] if size else name.rpartition("_")[2]).split("x")
    return name, int(channels), (int(height), int(width))


def _stride(name: str) -> int:
    return 2 if re.search(r"_1a_|^MaxPool_[235]a_", name) else 1


class InceptionV2(_Inception):
    """Batch Normalization (Ioffe and Szegedy 2015, appendix, figure 5), as slim has it.

        layer          output       parameters
        Conv2d_1a_7x7  112×112×64   2,776
        MaxPool_2a_3x3 56×56×64
        Conv2d_2b_1x1  56×56×64     4,160
        Conv2d_2c_3x3  56×56×192    110,784
        MaxPool_3a_3x3 28×28×192
        Mixed_3b       28×28×256
        Mixed_3c       28×28×320
        Mixed_4a       14×14×576
        Mixed_4b       14×14×576
        Mixed_4c       14×14×576
        Mixed_4d       14×14×576
        Mixed_4e       14×14×576
        Mixed_5a       7×7×1024
        Mixed_5b       7×7×1024
        Mixed_5c       7×7×1024
        Logits         1000

    Differs from the paper: the first convolution is separable, with 8 channels for each colour, and has biases
    instead of batch norm, as in the weights that slim published. Pictures are 224×224, or of any size from 32×32 on.
    """

    _valid = False

    def __init__(
        self, num_classes: int | None = 1000, variant: str = "slim", *, dropout_rate: float | None = None, seed: int = 0
    ) -> None:
        """`num_classes` None leaves the classifier out. Raises ValueError for an unknown variant."""
        if variant != "slim":
            raise ValueError(f"Inception v2 has no variant {variant!r}; there is slim")
        super().__init__(num_classes, variant, V2_STEM, V2_MODULES, dropout_rate, seed)
        self.input_shape = (224, 224, 3)

    def _convolution(
        self, name: str, channels: int, outputs: int, size: tuple[int, int], options: dict[str, Any]
    ) -> ConvNorm | SeparableConv2D:
        if name == "Conv2d_1a_7x7":
            return SeparableConv2D(channels, outputs, size[0], stride=2, multiplier=8, bias=True, **options)
        return super()._convolution(name, channels, outputs, size, options)


class InceptionV3(_Inception):
    """Rethinking the Inception Architecture (Szegedy et al. 2016, table 1), as slim and Keras have it.

        layer          output       parameters
        Conv2d_1a_3x3  149×149×32   896
        Conv2d_2a_3x3  147×147×32   9,248
        Conv2d_2b_3x3  147×147×64   18,496
        MaxPool_3a_3x3 73×73×64
        Conv2d_3b_1x1  73×73×80     5,200
        Conv2d_4a_3x3  71×71×192    138,432
        MaxPool_5a_3x3 35×35×192
        Mixed_5b       35×35×256
        Mixed_5c       35×35×288
        Mixed_5d       35×35×288
        Mixed_6a       17×17×768
        Mixed_6b       17×17×768
        Mixed_6c       17×17×768
        Mixed_6d       17×17×768
        Mixed_6e       17×17×768
        Mixed_7a       8×8×1280
        Mixed_7b       8×8×2048
        Mixed_7c       8×8×2048
        Logits         1000

    In training a second classifier, AuxLogits, hangs on Mixed_6e; its loss counts 0.4 times as much.

    Variants, which weights come for:

        slim         slim's, and keras.applications' (without AuxLogits): batch norm without gamma
        torchvision  batch norm with gamma; average pooling counts the padding, as zeros

    Pictures are 299×299, or of any size from 75×75 on; with AuxLogits, from 299×299 on in training.
    """

    _valid = True

    def __init__(
        self,
        num_classes: int | None = 1000,
        variant: str = "slim",
        *,
        auxiliary: bool = True,
        dropout_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        """`num_classes` None leaves both classifiers out, `auxiliary` False AuxLogits.

        Raises ValueError for an unknown variant.
        """
        if variant not in VARIANTS:
            raise ValueError(f"Inception v3 has no variant {variant!r}; there are {', '.join(VARIANTS)}")
        self._with_auxiliary = auxiliary
        super().__init__(num_classes, variant, V3_STEM, V3_MODULES, dropout_rate, seed)
        self.input_shape = (299, 299, 3)

    def _after(self, module: str, channels: int, num_classes: int | None) -> None:
        if module != "Mixed_6e" or num_classes is None or not self._with_auxiliary:
            return
        self.auxiliary["AuxLogits/Conv2d_2b_1x1"] = 0.4
        options: dict[str, Any] = {"norm": self._norm, "padding": "VALID"}
        setattr(self, "AuxLogits/Conv2d_1b_1x1", ConvNorm(channels, 128, 1, seed=(self._seed, 1001), **options))
        setattr(self, "AuxLogits/Conv2d_2a_5x5", ConvNorm(128, 768, 5, seed=(self._seed, 1002), **options))
        last = Dense(768, num_classes, initializer=gaussian(0.001), seed=(self._seed, 1003))
        setattr(self, "AuxLogits/Conv2d_2b_1x1", last)

    def _auxiliary_head(self, layer: Apply, module: str, x: tf.Tensor) -> None:
        if module != "Mixed_6e":
            return
        x = layer("AuxLogits/AvgPool_1a_5x5", partial(avg_pool, size=5, stride=3), x)
        for name in ("AuxLogits/Conv2d_1b_1x1", "AuxLogits/Conv2d_2a_5x5"):
            x = conv_norm_relu(layer, getattr(self, name), x, name, train=True)
        x = global_avg_pool(x)
        layer("AuxLogits/Conv2d_2b_1x1", getattr(self, "AuxLogits/Conv2d_2b_1x1"), x)

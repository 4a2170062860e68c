"""Files as people have them, of torch and others: they load into the right network and give their origin's numbers."""

import json
import re
import struct
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.nets import AlexNet
from barenets.ops import named_variables
from barenets.weights import Kind
from barenets.weights.rename import AUXILIARY, Weights
from tests import caffe
from tests.nets.parity import caffe_layers

LOGITS = 1e-4
"""Largest difference of a logit, as a part of the largest: float32 sums in another order. Measured: below 3e-6."""

KINDS = {
    "alexnet": Kind("alexnet", "one_tower", "torch"),
    "vgg11": Kind("vgg11", "paper", "torch"),
    "vgg16": Kind("vgg16", "paper", "torch"),
    "resnet18": Kind("resnet18", "torchvision", "torch"),
    "resnet50": Kind("resnet50", "torchvision", "torch"),
    "resnet101": Kind("resnet101", "torchvision", "torch"),
    "googlenet": Kind("googlenet", "torchvision", "torch"),
    "inception_v3": Kind("inception_v3", "torchvision", "torch"),
}
SIDES = {"alexnet": 224, "vgg11": 224, "vgg16": 224, "inception_v3": 139}
"""Of the pictures; others 96."""
PARAMETERS = {  # as torchvision publishes them, GoogLeNet's without its auxiliary heads
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "googlenet": 6_624_904,
    "inception_v3": 27_161_264,
}


def safetensors(entries):
    """`entries`: name -> (type as the format has it, shape, bytes)."""
    table, at = {}, 0
    for name, (dtype, shape, data) in entries.items():
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps({"__metadata__": {"format": "pt"}} | table).encode()
    return b"".join([struct.pack("<Q", len(text)), text, *(data for _, _, data in entries.values())])


def build(kind, **options):
    return nets.build(kind.net, variant=kind.variant, **options)


def same(ours, theirs):
    """The same arrays in the same order, to the bit."""
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        np.testing.assert_array_equal(ours[name], array, name)


class Origin(NamedTuple):
    name: str
    model: object
    x: np.ndarray

    def saved(self, path, state=None, **options):
        import torch

        state = self.model.state_dict() if state is None else state
        if path.suffix == ".pth":
            torch.save(state, path, **options)
            return str(path)
        types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
        entries = {
            key: (types[t.dtype], t.shape, t.reshape(-1).view(torch.uint8).numpy().tobytes())
            for key, t in state.items()
        }
        path.write_bytes(safetensors(entries))
        return str(path)

    def logits(self):
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(np.ascontiguousarray(self.x.transpose(0, 3, 1, 2)))).numpy()

    def agrees(self, net):
        expected = self.logits()
        apart = np.abs(net(self.x).numpy() - expected).max() / np.abs(expected).max()
        print(f"{self.name}: logits up to {np.abs(expected).max():.3g} differ by {apart:.2g}")
        assert np.abs(expected).max() > 0.1
        assert apart < LOGITS


def make(name):
    torch = pytest.importorskip("torch")
    from tests.nets import torch_reference
    from tests.weights.test_torch import alexnet

    if name == "alexnet":
        torch.manual_seed(1)
        model = alexnet(torch, (64, 192, 384, 256, 256), 4096, 1000).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter *= 6**0.5  # torch's own start, which gives logits of 0.01, becomes He et al.'s
        return model
    return torch_reference.build(name)


SLOW = ("alexnet", "vgg11", "vgg16", "resnet50", "resnet101", "inception_v3")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in KINDS])
def origin(request):
    side = SIDES.get(request.param, 96)
    x = np.random.default_rng(0).normal(0, 1, (1, side, side, 3)).astype(np.float32)
    return Origin(request.param, make(request.param), x)


# ---- what the references are worth ----


def torchvisions_layers(name):
    """Layers of torchvision's state dict, written down from its sources: (with a bias or not, batch norms)."""

    def conv_norm(names):
        return [f"{n}.conv" for n in names], [f"{n}.bn" for n in names]

    if name == "alexnet":
        return [*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))], []
    if name.startswith("vgg"):
        at = {"vgg11": (0, 3, 6, 8, 11, 13, 16, 18), "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}[name]
        return [*(f"features.{i}" for i in at), *(f"classifier.{i}" for i in (0, 3, 6))], []
    if name.startswith("resnet"):
        blocks = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name]
        numbers = range(1, 3 if name == "resnet18" else 4)
        places = [f"layer{i}.{j}" for i, count in enumerate(blocks, 1) for j in range(count)]
        down = [f"layer{i}.0.downsample" for i in range(2 if name == "resnet18" else 1, 5)]
        layers = ["conv1", "fc", *(f"{p}.conv{i}" for p in places for i in numbers), *(f"{d}.0" for d in down)]
        return layers, ["bn1", *(f"{p}.bn{i}" for p in places for i in numbers), *(f"{d}.1" for d in down)]
    if name == "googlenet":
        modules = [f"inception{m}" for m in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
        branches = [f"branch{b}" for b in ("1", "2.0", "2.1", "3.0", "3.1", "4.1")]
        names = ["conv1", "conv2", "conv3", "aux1.conv", "aux2.conv", *(f"{m}.{b}" for m in modules for b in branches)]
        convs, norms = conv_norm(names)
        return [*convs, "fc", "aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2"], norms
    branches = {
        ("5b", "5c", "5d"): "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool",
        ("6a",): "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3",
        ("6b", "6c", "6d", "6e"): "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool",
        ("7a",): "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4",
        ("7b", "7c"): "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool",
    }
    names = [f"Mixed_{m}.branch{b}" for modules, text in branches.items() for m in modules for b in text.split()]
    names += [f"Conv2d_{n}" for n in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")]
    convs, norms = conv_norm([*names, "AuxLogits.conv0", "AuxLogits.conv1"])
    return [*convs, "fc", "AuxLogits.fc"], norms


@pytest.mark.parametrize("name", KINDS)
def test_references_have_torchvisions_names_and_sizes(name):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        model = make(name)
    layers, norms = torchvisions_layers(name)
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    biased = [n for n in layers if re.search(r"fc\d?$|classifier", n) or name in ("alexnet", "vgg11", "vgg16")]
    expected = {f"{n}.weight" for n in layers} | {f"{n}.bias" for n in biased}
    expected |= {f"{n}.{part}" for n in norms for part in parts}
    assert set(model.state_dict()) == expected
    counted = [p.numel() for n, p in model.named_parameters() if name != "googlenet" or not n.startswith("aux")]
    assert sum(counted) == PARAMETERS[name]


# ---- torch's files ----


def test_every_format_gives_torchs_logits(origin, tmp_path):
    path = origin.saved(tmp_path / "zip.pth")
    arrays = weights.read(path)
    assert arrays.kind == KINDS[origin.name]
    assert arrays.num_classes == 1000
    for other in (
        origin.saved(tmp_path / "legacy.pth", _use_new_zipfile_serialization=False),
        origin.saved(tmp_path / "x.safetensors"),
    ):
        same(read := weights.read(other), arrays)
        assert read.kind == arrays.kind
    net = build(arrays.kind)
    report = weights.load(net, path)
    assert set(report.loaded) == set(arrays) == set(named_variables(net))
    assert not report.skipped
    origin.agrees(net)


def test_files_of_before_torch_0_4_1(origin, tmp_path):
    """They lack num_batches_tracked."""
    arrays = weights.read(origin.saved(tmp_path / "tracked.pth"))
    state = {k: t for k, t in origin.model.state_dict().items() if not k.endswith("num_batches_tracked")}
    same(weights.read(origin.saved(tmp_path / "untracked.pth", state)), arrays)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("googlenet", ("aux1.", "aux2.")),
        pytest.param("inception_v3", ("AuxLogits.",), marks=pytest.mark.slow),
    ],
)
def test_auxiliary_heads_may_be_absent_on_either_side(name, heads, tmp_path):
    x = np.random.default_rng(0).normal(0, 1, (1, 96, 96, 3)).astype(np.float32)
    origin = Origin(name, make(name), x)
    whole = origin.saved(tmp_path / "whole.pth")
    state = {key: tensor for key, tensor in origin.model.state_dict().items() if not key.startswith(heads)}
    net = build(KINDS[name])
    skipped = weights.load(net, origin.saved(tmp_path / "headless.pth", state)).skipped
    assert set(skipped) == {key for key in weights.read(whole) if key.startswith(AUXILIARY)}
    origin.agrees(net)
    with tf.Graph().as_default():  # only names and shapes are wanted
        assert not weights.plan(build(KINDS[name], auxiliary=False), weights.read(whole)).skipped


@pytest.mark.parametrize("name", ["resnet18", pytest.param("inception_v3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("file", ["x.pth", "x.safetensors"])
def test_halves(name, dtype, file, tmp_path):
    """The logits are those of torch in float32 with the rounded weights."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 1, (1, 96, 96, 3)).astype(np.float32)
    origin = Origin(name, make(name).to(getattr(torch, dtype)), x)
    path = origin.saved(tmp_path / file)
    arrays = weights.read(path)
    assert arrays.kind == KINDS[name]
    assert {array.dtype for array in arrays.values()} == {np.dtype("f2" if dtype == "float16" else "f4")}
    net = build(arrays.kind)
    weights.load(net, path)
    origin.model.float()
    origin.agrees(net)


# ---- small arrays with the names of large networks ----


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def written(path, state):
    """A state dict, name -> float32 array, as .safetensors."""
    path.write_bytes(safetensors({key: ("F32", value.shape, value.tobytes()) for key, value in state.items()}))
    return str(path)


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_timms_vgg_is_torchvisions(name, tmp_path):
    """timm has the dense layers as convolutions, the first one's kernel as large as its map."""
    layers, _ = torchvisions_layers(name)
    state = {f"{layer}.weight": normal(2, 2, 3, 3, seed=i) for i, layer in enumerate(layers[:-3])}
    dense = {"classifier.0": (8, 512 * 7 * 7), "classifier.3": (9, 8), "classifier.6": (10, 9)}
    state |= {f"{layer}.weight": normal(*shape) for layer, shape in dense.items()}
    state |= {f"{layer}.bias": normal(len(state[f"{layer}.weight"])) for layer in layers}
    torchvisions = weights.read(written(tmp_path / "torchvision.safetensors", state))
    renamed = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    shapes = {"pre_logits.fc1.weight": (8, 512, 7, 7), "pre_logits.fc2.weight": (9, 8, 1, 1)}
    timms = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        key = f"{renamed.get(layer, layer)}.{part}"
        timms[key] = value.reshape(shapes.get(key, value.shape))
    timms = weights.read(written(tmp_path / "timm.safetensors", timms))
    assert timms.kind == torchvisions.kind == KINDS[name]
    assert timms.num_classes == 10
    same(timms, torchvisions)


def of(kind):
    """What a file of that kind has, of 10 classes."""
    with tf.Graph().as_default():  # only shapes are wanted
        variables = named_variables(build(kind, num_classes=10))
    return Weights({name: np.zeros(variable.shape, np.float32) for name, variable in variables.items()}, kind)


# ---- files for another variant or network ----


def refused(kind, arrays):
    with tf.Graph().as_default(), pytest.raises(UserError, match="nothing was loaded") as raised:
        weights.plan(build(kind, num_classes=arrays.num_classes), arrays)
    return str(raised.value)


def test_googlenet_of_torchvision_is_not_bvlcs():
    message = refused(Kind("googlenet", "bvlc"), of(KINDS["googlenet"]))
    assert "holds googlenet torchvision (torch) and does not fit" in message
    assert "inception_3a/5x5/weights is 3×3×16×32 in the file and 5×5×16×32 in the network" in message


def test_resnet50_of_torchvision_has_no_biases():
    arrays = of(KINDS["resnet50"])
    message = refused(Kind("resnet50", "caffe"), arrays)
    assert "holds resnet50 torchvision (torch) and does not fit the network" in message
    assert "the file lacks conv1/biases." in message
    assert "the file lacks conv1/biases, res2a_branch1/biases," in refused(Kind("resnet50", "keras"), arrays)


@pytest.mark.slow
def test_resnet101_of_torchvision_fits_caffes_and_is_warned_of():
    arrays = of(KINDS["resnet101"])
    with pytest.warns(UserWarning, match="has weights of the variant torchvision, and the network is the variant caff"):
        weights.load(build(Kind("resnet101", "caffe"), num_classes=10), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("theirs", ["alexnet", "caffenet"])
def test_the_title_tells_alexnet_from_caffenet(theirs, tmp_path):
    net = AlexNet(2, theirs)
    arrays = {name: variable.numpy() for name, variable in named_variables(net).items()}
    title = {"alexnet": b"AlexNet", "caffenet": b"CaffeNet"}[theirs]
    path = tmp_path / "x.caffemodel"
    path.write_bytes(caffe._field(1, title) + caffe.caffemodel(caffe_layers(arrays)))
    read = weights.read(str(path))
    assert read.kind == Kind("alexnet", theirs, "caffe")
    weights.load(net, read)  # a warning would be an error
    other = {"alexnet": "caffenet", "caffenet": "alexnet"}[theirs]
    with pytest.warns(UserWarning, match=f"of the variant {theirs}, and the network is the variant {other}"):
        weights.load(AlexNet(2, other), read)


def test_vgg16_is_not_vgg19():
    arrays = of(KINDS["vgg16"])
    message = refused(Kind("vgg19", "paper"), arrays)
    assert "holds vgg16 paper (torch) and does not fit" in message
    assert "the file lacks conv3_4/weights, conv3_4/biases, conv4_4/weights" in message


def test_vgg_with_batch_norm_is_none_of_ours(tmp_path):
    """Its features.1, 4, ... are norms: torchvision's vgg11_bn."""
    at = (0, 4, 8, 11, 15, 18, 22, 25)
    state = {f"features.{i}.{part}": normal(2) for i in at for part in ("bias",)}
    state |= {f"features.{i}.weight": normal(2, 2, 3, 3) for i in at}
    state |= {f"features.{i + 1}.{part}": normal(2) for i in at for part in ("weight", "bias", "running_mean")}
    state |= {f"features.{i + 1}.running_var": normal(2) ** 2 for i in at}
    state |= {f"classifier.{i}.weight": normal(2, 2) for i in (0, 3, 6)}
    state |= {f"classifier.{i}.bias": normal(2) for i in (0, 3, 6)}
    arrays = weights.read(written(tmp_path / "x.safetensors", state))
    assert arrays.kind == Kind("vgg11_bn", None, "torch")
    message = refused(Kind("vgg11", "paper"), arrays)
    assert "holds vgg11_bn (torch) and does not fit the network" in message
    assert "the network lacks conv1_1/bn/gamma, conv1_1/bn/beta" in message
    with pytest.raises(UserError, match="there is no network 'vgg11_bn'; there are alexnet, vgg11, "):
        build(arrays.kind)


# ---- there and back ----


def torchs(folder):
    """torchvision's ResNet-18 with few channels."""
    layers, norms = torchvisions_layers("resnet18")
    state = {f"{layer}.weight": normal(4, 3, 3, 3, seed=i) for i, layer in enumerate(layers)}
    state |= {"fc.weight": normal(10, 4), "fc.bias": normal(10)}
    parts = ("weight", "bias", "running_mean", "running_var")
    return written(folder / "x.safetensors", state | {f"{n}.{part}": normal(4) for n in norms for part in parts})


def caffes(folder):
    (folder / "theirs.caffemodel").write_bytes(
        caffe._field(1, b"CaffeNet") + caffe.caffemodel(caffe_layers(alexnet_arrays()))
    )
    return str(folder / "theirs.caffemodel")


def alexnet_arrays():
    shapes = {"conv1": (11, 11, 3, 96), "conv2": (5, 5, 48, 2), "fc6": (256 * 36, 5), "fc7": (5, 6), "fc8": (6, 3)}
    shapes |= {f"conv{i}": (3, 3, 2, 2) for i in (3, 4, 5)}
    arrays = {f"{layer}/weights": normal(*shape) for layer, shape in sorted(shapes.items())}
    return arrays | {f"{layer}/biases": normal(shape[-1]) for layer, shape in sorted(shapes.items())}


def slims(folder):
    """A checkpoint of resnet_v1_50 with few channels, and what training left in it."""
    arrays = {"resnet_v1_50/mean_rgb": normal(3), "global_step": np.int64(7)}
    scopes = [
        f"block{b}/unit_{u}/bottleneck_v1/{conv}"
        for b, count in enumerate((3, 4, 6, 3), 1)
        for u in range(1, count + 1)
        for conv in ("conv1", "conv2", "conv3", *(["shortcut"] if u == 1 else []))
    ]
    for i, scope in enumerate(["conv1", *scopes]):
        arrays[f"resnet_v1_50/{scope}/weights"] = normal(1, 1, 2, 4, seed=i)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"resnet_v1_50/{scope}/BatchNorm/{part}"] = normal(4, seed=i)
    arrays |= {"resnet_v1_50/logits/weights": normal(1, 1, 4, 10), "resnet_v1_50/logits/biases": normal(10)}
    prefix = str(folder / "resnet_v1_50.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=[*arrays], shape_and_slices=[""] * len(arrays), tensors=[*arrays.values()]
    )
    return prefix


def kerases(folder):
    import h5py

    with h5py.File(folder / "theirs.h5", "w") as file:
        layers = [f"block{b}_conv{i}" for b, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
        layers += ["fc1", "fc2", "predictions"]
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for i, layer in enumerate(layers):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()]
            group[f"{layer}/kernel:0"] = normal(*((3, 3, 2, 4) if "conv" in layer else (4, 5)), seed=i)
            group[f"{layer}/bias:0"] = normal(4).astype(np.float16)
    return str(folder / "theirs.h5")


@pytest.mark.parametrize(
    ("write", "kind", "npy"),
    [
        (torchs, Kind("resnet18", "torchvision", "torch"), False),
        (caffes, Kind("alexnet", "caffenet", "caffe"), True),
        (slims, Kind("resnet50", "slim", "slim"), False),
        (kerases, Kind("vgg16", "paper", "keras"), True),
    ],
)
def test_there_and_back(write, kind, npy, tmp_path):
    """`.npz`, `.safetensors`, `.npz`: to the bit, and the two .npz are the same bytes."""
    arrays = weights.read(write(tmp_path))
    assert arrays.kind == kind
    last = arrays
    for file in ("a.npz", "b.safetensors", "c.npz"):
        weights.save(str(tmp_path / file), last)
        last = weights.read(str(tmp_path / file))
        same(last, arrays)
        assert last.kind == kind
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    if npy:
        weights.save(str(tmp_path / "d.npy"), arrays)
        last = weights.read(str(tmp_path / "d.npy"))
        assert set(last) == set(arrays)
        same({name: last[name] for name in arrays}, arrays)
    else:
        with pytest.raises(UserError, match=r"\[W, b\] layout has no place for \w+/(gamma|beta); write a"):
            weights.save(str(tmp_path / "d.npy"), arrays)

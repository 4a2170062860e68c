"""Keras's files: what Keras writes is read to the bit and into the right layers, real files included."""

import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from barenets import UserError, nets, weights
from barenets.ops import named_variables
from barenets.weights import Kind
from barenets.weights.rename import canonical

WITHOUT_TOP = {"vgg16": "VGG16", "xception": "Xception"}


def scaled(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Kernels at He's scale, so that activations keep theirs, and variances that are some."""
    value = rng.normal(0, 1, shape)
    if path.endswith("kernel"):
        value *= (2 / np.prod(shape[:2] if "depthwise" in path else shape[:-1])) ** 0.5
    return (np.abs(value) + 0.5 if "variance" in path else value).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "kind", "variant", "whole"),
    [
        ("vgg16", "VGG16", "paper", False),
        ("vgg16", "VGG16", "paper", True),
        pytest.param("resnet50", "ResNet50", "keras", False, marks=pytest.mark.slow),
        pytest.param("resnet101", "ResNet101", "keras", False, marks=pytest.mark.slow),
        ("xception", "Xception", "keras", False),
    ],
)
def test_what_keras_writes(tmp_path, name, kind, variant, whole):
    """All of it, and into the right layers: the network then gives what Keras's gives."""
    import keras

    model = getattr(keras.applications, kind)(weights=None, include_top=False, input_shape=(75, 75, 3))
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(scaled(v.path, tuple(v.shape), rng))
    path = str(tmp_path / "model.h5")
    model.save(path)
    if not whole:  # Keras 3 writes whole models only; weights alone have the same group at the top
        with h5py.File(path) as file, h5py.File(tmp_path / "weights.h5", "w") as copy:
            for key, value in file["model_weights"].attrs.items():
                copy.attrs[key] = value
            for key in file["model_weights"]:
                file.copy(f"model_weights/{key}", copy)
        path = str(tmp_path / "weights.h5")
    net = nets.build(name, num_classes=None, variant=variant)
    assert len(weights.load(net, path).loaded) == len(model.weights)
    x = rng.normal(0, 1, (1, 75, 75, 3)).astype(np.float32)
    expected = np.asarray(model(x))
    np.testing.assert_allclose(net(x), expected, atol=1e-4 * np.abs(expected).max())


MODELS = {
    "vgg16": ("VGG16", "paper", 48),
    "vgg19": ("VGG19", "paper", 48),
    "resnet50": ("ResNet50", "keras", 75),
    "resnet101": ("ResNet101", "keras", 75),
    "resnet152": ("ResNet152", "keras", 75),
    "inception_v3": ("InceptionV3", "slim", 75),
    "xception": ("Xception", "keras", 75),
}
"""Network -> Keras's name, variant, side of the pictures."""
FAST = ("vgg16",)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS])
def made_late(request):
    """A model of 10 classes with its name here, made when Keras's counters of automatic names have begun."""
    import keras

    kind, _, side = MODELS[request.param]
    for _ in range(2):
        keras.Sequential([keras.Input((9, 9, 3)), keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization()])
    # VGG's dense layers would have 100 million weights on pictures of 224.
    options = {"weights": None, "classes": 10, "classifier_activation": None, "input_shape": (side, side, 3)}
    if request.param.startswith("vgg"):
        options |= {"include_top": False}
    model = getattr(keras.applications, kind)(**options)
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(scaled(v.path, tuple(v.shape), rng))
    return request.param, model


def loads_into_keras_equal(name, model, path):
    _, variant, side = MODELS[name]
    arrays = weights.read(str(path))
    assert arrays.kind == Kind(name, variant, "keras")
    options = {"auxiliary": False} if name == "inception_v3" else {}
    net = nets.build(name, num_classes=arrays.num_classes, variant=variant, **options)
    assert len(weights.load(net, str(path)).loaded) == len(model.weights)
    x = np.random.default_rng(0).normal(0, 1, (1, side, side, 3)).astype(np.float32)
    expected = np.asarray(model(x))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(net(x), expected, atol=1e-4 * np.abs(expected).max())
    return arrays


def test_every_format_of_keras(made_late, tmp_path):
    """Also without the names that older ones lack, and in the style of Keras 2: equal outputs, and equal arrays."""
    name, model = made_late
    paths = [tmp_path / f"x{ending}" for ending in (".h5", ".keras", ".weights.h5")]
    for path in paths:
        (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    expected = loads_into_keras_equal(name, model, paths[0])
    if name in ("inception_v3", "xception"):
        assert "conv2d" not in [layer.name for layer in model.layers]  # but conv2d_2 or later
    paths += [unnamed(tmp_path, paths[2]), unnamed_archive(tmp_path, paths[1]), keras_2(tmp_path, paths[0])]
    for path in paths[1:]:
        arrays = weights.read(str(path))
        assert arrays.kind == expected.kind, path
        assert set(arrays) == set(expected), path
        for key, array in expected.items():
            np.testing.assert_array_equal(arrays[key], array, f"{path} {key}")


def unnamed(folder, path):
    """A copy of a `.weights.h5` as Keras wrote it before it kept the layers' names: groups are conv2d_3 by count."""
    copy = folder / f"unnamed_{path.name}"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "a") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    return copy


def unnamed_archive(folder, path):
    """The like of a `.keras`, whose names are in its config.json alone."""
    copy = folder / f"unnamed_{path.name}"
    with zipfile.ZipFile(path) as theirs, zipfile.ZipFile(copy, "w") as ours:
        (folder / "inner.h5").write_bytes(theirs.read("model.weights.h5"))
        ours.writestr("config.json", theirs.read("config.json"))
        ours.writestr("model.weights.h5", unnamed(folder, folder / "inner.h5").read_bytes())
    return copy


def keras_2(folder, path):
    """Weights alone as Keras 2 wrote them: names end in :0, are bytes of one length, and lie in pieces if long."""
    copy = folder / "keras_2.h5"
    with h5py.File(path) as theirs, h5py.File(copy, "w") as ours:
        source = theirs["model_weights"]
        layers = [name.encode() for name in source.attrs["layer_names"]]
        for i, piece in enumerate(np.array_split(np.array(layers), 3)):
            ours.attrs[f"layer_names{i}"] = piece
        for layer in source.attrs["layer_names"]:
            group = ours.create_group(layer)
            names = list(source[layer].attrs["weight_names"])
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names])
            for name in names:
                group[f"{name}:0"] = source[layer][name][()]
    return copy


def test_a_head_that_is_not_keras_own_keeps_its_name(tmp_path):
    """Two dense layers after VGG-16's convolutions are not its first two; three are its own."""
    groups = [f"layers/conv2d_{i}" for i in range(13)] + ["layers/dense", "layers/dense_1", "layers/dense_2"]
    whole = canonical({f"{group}/biases": np.ones(2) for group in groups}, "keras")
    assert [*whole][12:] == ["conv5_3/biases", "fc6/biases", "fc7/biases", "fc8/biases"]

    import keras

    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    top = keras.layers.Dense(2)(keras.layers.Dense(4)(base.output))
    keras.Model(base.input, top).save_weights(tmp_path / "x.weights.h5")
    arrays = weights.read(str(unnamed(tmp_path, tmp_path / "x.weights.h5")))
    assert arrays.kind == Kind("vgg16", "paper", "keras")
    assert [key for key in arrays if not key.startswith("conv")] == [
        *("layers/dense/weights", "layers/dense/biases", "layers/dense_1/weights", "layers/dense_1/biases"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "other"), [("keras", "keras_2016"), ("keras_2016", "keras")])
def test_the_two_resnet50s_are_told_apart(theirs, other, tmp_path):
    """By their layers' names: they have the same shapes and another epsilon."""
    net = nets.build("resnet50", num_classes=2, variant="keras")
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, variable in named_variables(net).items():
        layer, _, part = name.rpartition("/")
        if theirs == "keras":
            layer = as_keras(layer)
        part = {"weights": "kernel", "biases": "bias"}.get(part, part)
        layers.setdefault(layer, {})[f"{layer}/{part}:0"] = variable.numpy()
    arrays = weights.read(h5(tmp_path / "x.h5", layers))
    assert arrays.kind == Kind("resnet50", theirs, "keras")
    with pytest.warns(UserWarning, match=rf"of the variant {theirs}, and the network is the variant {other}:"):
        weights.load(nets.build("resnet50", num_classes=2, variant=other), arrays)


def as_keras(layer: str) -> str:
    """res2a_branch2b -> conv2_block1_2_conv."""
    if match := re.fullmatch(r"(res|bn)(\d)(\w)_branch(1|2\w)", layer):
        number = "0" if match[4] == "1" else str("abc".index(match[4][1]) + 1)
        kind = "conv" if match[1] == "res" else "bn"
        return f"conv{match[2]}_block{'abcdef'.index(match[3]) + 1}_{number}_{kind}"
    return {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc1000": "predictions"}[layer]


@pytest.mark.parametrize("name", WITHOUT_TOP)
def test_real_files_without_top(shared_data, name):
    """Load whole, and give Keras's features on real pictures."""
    import keras
    import tensorflow as tf

    path = shared_data / "weights" / f"{name}_imagenet_notop.h5"
    net = nets.build(name, num_classes=None)
    weights.load(net, str(path))
    model = getattr(keras.applications, WITHOUT_TOP[name])(weights=None, include_top=False, input_shape=(128, 128, 3))
    model.load_weights(path)
    files = sorted((shared_data / "imagenet_samples").glob("*.JPEG"))[:4]
    x = np.stack([tf.image.resize(tf.io.decode_jpeg(f.read_bytes(), channels=3), (128, 128)).numpy() for f in files])
    x = x - np.float32([104, 117, 124]) if name == "vgg16" else x / 127.5 - 1
    expected = np.asarray(model(x))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(net(x), expected, atol=1e-4 * np.abs(expected).max())


def h5(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> str:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    return str(path)


def external_link(group: h5py.Group, other: str) -> None:
    group["a/kernel:0"] = h5py.ExternalLink(other, "/a/a/kernel:0")


def soft_link(group: h5py.Group, other: str) -> None:
    group["a/kernel:0"] = h5py.SoftLink("/elsewhere")


def external_storage(group: h5py.Group, other: str) -> None:
    group.create_dataset("a/kernel:0", (2, 2), np.float64, external=[(other, 0, 32)])


def virtual(group: h5py.Group, other: str) -> None:
    layout = h5py.VirtualLayout((2, 2), np.float64)
    layout[:] = h5py.VirtualSource(other, "a/a/kernel:0", (2, 2))
    group.create_virtual_dataset("a/kernel:0", layout)


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (external_link, "links to other files"),
        (soft_link, "its 'kernel:0' is a link to elsewhere"),
        (external_storage, "keeps an array in another file"),
        (virtual, "lays out an array by version 4"),
    ],
)
def test_links_out_of_the_file_are_refused(tmp_path, link, reason):
    other = h5(tmp_path / "other.h5", {"a": {"a/kernel:0": np.ones((2, 2))}})
    path = h5(tmp_path / "x.h5", {"a": {"a/kernel:0": np.ones((2, 2))}})
    with h5py.File(path, "a") as file:
        del file["a/a/kernel:0"]
        link(file["a"], other)
    with pytest.raises(UserError, match=rf"x\.h5: refused .* {reason}"):
        weights.read(path)


def test_an_array_that_is_not_there(tmp_path):
    """A chunked array of a terabyte of which nothing was written takes no room in the file."""
    path = h5(tmp_path / "x.h5", {"a": {"a/bias:0": np.ones(2)}})
    with h5py.File(path, "a") as file:
        file["a"].create_dataset("a/kernel:0", (1 << 20, 1 << 18), np.float32, chunks=(1024, 1024))
        file["a"].attrs["weight_names"] = [b"a/kernel:0"]
    with pytest.raises(UserError, match=r"has 0 chunks where 262144 were expected"):
        weights.read(path)


def test_no_weights_of_keras(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(UserError, match="neither layer_names nor layers"):
        weights.read(str(tmp_path / "x.h5"))
    cut = tmp_path / "cut.h5"
    cut.write_bytes((tmp_path / "x.h5").read_bytes()[:700])
    with pytest.raises(
        UserError, match=r"cut\.h5: refused as Keras's, it ends at byte 700 of .*is the file complete\?"
    ):
        weights.read(str(cut))

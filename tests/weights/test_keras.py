"""Keras's .h5: what Keras writes is read to the bit and into the right layers, real files included."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from barenets import UserError, nets, weights

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
        ("resnet50", "ResNet50", "keras", False),
        ("resnet101", "ResNet101", "keras", False),
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


def test_real_resnet50_classifies(shared_data):
    """The old file: the authors' names, epsilon 1e-3. An independent run of Keras reached 0.90 and 0.99."""
    import tensorflow as tf

    net = nets.build("resnet50", variant="keras_2016")
    weights.load(net, str(shared_data / "weights" / "resnet50_imagenet.h5"))
    synsets = [line.split()[0] for line in (shared_data / "imagenet_synsets.txt").read_text().splitlines()]
    call, first, five = tf.function(net), 0, 0
    files = sorted((shared_data / "imagenet_samples").glob("*.JPEG"))
    for file in files:
        picture = tf.cast(tf.io.decode_jpeg(file.read_bytes(), channels=3), tf.float32)
        height, width = picture.shape[:2]
        scale = 256 / min(height, width)
        picture = tf.image.resize(picture, (round(height * scale), round(width * scale)), antialias=True)
        picture = tf.image.resize_with_crop_or_pad(picture, 224, 224)[..., ::-1] - [103.939, 116.779, 123.68]
        best = np.argsort(-call(picture[None])[0].numpy())[:5]
        target = synsets.index(file.name.split("_")[0])
        first, five = first + (best[0] == target), five + (target in best)
    assert len(files) == 100
    assert first >= 88
    assert five >= 97, (first, five)


def h5(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> str:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, arrays in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    return str(path)


def test_links_out_of_the_file_are_refused(tmp_path):
    other = h5(tmp_path / "other.h5", {"a": {"a/kernel:0": np.ones((2, 2))}})
    path = h5(tmp_path / "x.h5", {"a": {"a/kernel:0": np.ones((2, 2))}})
    with h5py.File(path, "a") as file:
        del file["a/a/kernel:0"]
        file["a/a/kernel:0"] = h5py.ExternalLink(other, "/a/a/kernel:0")
    with pytest.raises(UserError, match=r"x\.h5: refused .* links to other files"):
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

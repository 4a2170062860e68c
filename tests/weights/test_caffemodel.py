""".caffemodel and .safetensors: what their own programs write is read to the bit, and damage is refused in one line."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from barenets import UserError, weights
from barenets.nets import AlexNet
from barenets.ops import named_variables
from barenets.weights.caffemodel import read_caffemodel, read_mean_image
from tests import caffe
from tests.nets.parity import caffe_layers
from tests.weights.mutations import varint


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written(folder: Path, content: bytes, name: str = "x.caffemodel") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def legacy_blob(values: np.ndarray) -> bytes:
    """A BlobProto of before 2014: four sides, the first ones 1."""
    sides = (1,) * (4 - values.ndim) + values.shape
    head = b"".join(varint(at << 3) + varint(side) for at, side in enumerate(sides, 1))
    return head + caffe._field(5, values.astype("<f4").tobytes())


def v1(name: str, kind: int, blobs: list[np.ndarray]) -> bytes:
    """A V1LayerParameter in its NetParameter: the type is a number, 4 Convolution, 14 InnerProduct."""
    body = caffe._field(4, name.encode()) + varint(5 << 3) + varint(kind)
    return caffe._field(2, body + b"".join(caffe._field(6, legacy_blob(blob)) for blob in blobs))


@pytest.mark.slow
def test_alexnet_comes_back_to_the_bit(tmp_path):
    net = AlexNet(10, "alexnet", seed=3)
    arrays = {name: variable.numpy() for name, variable in named_variables(net).items()}
    path = written(tmp_path, caffe._field(1, b"AlexNet") + caffe.caffemodel(caffe_layers(arrays)))
    got = weights.read(path)
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
    other = AlexNet(10, "alexnet", seed=4)
    assert len(weights.load(other, path).loaded) == 16
    np.testing.assert_array_equal(other.fc6.weights, net.fc6.weights)


def test_old_files(tmp_path):
    """`layers` in place of `layer`, and blobs of num, channels, height and width."""
    kernel, bias, dense = normal(4, 3, 5, 5), normal(4), normal(7, 6)
    path = written(tmp_path, v1("conv1", 4, [kernel, bias]) + v1("relu1", 18, []) + v1("fc", 14, [dense, normal(7)]))
    got = weights.read(path)
    assert list(got) == ["conv1/weights", "conv1/biases", "fc/weights", "fc/biases"]
    np.testing.assert_array_equal(got["conv1/weights"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(got["conv1/biases"], bias)
    np.testing.assert_array_equal(got["fc/weights"], dense.T)


@pytest.mark.parametrize("factor", [0.0, 1.0, 999.98])
def test_batch_norm_and_scale_become_one(tmp_path, factor):
    mean, variance, gamma, beta = (normal(5, seed=i) for i in range(4))
    layers = {
        "conv1": ("Convolution", [normal(5, 3, 1, 1)]),
        "bn_conv1": ("BatchNorm", [mean, variance, np.float32([factor])]),
        "scale_conv1": ("Scale", [gamma, beta]),
    }
    got = weights.read(written(tmp_path, caffe.caffemodel(layers)))
    share = 1 / factor if factor else 0
    np.testing.assert_allclose(got["bn_conv1/moving_mean"], mean * share, rtol=1e-6)
    np.testing.assert_allclose(got["bn_conv1/moving_variance"], variance * share, rtol=1e-6)
    np.testing.assert_array_equal(got["bn_conv1/gamma"], gamma)
    np.testing.assert_array_equal(got["bn_conv1/beta"], beta)
    assert "conv1/biases" not in got


def test_mean_image(tmp_path):
    mean = normal(1, 3, 4, 6)
    got = read_mean_image(written(tmp_path, legacy_blob(mean), "mean.binaryproto"))
    np.testing.assert_array_equal(got, mean[0].transpose(1, 2, 0))
    with pytest.raises(UserError, match=r"flat\.binaryproto: refused .*one picture"):
        read_mean_image(written(tmp_path, legacy_blob(normal(8)), "flat.binaryproto"))


BLOB = caffe._blob(normal(2, 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (caffe._field(1, b"net"), "no layer with weights"),
        (caffe._field(100, b"\x0a\xff\x01"), "ends in the middle"),
        (b"\x0a" + b"\xff" * 11, "no protobuf message"),
        (caffe._field(100, caffe._field(7, caffe._field(5, bytes(6)))), "not one run of packed numbers"),
        (
            caffe._field(100, caffe._field(7, caffe._field(5, bytes(8)) + caffe._field(7, b"\x08\x63"))),
            "does not fill 8 bytes",
        ),
        (caffe._field(2, caffe._field(1, b"\x0a\x01x")), "before 2013"),
        (caffe.caffemodel({"bn": ("BatchNorm", [normal(2)])}), "not mean, variance and factor"),
        (caffe.caffemodel({"c": ("InnerProduct", [normal(2, 2)])}) * 2, "twice"),
        (caffe._field(100, caffe._field(1, b"x" * 2000) + caffe._field(7, BLOB)), "more than 999 bytes"),
    ],
)
def test_refused(tmp_path, content, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        read_caffemodel(written(tmp_path, content))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


# safetensors

F4 = ("F32", [1], bytes(4))


def safetensors(entries: dict[str, tuple[str, list[int], bytes]], **metadata: str) -> bytes:
    """As the format's README describes it, written here by hand."""
    table, at = {}, 0
    if metadata:
        table["__metadata__"] = metadata
    for name, (dtype, shape, data) in entries.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in entries.values())


def test_torch_names_and_layout(tmp_path):
    kernel, gamma = normal(4, 3, 5, 5), normal(4)
    entries = {
        "conv1.weight": ("F32", [4, 3, 5, 5], kernel.tobytes()),
        "bn1.weight": ("F32", [4], gamma.tobytes()),
        "bn1.running_mean": ("F16", [4], gamma.astype(np.float16).tobytes()),
        "bn1.num_batches_tracked": ("I64", [], bytes(8)),
        "fc.weight": ("BF16", [2, 1], b"\x80\x3f\x00\xc0"),
    }
    got = weights.read(written(tmp_path, safetensors(entries, format="pt"), "model.safetensors"))
    assert list(got) == ["conv1/weights", "bn1/gamma", "bn1/moving_mean", "fc/weights"]
    np.testing.assert_array_equal(got["conv1/weights"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(got["bn1/gamma"], gamma)
    np.testing.assert_array_equal(got["bn1/moving_mean"], gamma.astype(np.float16))
    np.testing.assert_array_equal(got["fc/weights"], np.float32([[1.0, -2.0]]))


def test_what_is_written_comes_back_to_the_bit(tmp_path):
    arrays = {
        "conv1/weights": normal(5, 5, 3, 4),
        "conv1/biases": normal(4).astype(np.float16),
        "fc8/weights": np.asfortranarray(normal(6, 7)),
        "none": np.zeros((0, 3), np.float32),
        "steps": np.array(7, np.int64),
    }
    path = str(tmp_path / "x.safetensors")
    weights.save(path, arrays)
    got = weights.read(path)
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got[name], array)
    assert struct.unpack("<Q", Path(path).read_bytes()[:8])[0] % 8 == 0


@pytest.mark.parametrize("size", [0x80, 0x4B50, 0x0A00, 0x120A])
def test_a_size_that_looks_like_another_format(tmp_path, size):
    """0x80 begins a pickle, PK a zip archive and a line break a .caffemodel."""
    content = safetensors({"x": F4})
    (length,) = struct.unpack("<Q", content[:8])
    content = struct.pack("<Q", size) + content[8:-4] + b" " * (size - length) + bytes(4)
    assert list(weights.read(written(tmp_path, content))) == ["x"]


def test_a_type_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="x is of type complex64"):
        weights.save(str(tmp_path / "x.safetensors"), {"x": np.zeros(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack("<Q", 99) + b"{}", "in the middle of its table"),
        (struct.pack("<Q", 2) + b"{]", "no JSON"),
        (struct.pack("<Q", 2) + b"{}", "no arrays"),
        (struct.pack("<Q", 7) + b'{"x":1}', "entry of 'x' is not"),
        (safetensors({"x": F4})[:-1], "in the middle of 'x'"),
        (safetensors({"x": ("F32", [2], bytes(4))}), "does not fill 4 bytes"),
        (safetensors({"x": ("F128", [1], bytes(4))}), "of type F128"),
        (safetensors({"x": F4, "y": F4}).replace(b"[4, 8]", b"[0, 4]"), "does not begin where"),
        (safetensors({"x": ("F32", [-1], bytes(4))}), "entry of 'x' is not"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, content, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        weights.read(written(tmp_path, content, "x.safetensors"))
    assert str(refusal.value).isprintable()

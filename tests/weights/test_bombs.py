"""Small files that ask for much: memory, by what they unpack to or what their text describes, or time."""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, weights
from barenets.train import data
from barenets.weights import files, tf_checkpoint
from tests import caffe
from tests.train.forms import idx
from tests.weights.mutations import varint
from tests.weights.reader import Reader
from tests.weights.test_caffemodel import safetensors
from tests.weights.test_npy import header
from tests.weights.test_tf_checkpoint import entry, masked, table

GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
    ("size", "stored", "fits"),
    [
        (GIBIBYTE, 1, True),
        (GIBIBYTE + 1, 1, False),
        (GIBIBYTE + 1, GIBIBYTE // 100, False),
        (100 * GIBIBYTE, GIBIBYTE, True),
        (100 * GIBIBYTE + 1, GIBIBYTE, False),
    ],
)
def test_what_may_be_unpacked(size: int, stored: int, fits: bool) -> None:
    if fits:
        files.check_unpacked(size, stored)
    else:
        with pytest.raises(UserError, match=f"claim to unpack to {size:,}, as no weights or pictures do"):
            files.check_unpacked(size, stored)


def h5(path: Path, arrays: int, **options: object) -> str:
    """One array of zeros, 1 MiB, 4 chunks, under several names: hard links."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [f"w{i}".encode() for i in range(arrays)]
        group.create_dataset("w0", data=np.zeros(1 << 18, np.float32), chunks=(1 << 16,), **options)
        for i in range(1, arrays):
            group[f"w{i}"] = group["w0"]
    return str(path)


def compressed_npz(path: Path) -> str:
    np.savez_compressed(path, x=np.zeros((1 << 12, 16, 16), np.uint8), y=np.zeros(1 << 12, int))
    return str(path)


def zipped_mnist(path: Path) -> str:
    (path.parent / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(1 << 12, np.uint8))))
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 1 << 12, 16, 16) + bytes(1 << 20)))
    return str(path)


@pytest.mark.parametrize(
    ("read", "write", "name"),
    [
        (weights.read, lambda path: h5(path, 1, compression="gzip"), "a.h5"),
        (weights.read, lambda path: h5(path, 5), "a.h5"),
        (weights.read, compressed_npz, "a.npz"),
        (data.read, compressed_npz, "a.npz"),
        (data.read, zipped_mnist, "train-images-idx3-ubyte.gz"),
    ],
    ids=["h5", "h5, of one array many times", "npz", "npz of pictures", "idx"],
)
def test_what_unpacks_is_bounded(
    read: Callable, write: Callable, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a bound that is lower here, so that the files can be small, and where it lies above them they are read."""
    path = write(tmp_path / name)
    monkeypatch.setattr(files, "_DENSEST", 0)
    monkeypatch.setattr(files, "_MODEST", 8 << 20)
    assert len(read(path))
    monkeypatch.setattr(files, "_MODEST", 1_000_000)
    with pytest.raises(UserError, match=r"claim to unpack to 1,\d{3},\d{3}, as no weights or pictures do") as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")


def npz_of_two_gibibytes() -> bytes:
    """By their claims; there is a megabyte of each."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(2):
            archive.writestr(f"a{i}.npy", header(f"({1 << 28},)") + bytes(1 << 20))
    content = bytearray(file.getvalue())
    at = content.index(b"PK\1\2")
    while content[at : at + 4] == b"PK\1\2":
        content[at + 24 : at + 28] = struct.pack("<I", 1 << 30)
        at += 46 + sum(struct.unpack_from("<3H", content, at + 28))
    return bytes(content)


def nested(kind: bytes) -> bytes:
    text = b'{"a":' + kind * 100_000 + b"}"
    return struct.pack("<Q", len(text)) + text


TABLE = json.dumps({"a": [[]] * 1_000_000}).encode()
BOMBS: dict[str, Callable[[], bytes]] = {
    "an .npz of two gibibytes": npz_of_two_gibibytes,
    "a .safetensors of a million lists": lambda: struct.pack("<Q", len(TABLE)) + TABLE,
    "a .safetensors of nested lists": lambda: nested(b"["),
    "a .safetensors of nested objects": lambda: nested(b'{"a":'),
    "a .safetensors of a number": lambda: nested(b"9"),
    "a .safetensors whose table claims 90 MB": lambda: struct.pack("<Q", 90_000_000) + b"{" + bytes(1000),
    # Protobuf's bombs: what is said in two bytes, within the schema and beyond it.
    "a .caffemodel of empty layers": lambda: varint(100 << 3 | 2) + b"\0" + caffe._field(100, b"\x3a\0" * 100_000),
    "a .caffemodel of nested messages": lambda: nested_messages(100),
    "a .caffemodel of unknown groups": lambda: b"\x0a\x01a" + b"\x0b" * 100_000,
    "a .caffemodel with a length of 2^70": lambda: b"\x0a\x01a\xa2\x06" + b"\xff" * 9 + b"\x7f" + bytes(100),
    "a .caffemodel with a number without end": lambda: b"\x0a\x01a\xa0\x06" + b"\xff" * 100_000,
    "a .caffemodel of packed sides": lambda: caffe._field(
        100, caffe._field(7, caffe._field(7, caffe._field(1, b"\1" * 100_000)))
    ),
}


def nested_messages(number: int) -> bytes:
    content = b""
    for _ in range(5_000):
        content = caffe._field(number, content)
    return content


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused(case: str, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(BOMBS[case]())
    outcome = reader.read(path)
    assert (outcome.sound, outcome.kind) == (True, "UserError"), outcome
    assert outcome.text.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("nodes", "reason"), [(3_000_000, "its graph of objects has 6,000,0"), (1_000_000, "no arrays")]
)
def test_graph_of_many_objects(nodes: int, reason: str, reader: Reader, tmp_path: Path) -> None:
    """Each in two bytes of the file, and a hundred of memory."""
    graph = b"\x0a\0" * nodes
    content = varint(len(graph)) + bytes(4) + graph
    described = b"\x08\x07\x28" + varint(len(content)) + b"\x35" + masked(content)
    block = entry(b"", b"\x08\1") + entry(b"_CHECKPOINTABLE_OBJECT_GRAPH", described)
    (tmp_path / "x.index").write_bytes(table(block + bytes(4) + b"\1\0\0\0"))
    (tmp_path / "x.data-00000-of-00001").write_bytes(content)
    outcome = reader.read(tmp_path / "x")
    assert (outcome.sound, outcome.kind) == (True, "UserError"), outcome
    assert reason in outcome.text


def test_config_of_many_lists(reader: Reader, tmp_path: Path) -> None:
    """A `.keras` whose config.json is too much is read without it, as one that has none."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content["layers/conv2d/vars/0"] = np.ones((2, 2, 1, 3), np.float32)
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", TABLE)
        archive.writestr("model.weights.h5", file.getvalue())
    outcome = reader.read(path)
    assert (outcome.sound, outcome.kind) == (True, "arrays"), outcome


def test_safetensors_of_the_largest_network_fits() -> None:
    names = {f"layer4.{i}.downsample.{i}.running_mean.{i}": ("F32", [1], bytes(4)) for i in range(2000)}
    assert int.from_bytes(safetensors(names)[:8], "little") < files._LARGEST_JSON / 4


def test_graph_of_the_largest_network_fits(tmp_path: Path) -> None:
    """ResNet-152 has 777 variables, and as many again of an optimizer's with each slot; here are 300."""
    root = tf.Module()
    root.layers = [tf.Variable(0.0) for _ in range(300)]
    tf.train.Checkpoint(model=root).write(str(tmp_path / "x"))
    graph = tf.train.load_checkpoint(str(tmp_path / "x")).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    assert 10 * len(graph) < tf_checkpoint._LARGEST_GRAPH / 4

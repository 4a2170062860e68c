"""TensorFlow's checkpoints: what TensorFlow writes is read to the bit, and damage is refused in one line."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, weights
from barenets.weights import tables
from tests import caffe
from tests.weights.mutations import varint

TYPES = ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def normal(*shape: int, dtype: str = "f4") -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 9 + ("u" not in dtype) * -5).astype("i4").astype(dtype)


def save_v1(path: str, arrays: dict[str, Any]) -> str:
    tf.raw_ops.Save(filename=path, tensor_names=list(arrays), data=list(map(tf.constant, arrays.values())))
    return path


def save_v2(path: str, arrays: dict[str, Any], slices: list[str] | None = None) -> str:
    tensors = list(map(tf.constant, arrays.values()))
    slices = slices or [""] * len(arrays)
    tf.raw_ops.SaveV2(prefix=path, tensor_names=list(arrays), shape_and_slices=slices, tensors=tensors)
    return path


def masked(data: bytes) -> bytes:
    """As TensorFlow keeps a checksum."""
    crc = tables.crc32c(memoryview(data))
    return struct.pack("<I", ((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF)


def entry(key: bytes, value: bytes) -> bytes:
    return b"\0" + varint(len(key)) + varint(len(value)) + key + value


NONE = bytes(4) + b"\1\0\0\0"
"""Where the entries of a block begin: one at 0."""


def table(block: bytes, compression: int = 0, place: bytes | None = None) -> bytes:
    """The sorted table of one block, with sound places and checksums."""
    place = varint(0) + varint(len(block)) if place is None else place
    content, places = b"", []
    for part, kind in ((block, compression), (NONE, 0), (entry(b"\xff", place) + NONE, 0)):
        places.append(varint(len(content)) + varint(len(part)))
        part += bytes([kind])
        content += part + masked(part)
    return content + (places[1] + places[2]).ljust(40, b"\0") + tables.END


@pytest.mark.parametrize("save", [save_v1, save_v2])
def test_what_tensorflow_writes(tmp_path: Path, save: Any) -> None:
    arrays: dict[str, Any] = {f"net/{dtype}": normal(3, 4, dtype=dtype) for dtype in TYPES}
    if save is save_v1:  # which has no such types
        del arrays["net/u4"], arrays["net/u8"]
    arrays |= {"net/scalar": np.float32(3), "net/large": normal(129, 513), "net/none": np.zeros((0, 3), "f4")}
    path = save(str(tmp_path / "model.ckpt"), arrays | {"global_step": 7, "net/switch": True, "net/name": "text"})
    got = weights.read(path)
    assert list(got) == sorted(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)
        assert not got[name].flags.writeable


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = tf.constant([1, -2.5, 3e38], tf.bfloat16)
    got = weights.read(save_v2(str(tmp_path / "x"), {"a/b": values}))["a/b"]
    np.testing.assert_array_equal(got, tf.cast(values, tf.float32))


def test_several_files_of_data(tmp_path: Path) -> None:
    parts = [save_v2(str(tmp_path / name), {f"net/{name}": normal(5)}) for name in "ab"]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "whole"))
    assert list(weights.read(str(tmp_path / "whole"))) == ["net/a", "net/b"]
    assert list(weights.read(str(tmp_path / "whole.index"))) == ["net/a", "net/b"]
    (tmp_path / "whole.data-00001-of-00002").unlink()
    with pytest.raises(UserError, match=r"whole: refused .*whole\.data-00001-of-00002: there is no such file"):
        weights.read(str(tmp_path / "whole"))


@pytest.mark.parametrize("count", [2, pytest.param(3000, marks=pytest.mark.slow)])  # the larger has several blocks
def test_objects(tmp_path: Path, count: int) -> None:
    root = tf.Module()
    root.layers = [tf.Variable(normal(1) + i) for i in range(count)]
    path = tf.train.Checkpoint(model=root).save(str(tmp_path / "c"))
    for source in (path, str(tmp_path)):
        got = weights.read(source)
        assert len(got) == count  # and no count of saves
        np.testing.assert_array_equal(got[f"layers/{count - 1}"], normal(1) + count - 1)


def test_a_variable_in_pieces_is_refused(tmp_path: Path) -> None:
    arrays = {"net/a": normal(2, 3)}
    path = save_v2(str(tmp_path / "x"), arrays, ["4 3 0,2:0,3"])
    with pytest.raises(UserError, match=r"x: refused as a checkpoint, it keeps 'net/a' in pieces"):
        weights.read(path)


@pytest.mark.parametrize("save", [save_v1, save_v2])
def test_a_flipped_bit_is_refused_or_the_same(tmp_path: Path, save: Any) -> None:
    array, faults = normal(3, 4), []
    path = save(str(tmp_path / "x"), {"net/a": array})
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for bit in range(0, 8 * len(whole), 7):
            file.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
            try:
                got = weights.read(path)
            except UserError as error:
                faults += [] if str(error).startswith(f"{path}: ") and str(error).isprintable() else [str(error)]
            else:
                np.testing.assert_array_equal(got["net/a"], array)
        file.write_bytes(whole)
    assert not faults


HEADER = entry(b"", b"\x08\x01")
SHAPE = caffe._field(2, caffe._field(2, b"\x08\x02"))
DATA = np.array([1, 2], "<f4").tobytes()


def bundle(**fields: int) -> bytes:
    """A BundleEntryProto of two float32 at the start of the data."""
    numbers = {1: 1, 5: 8} | {int(name[1:]): value for name, value in fields.items()}
    return SHAPE + b"".join(varint(number << 3) + varint(value) for number, value in numbers.items())


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (HEADER + entry(b"a", bundle(_5=1 << 40)), "'a' lies beyond the end"),
        (HEADER + entry(b"a", bundle(_4=(1 << 64) - 8)), "'a' lies beyond the end"),
        (HEADER + entry(b"a", bundle(_3=9)), "keeps 'a' in file 9 of 1"),
        (HEADER + entry(b"a", bundle(_5=4)), r"'a' of shape \(2,\) and type float32 does not fill 4 bytes"),
        (HEADER + entry(b"a", bundle() + caffe._field(2, caffe._field(2, b"\x08" + varint(1 << 62)))), "does not fill"),
        (HEADER + entry(b"a", bundle(_5=0) + caffe._field(2, b"\x12\x00\x12\x0a\x08" + varint(1 << 62))), "of shape"),
        (HEADER + entry(b"a", bundle() + b"\x35abcd"), "'a' of it is damaged: its checksum is wrong"),
        (HEADER + entry(b"a", bundle()) + entry(b"b", bundle()), "its arrays overlap"),
        (HEADER + entry(b"b", bundle()) + entry(b"a", bundle()), "its keys are not in order"),
        (HEADER + entry(b"a\n", bundle(_1=99)), "holds no arrays"),
        (HEADER + b"\x05\x01\x00a", "an entry of its table is damaged"),
        (HEADER + b"\x00\xff\xff\x7f\x00a", "an entry of its table is damaged"),
    ],
)
def test_damage_under_sound_checksums(tmp_path: Path, block: bytes, reason: str) -> None:
    """TensorFlow's own reader ends the process on some of these."""
    (tmp_path / "x.index").write_bytes(table(block + NONE))
    (tmp_path / "x.data-00000-of-00001").write_bytes(DATA)
    with pytest.raises(UserError, match=f"x: refused as a checkpoint, .*{reason}") as refusal:
        weights.read(str(tmp_path / "x"))
    assert str(refusal.value).isprintable()


def test_compressed_tables(tmp_path: Path) -> None:
    block = HEADER + entry(b"a", bundle()) + NONE
    literal = varint(len(block)) + bytes([len(block) - 1 << 2]) + block
    again = varint(len(block) + 1) + bytes([60 << 2, len(block) - 1]) + block + b"\x00\x00"  # one byte more
    (tmp_path / "x.data-00000-of-00001").write_bytes(DATA)
    (tmp_path / "x.index").write_bytes(table(literal, 1))
    np.testing.assert_array_equal(weights.read(str(tmp_path / "x"))["a"], [1, 2])
    assert bytes(tables._unsnapped(memoryview(again))) == block + b"\0"
    assert bytes(tables._unsnapped(memoryview(b"\x0a\x04ab\x11\x02"))) == b"abababababab"[:10]
    assert bytes(tables._unsnapped(memoryview(b"\x05\x04ab\x0a\x02\x00"))) == b"ababa"
    for damaged, reason in ((b"\x05\x04ab\x0a\x03\x00", "repeats what was not"), (b"\x09\x04ab", "unpacks to 2 bytes")):
        (tmp_path / "x.index").write_bytes(table(damaged, 1))
        with pytest.raises(UserError, match=reason):
            weights.read(str(tmp_path / "x"))


@pytest.mark.parametrize("text", [b"\xff\xfe", b"model_checkpoint_path: 3", b"{{{", b'model_checkpoint_path: "\n'])
def test_a_damaged_list_of_checkpoints(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "checkpoint").write_bytes(text)
    with pytest.raises(UserError, match=r"is a folder|is no list") as refusal:
        weights.read(str(tmp_path))
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("size", [*range(70), 16383, 16384, 16385, 100_001])
def test_checksum(size: int) -> None:
    data, crc = np.random.default_rng(size).bytes(size), 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    assert tables.crc32c(memoryview(data)) == crc ^ 0xFFFFFFFF

"""Reading and writing .npy and .npz, with `np.load(allow_pickle=True)` as the independent reference."""

import collections
import io
import mmap
import os
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy_format

from barenets import UserError
from barenets.weights import read, save
from barenets.weights.npy import read_npy, read_npz
from tests.weights import python2
from tests.weights.reader import digest

Arrays = dict[str, np.ndarray]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


W, B = normal(3, 3, 16, 32), normal(32, seed=1)
SCALE, SHIFT = normal(32, seed=2), normal(32, seed=3)

LAYOUTS: dict[str, tuple[dict[str, Any], Arrays]] = {
    "list": ({"conv1": [W, B], "fc8": [B]}, {"conv1/weights": W, "conv1/biases": B, "fc8/weights": B}),
    "tuple": ({"conv1": (W, B)}, {"conv1/weights": W, "conv1/biases": B}),
    "named": (
        {"conv10": {"biases": B, "weights": W}, "0": {"weights": SCALE}},
        {"conv10/weights": W, "conv10/biases": B, "0/weights": SCALE},
    ),
    "batch norm": (
        {"bn_conv1": {"mean": B, "variance": W[0, 0], "scale": SCALE, "offset": SHIFT}},
        {
            "bn_conv1/moving_mean": B,
            "bn_conv1/moving_variance": W[0, 0],
            "bn_conv1/gamma": SCALE,
            "bn_conv1/beta": SHIFT,
        },
    ),
    "ints": (
        {"conv1_1": {0: W, 1: B}, "scale": {0: B}},
        {"conv1_1/weights": W, "conv1_1/biases": B, "scale/weights": B},
    ),
}


def boxed(content: Any, protocol: int) -> bytes:
    """What np.save wrote over the years: a 0-d object array, in the protocol of the day."""
    file = io.BytesIO()
    npy_format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + pickle.dumps(np.array(content, dtype=object), protocol)


def saved(content: Any, _: int = 0) -> bytes:
    file = io.BytesIO()
    np.save(file, content)
    return file.getvalue()


def with_bytes(content: Any) -> Any:
    """The same with the keys that Python 2 has."""
    if not isinstance(content, dict):
        return list(content) if isinstance(content, tuple) else content
    return {k.encode() if isinstance(k, str) else k: with_bytes(v) for k, v in content.items()}


FORMS: dict[str, Callable[[Any], bytes]] = {
    "np.save": saved,
    "python2": lambda content: python2.npy(with_bytes(content)),
    "python2 bare": lambda content: python2.bare(with_bytes(content)),
    **{f"npy {p}": lambda content, p=p: boxed(content, p) for p in range(6)},
    **{f"npy {p} bytes": lambda content, p=p: boxed(with_bytes(content), p) for p in (2, 3, 4, 5)},
    **{f"bare {p}": lambda content, p=p: pickle.dumps(content, p) for p in (2, 3, 4, 5)},
}


def assert_same(actual: Arrays, expected: Arrays) -> None:
    """Names, shapes, types and bits; the order of bytes in memory is the file's own affair."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        assert actual[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def write(folder: Path, data: bytes, name: str = "weights.npy") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def refused(data: bytes, folder: Path, match: str | None = None, name: str = "weights.npy") -> str:
    path = write(folder, data, name)
    with pytest.raises(UserError, match=match) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), message  # one line, and no control characters
    return message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_every_form(layout: str, form: str, tmp_path: Path) -> None:
    content, expected = LAYOUTS[layout]
    if form == "npy 0":  # text, a line for each array: small ones only
        content, expected = {"conv1": [B, SCALE]}, {"conv1/weights": B, "conv1/biases": SCALE}
    path = write(tmp_path, FORMS[form](content))
    assert_same(read(path), expected)
    if "bare" not in form:
        layers = np.load(path, allow_pickle=True, encoding="bytes").item().values()
        reference = [array for layer in layers for array in (layer.values() if isinstance(layer, dict) else layer)]
        for theirs, ours in zip(reference, read(path).values(), strict=True):
            np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize("form", ["np.save", "python2", "npy 2", "npy 5", "bare 2", "bare 5"])
@pytest.mark.parametrize(
    "array",
    {
        "float16": normal(3, 4, dtype="f2"),
        "float64": normal(3, 4, dtype="f8"),
        "int32": np.arange(6, dtype="i4").reshape(2, 3),
        "uint8": np.arange(6, dtype="u1"),
        "bool": np.array([True, False]),
        "big-endian": normal(3, 4, dtype=">f4"),
        "Fortran": np.asfortranarray(normal(3, 4, 5)),
        "transposed": normal(3, 4, 5).transpose(1, 2, 0),  # protocol 5 of NumPy 2.3 and later has an order of its own
        "strided": normal(6, 8)[::2, ::-1],
        "no rows": np.zeros((0, 3), "f4"),
        "0-d": np.array(3.5, "f4"),
        "one": normal(1),
        "nan": np.array([np.nan, np.inf, -0.0], "f4"),
        "many sides": np.zeros((1,) * 32, "f4"),
    }.items(),
    ids=lambda item: item[0],
)
def test_arrays(array: tuple[str, np.ndarray], form: str, tmp_path: Path) -> None:
    path = write(tmp_path, FORMS[form]({"x": [array[1]], "y": [B]}))
    assert_same(read(path), {"x/weights": array[1], "y/weights": B})


@pytest.mark.parametrize("form", ["np.save", "python2", "npy 3", "npy 5", "bare 4"])
def test_arrays_are_windows_into_the_map(form: str, tmp_path: Path) -> None:
    big = normal(200, 300)
    array = read(write(tmp_path, FORMS[form]({"fc6": [big]})))["fc6/weights"]
    base = array
    while isinstance(base, np.ndarray):
        assert not base.flags.owndata
        assert not base.flags.writeable
        base = base.base
    assert isinstance(base, memoryview)
    assert isinstance(base.obj, mmap.mmap)


def test_ordered_dicts(tmp_path: Path) -> None:
    for protocol in range(2, 6):
        content = collections.OrderedDict([("b", [W]), ("a", [B])])
        arrays = read(write(tmp_path, pickle.dumps(content, protocol)))
        assert list(arrays) == ["b/weights", "a/weights"]
    # Python 2 gave the pairs to the constructor.
    pairs = b"\x80\x02ccollections\nOrderedDict\n](](U\x01a" + python2.bare([B])[2:-1] + b"ee\x85R."
    assert_same(read(write(tmp_path, pairs)), {"a/weights": B})


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_is_no_dict_of_arrays_is_named(protocol: int, tmp_path: Path) -> None:
    for content, match in (
        ({"c": [np.float32(3)]}, "float32 at 'c/weights'"),
        ({"c": {"weights": "text"}}, "str at 'c/weights'"),
        ({"c": [None, B]}, "NoneType at 'c/weights'"),
        ({"c": 1.5}, "float at 'c'"),
        ({"c": [normal(2, dtype="c8")]}, "complex64"),
        ({"c": [np.array(["text"])]}, "not numeric"),
        ({"c": [np.zeros(2, "f4,i4")]}, None),
        ({"c": [B], b"c": [B]}, "c/weights'? twice"),
        ({"c": {"W": B, "weights": B}}, "c/weights'? twice"),
        ({}, "no arrays"),
        ({"c": []}, "no arrays"),
        ([B, B], "list"),
        ("text", "str"),
        (None, "NoneType"),
    ):
        refused(pickle.dumps(content, protocol), tmp_path, match)


def test_other_npy_files_are_refused(tmp_path: Path) -> None:
    refused(saved(W), tmp_path, r"one float32 array of shape \(3, 3, 16, 32\)")
    refused(saved(np.array([{"a": 1}, None], object)), tmp_path, r"one object array of shape \(2,\)")
    refused(b"\x93NUMPY\x01\x00\xff\xff{", tmp_path, "header")
    refused(b"\x93NUMPY\x07\x00\x01\x00\x00\x00{", tmp_path, "header")
    refused(b"\x93NUMPY", tmp_path, "header")
    refused(b"not weights at all", tmp_path, "no weight file")
    refused(pickle.dumps({"c": [B]}, 0), tmp_path, "no weight file")
    with pytest.raises(UserError, match=r"no sound \.npz"):
        read_npz(write(tmp_path, b"PKnothing"))
    with pytest.raises(UserError, match="refused"):
        read_npy(write(tmp_path, b"PKnothing"))


def test_header_that_is_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    # NumPy's own message for it has several lines.
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }" + b" " * 20_000 + b"\n"
    refused(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"N.", tmp_path, "header")


def test_text_pickle_of_a_large_array_is_refused_clearly(tmp_path: Path) -> None:
    refused(boxed({"c": [W]}, 0), tmp_path, "line")


@pytest.mark.parametrize("form", ["np.save", "python2", "npy 5", "bare 2"])
def test_truncated_npy(form: str, tmp_path: Path) -> None:
    data = FORMS[form](LAYOUTS["named"][0])
    for eighths in range(1, 8):
        refused(data[: len(data) * eighths // 8], tmp_path)
    refused(data[:-1], tmp_path)


# .npz


def npz(write: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    write(file, **arrays)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("weights", "biases"),
    [
        ("conv1/weights", "conv1/biases"),
        ("conv1_W", "conv1_b"),
        ("conv1/W:0", "conv1/b:0"),
        ("conv1/kernel:0", "conv1/bias:0"),
        ("conv1_weights", "conv1_biases"),
        ("conv1/0", "conv1/1"),
    ],
)
def test_npz_names(weights: str, biases: str, writer: Any, tmp_path: Path) -> None:
    path = write(tmp_path, npz(writer, **{weights: W, biases: B}))
    assert_same(read(path), {"conv1/weights": W, "conv1/biases": B})


def test_npz_names_stay_where_they_are_canonical(tmp_path: Path) -> None:
    names = ["bn_conv1/gamma", "bn_conv1/moving_mean", "scale", "inception_4a/conv_1/weights", "step_size"]
    arrays = {name: normal(3, seed=i) for i, name in enumerate(names)}
    assert_same(read(write(tmp_path, npz(**arrays))), arrays)


def test_of_a_checkpoint_only_the_weights_are_read(tmp_path: Path) -> None:
    state = np.frombuffer(b"{}", "u1")
    arrays = {"c/weights": W, "optimizer/velocity/c/weights": B, "state.json": state}
    assert_same(read(write(tmp_path, npz(**arrays))), {"c/weights": W})


def test_missing_archive_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read_npz(str(tmp_path / "none.npz"))
    assert str(raised.value) == f"{tmp_path / 'none.npz'}: there is no such file"


def header(shape: str, spaces: int = 0) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}{' ' * spaces}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def encrypted(data: bytes) -> bytes:
    """The same archive, whose directory says that its first member is encrypted."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + b"\x01" + data[at + 1 :]


@pytest.mark.parametrize(
    "case",
    {
        "objects": (npz(c=np.array({"a": 1}, object)), "allow_pickle|object"),
        "no members": (npz(), "no arrays"),
        "not a zip": (b"PK and then nothing", None),
        "twice": (npz(conv1_W=W, **{"conv1/weights": W}), "twice"),
        "a text file": (archive(**{"readme.txt": b"hello"}), "readme.txt"),
        "a model of PyTorch": (archive(**{"m/data.pkl": b"\x80\x02}.", "m/data/0": bytes(64)}), None),
        "4 TiB": (archive(**{"c.npy": header("(1099511627776,)")}), None),
        "a side beyond int64": (archive(**{"c.npy": header(f"({2**70},)")}), None),
        "a product beyond int64": (archive(**{"c.npy": header("(4611686018427387904, 4)")}), None),
        "a negative side": (archive(**{"c.npy": header("(-1,)")}), None),
        "an open bracket": (archive(**{"c.npy": header("((")}), None),
        "a long header": (archive(**{"c.npy": header("(1,)", spaces=20_000) + bytes(4)}), None),
        "a short array": (archive(**{"c.npy": header("(9,)") + bytes(4)}), None),
        "text": (npz(fc8_b=np.array(["x", "y"])), "'fc8_b' is of <U1, which is no number"),
        "text among averages": (
            npz(**{"fc8/biases": np.ones(2), "optimizer/averages/fc8/biases": np.array(["x", "y"])}),
            "is of <U1, which is no number",
        ),
        "dates": (npz(fc8_b=np.zeros(2, "M8[s]")), "which is no number"),
        "an encrypted member": (encrypted(npz(c=W)), "encrypted"),
    }.items(),
    ids=lambda item: item[0],
)
def test_npz_refused(case: tuple[str, tuple[bytes, str | None]], tmp_path: Path) -> None:
    data, match = case[1]
    refused(data, tmp_path, match, "weights.npz")


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_truncated_npz(writer: Any, tmp_path: Path) -> None:
    data = npz(writer, **{"c/weights": W, "c/biases": B})
    for eighths in range(1, 8):
        refused(data[: len(data) * eighths // 8], tmp_path, name="weights.npz")


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_with_a_flipped_bit_is_refused_or_the_same(writer: Any, tmp_path: Path) -> None:
    arrays = {"c/weights": normal(4, 4)}
    data = npz(writer, **arrays)
    faults = set()
    for bit in range(0, 8 * len(data), 3):  # prime to 8: every byte, and each place in a byte
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            same = digest(read(write(tmp_path, bytes(flipped)))) == digest(arrays)
            faults |= set() if same else {f"bit {bit}: other arrays"}
        except UserError as error:
            faults |= set() if str(error).isprintable() else {str(error)}
        except Exception as error:
            faults.add(repr(error)[:150])
    assert not faults


def test_checksum_covers_an_array_that_its_header_makes_shorter(tmp_path: Path) -> None:
    # NumPy stops reading where the header says that the array ends: no checksum is compared there.
    data = npz(c=normal(100_000)).replace(b"(100000,)", b"(000001,)").replace(b"(000001,)", b"( 10000,)")
    refused(data, tmp_path, name="weights.npz")


# Writing


@pytest.fixture
def full_disk() -> Iterator[None]:
    """A file may have 64 KiB; the kernel refuses more as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("ending", ["npz", "npy"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", ">f4", "?"])
def test_written_and_read_to_the_bit(ending: str, dtype: str, tmp_path: Path) -> None:
    arrays = {
        "conv1/weights": normal(3, 4, 5, 6),
        "conv1/biases": B[:0],
        "b/fc8/weights": W.transpose(3, 2, 1, 0),
    }
    arrays = {name: array.astype(dtype, order="K") for name, array in arrays.items()}
    arrays["conv1/weights"].flat[:3] = [np.nan, np.inf, -0.0] if "f" in dtype else 1
    path = str(tmp_path / "a.folder" / f"weights.{ending}")  # made on the way
    save(path, arrays)
    assert_same(read(path), arrays)
    assert os.listdir(tmp_path / "a.folder") == [f"weights.{ending}"]
    theirs = np.load(path, allow_pickle=ending == "npy")
    if ending == "npy":
        layers = theirs.item()
        theirs = {f"{k}/{n}": a for k, v in layers.items() for n, a in zip(("weights", "biases"), v, strict=False)}
    assert_same({name: theirs[name] for name in theirs}, arrays)


def test_names_that_are_options_of_savez(tmp_path: Path) -> None:
    arrays = {"file": B, "allow_pickle": B}
    save(str(tmp_path / "a.npz"), arrays)
    assert_same(read(str(tmp_path / "a.npz")), arrays)


@pytest.mark.parametrize("name", ["bn/gamma", "conv1/extra", "biases", "weights", "c/biases"])
def test_npy_has_no_place_for_other_names(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    with pytest.raises(UserError, match=rf"no place for {name}; write a \.npz"):
        save(path, {"conv1/weights": W, name: B})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["weights.h5", "weights", "weights.NPZ.txt"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"written as \.npz, \.npy, \.safetensors"):
        save(str(tmp_path / name), {"c/weights": W})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_full_disk_leaves_what_was_there(ending: str, tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="cannot be written") as raised:
        save(str(path), {"c/weights": normal(400, 400)})
    assert str(raised.value).isprintable()
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_unwritable_folder(ending: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for folder in (tmp_path / "file", Path("/proc/none")):  # of these not even root makes a folder
        path = str(folder / f"weights.{ending}")
        with pytest.raises(UserError, match="cannot be written") as raised:
            save(path, {"c/weights": W})
        assert str(raised.value).startswith(path)
        assert str(raised.value).isprintable()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_npz_of_equal_arrays_are_equal_files(tmp_path: Path) -> None:
    """Those of torch and Caffe are transposed views; the order in memory and of bytes must not show."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    made = [{"a/weights": a} for a in (array, array.T.copy().T, array.astype(">f4"))]
    for i, arrays in enumerate(made):
        save(str(tmp_path / f"{i}.npz"), arrays)
    assert len({(tmp_path / f"{i}.npz").read_bytes() for i in range(3)}) == 1
    scalar = {"a/step": np.float64(7)}
    save(str(tmp_path / "scalar.npz"), scalar)
    assert read(str(tmp_path / "scalar.npz"))["a/step"].shape == ()

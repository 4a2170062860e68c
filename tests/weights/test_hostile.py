"""Files that mean harm, or that harm has come to: each loads or is refused in one line, and no code runs."""

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from barenets.weights.rename import canonical
from tests import caffe
from tests.weights.mutations import varint
from tests.weights.reader import EXTENSION, Reader
from tests.weights.test_caffemodel import safetensors, v1
from tests.weights.test_npy import boxed, header, normal, npz, saved
from tests.weights.test_torch import before_1_6, state_dict, tensor

P2, P4 = b"\x80\x02", b"\x80\x04"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def stack_name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def array(shape: bytes, data: bytes = bytes(8), kind: bytes = b"U\x02f4", order: bytes = b"U\x01<") -> bytes:
    """A float32 array, each part of it given as opcodes."""
    dtype = (
        name("numpy", "dtype") + kind + b"\x89\x88\x87R(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"


def layer(value: bytes) -> bytes:
    """The pickle of {b"c": value}."""
    return P2 + b"}U\x01c" + value + b"s."


SYSTEM = name("os", "system")
ENCODE = name("_codecs", "encode")
DTYPE = name("numpy", "dtype") + b"U\x02f4\x89\x88\x87R"
ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"

# Each asks for `command` to be run; `python` is the same for eval and exec.
CODE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "os.system": lambda command, python: P2 + SYSTEM + command + b"\x85R.",
    "posix.system": lambda command, python: P2 + name("posix", "system") + command + b"\x85R.",
    "builtins.eval": lambda command, python: P2 + name("builtins", "eval") + python + b"\x85R.",
    "__builtin__.eval": lambda command, python: P2 + name("__builtin__", "eval") + python + b"\x85R.",
    "builtins.exec": lambda command, python: P2 + name("builtins", "exec") + python + b"\x85R.",
    "subprocess.Popen": lambda command, python: (
        P2 + name("subprocess", "Popen") + b"(" + command + b"J\xff\xff\xff\xffNNNNN\x88\x88tR."
    ),
    "runstring": lambda command, python: P2 + name("numpy.testing._private.utils", "runstring") + python + b"}\x86R.",
    "protocol 0": lambda command, python: b"}" + SYSTEM + b"(" + command + b"tR.",
    "in a dict of arrays": lambda command, python: layer(SYSTEM + command + b"\x85R"),
    "as a key": lambda command, python: P2 + b"}" + SYSTEM + command + b"\x85RNs.",
    "as a dtype": lambda command, python: layer(array(b"K\x02\x85", kind=SYSTEM + command + b"\x85R")),
    "STACK_GLOBAL": lambda command, python: P4 + stack_name("os", "system") + command + b"\x85R.",
    "STACK_GLOBAL, dotted": lambda command, python: (
        P4 + stack_name("numpy", "ndarray.__class__.__base__") + command + b"\x85R."
    ),
    "STACK_GLOBAL of bytes": lambda command, python: P4 + b"U\x02osU\x06system\x93" + command + b"\x85R.",
    "INST": lambda command, python: P2 + b"(" + command + b"ios\nsystem\n.",
    "OBJ": lambda command, python: P2 + b"(" + SYSTEM + command + b"o.",
    "NEWOBJ": lambda command, python: P2 + name("subprocess", "Popen") + command + b"\x85\x81.",
    "NEWOBJ_EX": lambda command, python: P4 + name("subprocess", "Popen") + command + b"\x85}\x92.",
    "EXT1": lambda command, python: P2 + bytes([0x82, EXTENSION]) + command + b"\x85R.",
    "EXT2": lambda command, python: P2 + b"\x83" + struct.pack("<H", EXTENSION) + command + b"\x85R.",
    "EXT4": lambda command, python: P2 + b"\x84" + struct.pack("<i", EXTENSION) + command + b"\x85R.",
    "EXT4, negative": lambda command, python: P2 + b"\x84" + struct.pack("<i", -1) + command + b"\x85R.",
    "PERSID": lambda command, python: P2 + b"Pos.system\n" + command + b"\x85R.",
    "BINPERSID": lambda command, python: P2 + command + b"Q.",
    "names that break lines": lambda command, python: (
        P4 + stack_name("os\nsystem\r\x1b[2J\u2028", "\x00\x07system") + command + b"\x85R."
    ),
}

KEYED = b"}" + text("__code__") + b"K\x01s"
# Nothing here asks for code by name: it calls or builds what the reader itself put on the stack.
ABUSE: dict[str, bytes] = {
    "BUILD on a function": P2 + ENCODE + KEYED + b"b.",
    "BUILD on a str": P2 + text("a") + KEYED + b"b.",
    "BUILD on the stand-in of ndarray": P2 + name("numpy", "ndarray") + KEYED + b"b.",
    "BUILD on a dict": P2 + b"}" + KEYED + b"b.",
    "BUILD on a list, with slots": P2 + b"]N" + KEYED + b"\x86b.",
    "BUILD of attributes on an array": P2 + ARRAY + b"N}" + text("set_state") + b"K\x01s\x86b.",
    "BUILD of attributes on a dtype": P2 + DTYPE + b"N}" + text("numpy") + b"K\x01s\x86b.",
    "BUILD of the reader's class": P2 + name("barenets.weights.pickles", "Array") + KEYED + b"b.",
    "BUILD with no stack": P2 + b"Nb.",
    "OBJ of a str": P2 + b"(" + name("numpy", "ndarray") + text("a") + b"o.",
    "INST of a function": P2 + b"(" + text("a") + b"i_codecs\nencode\n.",
    "NEWOBJ of a function": P2 + ENCODE + b")\x81.",
    "REDUCE of a str": P2 + text("a") + b")R.",
    "REDUCE of no tuple": P2 + ENCODE + b"K\x05R.",
    "other encodings": P2 + ENCODE + text("a") + text("zip\n") + b"\x86R.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05" + text("a") + b"\x98.",
    "APPENDS to a str": P2 + text("a") + b"(NNe.",
    "SETITEMS of a half": P2 + b"}(Nu.",
    "scalar of objects": P2
    + name("numpy.core.multiarray", "scalar")
    + name("numpy", "dtype")
    + b"U\x02O8\x89\x88\x87RU\x08AAAAAAAA\x86R.",
    "dtype of objects": layer(array(b"K\x01\x85", kind=b"U\x02O8")),
    "dtype of lines": layer(array(b"K\x02\x85", kind=b"U\x04f4\n\x1b")),
    "dtype of fields": layer(array(b"K\x01\x85", kind=b"U\x05f4,f4")),
    "byte order of lines": layer(array(b"K\x02\x85", order=b"U\x03\n<\x1b")),
    "protocol 200": b"\x80\xc8N.",
    "no dict": P2 + b"(K\x01K\x02t.",
    "nothing": P2 + b".",
    "no end": P2 + b"}",
    "name twice, with line breaks": P2
    + b"}U\x03c\n\x1b]"
    + array(b"K\x02\x85")
    + b"as"
    + text("c\n\x1b")
    + b"]"
    + array(b"K\x02\x85")
    + b"as.",
    "strange key": P2 + b"}" + text("c\n\x1b") + b"Ns.",
}


def doubling(start: bytes, depth: int = 64) -> bytes:
    """Opcodes for t = (t, t) over and over: 2^depth parts once it is walked through. Leaves one tuple."""
    return start + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


MEGABYTE = b"T" + struct.pack("<i", 1 << 20) + b"f" * (1 << 20)
MEGATEXT = b"X" + struct.pack("<I", 1 << 20) + b"f" * (1 << 20)
BIG_INT = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000  # LONG4 of 9,632 digits
LENGTHS = {"BINBYTES8": b"\x8e", "BINUNICODE8": b"\x8d", "BYTEARRAY8": b"\x96", "FRAME": b"\x95"}

BOMBS: dict[str, bytes] = {
    **{f"{op} of 2^62": P4 + code + struct.pack("<Q", 1 << 62) + b"abc." for op, code in LENGTHS.items()},
    **{f"{op} of 2^40": P4 + code + struct.pack("<Q", 1 << 40) + b"abc." for op, code in LENGTHS.items()},
    "BINBYTES of 4 GiB": P4 + b"B\xff\xff\xff\xffabc.",
    "BINSTRING of a negative length": P2 + b"T\xff\xff\xff\xffabc.",
    "LONG4 of 2 GiB": P2 + b"\x8b\xff\xff\xff\x7fabc.",
    "LONG4 of a negative length": P2 + b"\x8b\xff\xff\xff\xffabc.",
    "LONG of many digits": P2 + b"L" + b"9" * 4000 + b"L\n.",
    "memo of 2^32": P2 + b"}r\xff\xff\xff\xff0j\xff\xff\xff\xff.",
    "memo never made": P2 + b"h\x07.",
    "deep lists": P2 + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": P2 + b")" + b"\x85" * 100_000 + b".",
    "deep dict": P2 + b"}" + b"U\x01a}" * 100_000 + b"s" * 100_000 + b".",
    "marks": P2 + b"(" * 100_000 + b".",
    "sets": b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
    # Hashing recurses in C, where nothing counts how deep it goes.
    "key of deep tuples": P2 + b"})" + b"\x85" * 150_000 + b"Ns.",
    "key of doubling tuples": P2 + b"}" + doubling(b")") + b"Ns.",
    "keys of doubling tuples": P2 + b"}(" + doubling(b")") + b"Nu.",
    "DICT of doubling tuples": P2 + b"(" + doubling(b")") + b"Nd.",
    "OrderedDict of doubling tuples": P2 + name("collections", "OrderedDict") + b"]" + doubling(b")") + b"N\x86a\x85R.",
    "set of doubling tuples": P4 + b"\x8f(" + doubling(b")") + b"\x90.",
    "frozenset of doubling tuples": P4 + b"(" + doubling(b")") + b"\x91.",
    "dtype of doubling tuples": P2 + name("numpy", "dtype") + doubling(b"]") + b"\x89\x88\x87R.",
    "byte order of doubling tuples": layer(array(b"K\x02\x85", order=doubling(b"]"))),
    "text of doubling tuples": P2 + ENCODE + doubling(b"]") + b"\x85R.",
    "encoding of doubling tuples": P2 + ENCODE + text("a") + doubling(b"]") + b"\x86R.",
    "persistent id of doubling tuples": P2 + doubling(b"]") + b"Q.",
    "order of doubling tuples": P2
    + name("numpy.core.numeric", "_frombuffer")
    + b"(U\x08AAAAAAAA"
    + DTYPE
    + b"K\x02\x85"
    + doubling(b"]")
    + b"tR.",
    # Shared lists: 100^7 ways through a kilobyte.
    "layers of shared lists": P2
    + b"}U\x01c]q\x00"
    + b"".join(b"0]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 100 + b"e" for i in range(1, 8))
    + b"s.",
    "layers of shared arrays": P2
    + b"}U\x01c"
    + array(b"K\x02\x85")
    + b"q\x00"
    + b"".join(b"0]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 100 + b"e" for i in range(1, 7))
    + b"s.",
    "key of many digits": P2 + b"}" + BIG_INT + array(b"K\x02\x85") + b"s.",
    "list in itself": P2 + b"]q\x00h\x00a.",
    "array in itself": P2 + ARRAY + b"q\x00(K\x01)" + DTYPE + b"\x89]h\x00atb.",
    "array in a list in itself": P2 + b"}U\x01c" + ARRAY + b"q\x00(K\x01)" + DTYPE + b"\x89]h\x00atbs.",
    "dict in itself": P2 + b"}q\x00U\x01ch\x00s.",
    "layer in itself": P2 + b"}U\x01c]q\x00h\x00as.",
    # What REDUCE makes of a little, many times over.
    "a thousand texts of a megabyte": P2 + MEGATEXT + b"q\x000](" + (ENCODE + b"h\x00\x85R") * 1000 + b"e.",
    "a thousand dtypes of a megabyte": P2
    + MEGABYTE
    + b"q\x000]("
    + (name("numpy", "dtype") + b"h\x00\x85R") * 1000
    + b"e.",
    "a thousand dicts of ten thousand": P2
    + b"]("
    + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(10_000))
    + b"eq\x000]("
    + (name("collections", "OrderedDict") + b"h\x00\x85R") * 1000
    + b"e.",
    "shape of 100,000 sides": layer(array(b"(" + b"K\xff" * 100_000 + b"t")),
    "shape of a megabyte": layer(array(MEGABYTE)),
    "shape of many digits": layer(array(BIG_INT + b"\x85")),
    "shape beyond int64": layer(array(b"\x8a\x08" + struct.pack("<q", 1 << 62) + b"K\x04\x86", b"")),
    "shape of no numbers and 2^70": layer(array(b"K\x00\x8a\x09" + bytes(8) + b"\x40\x86", b"")),
    "shape that does not fill its bytes": layer(array(b"K\x03\x85")),
    "shape that its bytes do not fill": layer(array(b"K\x01\x85")),
    "negative sides": layer(array(b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86")),
    "a side of text": layer(array(text("2\n") + text("x\n\x1b") + b"\x86")),
    "65 sides": layer(array(b"(" + b"K\x01" * 64 + b"K\x02t")),
}


@pytest.fixture(params=["bare", "npy"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param


def harmless(reader: Reader, data: bytes, folder: Path, form: str = "bare") -> None:
    """Refused in one line that names the file."""
    path = folder / "hostile.npy"
    path.write_bytes(data if form == "bare" else saved(None)[: -len(boxed(None, 4)) or None] + data)
    outcome = reader.read(path)
    assert outcome.sound, outcome
    assert outcome.kind == "UserError", outcome
    assert outcome.text.startswith(f"{path}: ")


@pytest.mark.parametrize("case", CODE)
def test_no_code_runs(case: str, form: str, reader: Reader, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    data = CODE[case](text(f"touch {sentinel}"), text(f"open({str(sentinel)!r}, 'w')"))
    harmless(reader, data, tmp_path, form)
    assert not sentinel.exists()


@pytest.mark.parametrize("case", ABUSE)
def test_abuse_is_refused(case: str, reader: Reader, tmp_path: Path) -> None:
    harmless(reader, ABUSE[case], tmp_path)


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused(case: str, reader: Reader, tmp_path: Path) -> None:
    harmless(reader, BOMBS[case], tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_that_claims_more_than_it_holds(compression: int, reader: Reader, tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("c.npy", header("(900000000,)") + bytes(8))  # 3.6 GB
    harmless(reader, file.getvalue(), tmp_path)


def test_reader_for_these_tests_reads_sound_files(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "sound.npy"
    for data in (layer(array(b"K\x02\x85")), saved({"c": [normal(3)]})):
        path.write_bytes(data)
        outcome = reader.read(path)
        assert outcome.kind == "arrays", outcome
        assert outcome.sound


# Found by damaging files (`tests.weights.test_fuzz`)

EMPTY = (0, 1 << 61)
"""A shape that nothing fills, and which NumPy does not count."""


def empty_caffemodel() -> bytes:
    shape = caffe._field(7, caffe._field(1, b"".join(map(varint, EMPTY))))
    return caffe._field(100, caffe._field(1, b"fc") + caffe._field(2, b"InnerProduct") + caffe._field(7, shape))


def empty_h5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.attrs["layer_names"] = [b"fc"]
        content.create_group("fc").attrs["weight_names"] = [b"kernel"]
        content["fc"].create_dataset("kernel", (0, 123456789), np.float32)
    return file.getvalue().replace(struct.pack("<Q", 123456789), struct.pack("<Q", 1 << 61))


def texts_of_no_size() -> bytes:
    """2^40 of them, in place of 513 of 3 bytes."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.attrs["layer_names"] = np.array([b"abc"] * 513)
    kind = struct.pack("<B3xI", 0x13, 3)
    return re.sub(
        re.escape(kind[:1]) + b"..." + re.escape(kind[4:]) + b"(.*?)" + re.escape(struct.pack("<Q", 513)),
        lambda found: b"\x13\0\0\0\0\0\0\0" + found[1] + struct.pack("<Q", 1 << 40),
        file.getvalue(),
        flags=re.DOTALL,
    )


def keys_of_doubling_tuples() -> bytes:
    whole = before_1_6(state_dict(a=tensor((1,), (1,), count=1)), **{"0": np.ones(1, "f4")})
    return whole.replace(pickle.dumps(["0"], 2), P2 + b"]" + doubling(b")") + b"a.")


FOUND: dict[str, Callable[[], bytes]] = {
    "a .caffemodel's shape of nothing": empty_caffemodel,
    "a .safetensors' shape of nothing": lambda: safetensors({"a": ("F32", list(EMPTY), b"")}),
    "an .h5's shape of nothing": empty_h5,
    "a .caffemodel's dense layer of four sides": lambda: v1("fc", 14, [normal(2, 2, 1, 1)]),
    "an .h5's texts of no size": texts_of_no_size,
    "an old .pth's keys of doubling tuples": keys_of_doubling_tuples,
    "a pickle that asks for a long name": lambda: P2 + name("numpy" * 500, "a") + b".",
    "a pickle with a long key": lambda: P2 + b"}" + text("c" * 5000) + b"Ns.",
    "an archive with a long name": lambda: npz(**{"c" * 5000: np.array({}, object)}),
    "an archive with a long name twice": lambda: npz(**{"c" * 5000 + "_W": np.ones(1), "c" * 5000 + "/W": np.ones(1)}),
}


@pytest.mark.parametrize("case", FOUND)
def test_found_faults_are_refused(case: str, reader: Reader, tmp_path: Path) -> None:
    harmless(reader, FOUND[case](), tmp_path)


def test_name_in_a_checkpoint_twice(tmp_path: Path, reader: Reader) -> None:
    """The refusal did not name the file."""
    net = tf.Module()
    net.a = tf.Module()
    net.a.kernel, net.a.weights = tf.Variable([1.0]), tf.Variable([1.0])
    tf.train.Checkpoint(net=net).write(str(tmp_path / "x"))
    outcome = reader.read(tmp_path / "x")
    assert outcome.text == f"{tmp_path / 'x'}: refused as a checkpoint, it holds 'a/weights' twice"


@pytest.mark.parametrize(
    ("arrays", "origin"),
    [
        ({"conv2d_" + "9" * 5000 + "/weights": np.ones(1)}, "keras"),
        ({"fc6/weights": np.ones(())}, "caffe"),
        ({"fc6/weights": np.zeros((0, 0, 0, 0))}, "caffe"),
    ],
)
def test_strange_arrays_keep_their_names(arrays: dict[str, np.ndarray], origin: str) -> None:
    assert list(canonical(arrays, origin)) == list(arrays)

"""Damaged files of every form: each still reads, or is refused in one line that begins with its path.

They are read in a process of its own (`tests.weights.reader`), which a crash, a hang or too much memory ends. A
failure names the seeds: `CASES[case](seed)` is the files again.
"""

import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from barenets.weights import tables
from tests import caffe
from tests.weights import python2
from tests.weights.mutations import mutated, zipped
from tests.weights.reader import Reader
from tests.weights.test_caffemodel import legacy_blob, safetensors, v1
from tests.weights.test_npy import boxed, normal, npz, saved, with_bytes
from tests.weights.test_tf_checkpoint import table
from tests.weights.test_torch import before_1_6, state_dict, tensor

FAST, SLOW = 60, 2000
FORMS = {"npy": 7, "pickle": 7, "npz": 2, "caffemodel": 2, "keras": 2}
"""Reader, the first word of a case -> cases that share its 2,000 files."""
LISTS = {"conv1": [normal(2, 3), normal(3)], "fc8": [normal(2, 2)]}
NAMED = {"conv1": {"weights": normal(2, 3)}, "bn": {"mean": normal(2), "scale": normal(2, dtype=">f8")}}
INTS = {"conv1_1": {0: normal(2, 2), 1: normal(2)}}

Files = dict[str, bytes]
"""Name -> content; the first is read, or is a part of the checkpoint that is."""


def caffemodel() -> bytes:
    layers = {
        "conv1": ("Convolution", [normal(2, 3, 2, 2), normal(2)]),
        "bn": ("BatchNorm", [normal(2), normal(2), normal(1)]),
        "scale": ("Scale", [normal(2), normal(2)]),
        "fc6": ("InnerProduct", [normal(3, 4)]),
    }
    return caffe._field(1, b"net") + caffe.caffemodel(layers)


def torch_zip() -> bytes:
    data = state_dict(a_weight=tensor((2, 3), (3, 1)), a_bias=tensor((2,), (1,), 4), b=tensor((), ()))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", data)
        archive.writestr("net/byteorder", b"little")
        archive.writestr("net/data/0", normal(12).tobytes())
    return file.getvalue()


def torch_old() -> bytes:
    half = {"storage": b"ctorch\nBFloat16Storage\n", "key": "half", "count": 4}
    data = state_dict(a_weight=tensor((2, 3), (3, 1), count=12), b=tensor((4,), (1,), **half))
    return before_1_6(data, **{"0": normal(12), "half": normal(4, dtype="f2")})


def h5(write: Callable[[h5py.File], None]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        write(content)
    return file.getvalue()


def keras(chunked: bool) -> bytes:
    """Texts of fixed length and contiguous numbers, as the old Keras wrote, or the other kind of each."""

    def write(file: h5py.File) -> None:
        texts = h5py.string_dtype() if chunked else "S20"
        options = {"chunks": (3, 2), "compression": "gzip", "shuffle": True} if chunked else {}
        file.attrs["layer_names"] = np.array(["conv1", "predictions"], texts)
        for layer in ("conv1", "predictions"):
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}/kernel:0", f"{layer}/bias:0"], texts)
            group.create_dataset(f"{layer}/kernel:0", data=normal(5, 4), **options)
            group.create_dataset(f"{layer}/bias:0", data=normal(4))

    return h5(write)


def keras3() -> bytes:
    def write(file: h5py.File) -> None:
        for layer in ("conv2d", "conv2d_1"):
            group = file.create_group(f"layers/{layer}/vars")
            group.attrs["name"] = f"{layer}_name"
            group["0"], group["1"] = normal(2, 2, 1, 3), normal(3)

    return h5(write)


def keras3_archive() -> bytes:
    layers = [{"class_name": "Conv2D", "config": {"name": name}} for name in ("first", "second")]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("model.weights.h5", keras3())
    return file.getvalue()


# TensorFlow's checkpoints


@cache
def checkpoint(form: str, folder: Path) -> Files:
    """As TensorFlow writes it, under the name of `form`."""
    arrays = {"net/conv1/weights": normal(2, 2, 1, 3), "net/conv1/biases": normal(3), "net/fc/weights": np.arange(3)}
    path = str(folder / form)
    if form == "v1":
        values = [tf.constant(array) for array in arrays.values()]
        tf.raw_ops.Save(filename=path, tensor_names=list(arrays), data=values)
    elif form == "v2":
        values = [tf.constant(array) for array in arrays.values()]
        tf.raw_ops.SaveV2(prefix=path, tensor_names=list(arrays), shape_and_slices=[""] * 3, tensors=values)
    else:
        root = tf.Module()
        root.net = [tf.Variable(array) for array in arrays.values()]
        tf.train.Checkpoint(model=root, step=tf.Variable(3)).write(path)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.partition(".")[0] == form}
    return dict(sorted(files.items(), reverse=True))  # the index first


def first_block(content: bytes) -> bytes:
    """Of the small tables here the only one with entries; what describes the blocks follows it."""
    return content[: tables.varint(memoryview(content), len(content) - 48)[0] - 5]


def damaged_checkpoint(files: Files, seed: int) -> Files:
    """The inside of its table, or one of its files, by turns."""
    names = list(files)
    if seed % 2:
        name = names[seed // 2 % len(names)]
        return files | {name: mutated(files[name], seed)}
    return files | {names[0]: table(mutated(first_block(files[names[0]]), seed))}


def plain(content: Callable[[], bytes], change: Callable[[bytes, int], bytes] = mutated) -> Callable[[int], Files]:
    content = cache(content)
    return lambda seed: {"x": change(content(), seed)}


CASES: dict[str, Callable[[int], Files]] = {
    "npy of lists": plain(lambda: saved(LISTS)),
    "npy of names": plain(lambda: saved(NAMED)),
    "npy of ints": plain(lambda: saved(INTS)),
    "npy of Python 2": plain(lambda: python2.npy(with_bytes(NAMED))),
    "npy, protocol 0": plain(lambda: boxed(INTS, 0)),
    "pickle of Python 2": plain(lambda: python2.bare(with_bytes(LISTS))),
    "pickle, protocol 5": plain(lambda: boxed(NAMED, 5)),
    "npz": plain(lambda: npz(**{"conv1/weights": normal(2, 3), "conv1_b": normal(3)}), zipped),
    "npz, compressed": plain(lambda: npz(np.savez_compressed, **{"c/weights": normal(2, 3)}), zipped),
    "torch": plain(torch_zip, zipped),
    "torch before 1.6": plain(torch_old),
    "safetensors": plain(
        lambda: safetensors({"a.weight": ("F32", [2, 2], normal(4).tobytes()), "a.bias": ("BF16", [2], bytes(4))})
    ),
    "caffemodel": plain(caffemodel),
    "caffemodel, V1": plain(lambda: v1("conv1", 4, [normal(4, 3, 2, 2), normal(4)]) + v1("fc6", 14, [normal(3, 4)])),
    "binaryproto": plain(lambda: legacy_blob(normal(1, 3, 2, 2))),
    "keras": plain(lambda: keras(chunked=False)),
    "keras, chunked": plain(lambda: keras(chunked=True)),
    "keras 3": plain(keras3),
    "keras 3 archive": plain(keras3_archive, zipped),
}
CHECKPOINTS = ("v1", "v2", "objects")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Callable[[int], Files]]:
    """By case, what makes the files of a seed."""

    def made(case: str) -> Callable[[int], Files]:
        if case in CASES:
            return CASES[case]
        files = checkpoint(case, tmp_path_factory.mktemp(case))
        return lambda seed: damaged_checkpoint(files, seed)

    return made


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("case", [*CASES, *CHECKPOINTS])
def test_damaged_files_read_or_are_refused(
    case: str, many: bool, written: Callable, reader: Reader, tmp_path: Path
) -> None:
    make, path = written(case), tmp_path / (case if case in CHECKPOINTS else "x")
    function = "caffemodel.read_mean_image" if case == "binaryproto" else "open.read"
    count = -(-SLOW // FORMS.get(case.replace(",", " ").split()[0], 1)) if many else FAST
    faults, read, seconds, grown = {}, 0, 0.0, 0
    for seed in range(count):
        for name, content in make(seed).items():
            (tmp_path / name).write_bytes(content)
        outcome = reader.read(path, function)
        read += outcome.kind == "arrays"
        seconds, grown = max(seconds, outcome.seconds), max(grown, outcome.grown)
        if not outcome.sound or (outcome.kind == "UserError" and not outcome.text.startswith(f"{path}: ")):
            faults[seed] = outcome
    print(f"{case}: {count} files, {read} read, at most {seconds:.3f} s and {grown / 1e6:.1f} MB")
    assert not faults
    assert many <= read < count

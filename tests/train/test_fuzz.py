"""Damaged data sets, checkpoints and pictures: each still reads, or is refused in one line that begins with its path.

As in `tests.weights.test_fuzz`, whose process they are read in, a failure names the seeds: `CASES[case][1](seed)` is
the files again. What was found to break a reader before it was mended lies in `tests/corpus`, and is read in each run.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barenets import UserError, nets
from barenets.train import checkpoints, model
from barenets.train.optimizers import SGD
from barenets.weights.npy import STATE, read_archive, write_npz
from tests.train.forms import cifar_rows, example, idx, pictures
from tests.train.test_bad_pictures import DECODED
from tests.train.test_hostile import GOOD
from tests.train.tiny import NETWORK, Tiny
from tests.weights.mutations import mutated, zipped
from tests.weights.reader import Reader
from tests.weights.test_npy import npz
from tests.weights.test_tf_checkpoint import masked

FAST, SLOW = 16, 200
CORPUS = Path(__file__).resolve().parent.parent / "corpus"
RECORDS, DECODED_BY = "barenets.train.data.records.read", "tests.train.decoding.decoded"

Files = dict[str, bytes]
"""Name -> content; the first is read."""


@cache
def images(channels: int = 0) -> np.ndarray:
    return pictures(0, 4, 32, 32, channels)


@cache
def mnist(name: str, change: Callable[[bytes], bytes] = bytes) -> Files:
    labels = change(idx(np.arange(4, dtype=np.uint8)))
    return {name: change(idx(images())), name.replace("images-idx3", "labels-idx1"): labels}


@cache
def cifar() -> Files:
    batch = {b"labels": [3, 0, 9, 1], b"data": cifar_rows(images(3))}
    names = {b"label_names": [f"class {i}".encode() for i in range(10)]}
    return {"data_batch_1": pickle.dumps(batch, 2), "batches.meta": pickle.dumps(names, 2)}


def changed(files: Files, seed: int) -> Files:
    """One of the files is damaged, by turns."""
    name = list(files)[seed % len(files)]
    return files | {name: mutated(files[name], seed)}


@cache
def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in {"a/test.bin": bytes(3074), "a/fine_label_names.txt": b"x\n" * 100}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def examples(seed: int) -> bytes:
    """Damaged outside, or inside under sound checksums."""
    whole = [example(image_encoded=b"picture", image_class_label=i, image_class_text=b"cat") for i in (1, 2)]
    if seed % 2:
        return mutated(b"".join(map(record, whole)), seed)
    return b"".join(map(record, (mutated(whole[0], seed), whole[1])))


@cache
def checkpoint() -> bytes:
    arrays = {"conv1/weights": np.ones((2, 3), "f4"), "optimizer/rate": np.ones(1)}
    return npz(**arrays, **{"state.json": np.frombuffer(json.dumps(GOOD).encode(), np.uint8)})


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        yield kind, content[at + 8 : at + 8 + size]
        at += 12 + size


def png(content: bytes, seed: int) -> bytes:
    """One of its chunks is damaged, under a sound checksum, and before it was compressed by turns."""
    parts = list(chunks(content))
    i = seed % (len(parts) - 1)
    kind, data = parts[i]
    pixels = kind == b"IDAT" and len(parts) < 5 and seed % 2
    data = zlib.compress(mutated(zlib.decompress(data), seed)) if pixels else mutated(data, seed)
    parts[i] = kind, data
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return content[:8] + b"".join(body)


def picture(name: str) -> tuple[str, Callable[[int], Files]]:
    content = DECODED[name][0]
    change = png if content.startswith(b"\x89PNG") else mutated
    return DECODED_BY, lambda seed: {"x": change(content, seed)}


gzipped = partial(gzip.compress, compresslevel=1, mtime=0)  # a seed names the same bytes at all times
IDX = "train-images-idx3-ubyte"
TEXTS = {
    "x.txt": "a b.jpg cat\n# no\nc.png dog\nd/n01440764_1.JPEG\n",
    "x.csv": 'id,breed\n"a,1.jpg",cat\nb.jpg,dog\n',
    "x.tsv": "file\tlabel\na.jpg\t3\nb.jpg\t7\n",
}
CASES: dict[str, tuple[str, Callable[[int], Files]]] = {
    "idx": (RECORDS, lambda seed: changed(mnist(IDX), seed)),
    "idx, gzipped": (RECORDS, lambda seed: changed(mnist(f"{IDX}.gz", gzipped), seed)),
    "idx, damaged and gzipped": (
        RECORDS,
        lambda seed: {f"{n}.gz": gzipped(c) for n, c in changed(mnist(IDX), seed).items()},
    ),
    "npz of pictures": (RECORDS, lambda seed: {"x.npz": zipped(npz(x=images(), y=np.arange(4)), seed)}),
    "cifar": (RECORDS, lambda seed: changed(cifar(), seed)),
    "cifar, binary": (RECORDS, lambda seed: changed({"test.bin": bytes(6148), "fine_label_names.txt": b"x\n"}, seed)),
    "cifar, packed": (RECORDS, lambda seed: {"cifar-100-binary.tar": mutated(tar(), seed)}),
    "cifar, gzipped": (RECORDS, lambda seed: {"cifar-100-binary.tar.gz": mutated(gzipped(tar()), seed)}),
    "records": (RECORDS, lambda seed: {"x.tfrecord": examples(seed)}),
    **{name: (RECORDS, lambda seed, n=name: {n: mutated(TEXTS[n].encode(), seed)}) for name in TEXTS},
    "names of classes": (
        RECORDS,
        lambda seed: {"x.txt": b"a 0\nb 1\n", "labels.txt": mutated(b"0:cat\n1:dog\n", seed)},
    ),
    "checkpoint": ("barenets.train.checkpoints.read", lambda seed: {"x": zipped(checkpoint(), seed)}),
    **{name: picture(name) for name in DECODED},
}


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("case", CASES)
def test_damaged_files_read_or_are_refused(case: str, many: bool, reader: Reader, tmp_path: Path) -> None:
    function, make = CASES[case]
    faults, read, seconds, grown = {}, 0, 0.0, 0
    count = (SLOW if many else FAST) // (4 if function == DECODED_BY else 1)
    for seed in range(count):
        made = make(seed)
        for name, content in made.items():
            (tmp_path / name).write_bytes(content)
        outcome = reader.read(tmp_path / next(iter(made)), function)
        read += outcome.kind == "arrays"
        seconds, grown = max(seconds, outcome.seconds), max(grown, outcome.grown)
        if not outcome.sound or (outcome.kind == "UserError" and not outcome.text.startswith(f"{tmp_path}/")):
            faults[seed] = outcome
    print(f"{case}: {count} files, {read} read, at most {seconds:.3f} s and {grown / 1e6:.1f} MB")
    assert not faults
    assert read < count


def nonsense(value: Any, rng: np.random.Generator) -> Any:
    """`value` with one of its parts, at any depth, replaced, left out or put twice."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        new = {**value} if isinstance(value, dict) else [*value]
        if rng.random() < 0.2:
            del new[key]
        else:
            new[key] = nonsense(value[key], rng)
        return new
    others = (None, True, -1, 0, 1 << 40, 1e308, "", "x" * 1000, "\x1b[2J", "../..", [], {}, [[]], {"a": 1}, [1, "x"])
    return others[int(rng.integers(len(others)))]


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "many"])
def test_nonsense_that_a_checkpoint_says_of_itself(many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nets.NETWORKS, "tiny", NETWORK)
    path = checkpoints.save(str(tmp_path), 1, Tiny(), SGD({}), GOOD)
    arrays = read_archive(path)
    read, count = 0, SLOW if many else FAST
    for seed in range(count):
        print("seed", seed)
        state = json.dumps(nonsense(json.loads(json.dumps(GOOD)), np.random.default_rng(seed))).encode()
        write_npz(path, {**arrays, STATE: np.frombuffer(state, np.uint8)})
        message = ""
        try:
            model.from_checkpoint(path)
        except UserError as error:
            message = str(error)
        assert message.isprintable()
        read += not message
    assert 0 < read < count


# What was found


FOUND = {
    "weights": "open.read",
    "data": RECORDS,
    "checkpoints": "barenets.train.model.from_checkpoint",
}
"""Folder of the corpus -> what reads it."""


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CORPUS.glob("*/**/*") if path.is_file()),
    ids=lambda path: str(path.relative_to(CORPUS)),
)
def test_what_once_broke_a_reader_is_refused(path: Path, reader: Reader) -> None:
    outcome = reader.read(path, FOUND[path.relative_to(CORPUS).parts[0]])
    assert (outcome.sound, outcome.kind) == (True, "UserError"), outcome
    assert outcome.text.startswith(f"{path}")


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 200_000

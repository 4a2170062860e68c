"""Loading weight files: barenets.weights.load against the loader of the file's own origin.

    python -m benchmarks.loading [--quick]

ResNet-152 and VGG19 with random weights, in a file of each format that is read, against what its origin has:

    Keras .h5, .weights.h5, .keras    model.load_weights(path)
    torch .pth, zip and legacy        model.load_state_dict(torch.load(path, weights_only=True))
    .safetensors                      model.load_state_dict(safetensors.torch.load_file(path))
    .npy, .npz                        np.load, then variable.assign: the articles' way
    TensorFlow's checkpoint           tf.train.load_checkpoint, then variable.assign
    .caffemodel                       cv2.dnn.readNetFromCaffe, which also builds its network

and AlexNet's .npy, in the bytes that Python 2 wrote, with the time to read the file beside it. The file lies in
the page cache. Each call is in a fresh process, the variants in turn, round by round; the networks, those of torch and
Keras too, are built and the libraries warm before the clock starts. All of them copy before they return; the sums of
all numbers, read back after the clock has stopped, must agree.

Memory is what comes on top of the built network, as a multiple of the file's size, for all variants alike: the
peak of resident memory (VmHWM, reset before), in which mapped pages of the file count although the system can
drop them, and the peak of anonymous memory (RssAnon, looked at each 2 ms).

Goals: at most half the time of the other, a peak of at most 2.1 times the file. With --quick, ResNet-50 and VGG19
without their dense layers, each in some of the formats.
"""

import importlib.util
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import nets, weights
from barenets.ops import named_variables
from benchmarks.timing import Table, comparison, forget_peak, fresh, memory, parser, report, spread
from tests.weights import python2

READ, OURS = "read", "barenets"


@dataclass(frozen=True)
class Case:
    """A network and the format of its file."""

    net: str
    format: str
    top: bool = True
    """Whether it has its dense layers."""

    @property
    def keras(self) -> bool:
        return self.format.startswith("Keras")

    @property
    def torch(self) -> bool:
        return self.format.startswith((".pth", ".safetensors"))

    @property
    def ending(self) -> str:
        return {"Keras .h5": ".h5", "Keras .weights.h5": ".weights.h5", "Keras .keras": ".keras", "checkpoint": ""}.get(
            self.format, self.format.split()[0]
        )

    @property
    def base(self) -> str:
        """What ours is compared with."""
        if self.keras:
            return "Keras"
        return (
            "torch" if self.torch else {".caffemodel": "OpenCV", "checkpoint": "TensorFlow"}.get(self.format, "np.load")
        )

    @property
    def variants(self) -> list[str]:
        return [*([READ] if self.net == "alexnet" else []), self.base, OURS]

    def build(self, seed: int = 0) -> Any:
        """Ours."""
        variant = "keras" if self.keras and self.net.startswith("resnet") else None
        return nets.build(self.net, variant=variant, seed=seed, **({} if self.top else {"num_classes": None}))

    def build_keras(self) -> Any:
        import keras

        kind = {"resnet50": "ResNet50", "resnet152": "ResNet152", "vgg19": "VGG19"}[self.net]
        shape = None if self.top else (64, 64, 3)
        return getattr(keras.applications, kind)(weights=None, include_top=self.top, input_shape=shape)

    def build_torch(self) -> Any:
        from tests.nets import torch_reference as reference

        if self.net in reference.VGG:
            return reference.Vgg(reference.VGG[self.net], 1000)
        model = reference.ResNet(reference.RESNET[self.net], True, 1000)
        if not self.top:
            model.fc = reference.nn.Identity()
        return model


def cases(quick: bool) -> list[Case]:
    keras, torch = ("Keras .h5", "Keras .weights.h5", "Keras .keras"), (".pth", ".pth legacy", ".safetensors")
    if quick:
        formats = {"resnet50": (keras[1], torch[0], torch[2]), "vgg19": (keras[2], "checkpoint")}
    else:
        formats = {
            "resnet152": (*keras, *torch, ".npz", "checkpoint"),
            "vgg19": (*keras, *torch, ".npy", "checkpoint", ".caffemodel"),
        }
    return [Case("alexnet", ".npy"), *(Case(net, f, top=not quick) for net, fs in formats.items() for f in fs)]


def lacking(case: Case) -> str | None:
    """The package without which a case cannot be measured."""
    needed = {"Keras": "h5py", "torch": "torch", "OpenCV": "cv2"}
    wanted = [needed.get(case.base), "safetensors" if case.format == ".safetensors" else None]
    return next((name for name in wanted if name and importlib.util.find_spec(name) is None), None)


# ---- the files ----


def write(case: Case, path: str) -> None:
    if case.keras:
        model = case.build_keras()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras calls its .h5 old
            model.save_weights(path) if case.ending == ".weights.h5" else model.save(path)
        return
    if case.torch:
        import torch

        state = case.build_torch().state_dict()
        if case.format == ".safetensors":
            importlib.import_module("safetensors.torch").save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=case.format == ".pth")
        return
    net = case.build(seed=1)
    arrays = {name: variable.numpy() for name, variable in named_variables(net).items()}
    if case.format == "checkpoint":
        tf.train.Checkpoint(net=net).write(path)
    elif case.format == ".npz":
        np.savez(path, **arrays)
    elif case.format == ".caffemodel":
        from tests.caffe import caffemodel
        from tests.nets.parity import caffe_layers

        Path(path).write_bytes(caffemodel(caffe_layers(arrays, {"fc6": 7})))
    else:
        layers: dict[bytes, list[np.ndarray]] = {}
        for name, array in arrays.items():
            layers.setdefault(name.rpartition("/")[0].encode(), []).append(array)
        Path(path).write_bytes(python2.npy(layers))


def files(path: str) -> list[Path]:
    """Those that `write` wrote: a checkpoint is two."""
    return [Path(path)] if os.path.exists(path) else sorted(Path(path).parent.glob(f"{Path(path).name}.*"))


# ---- the loaders ----


def np_load(variables: dict[str, tf.Variable], path: str) -> None:
    if path.endswith(".npz"):
        with np.load(path) as arrays:
            for name, variable in variables.items():
                variable.assign(arrays[name])
        return
    for layer, (kernel, biases) in np.load(path, allow_pickle=True, encoding="bytes").item().items():
        variables[f"{layer.decode()}/weights"].assign(kernel)
        variables[f"{layer.decode()}/biases"].assign(biases)


def load_checkpoint(variables: dict[str, tf.Variable], path: str) -> None:
    reader = tf.train.load_checkpoint(path)
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(f"net/{name}/.ATTRIBUTES/VARIABLE_VALUE"))


def loader(case: Case, variant: str, path: str) -> tuple[Callable[[], Any], Callable[[], list[np.ndarray]]]:
    """What is measured, with everything built and warm; and what gives the numbers that are then in the network."""
    if variant == READ:
        return lambda: Path(path).read_bytes(), list
    if variant == "Keras":
        import h5py  # noqa: F401

        model = case.build_keras()
        return partial(model.load_weights, path), lambda: [v.numpy() for v in model.weights]
    if variant == "torch":
        import torch

        module = case.build_torch()
        load = partial(torch.load, weights_only=True)
        if case.format == ".safetensors":
            load = importlib.import_module("safetensors.torch").load_file

        def numbers() -> list[np.ndarray]:
            state = module.state_dict().items()
            return [tensor.numpy() for name, tensor in state if not name.endswith("num_batches_tracked")]

        return lambda: module.load_state_dict(load(path)), numbers
    if variant == "OpenCV":
        import cv2

        from tests.nets import prototxt

        text = os.path.join(os.path.dirname(path), "deploy.prototxt")
        Path(text).write_text(prototxt.vgg19())
        return partial(cv2.dnn.readNetFromCaffe, text, path), list
    net = case.build()
    variables = named_variables(net)
    first = next(iter(variables.values()))
    first.assign(np.zeros(first.shape, np.float32))  # TensorFlow is slow the first time
    calls = {
        OURS: lambda: weights.load(net, path),
        "np.load": lambda: np_load(variables, path),
        "TensorFlow": lambda: load_checkpoint(variables, path),
    }
    return calls[variant], lambda: [variable.numpy() for variable in variables.values()]


class Anonymous(threading.Thread):
    """The peak of anonymous memory while the block runs."""

    def __enter__(self) -> "Anonymous":
        self.peak, self.done = memory()["RssAnon"], threading.Event()
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.done.set()
        self.join()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.peak = max(self.peak, memory()["RssAnon"])


def measure(case: Case, variant: str, path: str) -> dict[str, float]:
    """Seconds, bytes on top of what was there before, and the sum of the network's numbers then."""
    load, numbers = loader(case, variant, path)
    before = memory()
    forget_peak()
    with Anonymous() as anonymous:
        start = time.perf_counter()
        result = load()
        seconds = time.perf_counter() - start
    after = memory()
    del result
    return {
        "seconds": seconds,
        "peak": after["VmHWM"] - before["VmRSS"],
        "anonymous": max(anonymous.peak, after["RssAnon"]) - before["RssAnon"],
        "sum": sum(float(np.sum(array, dtype=np.float64)) for array in numbers()),
    }


def table(case: Case, rounds: int) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"weights{case.ending}")
        fresh(write, case, path)
        size = sum(len(file.read_bytes()) for file in files(path))  # and they are in the page cache
        results: dict[str, list[dict[str, float]]] = {variant: [] for variant in case.variants}
        for _ in range(rounds):
            for variant, done in results.items():
                done.append(fresh(measure, case, variant, path))
    sums = {result["sum"] for variant in (case.base, OURS) for result in results[variant]}
    if case.base != "OpenCV" and not np.allclose(list(sums), min(sums), rtol=1e-9, atol=1e-3):
        raise AssertionError(f"{case}: the variants do not load the same weights: {sums}")

    def memory_of(kind: str) -> dict[str, str]:
        return {name: spread(result[kind] / size for result in done) for name, done in results.items()}

    return comparison(
        f"{case.net}, {case.format}, {size / 1e6:.0f} MB",
        {name: [result["seconds"] for result in done] for name, done in results.items()},
        case.base,
        ["OpenCV builds its network besides."] if case.base == "OpenCV" else [],
        **{"peak / file": memory_of("peak"), "anonymous / file": memory_of("anonymous")},
    )


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--only", default="", help="the cases whose network and format contain that, such as .pth")
    args = options.parse_args()
    tables = []
    for case in cases(args.quick):
        if args.only not in f"{case.net} {case.format}":
            continue
        if package := lacking(case):
            print(f"{case.net}, {case.format}: left out, there is no {package}")
            continue
        tables.append(table(case, 1 if args.quick else args.rounds))
    report(tables, args.json)


if __name__ == "__main__":
    main()

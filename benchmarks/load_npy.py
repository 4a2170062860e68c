"""Loading bvlc_alexnet.npy: the file's bytes, np.load and assign, barenets.weights.load.

    python -m benchmarks.load_npy [--quick]

A file of AlexNet's size with random weights, {b'conv1': [W, b], ...} in the bytes that Python 2 wrote, lies in
the page cache. Each variant runs in a fresh process, the three in turn, round by round:

    read       open(path, "rb").read(): the least that anything which copies the file costs
    np.load    np.load(path, allow_pickle=True, encoding="bytes").item(), then variable.assign: the articles' way
    barenets   barenets.weights.load(net, path), with all its checks

The network is built and TensorFlow warm before the clock starts. Memory is what comes on top of that, as a
multiple of the file's size: the peak of resident memory (VmHWM, reset before), in which mapped pages of the
file count although the system can drop them, and the peak of anonymous memory (RssAnon, looked at each 2 ms).

Goals: at most half the time of np.load, a peak of at most 2.1 times the file.
"""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import weights
from barenets.nets import AlexNet
from barenets.ops import named_variables
from benchmarks.timing import comparison, forget_peak, fresh, memory, parser, report, spread
from tests.weights import python2

READ, NUMPY, OURS = "read", "np.load", "barenets"


def write(path: str) -> None:
    layers: dict[bytes, list[np.ndarray]] = {}
    for name, variable in named_variables(AlexNet(seed=1)).items():
        layers.setdefault(name.rpartition("/")[0].encode(), []).append(variable.numpy())
    Path(path).write_bytes(python2.npy(layers))


def np_load(net: tf.Module, path: str) -> None:
    variables = named_variables(net)
    for layer, (kernel, biases) in np.load(path, allow_pickle=True, encoding="bytes").item().items():
        variables[f"{layer.decode()}/weights"].assign(kernel)
        variables[f"{layer.decode()}/biases"].assign(biases)


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


def measure(variant: str, path: str) -> dict[str, float]:
    """Seconds, bytes on top of what was there before, and the sum of the network's variables then."""
    net = AlexNet()
    net.conv1.biases.assign(np.zeros(96, np.float32))
    calls = {
        READ: lambda: Path(path).read_bytes(),
        NUMPY: lambda: np_load(net, path),
        OURS: lambda: weights.load(net, path),
    }
    before = memory()
    forget_peak()
    with Anonymous() as anonymous:
        start = time.perf_counter()
        result = calls[variant]()
        seconds = time.perf_counter() - start
    after = memory()
    del result
    return {
        "seconds": seconds,
        "peak": after["VmHWM"] - before["VmRSS"],
        "anonymous": max(anonymous.peak, after["RssAnon"]) - before["RssAnon"],
        "sum": sum(float(tf.reduce_sum(variable)) for variable in named_variables(net).values()),
    }


def main() -> None:
    args = parser(__doc__, rounds=10).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bvlc_alexnet.npy")
        fresh(write, path)
        size = len(Path(path).read_bytes())  # and it is in the page cache
        results: dict[str, list[dict[str, float]]] = {READ: [], NUMPY: [], OURS: []}
        for _ in range(1 if args.quick else args.rounds):
            for variant, rounds in results.items():
                rounds.append(fresh(measure, variant, path))
    sums = {result["sum"] for variant in (NUMPY, OURS) for result in results[variant]}
    if len(sums) != 1:
        raise AssertionError(f"the variants do not load the same weights: {sums}")

    def memory_of(kind: str) -> dict[str, str]:
        return {name: spread(result[kind] / size for result in rounds) for name, rounds in results.items()}

    table = comparison(
        f"Loading a .npy of {size / 1e6:.0f} MB from the page cache",
        {name: [result["seconds"] for result in rounds] for name, rounds in results.items()},
        NUMPY,
        ["Goals: at most 0.5 times np.load, a peak of at most 2.1 files."],
        **{"peak / file": memory_of("peak"), "anonymous / file": memory_of("anonymous")},
    )
    report([table], args.json)


if __name__ == "__main__":
    main()

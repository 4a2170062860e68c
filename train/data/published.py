"""Data sets that `barenets fetch` downloads by name, and where they then lie.

Sizes and SHA-256 as TensorFlow Datasets keeps them (tensorflow/datasets, url_checksums); those of CIFAR's Python
archives as Keras checks them (keras/datasets/cifar10.py, cifar100.py).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from barenets import UserError
from barenets.train.data import place
from barenets.weights import fetch


@dataclass(frozen=True)
class File:
    """One file of a data set: `barenets.weights.fetch.File`."""

    name: str
    url: str
    size: int
    sha256: str


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_FASHION = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"  # the authors' own address has no https
_CIFAR = "https://www.cs.toronto.edu/~kriz"

_FILES = (
    *(
        File("mnist", f"{_MNIST}/{file}-ubyte.gz", size, sha256)
        for file, size, sha256 in (
            ("train-images-idx3", 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            ("train-labels-idx1", 28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            ("t10k-images-idx3", 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            ("t10k-labels-idx1", 4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        )
    ),
    *(
        File("fashion_mnist", f"{_FASHION}/{file}-ubyte.gz", size, sha256)
        for file, size, sha256 in (
            ("train-images-idx3", 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            ("train-labels-idx1", 29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            ("t10k-images-idx3", 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            ("t10k-labels-idx1", 5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        )
    ),
    File(
        "cifar10",
        f"{_CIFAR}/cifar-10-python.tar.gz",
        170_498_071,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    File(
        "cifar100",
        f"{_CIFAR}/cifar-100-python.tar.gz",
        169_001_437,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
)
NAMES = tuple(dict.fromkeys(file.name for file in _FILES))


def files(name: str) -> list[File]:
    """The files of the data set `name`."""
    return [file for file in _FILES if file.name == name]


def obtain(
    name: str, cache: str | None = None, say: Callable[[str], None] = lambda _: None, *, http: bool = False
) -> list[str]:
    """Paths of the files of the data set `name`, downloaded if they are not there yet: `weights.fetch.obtain`."""
    return [fetch.obtain(file, cache, say, http=http) for file in files(name)]


def locate(source: str) -> place.Place | None:
    """The place that NAME or NAME:train means; None if it is no such name. Raises UserError if it is missing."""
    name, *words = source.split(":")
    paths = [fetch.place(file) for file in files(name)]
    if not paths:
        return None
    folder = os.path.dirname(paths[0])
    if missing := [os.path.basename(path) for path in paths if not place.exists(path)]:
        raise UserError(
            f"{source}: is not on this machine; `barenets fetch {name}` downloads it, or put "
            f"{', '.join(missing)} into {folder}"
        )
    found = place.locate(":".join((paths[0] if len(paths) == 1 else folder, *words)))
    return found and replace(found, source=source)

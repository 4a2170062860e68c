"""From a file, or a name in the catalog, to arrays under canonical names."""

import os

import numpy as np

from barenets import UserError
from barenets.weights import catalog, fetch, files
from barenets.weights.caffemodel import is_caffemodel, read_caffemodel
from barenets.weights.catalog import Entry
from barenets.weights.keras import is_hdf5, read_keras
from barenets.weights.npy import read_npy, read_npz
from barenets.weights.safetensors import is_safetensors, read_safetensors
from barenets.weights.torch import is_torch, read_torch


def read(source: str) -> dict[str, np.ndarray]:
    """Canonical name (`conv1/weights`) -> array, for a weight file or a name in the catalog.

    A file is recognised by its content: `.npy` and bare pickles of dicts, `.npz`, torch's `.pth`,
    `.safetensors` (torch's names and layout, or ours), `.caffemodel`, Keras's `.h5`. What its
    origin lays out otherwise is undone: kernels are HWIO, dense kernels [in, out] with rows in height,
    width, channel order. A name in the catalog is downloaded unless it has been. Raises UserError.
    """
    entry = known(source)
    path = fetch.fetch(source) if entry else source
    start = bytes(files.view(path)[:16])
    if is_safetensors(start):  # first: its size may begin with the bytes of another format
        arrays = read_safetensors(path)
    elif is_hdf5(start):
        arrays = read_keras(path)
    elif is_torch(path):
        arrays = read_torch(path)
    elif start.startswith(b"PK"):
        arrays = read_npz(path)
    elif start.startswith((b"\x93NUMPY", b"\x80")):
        arrays = read_npy(path)
    elif is_caffemodel(start):
        arrays = read_caffemodel(path)
    else:
        raise UserError(
            f"{path}: is no weight file that can be read; there are readers for .npy, .npz, torch's .pth, "
            ".safetensors, .caffemodel and Keras's .h5"
        )
    entry = entry or catalog.recognise(arrays)
    return catalog.canonical(entry, arrays) if entry else arrays


def known(source: str | None) -> Entry | None:
    """The catalog's entry of this name; None if there is none, or if it is the path of a file."""
    if source is None or os.path.exists(source):
        return None
    return next((entry for entry in catalog.ENTRIES if entry.name == source), None)

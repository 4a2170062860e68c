"""From a file, or a name in the catalog, to arrays under canonical names."""

import os
import warnings

from barenets import UserError
from barenets.weights import catalog, fetch, files
from barenets.weights.caffemodel import is_caffemodel, read_caffemodel
from barenets.weights.catalog import Entry
from barenets.weights.keras import is_hdf5, is_keras_archive, read_keras
from barenets.weights.npy import read_npy, read_npz
from barenets.weights.rename import Kind, Weights
from barenets.weights.safetensors import is_safetensors, read_safetensors
from barenets.weights.tf_checkpoint import checkpoint_prefix, read_tf_checkpoint
from barenets.weights.torch import is_torch, read_torch


def read(source: str) -> Weights:
    """Canonical name (`conv1/weights`) -> array, for a weight file or a name in the catalog.

    A file is recognised by its content: `.npy` and bare pickles of dicts, `.npz`, torch's `.pth`,
    `.safetensors` (torch's names and layout, or ours), `.caffemodel`, Keras's `.h5`, `.weights.h5` and `.keras`,
    TensorFlow's checkpoints. What its origin names or lays out otherwise is undone: kernels are HWIO, dense
    kernels [in, out] with rows in height, width, channel order. `kind` of the result says what it is for, where
    that could be told. A name in the catalog is downloaded unless it has been. Raises UserError.
    """
    path = fetch.fetch(source, say=warnings.warn) if known(source) else source
    if prefix := checkpoint_prefix(path):
        return read_tf_checkpoint(prefix)
    start = bytes(files.view(path)[:16])
    if is_safetensors(start):  # first: its size may begin with the bytes of another format
        return read_safetensors(path)
    if is_hdf5(start):
        return read_keras(path)
    if is_torch(path):
        return read_torch(path)
    if start.startswith(b"PK"):
        return read_keras(path) if is_keras_archive(path) else read_npz(path)
    if start.startswith((b"\x93NUMPY", b"\x80")):
        return read_npy(path)
    if is_caffemodel(start):
        return read_caffemodel(path)
    raise UserError(
        f"{path}: is no weight file that can be read; there are readers for .npy, .npz, torch's .pth, "
        ".safetensors, .caffemodel, Keras's .h5 and .keras, and TensorFlow's checkpoints"
    )


def identify(source: str) -> Kind | None:
    """What the weight file `source`, or the catalog's of that name, is for; None if it cannot be told."""
    entry = known(source)
    return entry.kind if entry else read(source).kind


def known(source: str | None) -> Entry | None:
    """The catalog's entry of this name; None if there is none, or if it is the path of a file."""
    if source is None or os.path.exists(source):
        return None
    return next((entry for entry in catalog.ENTRIES if entry.name == source), None)

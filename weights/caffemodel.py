"""Caffe's `.caffemodel` and `.binaryproto`, read from the protobuf bytes without Caffe.

    NetParameter      name = 1, layers = 2 (V1LayerParameter, until 2014), layer = 100 (LayerParameter)
    V1LayerParameter  name = 4, type = 5 (a number), blobs = 6
    LayerParameter    name = 1, type = 2 (text), blobs = 7
    BlobProto         data = 5 (packed floats), double_data = 8, shape = 7 (BlobShape, dim = 1),
                      or num, channels, height, width = 1 to 4

(src/caffe/proto/caffe.proto.) Arrays are windows into the mapped file.
"""

from dataclasses import replace

import numpy as np

from barenets import UserError
from barenets.weights import files, protobuf
from barenets.weights.rename import Kind, Weights, canonical

_V1_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}


def is_caffemodel(start: bytes) -> bool:
    """Whether a file that begins with `start` can be one: the network's name or a layer comes first."""
    return start.startswith((b"\x0a", b"\x12", b"\xa2\x06"))


def read_caffemodel(path: str) -> Weights:
    """`conv1/weights` -> array: kernels HWIO, dense kernels [in, out].

    The rows of a known network's dense layer that reads a map go from Caffe's C, H, W order to H, W, C.

    A BatchNorm layer becomes moving_mean and moving_variance, divided by the factor that Caffe keeps with
    them, and takes gamma and beta from the Scale layer that follows. Raises UserError for a damaged file.
    """
    view = files.view(path)
    arrays: dict[str, np.ndarray] = {}
    title = ""
    norm = ""  # the BatchNorm layer that a Scale layer would belong to
    try:
        for number, value in protobuf.fields(view):
            if number == 1:
                title = protobuf.text(value)
            if number not in (2, 100):
                continue
            name, kind, blobs = _layer(protobuf.message(value), v1=number == 2)
            if not blobs:
                continue
            if kind == "Scale" and norm:
                name = norm
            norm = name if kind == "BatchNorm" else ""
            for part, array in _parts(kind, blobs).items():
                if f"{name}/{part}" in arrays:
                    raise UserError(f"it holds {f'{name}/{part}'!r} twice")
                arrays[f"{name}/{part}"] = array
        if not arrays:
            raise UserError("it holds no layer with weights")
        return _titled(canonical(arrays, "caffe"), title)
    except UserError as error:
        raise UserError(f"{path}: refused as a .caffemodel, {str(error)[:300]}") from None


def _titled(weights: Weights, title: str) -> Weights:
    """Nothing but the network's own name tells AlexNet from CaffeNet."""
    variant = {"AlexNet": "alexnet", "CaffeNet": "caffenet"}.get(title)
    if variant and weights.kind and weights.kind == Kind("alexnet", None, "caffe"):
        return Weights(weights, replace(weights.kind, variant=variant))
    return weights


def read_mean_image(path: str) -> np.ndarray:
    """float32 [H, W, 3] in B, G, R order: the mean picture in a `.binaryproto`. Raises UserError."""
    try:
        blob = _blob(files.view(path))
        if blob.ndim != 4 or blob.shape[:2] != (1, 3):
            raise UserError(f"it holds an array of shape {blob.shape} where one picture was expected")
    except UserError as error:
        raise UserError(f"{path}: refused as a .binaryproto, {str(error)[:300]}") from None
    with np.errstate(all="ignore"):
        return blob[0].transpose(1, 2, 0).astype(np.float32)


def _parts(kind: str, blobs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a layer under our names and in our layout."""
    first, *rest = blobs
    if kind == "BatchNorm":
        if len(blobs) != 3 or blobs[2].size != 1:
            raise UserError(f"a BatchNorm layer has {len(blobs)} arrays, not mean, variance and factor")
        factor = float(blobs[2].reshape(()))
        share = 1 / factor if factor else 0.0
        with np.errstate(all="ignore"):  # of numbers that are damaged
            return {"moving_mean": blobs[0].reshape(-1) * share, "moving_variance": blobs[1].reshape(-1) * share}
    if kind == "Scale":
        return dict(zip(("gamma", "beta"), blobs, strict=False))
    if kind == "InnerProduct":
        if first.ndim == 4:
            if first.shape[:2] != (1, 1):
                raise UserError(f"a dense layer has weights of shape {first.shape}")
            first = first[0, 0]
        weights = first.T
    elif kind == "Convolution" and first.ndim == 4:
        weights = first.transpose(2, 3, 1, 0)
    else:
        return {str(i): blob for i, blob in enumerate(blobs)}
    return {"weights": weights, "biases": rest[0].reshape(-1)} if rest else {"weights": weights}


def _layer(message: memoryview, *, v1: bool) -> tuple[str, str, list[np.ndarray]]:
    """Name, type and blobs of a layer."""
    name, kind, blobs = "", "", []
    name_at, kind_at, blobs_at = (4, 5, 6) if v1 else (1, 2, 7)
    for number, value in protobuf.fields(message):
        if number == name_at:
            name = protobuf.text(value)
        elif number == kind_at:
            kind = _V1_TYPES.get(value, str(value)) if isinstance(value, int) else protobuf.text(value)
        elif number == blobs_at:
            blobs.append(_blob(protobuf.message(value)))
        elif v1 and number == 1:
            raise UserError("it is in the format of before 2013; upgrade it with Caffe's upgrade_net_proto_binary")
    return name, kind, blobs


def _blob(message: memoryview) -> np.ndarray:
    data, size = memoryview(b""), 4
    legacy, shape = {1: 1, 2: 1, 3: 1, 4: 1}, None
    for number, value in protobuf.fields(message):
        if number in (5, 8):
            if len(data) or len(protobuf.message(value)) % (4 if number == 5 else 8):
                raise UserError("an array is not one run of packed numbers")
            data, size = protobuf.message(value), 4 if number == 5 else 8
        elif number == 7:
            shape = protobuf.sides(protobuf.message(value), 1)
        elif number in legacy:
            legacy[number] = protobuf.number(value)
    return files.numbers(data, f"<f{size}", list(legacy.values()) if shape is None else shape)

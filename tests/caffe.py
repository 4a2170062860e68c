"""Caffe's file format, written by hand, and OpenCV's reader of it: it shares no code with ours."""

from __future__ import annotations

import numpy as np

from tests.weights.mutations import varint


def caffemodel(layers: dict[str, tuple[str, list[np.ndarray]]]) -> bytes:
    """A NetParameter with one LayerParameter for each name: its type and its blobs.

    The field numbers are those of caffe.proto: NetParameter.layer = 100; LayerParameter.name = 1,
    .type = 2, .blobs = 7; BlobProto.data = 5, .shape = 7; BlobShape.dim = 1.
    """
    return b"".join(
        _field(
            100,
            _field(1, name.encode()) + _field(2, kind.encode()) + b"".join(_field(7, _blob(b)) for b in blobs),
        )
        for name, (kind, blobs) in layers.items()
    )


def forward(prototxt: str, layers: dict[str, tuple[str, list[np.ndarray]]], x: np.ndarray) -> np.ndarray:
    """What OpenCV's importer makes of the network: `x` and, if of four axes, the result are NHWC.

    `prototxt` holds the layers alone, the first of which reads the blob "data".
    """
    import cv2

    n, h, w, c = x.shape
    head = "".join(f"input_dim: {side}\n" for side in (n, c, h, w))
    text = f'name: "test"\ninput: "data"\n{head}{prototxt}'.encode()
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text, np.uint8), np.frombuffer(caffemodel(layers), np.uint8))
    net.setInput(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32))
    y = net.forward()
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def _blob(values: np.ndarray) -> bytes:
    shape = b"".join(varint(side) for side in values.shape)
    return _field(5, values.astype("<f4").tobytes()) + _field(7, _field(1, shape))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field (wire type 2): messages, strings and packed numbers alike."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload

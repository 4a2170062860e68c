"""A trained network for others to run: a SavedModel, ONNX, or its weights with all that their use takes."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import tensorflow as tf

from barenets import UserError
from barenets.ops import named_variables
from barenets.train.data.pipeline import decode_alone
from barenets.train.model import Model, use
from barenets.weights import Weights, files
from barenets.weights.npy import write_npz
from barenets.weights.safetensors import write_safetensors


def format_of(path: str) -> str:
    """The format that a name asks for: what is no .onnx, .npz or .safetensors is the folder of a SavedModel."""
    ending = os.path.splitext(path)[1].removeprefix(".")
    return ending if ending in FORMATS else "savedmodel"


def export(model: Model, path: str, form: str | None = None) -> None:
    """Writes `model` to `path`, a folder for a SavedModel or else a file, in the format `form`, one of FORMATS.

    It is there whole or not at all. None: as `format_of` has it. Raises UserError if something is at `path` already,
    if it cannot be written, or if what the format takes is not installed; ValueError for another format.
    """
    form = form or format_of(path)
    if form not in FORMATS:
        raise ValueError(f"there is no format {form!r}; there are {', '.join(FORMATS)}")
    path = path.rstrip("/")
    if tf.io.gfile.exists(path):
        raise UserError(f"{path}: is there already; choose another --out, or remove it")
    FORMATS[form](model, path)


def _saved_model(model: Model, path: str) -> None:
    """A SavedModel with two signatures, `serving_default` for encoded pictures, `pictures` for decoded ones."""
    names, preprocessing = tf.constant(model.class_names), model.preprocessing
    side = preprocessing.crop

    def answers(pictures: tf.Tensor, picture: Callable[[tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        crops = tf.map_fn(
            lambda given: preprocessing.centre_crop(picture(given)),
            pictures,
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32),
        )
        shares, classes = tf.math.top_k(_probabilities(model, crops), len(model.class_names))
        return {"names": tf.gather(names, classes), "classes": classes, "probabilities": shares}

    def encoded(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        return answers(encoded, decode_alone)

    def decoded(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return answers(pictures, tf.identity)

    saved = tf.Module()
    saved.weights = _variables(model)
    with _inlined(), files.new_folder(path) as folder:
        signatures = {
            "serving_default": _graph(encoded, tf.TensorSpec([None], tf.string, "encoded")),
            "pictures": _graph(decoded, tf.TensorSpec([None, None, None, 3], tf.float32, "pictures")),
        }
        tf.saved_model.save(saved, folder, signatures)


def _onnx(model: Model, path: str) -> None:
    """An ONNX file for crops of pictures; names, and how to crop, are its metadata: ONNX resizes in another way."""
    try:
        import tf2onnx
    except ImportError:
        raise UserError("ONNX is written by tf2onnx: pip install 'barenets[onnx]'") from None

    function = tf.function(lambda pictures: {"probabilities": _probabilities(model, pictures)}, autograph=False)
    pictures = tf.TensorSpec([None, *model.net.input_shape], tf.float32, "pictures")
    with _inlined():
        proto, _ = tf2onnx.convert.from_function(function, [pictures])
    for key, value in {"class_names": model.class_names, "preprocessing": model.preprocessing.to_json()}.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    with files.replacing(path) as file:
        file.write(proto.SerializeToString())


def _weights(write: Callable[[str, Weights], None], model: Model, path: str) -> None:
    """A weight file that `--weights` needs no other option for."""
    write(path, Weights({name: v.numpy() for name, v in _variables(model).items()}, use=use(model)))


FORMATS: dict[str, Callable[[Model, str], None]] = {
    "savedmodel": _saved_model,
    "onnx": _onnx,
    "npz": partial(_weights, write_npz),
    "safetensors": partial(_weights, write_safetensors),
}
"""Name -> what writes it; all but the first are the endings of their files, too."""


def _variables(model: Model) -> dict[str, tf.Variable]:
    return named_variables(getattr(model.net, "net", model.net))  # those of a blend are its network's


def _probabilities(model: Model, crops: tf.Tensor) -> tf.Tensor:
    """float32 [N, classes] of pictures as they are cropped, float32 RGB 0..255 [N, side, side, 3]."""
    return tf.nn.softmax(model.net(model.preprocessing.normalized(crops)))


def _graph(function: Callable[..., Any], spec: tf.TensorSpec) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(spec)


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """What is traced has the operations of the functions that it calls, not calls of them.

    LRN calls one that XLA compiles, which not every server has, nor ONNX.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)

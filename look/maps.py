"""What single channels see: first-layer kernels, feature maps, and the pictures that move a channel most."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.look.explain import no_such_map


def filters(kernel: Any) -> np.ndarray:
    """Kernels as pictures, uint8 RGB [n, h, w, 3], of float [h, w, channels, n], each over its own range.

    Of one channel they are grey; of three they have colours, the channels taken for red, green and blue; of others each
    pair of an input and an output channel is a picture of its own, output after output.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4:
        raise ValueError(f"a kernel is [height, width, in, out], got shape {kernel.shape}")
    tiles = kernel.transpose(3, 0, 1, 2)
    if tiles.shape[-1] != 3:
        tiles = np.repeat(tiles.transpose(0, 3, 1, 2).reshape(-1, *kernel.shape[:2])[..., None], 3, -1)
    return _bytes(tiles)


def _bytes(tiles: np.ndarray) -> np.ndarray:
    """Each tile over its own range; one value in all of it is middle grey."""
    low, high = (f(tiles, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    shares = np.divide(tiles - low, high - low, out=np.full_like(tiles, 0.5), where=high > low)
    return np.rint(255 * shares).astype(np.uint8)


def _map(net: Any, images: tf.Tensor, layer: str) -> tf.Tensor:
    outputs: dict[str, tf.Tensor] = {}
    net(images, tap=lambda name, x: outputs.setdefault(name, x))
    if layer not in outputs:
        raise UserError(no_such_map(layer, list(outputs)))
    found = outputs[layer]
    return found if found.shape.rank == 4 else found[:, None, None]


def _reader(net: Any, layer: str) -> Callable[[Any], tf.Tensor]:
    """`_map` of pictures, traced: what the network does after `layer` is not computed, and no other map is kept."""
    spec = tf.TensorSpec([None, *net.input_shape], tf.float32)
    return tf.function(lambda images: _map(net, images, layer), [spec], autograph=False)


def tap_map(net: Any, images: Any, layer: str) -> np.ndarray:
    """The activation `layer` of pictures, float32 [N, H, W, channels]; a vector's height and width are 1.

    Raises UserError, with the nearest names, if there is none.
    """
    return _reader(net, layer)(images).numpy()


def feature_maps(net: Any, image: Any, layer: str) -> np.ndarray:
    """The channels of a map for one picture [*net.input_shape], as grey pictures uint8 [channels, H, W, 3]."""
    found = tap_map(net, image[None], layer)[0].transpose(2, 0, 1)
    return _bytes(np.repeat(found[..., None], 3, -1))


@dataclass(frozen=True)
class Place:
    """Where in a set of pictures a channel is largest."""

    record: int
    """Index of the picture."""
    row: int
    column: int
    """In the map."""
    value: float


def maximally_activating(
    net: Any,
    batches: Iterable[Any],
    layer: str,
    channels: Sequence[int],
    top: int = 8,
    advance: Callable[[int], None] = lambda pictures: None,
) -> dict[int, list[Place]]:
    """Of each channel of the map `layer`, the `top` pictures in which it is largest anywhere, the largest first.

    `batches` have `images`, as the network takes them, and `indices`. Only the best places are kept in memory. Raises
    UserError for an unknown layer or channel.
    """
    best: dict[int, list[Place]] = {channel: [] for channel in channels}
    read = _reader(net, layer)
    for batch in batches:
        found = read(batch.images).numpy()
        if bad := [channel for channel in channels if not 0 <= channel < found.shape[-1]]:
            raise UserError(f"{layer} has the channels 0 to {found.shape[-1] - 1}, and not {bad[0]}")
        for channel, places in best.items():
            flat = found[..., channel].reshape(len(found), -1)
            where = flat.argmax(1)
            rows, columns = np.divmod(where, found.shape[2])
            values = flat[np.arange(len(flat)), where]
            some = zip(batch.indices, rows, columns, values, strict=True)
            places += [Place(int(i), int(row), int(column), float(value)) for i, row, column, value in some]
            places.sort(key=lambda place: (-place.value, place.record))
            del places[top:]
        advance(len(batch.indices))
    return best


def depends_on(net: Any, images: Any, layer: str, channels: Sequence[int], places: Sequence[Place]) -> np.ndarray:
    """What of each picture a channel's value at a place in the map `layer` depends on.

    int [N, 4], the rows top to bottom and the columns left to right, the ends left out, outside of which the value's
    gradient with respect to the picture is 0. It lies within the theoretical receptive field, and is smaller by what a
    ReLU or a max pool shuts out. All are 0 where nothing moves the value, as where a ReLU is 0.
    """
    images = tf.convert_to_tensor(images, tf.float32)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        at = [[i, place.row, place.column, c] for i, (c, place) in enumerate(zip(channels, places, strict=True))]
        values = tf.gather_nd(_map(net, images, layer), at)
    moves = (tape.gradient(values, images).numpy() != 0).any(-1)
    return np.array([[*_extent(picture.any(1)), *_extent(picture.any(0))] for picture in moves])


def _extent(line: np.ndarray) -> tuple[int, int]:
    """The first true one, and the one behind the last."""
    where = np.flatnonzero(line)
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)


def outlined(pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """uint8 RGB [N, H, W, 3], and the boxes of `depends_on` drawn on it in yellow, two pixels wide."""
    result = pictures.copy()
    for picture, (top, bottom, left, right) in zip(result, boxes, strict=True):
        inner = picture[top + 2 : bottom - 2, left + 2 : right - 2].copy()
        picture[top:bottom, left:right] = 255, 220, 0
        picture[top + 2 : bottom - 2, left + 2 : right - 2] = inner
    return result

"""What single channels see: first-layer kernels, feature maps, and the pictures that move a channel most."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.look.activations import Watch
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


def tap_map(net: Any, images: Any, layer: str) -> np.ndarray:
    """The activation `layer` of pictures, float32 [N, H, W, channels]; a vector's height and width are 1.

    Raises UserError, with the nearest names, if there is none.
    """
    watch = Watch()
    net(tf.convert_to_tensor(images, tf.float32), tap=watch)
    if layer not in watch.outputs:
        raise UserError(no_such_map(layer, list(watch.outputs)))
    found = watch.outputs[layer].numpy()
    return found if found.ndim == 4 else found[:, None, None]


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
    for batch in batches:
        found = tap_map(net, batch.images, layer)
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

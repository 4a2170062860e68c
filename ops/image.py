"""What a picture goes through before a network sees it."""

from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Preprocessing:
    """How a set of weights wants its pictures; it belongs to the weights, not to the network.

    A decoded picture (uint8 RGB [H, W, 3]) is resized, cropped, put into `channels` order, divided by
    `scale`, less `mean`, divided by `std`. `mean` and `std` are in the order of `channels`.
    """

    crop: int
    """Side of the square that the network sees, in pixels."""
    resize: int
    """Side to resize to before the crop: the shorter one if `keep_aspect`, else both."""
    keep_aspect: bool = True
    antialias: bool = True
    """Shrinking averages over all pixels (Pillow, torchvision), or else samples four (OpenCV, Caffe)."""
    channels: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"channels must be 'RGB' or 'BGR', not {self.channels!r}")
        if self.resize < self.crop:
            raise ValueError(f"cannot crop {self.crop} pixels out of {self.resize}")
        # JSON gives lists; tuples compare and hash.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def resized(self, image: tf.Tensor) -> tf.Tensor:
        """float32 [H', W', 3] in 0..255 from a decoded picture, large enough to crop from."""
        image = tf.ensure_shape(image, [None, None, 3])
        if self.keep_aspect:
            size = tf.shape(image)[:2]
            shorter = tf.reduce_min(size)
            # Rounds down as torchvision does: int(resize * longer / shorter).
            target = tf.maximum(size * self.resize // shorter, self.resize)
        else:
            target = tf.constant([self.resize, self.resize])
        return tf.image.resize(image, target, "bilinear", antialias=self.antialias)

    def centre_crop(self, image: tf.Tensor) -> tf.Tensor:
        """The middle [crop, crop, 3] of a resized picture."""
        offset = (tf.shape(image)[:2] - self.crop) // 2
        return self.crop_at(image, offset)

    def random_crop(self, image: tf.Tensor, rng: tf.Tensor) -> tf.Tensor:
        """A [crop, crop, 3] of a resized picture, each place as likely; `rng` is a seed, int32 [2]."""
        room = tf.shape(image)[:2] - self.crop + 1
        place = tf.random.stateless_uniform([2], rng, 0, 1 << 30, tf.int32)
        return self.crop_at(image, place % room)

    def crop_at(self, image: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        begin = tf.concat([offset, [0]], 0)
        return tf.slice(image, begin, [self.crop, self.crop, 3])

    def normalized(self, images: tf.Tensor) -> tf.Tensor:
        """What the network takes, from float RGB 0..255 of any leading shape."""
        if self.channels == "BGR":
            images = images[..., ::-1]
        return (images / self.scale - tf.constant(self.mean, tf.float32)) / tf.constant(self.std, tf.float32)

    def pictures(self, inputs: tf.Tensor) -> tf.Tensor:
        """uint8 RGB pictures back from the network's inputs, to be looked at."""
        images = (inputs * tf.constant(self.std, tf.float32) + tf.constant(self.mean, tf.float32)) * self.scale
        if self.channels == "BGR":
            images = images[..., ::-1]
        return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)

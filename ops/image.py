"""What a picture goes through before a network sees it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import tensorflow as tf

from barenets.ops.crops import ten_crop


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
        """The fields; `Preprocessing(**fields)` is the same again."""
        return asdict(self)

    def resized(self, image: tf.Tensor) -> tf.Tensor:
        """float32 [H', W', 3] in 0..255 from a decoded picture, large enough to crop from."""
        image = tf.ensure_shape(image, [None, None, 3])
        return tf.image.resize(image, tf.cast(self._sides(image), tf.int32), "bilinear", antialias=self.antialias)

    def room(self, image: tf.Tensor) -> tf.Tensor:
        """int64 [2], how far down and to the right in `resized(image)` a crop can begin; 0 is always possible."""
        return self._sides(image) - self.crop

    def framed(self, image: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """`crop_at(resized(image), offset)` to float32 rounding, without what the crop leaves out where that costs."""
        image = tf.ensure_shape(image, [None, None, 3])
        was, sides = tf.shape(image)[:2], self._sides(image)

        def window() -> tf.Tensor:
            result = tf.raw_ops.ScaleAndTranslate(  # what tf.image.resize calls when it averages
                images=image[None],
                size=[self.crop, self.crop],
                scale=tf.cast(sides, tf.float32) / tf.cast(was, tf.float32),
                translation=-tf.cast(offset, tf.float32),
                kernel_type="triangle",
                antialias=self.antialias,
            )
            return tf.ensure_shape(result[0], [self.crop, self.crop, 3])

        if self.antialias:
            return window()
        # Four pixels for each are sampled at twice the speed by the op that makes the whole picture; but of a
        # picture of 1 × 30,000 the whole would be gigabytes.
        if not self.keep_aspect:
            return self.crop_at(self.resized(image), offset)
        excess = tf.reduce_max(sides) > 8 * self.resize
        return tf.cond(excess, window, lambda: self.crop_at(self.resized(image), offset))

    def centre_crop(self, image: tf.Tensor) -> tf.Tensor:
        """The middle [crop, crop, 3] of the resized picture, float32 in 0..255, from a decoded picture."""
        return self.framed(image, self.room(image) // 2)

    def ten_crops(self, image: tf.Tensor) -> tf.Tensor:
        """float32 [10, crop, crop, 3] in 0..255: `ten_crop` of the resized picture's middle square of side `resize`."""
        return ten_crop(replace(self, crop=self.resize).centre_crop(image), self.crop)

    def crop_at(self, image: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        """[crop, crop, 3] of `image` [H, W, 3], with its upper left corner at `offset`, integers [2]."""
        begin = tf.concat([offset, [0]], 0)
        return tf.slice(image, begin, [self.crop, self.crop, 3])

    def normalized(self, images: tf.Tensor) -> tf.Tensor:
        """What the network takes, from float RGB 0..255 of any leading shape, [..., W, 3]."""
        if self.channels == "BGR":
            images = tf.reverse(images, [-1])  # [..., ::-1] takes eight times as long
        if self.scale != 1:
            images /= self.scale
        # Repeated along the row: TensorFlow is three times as fast with 700 numbers than with 3.
        shape, width = tf.shape(images), images.shape[-2]
        rows = tf.reshape(images, tf.concat([shape[:-2], [-1]], 0))
        if any(self.mean):
            rows -= tf.tile(tf.constant(self.mean, tf.float32), [width or shape[-2]])
        if any(std != 1 for std in self.std):
            rows /= tf.tile(tf.constant(self.std, tf.float32), [width or shape[-2]])
        return tf.reshape(rows, shape)

    def _sides(self, image: tf.Tensor) -> tf.Tensor:
        """int64 [2], height and width of the resized picture: of slivers they may not fit into 32 bits."""
        if not self.keep_aspect:
            return tf.constant([self.resize, self.resize], tf.int64)
        size = tf.shape(image, tf.int64)[:2]
        # Rounds down as torchvision does: int(resize * longer / shorter).
        return tf.maximum(size * self.resize // tf.reduce_min(size), self.resize)

    def pictures(self, inputs: tf.Tensor) -> tf.Tensor:
        """uint8 RGB pictures back from the network's inputs, to be looked at."""
        images = (inputs * tf.constant(self.std, tf.float32) + tf.constant(self.mean, tf.float32)) * self.scale
        if self.channels == "BGR":
            images = images[..., ::-1]
        return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)

"""From records to batches: decode, the weights' preprocessing, flip and crop, batch, prefetch.

Order and augmentation are pure functions of (seed, epoch, record), so an epoch can be taken up at any
place and gives the same batches. What is shuffled is the list of indices; memory holds no more decoded
pictures than two prefetched batches and the one or two that are being decoded.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops.dropout import fold_in
from barenets.ops.image import Preprocessing
from barenets.train.data.records import Records


class Batch(NamedTuple):
    images: tf.Tensor
    """float32 [N, crop, crop, 3], as the network takes them."""
    labels: tf.Tensor
    """int32 [N]."""
    indices: np.ndarray
    """int32 [N], which records these are."""
    position: int
    """How far into the epoch's order this batch reaches: where the next one starts."""


@dataclass
class Batches:
    """The batches of `records`, epoch by epoch; the last batch of an epoch may be smaller, none is dropped.

    With `augment`, each picture is cropped at a random place and flipped half of the time; otherwise it
    is cropped at the centre. Without `shuffle` the order is that of the records.
    """

    records: Records
    preprocessing: Preprocessing
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    augment: bool = False
    on_error: str = "stop"
    """What to do about a picture that cannot be decoded: "stop" names it, "skip" leaves it out and lists it."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Path -> reason, of the pictures that were left out so far."""

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the records in the order of this epoch: a pure function of (seed, epoch)."""
        if not self.shuffle:
            return np.arange(len(self.records), dtype=np.int32)
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.records)).astype(np.int32)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position `start` of its order on.

        Raises UserError that names the file if a picture cannot be decoded and `on_error` is "stop".
        """
        order = self.order(epoch)
        place = np.argsort(order)
        batches = iter(self._dataset(order[start:], epoch))
        position = start
        while True:
            try:
                images, labels, indices = next(batches)
            except StopIteration:
                break
            except tf.errors.OpError as error:
                self._name_culprit(order[position:])
                raise UserError(f"{self.records.source}: cannot be read ({reason(error)})") from error
            read = indices.numpy()
            end = int(place[read[-1]]) + 1
            self._note_skipped(set(order[position:end]) - set(read))
            position = end
            yield Batch(images, labels, read, position)
        self._note_skipped(set(order[position:]))

    def _dataset(self, order: np.ndarray, epoch: int) -> tf.data.Dataset:
        paths, labels = np.array(self.records.paths), self.records.labels
        seed = tf.constant([self.seed, epoch], tf.int32)

        @tf.autograph.experimental.do_not_convert  # nothing to convert, and looking for it takes a second
        def load(index: tf.Tensor, path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, ...]:
            picture = self.preprocessing.resized(decode(tf.io.read_file(path)))
            if self.augment:
                rng = tf.random.fold_in(seed, index)
                picture = self.preprocessing.random_crop(picture, fold_in(rng, "crop"))
                picture = tf.image.stateless_random_flip_left_right(picture, fold_in(rng, "flip"))
            else:
                picture = self.preprocessing.centre_crop(picture)
            return self.preprocessing.normalized(picture), label, index

        dataset = tf.data.Dataset.from_tensor_slices((order, paths[order], labels[order]))
        dataset = dataset.map(load, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
        if self.on_error == "skip":
            dataset = dataset.ignore_errors()
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread can keep an epoch that is over waiting for up to a minute
        return dataset.batch(self.batch_size).prefetch(2).with_options(options)

    def _name_culprit(self, indices: np.ndarray) -> None:
        """Raises UserError for the first record that cannot be decoded; it is in the batch that failed."""
        for index in indices[: self.batch_size]:
            path = self.records.paths[index]
            if reason := unreadable(path):
                raise UserError(
                    f"{path}: cannot be read as a picture ({reason}); mend or remove it, or go on without it "
                    "with --on-error skip (`barenets data check` lists all such files)"
                )

    def _note_skipped(self, indices: set[np.int32]) -> None:
        for index in indices:
            path = self.records.paths[index]
            self.skipped.setdefault(path, unreadable(path) or "could not be read at the time")


def decode(content: tf.Tensor) -> tf.Tensor:
    """uint8 RGB [H, W, 3] of the bytes of a JPEG, PNG, BMP or GIF (its first frame)."""
    return tf.io.decode_image(content, channels=3, expand_animations=False)


def unreadable(path: str) -> str | None:
    """Why the picture at `path` cannot be decoded, in a few words; None if it can."""
    try:
        decode(tf.io.read_file(path))
    except tf.errors.NotFoundError:
        return "there is no such file"
    except tf.errors.OpError as error:
        return reason(error)
    return None


def reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says went wrong, in one line and without the names of its nodes."""
    return re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])[:200]

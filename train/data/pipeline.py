"""From records to batches: read, decode, frame and change each picture, the weights' preprocessing, batch, prefetch.

Everything is a pure function of (seed, epoch, record, how often the record came before in this epoch), so an epoch
can be taken up at any place, on any number of workers, and gives the same batches. What is shuffled is the list of
indices: memory holds the records' names (and pixels, where a set keeps them), and of decoded pictures no more
than four batches and the one or two of each worker that it is at.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops.image import Preprocessing
from barenets.ops.replicas import boundary
from barenets.train.data import augment
from barenets.train.data.augment import Policy
from barenets.train.data.records import Records
from barenets.train.data.samplers import InOrder, Sampler
from barenets.train.data.steps import Blend, CentreCrop, Frame

MOST_PIXELS = 100_000_000
"""What a picture may claim to have: three bytes of memory for each would be taken before it is found to lie."""
MOST_ASPECT = 1000
"""How many times longer than the other a side may be: resizing makes rows, and of slivers these would be gigabytes."""
_MOST_COPIED = 64_000_000
"""Bytes of pixels that TensorFlow gets a copy of: rows of MNIST come half as fast from NumPy."""


class Batch(NamedTuple):
    """Pictures with their labels, and where they come from."""

    images: tf.Tensor
    """float32 [N, crop, crop, 3], as the network takes them; [N, 10, crop, crop, 3] of ten crops."""
    labels: tf.Tensor
    """int32 [N]; or float32 [N, classes], the share of each class, if the policy mixes labels."""
    indices: np.ndarray
    """int32 [N], which records these are."""
    position: int
    """How far into the epoch's order this batch reaches: where the next one starts."""


@dataclass
class Batches:
    """The batches of `records`, epoch by epoch; the last batch of an epoch may be smaller, none is dropped.

    Without a policy, pictures are cropped at the centre. At most four batches of decoded pictures are in memory, two
    of them ready, and a picture or two (with a Blend, the second too) for each worker: some 40 MB for each
    batch of 64 pictures of 227 × 227.
    """

    records: Records
    preprocessing: Preprocessing
    batch_size: int
    seed: int = 0
    sampler: Sampler = field(default_factory=InOrder)
    """In which order, and how often, the records come."""
    policy: Policy = ()
    """What is done to each picture, see `augment`."""
    ten_crop: bool = False
    """Ten pieces of each picture, `Preprocessing.ten_crops`, in place of its middle; without a policy."""
    on_error: str = "stop"
    """What to do about a picture that cannot be decoded: "stop" names it, "skip" leaves it out and lists it."""
    workers: int | None = None
    """Pictures that are made at a time; None: as many as there are cores. The batches do not depend on it."""
    part: tuple[int, int, int] = (0, 1, 1)
    """Which parts of every batch are made: the first, the one after the last, and of how many, see
    `replicas.boundary`. The order, what happens to each picture, and `position` are those of whole batches."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Path -> reason, of the pictures that were left out so far."""

    def __post_init__(self) -> None:
        if self.part[2] > 1 and (self.on_error == "skip" or self.batch_size < self.part[2]):
            raise ValueError(
                "parts of batches go together only if no picture is left out, and have one picture at least"
            )
        if self.ten_crop and self.policy:
            raise ValueError("pictures are either augmented or shown in ten crops")
        policy = augment.checked(self.policy)
        self.policy = policy if policy and isinstance(policy[0], Frame) else (CentreCrop(), *policy)

    @property
    def blends(self) -> tuple[Blend, ...]:
        """The steps of the policy that need a second picture for each."""
        return tuple(step for step in self.policy if isinstance(step, Blend))

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the records in the order of this epoch: a pure function of (seed, epoch)."""
        return self.sampler.order(self.records.labels, epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position `start` of its order on.

        Raises UserError that names the file if a picture cannot be decoded and `on_error` is "stop".
        """
        order, times, partners = self._drawn(epoch)
        places = np.arange(start, len(order), dtype=np.int32)
        parts = self.part[2]
        if parts > 1:
            whole = np.split(places, range(self.batch_size, len(places), self.batch_size))
            places = np.concatenate([self._own(batch) for batch in whole])
        dataset = self._dataset(order, times, partners, epoch, places)
        batches, position = iter(dataset), start
        while True:
            try:
                images, labels, indices, places = next(batches)
            except StopIteration:
                break
            except tf.errors.OpError as error:
                for place in range(position, min(position + self.batch_size, len(order))):
                    self._name_culprit([order[place], *partners[place]])
                raise UserError(f"{self.records.source}: cannot be read ({reason(error)})") from error
            if parts > 1:
                position = min(position + self.batch_size, len(order))
                yield Batch(images, labels, indices.numpy(), position)
                continue
            read = places.numpy()
            for place in sorted(set(range(position, read[-1])) - set(read.tolist())):
                self._note_skipped(order[place], partners[place])
            position = int(read[-1]) + 1
            yield Batch(images, labels, indices.numpy(), position)
        if parts > 1 and position < len(order):  # the last batch has nothing for this part
            empty = [tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in dataset.element_spec]
            yield Batch(empty[0], empty[1], empty[2].numpy(), len(order))
            return
        for place in range(position, len(order)):
            self._note_skipped(order[place], partners[place])

    def _own(self, batch: np.ndarray) -> np.ndarray:
        """Of what belongs to a whole batch, what belongs to this part."""
        first, after, parts = self.part
        return batch[boundary(len(batch), first, parts) : boundary(len(batch), after, parts)]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order, how often each record came before in it, and with which record each Blend puts it together.

        The last is int32 [len(order), blends], never the record itself if its class, or the data set, has another.
        """
        order, labels = self.order(epoch), self.records.labels
        times = occurrences(order)
        partners = np.empty((len(order), len(self.blends)), np.int32)
        for column, blend in enumerate(self.blends):
            mates = labels if blend.partner == "class" else np.zeros_like(labels)
            by_class = np.argsort(mates, kind="stable")
            first, count = np.searchsorted(mates[by_class], [mates, mates + 1])
            count -= first
            rank = np.empty_like(by_class)
            rank[by_class] = np.arange(len(labels))
            others = np.maximum(count - 1, 1)[order]  # the only one of its class goes with itself
            ahead = 1 + scrambled(self.seed, epoch, column, order, times) % others.astype(np.uint64)
            ahead = (rank[order] - first[order] + ahead.astype(np.int64)) % count[order]
            partners[:, column] = by_class[first[order] + ahead]
        return order, times, partners

    def _dataset(
        self, order: np.ndarray, times: np.ndarray, partners: np.ndarray, epoch: int, places: np.ndarray
    ) -> tf.data.Dataset:
        """The batches of the pictures at `places` of the order, int32."""
        seeds = self._seeds(order, times, epoch)
        dataset = tf.data.Dataset.from_tensor_slices((places, order[places], seeds[places], partners[places]))
        dataset = dataset.map(self._load, num_parallel_calls=self.workers or os.cpu_count() or 1, deterministic=True)
        if self.on_error == "skip":
            dataset = dataset.ignore_errors()
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread can keep an epoch that is over waiting for up to a minute
        size = len(self._own(np.arange(self.batch_size)))
        return dataset.batch(size).prefetch(2).with_options(options)

    def _seeds(self, order: np.ndarray, times: np.ndarray, epoch: int) -> np.ndarray:
        """int64 [len(order), 2], what `uniform` draws each picture's numbers from."""
        of_epoch = np.full(len(order), scrambled(self.seed, epoch)).astype(np.int64)
        return np.stack([of_epoch, order.astype(np.int64) << 32 | times], 1)

    @cached_property
    def _load(self) -> Callable[..., tuple[tf.Tensor, ...]]:
        """What makes image, label, index and place of a place in the order, a record, its seed and its partners."""
        frame, draws = self.policy[0], sum(step.draws for step in self.policy)
        assert isinstance(frame, Frame)
        steps = zip(self.policy, augment.offsets(self.policy), strict=True)
        blends = [(step, columns) for step, columns in steps if isinstance(step, Blend)]
        mixing = [i for i, blend in enumerate(self.blends) if blend.mixes]
        picture, labels = self._reader(), tf.constant(self.records.labels)

        def framed(index: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
            return frame.frame(picture(index), self.preprocessing, u)

        # A tf.function, so that it is traced once and not in each epoch; without AutoGraph, which finds nothing to
        # convert and takes a second to look for it.
        @partial(tf.function, autograph=False)
        def load(place: tf.Tensor, index: tf.Tensor, seed: tf.Tensor, partners: tf.Tensor) -> tuple[tf.Tensor, ...]:
            if self.ten_crop:
                pieces = self.preprocessing.ten_crops(picture(index))
                return self.preprocessing.normalized(pieces), tf.gather(labels, index), index, place
            # The last of the numbers frame the second pictures.
            numbers = [draws] + [frame.draws] * len(blends)
            u, *own = tf.split(uniform(sum(numbers), seed), numbers)
            image = framed(index, u[: frame.draws])
            others = []
            for i, (blend, columns) in enumerate(blends):
                second = partial(framed, partners[i], own[i])
                others.append(tf.cond(blend.wanted(u[columns]), second, lambda: image)[None])
            # Picture by picture and not by batch: it stays in the processor's cache, and workers share the work.
            images, share = augment.changed(self.policy, image[None], u[None], others)
            label = tf.gather(labels, index)
            if mixing:
                mixed = tf.one_hot([label, tf.gather(labels, partners[mixing[0]])], self.records.num_classes)
                label = share[0] * mixed[0] + (1 - share[0]) * mixed[1]
            return self.preprocessing.normalized(images)[0], label, index, place

        return load

    def _reader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """What gives the decoded picture, uint8 [H, W, 3], of a record's index."""
        records = self.records
        if records.pixels is not None:
            row, times = _rows(records.pixels), 3 // records.pixels.shape[3]
            return lambda index: tf.repeat(row(index), times, 2)
        if records.spans is None:
            paths = tf.constant(records.paths)
            return lambda index: decode(tf.io.read_file(tf.gather(paths, index)))

        # A FixedLengthRecordDataset of one record does without Python and takes five times as long.
        def within(index: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(records.content, [index], tf.string, stateful=False), [])

        return lambda index: decode(within(index))

    def _unreadable(self, index: int) -> str | None:
        """What is wrong with a record's picture, in a few words; None if it can be decoded."""
        try:
            decode(self.records.content(index))
        except tf.errors.NotFoundError:
            return "there is no such file"
        except tf.errors.OpError as error:
            return reason(error)
        return None

    def _name(self, index: int) -> str:
        path = self.records.paths[index]
        return path if self.records.spans is None else f"{path} byte {self.records.spans[index, 0]}"

    def _name_culprit(self, indices: Iterable[int]) -> None:
        """Raises UserError for the first of the records `indices` that cannot be decoded."""
        for index in indices:
            if problem := self._unreadable(index):
                raise UserError(
                    f"{self._name(index)}: cannot be read as a picture ({problem}); mend or remove it, or go on "
                    "without it with --on-error skip (`barenets data check` lists all such files)"
                )

    def _note_skipped(self, index: int, partners: Iterable[int]) -> None:
        """Notes which picture is to blame that a place in the order was left out: the record's, or a partner's."""
        problems = {self._name(i): problem for i in (index, *partners) if (problem := self._unreadable(i))}
        for name, problem in (problems or {self._name(index): "could not be read at the time"}).items():
            self.skipped.setdefault(name, problem)


def _rows(pixels: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """What gives `pixels[index]`. Many pixels stay where they are, in NumPy's memory or in a file that is mapped."""
    if pixels.nbytes <= _MOST_COPIED:
        with tf.device("CPU"):
            copied = tf.constant(pixels)
        return lambda index: copied[index]

    def row(index: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(lambda i: pixels[i], [index], tf.uint8, stateful=False)
        return tf.ensure_shape(found, pixels.shape[1:])

    return row


def uniform(count: int, seed: tf.Tensor) -> tf.Tensor:
    """float32 [count] in [0, 1), the numbers that a picture's steps draw, of its seed, int64 [2]."""
    return tf.random.stateless_uniform([count], seed, alg="philox")


def occurrences(order: np.ndarray) -> np.ndarray:
    """int32, how often each entry of `order` came before: 0 everywhere if none repeats."""
    sorting = np.argsort(order, kind="stable")
    ordered = order[sorting]
    times = np.empty(len(order), np.int32)
    times[sorting] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return times


def scrambled(*values: int | np.ndarray) -> np.ndarray:
    """uint64 of the arrays' shape, as good as random, of whole numbers and arrays of them (SplitMix64's mixing)."""
    state = np.zeros(1, np.uint64)  # not a scalar: NumPy would warn that these overflow, as they are meant to
    for value in values:
        state = state + np.asarray(value).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def decode(content: tf.Tensor) -> tf.Tensor:
    """uint8 RGB [H, W, 3] of the bytes of a JPEG, PNG, BMP, GIF (its first frame) or WebP (from TensorFlow 2.20 on).

    Grey and CMYK become RGB, 16 bits become their upper 8, alpha is left out. As TensorFlow does, it takes the pixels
    as they are stored, whatever Exif says about turning them. Raises InvalidArgumentError for what is none of these,
    for a picture that is cut short, and, before memory is taken for it, for one that claims more than MOST_PIXELS or
    MOST_ASPECT.
    """
    head = tf.strings.substr(content, 0, 32)
    jpeg = tf.strings.substr(head, 0, 3) == b"\xff\xd8\xff"
    gif = tf.strings.substr(head, 0, 4) == b"GIF8"  # whose frames, anywhere in the file, have sides of their own
    height, width = tf.unstack(
        tf.cond(
            jpeg,
            lambda: tf.cast(tf.io.extract_jpeg_shape(content), tf.int64)[:2],
            lambda: tf.ensure_shape(
                tf.numpy_function(
                    _claimed,
                    [tf.expand_dims(tf.cond(gif, lambda: content, lambda: head), 0)],
                    tf.int64,
                    stateful=False,
                ),
                [2],
            ),
        )
    )
    # TensorFlow decodes more, JPEG XL for one, of which nothing here knows what they claim.
    known = tf.raw_ops.Assert(
        condition=height >= 0, data=["Unknown image file format, it is no JPEG, PNG, BMP, GIF or WebP"]
    )
    with tf.control_dependencies([known]):
        return tf.io.decode_image(_bounded(content, height, width), channels=3, expand_animations=False)


def decode_alone(content: tf.Tensor) -> tf.Tensor:
    """As `decode`, but without Python, so that the graph runs elsewhere too, and of JPEG and PNG only."""
    jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
    png = tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n"
    head = tf.strings.substr(content, 0, 24) + 24 * b"\0"  # which claims nothing where the file is shorter
    sides = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    is_either = tf.raw_ops.Assert(condition=jpeg | png, data=["is neither a JPEG nor a PNG"])
    with tf.control_dependencies([is_either]):
        width, height = tf.unstack(
            tf.cast(tf.cond(jpeg, lambda: tf.io.extract_jpeg_shape(content)[1::-1], lambda: sides), tf.int64), 2
        )
    return tf.io.decode_image(_bounded(content, height, width), channels=3, expand_animations=False)


def _bounded(content: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`content`, once it is known that a picture of these sides, int64, may be decoded."""
    claims = [f"claims more than the {MOST_PIXELS:,} pixels that are decoded:", height, "×", width]
    # The op itself: tf.debugging.Assert says it in several lines where it runs eagerly.
    few = tf.raw_ops.Assert(condition=height * width <= MOST_PIXELS, data=claims)
    claims = [f"has sides of which one is more than {MOST_ASPECT:,} times the other:", height, "×", width]
    square = tf.minimum(height, width) * MOST_ASPECT >= tf.maximum(height, width)
    stout = tf.raw_ops.Assert(condition=square, data=claims)
    with tf.control_dependencies([few, stout]):
        return tf.identity(content)


_SIDES = (  # where a file of this beginning has its width and its height
    (rb"\x89PNG\r\n\x1a\n.{8}(.{4})(.{4})", lambda x: int.from_bytes(x, "big")),
    (rb"BM.{16}(.{4})(.{4})", lambda x: abs(int.from_bytes(x, "little", signed=True))),
    (rb"RIFF.{4}WEBPVP8X.{8}(...)(...)", lambda x: int.from_bytes(x, "little") + 1),
    (rb"RIFF.{4}WEBPVP8 .{10}(..)(..)", lambda x: int.from_bytes(x, "little") & 0x3FFF),
)
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF")


def _claimed(contents: np.ndarray) -> np.ndarray:
    """int64 [2], height and width that a file claims; 0 where it does not, for the decoder to judge; -1 for no picture.

    Of a GIF the whole is looked at, else the first 32 bytes.
    """
    content: bytes = contents[0]  # a scalar would be bytes in a graph and an array outside
    if content.startswith(b"GIF8"):
        return _claimed_by_frames(content)
    if match := re.match(rb"RIFF.{4}WEBPVP8L.{5}(.{4})", content, re.DOTALL):
        bits = int.from_bytes(match[1], "little")
        return np.array([(bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1])
    for pattern, number in _SIDES:
        if match := re.match(pattern, content, re.DOTALL):
            return np.array([number(match[2]), number(match[1])])
    return np.full(2, 0 if not content or content.startswith(_BEGINNINGS) else -1)


def _claimed_by_frames(content: bytes) -> np.ndarray:
    """As `_claimed`, of a GIF: TensorFlow looks at the frames, all of them, and not at what the screen is said to be.

    The picture is as high and wide as the largest, and each frame takes a byte for a pixel. Where these would
    be more than a picture may take, the frames count as if each lay below the one before.
    """
    heights, widths = [0], [0]
    at = 13 + _colours(content[10:11])
    while (kind := content[at : at + 1]) in (b",", b"!"):  # a frame, an extension
        if kind == b",":
            widths.append(int.from_bytes(content[at + 5 : at + 7], "little"))
            heights.append(int.from_bytes(content[at + 7 : at + 9], "little"))
            at += 11 + _colours(content[at + 9 : at + 10])
        else:
            at += 2
        while size := int.from_bytes(content[at : at + 1], "little"):
            at += 1 + size
        at += 1
    many = np.dot(heights, widths) > 3 * MOST_PIXELS
    return np.array([sum(heights) if many else max(heights), max(widths)])


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that a GIF's flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says went wrong, in one line and without the names of its nodes."""
    text = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", error.message.splitlines()[0])[:200]
    # Of an assertion that fails the values are printed each in its own brackets.
    return re.sub(r"[\[\]]", "", text.partition("assertion failed: ")[2]) or text

"""Two classifiers together, by a weighted mean of their probabilities, as the dog article blends its two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from barenets.ops import Tap, wide
from barenets.train.data import Batches
from barenets.train.evaluate import LEAST, Evaluation


@dataclass(frozen=True)
class Blend:
    """What two classifiers reach whose probabilities are averaged with one weight."""

    weight: float
    """Of the first classifier; the second has the rest of 1."""
    top1: float
    loss: float
    """Mean of −log of the true class's probability, in nats."""


def search(first: np.ndarray, second: np.ndarray, labels: np.ndarray, steps: int = 101) -> Blend:
    """The best of the weights 0, 1 / (steps − 1), ..., 1 of `first` in weight · first + (1 − weight) · second.

    `first` and `second` are probabilities, floating [N, classes], `labels` integers [N]. The best has most pictures
    right; of several, the smallest loss, to a billionth; of several still, it is nearest to 1/2. Raises ValueError
    for other shapes, no pictures, or fewer than two steps.
    """
    if first.shape != second.shape or first.shape[:1] != labels.shape or not len(labels):
        raise ValueError(f"probabilities {first.shape} and {second.shape} of labels {labels.shape} do not go together")
    if steps < 2:
        raise ValueError(f"a search takes at least 2 steps, got {steps}")
    first, second = first.astype(np.float64), second.astype(np.float64)
    weights = np.linspace(0, 1, steps)[:, None]  # [steps, 1]
    # Weight by weight: all mixtures at once would be `steps` times the memory.
    correct = np.array([(((w * first + (1 - w) * second).argmax(1)) == labels).sum() for w in weights])
    rows = np.arange(len(labels))
    own = weights * first[rows, labels] + (1 - weights) * second[rows, labels]  # [steps, N]
    losses = -np.log(np.maximum(own, LEAST)).mean(1)
    off_centre = np.abs(2 * np.arange(steps) - (steps - 1))
    best = np.lexsort([off_centre, losses.round(9), -correct])[0]  # the last key counts first
    return Blend(float(weights[best, 0]), float(correct[best] / len(labels)), float(losses[best]))


class Blended:
    """The blend of a network's last classifier, which counts `weight`, and of the one that a tap sees as `name`.

    The logits are the logarithms of weight · softmax(last) + (1 − weight) · softmax(other); for evaluation only.
    """

    def __init__(self, net: Any, name: str, weight: float) -> None:
        """Raises ValueError if the weight is not from 0 to 1."""
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of a blend lies in [0, 1], got {weight}")
        self.net, self.name, self.weight = net, name, weight
        self.input_shape = net.input_shape

    def __call__(
        self, x: tf.Tensor, *, train: bool = False, rng: tf.Tensor | None = None, tap: Tap | None = None
    ) -> tf.Tensor:
        """Logits [N, classes] of pictures [N, *input_shape]. Raises ValueError if a tap sees no such name."""
        last, other = _logits(partial(self.net, train=train, rng=rng), x, [self.name], tap)
        shares = tf.math.log([[[self.weight]], [[1 - self.weight]]])
        return tf.reduce_logsumexp(shares + tf.nn.log_softmax([last, other]), 0)


class Classifiers:
    """The last classifier of a network, "", and those that a tap sees as `names`; traced once."""

    def __init__(self, net: Any, names: Sequence[str] = (), *, xla: bool = False) -> None:
        self._names = ("", *names)
        images = tf.TensorSpec([None, *net.input_shape], tf.float32)
        compiled = partial(tf.function, autograph=False, jit_compile=xla or None)
        judge = compiled(lambda images: tf.nn.softmax(_logits(net, images, names)))
        # At once, and not at the first call: of many such functions TensorFlow would say that one is traced too often.
        self._judge = judge.get_concrete_function(images)

    def probabilities(
        self, batches: Batches, progress: Callable[[int], None] = lambda pictures: None
    ) -> dict[str, np.ndarray]:
        """What each says of each picture of `batches`: float32 [pictures, classes], in the order of `batches.epoch(0)`.

        Beside them "indices", int32 [pictures], says which records these are: pictures that cannot be read are left
        out where `batches` skips them. `progress` is told how many pictures each batch had. Raises ValueError if the
        tap does not see one of the names.
        """
        judged = [np.zeros([len(self._names), 0, batches.records.num_classes], np.float32)]
        indices = [np.zeros(0, np.int32)]
        for batch in batches.epoch(0):
            judged.append(self._judge(batch.images).numpy())
            indices.append(batch.indices)
            progress(len(batch.indices))
        found = dict(zip(self._names, np.concatenate(judged, 1), strict=True))
        return {**found, "indices": np.concatenate(indices)}


class BlendEvaluator:
    """Judges a network by the best blend of its last classifier and of the one that a tap sees as `name`."""

    def __init__(self, net: Any, name: str, *, xla: bool = False) -> None:
        self._name = name
        self._classifiers = Classifiers(net, [name], xla=xla)

    def evaluate(
        self, batches: Batches, progress: Callable[[int], None] = lambda pictures: None
    ) -> tuple[Evaluation, Blend]:
        """The blend that `search` finds on the pictures of `batches`, and the result with it on these very pictures."""
        found = self._classifiers.probabilities(batches, progress)
        labels = batches.records.labels[found["indices"]]
        blend = search(found[""], found[self._name], labels)
        mixed = blend.weight * found[""] + (1 - blend.weight) * found[self._name]
        return Evaluation.of(mixed, labels, batches.records.class_names, batches.skipped), blend


def _logits(net: Any, images: tf.Tensor, names: Sequence[str], tap: Tap | None = None) -> list[tf.Tensor]:
    """The logits of the last classifier and of those that a tap sees as `names`, all at least float32."""
    if not names:  # a wrapper of a network takes no tap
        return [wide(net(images))]
    seen: dict[str, tf.Tensor] = {}

    def look(name: str, x: tf.Tensor) -> tf.Tensor:
        seen[name] = x
        return x if tap is None else tap(name, x)

    last = net(images, tap=look)
    if missing := [name for name in names if name not in seen]:
        raise ValueError(f"the network has no classifier {', '.join(missing)} outside training")
    return [wide(logits) for logits in (last, *(seen[name] for name in names))]

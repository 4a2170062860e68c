"""How often a network is right, and about what."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import printable
from barenets.ops import softmax_cross_entropy
from barenets.train.data import Batches

LEAST = float(np.finfo(np.float32).tiny)
"""What a probability counts as, at least, where its logarithm is wanted: softmax may round one to 0."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result on a set of pictures."""

    loss: float
    """Mean softmax cross-entropy, in nats."""
    confusion: np.ndarray
    """int64 [classes, classes]: row, the true class; column, the predicted one."""
    top5_correct: int
    """How many have their class among the five likeliest."""
    class_names: tuple[str, ...]
    skipped: dict[str, str]
    """Path -> reason, of the pictures that could not be read."""

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        skipped: Mapping[str, str] | None = None,
    ) -> "Evaluation":
        """The result of a classifier that gave these probabilities, floating [N, classes].

        `labels` are integers [N]. A probability of 0 counts as `LEAST` in the loss.
        """
        confusion = np.zeros([len(class_names)] * 2, np.int64)
        np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
        own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        top5 = int(((probabilities > own[:, None]).sum(1) < 5).sum())
        losses = -np.log(np.maximum(own, LEAST)).sum()
        return cls(float(losses) / max(len(labels), 1), confusion, top5, tuple(class_names), dict(skipped or {}))

    @property
    def count(self) -> int:
        """How many pictures were judged."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of them whose likeliest class is the right one; 0 of none."""
        return float(np.trace(self.confusion)) / max(self.count, 1)

    @property
    def top5(self) -> float:
        """Share of them with the right class among the five likeliest; 0 of none."""
        return self.top5_correct / max(self.count, 1)

    @property
    def per_class(self) -> dict[str, float]:
        """Class name -> share of its pictures that were classified right; NaN where it has none."""
        counts = self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            shares = np.diag(self.confusion) / counts
        return dict(zip(self.class_names, shares.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """`top1`, `top5` and `per_class` are shares, 0 to 1."""
        return {
            "count": self.count,
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "per_class": {name: share for name, share in self.per_class.items() if share == share},
            "classes": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "skipped": self.skipped,
        }

    def __str__(self) -> str:
        lines = [f"{self.count} pictures: top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f}"]
        present = np.flatnonzero(self.confusion.sum(1))
        width = max((len(self.class_names[i]) for i in present), default=0)
        shares = self.per_class
        for i in present:
            wrong = self.confusion[i].copy()
            wrong[i] = 0
            mistaken = f"  most often taken for {self.class_names[wrong.argmax()]}" if wrong.any() else ""
            name, count = self.class_names[i], self.confusion[i].sum()
            lines.append(f"  {name:<{width}}  {shares[name]:8.2%} of {count}{mistaken}")
        if len(self.class_names) <= 12:
            lines += ["confusion (row: true class, column: predicted)", *self._matrix()]
        lines += [printable(f"not read: {path} ({reason})") for path, reason in self.skipped.items()]
        return "\n".join(lines)

    def _matrix(self) -> list[str]:
        names = self.class_names
        cell = max(6, *(len(name) + 1 for name in names), len(str(self.confusion.max())) + 1)
        head = " " * (cell + 2) + "".join(f"{name:>{cell}}" for name in names)
        rows = (
            f"  {name:<{cell}}" + "".join(f"{n:>{cell}}" for n in self.confusion[i]) for i, name in enumerate(names)
        )
        return [head, *rows]


class Evaluator:
    """Judges a network again and again, as it trains; traced once, and with `xla` compiled."""

    def __init__(self, net: Any, *, xla: bool = False) -> None:
        def judge(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            logits = net(images)
            loss = tf.reduce_sum(softmax_cross_entropy(labels, logits))
            within = tf.math.in_top_k(labels, logits, min(5, logits.shape[-1]))
            return loss, tf.argmax(logits, 1, tf.int32), tf.math.count_nonzero(within)

        signature = [tf.TensorSpec([None, *net.input_shape], tf.float32), tf.TensorSpec([None], tf.int32)]
        self._judge = tf.function(judge, input_signature=signature, autograph=False, jit_compile=xla or None)

    def evaluate(self, batches: Batches, progress: Callable[[int], None] = lambda pictures: None) -> Evaluation:
        """Runs every picture of `batches` through the network; `progress` is told how many each batch had."""
        classes = batches.records.num_classes
        confusion = np.zeros((classes, classes), np.int64)
        losses, top5 = 0.0, 0
        for batch in batches.epoch(0):
            loss, predicted, within = self._judge(batch.images, batch.labels)
            np.add.at(confusion, (batch.labels.numpy(), predicted.numpy()), 1)
            losses, top5 = losses + float(loss), top5 + int(within)
            progress(len(batch.indices))
        mean = losses / max(int(confusion.sum()), 1)
        return Evaluation(mean, confusion, top5, batches.records.class_names, dict(batches.skipped))


def evaluate(
    net: Any, batches: Batches, progress: Callable[[int], None] = lambda pictures: None, *, xla: bool = False
) -> Evaluation:
    """What `Evaluator(net, xla=xla).evaluate` gives, for a network that is judged once."""
    return Evaluator(net, xla=xla).evaluate(batches, progress)


class TenCropped:
    """A network that looks at ten crops of each picture, [N, 10, H, W, 3], and averages its probabilities over them.

    AlexNet's way (2012 paper, section 4.1). The logits are the logarithms of the averages; for evaluation only.
    """

    def __init__(self, net: Any) -> None:
        self._net = net
        self.input_shape = (10, *net.input_shape)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        each = tf.nn.log_softmax(self._net(tf.reshape(images, [-1, *self._net.input_shape])))
        return tf.reduce_logsumexp(tf.reshape(each, [-1, 10, each.shape[-1]]), 1) - math.log(10)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, the likeliest first."""

    path: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    net: Any, batches: Batches, class_names: Sequence[str], top: int = 5, *, xla: bool = False
) -> Iterator[Prediction]:
    """The `top` likeliest classes of each picture of `batches`, as they come; labels are not looked at."""
    probabilities = tf.function(
        lambda images: tf.nn.softmax(net(images)),
        input_signature=[tf.TensorSpec([None, *net.input_shape], tf.float32)],
        autograph=False,
        jit_compile=xla or None,
    )
    for batch in batches.epoch(0):
        values, indices = tf.math.top_k(probabilities(batch.images), min(top, len(class_names)))
        for record, likely, share in zip(batch.indices, indices.numpy(), values.numpy(), strict=True):
            names = tuple(class_names[i] for i in likely)
            yield Prediction(batches.records.paths[record], names, tuple(map(float, share)))

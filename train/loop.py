"""The training step, and what stops it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from barenets.look import activations, gradients
from barenets.look.activations import Watch
from barenets.ops import Tap, center_loss, fold_in, named_variables, softmax_cross_entropy
from barenets.train.optimizers import Optimizer


class StepResult(NamedTuple):
    """What a step of training says of itself."""

    loss: tf.Tensor
    """float32 scalar, the mean over the batch."""
    correct: tf.Tensor
    """int32 scalar, how many pictures of the batch were classified right, with dropout on."""
    finite: tf.Tensor
    """bool scalar; where it is false nothing was changed."""
    gradient_norm: tf.Tensor
    """float32 scalar, over all trained variables and before clipping."""
    seen: dict[str, Any]
    """What `gradients.observe` saw of each trained variable; empty if the step was not watched."""
    inside: dict[str, Any]
    """What `Report.note` takes of a step that was watched inside; empty if it was not."""


class Trainer:
    """Trains the variables `trained` (name -> variable) of `net` on the softmax cross-entropy of its logits.

    The step is a pure function of the variables, the batch, the step number and `seed`: dropout draws from
    (seed, step, layer). `clip_norm` limits the norm of all gradients together (Pascanu et al. 2013). All losses of
    a picture are multiplied by the weight of its class, one of `class_weights`; the mean is still over the pictures.

    With `accumulate` a batch goes through the network in so many pieces of equal size, the last one smaller if need be,
    one after the other: the same step, with the activations of one piece in memory. Only batch norm, which sees the
    pieces, makes it another one, and dropout draws from (seed, step, piece, layer).
    """

    def __init__(
        self,
        net: Any,
        trained: Mapping[str, tf.Variable],
        optimizer: Optimizer,
        *,
        seed: int = 0,
        clip_norm: float | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        accumulate: int = 1,
        exact: bool = False,
        eager: bool = False,
    ) -> None:
        """What is watched is a sample, of large tensors and of the pictures; with `exact` it is all, and the pictures'
        own gradient. With `eager` a step runs line by line, in Python, for a debugger to step through.

        Raises ValueError for a negative weight of a class and for fewer than one piece.
        """
        if accumulate < 1:
            raise ValueError(f"a batch goes through the network in at least 1 piece, got {accumulate}")
        if class_weights is not None and not all(weight >= 0 for weight in class_weights):
            raise ValueError(f"class weights must be 0 or more, got {list(class_weights)}")
        self.net, self.trained, self.optimizer = net, dict(trained), optimizer
        self.class_weights, self._accumulate = class_weights, accumulate
        self._seed, self._clip_norm, self._label_smoothing = seed, clip_norm, label_smoothing
        self._exact = exact
        self._auxiliary: Mapping[str, float] = getattr(net, "auxiliary", {})
        self._centers: Mapping[str, float] = getattr(net, "center_losses", {})
        self._frozen = {
            name: variable
            for name, variable in named_variables(net).items()
            if variable.trainable and name not in self.trained
        }
        self._statistics = [variable for variable in named_variables(net).values() if not variable.trainable]

        def compiled(labels: tf.TensorSpec, level: int) -> Any:
            images, step = tf.TensorSpec([None, *net.input_shape], tf.float32), tf.TensorSpec([], tf.int32)
            signature = [images, labels, step, tf.TensorSpec([], tf.float32)]
            step_at = partial(self._step, level=level)
            # Without AutoGraph, which would take seconds and find nothing to convert.
            return step_at if eager else tf.function(step_at, input_signature=signature, autograph=False)

        kinds = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None], tf.float32)
        self._steps, self._soft_steps = ([compiled(kind, level) for level in range(3)] for kind in kinds)

    def step(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        step: int,
        learning_rate: float,
        *,
        watch: bool = False,
        inside: bool = False,
    ) -> StepResult:
        """One step on `images`, float32 [N, *net.input_shape], and `labels`, int32 [N] or float32 [N, classes].

        Labels of floats are the share of each class, as mixup makes them; the largest counts for `correct`.

        With `watch`, histograms and sizes of the very gradients that are applied come with the result; with `inside`
        also what every layer gave, what came back to it, and how far the pictures' own gradients are apart. Neither
        changes the step. Of a batch in pieces, `inside` sees the first.
        """
        labels = tf.convert_to_tensor(labels)
        steps = {tf.int32: self._steps, tf.float32: self._soft_steps}.get(labels.dtype)
        if steps is None:
            raise TypeError(f"labels are int32 or float32, got {labels.dtype.name}")
        level = 2 if inside else int(watch)
        return steps[level](images, labels, tf.constant(step, tf.int32), tf.constant(learning_rate, tf.float32))

    def _step(
        self, images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor, learning_rate: tf.Tensor, *, level: int
    ) -> StepResult:
        rng = tf.stack([self._seed, step])
        statistics = self.statistics()
        inside = Watch() if level == 2 else None
        correct, loss, applied = self._accumulated(images, labels, rng, inside)
        squares = {name: 2.0 * tf.nn.l2_loss(gradient) for name, gradient in applied.items()}
        seen_inside = self._seen_inside(inside, applied, squares) if inside else {}
        norm = tf.sqrt(tf.add_n(list(squares.values())))
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)  # a NaN anywhere makes the norm NaN
        if self._clip_norm is not None:
            shrink = self._clip_norm / tf.maximum(norm, self._clip_norm)
            applied = {name: gradient * shrink for name, gradient in applied.items()}
            squares = {name: square * shrink**2 for name, square in squares.items()}

        def apply() -> tf.Tensor:
            self.optimizer.apply(applied, learning_rate)
            return tf.constant(True)

        def undo() -> tf.Tensor:  # what batch norm has already taken from the batch
            self.restore(statistics)
            return tf.constant(False)

        if not level:
            tf.cond(finite, apply, undo)
            seen = {}
        else:
            before = gradients.observe(self.trained, applied, squares, fold_in(rng, "sample"), exact=self._exact)
            with tf.control_dependencies(tf.nest.flatten(before)):  # done with the old values: no copy is made
                done = tf.cond(finite, apply, undo)
            with tf.control_dependencies([done]):
                seen = gradients.observe_update(self.trained, before)
        return StepResult(loss, correct, finite, norm, seen, seen_inside)

    def _seen_inside(
        self, watch: Watch, found: Mapping[str, tf.Tensor], squares: Mapping[str, tf.Tensor]
    ) -> dict[str, Any]:
        pictures = None if self._exact else activations.PICTURES
        of_pictures = activations.picture_squares(watch, found, pictures)
        assert watch.losses is not None
        return {
            "pictures": tf.shape(watch.losses[:pictures])[0],
            "activations": activations.statistics(watch, pictures),
            "squares": dict(squares),
            "picture_squares": of_pictures,
            "directions": gradients.directions(found),
            "losses": watch.losses,
            "frozen": {name: tf.nn.l2_loss(variable) for name, variable in self._frozen.items()},
        }

    def statistics(self) -> list[tf.Tensor]:
        """What the network's variables that do not train, batch norm's moving averages, are now."""
        return [tf.identity(variable) for variable in self._statistics]

    def restore(self, statistics: list[tf.Tensor]) -> None:
        """Takes back what a forward pass in training did to them."""
        for variable, value in zip(self._statistics, statistics, strict=True):
            variable.assign(value)

    def _accumulated(
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, watch: Watch | None
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """How many pictures were right, the loss, and its gradients, of a batch that goes through in pieces."""

        def found(images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, tap: Tap | None = None) -> tuple[Any, ...]:
            logits, loss, gradients = self._gradients(images, labels, rng, tap)
            if missing := [name for name, gradient in gradients.items() if gradient is None]:
                raise ValueError(f"the loss does not depend on {', '.join(missing)}: they cannot be trained")
            classes = tf.argmax(labels, 1, tf.int32) if labels.dtype.is_floating else labels
            correct = tf.math.count_nonzero(tf.argmax(logits, 1, tf.int32) == classes, dtype=tf.int32)
            return correct, loss, gradients

        count = tf.shape(images)[0]
        size = self._piece_size(count)

        def scaled(start: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
            correct, loss, gradients = found
            share = tf.cast(tf.minimum(size, count - start), tf.float32) / tf.cast(count, tf.float32)
            return correct, share * loss, {name: share * gradient for name, gradient in gradients.items()}

        first = found(*self._piece(images, labels, rng, 0, size), watch)
        if self._accumulate == 1:
            return first

        def add(start: tf.Tensor, correct: tf.Tensor, loss: tf.Tensor, sums: dict[str, tf.Tensor]) -> tuple[Any, ...]:
            right, more, gradients = scaled(start, found(*self._piece(images, labels, rng, start, size)))
            sums = {name: total + gradients[name] for name, total in sums.items()}
            return start + size, correct + right, loss + more, sums

        # One after the other, so that no two pieces are in memory.
        begun = (size, *scaled(0, first))
        _, correct, loss, sums = tf.while_loop(lambda start, *_: start < count, add, begun, parallel_iterations=1)
        return correct, loss, sums

    def _piece_size(self, count: Any) -> Any:
        return (count + self._accumulate - 1) // self._accumulate

    def _piece(
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, start: Any, size: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The pictures, labels and seed of the piece that begins with picture `start`."""
        if self._accumulate == 1:
            return images, labels, rng
        part = slice(start, start + size)
        return images[part], labels[part], tf.random.fold_in(rng, start, alg="philox")

    def _gradients(
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, tap: Tap | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Logits, loss, and the loss's gradient of each trained variable.

        Where the network has auxiliary classifiers and centers, their losses are part of the loss, each by its share.
        """
        others: dict[str, tf.Tensor] = {}

        def look(name: str, x: tf.Tensor) -> tf.Tensor:
            if name in self._auxiliary or name in self._centers:
                others[name] = x
            return x if tap is None else tap(name, x)

        watch = tap if isinstance(tap, Watch) else None
        if watch:
            look.enters = watch.enters  # type: ignore[attr-defined]

        def mean(losses: tf.Tensor) -> tf.Tensor:
            return tf.reduce_mean(losses if self.class_weights is None else losses * self._weights(labels, logits))

        def cross_entropy(logits: tf.Tensor) -> tf.Tensor:
            return mean(softmax_cross_entropy(labels, logits, self._label_smoothing))

        # The tape watches only what trains, so frozen layers below cost no backward pass.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(self.trained.values()))
            if watch and self._exact:
                tape.watch(images)
                watch(activations.INPUT, images)
            logits = self.net(images, train=True, rng=rng, tap=look)
            loss = cross_entropy(logits)
            for name, share in self._auxiliary.items():
                loss += share * cross_entropy(others[name])
            for name, share in self._centers.items():
                loss += share * mean(center_loss(labels, others[name]))
        if watch is None:
            return logits, loss, tape.gradient(loss, self.trained)
        found, watch.gradients = tape.gradient(loss, (self.trained, watch.outputs))
        watch.losses = softmax_cross_entropy(labels, logits)
        return logits, loss, found

    def _weights(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """What the loss of each picture counts, float32 [N]."""
        weights = tf.constant(self.class_weights, tf.float32)
        if weights.shape != logits.shape[1:]:
            raise ValueError(f"there are {weights.shape[0]} class weights, and {logits.shape[1]} classes")
        return tf.linalg.matvec(labels, weights) if labels.dtype.is_floating else tf.gather(weights, labels)


class DivergedError(ArithmeticError):
    """The loss or a gradient is not finite; the message names the first layer that has it."""


def first_nonfinite(trainer: Trainer, images: tf.Tensor, labels: tf.Tensor, step: int) -> str:
    """Where a step's first NaN or infinity is: a picture, a variable, an activation, the loss or a gradient.

    Runs the step again, eagerly and without changing anything, so it needs the same batch and variables. A batch in
    pieces is looked at piece by piece.
    Activations are looked at from the first layer up, gradients from the last layer down, as they arise.
    """

    def bad(x: tf.Tensor) -> bool:
        return not bool(tf.reduce_all(tf.math.is_finite(x)))

    if bad(images):
        return "the pictures"
    found: list[str] = []
    found += [f"the variable {name}" for name, variable in named_variables(trainer.net).items() if bad(variable)]

    def look(name: str, x: tf.Tensor) -> tf.Tensor:
        if bad(x):
            found.append(f"the activation of {name}")
        return x

    statistics = trainer.statistics()
    rng, count = tf.constant([trainer._seed, step]), len(images)
    size = trainer._piece_size(count)
    for start in range(0, count, size):
        _, loss, gradients = trainer._gradients(*trainer._piece(images, labels, rng, start, size), look)
        if not found and bad(loss):
            found.append("the loss")
        found += [f"the gradient of {name}" for name in reversed(gradients) if bad(gradients[name])]
        if found:
            break
    trainer.restore(statistics)
    return found[0] if found else "the norm of all gradients together, which overflows"

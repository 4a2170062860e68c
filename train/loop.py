"""The training step, and what stops it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from barenets.look import activations, gradients
from barenets.look.activations import Watch
from barenets.ops import Tap, center_loss, fold_in, named_variables, replicas, softmax_cross_entropy, wide
from barenets.train.distribute import Devices
from barenets.train.optimizers import Optimizer
from barenets.train.precision import InPrecision, LossScale


class StepResult(NamedTuple):
    """What a step of training says of itself."""

    loss: tf.Tensor
    """float32 scalar, the mean over the batch."""
    correct: tf.Tensor
    """int32 scalar, how many pictures of the batch were classified right, with dropout on."""
    count: tf.Tensor
    """int32 scalar, how many pictures the batch had, on all devices."""
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

    With `devices`, in whose scope the variables were made, each of them takes its part of the batch, and what is
    applied, returned and looked at is of all parts together: the same step but for rounding. `inside` sees the first.
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
        precision: str = "float32",
        xla: bool = False,
        devices: Devices | None = None,
    ) -> None:
        """What is watched is a sample, of large tensors and of the pictures; with `exact` it is all, and the pictures'
        own gradient. With `eager` a step runs line by line, in Python, for a debugger to step through.

        `precision`, one of `ops.PRECISIONS`, is what layers compute in; variables, gradients and losses are float32. In
        float16 `loss_scale` keeps small gradients, and `accepts` must be asked after each step. With `xla` the network,
        forwards and backwards, is compiled for each size of a piece.

        Raises ValueError for a negative weight of a class, for fewer than one piece, and for `eager` with `xla`.
        """
        if accumulate < 1:
            raise ValueError(f"a batch goes through the network in at least 1 piece, got {accumulate}")
        if class_weights is not None and not all(weight >= 0 for weight in class_weights):
            raise ValueError(f"class weights must be 0 or more, got {list(class_weights)}")
        self.net, self.trained, self.optimizer = net, dict(trained), optimizer
        if eager and xla:
            raise ValueError("a step runs line by line or compiled, not both")
        if devices and devices.replicas > 1 and xla:
            raise ValueError("within what XLA compiles, several devices cannot meet")
        self.class_weights, self._accumulate = class_weights, accumulate
        self._call = InPrecision(net, precision)
        self.loss_scale = LossScale() if precision == "float16" else None
        self._seed, self._clip_norm, self._label_smoothing = seed, clip_norm, label_smoothing
        self._exact = exact
        self._devices = devices or Devices()
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
            step_at = partial(self._devices.run, partial(self._step, level=level))
            # Without AutoGraph, which would take seconds and find nothing to convert.
            return step_at if eager else tf.function(step_at, input_signature=signature, autograph=False)

        # Not the whole step: XLA counts histograms slowly, and a loop over pieces, the last one smaller, not at all.
        self._of_piece = tf.function(self._piece_found, jit_compile=True, autograph=False) if xla else self._piece_found

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

        Where there are several workers, each gives its own part of the batch.
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
        count = replicas.total(tf.shape(labels)[0])
        correct, loss, applied, seen_inside = self._accumulated(images, labels, rng, count, level == 2)
        correct = replicas.total(correct)
        loss, applied = replicas.total((loss, applied))
        squares = {name: 2.0 * tf.nn.l2_loss(gradient) for name, gradient in applied.items()}
        if level == 2:
            frozen = {name: tf.nn.l2_loss(variable) for name, variable in self._frozen.items()}
            seen_inside |= {"squares": squares, "directions": gradients.directions(applied), "frozen": frozen}
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
        return StepResult(loss, correct, count, finite, norm, seen, seen_inside)

    def accepts(self, result: StepResult) -> bool:
        """Whether training can go on after the step that gave `result`; to be asked once after each.

        It can if the step was applied, or was left out because its gradients overflowed float16, which a loss scale
        that is smaller from now on may prevent. It can not where the loss itself is not finite: no scale mends that.
        """
        if self.loss_scale is None or not tf.math.is_finite(result.loss):
            return bool(result.finite)
        return self.loss_scale.update(bool(result.finite))

    def statistics(self) -> list[tf.Tensor]:
        """What the network's variables that do not train, batch norm's moving averages, are now."""
        return [tf.identity(variable) for variable in self._statistics]

    def restore(self, statistics: list[tf.Tensor]) -> None:
        """Takes back what a forward pass in training did to them."""
        for variable, value in zip(self._statistics, statistics, strict=True):
            replicas.assign(variable, value)

    def _accumulated(
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, count: tf.Tensor, inside: bool
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor], dict[str, Any]]:
        """`_piece_found` of a batch that goes through in pieces, added up; inside, of the first."""
        rows = tf.shape(labels)[0]
        size = self._piece_size(rows)

        def add(start: Any, *sums: Any) -> tuple[Any, ...]:
            *more, _ = self._of_piece(*self._piece(images, labels, rng, start, size), count)
            return start + size, *tf.nest.map_structure(tf.add, sums, tuple(more))

        # What is inside is looked at uncompiled: XLA would take minutes for the hundreds of small figures of a network.
        of_first = self._piece_found if inside else self._of_piece
        *found, seen = of_first(*self._piece(images, labels, rng, 0, size), count, inside)
        state = (size, *found)
        # One after the other, so that no two pieces are in memory.
        if self._accumulate > 1 and replicas.count() == 1:
            state = tf.while_loop(lambda start, *_: start < rows, add, state, parallel_iterations=1)
        elif self._accumulate > 1:  # replicas cannot meet in a loop of TensorFlow's
            for _ in range(1, self._accumulate):
                with tf.control_dependencies(tf.nest.flatten(state)):
                    state = add(*state)
        _, correct, loss, sums = state
        return correct, loss, sums, seen

    def _piece_found(
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, count: tf.Tensor, inside: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor], dict[str, Any]]:
        """How many pictures were right, their part in the loss of a batch of `count` and in its gradients.

        And what is seen inside, of one piece.
        """
        watch = Watch() if inside else None
        logits, loss, found = self._gradients(images, labels, rng, count, watch)
        if missing := [name for name, gradient in found.items() if gradient is None]:
            raise ValueError(f"the loss does not depend on {', '.join(missing)}: they cannot be trained")
        classes = tf.argmax(labels, 1, tf.int32) if labels.dtype.is_floating else labels
        correct = tf.math.count_nonzero(tf.argmax(logits, 1, tf.int32) == classes, dtype=tf.int32)
        if replicas.count() > 1:  # of no pictures TensorFlow's depthwise convolution gives what lay in memory
            some = tf.shape(labels)[0] > 0
            found = {name: tf.where(some, gradient, tf.zeros_like(gradient)) for name, gradient in found.items()}
        seen: dict[str, Any] = {}
        if watch:
            pictures = None if self._exact else activations.PICTURES
            assert watch.losses is not None
            seen = {
                "pictures": tf.shape(watch.losses[:pictures])[0],
                "activations": activations.statistics(watch, pictures),
                "picture_squares": activations.picture_squares(watch, self.trained, pictures),
                "losses": watch.losses,
            }
        return correct, loss, found, seen

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
        self, images: tf.Tensor, labels: tf.Tensor, rng: tf.Tensor, count: tf.Tensor, tap: Tap | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Logits, the pictures' part in the mean loss of `count`, and its gradient of each trained variable.

        Where the network has auxiliary classifiers and centers, their losses are part of the loss, each by its share.
        """
        others: dict[str, tf.Tensor] = {}

        def look(name: str, x: tf.Tensor) -> tf.Tensor:
            if name in self._auxiliary or name in self._centers:
                others[name] = tf.cast(x, tf.float32)
            return x if tap is None else tap(name, x)

        watch = tap if isinstance(tap, Watch) else None
        if watch:
            look.enters = watch.enters  # type: ignore[attr-defined]

        def mean(losses: tf.Tensor) -> tf.Tensor:
            losses = losses if self.class_weights is None else losses * self._weights(labels, logits)
            return tf.reduce_sum(losses) / tf.cast(count, losses.dtype)

        def cross_entropy(logits: tf.Tensor) -> tf.Tensor:
            return mean(softmax_cross_entropy(labels, logits, self._label_smoothing))

        # The tape watches only what trains, so frozen layers below cost no backward pass.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(self.trained.values()))
            if watch and self._exact:
                tape.watch(images)
                watch(activations.INPUT, images)
            logits = self._call(images, train=True, rng=rng, tap=look)
            loss = cross_entropy(logits)
            for name, share in self._auxiliary.items():
                loss += share * cross_entropy(others[name])
            for name, share in self._centers.items():
                loss += share * mean(center_loss(labels, others[name]))
        scale = self.loss_scale and tf.identity(self.loss_scale.variable)
        wanted = self.trained, watch.outputs if watch else {}
        found, back = tape.gradient(loss, wanted, output_gradients=scale)
        if scale is not None:
            found, back = ({n: g if g is None else wide(g) / scale for n, g in some.items()} for some in (found, back))
        if watch:  # which is shown the gradients of these pictures' mean
            share = tf.cast(count, tf.float32) / tf.cast(tf.shape(labels)[0], tf.float32)
            watch.gradients = {name: g if g is None else g * tf.cast(share, g.dtype) for name, g in back.items()}
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


def bad(x: tf.Tensor | tf.Variable) -> bool:
    """Whether a NaN or an infinity is among the values of `x`, floats of any shape."""
    return not bool(tf.reduce_all(tf.math.is_finite(x)))


def bad_variables(net: tf.Module) -> list[str]:
    """The names of the variables of `net` that have a NaN or an infinity, in the network's order."""
    return [name for name, variable in named_variables(net).items() if bad(variable)]


def first_nonfinite(trainer: Trainer, images: tf.Tensor, labels: tf.Tensor, step: int) -> str:
    """Where a step's first NaN or infinity is: a picture, a variable, an activation, the loss or a gradient.

    Runs the step again, eagerly and without changing anything, so it needs the same batch and variables. A batch in
    pieces is looked at piece by piece.
    Activations are looked at from the first layer up, gradients from the last layer down, as they arise.
    """

    if bad(images):
        return "the pictures"
    found: list[str] = []
    found += [f"the variable {name}" for name in bad_variables(trainer.net)]

    def look(name: str, x: tf.Tensor) -> tf.Tensor:
        if bad(x):
            found.append(f"the activation of {name}")
        return x

    statistics = trainer.statistics()
    rng, count = tf.constant([trainer._seed, step]), len(images)
    size = max(1, trainer._piece_size(count))
    for start in range(0, count, size):
        _, loss, gradients = trainer._gradients(*trainer._piece(images, labels, rng, start, size), count, look)
        if not found and bad(loss):
            found.append("the loss")
        found += [f"the gradient of {name}" for name in reversed(gradients) if bad(gradients[name])]
        if found:
            break
    trainer.restore(statistics)
    if not found and trainer._devices.replicas > 1:  # of several workers each looks at its own part of the batch
        return "what the devices made of it together, or another worker's part of the batch"
    return found[0] if found else "the norm of all gradients together, which overflows"

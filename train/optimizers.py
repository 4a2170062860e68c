"""SGD with momentum, Adam and RMSprop from TensorFlow's update kernels, averages, and learning-rate schedules.

Written out because the point is to see them. Each update is one fused pass over a variable.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import tensorflow as tf

from barenets import UserError
from barenets.ops import replicas

Schedule = Callable[[int], float]
"""Step, from 0 -> learning rate."""


class Optimizer(tf.Module):
    """Changes `variables` (name -> variable) by their gradients.

    `multipliers` scale the learning rate by name. `weight_decay` applies to kernels (`*/weights`), not to
    biases or batch norm, as in Caffe's prototxts.
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        *,
        weight_decay: float = 0.0,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self._variables = dict(variables)
        self._weight_decay = weight_decay
        self._multipliers = dict(multipliers or {})

    def apply(self, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor) -> None:
        """One step. `learning_rate` is a float32 scalar; a gradient has the shape of its variable."""
        for name, gradient in gradients.items():
            rate = learning_rate * self._multipliers.get(name, 1.0)
            decay = self._weight_decay if name.endswith("weights") else 0.0
            self._update(name, self._variables[name], gradient, rate, decay)

    def _update(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        raise NotImplementedError

    def _zeros(self) -> dict[str, tf.Variable]:
        return {name: tf.Variable(tf.zeros_like(v), trainable=False) for name, v in self._variables.items()}


class SGD(Optimizer):
    """v ← μ·v − rate·(g + decay·w);  w ← w + v, or with Nesterov  w ← w + μ·v − rate·(g + decay·w).

    The rate is inside v, as in the paper (Krizhevsky et al. 2012, section 5), Caffe and Keras; torch keeps
    it outside, which differs once the rate changes.
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(variables, weight_decay=weight_decay, multipliers=multipliers)
        self._momentum, self._nesterov = momentum, nesterov
        self.velocity = self._zeros() if momentum else {}

    def _update(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        if decay:
            gradient += decay * variable
        if not self._momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.velocity[name].handle,
            lr=rate,
            grad=gradient,
            momentum=self._momentum,
            use_nesterov=self._nesterov,
        )


class Adam(Optimizer):
    """m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← w − rate · √(1−β₂ᵗ)/(1−β₁ᵗ) · m / (√v + ε).

    Kingma and Ba 2015, the form before section 2.1, whose ε Keras and TensorFlow use too. Weight decay is
    decoupled, w ← w − rate·decay·w (Loshchilov and Hutter 2019).
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(variables, weight_decay=weight_decay, multipliers=multipliers)
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.first_moment, self.second_moment = self._zeros(), self._zeros()

    def apply(self, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor) -> None:
        replicas.assign(self.steps, self.steps + 1)
        super().apply(gradients, learning_rate)

    def _update(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        if decay:
            replicas.assign(variable, variable - rate * decay * variable)
        steps = tf.cast(self.steps, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.first_moment[name].handle,
            v=self.second_moment[name].handle,
            beta1_power=tf.pow(tf.cast(self._beta1, variable.dtype), steps),
            beta2_power=tf.pow(tf.cast(self._beta2, variable.dtype), steps),
            lr=rate,
            beta1=self._beta1,
            beta2=self._beta2,
            epsilon=self._epsilon,
            grad=gradient,
        )


class RMSprop(Optimizer):
    """s ← ρ·s + (1−ρ)·g²;  v ← μ·v + rate·g/√(s + ε);  w ← w − v, with g + decay·w in place of g.

    Tieleman and Hinton 2012, lecture 6e; ε inside the root, as in Keras and TensorFlow.
    """

    def __init__(
        self,
        variables: Mapping[str, tf.Variable],
        *,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(variables, weight_decay=weight_decay, multipliers=multipliers)
        self._rho, self._momentum, self._epsilon = rho, momentum, epsilon
        self.mean_square, self.velocity = self._zeros(), self._zeros()

    def _update(self, name: str, variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        if decay:
            gradient += decay * variable
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=self.mean_square[name].handle,
            mom=self.velocity[name].handle,
            lr=rate,
            rho=self._rho,
            momentum=self._momentum,
            epsilon=self._epsilon,
            grad=gradient,
        )


class Averaged(Optimizer):
    """`optimizer`, and averages of what it trains: after each step  a ← d·a + (1−d)·w.

    d is `decay`, but less in the first steps, min(decay, (1+t)/(10+t)), as in TensorFlow 1's
    ExponentialMovingAverage: so the first values are soon forgotten. Moving averages of batch norm are not averaged.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        """Raises ValueError unless 0 ≤ decay < 1."""
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averages must be at least 0 and below 1, got {decay}")
        super().__init__(optimizer._variables)
        self._decay = decay
        self.optimizer = optimizer
        self.averages = {name: tf.Variable(v, trainable=False) for name, v in self._variables.items()}
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)

    def apply(self, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor) -> None:
        """One step of the optimizer, and of the averages towards what it came to."""
        self.optimizer.apply(gradients, learning_rate)
        # 1 − min(decay, (1+t)/(10+t)), but 1 − decay is not rounded to what float32 holds near 1.
        rest = tf.maximum(1 - self._decay, 9 / (10 + tf.cast(self.updates, tf.float32)))
        for name, average in self.averages.items():
            replicas.assign(average, average - rest * (average - self._variables[name]))
        replicas.assign(self.updates, self.updates + 1)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The variables have the averages' values; afterwards, to the bit, their own."""
        own = {name: tf.identity(variable) for name, variable in self._variables.items()}
        try:
            self.settle()
            yield
        finally:
            for name, value in own.items():
                self._variables[name].assign(value)

    def settle(self) -> None:
        """Gives the variables the averages' values."""
        for name, average in self.averages.items():
            self._variables[name].assign(average)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}


def constant(rate: float) -> Schedule:
    """`rate` at every step."""
    return lambda step: rate


def steps(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """`rate`, times `factor` after each `every` steps (Caffe's lr_policy "step")."""
    return lambda step: rate * factor ** (step // every)


def cosine(rate: float, total: int) -> Schedule:
    """From `rate` down to 0 at step `total` along half a cosine (Loshchilov and Hutter 2017, equation 5)."""
    return lambda step: 0.5 * rate * (1 + math.cos(math.pi * min(step / total, 1.0)))


def warm_up(schedule: Schedule, length: int) -> Schedule:
    """`schedule`, but for its first `length` steps, which rise evenly to it (Goyal et al. 2017, section 2.2)."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / length) if length else schedule(step)


def schedule(name: str, rate: float, total: int, *, every: int = 0, factor: float = 0.1, warm: int = 0) -> Schedule:
    """The schedule called "constant", "step" or "cosine", over `total` steps of which `warm` warm up.

    Raises UserError for another name, a rate that is not positive, and "step" without `every`.
    """
    if not rate > 0:
        raise UserError(f"the learning rate must be positive, got {rate}")
    if name == "step" and every < 1:
        raise UserError("the step schedule needs to know after how many steps the rate drops: --decay-every N")
    schedules = {
        "constant": lambda: constant(rate),
        "step": lambda: steps(rate, every, factor),
        "cosine": lambda: cosine(rate, total),
    }
    if name not in schedules:
        raise UserError(f"there is no schedule {name!r}; there are {', '.join(schedules)}")
    return warm_up(schedules[name](), warm)

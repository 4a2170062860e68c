"""Each optimizer against its formula in float64, against Keras and against torch where those define the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, weights
from barenets.ops import named_variables
from barenets.train import optimizers
from barenets.train.optimizers import SGD, Adam, Averaged, Optimizer, RMSprop

SHAPES = {"conv1/weights": (3, 3, 2, 4), "conv1/biases": (4,), "bn1/gamma": (4,), "fc2/weights": (8, 5)}
STEPS = 10
CHANGING = [0.05 / (1 + t) for t in range(STEPS)]
STEADY = [0.05] * STEPS
FACTORS = {"conv1/biases": 2.0, "fc2/weights": 0.5, "bn1/gamma": 0.0}

# Ten float32 updates of values near 1: each rounds by 6e-8; Adam's 1 − β₂ᵗ starts at 1e-3 and so carries 6e-5 of
# a step of 0.05 into w.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

Values = dict[str, np.ndarray]


def start() -> Values:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients(step: int) -> Values:
    rng = np.random.default_rng([1, step])
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def variables() -> dict[str, tf.Variable]:
    return {name: tf.Variable(value) for name, value in start().items()}


Mode = Callable[[Callable[..., None]], Callable[..., None]]
MODES: dict[str, Mode] = {
    "eager": lambda apply: apply,
    "graph": lambda apply: tf.function(apply, autograph=False),
    "XLA": lambda apply: tf.function(apply, autograph=False, jit_compile=True),
}


def ours(
    make: type[Optimizer], rates: list[float] = CHANGING, mode: str = "eager", **options
) -> tuple[Values, Optimizer]:
    values = variables()
    optimizer = make(values, **options)
    apply = MODES[mode](optimizer.apply)
    for step, rate in enumerate(rates):
        apply({name: tf.constant(g) for name, g in gradients(step).items()}, tf.constant(rate, tf.float32))
    return {name: value.numpy() for name, value in values.items()}, optimizer


def assert_close(ours: Values, theirs: Values, **tolerance) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, err_msg=name, **(tolerance or CLOSE))


# The formulas, one variable at a time, in float64. A rule takes w, g, rate, decay, step from 1 and what it remembers.

Rule = Callable[[np.ndarray, np.ndarray, float, float, int, dict], np.ndarray]


def sgd(momentum: float = 0.9, nesterov: bool = False) -> Rule:
    def rule(w, g, rate, decay, t, memory):
        g = g + decay * w
        v = memory["v"] = momentum * memory.get("v", 0.0) - rate * g
        return w + momentum * v - rate * g if nesterov else w + v

    return rule


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-7) -> Rule:
    def rule(w, g, rate, decay, t, memory):
        m = memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
        v = memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g * g
        corrected = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        return w - rate * decay * w - corrected * m / (np.sqrt(v) + epsilon)

    return rule


def rmsprop(rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7) -> Rule:
    def rule(w, g, rate, decay, t, memory):
        g = g + decay * w
        s = memory["s"] = rho * memory.get("s", 0.0) + (1 - rho) * g * g
        v = memory["v"] = momentum * memory.get("v", 0.0) + rate * g / np.sqrt(s + epsilon)
        return w - v

    return rule


def by_formula(rule: Rule, rates: list[float] = CHANGING, decay: float = 0.0, factors: dict | None = None) -> Values:
    values = {name: value.astype(np.float64) for name, value in start().items()}
    memory: dict[str, dict] = {name: {} for name in values}
    for step, rate in enumerate(rates):
        for name, g in gradients(step).items():
            own_decay = decay if name.endswith("/weights") else 0.0
            own_rate = rate * (factors or {}).get(name, 1.0)
            values[name] = rule(values[name], g.astype(np.float64), own_rate, own_decay, step + 1, memory[name])
    return values


CASES: dict[str, tuple[type[Optimizer], dict, Rule]] = {
    "plain": (SGD, {"momentum": 0.0}, sgd(0.0)),
    "momentum": (SGD, {}, sgd()),
    "Nesterov": (SGD, {"momentum": 0.8, "nesterov": True}, sgd(0.8, nesterov=True)),
    "Adam": (Adam, {}, adam()),
    "Adam-other": (Adam, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.1}, adam(0.5, 0.9, 0.1)),
    "RMSprop": (RMSprop, {}, rmsprop()),
    "RMSprop-momentum": (
        RMSprop,
        {"rho": 0.8, "momentum": 0.7, "epsilon": 0.1},
        rmsprop(0.8, 0.7, 0.1),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("decay", "factors"), [(0.0, None), (0.1, FACTORS)], ids=["plain", "decay and multipliers"])
def test_formula(case, decay, factors):
    make, options, rule = CASES[case]
    values, _ = ours(make, weight_decay=decay, multipliers=factors, **options)
    assert_close(values, by_formula(rule, decay=decay, factors=factors))


@pytest.mark.parametrize("case", ["momentum", "Nesterov", "Adam", "RMSprop-momentum"])
def test_modes_agree(case):
    make, options, _ = CASES[case]
    eager, graph, xla = (ours(make, mode=mode, weight_decay=0.1, **options)[0] for mode in MODES)
    # The same kernels run eagerly and in a graph; XLA fuses multiplications and additions, a rounding less each.
    assert_close(graph, eager, rtol=0, atol=0)
    assert_close(xla, eager, rtol=1e-5, atol=1e-6)


# Keras has the same definitions, rate inside the momentum, ε where it is here. Its weight decay is decoupled in all
# of its optimizers, ours in Adam only.
KERAS = {
    "plain": (SGD, {"momentum": 0.0}, lambda: keras.optimizers.SGD()),
    "momentum": (SGD, {}, lambda: keras.optimizers.SGD(momentum=0.9)),
    "Nesterov": (SGD, {"nesterov": True}, lambda: keras.optimizers.SGD(momentum=0.9, nesterov=True)),
    "Adam": (Adam, {}, lambda: keras.optimizers.Adam()),
    "Adam-decay": (Adam, {"weight_decay": 0.1}, lambda: keras.optimizers.AdamW(weight_decay=0.1)),
    "RMSprop": (RMSprop, {}, lambda: keras.optimizers.RMSprop()),
    "RMSprop-momentum": (RMSprop, {"momentum": 0.7}, lambda: keras.optimizers.RMSprop(momentum=0.7)),
}


@pytest.mark.parametrize("case", KERAS)
def test_keras(case):
    make, options, theirs = KERAS[case]
    optimizer, values = theirs(), {name: keras.Variable(value) for name, value in start().items()}
    if "weight_decay" in options:
        optimizer.exclude_from_weight_decay([v for name, v in values.items() if not name.endswith("/weights")])
    optimizer.build(list(values.values()))
    for step, rate in enumerate(CHANGING):
        optimizer.learning_rate = rate
        pairs = zip(gradients(step).values(), values.values(), strict=True)
        optimizer.apply_gradients([(tf.constant(g), v) for g, v in pairs])
    assert_close(ours(make, **options)[0], {name: np.asarray(value) for name, value in values.items()})


# torch multiplies by the rate outside the momentum, which comes to the same while the rate does not change. Its Adam
# adds ε to √v̂ and its RMSprop to √s, so they agree at ε = 0; its decay is coupled in SGD and RMSprop, not in AdamW.
TORCH = {
    "plain": (SGD, {"momentum": 0.0}, CHANGING, lambda t, p: t.SGD(p)),
    "momentum": (SGD, {}, STEADY, lambda t, p: t.SGD(p, momentum=0.9)),
    "Nesterov": (SGD, {"nesterov": True}, STEADY, lambda t, p: t.SGD(p, momentum=0.9, nesterov=True)),
    "Adam": (Adam, {"epsilon": 0.0}, CHANGING, lambda t, p: t.AdamW(p, eps=0)),
    "RMSprop": (RMSprop, {"epsilon": 0.0}, CHANGING, lambda t, p: t.RMSprop(p, alpha=0.9, eps=0)),
    "RMSprop-momentum": (
        RMSprop,
        {"epsilon": 0.0, "momentum": 0.7},
        STEADY,
        lambda t, p: t.RMSprop(p, alpha=0.9, eps=0, momentum=0.7),
    ),
}


@pytest.mark.parametrize("case", TORCH)
def test_torch(case):
    torch, decay = pytest.importorskip("torch"), 0.1
    make, options, rates, theirs = TORCH[case]
    values = {name: torch.tensor(value, requires_grad=True) for name, value in start().items()}
    groups = [
        {"params": [v], "weight_decay": decay if name.endswith("/weights") else 0.0} for name, v in values.items()
    ]
    optimizer = theirs(torch.optim, groups)
    for step, rate in enumerate(rates):
        for group, value, g in zip(optimizer.param_groups, values.values(), gradients(step).values(), strict=True):
            group["lr"], value.grad = rate, torch.tensor(g)
        optimizer.step()
    expected = {name: value.detach().numpy() for name, value in values.items()}
    assert_close(ours(make, rates, weight_decay=decay, **options)[0], expected)


def test_torch_differs_once_the_rate_changes():
    """What the docstring of SGD says: the formula with the rate outside ends elsewhere."""
    values, momentum = start(), dict.fromkeys(SHAPES, 0.0)
    for step, rate in enumerate(CHANGING):
        for name, g in gradients(step).items():
            momentum[name] = 0.9 * momentum[name] + g
            values[name] = values[name] - rate * momentum[name]
    assert np.abs(ours(SGD)[0]["fc2/weights"] - values["fc2/weights"]).max() > 0.01


@pytest.mark.parametrize("make", [SGD, Adam, RMSprop])
def test_only_kernels_decay(make):
    """Without a gradient only the decay is left, and that of kernels only."""
    values = variables()
    optimizer = make(values, weight_decay=0.5)
    optimizer.apply({name: tf.zeros(shape) for name, shape in SHAPES.items()}, tf.constant(0.1))
    moved = {name for name, value in start().items() if (values[name].numpy() != value).any()}
    assert moved == {"conv1/weights", "fc2/weights"}


@pytest.mark.parametrize("make", [SGD, Adam, RMSprop])
def test_only_what_has_a_gradient_moves(make):
    values = variables()
    make(values).apply({"bn1/gamma": tf.ones([4])}, tf.constant(0.1))
    moved = {name for name, value in start().items() if (values[name].numpy() != value).any()}
    assert moved == {"bn1/gamma"}


@pytest.mark.parametrize(
    ("make", "options", "slots"),
    [
        (SGD, {"momentum": 0.0}, []),
        (SGD, {}, ["velocity"]),
        (Adam, {}, ["first_moment", "second_moment"]),
        (RMSprop, {}, ["mean_square", "velocity"]),
    ],
)
def test_slots_have_names(make, options, slots):
    """Checkpoints store them by these names; the variables that are trained are not among them."""
    found = named_variables(make(variables(), **options))
    names = ["steps"] * (make is Adam) + [f"{slot}/{name}" for slot in slots for name in SHAPES]
    assert list(found) == names
    assert not any(variable.trainable for variable in found.values())
    for name, variable in found.items():
        assert tuple(variable.shape) == SHAPES.get(name.partition("/")[2], ())
        assert not variable.numpy().any()


def test_slots_hold_what_the_formulas_say():
    momentum, adams, squares = (ours(make)[1] for make in (SGD, Adam, RMSprop))
    v = m = second = s = np.zeros(SHAPES["fc2/weights"])
    for step, rate in enumerate(CHANGING):
        g = gradients(step)["fc2/weights"].astype(np.float64)
        v, s = 0.9 * v - rate * g, 0.9 * s + 0.1 * g * g
        m, second = 0.9 * m + 0.1 * g, 0.999 * second + 0.001 * g * g
    for found, expected in (
        (momentum.velocity, v),
        (adams.first_moment, m),
        (adams.second_moment, second),
        (squares.mean_square, s),
    ):
        # 1 − 0.999 in float32 is off by 1.3e-5 of itself.
        np.testing.assert_allclose(found["fc2/weights"], expected, rtol=3e-5, atol=1e-6)
    assert adams.steps.numpy() == STEPS


def test_by_name():
    assert optimizers.OPTIMIZERS.items() == {"sgd": SGD, "adam": Adam, "rmsprop": RMSprop}.items()


# Schedules


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (optimizers.constant(0.1), {0: 0.1, 999: 0.1}),
        (optimizers.steps(0.8, 3), {0: 0.8, 2: 0.8, 3: 0.08, 5: 0.08, 6: 0.008}),
        (optimizers.steps(0.8, 1, 0.5), {0: 0.8, 1: 0.4, 4: 0.05}),
        (optimizers.cosine(0.4, 6), {0: 0.4, 2: 0.3, 3: 0.2, 4: 0.1, 6: 0.0, 7: 0.0}),
        (optimizers.warm_up(optimizers.constant(0.4), 4), {0: 0.1, 1: 0.2, 3: 0.4, 4: 0.4, 9: 0.4}),
        (optimizers.warm_up(optimizers.constant(0.4), 0), {0: 0.4, 1: 0.4}),
        (optimizers.warm_up(optimizers.steps(0.4, 2), 4), {1: 0.2, 2: 0.03, 3: 0.04, 4: 0.004}),
        (optimizers.schedule("constant", 0.4, 9, warm=2), {0: 0.2, 1: 0.4}),
        (optimizers.schedule("step", 0.4, 9, every=2), {1: 0.4, 2: 0.04}),
        (optimizers.schedule("step", 0.4, 9, every=2, factor=0.5), {1: 0.4, 2: 0.2, 4: 0.1}),
        (optimizers.schedule("cosine", 0.4, 6, warm=2), {0: 0.2, 2: 0.3, 3: 0.2, 6: 0.0}),
    ],
)
def test_schedules(schedule, values):
    found = {step: schedule(step) for step in values}
    assert found == pytest.approx(values, rel=1e-12, abs=1e-16)  # float64, a few operations


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_is_not_positive(rate):
    with pytest.raises(UserError, match=f"^the learning rate must be positive, got {rate}$"):
        optimizers.schedule("constant", rate, 9)


def test_schedules_that_do_not_exist():
    with pytest.raises(UserError, match=r"--decay-every N$"):
        optimizers.schedule("step", 0.1, 9)
    with pytest.raises(UserError, match=r"^there is no schedule 'linear'; there are constant, step, cosine$"):
        optimizers.schedule("linear", 0.1, 9)


# Averages


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_averages(decay):
    """Against TensorFlow 1's, and the formula in float64: .3 is reached in the fourth step, .9999 is not."""
    values = variables()
    averaged = Averaged(SGD(values, momentum=0.0), decay)
    apply = tf.function(averaged.apply, autograph=False)
    steps = tf.Variable(0)
    theirs = tf.train.ExponentialMovingAverage(decay, steps)
    theirs.apply(list(values.values()))
    w = {name: value.astype(np.float64) for name, value in start().items()}
    a = dict(w)
    for step, rate in enumerate(CHANGING):
        apply({name: tf.constant(g) for name, g in gradients(step).items()}, tf.constant(rate, tf.float32))
        steps.assign(step)
        theirs.apply(list(values.values()))
        d = min(decay, (1 + step) / (10 + step))
        for name, g in gradients(step).items():
            w[name] = w[name] - rate * g
            a[name] = d * a[name] + (1 - d) * w[name]
    for name, variable in values.items():
        np.testing.assert_allclose(averaged.averages[name], theirs.average(variable), rtol=1e-6, atol=1e-6)
        assert_close({name: averaged.averages[name].numpy()}, {name: a[name]}, rtol=1e-5, atol=1e-6)


def test_averages_of_a_slow_decay():
    """Far behind the warm-up: a step moves them by 1 − d of the way, of which float32's .99999 leaves 3 digits."""
    variable = tf.Variable([1.0])
    averaged = Averaged(SGD({"fc/biases": variable}, momentum=0.0), 0.99999)
    averaged.updates.assign(10**7)
    averaged.averages["fc/biases"].assign([0.0])
    averaged.apply({"fc/biases": tf.zeros([1])}, tf.constant(0.1))
    np.testing.assert_allclose(averaged.averages["fc/biases"], 1e-5, rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_cannot_be(decay):
    with pytest.raises(ValueError, match=f"^the decay of averages must be at least 0 and below 1, got {decay}$"):
        Averaged(SGD(variables()), decay)


def test_averages_have_names_and_go_on_where_they_were():
    """Saved and loaded by their names, as a checkpoint does, they go on to the bit."""

    def steps(optimizer: Optimizer, numbers: range) -> None:
        for step in numbers:
            optimizer.apply({name: tf.constant(g) for name, g in gradients(step).items()}, tf.constant(0.05))

    values, others = variables(), variables()
    first, second = (Averaged(Adam(v), 0.3) for v in (values, others))
    names = ["optimizer/steps"]
    names += [f"optimizer/{slot}/{name}" for slot in ("first_moment", "second_moment") for name in SHAPES]
    assert list(named_variables(first)) == [*names, *(f"averages/{name}" for name in SHAPES), "updates"]
    assert not any(variable.trainable for variable in named_variables(first).values())

    steps(first, range(3))
    for name, variable in others.items():
        variable.assign(values[name])
    weights.load(second, {name: variable.numpy() for name, variable in named_variables(first).items()})
    for optimizer in (first, second):
        steps(optimizer, range(3, 6))
    for name, variable in named_variables(first).items():
        assert named_variables(second)[name].numpy().tobytes() == variable.numpy().tobytes(), name


def test_averages_take_the_place_of_the_variables_for_a_while():
    values = variables()
    averaged = Averaged(Adam(values), 0.9)
    for step in range(3):
        averaged.apply({name: tf.constant(g) for name, g in gradients(step).items()}, tf.constant(0.05))
    own = {name: v.numpy() for name, v in values.items()}

    def look() -> None:
        with averaged.in_place():
            for name, v in values.items():
                np.testing.assert_array_equal(v, averaged.averages[name])
                assert (v.numpy() != own[name]).any()
            raise KeyError

    with pytest.raises(KeyError):
        look()
    for name, v in values.items():
        assert v.numpy().tobytes() == own[name].tobytes()
    averaged.settle()
    averaged.apply({name: tf.constant(g) for name, g in gradients(3).items()}, tf.constant(0.05))
    for name, v in values.items():  # they do not share their memory
        assert (v.numpy() != averaged.averages[name].numpy()).any()

"""What holds for every network of the registry: taps, batch norm, gradients, and three ways to run it."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets
from barenets.ops import BatchNorm, named_variables
from tests.nets.parity import agrees

LOGITS = 1e-5
"""Of the largest logit, as a single one may be near 0: float32 sums in another order; up to 4e-6 is seen."""
TRAINED_LOGITS = 5e-4
"""In training batch norm divides by what few pixels differ, which magnifies that; up to 7e-5 is seen."""
AVERAGE = 1e-4
"""Of the largest moving average of a layer, after a step in training; up to 3e-5 is seen."""

REGISTERED = [(name, variant) for name in nets.NETWORKS for variant in nets.variants(name)]
ONE_OF_EACH_CODE = [
    case for case in REGISTERED if not re.match(r"vgg1[36]|resnet1.*-(caffe|slim|keras)", "-".join(case))
]
"""VGG differs by its number of layers alone, and so does ResNet from 50 on, where all variants are."""


def marked(cases, fast):
    """Names such as resnet50-keras; those not in `fast` are slow."""
    return [
        pytest.param(case, id="-".join(case), marks=() if "-".join(case) in fast.split() else pytest.mark.slow)
        for case in cases
    ]


# What a trace shows; in a tf.Graph no weight is drawn and nothing is computed


@dataclass(frozen=True)
class Trace:
    """One call of a network with pictures of its own shape."""

    logits: tf.Tensor
    taps: dict[str, tf.Tensor]
    """What `tap` returned."""
    names: list[str]
    bypassed: set[str]
    """Taps whose activation is used by more than the tap, or whose result by nothing."""


def trace(net, **call):
    seen = []

    def tap(name, y):
        seen.append((name, y, tf.identity(y)))
        return seen[-1][-1]

    logits = net(tf.zeros([2, *net.input_shape]), tap=tap, **call)
    bypassed = {name for name, y, returned in seen if y.consumers() != [returned.op]}
    bypassed |= {name for name, _, returned in seen if not returned.consumers() and returned is not logits}
    return Trace(logits, {name: y for name, _, y in seen}, [name for name, *_ in seen], bypassed)


@dataclass(frozen=True)
class Traced:
    """A network of three classes, in its graph."""

    net: tf.Module
    inference: Trace
    training: Trace

    @property
    def auxiliary(self):
        return getattr(self.net, "auxiliary", {})

    def below_auxiliary(self, name):
        return name.startswith(tuple(f"{head.partition('/')[0]}/" for head in self.auxiliary))


GRAPHS = "alexnet-alexnet vgg11-paper googlenet-torchvision inception_v2-slim resnet18-torchvision"


@pytest.fixture(scope="module", params=marked(ONE_OF_EACH_CODE, GRAPHS))
def traced(request):
    name, variant = request.param
    with tf.Graph().as_default():
        net = nets.build(name, num_classes=3, variant=variant)
        inference = trace(net)
        training = trace(net, train=True, rng=tf.constant([1, 2]))
    return Traced(net, inference, training)


def test_logits_of_as_many_classes_as_asked_for(traced):
    heads = [traced.inference.logits, traced.training.logits, *map(traced.training.taps.get, traced.auxiliary)]
    assert {tuple(head.shape) for head in heads} == {(2, 3)}


def test_taps_have_names_of_their_own(traced):
    for names in (traced.inference.names, traced.training.names):
        assert len(set(names)) == len(names)


def test_training_sees_what_inference_does_and_the_auxiliary_heads(traced):
    rest = [name for name in traced.training.names if not traced.below_auxiliary(name)]
    assert rest == traced.inference.names
    assert (len(rest) < len(traced.training.names)) == bool(traced.auxiliary)


def test_every_layer_with_variables_is_tapped(traced):
    assert {name.rpartition("/")[0] for name in named_variables(traced.net)} <= set(traced.training.names)


def test_nothing_flows_past_a_tap(traced):
    assert not traced.inference.bypassed
    assert traced.training.bypassed == set(traced.auxiliary)  # their logits are for the loss


def test_every_trainable_variable_has_a_gradient(traced):
    variables = {name: v for name, v in named_variables(traced.net).items() if v.trainable}
    auxiliary = [v for name, v in variables.items() if traced.below_auxiliary(name)]
    assert bool(auxiliary) == bool(traced.auxiliary)
    logits = traced.training.logits
    heads = [logits, *(traced.training.taps[name] for name in traced.auxiliary)]
    with logits.graph.as_default():
        assert set(tf.gradients(logits, auxiliary)) <= {None}  # they learn from their own loss alone
        gradients = tf.gradients(heads, list(variables.values()))
    assert not [name for name, gradient in zip(variables, gradients, strict=True) if gradient is None]


LAST_MAP = {
    "alexnet": (6, 6, 256),
    "vgg11": (7, 7, 512),
    "vgg13": (7, 7, 512),
    "vgg16": (7, 7, 512),
    "vgg19": (7, 7, 512),
    "googlenet": (7, 7, 1024),
    "inception_v2": (7, 7, 1024),
    "inception_v3": (8, 8, 2048),
    "resnet18": (7, 7, 512),
    "resnet34": (7, 7, 512),
    "resnet50": (7, 7, 2048),
    "resnet101": (7, 7, 2048),
    "resnet152": (7, 7, 2048),
    "xception": (10, 10, 2048),
}


@pytest.mark.parametrize(
    "case", marked(ONE_OF_EACH_CODE, "alexnet-alexnet vgg11-paper googlenet-torchvision resnet18-torchvision")
)
def test_without_classes_the_last_map_comes_out(case):
    name, variant = case
    with tf.Graph().as_default():
        net = nets.build(name, num_classes=None, variant=variant)
        assert net(tf.zeros([2, *net.input_shape])).shape == (2, *LAST_MAP[name])


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_unknown_variant_names_the_known(name):
    with pytest.raises(UserError, match=f"{name} has no variant 'huge'; there are {', '.join(nets.variants(name))}$"):
        nets.build(name, variant="huge")


# What small pictures show; the same of AlexNet, which takes large ones only, is in test_alexnet.py

SIDES = {"inception_v3": 75, "xception": 71}
"""The smallest pictures that the docstrings allow; 32 elsewhere."""
NUMBERS = "vgg11-paper resnet18-torchvision"
COMPILED = [
    ("googlenet", "bvlc"),
    ("inception_v3", "torchvision"),
    ("resnet18", "torchvision"),
    *(("resnet50", variant) for variant in nets.variants("resnet50")),
]
TRAINED = [
    ("vgg11", "paper"),
    ("googlenet", "torchvision"),
    ("inception_v2", "slim"),
    ("resnet18", "torchvision"),
    ("xception", "keras"),
]
"""XLA takes its time: what is the same code but longer, or is among those trained, is not compiled."""
RNG = tf.constant([1, 2])


def started(name, variant):
    """A network of three classes whose biases and batch norms are not as they start."""
    options = {"auxiliary": False} if name in ("googlenet", "inception_v3") else {}  # they need the full size
    net = nets.build(name, num_classes=3, variant=variant, **options)
    rng = np.random.default_rng(0)
    for key, variable in named_variables(net).items():
        if key.endswith(("/gamma", "/moving_variance")):
            variable.assign(rng.uniform(0.7, 1.3, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return net


def pictures(side):
    return np.random.default_rng(1).normal(0, 1, (4, side, side, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=marked([case for case in ONE_OF_EACH_CODE if case[0] != "alexnet"], NUMBERS))
def small(request):
    """A network and the smallest pictures that it takes."""
    name, variant = request.param
    return started(name, variant), pictures(SIDES.get(name, 32))


def averages(net):
    return {name: v.numpy() for name, v in named_variables(net).items() if not v.trainable}


def restore(net, arrays):
    variables = named_variables(net)
    for name, array in arrays.items():
        variables[name].assign(array)


def test_graph_computes_what_eager_does(small):
    net, x = small
    logits = net(x).numpy()
    assert np.ptp(logits, axis=0).max() > 1e-2 * np.abs(logits).max()  # the pictures matter
    agrees({"logits": tf.function(net)(x)}, {"logits": logits}, LOGITS)


@pytest.mark.parametrize("case", marked(COMPILED, NUMBERS))
def test_xla_computes_what_eager_does(case):
    net, x = started(*case), pictures(SIDES.get(case[0], 32))
    agrees({"logits": tf.function(net, jit_compile=True)(x)}, {"logits": net(x).numpy()}, LOGITS)


@pytest.mark.parametrize("case", marked(TRAINED, NUMBERS))
def test_graph_and_xla_train_as_eager_does(case):
    """The same masks too, and the same moving averages after it."""
    net, x = started(*case), pictures(96)
    before = averages(net)
    logits = net(x, train=True, rng=RNG).numpy()
    after = averages(net)
    for compiled in (False, True):
        restore(net, before)
        got = tf.function(net, jit_compile=compiled)(x, train=True, rng=RNG)
        agrees({"logits": got}, {"logits": logits}, TRAINED_LOGITS)
        agrees(averages(net), after, AVERAGE)


def test_tap_that_returns_what_it_got_changes_nothing(small):
    net, x = small
    np.testing.assert_array_equal(net(x, tap=lambda _, y: tf.identity(y)), net(x))


def test_tap_may_replace_an_activation(small):
    net, x = small
    names = []
    logits = net(x, tap=lambda name, y: names.append(name) or y)
    middle = names[len(names) // 2]
    replaced = net(x, tap=lambda name, y: tf.zeros_like(y) if name == middle else y)
    assert np.abs(replaced - logits).max() > 1e-3 * np.abs(logits).max()


def changed(net, x, **call):
    """The names of the variables that a call changes; puts them back."""
    before = {name: v.numpy() for name, v in named_variables(net).items()}
    net(x, **call)
    names = {name for name, v in named_variables(net).items() if not np.array_equal(v, before[name])}
    restore(net, {name: before[name] for name in names})
    return names


def test_inference_changes_no_variable(small):
    net, x = small
    assert not changed(net, x, rng=RNG)


def test_training_changes_the_moving_averages_and_nothing_else(small):
    net, x = small
    assert changed(net, x, train=True, rng=RNG) == set(averages(net))


def test_frozen_norms_make_training_inference(small, monkeypatch):
    net, x = small
    monkeypatch.setattr(net, "_dropout_rate", 0.0)
    for module in net.submodules:
        if isinstance(module, BatchNorm):
            monkeypatch.setattr(module, "frozen", True)
    assert not changed(net, x, train=True)
    np.testing.assert_array_equal(net(x, train=True), net(x))

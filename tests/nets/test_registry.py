"""Networks by name."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets
from barenets.ops import Conv2D, layers, named_variables


def test_the_default_variant_comes_first():
    assert nets.variants("alexnet") == ("alexnet", "caffenet", "one_tower", "plain")


def test_build_passes_everything_on(monkeypatch):
    def constructor(*args, **options):
        return args, options

    monkeypatch.setitem(nets.NETWORKS, "fake", (constructor, ("first", "second")))
    assert nets.build("fake") == ((1000,), {"variant": "first"})
    assert nets.build("fake", num_classes=2, variant="second", seed=3) == ((2,), {"variant": "second", "seed": 3})


def test_build_makes_the_network():
    net = nets.build("alexnet", num_classes=2, variant="plain", channels=1)
    assert isinstance(net, nets.AlexNet)
    assert net.input_shape == (227, 227, 1)
    assert net.fc8.biases.shape == (2,)


@pytest.mark.parametrize("call", [nets.build, nets.variants])
def test_unknown_network(call):
    with pytest.raises(UserError, match="no network 'lenet'; there are alexnet"):
        call("lenet")


def test_unknown_variant():
    with pytest.raises(UserError, match="no variant 'huge'; there are alexnet, caffenet, one_tower, plain"):
        nets.build("alexnet", variant="huge")


class Small(tf.Module):
    """A network of one convolution, made in a moment."""

    def __init__(self, num_classes, variant="small", *, seed=0, dropout_rate=0.25):
        super().__init__()
        self.variant, self.rate = variant, dropout_rate
        self.input_shape = (16, 16, 3)
        self.conv1 = Conv2D(3, 8, 3, stride=2, seed=(seed, 1))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        return layers(tap)("conv1", self.conv1, x)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(nets.NETWORKS, "small", (Small, ("small",)))
    return functools.partial(nets.build, "small")


@pytest.mark.parametrize(
    ("head", "kind", "options"),
    [("linear", nets.LinearHead, {}), ("dense", nets.DenseHead, {"width": 5}), ("glu", nets.GLUHead, {"features": 5})],
)
def test_a_head_in_place_of_the_classifier(small, head, kind, options):
    """Made for the last map of pictures of that size; the seed is of both, dropout of the head."""
    net = small(num_classes=3, head=head, head_options=options, size=6, seed=3, dropout_rate=0.9)
    assert isinstance(net, nets.Headed)
    assert isinstance(net.head, kind)
    assert net.input_shape == net.base.input_shape == (6, 6, 3)
    assert (net.base.rate, net.head._dropout_rate) == (0.25, 0.9)
    assert net(tf.zeros([2, 6, 6, 3])).shape == (2, 3)
    expected = kind((3, 3, 8) if head == "dense" else 8, 3, seed=3, **options)
    for part, module in {"base": Small(None, seed=3), "head": expected}.items():
        found, wanted = named_variables(getattr(net, part)), named_variables(module)
        assert list(found) == list(wanted)
        for name, variable in wanted.items():
            np.testing.assert_array_equal(found[name], variable, err_msg=name)


def test_a_head_has_what_is_usual(small):
    net = small(num_classes=2, head="dense")
    assert (net.input_shape, net.head.fc.weights.shape) == ((16, 16, 3), (8 * 8 * 8, 256))
    assert net.head._dropout_rate == 0.5
    assert small(num_classes=2, dropout_rate=0.75).rate == 0.75
    assert small(num_classes=2).rate == 0.25


@pytest.mark.parametrize(("name", "size", "side"), [("vgg11", 64, 2), ("resnet18", 97, 4), ("alexnet", 227, 6)])
def test_size(name, size, side):
    net = nets.build(name, num_classes=None, size=size)
    assert net.input_shape == (size, size, 3)
    assert net(tf.zeros([1, size, size, 3])).shape[1:3] == (side, side)


SIZES = [
    ("vgg11", 16, r"vgg11 paper cannot take pictures of 16×16 pixels, it is made for 224×224$"),
    ("resnet18", 0, "of 0×0 pixels"),
    ("xception", 4, "xception keras cannot take pictures of 4×4 pixels, it is made for 299×299$"),
    ("alexnet", 224, "alexnet alexnet cannot take pictures of 224×224 pixels, it is made for 227×227$"),
]


@pytest.mark.parametrize(("name", "size", "message"), SIZES)
def test_a_size_that_a_network_cannot_take(name, size, message):
    with pytest.raises(UserError, match=message):
        nets.build(name, num_classes=2, head="linear", size=size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("googlenet", 96), ("inception_v3", 150)])
def test_a_size_that_auxiliary_classifiers_cannot_take(name, size):
    expected = r"made for \d+×\d+; auxiliary=False, or a head, leaves its auxiliary classifiers out"
    with pytest.raises(UserError, match=expected):
        nets.build(name, num_classes=2, size=size)
    for options in ({"auxiliary": False}, {"head": "linear"}):
        assert nets.build(name, num_classes=2, size=size, **options).input_shape[0] == size


HEAD_MISTAKES = [
    ({"head": "lenet"}, "there is no head 'lenet'; there are linear, dense, glu"),
    ({"head": "glu", "head_options": {"feature": 3}}, "no option 'feature'; there are features, gated, aux"),
    ({"head": "linear", "head_options": {"width": 3}}, "head 'linear' has no option 'width'; there are none"),
    ({"head": "dense", "head_options": {"seed": 3}}, "no option 'seed'; there are width"),
    ({"head": "glu", "head_options": {"features": "many"}}, "'features' of the head 'glu' must be of type int, got"),
    ({"head": "glu", "head_options": {"gated": 1}}, "'gated' of the head 'glu' must be of type bool, got 1"),
    ({"head": "glu", "head_options": {"centers": -1}}, "the head 'glu': centers must be 0 or more, got -1"),
    ({"head_options": {"width": 3}}, "width: of a head, and none is chosen; there are linear, dense, glu"),
    ({"head": "dense", "num_classes": 1}, "the head 'dense': a classifier tells at least 2"),
]


@pytest.mark.parametrize(("options", "message"), HEAD_MISTAKES)
def test_mistakes_about_heads(small, options, message):
    with pytest.raises(UserError, match=message) as caught:
        small(**{"num_classes": 2, **options})
    assert "\n" not in str(caught.value)


def test_a_head_wants_classes(small):
    with pytest.raises(ValueError, match="the head 'glu' needs a number of classes"):
        small(num_classes=None, head="glu")

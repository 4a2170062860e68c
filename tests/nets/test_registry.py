"""Networks by name."""

import pytest

from barenets import UserError, nets


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

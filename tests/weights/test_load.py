"""The strict load: it loads whole or not at all, and says everything that differs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError
from barenets.nets import AlexNet
from barenets.ops.module import named_variables
from barenets.weights import load, plan, read, save


class Layer(tf.Module):
    def __init__(self, seed: int, *shape: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weights = tf.Variable(rng.normal(size=shape), dtype=tf.float32)
        self.biases = tf.Variable(rng.normal(size=shape[-1:]), dtype=tf.float32)


class Net(tf.Module):
    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = Layer(seed, 3, 3, 3, 4)
        self.conv10 = Layer(seed + 1, 1, 1, 4, 4)
        self.fc8 = Layer(seed + 2, 4, classes)


Bits = dict[str, bytes]
NAMES = [f"{layer}/{part}" for layer in ("conv1", "conv10", "fc8") for part in ("weights", "biases")]


def bits(net: tf.Module) -> Bits:
    return {name: variable.numpy().tobytes() for name, variable in named_variables(net).items()}


def arrays(net: tf.Module) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in named_variables(net).items()}


@pytest.mark.parametrize("ending", ["npz", "npy", None])
def test_loads_everything_to_the_bit(ending: str | None, tmp_path: Path) -> None:
    theirs, net = Net(seed=9), Net()
    path = str(tmp_path / f"weights.{ending}")
    if ending:
        save(path, theirs)
    report = load(net, path if ending else arrays(theirs))
    assert bits(net) == bits(theirs)
    assert report.loaded == tuple(NAMES)
    assert report.skipped == ()
    assert report.source == (path if ending else "the given arrays")
    lines = str(report).splitlines()
    assert lines[0] == "conv1/weights   3×3×3×4  loaded"
    assert lines[-1] == f"6 variables loaded from {report.source}"
    assert len(lines) == 7


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda a: a.pop("conv10/biases"), ["the file lacks conv10/biases."]),
        (lambda a: a.update({"prob/weights": a["fc8/weights"]}), ["the network lacks prob/weights."]),
        (
            lambda a: a.update({"fc8/weights": a["fc8/weights"].T}),
            ["fc8/weights is 5×4 in the file and 4×5 in the network."],
        ),
        (lambda a: a.update({"fc8/biases": np.float32(1)}), ["fc8/biases is a scalar in the file and 5 in"]),
        (
            lambda a: (
                a.pop("conv1/weights"),
                a.pop("conv1/biases"),
                a.update({"x": a["fc8/biases"], "y/weights": a["fc8/biases"], "fc8/biases": np.zeros(1000)}),
            ),
            ["lacks conv1/weights, conv1/biases; the network lacks x, y/weights; fc8/biases is 1000 in the file"],
        ),
        (lambda a: a.clear(), ["the file lacks " + ", ".join(NAMES)]),
    ],
    ids=["missing", "unknown", "shape", "scalar", "all at once", "nothing"],
)
def test_nothing_is_assigned_unless_everything_fits(
    edit: Callable[[dict[str, np.ndarray]], None], says: list[str]
) -> None:
    net, theirs = Net(), arrays(Net(seed=9))
    before = bits(net)
    edit(theirs)
    for function in (load, plan):
        with pytest.raises(UserError) as raised:
            function(net, theirs)
        message = str(raised.value)
        assert message.startswith("the given arrays: does not fit the network, nothing was loaded: ")
        assert message.isprintable()
        for words in says:
            assert words in message
        assert bits(net) == before


def test_file_is_named_in_what_differs(tmp_path: Path) -> None:
    path = str(tmp_path / "five.npz")
    save(path, Net())
    with pytest.raises(UserError, match="fc8/biases is 5 in the file and 2 in the network") as raised:
        load(Net(classes=2), path)
    assert str(raised.value).startswith(path)


def test_names_of_the_file_cannot_break_the_line() -> None:
    theirs = {**arrays(Net()), "a\nb\x1b[2J\u2028": np.zeros(3)}
    with pytest.raises(UserError) as raised:
        load(Net(), theirs)
    assert str(raised.value).isprintable()


def test_what_is_skipped_keeps_its_value() -> None:
    net, theirs = Net(classes=2), arrays(Net(seed=9))
    before = bits(net)
    report = load(net, theirs, skip=["fc8", "conv1/b*"])
    assert report.skipped == ("conv1/biases", "fc8/weights", "fc8/biases")
    assert report.loaded == ("conv1/weights", "conv10/weights", "conv10/biases")
    after = bits(net)
    for name in NAMES:
        assert after[name] == (before[name] if name in report.skipped else theirs[name].tobytes())
    assert str(report).splitlines()[-1] == (
        "3 variables loaded from the given arrays, 3 skipped: they keep their first values"
    )
    assert "fc8/weights         4×2  skipped" in str(report)


@pytest.mark.parametrize("side", ["network", "file", "both"])
def test_patterns_select_on_either_side(side: str) -> None:
    net, theirs = Net(), arrays(Net(seed=9))
    if side == "network":  # the file was cut off before fc8
        theirs = {name: array for name, array in theirs.items() if "fc8" not in name}
        skip = ["fc8"]
    elif side == "file":  # and this one has a head that the network does not
        theirs["aux/fc/weights"] = np.zeros((2, 2))
        skip = ["aux"]
    else:
        theirs["fc9/weights"] = theirs.pop("fc8/weights")
        skip = ["fc*"]
    load(net, theirs, skip)
    with pytest.raises(UserError, match="does not fit"):
        load(net, theirs)


def test_pattern_that_selects_nothing_offers_the_nearest() -> None:
    net = Net()
    before = bits(net)
    with pytest.raises(UserError, match=r"'fc9' selects nothing; did you mean fc8"):
        load(net, arrays(Net(seed=9)), skip=["fc9"])
    assert bits(net) == before


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", ">f8", "i4"])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_other_types_are_converted(dtype: str, ending: str, tmp_path: Path) -> None:
    theirs = {name: (100 * array).astype(dtype) for name, array in arrays(Net(seed=9)).items()}
    save(str(tmp_path / f"w.{ending}"), theirs)
    net = Net()
    load(net, str(tmp_path / f"w.{ending}"))
    for name, variable in named_variables(net).items():
        assert variable.dtype == tf.float32
        np.testing.assert_array_equal(variable.numpy(), theirs[name].astype("f4"))  # exactly: one rounding


def test_variables_are_copies() -> None:
    # TensorFlow shares memory with aligned arrays; a file's are read-only and must outlive nothing.
    memory = np.zeros(4 * 4 * 5 + 64, np.uint8)
    weights = memory[-memory.ctypes.data % 64 :][:80].view("f4").reshape(4, 5)
    net = Net()
    load(net, {**arrays(net), "fc8/weights": weights})
    net.fc8.weights.assign_add(tf.ones([4, 5]))
    assert not weights.any()
    weights[:] = 7
    assert np.all(net.fc8.weights.numpy() == 1)


def test_plan_assigns_nothing() -> None:
    net, theirs = Net(), arrays(Net(seed=9))
    before = bits(net)
    report = plan(net, theirs, origin="a file")
    assert bits(net) == before
    assert report == load(net, theirs).__class__("a file", report.rows)


def test_torchvision_convolutions_load(shared_data: Path) -> None:
    path = str(shared_data / "weights" / "alexnet_one_tower_conv.npz")
    net = AlexNet(variant="one_tower")
    with pytest.raises(UserError, match="the file lacks fc6/weights, fc6/biases"):
        load(net, path)
    report = load(net, path, skip=("fc6", "fc7", "fc8"))
    assert report.loaded == tuple(f"conv{i}/{part}" for i in range(1, 6) for part in ("weights", "biases"))
    source = read(path)
    for name in report.loaded:
        np.testing.assert_array_equal(named_variables(net)[name].numpy(), source[name])

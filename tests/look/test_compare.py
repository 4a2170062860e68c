"""Comparing activations: against OpenCV's Caffe importer and torch, with faults planted one by one."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.look.compare import as_nhwc, compare, dump, read_dump
from barenets.ops import BatchNorm, Conv2D, Dense, layers, local_response_normalization, max_pool, named_variables
from barenets.train.cli import main
from tests.nets import prototxt
from tests.nets.parity import opencv_activations
from tests.nets.test_caffe_networks import random_weights
from tests.ops import reference
from tests.pictures import write_pictures
from tests.train import tiny

PROTOTXT = """
input: "data" input_shape { dim: 2 dim: 3 dim: 24 dim: 24 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "relu1" }
layer { name: "norm1" type: "LRN" bottom: "relu1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "pool1" type: "Pooling" bottom: "norm1" top: "pool1" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 } }
layer { name: "bn2" type: "BatchNorm" bottom: "conv2" top: "bn2" batch_norm_param { eps: 1e-5 } }
layer { name: "scale2" type: "Scale" bottom: "bn2" top: "scale2" scale_param { bias_term: true } }
layer { name: "relu2" type: "ReLU" bottom: "scale2" top: "relu2" }
layer { name: "pool2" type: "Pooling" bottom: "relu2" top: "pool2" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc3" type: "InnerProduct" bottom: "pool2" top: "fc3" inner_product_param { num_output: 16 } }
layer { name: "relu3" type: "ReLU" bottom: "fc3" top: "relu3" }
layer { name: "fc4" type: "InnerProduct" bottom: "relu3" top: "fc4" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc4" top: "prob" }
"""
NAMES = {"scale2": "bn2"}
"""Ours ends with gamma and beta, which Caffe has a layer of its own for."""


class Small(tf.Module):
    """The network of PROTOTXT."""

    input_shape = (24, 24, 3)

    def __init__(self):
        super().__init__()
        self.conv1 = Conv2D(3, 8, 3, stride=2, padding=1)
        self.conv2 = Conv2D(8, 12, 3, padding=1)
        self.bn2 = BatchNorm(12)
        self.fc3 = Dense(3 * 3 * 12, 16)
        self.fc4 = Dense(16, 5)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer, pool = layers(tap), partial(max_pool, size=3, stride=2, ceil=True)
        x = layer("relu1", tf.nn.relu, layer("conv1", self.conv1, x))
        x = layer("pool1", pool, layer("norm1", local_response_normalization, x))
        x = layer("bn2", partial(self.bn2, train=train), layer("conv2", self.conv2, x))
        x = layer("pool2", pool, layer("relu2", tf.nn.relu, x))
        x = layer("relu3", tf.nn.relu, layer("fc3", self.fc3, tf.reshape(x, [-1, 108])))
        return layer("fc4", self.fc4, x)


@pytest.fixture(scope="module")
def net():
    """With numbers of a trained network's kind: batch norm's statistics are those of no data."""
    net, rng = Small(), np.random.default_rng(0)
    for name, variable in named_variables(net).items():
        part = name.rpartition("/")[2]
        if part in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.2, 1.3, variable.shape))
        elif part != "weights":
            variable.assign(rng.normal(0, 3, variable.shape))
    return net


@pytest.fixture(scope="module")
def pictures():
    """As loud as pictures are: LRN's 1 + 2e-5 Σ x² is then far from 1."""
    return np.random.default_rng(1).normal(0, 70, (2, 24, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def ours(net, pictures):
    return dump(net, pictures)


def arrays(net):
    return {name: variable.numpy() for name, variable in named_variables(net).items()}


def theirs(pictures, values, text=PROTOTXT, side=3):
    return {"input": pictures} | opencv_activations(text, values, pictures, {"fc3": side} if side else {})


def test_dump(net, pictures, tmp_path):
    path = tmp_path / "new" / "ours.npz"
    seen = dump(net, pictures, str(path))
    order = ["input", "conv1", "relu1", "norm1", "pool1", "conv2", "bn2", "relu2", "pool2", "fc3", "relu3", "fc4"]
    assert list(seen) == order
    np.testing.assert_array_equal(seen["input"], pictures)
    np.testing.assert_array_equal(seen["fc4"], net(pictures).numpy())
    with np.load(path) as file:
        assert file.files == order
        for name, array in seen.items():
            assert array.dtype == file[name].dtype == np.float32
            np.testing.assert_array_equal(file[name], array)
    assert list(read_dump(str(path))) == order


def test_agrees_with_opencv(net, pictures, ours):
    """Caffe's own dump: activations after `prob` and before `Scale` that ours lacks are named, and no more."""
    found = compare(theirs(pictures, arrays(net)), ours, names=NAMES, net=net)
    assert found.agrees
    assert found.first is None
    assert found.last_agreeing.name == "fc4"
    assert found.hints == ()
    # float32 sums of 27 to 108 terms in another order: some units in the last place, 6e-8, of the largest
    assert max(row.relative for row in found.rows) < 2e-6
    assert [row.name for row in found.rows] == list(ours)
    assert set(found.only_first) == {"bn2", "prob"}
    assert found.only_second == ()
    assert "all 11 activations agree to" in str(found)
    assert "only in A: bn2, prob" in str(found)


def planted(old, new, until="prob"):
    """Without the layers from `until` on, which may not take maps of another size."""
    assert PROTOTXT.count(old) == 1
    return {"text": PROTOTXT.replace(old, new).partition(f'layer {{ name: "{until}"')[0]}


def swap_norm_and_pool():
    lines = PROTOTXT.splitlines()
    i = next(i for i, line in enumerate(lines) if '"norm1"' in line)
    pool = lines[i + 1].replace('"norm1"', '"relu1"')
    lines[i : i + 2] = [pool, lines[i].replace('bottom: "relu1"', 'bottom: "pool1"')]
    return {"text": "\n".join(lines).replace('bottom: "pool1" top: "conv2"', 'bottom: "norm1" top: "conv2"')}


FAULTS = {
    "no padding": (
        planted("stride: 2 pad: 1", "stride: 2 pad: 0", "fc3"),
        {},
        "conv1",
        "conv1's input is moved 1 up and 1 left",
    ),
    "lrn alpha": (planted("alpha: 0.0001", "alpha: 0.0005"), {}, "norm1", "if alpha is not divided by the size"),
    "order": (swap_norm_and_pool(), {}, "norm1", "A has pool1 where B has norm1"),
    "rounding": (
        planted('top: "pool1" pooling_param {', 'top: "pool1" pooling_param { ceil_mode: false', "fc3"),
        {},
        "pool1",
        "in the 5×5 values that both have",
    ),
    "epsilon": (planted("eps: 1e-5", "eps: 1e-3"), {}, "bn2", r"if epsilon is 1\.0e-03, not 1\.0e-05"),
    "no relu": (
        planted('top: "relu2"', 'top: "relu2" relu_param { negative_slope: 1 }'),
        {},
        "relu2",
        "after a ReLU on A",
    ),
    "flattened otherwise": ({"side": None}, {}, "fc3", "if fc3's rows are in C, H, W order"),
    "kernel for BGR": ({}, {"conv1/weights": lambda w: w[:, :, ::-1]}, "conv1", "given channels 0 and 2 swapped"),
    "scale": (
        {},
        {"conv2/weights": lambda w: w / 2, "conv2/biases": lambda b: b / 2},
        "conv2",
        "after multiplying B by 0.5",
    ),
    "no bias": ({}, {"conv1/biases": lambda b: 0 * b}, "conv1", "B's channels are multiplied by 1, 1, 1, and"),
    "variance": ({}, {"bn2/moving_variance": lambda v: v[::-1]}, "bn2", "B's channels are multiplied by"),
    "transposed kernel": (
        {},
        {"conv2/weights": lambda w: w.transpose(1, 0, 2, 3)},
        "conv2",
        "if conv2's kernel has height and width swapped",
    ),
    "turned kernel": ({}, {"conv2/weights": lambda w: w[::-1, ::-1]}, "conv2", "if conv2's kernel is turned by 180"),
    "channels of a kernel": ({}, {"conv2/weights": lambda w: w[:, :, ::-1]}, "conv2", None),
    "one wrong weight": ({}, {"fc4/weights": lambda w: w + 0.1 * (w == w.max())}, "fc4", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(fault, net, pictures, ours):
    """The layer with the fault is named, and the one before it, and what is said is what was planted, or nothing."""
    options, changes, layer, hint = FAULTS[fault]
    values = arrays(net)
    for name, change in changes.items():
        values[name] = change(values[name])
    found = compare(theirs(pictures, values, **options), ours, names=NAMES, net=net)
    assert not found.agrees
    assert found.first.name == layer
    assert found.last_agreeing.name == list(ours)[list(ours).index(layer) - 1]
    if hint is None:
        assert found.hints == ()
    else:
        assert re.search(hint, " | ".join(found.hints)), found.hints
        assert all(re.match(r"agrees (exactly|to \de-\d\d) |A has", line) for line in found.hints)
        assert found.hints[0] in str(found)
    assert f"{layer} is the first that differs" in str(found)


def flattened(a):
    return a.transpose(0, 3, 1, 2).reshape(len(a), -1)


DUMPS = {
    "channels": ("input", lambda a: a[..., ::-1], "exactly after swapping channels 0 and 2"),
    "mean": ("input", lambda a: a - np.float32([104, 117, 123]), "by 1, 1, 1, and -104, -117, -123 added"),
    "0 to 1": ("input", lambda a: a / 255, r"after multiplying B by 0\.00392157"),
    "pictures": ("input", lambda a: a[::-1], "exactly after reversing the pictures' order"),
    "nchw": ("conv1", lambda a: a.transpose(0, 3, 1, 2), r"exactly after transposing A to \(0, 2, 3, 1\)"),
    "height and width": ("conv1", lambda a: a.transpose(0, 2, 1, 3), r"exactly after transposing A to \(0, 2, 1, 3\)"),
    "flattened": ("pool2", flattened, "exactly as A's values are 12×3×3, flattened"),
    "after the relu": ("conv1", lambda a: np.maximum(a, 0), "exactly after a ReLU on B"),
    "probabilities": ("fc4", lambda a: scipy.special.softmax(a, 1), "after a softmax on B"),
    "not a number": ("relu1", lambda a: np.where(a == a.flat[5], np.nan, a), "not finite in A"),
    "infinite": ("relu1", lambda a: np.where(a == a.flat[5], np.inf, a), "not finite in A"),
    "pixel": ("relu2", lambda a: np.roll(a, 1, 1), "exactly after moving B 1 down: look at the padding"),
}  # fmt: skip


@pytest.mark.parametrize("fault", DUMPS)
def test_what_a_dump_may_do_otherwise(fault, net, ours):
    name, change, hint = DUMPS[fault]
    found = compare(ours | {name: change(ours[name])}, ours, net=net)
    assert found.first.name == name
    assert re.search(hint, " | ".join(found.hints)), found.hints


@pytest.mark.parametrize("above", [(2, 0), (0, 2), (1, 1)])
def test_padding_on_the_other_side(above, net, pictures, ours):
    """TensorFlow's SAME pads a strided convolution after, torch before: shapes are the same. NumPy's loop is theirs."""
    w, b = (getattr(net.conv1, name).numpy().astype(np.float64) for name in ("weights", "biases"))
    a = reference.conv2d(pictures, w, b, 2, (above, (1, 1)))
    assert a.shape == ours["conv1"].shape
    found = compare(ours | {"conv1": a}, ours, net=net)
    if above == (1, 1):
        assert found.agrees
        return
    assert found.first.name == "conv1"
    way = "down" if above == (2, 0) else "up"
    (hint,) = found.hints
    assert f"in the middle if conv1's input is moved 1 {way}: look at the padding" in hint


def test_stride_elsewhere(net, pictures, ours):
    w, b = (getattr(net.conv1, name).numpy().astype(np.float64) for name in ("weights", "biases"))
    a = reference.conv2d(pictures, w, b, 1, ((1, 1), (1, 1)))
    found = compare(ours | {"conv1": a}, ours, net=net)
    assert found.first.name == "conv1"
    assert "at every second place of A: look at the strides" in found.hints[0]
    assert "conv1 is the first that differs, in shape" in str(found)


@pytest.mark.parametrize(
    ("bias", "alpha", "hint"),
    [(1, 1e-4, "if alpha is not divided by the size"), (2, 2e-5, "if k is 2"), (1, 2e-5, None)],
)
def test_definitions_of_lrn(bias, alpha, hint, net, ours):
    found = compare(ours | {"norm1": reference.lrn(ours["relu1"], 2, bias, alpha, 0.75)}, ours, net=net)
    if hint is None:
        assert found.agrees
        return
    assert found.first.name == "norm1"
    assert [hint in line for line in found.hints] == [True]


def test_numbers():
    """Differences, where they are, and cosines, against loops."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    found = compare({"x": a}, {"x": b}, 1e-3).rows[0]
    worst = max((abs(a[at] - b[at]), at) for at in np.ndindex(a.shape))
    assert (found.difference, found.at) == (pytest.approx(worst[0], rel=1e-12), worst[1])
    assert found.relative == pytest.approx(worst[0] / max(abs(a).max(), abs(b).max()), rel=1e-12)
    dots = [sum(p * q for p, q in zip(x.flat, y.flat, strict=True)) for x, y in ((a, b), (a, a), (b, b))]
    assert found.cosine == pytest.approx(dots[0] / (dots[1] * dots[2]) ** 0.5, rel=1e-9)
    assert not found.agrees


@pytest.mark.parametrize(("change", "agrees"), [(0.9e-3, True), (1.1e-3, False)])
def test_tolerance(change, agrees):
    b = np.float32([[1.0, -2.0]])
    found = compare({"x": b + np.float32([[2 * change, 0]])}, {"x": b}, 1e-3)
    assert found.agrees == agrees
    assert bool(found.first) != agrees


def test_infinite_on_both_sides():
    """Says nothing of the rest: it does not agree."""
    x = np.float32([[1, np.inf]])
    found = compare({"x": x}, {"x": x})
    assert not found.agrees
    assert found.hints == ("not finite in A and B",)
    assert found.to_json()["layers"][0]["relative"] is None


def test_axes_of_length_one_do_not_count(ours):
    found = compare(ours | {"fc4": ours["fc4"][:, :, None, None]}, ours)
    assert found.agrees


def test_integers_do_not_wrap():
    found = compare({"x": np.uint8([[0, 255]])}, {"x": np.uint8([[1, 255]])})
    assert found.rows[0].difference == 1


def test_names(net, pictures, ours):
    """Of names that one side alone has, those whose numbers agree are told, in the words of --map."""
    dumped = theirs(pictures, arrays(net))
    dumped = {f"features.{name}": a for name, a in dumped.items() if name not in ("bn2", "prob")}
    dumped["input"] = dumped.pop("features.input")
    found = compare(dumped, ours)
    assert not found.agrees  # the input alone was
    assert "nothing was compared" in str(found)
    expected = {f"features.{name}": name for name in ours if name not in ("input", "bn2")} | {"features.scale2": "bn2"}
    assert found.pairs == expected
    assert "--map features.conv1=conv1 features.relu1=relu1" in str(found)
    dumped["features.fc3"] = dumped["features.fc3"] + 1
    partly = compare(dumped, ours)
    assert partly.pairs == {a: b for a, b in expected.items() if b != "fc3"}
    assert "the first of B's that no activation of A agrees with: fc3" in str(partly)
    dumped["features.fc3"] = ours["fc3"]
    again = compare(dumped, ours, names=found.pairs)
    assert again.agrees
    assert (again.only_first, again.only_second) == ((), ())
    assert "fc4 (features.fc4)" in str(again)
    assert json.loads(json.dumps(again.to_json()))["layers"][1]["other"] == "features.conv1"


def test_a_name_that_is_not_there(ours):
    with pytest.raises(UserError, match=r"--map: B has no activation 'conf1'; it has conv1"):
        compare(ours, ours, names={"conv2": "conf1"})
    with pytest.raises(UserError, match=r"--map: A has no activation 'features\.0'; it has"):
        compare(ours, ours, names={"features.0": "conv1"})
    with pytest.raises(UserError, match=r"--map: conv1=relu1: B's is paired with another of A's, too"):
        compare(ours, ours, names={"conv1": "relu1", "conv2": "relu1"})


def test_what_is_a_dump(net, ours, tmp_path):
    """It is told by its content: not a file of weights, whatever they are called, and nothing else that is a zip."""

    def saved(**content):
        np.savez(tmp_path / "x.npz", **content)
        return read_dump(str(tmp_path / "x.npz"))

    one = np.ones([2, 3], np.float32)
    assert list(saved(input=one, **{"conv1.weight": one})) == ["input", "conv1.weight"]
    assert list(saved(block1_conv1=one, probs=one)) == ["block1_conv1", "probs"]
    for name in ("conv1/weights", "conv1_W", "layer1.0.conv1.weight", "bn/moving_variance", "dense/kernel:0", "b"):
        assert saved(**{name: one}) is None
    weights.save(str(tmp_path / "w.npz"), net)
    assert read_dump(str(tmp_path / "w.npz")) is None
    assert read_dump(str(tmp_path)) is None
    assert read_dump("resnet50:caffe") is None
    (tmp_path / "text").write_text("PK")
    assert read_dump(str(tmp_path / "text")) is None
    for bad in (np.array(["text"]), np.float32(1), np.zeros([0, 3]), np.complex64([1])):
        with pytest.raises(UserError, match=r"x\.npz: 'conv1' is no array of numbers"):
            saved(input=one, conv1=bad)


def test_layouts(ours):
    turned = {name: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for name, a in ours.items()}
    back, changed = as_nhwc(turned, (24, 24, 3), "x.npz")
    assert changed
    assert compare(back, ours, 0).agrees
    assert as_nhwc(ours, (24, 24, 3), "x.npz")[1] is False
    with pytest.raises(UserError, match=r"x\.npz: its input is 2×24×24×3, and the network takes N×32×32×3"):
        as_nhwc(ours, (32, 32, 3), "x.npz")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures of 16 pixels for `tiny`, the network, and its weights in w.npz."""
    monkeypatch.setitem(nets.NETWORKS, "tiny", (tiny.Tiny, ("tiny", "other")))
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 1, side=16)
    weights.save("w.npz", nets.build("tiny", num_classes=2, seed=1))
    return tmp_path


def run(words: str) -> int:
    return main(["compare", *words.split(), "--net", "tiny", "--num-classes", "2"])


def test_command(folder, capsys):
    """Weights, networks and dumps, in either place; exit status 0 if all agree, 1 if not."""
    assert run("w.npz w.npz --images pictures --save ours.npz") == 0
    assert "all 6 activations agree exactly" in capsys.readouterr().out
    with np.load("ours.npz") as file:
        seen = dict(file)
    assert seen["input"].shape == (2, 16, 16, 3)
    expected = dump(nets.build("tiny", num_classes=2, seed=1), seen["input"])
    np.testing.assert_array_equal(seen["fc3"], expected["fc3"])

    np.savez("nchw.npz", **{n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in seen.items()})
    assert run("nchw.npz w.npz") == 0
    assert "nchw.npz: is N, C, H, W" in capsys.readouterr().err
    assert run("w.npz nchw.npz --json") == 0
    assert json.loads(capsys.readouterr().out)["agrees"] is True
    assert run("ours.npz nchw.npz") == 1  # two dumps, and no network that tells their layout
    assert "input is the first that differs, in shape" in capsys.readouterr().out

    np.savez("wrong.npz", **(seen | {"fc2": seen["fc2"] * 1.5}))
    assert run("wrong.npz tiny:other --weights w.npz --json") == 1
    content = json.loads(capsys.readouterr().out)
    assert (content["first_difference"], content["last_agreeing"]) == ("fc2", "pool1")
    assert "after multiplying B by 1.5" in content["hints"][0]
    assert run("wrong.npz w.npz --tolerance 0.5") == 0
    assert run("other w.npz --images pictures --count 1") == 1  # random numbers
    assert "conv1 is the first that differs" in capsys.readouterr().out

    np.savez("named.npz", input=seen["input"], first=seen["conv1"])
    assert run("named.npz w.npz") == 1
    assert "--map first=conv1" in capsys.readouterr().out
    assert run("named.npz w.npz --map first=conv1") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("w.npz w.npz", "name the pictures to compare on: --images"),
        ("tiny nosuch", "nosuch: is no file, no name in the catalog, no network and no variant of tiny"),
        ("tiny tiny:nosuch --images pictures", "tiny has no variant 'nosuch'; there are tiny, other"),
        ("small.npz w.npz", "small.npz: its input is 2×8×8×3, and the network takes N×16×16×3"),
        ("w.npz w.npz --images nosuch", "nosuch"),
        ("w.npz w.npz --images pictures --map conv1=conv7", "--map: B has no activation 'conv7'"),
    ],
)  # fmt: skip
def test_mistakes(words, said, folder, capsys):
    np.savez("small.npz", input=np.ones([2, 8, 8, 3], np.float32))
    assert run(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_two_alexnets():
    """The same weights as bvlc_alexnet and as CaffeNet: norm1 and pool1 come in another order."""
    first, second = (nets.build("alexnet", num_classes=None, variant=v) for v in ("alexnet", "caffenet"))
    images = np.random.default_rng(0).normal(0, 70, (1, 227, 227, 3))
    found = compare(dump(first, images), dump(second, images), net=second)
    assert (found.first.name, found.last_agreeing.name) == ("pool1", "relu1")
    assert found.hints[0] == "A has norm1 where B has pool1: they come in another order"


@pytest.mark.slow
def test_a_port_from_torch(tmp_path, capsys):
    """ResNet-18's hooks, N, C, H, W and under torch's names, against its .pth: paired, compared, and a fault found."""
    torch = pytest.importorskip("torch")
    from tests.nets.torch_reference import build

    torch.manual_seed(0)
    model, path = build("resnet18", 10).eval(), str(tmp_path / "resnet18.pth")
    torch.save(model.state_dict(), path)
    images = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)

    def run(*more: str) -> tuple[int, str]:
        seen = {"input": images}
        leaves = {name: module for name, module in model.named_modules() if not list(module.children())}

        def keep(name: str) -> Callable[..., None]:
            return lambda module, x, y: seen.update({name: y.numpy().copy()})

        hooks = [module.register_forward_hook(keep(name)) for name, module in leaves.items()]
        with torch.no_grad():
            model(torch.tensor(images))
        for hook in hooks:
            hook.remove()
        np.savez(tmp_path / "torch.npz", **seen)
        return main(["compare", str(tmp_path / "torch.npz"), path, *more]), capsys.readouterr().out

    status, out = run()
    (pairs,) = re.findall(r"--map (.*)", out)
    assert "layer2.0.downsample.0=res3a_branch1" in pairs.split()
    status, out = run("--map", *pairs.split())
    assert (status, "42 activations agree to" in out) == (0, True)
    model.layer3[1].bn2.eps = 1e-2
    status, out = run("--map", *pairs.split())
    assert status == 1
    assert "bn4b_branch2b is the first that differs" in out
    assert "if epsilon is 1.0e-02, not 1.0e-05" in out


@pytest.mark.slow
def test_a_port_from_caffe():
    """bvlc_alexnet whole: fc6's rows in Caffe's order, which every shape allows, and a swapped pair of groups."""
    net = nets.build("alexnet", num_classes=10)
    values = random_weights(net)
    weights.load(net, values)
    text = prototxt.bvlc_alexnet().replace("num_output: 1000", "num_output: 10").replace("dim: 10 ", "dim: 1 ")
    images = np.random.default_rng(0).normal(0, 70, (1, 227, 227, 3)).astype(np.float32)
    ours = dump(net, images)
    found = compare({"input": images} | opencv_activations(text, values, images, {}), ours, net=net)
    assert (found.first.name, found.last_agreeing.name) == ("fc6", "pool5")
    assert "if fc6's rows are in C, H, W order" in found.hints[0]
    values["conv4/weights"] = np.roll(values["conv4/weights"], 192, -1)
    found = compare({"input": images} | opencv_activations(text, values, images), ours, net=net)
    assert (found.first.name, found.last_agreeing.name, found.hints) == ("conv4", "relu3", ())

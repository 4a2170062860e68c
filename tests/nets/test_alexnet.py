"""AlexNet against OpenCV, torch and Keras, its docstring against itself, and how it behaves when called."""

import functools
import inspect
import re

import cv2
import numpy as np
import pytest
import tensorflow as tf

from barenets import weights as weight_files
from barenets.nets import AlexNet
from barenets.ops import layer_table, local_response_normalization, named_variables, softmax_cross_entropy
from tests.nets import prototxt
from tests.nets.parity import agrees, caffe_layers, nhwc, opencv_network, opencv_outputs
from tests.weights import python2

CAFFE = {"alexnet": prototxt.bvlc_alexnet, "caffenet": prototxt.bvlc_reference_caffenet}

TORCHVISION = """conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5
                 drop5 fc6 relu6 drop6 fc7 relu7 fc8"""
ORDER = {
    "alexnet": prototxt.ALEXNET.split()[:-1],  # without prob
    "caffenet": prototxt.CAFFENET.split()[:-1],
    "one_tower": TORCHVISION.split(),
    "plain": [name for name in prototxt.ALEXNET.split()[:-1] if "norm" not in name],
}

LABELS = np.array([3, 7])

GRADIENT = 2e-2
"""Of a gradient's largest value. Rounding decides on which side of zero a unit lies and which of two equals
is the maximum; one of 500,000 that goes the other way moves conv2's by 1 %, without one it is 3e-6."""


def random_weights(variables, seed=0):
    """Uniform at He's scale: pixels of ±70 make activations of 100, where LRN's 1 + 2e-5 Σ x² is far from 1.

    conv2 is larger because norm1 has taken so much away, fc8 smaller so that the softmax is not a step.
    """
    rng = np.random.default_rng(seed)
    gains, biases = {"conv2": 3.0, "fc8": 0.015}, {"fc8": 0.1}
    weights = {}
    for name, variable in variables.items():
        layer, _, kind = name.partition("/")
        std = biases.get(layer, 10.0)
        if kind == "weights":
            std = gains.get(layer, 1.0) * (2 / np.prod(variable.shape[:-1])) ** 0.5
        weights[name] = rng.random(variable.shape, np.float32)
        weights[name] -= np.float32(0.5)
        weights[name] *= np.float32(std * 12**0.5)
    return weights


def with_random_weights(net, folder):
    """Loaded from a file such as bvlc_alexnet.npy: `{b'conv1': [W, b], ...}` as Python 2 wrote it."""
    arrays = random_weights(named_variables(net))
    layers = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
    path = folder / "weights.npy"
    path.write_bytes(
        python2.npy({name.encode(): [arrays[f"{name}/weights"], arrays[f"{name}/biases"]] for name in layers})
    )
    assert len(weight_files.load(net, str(path)).loaded) == len(arrays)
    path.unlink()
    return net


def values(net):
    return {name: variable.numpy() for name, variable in named_variables(net).items()}


def noise(n, side=227, channels=3):
    """Pictures less their mean that are as loud as real ones."""
    return np.random.default_rng(1).normal(0, 70, (n, side, side, channels)).astype(np.float32)


def activations(net, x, **call):
    """Every named activation and the softmax, under Caffe's names."""
    seen = {}

    def tap(name, y):
        seen[name] = y.numpy()
        return y

    seen["prob"] = tf.nn.softmax(net(x, tap=tap, **call)).numpy()
    return seen


def gradients(net, x):
    """Of the mean cross-entropy of LABELS in eval mode, by variable name."""
    variables = named_variables(net)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(softmax_cross_entropy(LABELS, net(x)))
    return dict(zip(variables, tape.gradient(loss, list(variables.values())), strict=True))


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """variant -> the network with random weights out of an .npy, each made once."""
    folder = tmp_path_factory.mktemp("weights")
    return functools.cache(lambda variant: with_random_weights(AlexNet(1000, variant), folder))


# Parity with OpenCV's Caffe importer


@pytest.fixture(scope="module")
def opencv(nets):
    """variant -> OpenCV's network with the weights that the file of ours was made of, each imported once."""
    return functools.cache(
        lambda variant: opencv_network(CAFFE[variant](), random_weights(named_variables(nets(variant))))
    )


@pytest.fixture(scope="module")
def photographs(shared_data):
    """20 real pictures as Caffe is fed: BGR, 227×227, less the mean of each channel."""
    files = sorted((shared_data / "imagenet_samples").glob("*.JPEG"))[:20]
    pictures = np.stack([cv2.resize(cv2.imread(str(file)), (227, 227)) for file in files])
    return pictures.astype(np.float32) - np.float32([104, 117, 123])


@pytest.mark.parametrize("variant", CAFFE)
def test_agrees_with_opencv_on_photographs(nets, opencv, photographs, variant):
    assert len(photographs) == 20
    agrees(activations(nets(variant), photographs), opencv_outputs(opencv(variant), photographs))


@pytest.mark.parametrize("variant", CAFFE)
def test_agrees_with_opencv_on_noise(nets, opencv, variant):
    ours = activations(nets(variant), noise(2))
    agrees(ours, opencv_outputs(opencv(variant), noise(2)))
    # The trial is a fair one: LRN changes what it is given, and the softmax is neither flat nor a step.
    for index in "12":
        given = ours[("pool" if variant == "caffenet" else "relu") + index]
        assert np.median(given[given > 0] / ours[f"norm{index}"][given > 0]) > 1.3
    assert 0.01 < ours["prob"].max() < 0.5


def test_norm_and_pool_do_not_commute(nets, opencv, monkeypatch):
    """CaffeNet's weights fit bvlc_alexnet without an error and give other numbers."""
    monkeypatch.setattr(nets("caffenet"), "_variant", nets("alexnet")._variant)
    ours, theirs = activations(nets("caffenet"), noise(2)), opencv_outputs(opencv("caffenet"), noise(2))
    assert ours["fc8"].shape == theirs["fc8"].shape
    with pytest.raises(AssertionError, match="pool1: differs"):
        agrees(ours, theirs)


def test_alpha_undivided_is_noticed(nets, opencv, monkeypatch):
    undivided = functools.partial(local_response_normalization, alpha=5e-4)  # 1e-4 once divided by 5
    monkeypatch.setattr("barenets.nets.alexnet.local_response_normalization", undivided)
    with pytest.raises(AssertionError, match="norm1: differs"):
        agrees(activations(nets("alexnet"), noise(2)), opencv_outputs(opencv("alexnet"), noise(2)))


def test_same_padding_in_conv1_is_noticed(nets, opencv, monkeypatch):
    """57→28→13 instead of 55→27→13: from pool2 on the shapes are equal, the numbers are not."""
    monkeypatch.setattr(nets("alexnet").conv1, "_padding", "SAME")
    ours, theirs = activations(nets("alexnet"), noise(2)), opencv_outputs(opencv("alexnet"), noise(2))
    with pytest.raises(AssertionError, match="conv1: shape"):
        agrees(ours, theirs)
    later = list(theirs)[list(theirs).index("pool2") :]
    with pytest.raises(AssertionError, match="pool2: differs"):
        agrees({name: ours[name] for name in later}, {name: theirs[name] for name in later})


# Parity with torch and Keras, backwards too

TOWER = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
TWO_GPUS = [
    (3, 96, 11, 4),
    (96, 256, 5, 1, 2, 1, 2),  # in, out, kernel, stride, padding, dilation, groups
    (256, 384, 3, 1, 1),
    (384, 384, 3, 1, 1, 1, 2),
    (384, 256, 3, 1, 1, 1, 2),
]
FC = {"6": (256 * 6 * 6, 4096), "7": (4096, 4096), "8": (4096, 1000)}


def torch_network(variant, weights):
    """torchvision's layer list (models/alexnet.py), and bvlc_alexnet in torch's layers."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    convs = {"one_tower": TOWER, "alexnet": TWO_GPUS}[variant]
    make = {
        "conv": lambda index: nn.Conv2d(*convs[int(index) - 1]),
        "relu": lambda _: nn.ReLU(),
        "norm": lambda _: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0),  # α/n, as Caffe has it
        "pool": lambda _: nn.MaxPool2d(3, 2),
        "avgpool": lambda _: nn.AdaptiveAvgPool2d(6),
        "flatten": lambda _: nn.Flatten(),
        "drop": lambda _: nn.Dropout(),
        "fc": lambda index: nn.Linear(*FC[index]),
    }
    model = nn.Sequential()
    with torch.device("meta"):  # shapes alone: the weights come next
        for name in " ".join(ORDER[variant]).replace("pool5", "pool5 avgpool flatten").split():
            kind, index = re.fullmatch(r"(\D+)(\d?)", name).groups()
            model.add_module(name, make[kind](index))
    state = {name: torch.from_numpy(value) for name, value in torch_names(weights).items()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


def torch_names(weights):
    """Ours under torch's names and in its layout, which is Caffe's."""
    named = {}
    for layer, (_, (w, b)) in caffe_layers(weights).items():
        named |= {f"{layer}.weight": w, f"{layer}.bias": b}
    return named


@pytest.mark.parametrize("variant", ["one_tower", "alexnet"])
def test_agrees_with_torch(nets, variant):
    torch, net = pytest.importorskip("torch"), nets(variant)
    model = torch_network(variant, values(net))
    x = noise(2, net.input_shape[0])

    theirs, y = {}, torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for name, layer in model.named_children():
        y = layer(y)
        if name not in ("avgpool", "flatten"):
            theirs[name] = nhwc(y.detach().numpy())
    if "drop5" in theirs:  # flattened in C, H, W order
        theirs["drop5"] = theirs["pool5"].reshape(theirs["drop5"].shape)
    theirs["prob"] = y.softmax(1).detach().numpy()
    agrees(activations(net, x), theirs)

    torch.nn.functional.cross_entropy(y, torch.from_numpy(LABELS)).backward()
    expected = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    agrees(torch_names(gradients(net, x)), expected, GRADIENT)


@pytest.mark.slow
def test_plain_agrees_with_keras(tmp_path):
    import keras
    from keras.layers import Conv2D, Dense, Flatten, Input, MaxPooling2D

    net = with_random_weights(AlexNet(10, "plain", channels=1), tmp_path)
    same = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            Input((227, 227, 1)),
            Conv2D(96, 11, 4, activation="relu", kernel_initializer="zeros"),
            MaxPooling2D(3, 2),
            Conv2D(256, 5, **same),
            MaxPooling2D(3, 2),
            Conv2D(384, 3, **same),
            Conv2D(384, 3, **same),
            Conv2D(256, 3, **same),
            MaxPooling2D(3, 2),
            Flatten(),
            Dense(4096, activation="relu", kernel_initializer="zeros"),
            Dense(4096, activation="relu", kernel_initializer="zeros"),
            Dense(10),
        ]
    )
    model.set_weights(list(values(net).values()))
    x = noise(2, channels=1)
    with tf.GradientTape() as tape:
        logits = model(x)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(LABELS, logits)
    expected = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    agrees({"fc8": net(x)}, {"fc8": logits.numpy()})
    ours = gradients(net, x)
    agrees(ours, dict(zip(ours, map(np.asarray, expected), strict=True)), GRADIENT)


# The tables in the docstring

PARAMETERS = {"alexnet": 60_965_224, "caffenet": 60_965_224, "one_tower": 61_100_840, "plain": 62_378_344}
MULTIPLY_ADDS = {  # side² · kernel² · in / groups · out of conv1 to conv5 and in · out of fc6 to fc8, by hand
    "alexnet": 105_415_200 + 223_948_800 + 149_520_384 + 112_140_288 + 74_760_192 + 58_621_952,
    "caffenet": 105_415_200 + 223_948_800 + 149_520_384 + 112_140_288 + 74_760_192 + 58_621_952,
    "one_tower": 70_276_800 + 223_948_800 + 112_140_288 + 149_520_384 + 99_680_256 + 58_621_952,
    "plain": 105_415_200 + 447_897_600 + 149_520_384 + 224_280_576 + 149_520_384 + 58_621_952,
}

ROW = re.compile(
    r"^ {4}(?P<layer>[a-z]+\d) +(?P<output>\d+(?:×\d+×\d+)?)"
    r"(?: +(?P<size>\d+)×(?P=size)(?:/(?P<stride>\d))?(?: VALID| pad (?P<pad>\d))?)?"
    r"(?: +(?P<groups>\d))?(?: +(?P<parameters>[\d,]{4,}))?$",
    re.MULTILINE,
)


def docstring_tables():
    """variant -> (rows as dicts of strings or None, total) of AlexNet's docstring."""
    _, *parts = re.split(r'variant "(\w+)"', inspect.cleandoc(AlexNet.__doc__))
    for variant, text in zip(parts[::2], parts[1::2], strict=True):
        lines = re.findall(r"^ {4}(?!layer|total)\S", text, re.MULTILINE)
        rows = [match.groupdict() for match in ROW.finditer(text)]
        assert len(rows) == len(lines), "a row that the test cannot read"
        yield variant, (rows, number(re.search(r"^ {4}total +([\d,]+)$", text, re.MULTILINE)[1]))


def number(text):
    return int((text or "0").replace(",", ""))


def test_docstring_has_a_table_for_each_variant():
    assert list(dict(docstring_tables())) == list(ORDER)


@pytest.mark.parametrize("variant", ORDER)
def test_docstring_table(nets, variant):
    rows, total = dict(docstring_tables())[variant]
    table = layer_table(nets(variant))
    assert [layer.name for layer in table] == ORDER[variant]
    layers = {layer.name: layer for layer in table if layer.name[:4] not in ("relu", "drop")}
    assert [row["layer"] for row in rows] == list(layers)

    before = nets(variant).input_shape
    variables = named_variables(nets(variant))
    for row in rows:
        layer = layers[row["layer"]]
        assert "×".join(map(str, layer.output_shape)) == row["output"]
        assert layer.parameters == number(row["parameters"])
        if row["size"]:  # what the kernel column says leads from one output to the next
            size, stride, pad = int(row["size"]), int(row["stride"] or 1), int(row["pad"] or 0)
            assert layer.output_shape[0] == (before[0] + 2 * pad - size) // stride + 1
        if row["groups"]:
            expected = (size, size, before[2] // int(row["groups"]), layer.output_shape[2])
            assert variables[f"{layer.name}/weights"].shape == expected
        before = layer.output_shape

    assert total == sum(layer.parameters for layer in table) == PARAMETERS[variant]
    assert sum(layer.multiply_adds for layer in table) == MULTIPLY_ADDS[variant]


# Behaviour


@pytest.fixture(scope="module")
def start():
    """(variant, seed) -> what the variables of a network of two classes start from, each made once."""
    return functools.cache(lambda variant, seed: values(AlexNet(2, variant, seed=seed)))


def test_variables_are_named_in_construction_order(nets):
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    expected = [f"{layer}/{kind}" for layer in layers for kind in ("weights", "biases")]
    assert list(named_variables(nets("alexnet"))) == expected


@pytest.mark.parametrize(("variant", "seed", "ones"), [("alexnet", 0, 0.1), ("caffenet", 1, 1.0)])
def test_starts_from_the_fillers_of_train_val_prototxt(start, variant, seed, ones):
    bias = dict.fromkeys(["conv2", "conv4", "conv5", "fc6", "fc7"], ones)
    std = {"fc6": 0.005, "fc7": 0.005}
    for name, value in start(variant, seed).items():
        layer, kind = name.split("/")
        if kind == "weights":  # the fewest are fc8's 8,192: their std is known to 0.8 %
            assert value.std() == pytest.approx(std.get(layer, 0.01), rel=0.04)
        else:
            assert (value == np.float32(bias.get(layer, 0.0))).all()


def test_weights_are_a_function_of_the_seed(start):
    """The weights of CaffeNet are drawn as bvlc_alexnet's are."""
    first, again, other = start("alexnet", 0), values(AlexNet(2, "alexnet", seed=0)), start("caffenet", 1)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert name.endswith("/biases") or not np.array_equal(first[name], other[name])
    assert not np.array_equal(first["conv4/weights"][..., :256], first["conv5/weights"])  # each layer its own


@pytest.mark.parametrize("variant", ORDER)
def test_tap_sees_every_layer_by_its_prototxt_name(nets, variant):
    seen = []
    nets(variant)(noise(1, nets(variant).input_shape[0]), tap=lambda name, y: seen.append(name) or y)
    assert seen == ORDER[variant]


def test_tap_may_replace_an_activation(nets):
    net = nets("alexnet")
    logits = net(noise(2), tap=lambda name, y: tf.zeros_like(y) if name == "relu7" else y)
    np.testing.assert_array_equal(logits, [net.fc8.biases] * 2)


@pytest.mark.parametrize(("variant", "dropped"), [("alexnet", "drop6 drop7"), ("one_tower", "drop5 drop6")])
def test_dropout_halves_what_it_is_given(nets, variant, dropped):
    net = nets(variant)
    seen = activations(net, noise(2, net.input_shape[0]), train=True, rng=tf.constant([1, 2]))
    names, kept = list(seen), []
    for name in dropped.split():
        given, got = (seen[key].reshape(2, -1) for key in (names[names.index(name) - 1], name))
        assert ((got == 0) | (got == 2 * given)).all()
        kept.append((got != 0)[:, :4096] & (given > 0)[:, :4096])
        # 2,000 fair coins or more: their mean is within 6 standard deviations, 0.07, of a half.
        assert np.mean(got[given > 0] != 0) == pytest.approx(0.5, abs=0.07)
    assert not np.array_equal(*kept)  # each layer has a mask of its own


def test_dropout_is_a_function_of_rng(nets):
    net = nets("alexnet")
    seeds = [1, 2], [1, 2], [1, 3]
    first, again, other = (net(noise(1), train=True, rng=tf.constant(seed)) for seed in seeds)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_does_not_train_unless_told(nets, monkeypatch):
    net = nets("alexnet")
    np.testing.assert_array_equal(net(noise(1)), net(noise(1), train=False, rng=tf.constant([1, 2])))
    with pytest.raises(ValueError, match=r"rng="):
        net(noise(1), train=True)
    monkeypatch.setattr(net, "_dropout_rate", 0.0)
    np.testing.assert_array_equal(net(noise(1)), net(noise(1), train=True))  # nothing to draw


MODES = pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])


@MODES
@pytest.mark.parametrize("variant", ["alexnet", "one_tower"])
def test_function_computes_what_eager_does(nets, variant, compiled):
    """To 1e-5 of the largest logit: sums in another order."""
    net = nets(variant)
    x = noise(2, net.input_shape[0])
    agrees({"fc8": tf.function(net, jit_compile=compiled)(x)}, {"fc8": net(x).numpy()}, 1e-5)


def test_function_draws_the_masks_that_eager_does(nets):
    """Not so XLA, which makes other floating point numbers of the same random bits."""
    net, call = nets("alexnet"), {"train": True, "rng": tf.constant([1, 2])}
    agrees({"fc8": tf.function(net)(noise(2), **call)}, {"fc8": net(noise(2), **call).numpy()}, 1e-5)


@pytest.fixture(scope="module")
def eager_gradients(nets):
    return {name: g.numpy() for name, g in gradients(nets("alexnet"), noise(2)).items()}


@MODES
def test_function_computes_the_gradients_that_eager_does(nets, eager_gradients, compiled):
    function = tf.function(lambda x: gradients(nets("alexnet"), x), jit_compile=compiled)
    agrees(function(noise(2)), eager_gradients, GRADIENT)


def test_function_takes_any_number_of_pictures(nets):
    function = tf.function(nets("alexnet"), input_signature=[tf.TensorSpec([None, 227, 227, 3])])
    assert function(noise(1)).shape == (1, 1000)
    assert function(noise(3)).shape == (3, 1000)


def test_tape_that_watches_fc8_alone(nets):
    net, variables = nets("alexnet"), named_variables(nets("alexnet"))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([net.fc8.weights, net.fc8.biases])
        loss = tf.reduce_sum(net(noise(1)))
    got = tape.gradient(loss, variables)
    assert [name for name, gradient in got.items() if gradient is not None] == ["fc8/weights", "fc8/biases"]
    np.testing.assert_array_equal(got["fc8/biases"], np.ones(1000))


@pytest.mark.parametrize("shape", [(1, 224, 224, 3), (1, 3, 227, 227), (1, 227, 227, 1), (227, 227, 3)])
def test_wrong_picture_shape(nets, shape):
    got = re.escape(str(shape[1:]))
    with pytest.raises(ValueError, match=rf"pictures of shape \(227, 227, 3\), got {got}"):
        nets("alexnet")(tf.zeros(shape))


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"no variant 'two_towers'.*alexnet, caffenet, one_tower, plain"):
        AlexNet(1000, "two_towers")

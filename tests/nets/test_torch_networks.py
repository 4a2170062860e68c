"""VGG, ResNet, GoogLeNet and Inception v3 against torch with the same weights: logits, gradients, moving averages."""

import re

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets, weights
from barenets.ops import max_pool, named_variables, softmax_cross_entropy
from tests.nets import torch_reference
from tests.nets.parity import agrees
from tests.nets.torch_reference import RESNET, VGG, torch

LOGITS = 1e-4
"""Largest difference of a logit, as a part of the largest, or of 1."""
GRADIENT = 5e-3
"""Largest difference in a variable's gradient, as a part of its largest; 6e-4 in Inception v3, else below 1e-4.

Only because ours is given torch's choices: rounding decides a few ReLUs and maxima of pools the other way, which
moves gradients much more than the rounding itself, those of torch in float32 by up to 0.2 of those in float64."""
CHOICE = 1e-3
"""Largest part of a ReLU's inputs whose sign differs, and how far from the maximum, as a part of the largest value,
the pixel may be that torch's pool chose."""
AVERAGE = 1e-4

KINDS = {"bias": "beta", "weight": "gamma", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""Of batch norm."""

SLIM = {  # torchvision's convolutions by slim's Branch_i, in the order of slim's names Conv2d_0a, Conv2d_0b...
    "Mixed_5": [["1x1"], ["5x5_1", "5x5_2"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"], ["_pool"]],
    "Mixed_6a": [["3x3"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]],
    "Mixed_6": [["1x1"], [f"7x7_{i}" for i in (1, 2, 3)], [f"7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], ["_pool"]],
    "Mixed_7a": [["3x3_1", "3x3_2"], [f"7x7x3_{i}" for i in (1, 2, 3, 4)]],
    "Mixed_7": [["1x1"], ["3x3_1", "3x3_2a", "3x3_2b"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b"], ["_pool"]],
}
HEADS = {"conv0": "Conv2d_1b_1x1", "conv1": "Conv2d_2a_5x5", "fc": "Conv2d_2b_1x1"}


def vgg(depth):
    convs = [(block, i) for block, count in enumerate(VGG[f"vgg{depth}"], 1) for i in range(1, count + 2)]
    index, names = 0, {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
    for block, i in convs:
        last = i > VGG[f"vgg{depth}"][block - 1]  # the pool, which takes one index; a convolution and its ReLU take two
        names |= {} if last else {f"features.{index}": f"conv{block}_{i}"}
        index += 1 if last else 2
    return names.__getitem__


def resnet(depth):
    def rename(layer):
        if not layer.startswith("layer"):
            return {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}[layer]
        stage, block, part = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", layer).groups()
        letter = f"b{block}" if depth > 50 and stage in "23" and block != "0" else "abcdef"[int(block)]
        if part.startswith("downsample"):
            kind, branch = ("res", "bn")[int(part[-1])], "1"
        else:
            kind, branch = {"conv": "res", "bn": "bn"}[part[:-1]], "2" + "abc"[int(part[-1]) - 1]
        return f"{kind}{int(stage) + 1}{letter}_branch{branch}"

    return rename


def googlenet(layer):
    """`x.conv` is convolution `x`, `x.bn` its norm."""
    layer = layer.removesuffix(".conv")
    layer, dot, _ = layer.partition(".bn")
    branches = {"1": "1x1", "2.0": "3x3_reduce", "2.1": "3x3", "3.0": "5x5_reduce", "3.1": "5x5", "4.1": "pool_proj"}
    if match := re.fullmatch(r"inception(\w+)\.branch(.+)", layer):
        ours = f"inception_{match[1]}/{branches[match[2]]}"
    elif match := re.fullmatch(r"aux(\d)\.(\w+)", layer):
        ours = f"loss{match[1]}/{ {'conv': 'conv', 'fc1': 'fc', 'fc2': 'classifier'}[match[2]] }"
    else:
        stem = {"conv1": "conv1/7x7_s2", "conv2": "conv2/3x3_reduce", "conv3": "conv2/3x3"}
        ours = (stem | {"fc": "loss3/classifier"})[layer]
    return ours + ("/bn" if dot else "")


def inception_v3(net):
    ours = {}
    for key in named_variables(net):
        if match := re.fullmatch(r"(Mixed_\w+/Branch_\d)/(\w+)/weights", key):
            ours.setdefault(match[1], []).append(match[2])

    def rename(layer):
        layer = layer.removesuffix(".conv")
        layer, dot, _ = layer.partition(".bn")
        parent, _, part = layer.partition(".")
        if layer == "fc":
            layer = "Logits/Conv2d_1c_1x1"
        elif parent == "AuxLogits":
            layer = f"AuxLogits/{HEADS[part]}"
        elif parent.startswith("Mixed"):
            for i, names in enumerate(SLIM.get(parent) or SLIM[parent[:-1]]):
                if part.removeprefix("branch") in names:
                    branch = f"{parent}/Branch_{i}"
                    layer = f"{branch}/{sorted(ours[branch])[names.index(part.removeprefix('branch'))]}"
        return layer + ("/bn" if dot else "")

    return rename


def pair(name, classes, **options):
    """Ours, torch's with the same random weights, and torch's names, `conv1.weight`, as they are here."""
    model = torch_reference.build(name, classes)
    net = nets.build(name, num_classes=classes, variant="paper" if name in VGG else "torchvision", **options)
    rename = {"vgg": lambda: vgg(int(name[3:])), "res": lambda: resnet(int(name[6:])), "goo": lambda: googlenet}.get(
        name[:3], lambda: inception_v3(net)
    )()
    names = {}
    for layer, module in model.named_modules():
        norm = isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict() if norm or not [*module.children()] else ():
            if key != "num_batches_tracked":
                ours = KINDS[key] if norm else {"weight": "weights", "bias": "biases"}[key]
                names[f"{layer}.{key}"] = f"{rename(layer)}/{ours}"
    state = model.state_dict()
    assert set(names) == {key for key in state if not key.endswith("num_batches_tracked")}
    weights.load(net, {ours: as_ours(ours, state[key]) for key, ours in names.items()})
    return net, model, names


def relu_signs(model, names):
    """Our name of a ReLU -> where its input is positive in torch, NHWC; filled while the model runs."""
    signs = {}

    def watch(module, name):
        module.register_forward_hook(
            lambda module, x, y: signs.__setitem__(name, (y.detach() > 0).numpy().transpose(0, 2, 3, 1))
        )

    for layer, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, last = names[f"{layer}.weight"].rpartition("/")[0].removesuffix("/bn").rpartition("/")
            if not last.startswith("bn"):
                watch(module, f"{parent}/relu_{last}".lstrip("/"))
            elif last == "bn_conv1":
                watch(module, "conv1_relu")
            elif last.endswith("branch2a"):
                watch(module, f"res{last[2:]}_relu")
        elif isinstance(module, torch_reference.Residual):
            block = names[f"{layer}.conv1.weight"].partition("_")[0]
            watch(module, f"{block}_relu")
    return signs


def pool_choices(monkeypatch):
    """Has our Inception networks' maximum pools take the pixels that torch's took, in a run before.

    Returns how far these are from the maximum, pool by pool; filled while ours runs.
    """
    choices, apart, real = [], [], max_pool

    def theirs(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        y, index = torch.nn.functional.max_pool2d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)
        choices.append(index.numpy())
        return y

    def ours(x, *args, **options):
        flat = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [x.shape[0], x.shape[3], -1])
        chosen = tf.transpose(tf.gather(flat, choices.pop(0), batch_dims=2), [0, 2, 3, 1])
        maximum = real(x, *args, **options)
        assert chosen.shape == maximum.shape
        apart.append(float(tf.reduce_max(abs(chosen - maximum)) / tf.reduce_max(abs(maximum))))
        return chosen

    monkeypatch.setattr(torch.nn.functional, "max_pool2d", theirs)
    for module in ("googlenet", "inception"):
        monkeypatch.setattr(f"barenets.nets.{module}.max_pool", ours)
    return apart


def as_ours(name, tensor):
    """torch's tensor in our layout: HWIO, [in, out], and rows in the order H, W, C where a map is flattened."""
    array = tensor.detach().numpy()
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim == 2:
        if side := {"fc6": 7, "loss1/fc": 4, "loss2/fc": 4}.get(name.removesuffix("/weights")):
            array = array.reshape(len(array), -1, side, side).transpose(0, 2, 3, 1).reshape(array.shape)
        return array.T
    return array.copy()  # not a view of what training changes


def pictures(side, count):
    return np.random.default_rng(1).normal(0, 1, (count, side, side, 3)).astype(np.float32)


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


SIDES = dict.fromkeys((*VGG, *RESNET), (224,)) | {"googlenet": (224, 203), "inception_v3": (299, 250)}
SIDES |= {"vgg11": (224, 170), "resnet18": (224, 203), "resnet50": (224, 101)}
"""Of the pictures: the network's own, and one that no pool divides."""


def marked(names, slow):
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]


@pytest.mark.parametrize("name", marked(SIDES, slow=("vgg11", "vgg13", "vgg16", "vgg19", "resnet101", "resnet152")))
def test_logits(name):
    net, model, _ = pair(name, 1000)
    for side in SIDES[name]:
        x = pictures(side, 1)
        with torch.no_grad():
            theirs = model(nchw(x)).numpy()
        largest = np.abs(theirs).max()
        difference = np.abs(net(x).numpy() - theirs).max()
        print(f"{name} {side}: logits up to {largest:.3g} differ by {difference / max(1, largest):.2g}")
        assert 0.1 < largest < 1000
        assert difference < LOGITS * max(1.0, largest)


TRAINED = {"resnet18": (64, 8), "googlenet": (224, 4), "inception_v3": (299, 4)}
"""Network -> side and count of the pictures."""
AUXILIARY = {
    "resnet18": {},
    "googlenet": {"loss1/classifier": 0.3, "loss2/classifier": 0.3},
    "inception_v3": {"AuxLogits/Conv2d_2b_1x1": 0.4},
}


@pytest.mark.parametrize("name", marked(TRAINED, slow=("googlenet", "inception_v3")))
def test_training(name, monkeypatch):
    """Logits of all heads, gradients of all variables and the moving averages, on the batch's own statistics."""
    net, model, names = pair(name, 10, dropout_rate=0.0)
    assert getattr(net, "auxiliary", {}) == AUXILIARY[name]
    side, count = TRAINED[name]
    x, labels = pictures(side, count), np.arange(count)

    model.double().train()
    signs, pools = relu_signs(model, names), pool_choices(monkeypatch)
    theirs = model(nchw(x).double())
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    shares = (1.0, *AUXILIARY[name].values())
    target = torch.from_numpy(labels)
    sum(s * torch.nn.functional.cross_entropy(y, target) for s, y in zip(shares, theirs, strict=True)).backward()

    seen, last, flipped = {}, None, {}

    def tap(key, y):
        nonlocal last
        if key in signs:
            flipped[key] = np.mean(signs[key] != (y > 0))
            y = tf.where(signs[key], last, 0.0)
        elif key in ("loss1/drop_fc", "loss2/drop_fc"):  # dropout, which has its rate built in
            y = last
        last = seen[key] = y
        return y

    variables = {key: v for key, v in named_variables(net).items() if v.trainable}
    with tf.GradientTape() as tape:
        logits = net(x, train=True, rng=tf.constant([0, 0]), tap=tap)
        ours = [logits, *(seen[key] for key in AUXILIARY[name])]
        loss = [s * tf.reduce_mean(softmax_cross_entropy(labels, y)) for s, y in zip(shares, ours, strict=True)]
        loss = tf.add_n(loss)
    gradients = {key: np.asarray(g) for key, g in tape.gradient(loss, variables).items()}
    print(name, "choices that rounding changed:", max(flipped.values()), max(pools, default=0.0))
    assert set(flipped) == set(signs)
    assert max(flipped.values()) < CHOICE
    assert len(pools) == {"resnet18": 0, "googlenet": 13, "inception_v3": 4}[name]
    assert max(pools, default=0.0) < CHOICE

    heads = ("logits", *AUXILIARY[name])
    apart = agrees(
        {key: y.numpy() for key, y in zip(heads, ours, strict=True)},
        {key: y.detach().numpy() for key, y in zip(heads, theirs, strict=True)},
    )
    print("logits", apart)
    buffers, parameters = dict(model.named_buffers()), dict(model.named_parameters())
    apart = agrees(
        {key: v.numpy() for key, v in named_variables(net).items() if not v.trainable},
        {ours: as_ours(ours, buffers[key]) for key, ours in names.items() if key in buffers},
        AVERAGE,
    )
    print("moving averages", max(apart.values()))
    expected = {ours: as_ours(ours, parameters[key].grad) for key, ours in names.items() if key in parameters}
    apart = agrees(gradients, expected, GRADIENT)
    print("gradients", max(apart.values()), "median", np.median([*apart.values()]), max(apart, key=apart.get))

"""The tables in the networks' docstrings against the networks, digit by digit, and the published totals.

The networks are built inside a `tf.Graph`: every shape, kernel and stride is there, and no weight is drawn.
AlexNet's tables have their test in test_alexnet.py.
"""

import functools
import inspect
import itertools
import math
import re
from dataclasses import dataclass

import pytest
import tensorflow as tf

from barenets import nets
from barenets.ops import named_variables

# What a docstring says

TABLE = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
"""In a clean docstring a table is indented by 4; an empty line ends it."""


def rows(table):
    """The rows as column -> cell, without empty cells; a column begins where its name does, two spaces after."""
    header, *lines = table.splitlines()
    columns = [(match.start(), match[0]) for match in re.finditer(r"\S+(?: \S+)*", header)]
    ends = [start for start, _ in columns[1:]] + [None]
    cut = [{name: line[a:b].strip() for (a, name), b in zip(columns, ends, strict=True)} for line in lines]
    return [{name: cell for name, cell in row.items() if cell} for row in cut]


def check(text, tables, prose=()):
    """Compares a docstring's first tables, and the large numbers between them, with what the code gives."""
    shown = [rows(table) for table in TABLE.findall(text)[: len(tables)]]
    assert shown == [[{name: cell for name, cell in row.items() if cell} for row in table] for table in tables]
    assert re.findall(r"\d+(?:,\d{3})+", TABLE.sub("", text)) == [f"{number:,}" for number in prose]


# What the code does


@dataclass(frozen=True)
class Facts:
    """What a network shows: by the names that `tap` sees, and by those of its variables."""

    shapes: dict[str, tuple[int, ...]]
    kernels: dict[str, str]
    sizes: dict[str, int]
    """Of all variables."""
    trainable: frozenset[str]

    def output(self, layer):
        return "×".join(map(str, self.shapes[layer]))

    def parameters(self, *layers):
        """Of the trainable variables below `layers`, or of all; empty if there are none."""
        below = tuple(f"{layer}/" for layer in layers) or ""
        total = sum(size for name, size in self.sizes.items() if name in self.trainable and name.startswith(below))
        return f"{total:,}" if total else ""


@functools.cache
def facts(name, variant):
    """Of the network for 1000 classes in evaluation, with pictures of its own shape."""
    shapes, kernels = {}, {}

    def tap(layer, y):
        shapes[layer], kernels[layer] = tuple(y.shape[1:]), kernel(y.op)
        return y

    with tf.Graph().as_default():
        net = nets.build(name, variant=variant)
        net(tf.zeros([1, *net.input_shape]), tap=tap)
        variables = named_variables(net)
    sizes = {key: math.prod(variable.shape) for key, variable in variables.items()}
    return Facts(shapes, kernels, sizes, frozenset(key for key, variable in variables.items() if variable.trainable))


def kernel(op):
    """`7×7/2` for the convolution or pooling that `op` ends, `mean` for a mean; empty for other layers."""
    op = op.inputs[0].op if op.type == "BiasAdd" else op
    if op.type == "Conv2D" and op.inputs[0].op.type == "DepthwiseConv2dNative":
        op = op.inputs[0].op
    if op.type in ("Conv2D", "DepthwiseConv2dNative"):
        height, width = op.inputs[1].shape[:2]
    elif op.type == "MaxPool":
        _, height, width, _ = op.get_attr("ksize")
    else:
        return "mean" if op.type == "Mean" else ""
    _, stride, horizontal, _ = op.get_attr("strides")
    assert stride == horizontal
    return f"{height}×{width}" + (f"/{stride}" if stride > 1 else "")


def vgg():
    found = {depth: facts(f"vgg{depth}", "paper") for depth in (11, 13, 16, 19)}
    layers = {}
    for depth, f in found.items():
        for layer in f.shapes:
            if not layer.startswith(("relu", "drop")):
                row = {"layer": layer, "output": f.output(layer), "kernel": f.kernels[layer]}
                row |= {"from": "" if depth == 11 else str(depth), "parameters": f.parameters(layer)}
                known = layers.setdefault(layer, row)
                assert row == known | {"from": row["from"]}, "the columns of the paper's table differ"
    in_order = [layers.pop(layer) for layer in found[19].shapes if layer in layers]
    assert not layers
    return [in_order, [{"depth": str(depth), "total": f.parameters()} for depth, f in found.items()]], ()


def googlenet():
    f = facts("googlenet", "bvlc")
    kernels = {"1×1": "1×1", "3×3 reduce": "1×1", "3×3": "3×3", "5×5 reduce": "1×1", "5×5": "5×5", "pool proj": "1×1"}
    modules = []
    for module, layers in itertools.groupby(f.shapes, lambda layer: layer.partition("/")[0]):
        layers = list(layers)
        row = {"module": module, "output": f.output(layers[-1]), "parameters": f.parameters(module)}
        for layer in layers:
            part = layer.partition("/")[2]
            column = part.replace("x", "×").replace("_", " ")
            if column in kernels:
                row[column] = str(f.shapes[layer][-1])
                assert f.kernels[layer] == kernels[column]
            elif part.endswith("_s2") and not part.startswith("relu"):
                assert f.kernels[layer] == column.replace(" s", "/")  # 7x7_s2
        modules.append(row)
    total = f.parameters(*(row["module"] for row in modules))
    auxiliary = [sum(n for name, n in f.sizes.items() if name.startswith(head)) for head in ("loss1/", "loss2/")]
    return [[*modules, {"module": "total", "parameters": total}]], auxiliary


def inception(name):
    f = facts(name, "slim")
    layers = []
    for layer in f.shapes:
        if "/" in layer or layer.startswith("relu_"):
            continue
        row = {"layer": layer, "output": f.output(layer)}
        if not layer.startswith("Mixed_"):
            row["parameters"] = f.parameters(layer)
            assert f.kernels[layer].partition("/")[0] == layer.rpartition("_")[2].replace("x", "×")
        layers.append(row)
    return [[*layers, {"layer": "Logits", "output": f.output("Logits/Conv2d_1c_1x1")}]], ()


def resnet():
    found = {depth: facts(f"resnet{depth}", "torchvision") for depth in (18, 34, 50, 101, 152)}
    layers = {}
    for depth, f in found.items():
        for row in resnet_rows(f, str(depth), "bottleneck" if depth >= 50 else "two layers"):
            known = layers.setdefault(row["layer"], row)
            assert all(known.setdefault(column, cell) == cell for column, cell in row.items())
    totals = [{"depth": str(depth), "parameters (torchvision)": f.parameters()} for depth, f in found.items()]
    return [list(layers.values()), totals], ()


def resnet_rows(f, depth, kind):
    """What one depth says about the table: a row for each stage, its plan in the column `kind`."""
    named = [layer for layer in f.shapes if re.match(r"(conv1|pool\d|res\w+|fc\d+)$", layer)]
    width = ""
    for row, layers in itertools.groupby(named, lambda layer: layer[:4] if layer.startswith("res") else layer):
        last, cells = list(layers)[-1], {kind: f.kernels.get(row, "")}
        if row.startswith("res"):
            branches = [layer for layer in named if re.match(rf"{row}\w+_branch2[abc]$", layer)]
            blocks = [
                " ".join(f"{f.kernels[layer].partition('/')[0]}-{f.shapes[layer][-1]}" for layer in convolutions)
                for _, convolutions in itertools.groupby(branches, lambda layer: layer.partition("_")[0])
            ]
            assert len(set(blocks)) == 1
            cells = {depth: str(len(blocks)), kind: blocks[0]}
            width = blocks[0].rpartition("-")[2]
        output = f.output(last)
        if last.startswith("res") or row == "pool5":
            assert output.split("×")[-1] == width
            output = output.removesuffix(width) + "w"
        yield {"layer": row, "output": output, **cells}


def xception():
    f = facts("xception", "keras")
    named = [layer for layer in f.shapes if not re.search(r"_(bn|act|add)$|^dropout$", layer)]
    layers, before, repeated = [], None, []
    for block, members in itertools.groupby(named, lambda layer: layer.partition("_")[0]):
        block_rows = [
            {
                "layer": layer,
                "output": f.output(layer),
                "kernel": f.kernels[layer].replace("mean", ""),
                "parameters": f.parameters(layer),
            }
            for layer in members
        ]
        same = [{**row, "layer": row["layer"].removeprefix(block)} for row in block_rows]
        if same == before:
            repeated.append(block.removeprefix("block"))
            continue
        if repeated:
            said = f"blocks {repeated[0]} to {repeated[-1]} as block {int(repeated[0]) - 1}"
            layers.append({"layer": "...", "parameters": said})
            repeated = []
        layers += block_rows
        before = same
    norms = sum(n for name, n in f.sizes.items() if name.endswith(("_bn/gamma", "_bn/beta")))
    return [[*layers, {"layer": "total", "parameters": f.parameters()}]], (norms,)


EXPECTED = {
    nets.VGG: vgg,
    nets.GoogLeNet: googlenet,
    nets.InceptionV2: functools.partial(inception, "inception_v2"),
    nets.InceptionV3: functools.partial(inception, "inception_v3"),
    nets.ResNet: resnet,
    nets.Xception: xception,
}

NETWORKS = pytest.mark.parametrize("network", EXPECTED, ids=lambda network: network.__name__)


@pytest.fixture(scope="module")
def expected():
    """Network -> its tables as the code gives them, and the large numbers of its prose; each made once."""
    return functools.cache(lambda network: EXPECTED[network]())


@pytest.mark.parametrize(
    "network",
    [pytest.param(n, id=n.__name__, marks=pytest.mark.slow if n is nets.ResNet else ()) for n in EXPECTED],
)
def test_docstring_table(expected, network):
    check(inspect.cleandoc(network.__doc__), *expected(network))


@pytest.mark.slow
@NETWORKS
def test_every_digit_of_a_table_counts(expected, network):
    text, (tables, prose) = inspect.cleandoc(network.__doc__), expected(network)
    spans = [match.span() for match in TABLE.finditer(text)][: len(tables)]
    spans += [match.span() for match in re.finditer(r"\d+(?:,\d{3})+", text)]
    digits = sorted({i for begin, end in spans for i in range(begin, end) if text[i] in "0123456789"})
    assert len(digits) > 100
    check(text, tables, prose)
    for i in digits:
        other = str((int(text[i]) + 1) % 10)
        with pytest.raises(AssertionError):
            check(text[:i] + other + text[i + 1 :], tables, prose)


@NETWORKS
def test_every_row_of_a_table_counts(expected, network):
    text, (tables, prose) = inspect.cleandoc(network.__doc__), expected(network)
    lines = [line for table in TABLE.findall(text)[: len(tables)] for line in table.splitlines(keepends=True)]
    for line in lines:
        with pytest.raises(AssertionError):
            check(text.replace(line, "", 1), tables, prose)


TRAINABLE = {  # torchvision's own; test_keras.py has those of keras.applications
    ("vgg11", "paper", ""): 132_863_336,
    ("vgg13", "paper", ""): 133_047_848,
    ("resnet18", "torchvision", ""): 11_689_512,
    ("resnet34", "torchvision", ""): 21_797_672,
    ("resnet50", "torchvision", ""): 25_557_032,
    ("resnet101", "torchvision", ""): 44_549_160,
    ("resnet152", "torchvision", ""): 60_192_808,
    ("googlenet", "torchvision", "loss1 loss2"): 6_624_904,
    ("inception_v3", "torchvision", ""): 27_161_264,
}

ALL = {  # keras.applications' own, which count moving averages
    ("resnet50", "keras", ""): 25_636_712,
    ("resnet101", "keras", ""): 44_707_176,
    ("resnet152", "keras", ""): 60_419_944,
    ("inception_v3", "slim", "AuxLogits"): 23_851_784,
    ("xception", "keras", ""): 22_910_480,
}


def counted(name, variant, without):
    """Variable -> its size, but for those of the layers in `without`."""
    left_out = tuple(f"{layer}/" for layer in without.split())
    return {key: size for key, size in facts(name, variant).sizes.items() if not key.startswith(left_out)}


NO_TABLE = re.compile("googlenet|inception_v3-torchvision|resnet.*-keras")
"""Variants that need a network of their own, which no table has built."""


def marked(counts):
    return [pytest.param(*key, marks=pytest.mark.slow if NO_TABLE.match("-".join(key)) else ()) for key in counts]


@pytest.mark.parametrize(("name", "variant", "without"), marked(TRAINABLE))
def test_published_trainable_parameters(name, variant, without):
    sizes, trainable = counted(name, variant, without), facts(name, variant).trainable
    assert sum(size for key, size in sizes.items() if key in trainable) == TRAINABLE[name, variant, without]


@pytest.mark.parametrize(("name", "variant", "without"), marked(ALL))
def test_published_variables(name, variant, without):
    assert sum(counted(name, variant, without).values()) == ALL[name, variant, without]

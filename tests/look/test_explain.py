"""Explanations against torch's autograd, hooks and layers on the same weights, and against loops in NumPy."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets
from barenets.look import explain, maps
from barenets.ops import Conv2D, Dense, layers, max_pool
from barenets.train import data, model

SIDE, CLASSES = 16, 5


class Small(tf.Module):
    """conv1 → relu1 → pool1 → conv2 → relu2 → pool → fc3 → relu3 → fc4."""

    def __init__(self):
        super().__init__()
        self.input_shape = (SIDE, SIDE, 3)
        self.conv1 = Conv2D(3, 6, 3, padding=1, bias_value=0.1, seed=(0, 1))
        self.conv2 = Conv2D(6, 8, 3, padding=1, bias_value=0.1, seed=(0, 2))
        self.fc3 = Dense(8, 10, bias_value=0.1, seed=(0, 3))
        self.fc4 = Dense(10, CLASSES, seed=(0, 4))

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = layers(tap)
        x = layer("relu1", tf.nn.relu, layer("conv1", self.conv1, x))
        x = layer("pool1", partial(max_pool, size=2, stride=2), x)
        x = layer("relu2", tf.nn.relu, layer("conv2", self.conv2, x))
        x = layer("pool", partial(tf.reduce_mean, axis=[1, 2]), x)
        x = layer("relu3", tf.nn.relu, layer("fc3", self.fc3, x))
        return layer("fc4", self.fc4, x)


@pytest.fixture(scope="module")
def net():
    return Small()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 1, (4, SIDE, SIDE, 3)).astype(np.float32)


CHOSEN = np.array([0, 3, 1, 4], np.int32)


@pytest.fixture(scope="module")
def theirs(net):
    """The network in torch, NCHW, and its ReLUs."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def kernel(variable):
        value = variable.numpy()
        return torch.tensor(value.transpose(3, 2, 0, 1).copy() if value.ndim == 4 else value.T.copy())

    conv1, conv2, fc3, fc4 = (
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Linear(8, 10),
        nn.Linear(10, CLASSES),
    )
    for ours, module in zip((net.conv1, net.conv2, net.fc3, net.fc4), (conv1, conv2, fc3, fc4), strict=True):
        module.weight.data, module.bias.data = kernel(ours.weights), torch.tensor(ours.biases.numpy())
    return nn.Sequential(
        conv1,
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv2,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        fc3,
        nn.ReLU(),
        fc4,
    )


def torch_gradient(theirs, images, classes):
    import torch

    x = torch.tensor(images.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    theirs(x)[torch.arange(len(images)), torch.tensor(classes, dtype=torch.long)].sum().backward()
    return x.grad.numpy().transpose(0, 2, 3, 1)


def close(ours, expected):
    """float32 in another order: 1e-5 of the largest."""
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_saliency_torch(net, images, theirs):
    gradient = torch_gradient(theirs, images, CHOSEN)
    close(explain.input_gradient(net, images, CHOSEN), gradient)
    close(explain.saliency(net, images, CHOSEN), np.abs(gradient).max(-1))
    likeliest = net(images).numpy().argmax(1)
    close(explain.saliency(net, images), np.abs(torch_gradient(theirs, images, likeliest)).max(-1))


def test_smooth_grad_torch(net, images, theirs):
    """With the very noise, which is drawn anew here: each picture's by its own range, and none twice."""
    spread = 0.2 * (images.max((1, 2, 3)) - images.min((1, 2, 3)))[:, None, None, None]
    noises = [tf.random.stateless_normal(images.shape, [7, i]).numpy() for i in range(5)]
    assert np.std(noises[0] - noises[1]) > 1
    mean = np.mean([torch_gradient(theirs, images + spread * noise, CHOSEN) for noise in noises], 0)
    ours = partial(explain.smooth_grad, net, images, CHOSEN, samples=5, noise=0.2)
    close(ours(seed=7), np.abs(mean).max(-1))
    assert np.abs(ours(seed=8) - ours(seed=7)).max() > 1e-3


def test_integrated_gradients_torch(net, images, theirs):
    shares, missing = explain.integrated_gradients(net, images, CHOSEN, baseline=0.5, steps=20)
    ways = [torch_gradient(theirs, 0.5 + (i + 0.5) / 20 * (images - 0.5), CHOSEN) for i in range(20)]
    close(shares, (images - 0.5) * np.mean(ways, 0))
    rise = net(images).numpy()[np.arange(4), CHOSEN] - net(np.full_like(images, 0.5)).numpy()[np.arange(4), CHOSEN]
    np.testing.assert_allclose(shares.sum((1, 2, 3)) / rise - 1, missing, atol=1e-4)


def test_integrated_gradients_are_complete(net, images):
    """The shares add up to the rise of the logit: 1 % at 256 steps, and further off with few."""
    missing = {steps: np.abs(explain.integrated_gradients(net, images, CHOSEN, steps=steps)[1]) for steps in (2, 256)}
    assert missing[256].max() < 0.01
    assert missing[2].max() > 0.01


def test_guided_backpropagation_torch(net, images, theirs):
    import torch

    hooks = [
        module.register_full_backward_hook(lambda module, given, got: (torch.relu(given[0]),))
        for module in theirs
        if isinstance(module, torch.nn.ReLU)
    ]
    expected = torch_gradient(theirs, images, CHOSEN)
    for hook in hooks:
        hook.remove()
    assert len(hooks) == 3
    assert np.abs(expected - torch_gradient(theirs, images, CHOSEN)).max() > 1e-3
    close(explain.guided_backpropagation(net, images, CHOSEN), expected)


@pytest.mark.parametrize(("layer", "place"), [("relu2", 5), (None, 5), ("conv2", 4), ("pool1", 3)])
def test_grad_cam_torch(net, images, theirs, layer, place):
    import torch

    x = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    seen = theirs[:place](x).detach().requires_grad_()
    # A copy: ReLU in torch's sequence would change nothing in place here, but the graph begins at `seen`.
    theirs[place:](seen)[torch.arange(4), torch.tensor(CHOSEN, dtype=torch.long)].sum().backward()
    cam = torch.relu((seen.grad.mean((2, 3), keepdim=True) * seen).sum(1)).detach()
    cam = cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-30)
    expected = torch.nn.functional.interpolate(cam[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    close(explain.grad_cam(net, images, CHOSEN, layer=layer), expected)


def test_occlusion(net, images):
    """A double loop over squares that do not fit evenly; each covered picture by itself."""
    size, stride, value = 6, 4, 0.3
    tops = [0, 4, 8, 10]
    expected, covering = np.zeros((4, SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for i in range(4):
        whole = tf.nn.softmax(net(images[i : i + 1])).numpy()[0, CHOSEN[i]]
        for top in tops:
            for left in tops:
                covered = images[i : i + 1].copy()
                covered[:, top : top + size, left : left + size] = value
                fall = whole - tf.nn.softmax(net(covered)).numpy()[0, CHOSEN[i]]
                expected[i, top : top + size, left : left + size] += fall
                covering[top : top + size, left : left + size] += i == 0
    ours = explain.occlusion(net, images, CHOSEN, size=size, stride=stride, value=value, batch=5)
    close(ours, expected / covering)


NETS = [name for name in nets.NETWORKS if name not in ("vgg11", "vgg13", "vgg16", "resnet34", "resnet101", "resnet152")]
"""The others are longer or shorter only."""


def check_relus(graph, guided):
    """Each ReLU of a trace is in the scope of a name that is guided, and each of those names has one ReLU.

    So one that a network applied past the tap would be found, too: nothing is asked of the tap here.
    """
    scopes = [op.name.rpartition("/")[0] for op in graph.get_operations() if "relu" in op.type.lower()]
    assert len(scopes) >= 5
    assert sorted(scopes) == sorted(guided._relus)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_relu_of_every_network_is_guided(name):
    guided = explain._Guided()
    with tf.Graph().as_default() as graph:  # where no variable gets its numbers
        net = nets.build(name, num_classes=3)
        net(tf.zeros([1, *net.input_shape]), tap=guided)
    check_relus(graph, guided)


def test_every_relu_of_a_head_is_guided():
    guided, net = explain._Guided(), nets.build("resnet18", num_classes=3, head="dense", size=32)
    made = tf.function(lambda x: net(x, tap=guided), [tf.TensorSpec([1, 32, 32, 3])], autograph=False)
    check_relus(made.get_concrete_function().graph, guided)
    assert "head/relu" in guided._relus


def test_a_map_that_is_not_there(net, images):
    with pytest.raises(UserError, match=r"no map 'relu4' in this network; did you mean relu\d"):
        explain.grad_cam(net, images, layer="relu4")
    with pytest.raises(UserError, match="no map 'fc3'"):
        explain.grad_cam(net, images, layer="fc3")  # a vector
    with pytest.raises(UserError, match="no map 'conv9'"):
        maps.tap_map(net, images, "conv9")


@pytest.mark.parametrize("layer", ["conv2", "relu1"])
def test_what_a_value_depends_on(net, images, layer):
    """Against differences: each pixel, in each colour, moved by itself, and what then moves."""
    read = partial(maps.tap_map, net, layer=layer)
    found = read(images=images)
    channels = [1, 0, 5, 2]
    largest = [np.unravel_index(found[i, ..., c].argmax(), found.shape[1:3]) for i, c in enumerate(channels)]
    places = [maps.Place(i, int(row), int(column), 0.0) for i, (row, column) in enumerate(largest)]
    boxes = maps.depends_on(net, images, layer, channels, places)
    field = {"relu1": 3, "conv2": 8}[layer]  # of 3×3; and of 3×3, 2×2 with a stride of 2, 3×3
    for i, (channel, place) in enumerate(zip(channels, places, strict=True)):
        moved = np.repeat(images[i : i + 1], SIDE * SIDE * 3, 0)
        moved.reshape(len(moved), -1)[np.diag_indices(len(moved))] += 1e-3
        change = read(images=moved)[:, place.row, place.column, channel] - found[i, place.row, place.column, channel]
        rows, columns, _ = np.nonzero(np.abs(change).reshape(SIDE, SIDE, 3) > 1e-6)  # float32 says no less
        assert boxes[i].tolist() == [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
        assert boxes[i][1] - boxes[i][0] <= field
        assert boxes[i][3] - boxes[i][2] <= field
    lowest = np.unravel_index(found[0, ..., 1].argmin(), found.shape[1:3])
    if layer == "relu1":
        assert found[0, ..., 1].min() == 0
        nothing = maps.depends_on(net, images[:1], layer, [1], [maps.Place(0, *map(int, lowest), 0.0)])
        assert nothing.tolist() == [[0, 0, 0, 0]]
    assert maps.depends_on(net, images[:1], "fc4", [2], [maps.Place(0, 0, 0, 0.0)]).tolist() == [[0, SIDE, 0, SIDE]]


def test_outlines():
    pictures = np.zeros((3, 9, 10, 3), np.uint8)
    drawn = maps.outlined(pictures, np.array([[1, 8, 2, 9], [0, 0, 0, 0], [3, 5, 0, 3]]))[..., 0]
    expected = np.zeros((3, 9, 10))
    expected[0, 1:8, 2:9], expected[0, 3:6, 4:7] = 255, 0
    expected[2, 3:5, :3] = 255
    np.testing.assert_array_equal(drawn, expected)
    assert not pictures.any()


def test_what_is_drawn():
    values = np.zeros((2, 4, 4), np.float32)
    values[0, 1, 2], values[0, 3, 3] = 5, -7
    heat = explain.heat(values)
    assert heat[0, 1, 2] == 1
    assert heat.sum() == 1  # what is negative is no reason for the class, and a map of zeros stays dark
    pictures = np.full((2, 4, 4, 3), 100, np.uint8)
    drawn = explain.overlay(pictures, values)
    assert drawn.shape == pictures.shape
    assert drawn[0, 1, 2].sum() > drawn[0, 0, 0].sum()


def test_filters():
    kernel = np.zeros((2, 2, 3, 2), np.float32)
    kernel[0, 1, 2, 1] = 4
    tiles = maps.filters(kernel)
    assert tiles.shape == (2, 2, 2, 3)
    assert (tiles[0] == 128).all()
    assert tiles[1, 0, 1].tolist() == [0, 0, 255]
    assert maps.filters(np.zeros((3, 3, 2, 5), np.float32)).shape == (10, 3, 3, 3)
    with pytest.raises(ValueError, match="height, width, in, out"):
        maps.filters(np.zeros((3, 3)))


def test_feature_maps(net, images):
    drawn = maps.feature_maps(net, images[0], "relu2")
    seen = {}
    net(images[:1], tap=lambda name, x: seen.setdefault(name, x))
    assert drawn.shape == (8, 8, 8, 3)
    for channel in range(8):
        map_ = seen["relu2"][0, ..., channel].numpy()
        if map_.max() > map_.min():
            assert np.unravel_index(drawn[channel, ..., 0].argmax(), (8, 8)) == np.unravel_index(map_.argmax(), (8, 8))


def test_of_a_map_no_more_is_computed_than_it_takes(net):
    """A pass over a folder must not hold, or compute, what lies above the layer."""
    graph = maps._reader(net, "relu1").get_concrete_function().graph
    assert [op.type for op in graph.get_operations()].count("Conv2D") == 2  # the trace is of all of it
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [graph.outputs[0].op.name])
    assert [node.op for node in needed.node].count("Conv2D") == 1


def test_maximally_activating(net):
    pictures = np.random.default_rng(1).normal(0, 1, (11, SIDE, SIDE, 3)).astype(np.float32)
    order = np.random.default_rng(2).permutation(11)

    class Batch:
        def __init__(self, indices):
            self.indices, self.images = indices, pictures[indices]

    batches = [Batch(order[:4]), Batch(order[4:8]), Batch(order[8:])]
    best = maps.maximally_activating(net, batches, "conv2", [0, 5], top=3)
    conv2 = maps.tap_map(net, pictures, "conv2")
    for channel, places in best.items():
        largest = conv2[..., channel].reshape(11, -1).max(1)
        assert [place.record for place in places] == np.argsort(-largest)[:3].tolist()
        for place in places:
            assert place.value == pytest.approx(conv2[place.record, place.row, place.column, channel], rel=1e-5)
    with pytest.raises(UserError, match="channels 0 to 7, and not 8"):
        maps.maximally_activating(net, batches, "conv2", [8])
    assert list(maps.maximally_activating(net, batches, "fc4", [0], top=2)) == [0]


@pytest.mark.slow
def test_grad_cam_of_resnet50_is_on_the_animal(shared_data):
    """Where the heads are, in rows and columns of the picture as it goes in, was looked up by eye."""
    heads = {"n02391049_zebra": (40, 215, 95, 222), "n01843383_toucan": (62, 170, 28, 180)}
    found = model.from_weights(str(shared_data / "weights/resnet50_imagenet.h5"), None, None, None)
    paths = tuple(str(shared_data / "imagenet_samples" / f"{name}.JPEG") for name in heads)
    records = data.Records(paths, np.zeros(2, np.int32), found.class_names, "")
    (batch,) = data.Batches(records, found.preprocessing, 2).epoch(0)
    names = [found.class_names[c] for c in explain.likeliest(found.net, batch.images)]
    assert names == ["zebra", "toucan"]
    heats = explain.grad_cam(found.net, batch.images)
    assert heats.shape == (2, 224, 224)
    for heat, (top, bottom, left, right) in zip(heats, heads.values(), strict=True):
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert top <= row < bottom
        assert left <= column < right
    toucan = heats[1]  # it lies across the picture: there is hardly any heat above and below it
    assert toucan[50:170].sum() > 0.9 * toucan.sum() > toucan[:, 50:170].sum()

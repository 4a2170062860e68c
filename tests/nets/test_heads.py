"""Heads against Keras with the same weights, and on a base: names, taps, dropout, loading, training."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets, ops, weights
from barenets.nets import Centers, DenseHead, GLUHead, Headed, LinearHead
from barenets.ops import layer_table, named_variables
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import freeze_norms, trained_variables

H, W, C, CLASSES = 3, 2, 10, 4
RNG = tf.constant([3, 4])
# float32 sums of up to 60 products of order 1, added in another order: 60 · 6e-8.
CLOSE = {"rtol": 1e-5, "atol": 4e-6}

HEADS = {
    "linear": lambda rate=0.5, seed=0: LinearHead(C, CLASSES, dropout_rate=rate, seed=seed),
    "dense": lambda rate=0.5, seed=0: DenseHead((H, W, C), CLASSES, width=7, dropout_rate=rate, seed=seed),
    "glu": lambda rate=0.5, seed=0: GLUHead(C, CLASSES, features=6, dropout_rate=rate, seed=seed),
}
TAPS = {
    "linear": ["pool", "dropout", "classifier"],
    "dense": ["flatten", "fc", "relu", "dropout", "classifier"],
    "glu": ["pool", "auxiliary_classifier", "linear", "gate", "sigmoid", "glu", "centers", "dropout", "classifier"],
}


class Base(tf.Module):
    """conv1 → bn1 → dropout, on 6×4 pictures: a base of each kind of layer that training treats apart."""

    input_shape = (6, 4, 3)

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self._rate = rate
        self.conv1 = ops.Conv2D(3, C, 3, stride=2, seed=(1, 2))
        self.bn1 = ops.BatchNorm(C)

    def __call__(self, x, *, train=False, rng=None, tap=None):
        layer = ops.layers(tap)
        x = layer("conv1", self.conv1, x)
        x = layer("bn1", functools.partial(self.bn1, train=train), x)
        return layer("dropout", ops.layer_dropout("dropout", self._rate, rng, train=train), x)


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def lively(head: tf.Module) -> tf.Module:
    """Weights and biases of order 1, so that every one of them is seen in the logits."""
    for seed, variable in enumerate(named_variables(head).values()):
        variable.assign(normal(*variable.shape, seed=seed))
    return head


def batch(size: int = 5) -> tuple[tf.Tensor, tf.Tensor]:
    return normal(size, *Base.input_shape), tf.constant(np.arange(size, dtype=np.int32) % CLASSES)


def values(net: tf.Module) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in named_variables(net).items()}


def changed(net: tf.Module, before: dict[str, np.ndarray]) -> set[str]:
    return {name for name, value in values(net).items() if value.tobytes() != before[name].tobytes()}


def tapped(net, x, **options) -> dict[str, tf.Tensor]:
    seen: dict[str, tf.Tensor] = {}
    net(x, tap=lambda name, y: seen.setdefault(name, y), **options)
    return seen


# Against Keras


def keras_model(kind: str):
    """The head's layers in Keras; its outputs are ours by name."""
    import keras

    class SquaredDistances(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(CLASSES, shape[-1]))

        def call(self, x):
            return keras.ops.sum((keras.ops.expand_dims(x, 1) - self.kernel) ** 2, -1)

    layer = keras.layers
    x = keras.Input((H, W, C))
    if kind == "dense":
        relu = layer.Dense(7, "relu", name="fc")(layer.Flatten()(x))
        outputs = {"relu": relu, "classifier": layer.Dense(CLASSES, name="classifier")(relu)}
    else:
        top = pool = layer.GlobalAveragePooling2D()(x)
        outputs = {"pool": pool}
        if kind == "glu":
            linear, gate = (layer.Dense(6, name=name)(pool) for name in ("linear", "gate"))
            outputs["sigmoid"] = layer.Activation("sigmoid")(gate)
            top = outputs["glu"] = layer.multiply([linear, outputs["sigmoid"]])
            outputs["auxiliary_classifier"] = layer.Dense(CLASSES, name="auxiliary_classifier")(pool)
            outputs["centers"] = SquaredDistances(name="centers")(top)
        outputs["classifier"] = layer.Dense(CLASSES, name="classifier")(top)
    return keras.Model(x, outputs)


@pytest.mark.parametrize("kind", HEADS)
def test_same_outputs_and_gradients_as_keras(kind):
    head, model, x = lively(HEADS[kind]()), keras_model(kind), normal(5, H, W, C, seed=9)
    theirs = {}
    for name, variable in named_variables(head).items():
        layer, part = name.split("/")
        theirs[name] = getattr(model.get_layer(layer), {"biases": "bias"}.get(part, "kernel"))
        theirs[name].assign(variable.numpy())
    assert len(theirs) == len(model.weights)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        seen, expected = tapped(head, x), model(x)
        losses = [
            tf.add_n([tf.reduce_sum(y * normal(*y.shape, seed=i)) for i, y in enumerate(of[name] for name in expected)])
            for of in (seen, expected)
        ]
    np.testing.assert_array_equal(head(x), seen["classifier"])
    for name, y in expected.items():
        np.testing.assert_allclose(seen[name], y, **CLOSE, err_msg=name)
    ours = tape.gradient(losses[0], {"x": x, **named_variables(head)})
    keras_gradients = tape.gradient(losses[1], {"x": x, **{name: v.value for name, v in theirs.items()}})
    for name, gradient in keras_gradients.items():
        np.testing.assert_allclose(ours[name], gradient, **CLOSE, err_msg=name)


def test_two_classes_share_one_unit():
    """Softmax of (0, z), its loss and the loss's gradient are the sigmoid's of z, as here and in Keras."""
    import keras

    head, x = lively(DenseHead((H, W, C), width=7)), normal(5, H, W, C, seed=9)
    assert head.classifier.weights.shape == (7, 1)
    labels = tf.constant([1, 0, 1, 0, 0])
    binary = tf.cast(labels, tf.float32)[:, None]
    assert list(tapped(head, x)) == [*TAPS["dense"], "logits"]

    with tf.GradientTape(persistent=True) as tape:
        seen = tapped(head, x)
        z, logits = seen["classifier"], seen["logits"]
        losses = [
            tf.reduce_mean(ops.softmax_cross_entropy(labels, logits)),
            tf.reduce_mean(ops.sigmoid_cross_entropy(binary, z)),
            tf.reduce_mean(keras.losses.binary_crossentropy(binary, z, from_logits=True)),
        ]
    np.testing.assert_array_equal(logits, np.concatenate([np.zeros([5, 1]), z], 1))
    # Probabilities of order 1 are rounded by 6e-8; a large z is what makes losses large.
    np.testing.assert_allclose(tf.nn.softmax(logits)[:, 1:], tf.sigmoid(z), rtol=1e-6)
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-6)
    ours, *others = (tape.gradient(loss, named_variables(head)) for loss in losses)
    for name, gradient in ours.items():
        assert np.abs(gradient).max() > 1e-3, name
        for other in others:
            np.testing.assert_allclose(gradient, other[name], **CLOSE, err_msg=name)


def test_two_classes_train_as_the_sigmoid_does():
    """The Trainer, which knows softmax only, makes the step that Keras makes of binary cross-entropy."""
    import keras

    net = Headed(Base(), lively(DenseHead((H, W, C), width=7, dropout_rate=0.0)))
    images, labels = normal(6, *Base.input_shape), tf.constant([1, 0, 0, 1, 1, 0])
    before = values(net)
    layer = keras.layers
    model = keras.Sequential([keras.Input((H, W, C)), layer.Flatten(), layer.Dense(7, "relu"), layer.Dense(1)])
    model.set_weights([before[f"head/{name}"] for name in named_variables(net.head)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    model.train_on_batch(net.base(images).numpy(), labels.numpy()[:, None])
    assert bool(trainer(net, "head").step(images, labels, 0, 0.1).finite)
    for name, theirs in zip(named_variables(net.head), model.get_weights(), strict=True):
        np.testing.assert_allclose(values(net)[f"head/{name}"], theirs, **CLOSE, err_msg=name)


def test_distances_against_a_loop():
    """In float64; close centers keep their digits."""
    rng = np.random.default_rng(0)
    features, means = rng.standard_normal([5, 6]) + 1000, rng.standard_normal([3, 6]) + 1000
    centers = Centers(3, 6, dtype=tf.float64)
    centers.means.assign(means)
    expected = [[sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in means] for x in features]
    np.testing.assert_allclose(centers(tf.constant(features)), expected, rtol=1e-14)  # sums of 6 squares
    assert list(named_variables(centers)) == ["means"]


def test_a_glu_without():
    """Gate, second classifier and centers may each be left out; then there is nothing of them."""
    x = normal(5, H, W, C)
    bare = lively(GLUHead(C, CLASSES, features=6, gated=False, auxiliary=0, centers=0))
    seen = tapped(bare, x)
    assert list(seen) == ["pool", "linear", "glu", "dropout", "classifier"]
    np.testing.assert_array_equal(seen["glu"], seen["linear"])
    layers = [f"{layer}/{part}" for layer in ("linear", "classifier") for part in ("weights", "biases")]
    assert list(named_variables(bare)) == layers
    assert (bare.auxiliary, bare.center_losses) == ({}, {})
    net = Headed(Base(), GLUHead(C, CLASSES, auxiliary=0.5, centers=0))
    assert (net.auxiliary, net.center_losses) == ({"head/auxiliary_classifier": 0.5}, {})


# What networks have, heads have


@pytest.mark.parametrize("kind", HEADS)
def test_taps(kind):
    """All in training and otherwise, in this order; what the tap returns flows on."""
    net, x = Headed(Base(), lively(HEADS[kind]())), batch()[0]
    names = ["base/conv1", "base/bn1", "base/dropout", *(f"head/{name}" for name in TAPS[kind])]
    assert list(tapped(net, x)) == list(tapped(net, x, train=True, rng=RNG)) == names
    for name in names:
        if name not in ("head/auxiliary_classifier", "head/centers"):  # which are for the loss
            other = net(x, tap=lambda key, y, name=name: y + 1 if key == name else y)
            assert np.abs(other - net(x)).max() > 1e-3, name


def test_names_and_table():
    net = Headed(Base(), GLUHead(C, CLASSES, features=6))
    base = ["conv1/weights", "conv1/biases", *(f"bn1/{part}" for part in ("gamma", "beta"))]
    base += ["bn1/moving_mean", "bn1/moving_variance"]
    layers = ["auxiliary_classifier", "linear", "gate", "classifier"]
    head = [f"{layer}/{part}" for layer in layers for part in ("weights", "biases")]
    head.append("centers/means")
    assert list(named_variables(net)) == [f"base/{name}" for name in base] + [f"head/{name}" for name in head]
    rows = {row.name: (row.output_shape, row.parameters) for row in layer_table(net)}
    assert rows["base/conv1"] == ((3, 2, C), 3 * 3 * 3 * C + C)
    assert rows["head/gate"] == ((6,), C * 6 + 6)
    assert rows["head/glu"] == ((6,), 0)
    assert rows["head/centers"] == ((CLASSES,), CLASSES * 6)
    assert rows["head/auxiliary_classifier"] == ((CLASSES,), C * CLASSES + CLASSES)


def test_input_shape_and_further_losses():
    base = nets.build("vgg11", num_classes=None)
    head = DenseHead((2, 2, 512))
    assert Headed(base, head).input_shape == (224, 224, 3)
    net = Headed(base, head, input_shape=(64, 64, 3))
    assert (net.input_shape, net.auxiliary, net.center_losses) == ((64, 64, 3), {}, {})
    assert layer_table(net)[-1].output_shape == net(normal(1, 64, 64, 3)).shape[1:] == (2,)
    inner = Headed(Base(), GLUHead(C, CLASSES, centers=0.5))
    outer = Headed(inner, head)
    assert (inner.auxiliary, inner.center_losses) == ({"head/auxiliary_classifier": 0.25}, {"head/centers": 0.5})
    assert outer.auxiliary == {"base/head/auxiliary_classifier": 0.25}
    assert outer.center_losses == {"base/head/centers": 0.5}


@pytest.mark.parametrize("kind", HEADS)
def test_first_values_are_a_function_of_the_seed(kind):
    first, again, other = (values(HEADS[kind](seed=seed)) for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        assert (value != other[name]).all() == name.endswith(("weights", "means"))
    # Each layer its own: the same draws would differ by a factor only.
    drawn = [value.ravel()[:9] for name, value in first.items() if name.endswith(("weights", "means"))]
    assert all(np.corrcoef(a, b)[0, 1] < 0.99 for i, a in enumerate(drawn) for b in drawn[:i])


@pytest.mark.parametrize("kind", HEADS)
def test_dropout(kind):
    """In training only; the mask is a function of the seed."""
    net, x = Headed(Base(), lively(HEADS[kind]())), batch()[0]

    def around(**options) -> list[np.ndarray]:
        seen = tapped(net, x, **options)
        before = {"linear": "pool", "dense": "relu", "glu": "glu"}[kind]
        return [seen[f"head/{name}"].numpy() for name in (before, "dropout")]

    def kept(rng: tf.Tensor) -> np.ndarray:
        before, after = around(train=True, rng=rng)
        np.testing.assert_array_equal(after, np.where(after != 0, 2 * before, 0))
        return (after != 0)[before != 0]  # ReLU's zeros do not tell

    np.testing.assert_array_equal(*around(rng=RNG))
    first = kept(RNG)
    assert 0.2 < first.mean() < 0.8
    np.testing.assert_array_equal(first, kept(RNG))
    assert (first != kept(RNG + 1)).any()


def test_base_and_head_drop_apart():
    """Though their layers have the same name."""
    net = Headed(Base(rate=0.5), LinearHead(C, CLASSES, dropout_rate=0.5))
    seen = tapped(net, batch(40)[0][:, :1, :1], train=True, rng=RNG)  # a 1×1 map has the shape of its average
    kept = [np.asarray(seen[name]).reshape(40, C) != 0 for name in ("base/dropout", "head/dropout")]
    survives = kept[1][kept[0]].mean()  # half of what the base has kept, not all of it
    assert 0.3 < survives < 0.7


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("kind", HEADS)
def test_same_numbers(kind, compiled):
    """Eagerly, as a graph and compiled by XLA, dropout's mask too."""
    net, x = Headed(Base(), lively(HEADS[kind]())), batch()[0]

    def results() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = net(x, train=True, rng=RNG)
            loss = tf.reduce_sum(y * y)
        head = [v for name, v in named_variables(net.head).items() if not name.startswith(("auxiliary", "centers"))]
        return [net(x), y, *tape.gradient(loss, [x, *head])]

    net.base.bn1.frozen = True  # or each call would move the averages of the next
    graph = tf.function(results, jit_compile=compiled, autograph=False)
    for ours, eager in zip(graph(), results(), strict=True):
        # As CLOSE, through a batch norm and two layers more, on gradients of up to 1e3.
        np.testing.assert_allclose(ours, eager, rtol=1e-4, atol=1e-6 * np.abs(eager).max())


# Loading and training


def test_the_base_loads_alone(tmp_path):
    """From arrays and from a file that have the base's own names; the head keeps its values."""
    source = nets.build("resnet18", num_classes=None, seed=1)
    net = Headed(nets.build("resnet18", num_classes=None), LinearHead(512, 2), input_shape=(64, 64, 3))
    path, before = str(tmp_path / "base.npz"), values(net.head)
    weights.save(path, source)
    for file in (values(source), path):
        for variable in named_variables(net.base).values():
            variable.assign(tf.zeros_like(variable))
        report = weights.load(net.base, file)
        assert list(report.loaded) == list(named_variables(source))
        assert not changed(net.base, values(source))
        assert not changed(net.head, before)
    x = normal(2, 64, 64, 3)
    np.testing.assert_array_equal(net(x), net.head(source(x)))


def trainer(net: Headed, *patterns: str) -> Trainer:
    trained = trained_variables(net, patterns)
    freeze_norms(net, trained)
    return Trainer(net, trained, SGD(trained, momentum=0.0))


def test_the_auxiliary_loss_is_trained():
    """One step is learning rate · gradient of last loss + 0.25 · auxiliary loss, by a tape of our own."""
    net, (images, labels) = Headed(Base(), lively(GLUHead(C, CLASSES, features=6, centers=0))), batch()
    ours, before = trainer(net, "head"), values(net)
    with tf.GradientTape() as tape:
        seen = tapped(net, images)
        last, auxiliary = (
            tf.reduce_mean(ops.softmax_cross_entropy(labels, seen[f"head/{name}"]))
            for name in ("classifier", "auxiliary_classifier")
        )
        loss = last + 0.25 * auxiliary
    gradients = tape.gradient(loss, ours.trained)
    result = ours.step(images, labels, 0, 0.5)
    assert float(result.loss) == pytest.approx(float(loss), rel=1e-5)
    assert changed(net, before) == set(ours.trained) == {name for name in before if name.startswith("head/")}
    for name, gradient in gradients.items():
        np.testing.assert_allclose(values(net)[name], before[name] - 0.5 * gradient, **CLOSE, err_msg=name)


def test_training_the_head_leaves_the_base_alone():
    """Batch norm's moving averages, too."""
    head = LinearHead(512, 2, dropout_rate=0.5)
    net = Headed(nets.build("resnet18", num_classes=None), head, input_shape=(64, 64, 3))
    images, labels = normal(4, 64, 64, 3), tf.constant([0, 1, 1, 0])
    before = values(net)
    ours = trainer(net, "head")
    assert bool(ours.step(images, labels, 0, 0.1).finite)
    assert changed(net, before) == {"head/classifier/weights", "head/classifier/biases"}


def test_training_everything():
    net, (images, labels) = Headed(Base(), lively(GLUHead(C, CLASSES, features=6, centers=0))), batch()
    before = values(net)
    assert bool(trainer(net).step(images, labels, 0, 0.1).finite)
    # A bias right before a batch norm has no gradient but rounding.
    assert changed(net, before) >= set(before) - {"base/conv1/biases"}


# Mistakes


@pytest.mark.parametrize("head", [LinearHead(512, 2), GLUHead(512, 2)])
def test_a_head_for_other_channels(head):
    with pytest.raises(ValueError, match=rf"takes maps \[N, H, W, 512\], got a tensor of shape \(5, 3, 2, {C}\)"):
        Headed(Base(), head)(batch()[0])
    with pytest.raises(ValueError, match=r"takes maps \[N, H, W, 512\], got a tensor of shape \(5, 512\)"):
        head(normal(5, 512))


@pytest.mark.parametrize("shape", [(H, W, C + 1), (W, H, C), (H + 1, W, C)])
def test_a_dense_head_for_another_map(shape):
    expected = f"takes maps of shape {shape}, got {(H, W, C)}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=expected):
        Headed(Base(), DenseHead(shape))(batch()[0])


@pytest.mark.parametrize("kind", HEADS)
def test_dropout_without_a_seed(kind):
    with pytest.raises(ValueError, match="needs a seed"):
        Headed(Base(), HEADS[kind]())(batch()[0], train=True)


@pytest.mark.parametrize("classes", [0, 1])
def test_one_class_is_none(classes):
    with pytest.raises(ValueError, match=f"at least 2 classes apart, got num_classes={classes}"):
        DenseHead((H, W, C), classes)


@pytest.mark.parametrize("options", [{"features": 0}, {"auxiliary": -0.5}, {"centers": -1.0}])
def test_values_that_make_no_glu(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        GLUHead(C, CLASSES, **options)

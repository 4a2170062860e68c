"""One training step against keras.applications: the gradient of every variable and the moving averages after it.

Both sides compute in float64: in float32 rounding decides some ReLUs and maxima of pools the other way, which moves
gradients by up to 0.4 of their largest value, and hides all but gross faults. Our networks are built in float32, then
each variable is replaced by its float64 copy. One operation does not follow: FusedBatchNormV3 has no float64. `fused`,
which is written from the definition, takes its place, and test_fused holds it against the kernel itself.
"""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.ops import BatchNorm, named_variables, softmax_cross_entropy
from tests.nets.parity import agrees
from tests.nets.test_keras import MODELS, PARTS, inception_v3, resnet, vgg, xception

RELATIVE = 1e-9
"""Largest difference of a value, as a part of the largest of the same variable; 5e-13 in Inception v3."""
CLASSES = 10
PICTURES = {
    "vgg16": (2, 224, 230),
    "resnet50": (4, 64, 101),
    "inception_v3": (4, 107, 139),
    "xception": (4, 71, 90),
}
"""Count, height and width: never square, a side or both leave a pool a remainder, the last maps have 2 by 3 or more."""


def fused(x, scale, offset, mean, variance, epsilon, is_training, biased=False, constant=False):
    """FusedBatchNormV3 in training; `biased` and `constant` (the statistics pass on no gradient) are faults."""
    assert is_training
    mean = tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
    count = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
    if constant:
        mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    y = (x - mean) / tf.sqrt(variance + epsilon) * scale + offset
    return y, mean, variance if biased else variance * count / (count - 1)


def test_fused():
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(1, 2, (4, 2, 3, 5)), tf.float32) for _ in range(2))
    scale, offset = (tf.constant(rng.normal(1, 0.3, 5), tf.float32) for _ in range(2))

    def run(op):
        with tf.GradientTape() as tape:
            tape.watch([x, scale, offset])
            y, mean, variance, *_ = op(
                x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=1e-3, is_training=True
            )
        values = [y, mean, variance, *tape.gradient(y, [x, scale, offset], dy)]
        return dict(zip(("y", "mean", "variance", "dx", "dscale", "doffset"), map(np.asarray, values), strict=True))

    agrees(run(fused), run(tf.raw_ops.FusedBatchNormV3), 1e-5)


def build(name):
    """Our network without dropout, in float64; the values of the batch norms are made to matter."""
    options = {"auxiliary": False} if name == "inception_v3" else {}
    net = nets.build(name, num_classes=CLASSES, variant=MODELS[name][1], dropout_rate=0.0, **options)
    rng = np.random.default_rng(0)
    for module in net.submodules:
        for key, variable in list(vars(module).items()):
            if not isinstance(variable, tf.Variable):
                continue
            value = tf.cast(variable, tf.float64)
            if key in ("gamma", "moving_variance"):
                value = rng.uniform(0.7, 1.3, variable.shape)
            elif variable.shape.rank == 1:
                value = rng.normal(0, 0.1, variable.shape)
            setattr(module, key, tf.Variable(value, trainable=variable.trainable))
    return net


def batch(name):
    count, *sides = PICTURES[name]
    return np.random.default_rng(1).normal(0, 1, (count, *sides, 3)), np.arange(count)


def step(net, name):
    """The gradients, and the moving averages afterwards."""
    x, labels = batch(name)
    variables = {key: v for key, v in named_variables(net).items() if v.trainable}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(softmax_cross_entropy(labels, net(x, train=True, rng=tf.constant([0, 0]))))
    gradients = {key: np.asarray(g) for key, g in tape.gradient(loss, variables).items()}
    return gradients, {key: v.numpy() for key, v in named_variables(net).items() if not v.trainable}


def keras_step(name):
    """What `step` must give, from Keras with the variables of `build`."""
    import keras

    keras.backend.clear_session()  # layer counters start from 0
    x, labels = batch(name)
    net, kind = build(name), MODELS[name][0]
    model = getattr(keras.applications, kind)(
        weights=None, classifier_activation=None, classes=CLASSES, input_shape=x.shape[1:]
    )
    rename = {"vgg16": vgg, "resnet50": resnet(50), "xception": xception}.get(name) or inception_v3(net)
    names = {}
    for layer in model.layers:
        for variable in layer.weights:
            part = variable.path.rpartition("/")[2]
            names[variable.path] = f"{rename(layer.name)}/{PARTS.get(part, part)}"
    before = {key: v.numpy() for key, v in named_variables(net).items()}
    assert sorted(names.values()) == sorted(before)
    for variable in model.weights:
        variable.assign(before[names[variable.path]])
        assert variable.dtype == "float64"

    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients = {names[v.path]: np.asarray(g) for v, g in zip(model.trainable_variables, gradients, strict=True)}

    # Keras keeps .99 of its averages and adds the biased variance of the batch, we keep .9 and add the unbiased one:
    # the statistics of the batch are taken from Keras's step, and what our step makes of them is expected.
    averages = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            count = np.prod((len(x), *layer.output.shape[1:3]))
            for variable, factor in ((layer.moving_mean, 1), (layer.moving_variance, count / (count - 1))):
                old = before[names[variable.path]]
                statistic = (variable.numpy() - layer.momentum * old) / (1 - layer.momentum) * factor
                averages[names[variable.path]] = 0.9 * old + 0.1 * statistic
    return gradients, averages


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in PICTURES])
def reference(request):
    import keras

    keras.config.set_floatx("float64")
    try:
        yield request.param, *keras_step(request.param)
    finally:
        keras.config.set_floatx("float32")


def compare(net, reference):
    name, gradients, averages = reference
    ours = step(net, name)
    assert set(ours[0]) == set(gradients)
    nothing = [key for key in gradients if name == "resnet50" and key.endswith("/biases") and key != "fc1000/biases"]
    for key in nothing:  # batch norm takes these biases away: their gradient is rounding alone
        scale = np.abs(gradients[key.removesuffix("biases") + "weights"]).max()
        for side in (ours[0], gradients):
            largest = np.abs(side[key]).max() / scale
            assert largest < RELATIVE, f"{key}: differs by {largest:.2g} from 0"
    some = [key for key in gradients if key not in nothing]
    gradients = agrees({key: ours[0][key] for key in some}, {key: gradients[key] for key in some}, RELATIVE)
    return gradients, agrees(ours[1], averages, RELATIVE)


def test_step(reference, monkeypatch):
    monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", fused)
    gradients, averages = compare(build(reference[0]), reference)
    worst = max(gradients, key=gradients.get)
    print(reference[0], len(gradients), "gradients within", gradients[worst], worst)
    print(len(averages), "moving averages within", max(averages.values(), default=0.0))


def epsilon(factor):
    def plant(net, monkeypatch):
        for module in net.submodules:
            if isinstance(module, BatchNorm):
                module.epsilon *= factor

    return plant


def norm(**fault):
    return lambda net, monkeypatch: monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", partial(fused, **fault))


def stride_in_3x3(net, monkeypatch):
    net.res4a_branch2a._stride, net.res4a_branch2b._stride = 1, 2


def mean_pool_backward(net, monkeypatch):
    """The forward pass stays right, which no comparison of activations notices."""
    real = nets.vgg.max_pool

    def pool(x, size, stride):
        mean = tf.nn.avg_pool2d(x, size, stride, "VALID")
        return mean + tf.stop_gradient(real(x, size, stride) - mean)

    monkeypatch.setattr("barenets.nets.vgg.max_pool", pool)


def counted_padding(net, monkeypatch):
    real = nets.inception.avg_pool
    monkeypatch.setattr("barenets.nets.inception.avg_pool", lambda x, size, **_: real(x, size, 1, padding=1))


FAULTS = {
    "vgg16": {"pool": mean_pool_backward},
    "resnet50": {
        "epsilon": epsilon(1 / 1.001),
        "stride": stride_in_3x3,
        "biased": norm(biased=True),
        "constant": norm(constant=True),
    },
    "inception_v3": {"padding": counted_padding},
    "xception": {"epsilon": epsilon(1.001)},
}


def test_faults_are_noticed(reference, monkeypatch):
    for fault, plant in FAULTS[reference[0]].items():
        with monkeypatch.context() as patch:
            patch.setattr(tf.raw_ops, "FusedBatchNormV3", fused)
            net = build(reference[0])
            plant(net, patch)
            with pytest.raises(AssertionError, match="differs by") as noticed:
                compare(net, reference)
            print(reference[0], fault, noticed.value)

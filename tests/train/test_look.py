"""barenets gradients and barenets explain, and finetune --report-every and --eager, on a tiny network."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import nets
from barenets.ops import named_variables
from barenets.train import finetune, model
from barenets.train.progress import Progress
from tests.pictures import write_pictures
from tests.train.test_finetune import call
from tests.train.test_summaries import Board
from tests.train.tiny import NETWORK


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(nets.NETWORKS, "tiny", NETWORK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """pictures/{train,val} and a run on them, watched inside at each second step."""
    folder = tmp_path_factory.mktemp("look")
    write_pictures(folder / "train", 12)
    write_pictures(folder / "val", 4, seed=1)
    before, nets.NETWORKS["tiny"] = nets.NETWORKS.get("tiny"), NETWORK
    data = {"train": f"{folder}/train", "val": f"{folder}/val", "net": "tiny", "variant": "tiny"}
    options = {"batch_size": 8, "epochs": 2, "learning_rate": 0.02, "report_every": 2, "logdir": f"{folder}/run"}
    result = finetune.train(finetune.start(finetune.Settings(**data | options)), Progress(quiet=True))
    assert result.report.steps == [0, 1, 2, 3, 4, 5]
    assert sorted(result.report.activations.values) == [0, 2, 4]
    if before is None:
        del nets.NETWORKS["tiny"]
    return folder


def test_a_run_that_is_watched_inside(folder):
    content = json.loads((folder / "run/report.json").read_text())
    assert content["steps"] == [0, 1, 2, 3, 4, 5]
    spread = content["tables"]["activations"]["values"]["spread"]
    assert [row[0] is None for row in spread] == [False, True, False, True, False, True]
    board = Board(folder / "run")
    assert list(board.scalars("activation_dead/relu1")) == [0, 2, 4]
    assert list(board.scalars("gradient_noise/conv1/weights")) == [0, 2, 4]
    assert list(board.scalars("gradient_angle/fc3/weights")) == [2, 4]
    assert list(board.scalars("gradient_norm/fc3/weights")) == [0, 1, 2, 3, 4, 5]


def test_gradients_of_a_run(folder, tmp_path, capsys):
    options = ["--checkpoint", folder / "run", "--data", folder / "val", "--batch-size", 3, "--batches", 0]
    status, out, _ = call(capsys, "gradients", *options, "--out", tmp_path / "out")
    assert status == 0
    for name in ("conv1/weights", "fc3/biases", "input", "relu1", "pictures that pull hardest", "report.html"):
        assert name in out
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert content["steps"] == [0, 1, 2]
    assert len(content["pictures"]) == 8
    norms = [picture["norm"] for picture in content["pictures"]]
    assert norms == sorted(norms, reverse=True)
    assert {Path(picture["path"]).parent.name for picture in content["pictures"]} == {"above", "below"}
    for picture in content["pictures"]:
        assert picture["label"] == Path(picture["path"]).parent.name
    assert "gradient_rms/conv1/weights" in Board(tmp_path / "out").tags("scalars")
    status, out, _ = call(capsys, "gradients", *options, "--out", tmp_path / "json", "--json")
    assert json.loads(out)["tables"]["variables"] == content["tables"]["variables"]


def test_gradients_take_every_step_back(folder, tmp_path):
    """Weights and statistics are the same to the bit; and a picture's norm is that of a tape on it alone."""
    from barenets.look.report import Report
    from barenets.train import data
    from barenets.train.summaries import SummaryWriter
    from barenets.train.survey import survey

    found = model.from_checkpoint(str(folder / "run"))
    net, variables = found.net, named_variables(found.net)
    before = {name: v.numpy().copy() for name, v in variables.items()}
    records = data.read(str(folder / "val"), found.class_names)
    batches = data.Batches(records, found.preprocessing, 5)
    report, writer = Report("", variables), SummaryWriter(str(tmp_path))
    net._rate = 0.0  # dropout draws for the batch, not for a picture
    survey(net, variables, batches, report, writer, learning_rate=10.0)
    writer.close()
    for name, v in variables.items():
        assert v.numpy().tobytes() == before[name].tobytes(), name
    assert report.variables.row(0)["fc3/weights"]["update_ratio"] > 0
    paths = {picture["path"]: picture for picture in report.pictures}
    for batch in data.Batches(records, found.preprocessing, 1).epoch(0):
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, net(batch.images))
        gradients = tape.gradient(loss, list(variables.values()))
        picture = paths[records.paths[batch.indices[0]]]
        assert picture["norm"] == pytest.approx(float(tf.linalg.global_norm(gradients)), rel=1e-4)
        assert picture["loss"] == pytest.approx(float(loss[0]), rel=1e-4)


def test_gradients_without_labels_and_from_random_numbers(folder, tmp_path, capsys):
    pictures = [folder / "val/above", folder / "val/below"]
    options = ["--images", *pictures, "--layers", "fc3", "--out", tmp_path]
    status, out, err = call(capsys, "gradients", "--net", "tiny", "--num-classes", 2, *options)
    assert status == 0
    assert "what the network takes it for" in err
    assert "fc3/weights" in out
    assert "conv1/weights" not in out


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_eager_training_is_the_same(folder, tmp_path, optimizer):
    """Graphs add in another order: 1e-5 after a few steps of weights of about 1."""
    found = {}
    for eager in (False, True):
        options = {"net": "tiny", "variant": "tiny", "batch_size": 8, "epochs": 1, "optimizer": optimizer}
        s = finetune.Settings(train=f"{folder}/train", logdir=f"{tmp_path}/{eager}", eager=eager, **options)
        run = finetune.start(s)
        finetune.train(run, Progress(quiet=True))
        found[eager] = {name: v.numpy() for name, v in named_variables(run.net).items()}
    for name, array in found[True].items():
        np.testing.assert_allclose(array, found[False][name], atol=1e-5, err_msg=name)


def test_explain(folder, tmp_path, capsys):
    methods = ["saliency", "smooth_grad", "integrated_gradients", "guided", "grad_cam", "occlusion"]
    maps = ["--filters", "conv1", "--features", "relu1", "--top-pictures", "relu1", "--channels", 1, 3]
    options = ["--checkpoint", folder / "run", "--images", folder / "val", "--count", 5, "--out", tmp_path]
    status, out, err = call(capsys, "explain", *options, "--method", *methods, *maps)
    assert status == 0
    assert re.search(r"integrated_gradients: add up to the logit's rise, but for \d+\.\d% of it at most", err)
    names = ["filters_conv1.png", "features_relu1.png", "top_pictures_relu1.png", "explained.png"]
    assert out.splitlines()[:-1] == [str(tmp_path / name) for name in names]
    for name in names:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    tags = Board(tmp_path).picture_tags()
    assert {"explain/picture", "explain/occlusion", "filters/conv1", "features/relu1", "top_pictures/relu1"} <= set(
        tags
    )


MISTAKES = {
    "method": (["explain", "--images", "{val}", "--method", "magic"], "no method 'magic'; there are saliency"),
    "class": (["explain", "--images", "{val}", "--class", "horse"], "--class horse: is none of the 2 classes, above"),
    "layer": (["explain", "--images", "{val}", "--method", "grad_cam", "--layer", "relu7"], "did you mean relu1"),
    "filters": (["explain", "--images", "{val}", "--filters", "fc3"], "no map 'fc3'"),
    "channel": (["explain", "--images", "{val}", "--top-pictures", "relu1", "--channels", "9"], "channels 0 to 3"),
    "no pictures": (["gradients", "--images", "nowhere"], "nowhere"),
    "both": (["gradients", "--images", "{val}", "--data", "{val}"], "not allowed"),
    "pattern": (["gradients", "--data", "{val}", "--layers", "fc9"], "'fc9' selects nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(folder, tmp_path, capsys, name):
    words, message = MISTAKES[name]
    words = [word.format(val=folder / "val") for word in words]
    status, _, err = call(capsys, *words, "--checkpoint", folder / "run", "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_no_network(capsys, folder):
    status, _, err = call(capsys, "explain", "--images", folder / "val")
    assert (status, err.count("\n")) == (2, 1)
    assert "--checkpoint DIR" in err


def test_inspect_a_network_by_its_name(capsys):
    status, out, _ = call(capsys, "inspect", "tiny", "--num-classes", 2, "--batch-size", 10)
    assert status == 0
    assert out.splitlines()[1].split()[:5] == ["conv1", "convolution", "8×8×4", "3×3", "2×2"]
    status, out, _ = call(capsys, "inspect", "tiny", "--num-classes", 2, "--size", 16, "--json")
    rows = json.loads(out)["layers"]
    assert rows[0]["receptive_field"] == [3, 3]
    assert rows[0]["memory"] == 4 * 8 * 8 * 4
    status, _, err = call(capsys, "inspect", "tiny", "--net", "alexnet")
    assert (status, err.count("\n")) == (2, 1)
    assert "two networks; name one" in err

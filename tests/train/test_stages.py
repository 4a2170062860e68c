"""Stages and the levers beside them: what each changes in a run, and that a run is taken up within any of them."""

import json
import signal

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import named_variables
from barenets.train import checkpoints, finetune, model
from barenets.train.cli import main
from barenets.train.progress import Progress
from barenets.train.settings import Settings
from tests.pictures import write_pictures
from tests.train import runs
from tests.train.runs import assert_same, last_checkpoint
from tests.train.tiny import NETWORK

HEAD = {"layers": ("head",), "bottleneck": True, "augment": "none", "optimizer": "rmsprop", "learning_rate": 0.003}
ALL = {"optimizer": "sgd", "learning_rate": 0.01, "schedule": "cosine", "warm_up": 2}


@pytest.fixture(autouse=True)
def network(monkeypatch):
    monkeypatch.setitem(nets.NETWORKS, "tiny", NETWORK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train", 12)
    write_pictures(folder / "val", 6, seed=1)
    return folder


def settings(folder, logdir, **more) -> Settings:
    options = {"train": f"{folder}/train", "val": f"{folder}/val", "net": "tiny", "batch_size": 8, "epochs": 2}
    return Settings(**options | {"logdir": str(logdir)} | more)


def trained(*arguments, **more) -> tuple[finetune.Run, finetune.Result]:
    run = finetune.start(settings(*arguments, **more))
    return run, finetune.train(run, Progress(quiet=True))


def values(module: tf.Module) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in named_variables(module).items()}


def test_stages_train_what_they_say_one_after_the_other(folder, tmp_path):
    stages = ({**HEAD, "epochs": 2}, {**ALL, "layers": ("base/conv1",), "epochs": 1, "summary_every": 1})
    with pytest.raises(UserError, match="stage 2: has no setting 'summary_every'; a stage has layers, epochs"):
        settings(folder, tmp_path, head="dense", stages=stages)
    stages[1].pop("summary_every")
    run = finetune.start(settings(folder, tmp_path, head="dense", stages=stages))
    first, advance, between = values(run.net), run.advance, []
    run.advance = lambda: (between.append(values(run.net)), advance())
    result = finetune.train(run, Progress(quiet=True))
    changed = [[n for n in a if (a[n] != b[n]).any()] for a, b in ((first, between[0]), (between[0], values(run.net)))]
    assert all(name.startswith("head/") for name in changed[0])
    assert "head/fc/weights" in changed[0]
    assert changed[1] == ["base/conv1/weights", "base/conv1/biases"]
    assert [(stage["step"], stage["epoch"]) for stage in result.stages] == [(6, 2), (9, 3)]
    assert result.step == 9
    assert not result.interrupted
    assert list(named_variables(run.optimizer)) == ["velocity/base/conv1/weights", "velocity/base/conv1/biases"]


@pytest.mark.slow
def test_each_stage_has_its_own_schedule(folder, tmp_path):
    stage = {**ALL, "epochs": 2, "warm_up": 0}
    run = finetune.start(settings(folder, tmp_path, stages=(stage, {**stage, "learning_rate": 0.5})))
    rates, step = [], run.trainer.step

    def watched(images, labels, number, rate, **options):
        rates.append(rate)
        return step(images, labels, number, 0.0, **options)

    run.trainer.step = watched
    advance = run.advance
    run.advance = lambda: (advance(), setattr(run.trainer, "step", watched))
    finetune.train(run, Progress(quiet=True))
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(6) / 6))
    np.testing.assert_allclose(rates, [*(0.01 * cosine), *(0.5 * cosine)], rtol=1e-6)


def test_patience_ends_a_stage_and_keep_best_goes_back(folder, tmp_path):
    """At such a rate everything after the first epochs is worse."""
    wild = {"layers": ("fc3",), "learning_rate": 30.0, "clip_norm": 1.0, "epochs": 50, "patience": 2, "keep_best": True}
    still = {"layers": ("fc3",), "learning_rate": 1e-30, "epochs": 1}
    _, result = trained(folder, tmp_path, stages=(wild, still))
    ended = result.stages[0]
    kept = checkpoints.read(str(tmp_path / f"checkpoints/step-{int(result.best['step']):08}.npz"))
    assert ended["epoch"] < 50
    assert ended["step"] // 3 == ended["epoch"]
    after = checkpoints.latest(str(tmp_path))
    assert after.state["step"] == ended["step"] + 3
    if result.best["step"] <= ended["step"]:
        for name in kept.weights:
            np.testing.assert_array_equal(after.weights[name], kept.weights[name])


def test_averages_are_validated_kept_and_settled(folder, tmp_path):
    run, result = trained(folder, tmp_path, average=0.9, learning_rate=0.05)
    assert any(name.startswith("averages/") for name in named_variables(run.optimizer))
    checkpoint = checkpoints.latest(str(tmp_path))
    assert (checkpoint.judged["fc3/weights"] != checkpoint.weights["fc3/weights"]).any()
    served = model.from_checkpoint(result.checkpoint)
    np.testing.assert_array_equal(values(served.net)["fc3/weights"], checkpoint.judged["fc3/weights"])
    read = weights.read(result.checkpoint)  # as a weight file it has what was validated, too
    np.testing.assert_array_equal(read["fc3/weights"], checkpoint.judged["fc3/weights"])
    np.testing.assert_array_equal(read["fc3/biases"], checkpoint.judged["fc3/biases"])
    evaluation = finetune.Evaluator(served.net).evaluate(run.validation)
    assert evaluation.loss == pytest.approx(result.after.loss, rel=1e-6)
    run.now = run.settings
    raw = values(run.net)["fc3/weights"]
    np.testing.assert_array_equal(raw, checkpoint.weights["fc3/weights"])  # validation gave the variables back


@pytest.mark.slow
def test_a_run_starts_from_another_run(folder, tmp_path):
    _, first = trained(folder, tmp_path / "a", head="dense", epochs=1)
    run = finetune.start(settings(folder, tmp_path / "b", head="dense", weights=str(tmp_path / "a"), reinit=("head",)))
    kept = checkpoints.best(str(tmp_path / "a")).judged
    np.testing.assert_array_equal(values(run.net)["base/conv1/weights"], kept["base/conv1/weights"])
    assert (values(run.net)["head/fc/weights"] != kept["head/fc/weights"]).any()
    assert model.choose_network(str(tmp_path / "a"), None, None) == ("tiny", "tiny")
    whole = finetune.start(settings(folder, tmp_path / "c", head="dense", weights=first.checkpoint))
    for name, value in values(whole.net).items():
        np.testing.assert_array_equal(value, kept[name])


def test_a_head_on_weights_that_have_a_classifier(folder, tmp_path):
    whole = nets.build("tiny", num_classes=5, seed=7)
    weights.save(str(tmp_path / "w.npz"), whole)
    run = finetune.start(settings(folder, tmp_path / "log", head="linear", weights=str(tmp_path / "w.npz")))
    np.testing.assert_array_equal(values(run.net)["base/conv1/weights"], values(whole)["conv1/weights"])
    arrays = values(whole) | {"conv9/weights": np.zeros(3, np.float32)}
    weights.save(str(tmp_path / "other.npz"), arrays)
    with pytest.raises(UserError, match="the network lacks conv9/weights"):
        finetune.start(settings(folder, tmp_path / "other", head="linear", weights=str(tmp_path / "other.npz")))


@pytest.mark.slow
def test_predict_builds_the_head_and_the_size_again(folder, tmp_path, capsys):
    options = {"head": "glu", "head_options": {"features": 5}, "blend": True, "epochs": 3, "learning_rate": 0.05}
    _, result = trained(folder, tmp_path, **options)
    assert checkpoints.best(str(tmp_path)).state["blend"]
    assert main(["evaluate", "--checkpoint", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(result.best["top1"])


def test_class_weights(folder, tmp_path):
    few = tmp_path / "few"
    write_pictures(few, 4)
    for path in sorted((few / "below").iterdir())[1:]:
        path.unlink()
    run = finetune.start(settings(folder, tmp_path / "a", train=str(few), class_weights="balanced"))
    assert run.trainer.class_weights == pytest.approx([5 / 8, 5 / 2])
    next((few / "below").iterdir()).unlink()
    with pytest.raises(UserError, match="has no pictures of below, so class weights cannot be balanced"):
        finetune.start(settings(folder, tmp_path / "b", train=str(few), class_weights="balanced"))
    with pytest.raises(UserError, match="there is no class 'cat'; there are above, below"):
        finetune.start(settings(folder, tmp_path / "c", class_weights={"cat": 2.0}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"bottleneck": True, "augment": "none"}, "--head must be given with --bottleneck"),
        ({"bottleneck": True, "head": "linear"}, r"keeps one map of each picture, and RandomCrop\(\), Flip\(\) would"),
        ({"patience": 3, "val": None}, "go by validation pictures; name some with --val"),
        ({"rate_decay": 0.0}, "--rate-decay must be above 0 and at most 1"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"class_weights": "equal"}, "--class-weights must be balanced"),
        ({"stages": ({"epochs": 0},)}, "stage 1: --epochs must be at least 1"),
        ({"sampler": "paired:2", "batch_size": 6}, "a multiple of 4 with paired:2"),
    ],
)
def test_settings_that_do_not_go_together(folder, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        settings(folder, tmp_path, **more)


def test_a_bottleneck_below_the_head(folder, tmp_path):
    stage = {**HEAD, "layers": ("base/conv1", "head")}
    with pytest.raises(UserError, match="trains the head alone: base/conv1/weights lies below it"):
        finetune.start(settings(folder, tmp_path, head="linear", stages=(stage,)))


def test_one_picture_of_a_class_cannot_be_paired(folder, tmp_path):
    few = tmp_path / "few"
    write_pictures(few, 3)
    for path in sorted((few / "below").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="has one picture of below, and paired:2 shows two different ones"):
        finetune.start(settings(folder, tmp_path / "log", train=str(few), sampler="paired:2"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"layers": ("nope",)}, "the pattern 'nope' selects nothing"),
        ({"rates": {"fc9": 2.0}}, "the pattern 'fc9' selects nothing"),
        ({"schedule": "step"}, "the step schedule needs to know"),
        ({"learning_rate": 0.0}, "the learning rate must be positive"),
        ({"sampler": "paired:4", "batch_size": 8}, "steps of 4 classes: there are 2 to draw from"),
        ({"class_weights": {"cat": 1.0}}, "there is no class 'cat'"),
    ],
)
def test_a_mistake_in_a_later_stage_is_found_before_the_first(folder, tmp_path, stage, message):
    with pytest.raises(UserError, match=message):
        finetune.start(settings(folder, tmp_path / "log", stages=({"epochs": 1}, stage)))
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_two_stages_on_features_of_different_bases(folder, tmp_path):
    stages = ({**HEAD, "epochs": 1}, {**ALL, "epochs": 1}, {**HEAD, "epochs": 1})
    _, result = trained(folder, tmp_path, head="linear", stages=stages)
    assert len(result.stages) == 3
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["stage-1", "stage-3"]


def test_validation_pictures_that_have_changed(tmp_path):
    write_pictures(tmp_path / "train", 4)
    write_pictures(tmp_path / "val", 2, seed=1)
    _, result = trained(tmp_path, tmp_path / "log", epochs=1)
    assert not result.interrupted
    next((tmp_path / "val/above").iterdir()).unlink()
    with pytest.raises(UserError, match="val: holds other pictures, or other labels, than when the run in"):
        finetune.resume(str(tmp_path / "log"))


@pytest.mark.slow
def test_starting_from_another_run_by_command(folder, tmp_path, capsys):
    trained(folder, tmp_path / "a", epochs=1)
    options = ["--train", folder / "train", "--weights", tmp_path / "a", "--epochs", 1, "--logdir", tmp_path / "b"]
    assert main(["finetune", *map(str, options)]) == 0
    assert "tiny tiny" in capsys.readouterr().err
    assert main(["finetune", *map(str, options[:2]), "--stage", "--epochs 1 --resume"]) == 2
    assert "--resume, --json and the devices are for the whole run" in capsys.readouterr().err


def test_start_or_resume(folder, tmp_path):
    run = finetune.start_or_resume(settings(folder, tmp_path, epochs=1))
    finetune.train(run, Progress(quiet=True))
    assert finetune.start_or_resume(settings(folder, tmp_path, epochs=1)).step == 3
    with pytest.raises(UserError, match="was begun with epochs 1, not 2"):
        finetune.start_or_resume(settings(folder, tmp_path, epochs=2))


# Three stages: on features, with averages and an early stop; on pieces of augmented pictures; in pairs.
STAGES = [
    "--bottleneck --layers head --augment none --optimizer rmsprop --epochs 4 --patience 2 --average 0.9 --keep-best",
    "--layers base/conv1 head --epochs 2 --accumulate 3 --rate-decay 0.5 --optimizer adam --keep-best",
    "--layers head --epochs 1 --sampler paired:2 --batch-size 8",
]


@pytest.fixture(scope="module")
def staged(folder) -> list[object]:
    options = [word for stage in STAGES for word in ("--stage", stage)]
    data = ["--train", folder / "train", "--val", folder / "val", "--net", "tiny", "--head", "glu", "--blend"]
    return ["finetune", *data, "--batch-size", 4, "--checkpoint-every", 4, *options]


@pytest.mark.slow
def test_killed_in_each_stage_and_at_each_boundary(staged, tmp_path):
    whole = runs.run(*staged, "--logdir", tmp_path / "whole")
    assert whole.code == 0, whole.err
    last = max((tmp_path / "whole/checkpoints").iterdir())
    # Each time from where the one before left off: within the features, the first stage, at its end, within the next...
    kills = ["write:3", "step:5", "advance:1", "step:3", "save:2", "advance:1", "step:2"]
    for i, kill in enumerate(kills):
        begun = list(tmp_path.glob("run/checkpoints/step-*.npz"))
        arguments = ["finetune", "--resume"] if begun else staged
        done = runs.run(*arguments, "--logdir", tmp_path / "run", kill=kill)
        assert done.code == -signal.SIGKILL, (i, kill, done.err)
    done = runs.run("finetune", "--resume", "--logdir", tmp_path / "run")
    assert done.code == 0, done.err
    step = int(last.stem.removeprefix("step-"))
    assert_same(last_checkpoint(tmp_path / "run", step), last_checkpoint(tmp_path / "whole", step))
    states = [
        json.loads(np.load(tmp_path / run / "checkpoints" / last.name)["state.json"].tobytes())
        for run in ("run", "whole")
    ]
    for key in ("blend", "stages", "best"):
        assert states[0][key] == states[1][key]

"""The run as a library call and as a command: what it trains, writes, says, and refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import named_variables
from barenets.train import checkpoints, data, finetune
from barenets.train.cli import main
from barenets.train.loop import DivergedError
from barenets.train.progress import Progress
from tests.pictures import write_list, write_pictures
from tests.train.tiny import NETWORK, Tiny


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(nets.NETWORKS, "tiny", NETWORK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """train/ and val/ with class folders, and train.txt and val.txt over them."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count, seed in (("train", 24, 0), ("val", 10, 1)):
        write_list(folder / f"{split}.txt", write_pictures(folder / split, count, seed))
    return folder


def settings(folder: Path, logdir: Path, **more) -> finetune.Settings:
    options = {"train": f"{folder}/train", "val": f"{folder}/val", "net": "tiny", "variant": "tiny"}
    options |= {"batch_size": 8, "epochs": 1, "learning_rate": 0.02, "dropout": 0.0, "logdir": str(logdir)}
    return finetune.Settings(**options | more)


def trained(folder: Path, logdir: Path, **more) -> tuple[finetune.Run, finetune.Result]:
    run = finetune.start(settings(folder, logdir, **more))
    return run, finetune.train(run, Progress(quiet=True))


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of `barenets ARGUMENTS`."""
    try:
        status = main(list(map(str, arguments)))
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    return status, out, err


def events(logdir: Path) -> dict[str, set[str]]:
    """Plugin -> tags of the event files in `logdir`, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir)).Reload()
    return {
        plugin: set(multiplexer.PluginRunToTagToContent(plugin).get(".", {}))
        for plugin in ("scalars", "histograms", "images")
    }


def test_learns_and_writes_everything_down(folder, tmp_path):
    run, result = trained(folder, tmp_path, epochs=20)
    assert result.before.top1 < 0.8 < 0.95 <= result.after.top1
    assert result.best["top1"] >= result.after.top1
    assert result.report.steps == list(range(20 * 6))
    tags = events(tmp_path)
    names = list(named_variables(run.net))
    assert tags["histograms"] == {f"{kind}/{name}" for kind in ("gradients", "variables") for name in names}
    assert {f"{what}/{name}" for what in ("gradient_norm", "gradient_zeros", "update_ratio") for name in names} <= tags[
        "scalars"
    ]
    assert {"training/loss", "training/accuracy", "training/learning_rate", "validation/top1"} <= tags["scalars"]
    assert tags["images"] == {"pictures"}
    assert [Path(path).name for path in result.report_files] == ["report.json", "report.html", "gradients.png"]
    assert Path(result.report_files[-1]).read_bytes().startswith(b"\x89PNG")


def test_trains_what_is_chosen_and_nothing_else(folder, tmp_path):
    start = {name: v.numpy() for name, v in named_variables(Tiny()).items()}
    run, _ = trained(folder, tmp_path, layers=("fc3", "fc2/biases"))
    changed = [name for name, v in named_variables(run.net).items() if not np.array_equal(v.numpy(), start[name])]
    assert changed == ["fc2/biases", "fc3/weights", "fc3/biases"]
    assert list(named_variables(run.optimizer)) == [f"velocity/{name}" for name in changed]


def test_loads_all_but_what_starts_afresh(folder, tmp_path):
    other = Tiny(seed=5)
    weights.save(str(tmp_path / "w.npy"), other)
    run = finetune.start(settings(folder, tmp_path / "log", weights=str(tmp_path / "w.npy"), reinit=("fc3",)))
    assert np.array_equal(run.net.fc2.weights, other.fc2.weights)
    assert np.array_equal(run.net.fc3.weights, Tiny(seed=0).fc3.weights)


def test_lists_and_folders_give_the_same_run(folder, tmp_path):
    """A list over class folders takes its class names, and so does what predict says, from them."""
    runs = [trained(folder, tmp_path / suffix, train=f"{folder}/train{suffix}")[0] for suffix in ("", ".txt")]
    assert runs[0].class_names == runs[1].class_names == ("above", "below")
    for a, b in zip(*(named_variables(run.net).values() for run in runs), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_keeps_the_last_and_the_best(folder, tmp_path):
    _, result = trained(folder, tmp_path, epochs=5, keep=2)
    kept = set(checkpoints.steps(f"{tmp_path}/checkpoints"))
    assert kept == {24, 30, int(result.best["step"])}


def test_other_pictures_are_no_resumption(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 4)
    run, _ = trained(tmp_path, tmp_path / "log", train=str(pictures), val=None)
    assert finetune.resume(str(tmp_path / "log")).preprocessing == run.preprocessing
    (pictures / "above/9.jpg").write_bytes((pictures / "above/0.jpg").read_bytes())
    with pytest.raises(UserError, match="holds other pictures"):
        finetune.resume(str(tmp_path / "log"))


def test_settings_survive_json():
    given = finetune.Settings(train="t", layers=("fc8",), rates={"fc8": 10.0}, clip_norm=1.0)
    assert finetune.Settings.from_json(json.loads(json.dumps(given.to_json()))) == given


@pytest.mark.parametrize(("kept", "policy"), [(True, "standard"), (False, "none")])
def test_settings_of_version_1_are_taken_up(kept, policy):
    old = finetune.Settings(train="t").to_json() | {"augment": kept}
    del old["sampler"]
    settings = finetune.Settings.from_json(json.loads(json.dumps(old)))
    assert (settings.augment, settings.sampler) == (policy, "shuffled")


@pytest.mark.slow
def test_a_policy_and_a_sampler_are_chosen_by_name(folder, tmp_path, capsys):
    options = {"epochs": 2, "augment": "RandomCrop(), Flip(), Mixup(0.2)", "sampler": "paired:2", "batch_size": 4}
    run, result = trained(folder, tmp_path / "library", **options)
    assert run.plan.steps_per_epoch == 12  # of 48 pictures in steps of 2 classes with 2 pictures
    assert result.step == 24
    assert finetune.resume(str(tmp_path / "library")).batches.policy == run.batches.policy

    arguments = ["--train", folder / "train", "--net", "tiny", "--variant", "tiny", "--epochs", 1]
    given = ["--augment", "Flip(vertical=True)", "--sampler", "weighted", "--logdir", tmp_path / "line"]
    assert call(capsys, "finetune", *arguments, *given)[0] == 0
    batches = finetune.resume(str(tmp_path / "line")).batches
    assert list(map(str, batches.policy)) == ["CentreCrop()", "Flip(vertical=True)"]
    assert batches.sampler == data.ClassWeighted(0)
    assert call(capsys, "finetune", *arguments, "--no-augment", "--logdir", tmp_path / "none")[0] == 0
    assert list(map(str, finetune.resume(str(tmp_path / "none")).batches.policy)) == ["CentreCrop()"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--augment", "Blur()", "there is no such step"),
        ("--augment", "Flip(2)", "Flip: horizontal is True or False"),
        ("--sampler", "paired", "--sampler must be shuffled, weighted, or paired:K for K classes a step, got 'paired'"),
        ("--sampler", "paired:0", "--sampler must be"),
        ("--sampler", "paired:9", "--batch-size must be a multiple of 18 with paired:9, got 64"),
        ("--sampler", "paired:16", "there are 2 to draw from"),
    ],
)
def test_mistakes_in_policies_and_samplers(folder, tmp_path, capsys, option, value, message):
    arguments = ["--train", folder / "train", "--net", "tiny", "--variant", "tiny", "--logdir", tmp_path]
    status, _, err = call(capsys, "finetune", *arguments, option, value)
    assert status == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_divergence_names_the_layer_and_keeps_the_checkpoint_before(folder, tmp_path, capsys):
    arguments = ["--train", folder / "train", "--net", "tiny", "--logdir", tmp_path, "--batch-size", 8]
    status, _, err = call(capsys, "finetune", *arguments, "--learning-rate", "1e30", "--epochs", 3, "--dropout", 0)
    assert status == 1
    assert "not a finite number, first in the " in err.splitlines()[-1]
    assert "Traceback" not in err
    for path in checkpoints.steps(f"{tmp_path}/checkpoints").values():
        assert all(np.isfinite(array).all() for array in checkpoints.read(path).weights.values())


def test_diverged_run_in_the_library(folder, tmp_path):
    run = finetune.start(settings(folder, tmp_path))
    run.net.fc2.weights.assign(tf.fill(run.net.fc2.weights.shape, np.inf))
    with pytest.raises(DivergedError, match=r"step 0.*the variable fc2/weights"):
        finetune.train(run, Progress(quiet=True))


def test_corrupt_picture_stops_or_is_listed(folder, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", 4)
    (pictures / "above" / "2.jpg").write_text("no picture")
    arguments = ["finetune", "--train", pictures, "--net", "tiny", "--epochs", 1, "--batch-size", 3]
    status, _, err = call(capsys, *arguments, "--logdir", tmp_path / "a")
    assert status == 2
    assert f"{pictures}/above/2.jpg: cannot be read as a picture" in err.splitlines()[-1]
    status, _, err = call(capsys, *arguments, "--logdir", tmp_path / "b", "--on-error", "skip")
    assert status == 0
    assert f"not read: {pictures}/above/2.jpg" in err


def test_everything_after_training_needs_only_the_folder(folder, tmp_path, capsys):
    _, result = trained(folder, tmp_path, epochs=8)
    status, out, _ = call(capsys, "evaluate", "--checkpoint", tmp_path, "--json")
    evaluation = json.loads(out)
    assert status == 0
    assert evaluation["top1"] == pytest.approx(result.best["top1"])
    assert evaluation["classes"] == ["above", "below"]

    picture = folder / "val/below/3.jpg"
    status, out, _ = call(capsys, "predict", "--checkpoint", tmp_path, "--images", picture, "--json")
    (prediction,) = json.loads(out)["predictions"]
    assert prediction["path"] == str(picture)
    assert prediction["classes"][0]["class"] == "below"
    assert sum(c["probability"] for c in prediction["classes"]) == pytest.approx(1)

    status, out, _ = call(capsys, "predict", "--checkpoint", tmp_path, "--images", folder / "val", "--top", 1)
    assert out.count("%") == 20
    for command in (["predict", "--images", picture], ["evaluate"]):
        status, ten, _ = call(capsys, *command, "--checkpoint", tmp_path, "--ten-crop")
        assert (status, ten == call(capsys, *command, "--checkpoint", tmp_path)[1]) == (0, False)

    status, out, _ = call(capsys, "evaluate", "--checkpoint", tmp_path)
    assert "confusion" in out
    assert "most often taken for" in out or "100.00%" in out

    status, out, _ = call(capsys, "inspect", "--checkpoint", tmp_path)
    assert "fc3/weights" in out


def test_predict_reads_paths_from_stdin(folder, tmp_path, capsys, monkeypatch):
    trained(folder, tmp_path)
    monkeypatch.setattr(sys, "stdin", [f"{folder}/val/above/0.jpg\n", "\n", f"{folder}/val/below/0.jpg\n"])
    status, out, _ = call(capsys, "predict", "--checkpoint", tmp_path, "--images", "-")
    assert status == 0
    assert [line for line in out.splitlines() if line.endswith(".jpg")] == [
        f"{folder}/val/{name}/0.jpg" for name in ("above", "below")
    ]


def test_an_unwritable_folder_is_a_clear_error(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, _, err = call(
        capsys, "finetune", "--train", folder / "train", "--net", "tiny", "--logdir", tmp_path / "file/log"
    )
    assert status == 2
    assert "cannot be written" in err.splitlines()[-1]


def test_a_full_disk_leaves_the_last_good_checkpoint(folder, tmp_path, monkeypatch):
    from barenets.weights import files

    saves, write = [], files._Writer.write

    def full(self, data):
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        return write(self, data)

    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a: (saves.append(a), save(*a))[1])
    monkeypatch.setattr(files._Writer, "write", full)
    with pytest.raises(UserError, match=r"step-00000012.npz: cannot be written \(No space left on device\)"):
        trained(folder, tmp_path, epochs=2)
    assert list(checkpoints.steps(f"{tmp_path}/checkpoints")) == [6]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000006.npz"]
    assert checkpoints.latest(str(tmp_path)).state["step"] == 6


MISTAKES = {
    "no data": (["finetune"], "--train"),
    "no such data": (["finetune", "--train", "nowhere"], "nowhere"),
    "unknown net": (["finetune", "--train", "{train}", "--net", "lenet"], "no network 'lenet'"),
    "unknown variant": (["finetune", "--train", "{train}", "--variant", "big"], "no variant 'big'"),
    "unknown layer": (["finetune", "--train", "{train}", "--net", "tiny", "--layers", "fc9"], "'fc9' selects nothing"),
    "reinit of nothing": (["finetune", "--train", "{train}", "--net", "tiny", "--reinit", "fc3"], "without --weights"),
    "no such weights": (["finetune", "--train", "{train}", "--net", "tiny", "--weights", "w.npy"], "w.npy"),
    "bad number": (["finetune", "--train", "{train}", "--epochs", "many"], "--epochs"),
    "no epochs": (["finetune", "--train", "{train}", "--net", "tiny", "--epochs", "0"], "--epochs must be at least 1"),
    "no rate": (["finetune", "--train", "{train}", "--net", "tiny", "--learning-rate", "-1"], "must be positive"),
    "no optimizer": (["finetune", "--train", "{train}", "--net", "tiny", "--optimizer", "lion"], "sgd, adam, rmsprop"),
    "no schedule": (["finetune", "--train", "{train}", "--net", "tiny", "--schedule", "up"], "constant, step, cosine"),
    "dropout": (["finetune", "--train", "{train}", "--net", "tiny", "--dropout", "1"], "--dropout must be"),
    "momentum": (["finetune", "--train", "{train}", "--net", "tiny", "--momentum", "1.5"], "--momentum must be"),
    "smoothing": (
        ["finetune", "--train", "{train}", "--net", "tiny", "--label-smoothing", "2"],
        "--label-smoothing must be",
    ),
    "clip": (["finetune", "--train", "{train}", "--net", "tiny", "--clip-norm", "0"], "--clip-norm"),
    "rates": (["finetune", "--train", "{train}", "--net", "tiny", "--rates", "fc3"], "PATTERN=NUMBER"),
    "resume with options": (["finetune", "--resume", "--epochs", "3"], "leave out --epochs"),
    "resume of nothing": (["finetune", "--resume", "--logdir", "nowhere"], "nowhere: has no checkpoints"),
    "predict without": (["predict", "--images", "x.jpg"], "x.jpg"),
    "evaluate without": (["evaluate", "--data", "{train}"], "--checkpoint"),
    "no command": ([], "COMMAND"),
    "unknown command": (["train"], "invalid choice"),
    "no such picture": (["predict", "--checkpoint", "x", "--images", "gone.jpg"], "gone.jpg"),
    "checkpoint": (["evaluate", "--checkpoint", "{train}"], "has no checkpoints"),
    "weights as checkpoint": (["evaluate", "--checkpoint", "{list}"], "train.txt"),
    "check": (["data", "check", "nowhere"], "nowhere"),
    "inspect": (["inspect", "--weights", "nowhere.npy"], "nowhere.npy"),
    "inspect net": (["inspect", "--net", "lenet"], "no network 'lenet'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(folder, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, expected = MISTAKES[name]
    places = {"train": folder / "train", "list": folder / "train.txt"}
    status, out, err = call(capsys, *(argument.format(**places) for argument in arguments))
    assert status == 2, err
    assert out == ""
    assert expected in err.splitlines()[-1], err
    assert err.splitlines()[-1].startswith("barenets: ")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.npz"))


def test_data_check_finds_and_tells(folder, tmp_path, capsys):
    assert call(capsys, "data", "check", folder / "train", folder / "val")[0] == 0
    pictures = write_pictures(tmp_path / "pictures", 2)
    (pictures / "above" / "0.jpg").write_bytes(b"")
    status, out, _ = call(capsys, "data", "check", pictures, "--json")
    assert status == 1
    assert any("above/0.jpg" in str(problem) for problem in json.loads(out)["problems"])


def test_inspect_shows_what_would_load_where(tmp_path, capsys):
    path = tmp_path / "w.npy"
    weights.save(str(path), Tiny(num_classes=5))
    status, out, _ = call(capsys, "inspect", "--weights", path)
    assert status == 0
    assert "conv1/weights" in out
    status, _, err = call(capsys, "inspect", "--weights", path, "--net", "tiny", "--num-classes", 2)
    assert status == 2
    assert "fc3/weights is 8×5 in the file and 8×2 in the network" in err
    status, out, _ = call(capsys, "inspect", "--weights", path, "--net", "tiny", "--num-classes", 2, "--reinit", "fc3")
    assert status == 0
    assert out.count("loaded") == 5
    status, out, _ = call(capsys, "inspect", "--net", "alexnet", "--variant", "one_tower", "--json")
    assert sum(layer["parameters"] for layer in json.loads(out)["layers"]) == 61_100_840


def test_inspect_shows_what_a_network_sees_and_costs(capsys):
    status, text, _ = call(capsys, "inspect", "tiny", "--num-classes", 3, "--batch-size", 8)
    assert status == 0
    header, *rows = text.splitlines()
    assert "memory of 8, MB" in header
    assert call(capsys, "inspect", "--net", "tiny", "--num-classes", 3, "--batch-size", 8)[1] == text
    eight, one = (
        json.loads(call(capsys, "inspect", "tiny", "--num-classes", 3, "--json", *more)[1])
        for more in (["--batch-size", 8], [])
    )
    assert len(rows) == len(eight["layers"]) + 1
    for name, total in eight["total"].items():
        assert total == sum(layer[name] for layer in eight["layers"])
        assert total == one["total"][name] * (8 if name == "memory" else 1)
    assert eight["layers"][0]["kind"] == "convolution"
    assert all(layer["receptive_field"] and layer["stride"] for layer in eight["layers"])
    small, usual = (call(capsys, "inspect", "vgg11", "--json", *more)[1] for more in (["--size", 64], []))
    assert [json.loads(out)["layers"][0]["output_shape"][0] for out in (small, usual)] == [64, 224]
    status, _, err = call(capsys, "inspect", "vgg11", "--net", "vgg13")
    assert (status, "two networks" in err, len(err.splitlines())) == (2, True, 1)


def test_hostile_weights_are_refused_before_anything_is_assigned(folder, tmp_path, capsys):
    """A pickle that would run a command, and the same file cut short."""
    import pickle

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for content in (pickle.dumps({"conv1": Hostile()}), pickle.dumps({"conv1": [np.ones((3, 3, 3, 4))]})[:-60]):
        path = tmp_path / "w.npy"
        path.write_bytes(content)
        arguments = ["--train", folder / "train", "--net", "tiny", "--weights", path, "--logdir", tmp_path / "log"]
        status, _, err = call(capsys, "finetune", *arguments)
        assert status == 2
        assert err.count("\n") == 1
        assert str(path) in err
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "log").exists()

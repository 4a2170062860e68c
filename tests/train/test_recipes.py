"""The recipes, reduced, on real pictures with real weights, against bars that broken ones miss; mistakes; taking up."""

import csv
import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barenets import UserError, nets, weights
from barenets.train import checkpoints, data, finetune, model
from barenets.train.cli import main
from barenets.train.data import lists
from barenets.train.progress import Progress
from barenets.train.recipes import RECIPES, dog_breeds_xception, recipe
from barenets.weights import catalog
from tests.pictures import write_pictures
from tests.train import runs
from tests.train.runs import assert_same, last_checkpoint
from tests.train.tiny import TinyXception

QUIET = Progress(quiet=True)


def run(name: str, logdir: Path, **given: Any) -> dict[str, Any]:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    given = {"summary_every": 0, **given, "logdir": str(logdir)}  # histograms would be half of the time
    return recipe.run(name, given, False, QUIET).to_json()


def part(source: Path, count: int, path: Path, *, shuffled: bool = False) -> Path:
    """A list of `count` of the pictures of `source`; shuffled, each with the label of another."""
    whole = data.read(str(source))
    records, _ = whole.split([count / len(whole), 1 - count / len(whole)])
    labels = np.random.default_rng(0).permutation(records.labels) if shuffled else records.labels
    lists.write(dataclasses.replace(records, labels=labels), str(path))
    return path


# Each reduced run passes a bar that neither the untrained network, nor one that learns labels drawn at random, passes.


def hotdog(shared_data: Path) -> dict[str, Any]:
    given = {"val": shared_data / "hotdog/val", "size": 160, "head_epochs": 6, "unfreeze": 1, "epochs": 1}
    given |= {"train": shared_data / "hotdog/train", "pictures": 100}
    return given | {"weights": shared_data / "weights/resnet50_imagenet.h5"}


@pytest.mark.slow
def test_hotdog(shared_data, tmp_path):
    sound = run("hotdog_resnet50", tmp_path, **hotdog(shared_data))
    assert sound["before"] < 0.8 <= min(sound["stage 1, best"], sound["stage 2, best"])


@pytest.mark.slow
def test_hotdog_in_16_bits(shared_data, tmp_path):
    sound = run("hotdog_resnet50", tmp_path, precision="bfloat16", **hotdog(shared_data) | {"unfreeze": 0})
    assert sound["before"] < 0.8 <= sound["best"]


@pytest.mark.slow
def test_hotdog_with_wrong_labels(shared_data, tmp_path):
    train = part(shared_data / "hotdog/train", 100, tmp_path / "l/train.txt", shuffled=True)
    given = hotdog(shared_data) | {"unfreeze": 0, "train": train}
    assert run("hotdog_resnet50", tmp_path / "broken", **given)["best"] < 0.8


@pytest.mark.slow
def test_vgg16(shared_data, tmp_path):
    given = {"size": 80, "head_epochs": 8, "epochs": 1, "weights": shared_data / "weights/vgg16_imagenet_notop.h5"}
    given["val"] = part(shared_data / "cats_dogs/val", 100, tmp_path / "v/val.txt")
    sound = run("vgg16_bottleneck", tmp_path / "sound", train=shared_data / "cats_dogs/train", pictures=150, **given)
    assert sound["before"] < 0.8 <= min(sound["stage 1, best"], sound["best"])
    given |= {"train": part(shared_data / "cats_dogs/train", 150, tmp_path / "l/train.txt", shuffled=True)}
    assert run("vgg16_bottleneck", tmp_path / "broken", **given)["best"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("computed", [{}, {"precision": "float16", "xla": True}], ids=str)
def test_from_scratch(shared_data, tmp_path, computed):
    given = computed | {
        "val": f"{shared_data}/mnist:test",
        "size": 32,
        "epochs": 2,
        "batch_size": 16,
        "val_pictures": 200,
    }
    sound = run("from_scratch", tmp_path / "sound", train=f"{shared_data}/mnist:train", pictures=640, **given)
    assert sound["before"] < 0.3 < 0.5 <= sound["best"]
    assert (tmp_path / "sound/samples.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
@pytest.mark.parametrize(("net", "size"), [("vgg11", 32), ("googlenet", 224), ("alexnet", 224)])
def test_from_scratch_trains_the_others(shared_data, tmp_path, net, size):
    """A few steps, in which each variable moves, those of both auxiliary classifiers among them."""
    given = {"train": f"{shared_data}/cifar10:train", "val": f"{shared_data}/cifar10:test", "pictures": 32}
    run("from_scratch", tmp_path, net=net, size=size, epochs=1, batch_size=16, val_pictures=10, **given)
    checkpoint = checkpoints.latest(str(tmp_path))
    moved = [name for name in checkpoint.optimizer if np.abs(checkpoint.optimizer[name]).max() > 0]
    assert len(moved) == len(checkpoint.optimizer)
    if net == "googlenet":
        assert {"velocity/loss1/classifier/weights", "velocity/loss2/classifier/weights"} <= set(moved)


@pytest.fixture(scope="module")
def breeds(shared_data, tmp_path_factory) -> dict[str, Path]:
    """Lists of ten breeds: labelled, validation and, without their labels, the others, in a folder."""
    folder = tmp_path_factory.mktemp("breeds")
    everything = data.read(str(shared_data / "dog_breeds/labels.csv"))
    ten = everything.subset(np.flatnonzero(everything.labels < 10))
    ten = dataclasses.replace(ten, class_names=ten.class_names[:10])
    train, val, others = ten.split([0.45, 0.25, 0.3])
    for name, records in {"train": train, "val": val}.items():
        lists.write(records, str(folder / f"{name}.txt"))
    (folder / "others").mkdir()
    for path in (*others.paths, *val.paths[:5]):  # a careless person's folder: some validation pictures are in it
        shutil.copy(path, folder / "others")
    return {name: folder / name for name in ("train.txt", "val.txt", "others")}


@pytest.mark.slow
def test_breeds(shared_data, breeds, tmp_path):
    given = {"val": breeds["val.txt"], "unlabelled": breeds["others"], "size": 107, "paired": 8, "head_epochs": 12}
    given |= {"weights": shared_data / "weights/xception_imagenet_notop.h5", "epochs": 1, "last_epochs": 1}
    sound = run("dog_breeds_xception", tmp_path / "sound", train=breeds["train.txt"], confidence=0.5, **given)
    assert sound["round 0, before"] < 0.6 <= min(sound["round 0, stage 1, best"], sound["best"]), sound
    assert sound["round 1, pseudo-labelled"] > 0
    validated = {Path(p).name for p in data.read(str(breeds["val.txt"])).paths}
    trained_on = {Path(p).name for p in data.read(str(tmp_path / "sound/lists/train-1.txt")).paths}
    assert not validated & trained_on
    names = ("head", "auxiliary", "blend")
    written = [(tmp_path / f"sound/predictions/{name}.csv").read_text() for name in names]
    tables = [list(csv.reader(text.splitlines())) for text in written]
    assert len({len(table) for table in tables}) == 1
    assert {f"{row[0]}.jpg" for row in tables[0][1:]}.isdisjoint(validated)

    records = data.read(str(breeds["train.txt"]))
    wrong = dataclasses.replace(records, labels=np.random.default_rng(0).permutation(records.labels))
    lists.write(wrong, str(tmp_path / "l/train.txt"))
    given |= {"unlabelled": None, "epochs": 0, "last_epochs": 0}
    assert run("dog_breeds_xception", tmp_path / "broken", train=tmp_path / "l/train.txt", **given)["best"] < 0.6


# A run that is killed, in any part, ends where it would have ended


@pytest.fixture(scope="module")
def tiny_breeds(tmp_path_factory) -> list[object]:
    folder = tmp_path_factory.mktemp("tiny")
    for name, count, seed in (("train", 8, 0), ("val", 4, 1), ("more", 5, 2)):
        write_pictures(folder / name, count, seed)
    weights.save(str(folder / "w.npz"), TinyXception(seed=3))
    options = {"train": folder / "train", "val": folder / "val", "unlabelled": folder / "more", "size": 16, "paired": 2}
    options |= {"weights": folder / "w.npz", "units": 3, "head-epochs": 3, "epochs": 2, "confidence": 0.5}
    return ["run", "dog_breeds_xception", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.slow
def test_killed_in_each_part_of_a_recipe(tiny_breeds, tmp_path):
    whole = runs.run(*tiny_breeds, "--logdir", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    resume = ["run", "dog_breeds_xception", "--resume", "--logdir", tmp_path / "run"]
    # Within the heads' stage, at its end, within the next, at its end, in the last, and within the round that follows.
    for i, kill in enumerate(["step:6", "advance:1", "step:3", "advance:1", "step:2", "step:6", "save:1"]):
        done = runs.run(*(resume if i else (*tiny_breeds, "--logdir", tmp_path / "run")), kill=kill)
        assert done.code == -signal.SIGKILL, (i, kill, done.out, done.err)
    done = runs.run(*resume, "--json")
    assert done.code == 0, done.err
    for number in (0, 1):
        last = max((tmp_path / f"whole/round-{number}/checkpoints").iterdir())
        step = int(last.stem.removeprefix("step-"))
        assert_same(*(last_checkpoint(tmp_path / kind / f"round-{number}", step) for kind in ("run", "whole")))
    for name in ("head", "auxiliary", "blend"):
        whole_file, ours = (tmp_path / kind / f"predictions/{name}.csv" for kind in ("whole", "run"))
        assert ours.read_bytes() == whole_file.read_bytes()
    figures = [json.loads(result.out) for result in (whole, done)]
    for key in ("best", "round 1, best", "round 1, pseudo-labelled"):
        assert figures[0][key] == figures[1][key]


# A user's mistakes, a line each


def mistake(capsys, *arguments: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets.NETWORKS, "xception", (TinyXception, ("keras",)))
        try:
            status = main(["run", *map(str, arguments)])
        except SystemExit as exit_:
            status = exit_.code
    error = capsys.readouterr().err
    assert status == 2, error
    return error.splitlines()[-1]


def test_options_that_are_missing_or_unknown(capsys, tmp_path):
    assert "vgg16_bottleneck needs --train and --val" in mistake(capsys, "vgg16_bottleneck", "--logdir", tmp_path)
    assert "unrecognized arguments: --vale x" in mistake(capsys, "hotdog_resnet50", "--vale", "x")
    assert "invalid choice: 'vgg17'" in mistake(capsys, "vgg17")
    assert "no recipe was begun there" in mistake(capsys, "from_scratch", "--resume", "--logdir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_about_pictures(capsys, tmp_path):
    name, log = "dog_breeds_xception", tmp_path / "log"
    write_pictures(tmp_path / "train", 6)
    write_pictures(tmp_path / "val", 2, seed=1)
    weights.save(str(tmp_path / "w.npz"), TinyXception())
    fixed = [
        "--val",
        tmp_path / "val",
        "--weights",
        tmp_path / "w.npz",
        "--size",
        16,
        "--head-epochs",
        1,
        "--epochs",
        0,
    ]
    fixed += ["--last-epochs", 0, "--paired", 2]

    def said(**more: object) -> str:
        shutil.rmtree(log, ignore_errors=True)
        options = [word for key, value in more.items() for word in (f"--{key}", value)]
        return mistake(capsys, name, *fixed, "--logdir", log, *options)

    shutil.copytree(tmp_path / "train", tmp_path / "one")
    for path in sorted((tmp_path / "one/below").iterdir())[1:]:
        path.unlink()
    assert "has one picture of below, and paired:2 shows two different ones" in said(train=tmp_path / "one")
    next((tmp_path / "one/below").iterdir()).unlink()
    assert "has no pictures of below" in said(train=tmp_path / "one")
    copies = tmp_path / "val/above"
    assert "all of its 2 pictures are among the labelled ones" in said(train=tmp_path / "train", unlabelled=copies)


def test_features_of_another_list_and_fewer_classes(tmp_path, monkeypatch):
    monkeypatch.setitem(nets.NETWORKS, "xception", (TinyXception, ("keras",)))
    write_pictures(tmp_path / "train", 4)
    write_pictures(tmp_path / "val", 2, seed=1)
    weights.save(str(tmp_path / "w.npz"), TinyXception())
    given = {"val": tmp_path / "val", "weights": tmp_path / "w.npz", "size": 16, "head_epochs": 1, "paired": 0}
    given |= {"features": tmp_path / "kept", "epochs": 0, "last_epochs": 0}
    first = run("dog_breeds_xception", tmp_path / "a", train=tmp_path / "train", **given)
    assert first["best"] >= 0
    next((tmp_path / "train/above").iterdir()).unlink()
    with pytest.raises(UserError, match=r"kept/stage-1/train: holds features of the 8 pictures of .*, not of the 7 of"):
        run("dog_breeds_xception", tmp_path / "b", train=tmp_path / "train", **given)
    (tmp_path / "train/third").mkdir()
    shutil.copy(next((tmp_path / "train/below").iterdir()), tmp_path / "train/third")
    (tmp_path / "val/third").mkdir()
    given |= {"features": None, "weights": tmp_path / "a/round-0"}
    with pytest.raises(UserError, match=r"does not fit the network.*head/classifier/weights is 64×2 .* and 64×3"):
        run("dog_breeds_xception", tmp_path / "c", train=tmp_path / "train", **given)


class ReachedError(Exception):
    """A recipe came as far as training."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_computes_as_it_is_told(name, tmp_path, monkeypatch):
    write_pictures(tmp_path / "pictures", 4)

    def reached(settings: Any, progress: Progress) -> None:
        raise ReachedError(settings.precision, settings.xla, settings.seed)

    monkeypatch.setattr(finetune, "start_or_resume", reached)
    monkeypatch.setattr(model, "choose_network", lambda weights, net, variant: (net, variant))
    given = {"train": tmp_path / "pictures", "val": tmp_path / "pictures", "precision": "bfloat16", "xla": True}
    with pytest.raises(ReachedError) as caught:
        run(name, tmp_path / "log", seed=7, **given)
    assert caught.value.args == ("bfloat16", True, 7)


@pytest.mark.parametrize("name", RECIPES)
def test_help_has_the_command_and_the_score(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["run", name, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"barenets run {name}" in text.partition("options:")[0]
    assert "Expect" in text
    assert "%" in text
    for field in dataclasses.fields(recipe.load(name).Settings):
        assert f"--{field.name.replace('_', '-')} " in text


@pytest.mark.parametrize("name", RECIPES)
def test_default_weights_are_in_the_catalog(name):
    weights_of = getattr(recipe.load(name).Settings, "weights", None)
    if weights_of is not None:
        assert catalog.find(weights_of).net in ("alexnet", "vgg16", "resnet50", "xception")


def test_a_recipe_is_not_begun_twice(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": "from_scratch"}))
    with pytest.raises(UserError, match="nowhere: no such file or folder"):  # what came to nothing makes room
        run("from_scratch", tmp_path, train="nowhere")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000001.npz").touch()
    with pytest.raises(UserError, match="go on with it: barenets run from_scratch --resume --logdir"):
        run("from_scratch", tmp_path)
    with pytest.raises(UserError, match="is of another recipe"):
        recipe.run("vgg16_bottleneck", {"logdir": str(tmp_path)}, True, QUIET)
    with pytest.raises(UserError, match="leave out --train"):
        recipe.run("from_scratch", {"logdir": str(tmp_path), "train": "x"}, True, QUIET)


def test_values_out_of_bounds(capsys, tmp_path):
    assert "--unfreeze must be from 0 to 3, got 5" in mistake(
        capsys, "hotdog_resnet50", "--train", "x", "--val", "x", "--unfreeze", 5
    )
    assert "--pictures must be at least 1, got 0" in mistake(capsys, "from_scratch", "--pictures", 0)
    assert "must be True or False, got 'no'" in mistake(capsys, "dog_breeds_xception", "--gated", "no")
    assert "--net inception_v3: this recipe has alexnet, vgg11" in mistake(
        capsys, "from_scratch", "--net", "inception_v3", "--logdir", tmp_path
    )


def test_a_split_stays_when_its_source_changes(tmp_path):
    """Else pictures that are validated on could come among those trained on when a recipe is taken up."""
    write_pictures(tmp_path / "all", 6)
    settings = dog_breeds_xception.Settings(train=str(tmp_path / "all"), held_out=0.5, logdir=str(tmp_path / "log"))
    train, val = dog_breeds_xception.divided(settings)
    shutil.copy(train.paths[0], tmp_path / "all/above/another.jpg")
    again = dog_breeds_xception.divided(settings)
    assert (again[0].paths, again[1].paths) == (train.paths, val.paths)
    assert not set(train.paths) & set(val.paths)


def test_strangers_are_neither_trained_nor_validated_on(tmp_path):
    """By content, whatever a copy is called."""
    train, val = (data.read(str(write_pictures(tmp_path / n, 3, s))) for n, s in (("train", 0), ("val", 1)))
    write_pictures(tmp_path / "more", 2, seed=2)
    shutil.copy(val.paths[1], tmp_path / "more/renamed.jpg")
    shutil.copy(train.paths[1], tmp_path / "more/above/copy.jpg")
    found = dog_breeds_xception.strangers(str(tmp_path / "more"), train, val, QUIET)
    assert sorted(Path(p).name for p in found.paths) == ["0.jpg", "0.jpg", "1.jpg", "1.jpg"]

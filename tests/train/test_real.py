"""The main job on real pictures with real convolution weights, as a person types it."""

import json
from pathlib import Path

import pytest

from tests import program
from tests.train.test_recipes import part

TOP = ("fc6", "fc7", "fc8")

pytestmark = pytest.mark.slow


def barenets(*arguments: object) -> str:
    done = program.Running(*arguments).done(600)
    assert done.code == 0, done.err
    return done.out


def test_cats_and_dogs(shared_data: Path, tmp_path: Path) -> None:
    """The recipe on 300 of the 1,000 pictures; an untrained top gets about 50 % of the others right."""
    weights = shared_data / "weights/alexnet_one_tower_conv.npz"
    network = ["--variant", "one_tower", "--weights", weights, "--layers", *TOP, "--reinit", *TOP]
    val = part(shared_data / "cats_dogs/val", 120, tmp_path / "lists/val.txt")
    pictures = ["--train", shared_data / "cats_dogs/train", "--val", val, "--pictures", 300]
    length = ["--epochs", 3, "--batch-size", 32, "--summary-every", 10]
    run = ["run", "alexnet_finetune", *network, *pictures, *length, "--logdir", tmp_path / "run"]
    result = json.loads(barenets(*run, "--json"))
    assert result["before"] < 0.65
    assert result["best"] >= 0.85

    evaluation = json.loads(barenets("evaluate", "--checkpoint", tmp_path / "run", "--json"))
    assert evaluation["top1"] == pytest.approx(result["best"], abs=0.005)  # other batches round otherwise
    dogs = sorted((shared_data / "cats_dogs/val/dog").iterdir())[:30]
    out = barenets("predict", "--checkpoint", tmp_path / "run", "--images", *dogs, "--top", 1)
    assert out.count("%") == 30
    assert out.count("  dog") >= 0.7 * 30
    result = json.loads(barenets("finetune", "--resume", "--logdir", tmp_path / "run", "--json"))
    assert result["step"] == 30
    assert not result["interrupted"]

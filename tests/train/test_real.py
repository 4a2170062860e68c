"""The main job on real pictures with real convolution weights, as a person types it."""

import json
from pathlib import Path

import pytest

from tests import program

TOP = ("fc6", "fc7", "fc8")

pytestmark = pytest.mark.slow


def barenets(*arguments: object) -> str:
    done = program.run(*arguments)
    assert done.code == 0, done.err
    return done.out


def test_cats_and_dogs(shared_data: Path, tmp_path: Path) -> None:
    """The recipe on 300 of the 1,000 pictures; an untrained top gets about 50 % of the others right."""
    weights = shared_data / "weights/alexnet_one_tower_conv.npz"
    network = ["--variant", "one_tower", "--weights", weights, "--layers", *TOP, "--reinit", *TOP]
    pictures = ["--train", shared_data / "cats_dogs/train", "--val", shared_data / "cats_dogs/val", "--pictures", 300]
    length = ["--epochs", 3, "--batch-size", 32]
    run = ["run", "alexnet_finetune", *network, *pictures, *length, "--logdir", tmp_path]
    result = json.loads(barenets(*run, "--json"))
    assert result["before"] < 0.65
    assert result["best"] >= 0.85

    evaluation = json.loads(barenets("evaluate", "--checkpoint", tmp_path, "--json"))
    assert evaluation["top1"] == pytest.approx(result["best"], abs=0.005)  # other batches round otherwise
    out = barenets("predict", "--checkpoint", tmp_path, "--images", shared_data / "cats_dogs/val/dog", "--top", 1)
    assert out.count("  dog") >= 0.7 * out.count("%")
    result = json.loads(barenets("finetune", "--resume", "--logdir", tmp_path, "--json"))
    assert result["step"] == 30
    assert not result["interrupted"]

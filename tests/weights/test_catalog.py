"""What the catalog says fits the networks it speaks of."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from barenets import UserError, nets
from barenets.ops import Preprocessing, named_variables
from barenets.weights import catalog
from barenets.weights.catalog import ENTRIES, Entry
from barenets.weights.rename import CLASSIFIERS, Kind


@cache
def network(name: str, variant: str | None) -> tuple[tuple[int, ...], list[str]]:
    """Its input shape and its layers."""
    with tf.Graph().as_default():  # nothing is computed
        net = nets.build(name, variant=variant)
        return net.input_shape, [name.rpartition("/")[0] for name in named_variables(net)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_fits_its_network(entry: Entry) -> None:
    assert entry.variant in nets.variants(entry.net)
    shape, layers = network(entry.net, entry.variant if entry.net == "alexnet" else None)
    assert shape == (entry.preprocessing.crop, entry.preprocessing.crop, 3)
    assert set(layers) & set(CLASSIFIERS)
    assert catalog.find(entry.name) is entry
    if entry.top1 is not None:
        assert 50 < entry.top1 < entry.top5 < 100
    assert entry.sha256 is None or (len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef"))
    file = entry.url.rpartition("/")[2]
    if entry.sha256 and (digits := re.search(r"-([0-9a-f]{8})\.pth$", file)):
        assert entry.sha256.startswith(digits[1])  # torchvision's files are named after it
    assert entry.url.startswith(("http://", "https://", "pypi:"))
    assert entry.class_offset == (entry.kind.origin == "slim" and "inception" in entry.name)


def test_every_network_has_weights() -> None:
    """Or nobody published any: Inception's paper networks are slim's, the plain AlexNet is the article's."""
    without = {(name, v) for name, (_, variants) in nets.NETWORKS.items() for v in variants}
    assert without - {(entry.net, entry.variant) for entry in ENTRIES} == {("alexnet", "plain")}


def test_names_are_unique() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_unknown_name_is_answered_with_all_of_them() -> None:
    with pytest.raises(UserError, match="no 'bvlc_alexnett'") as raised:
        catalog.find("bvlc_alexnett")
    assert all(entry.name in str(raised.value) for entry in ENTRIES)
    assert str(raised.value).isprintable()


def test_preprocessing_of_a_kind() -> None:
    def of(*kind: Any) -> Preprocessing:
        return catalog.preprocessing(Kind(*kind), 224)

    assert of("alexnet", "alexnet") is catalog.find("bvlc_alexnet").preprocessing
    assert of("alexnet", None, "caffe") is catalog.find("bvlc_alexnet").preprocessing
    assert of("vgg16", "paper", "torch") is catalog.find("torchvision_vgg16").preprocessing
    assert of("vgg16", "paper", "slim") is catalog.find("slim_vgg_16").preprocessing
    assert of("vgg16", "paper").channels == "BGR"  # as Caffe's converted .npy wants it
    assert of("inception_v3", "slim", "keras") is catalog.find("keras_inception_v3").preprocessing
    guess = catalog.preprocessing(Kind("none", "of them"), 96)
    assert (guess.crop, guess.channels) == (96, "RGB")
    assert catalog.preprocessing(Kind("none"), 299).resize >= 299


def test_classes() -> None:
    classes = catalog.imagenet_classes()
    assert len(classes) == 1000
    assert all(name and name == name.strip() for name in classes)
    known = {0: "tench", 1: "goldfish", 258: "Samoyed", 281: "tabby", 999: "toilet tissue"}
    for index, name in known.items():
        assert classes[index].split(", ")[0] == name


def test_classes_are_those_of_the_synsets(shared_data: Path) -> None:
    lines = (shared_data / "imagenet_synsets.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines)  # class order is the order of synsets
    assert catalog.imagenet_classes() == tuple(line.split(" ", 1)[1] for line in lines)

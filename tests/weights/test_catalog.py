"""What the catalog says fits the networks it speaks of."""

from pathlib import Path

import pytest

from barenets import UserError, nets
from barenets.ops.module import named_variables
from barenets.weights import catalog
from barenets.weights.catalog import ENTRIES, Entry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_fits_its_network(entry: Entry) -> None:
    net = nets.build(entry.net, variant=entry.variant)
    assert net.input_shape == (entry.preprocessing.crop, entry.preprocessing.crop, 3)
    layers = {name.rpartition("/")[0] for name in named_variables(net)}
    assert layers >= set(entry.rename.values())
    assert catalog.find(entry.name) is entry
    assert 0 < entry.top1 < entry.top5 < 100
    assert entry.sha256 is None or (len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef"))
    assert entry.url.startswith(("http://", "https://", "pypi:"))


def test_names_are_unique() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_unknown_name_is_answered_with_all_of_them() -> None:
    with pytest.raises(UserError, match="no 'bvlc_alexnett'") as raised:
        catalog.find("bvlc_alexnett")
    assert all(entry.name in str(raised.value) for entry in ENTRIES)
    assert str(raised.value).isprintable()


def test_preprocessing_of_a_network() -> None:
    assert catalog.preprocessing("alexnet", "alexnet", 227) is catalog.find("bvlc_alexnet").preprocessing
    guess = catalog.preprocessing("none", "of them", 96)
    assert (guess.crop, guess.channels) == (96, "RGB")
    assert guess.resize >= guess.crop


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

"""Checkpoints and data sets that mean harm: refused in one line, and no terminal obeys what is in them."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barenets import nets, printable
from barenets.ops import Preprocessing, aligned
from barenets.train import checkpoints, data, model
from barenets.train.cli import main
from barenets.train.optimizers import SGD
from barenets.train.settings import Settings
from barenets.weights import Kind, Weights
from barenets.weights.npy import STATE, read_archive, write_npz
from tests.pictures import write_pictures
from tests.train.forms import error_of
from tests.train.tiny import NETWORK, Tiny

NASTY = "\x1b]0;title\x07\x1b[2J\u202e"
"""Sets a terminal's title, clears it, and turns the direction of what follows."""
GOOD: dict[str, Any] = {
    "net": "tiny",
    "variant": "tiny",
    "step": 1,
    "best": None,
    "blend": None,
    "class_names": ["cat", "dog"],
    "preprocessing": Preprocessing(crop=16, resize=16).to_json(),
    "settings": Settings(net="tiny", variant="tiny", train="x").to_json(),
}


def changed(**parts: Any) -> bytes:
    """What a checkpoint says of itself, with entries replaced, and entries of its entries by KEY__KEY."""
    state = json.loads(json.dumps(GOOD))
    for key, value in parts.items():
        first, _, second = key.partition("__")
        (state[first] if second else state)[second or first] = value
    return json.dumps(state).encode()


@pytest.fixture
def checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Writes a checkpoint that says that of itself; its path."""
    monkeypatch.setitem(nets.NETWORKS, "tiny", NETWORK)

    def write(state: bytes) -> str:
        path = checkpoints.save(str(tmp_path), 1, Tiny(), SGD({}), GOOD)
        write_npz(path, {**read_archive(path), STATE: np.frombuffer(state, np.uint8)})
        return path

    return write


def test_the_good_one_is_read(checkpoint: Any) -> None:
    assert model.from_checkpoint(checkpoint(changed())).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (b"nonsense", "state.json is no JSON"),
        (b"\xff\xfe{}", "state.json is no JSON"),
        (b"[" * 100_000, "state.json is no JSON"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "state.json has 3,000,004 bytes"),
        (b"[]", "is no checkpoint of this program's"),
        (b"{}", "is no checkpoint of this program's"),
        (changed(net=3), "is no checkpoint of this program's"),
        (changed(best=5), "is no checkpoint of this program's"),
        (changed(best={"step": []}), "is no checkpoint of this program's"),
        (changed(settings=[]), "is no checkpoint of this program's"),
        (changed(settings__net=["tiny"]), "tiny"),
        (changed(settings__net="../tiny"), "../tiny"),
        (changed(settings__head="no head"), "no head"),
        (changed(settings__size=10**9), "is no checkpoint of this program's"),
        (changed(class_names=2), "is no checkpoint of this program's"),
        (changed(class_names=[{}, []]), "has classes whose names cannot be shown"),
        (changed(class_names=["cat", NASTY]), "has classes whose names cannot be shown"),
        (changed(class_names=["cat"] * 100), "does not fit the network"),
        (changed(preprocessing__more=1), "is no checkpoint of this program's"),
        (changed(preprocessing__crop="x"), "is no checkpoint of this program's"),
        (changed(preprocessing__crop=8), "wants pictures of 8 pixels, which its network does not take"),
        (changed(preprocessing__resize=10**6), "resizes pictures to 1000000 pixels for 16 of them"),
        (changed(preprocessing__mean=[1.0] * 7), "is no checkpoint of this program's"),
        (changed(preprocessing__mean=["x", "y", "z"]), "is no checkpoint of this program's"),
        (changed(blend={"weight": 1}), "is no checkpoint of this program's"),
    ],
)
def test_a_checkpoint_that_says_nonsense_of_itself(checkpoint: Any, state: bytes, reason: str) -> None:
    path = checkpoint(state)
    message = error_of(model.from_checkpoint, path)
    assert message.startswith(path)
    assert reason in message
    assert message.isprintable()


@pytest.mark.parametrize("state", [b"[]", b"{}", changed(best=5), changed(best={"step": []}), changed(step="x")])
def test_a_folder_of_a_checkpoint_that_says_nonsense(
    checkpoint: Any, tmp_path: Path, state: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(state)
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    Path(path).rename(folder / "step-00000001.npz")
    with pytest.warns(UserWarning, match="its state.json says nothing of a run; taking the checkpoint before it"):
        message = error_of(model.from_checkpoint, str(tmp_path / "run"))
    assert "has no checkpoint that can be read" in message
    assert main(["finetune", "--weights", str(folder / "step-00000001.npz"), "--train", str(tmp_path)]) == 2
    assert "its state.json says nothing of a run" in capfd.readouterr().err


def test_a_small_file_that_speaks_of_a_large_network(checkpoint: Any) -> None:
    """Memory for it could not be had."""
    settings = Settings(net="alexnet", variant="alexnet", train="x", head="dense", head_options={"width": 10**10})
    path = checkpoint(changed(net="alexnet", settings=settings.to_json()))
    assert error_of(model.from_checkpoint, path).startswith(f"{path}: does not fit the network")


def test_predict_says_it_in_one_line(checkpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(changed(class_names=[NASTY, NASTY]))
    write_pictures(tmp_path / "pictures", 1)
    assert main(["predict", "--checkpoint", path, "--images", str(tmp_path / "pictures")]) == 2
    assert capfd.readouterr() == ("", f"barenets: {path}: has classes whose names cannot be shown\n")


# What is shown


def test_printable() -> None:
    assert printable("Käse 犬 🐕") == "Käse 犬 🐕"
    assert printable(NASTY) == r"\x1b]0;title\x07\x1b[2J\u202e"
    assert printable("a\nb\udcff") == r"a\nb\udcff"
    assert aligned([("name", "shape"), (NASTY, "3")]).count("\n") == 1
    assert "\x1b" not in aligned([(NASTY, "3")])


def test_names_of_pictures(checkpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "pictures", 1)
    first = sorted((tmp_path / "pictures").rglob("*.jpg"))[0]
    first.rename(first.with_name(f"{NASTY}.jpg"))
    first.with_name(f"{NASTY}no.jpg").write_bytes(b"no picture")
    arguments = ["--checkpoint", checkpoint(changed()), "--images", str(tmp_path / "pictures"), "--on-error", "skip"]
    assert main(["predict", *arguments]) == 0
    shown = capfd.readouterr()
    assert printable(f"{NASTY}.jpg") in shown.out
    assert printable(f"{NASTY}no.jpg: not read") in shown.err
    assert "\x1b" not in shown.out + shown.err


def test_what_is_not_read_and_what_weights_are_for(
    checkpoint: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "pictures", 2)
    first = sorted((tmp_path / "pictures").rglob("*.jpg"))[0]
    first.with_name(f"{NASTY}no.jpg").write_bytes(b"no picture")
    named = ["--data", str(tmp_path / "pictures"), "--on-error", "skip"]
    path = checkpoint(changed(class_names=["above", "below"]))
    assert main(["evaluate", "--checkpoint", path, *named]) == 0
    assert main(["data", "check", str(tmp_path / "pictures")]) == 1
    write_npz(str(tmp_path / "w.npz"), Weights({"x/weights": np.ones(1), "y/weights": np.ones((0, 3))}, Kind(NASTY)))
    assert main(["inspect", "--weights", str(tmp_path / "w.npz")]) == 0
    shown = capfd.readouterr()
    assert shown.out.count(printable(NASTY)) == 3
    assert "\x1b" not in shown.out + shown.err


def test_names_that_no_checkpoint_has_room_for() -> None:
    names = tuple(f"{i:030}" for i in range(75_000))
    message = error_of(data.Records, ("a.jpg",), np.zeros(1, np.int32), names, "list.txt")
    assert message.startswith("list.txt: the names of its 75,000 classes take 2,550,000 bytes as JSON")


@pytest.mark.parametrize("form", ["folder", "list", "labels.txt"])
def test_names_of_classes(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    for name in ("cat", NASTY.replace("/", "")):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / "1.jpg").touch()
    source = tmp_path / "data"
    if form != "folder":
        source = tmp_path / "list.txt"
        source.write_text(f"a.jpg 0\nb.jpg {'1' if form == 'labels.txt' else NASTY}\n")
        if form == "labels.txt":
            (tmp_path / "labels.txt").write_text(f"0:cat\n1:{NASTY}\n")
    message = error_of(data.read, str(source))
    assert "has a name that cannot be shown; rename it" in message
    assert message.isprintable()


# Folders


def test_links_that_lead_back(tmp_path: Path) -> None:
    """Two of them are 2^40 ways through the folder."""
    for name in ("cat", "dog"):
        (tmp_path / name / "more").mkdir(parents=True)
        (tmp_path / name / "more/1.jpg").touch()
        for link in ("a", "b"):
            (tmp_path / name / "more" / link).symlink_to(tmp_path / name)
    assert [path.removeprefix(f"{tmp_path}/") for path in data.read(str(tmp_path)).paths] == [
        "cat/more/1.jpg",
        "dog/more/1.jpg",
    ]


def test_folders_that_are_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.jpg").touch()
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    assert len(data.read(str(tmp_path / "data"))) == 2


# Lists


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a picture and links, beside one."""
    (tmp_path / "set/sub").mkdir(parents=True)
    for path in ("set/a.jpg", "set/sub/b.jpg", "c.jpg"):
        (tmp_path / path).touch()
    np.savez(tmp_path / "d.npz", x_train=np.zeros((1, 4, 4), np.uint8), y_train=np.zeros(1, int))
    for name in ("c.jpg", "d.npz"):
        (tmp_path / "set" / name).symlink_to(tmp_path / name)
    (tmp_path / "set/away").symlink_to(tmp_path)
    return tmp_path / "set"


OUTSIDE = (
    *("../c.jpg", "sub/../../c.jpg", "c.jpg", "away/c.jpg", "/etc/passwd", "gs://bucket/c.jpg", "file:///etc/passwd"),
    *("d.npz:train#0", "away/d.npz:train#0", "../set2/a.jpg", "a\0/../../c.jpg"),
)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("form", ["list.txt", "list.csv"])
def test_a_list_that_must_not_lead_out_of_its_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, form: str, outside: str
) -> None:
    monkeypatch.chdir(place)
    between, head = (",", "path,class\n") if form == "list.csv" else (" ", "")
    good = "".join(f"{path}{between}cat\n" for path in ("a.jpg", "sub/b.jpg", f"{place}/a.jpg", "sub/../a.jpg"))
    for source in (form, f"{place}/{form}", f"{place}/away/set/{form}"):
        Path(form).write_text(head + good)
        assert len(data.read(f"{source}:inside")) == 4
        Path(form).write_text(f"{head}{good}{outside}{between}cat\n")
        message = error_of(data.read, f"{source}:inside")
        assert f"{source} line {5 + bool(head)}: " in message
        if form == "list.csv" and "\0" in outside and sys.version_info < (3, 11):  # csv itself refuses it
            assert message.endswith("cannot be read as CSV (line contains NUL); check the quotes")
        else:
            assert message.endswith("lies outside of the folder of the list, which :inside forbids")


def test_a_list_may_point_anywhere(place: Path) -> None:
    (place / "list.txt").write_text("".join(f"{path} cat\n" for path in OUTSIDE[:5]))
    assert len(data.read(f"{place}/list.txt")) == 5
    assert "has no parts; leave out :other" in error_of(data.read, f"{place}/list.txt:other")

"""What recipes share: their settings as options, what they report, and how one is taken up again."""

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import tensorflow as tf

from barenets import UserError
from barenets.ops import aligned
from barenets.train import data, finetune
from barenets.train.data import lists
from barenets.train.lock import locked
from barenets.train.progress import Progress
from barenets.train.recipes import RECIPES
from barenets.weights import files


def setting(text: str, default: Any = dataclasses.MISSING, *, least: int = 0, most: int | None = None) -> Any:
    """A field of a recipe's settings: what it means, its default, and the bounds of a whole number.

    A field without a default must be given.
    """
    return dataclasses.field(default=default, metadata={"help": text, "least": least, "most": most})


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every recipe has beside its own."""

    precision: str = setting("what layers compute in: float32, bfloat16 or float16", "float32")
    xla: bool = setting("True compiles the network", False)
    summary_every: int = setting("steps between histograms; 0 for none", 1)
    seed: int = setting("everything random follows from it", 0)

    def common(self) -> dict[str, Any]:
        """These, as `finetune.Settings` takes them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Common)}


@dataclass(frozen=True)
class Report:
    """What a recipe came to."""

    figures: Mapping[str, float | int | str]
    """What is measured -> the number: a share from 0 to 1 if it is a float, except for seconds."""
    lines: tuple[str, ...] = ()
    """What to do next."""
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """What `barenets run NAME --json` prints."""
        return {**self.figures, "interrupted": self.interrupted}

    def __str__(self) -> str:
        def cell(name: str, value: float | int | str) -> str:
            if isinstance(value, float):
                return f"{value:.0f} s" if name == "seconds" else f"{value:.2%}"
            return f"{value:,}" if isinstance(value, int) else value

        return "\n".join([aligned([(name, cell(name, value)) for name, value in self.figures.items()]), *self.lines])


def figures(result: finetune.Result) -> dict[str, float | int | str]:
    """What every recipe reports of a run: validation before it, the best of each stage and of all, and the steps."""
    shown: dict[str, float | int | str] = {}
    if result.before:
        shown["before"] = result.before.top1
    for number, stage in enumerate(result.stages, 1):
        shown[f"stage {number}, best"] = stage["top1"]
    if result.best:
        shown["best"] = result.best["top1"]
    return {**shown, "steps": result.step}


def report(result: finetune.Result, *lines: str) -> Report:
    """The report of a recipe that is one run."""
    use = f"use it:  barenets predict --checkpoint {result.settings.logdir} --images FILES_OR_FOLDER"
    return Report(figures(result), (*lines, use), result.interrupted)


def load(name: str) -> ModuleType:
    """The recipe of this name. Raises UserError, naming all of them, if there is none."""
    if name not in RECIPES:
        raise UserError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return importlib.import_module(f"barenets.train.recipes.{name}")


def run(name: str, given: Mapping[str, Any], resume: bool, progress: Progress) -> Report:
    """Runs a recipe with the settings that are `given`, or takes up the one in `given["logdir"]`.

    Its settings are kept in recipe.json there. Raises UserError for a log folder that another recipe, or another run,
    has begun to write in.
    """
    recipe = load(name)
    logdir = given.get("logdir", recipe.Settings.logdir)
    if "://" not in logdir:
        logdir = os.path.abspath(logdir)
    path = os.path.join(logdir, "recipe.json")
    if resume and (others := [_option(key) for key in given if key != "logdir"]):
        raise UserError(f"--resume goes on with the recipe as it was started; leave out {', '.join(others)}")
    started = time.monotonic()
    with locked(logdir):
        if resume:
            settings = recipe.Settings(**{**_kept(path, name), "logdir": logdir})
        else:
            settings = _checked(name, recipe.Settings, {**given, "logdir": logdir})
            _begin(path, name, settings)
        done: Report = recipe.run(settings, progress)
    done = dataclasses.replace(done, figures={**done.figures, "seconds": time.monotonic() - started})
    if done.interrupted:
        go_on = f"interrupted; go on with:  barenets run {name} --resume --logdir {logdir}"
        done = dataclasses.replace(done, lines=(go_on,))
    return done


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _checked(name: str, kind: Any, given: Mapping[str, Any]) -> Any:
    """The settings, with places that mean the same in any working directory."""
    for field in dataclasses.fields(kind):
        value = given.get(field.name)
        if value is None and field.default is dataclasses.MISSING:
            missing = [_option(f.name) for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
            raise UserError(f"{name} needs {' and '.join(missing)}; see barenets run {name} --help")
        least, most = field.metadata["least"], field.metadata["most"]
        if type(value) is int and not least <= value <= (value if most is None else most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{_option(field.name)} must be {bounds}, got {value}")
    places = ("train", "val", "unlabelled", "weights")
    return kind(**{key: data.absolute(value) if key in places and value else value for key, value in given.items()})


def _begin(path: str, name: str, settings: Any) -> None:
    """Writes the settings down. What was begun there and came to no checkpoint makes room."""
    logdir = os.path.dirname(path)
    if tf.io.gfile.exists(path):
        if any(tf.io.gfile.glob(f"{logdir}/{folder}checkpoints/step-*.npz") for folder in ("", "*/")):
            raise UserError(
                f"{logdir}: a recipe was begun there; choose another --logdir, or go on with it: "
                f"barenets run {name} --resume --logdir {logdir}"
            )
        for listed in tf.io.gfile.glob(f"{logdir}/lists/*.txt"):
            tf.io.gfile.remove(listed)
    with files.replacing(path) as file:
        file.write(json.dumps({"recipe": name, **dataclasses.asdict(settings)}, indent=1).encode())


def _kept(path: str, name: str) -> dict[str, Any]:
    if not tf.io.gfile.exists(path):
        raise UserError(f"{path}: no recipe was begun there; start it without --resume")
    with tf.io.gfile.GFile(path, "r") as file:
        kept: dict[str, Any] = json.loads(file.read())
    if kept.pop("recipe") != name:
        raise UserError(f"{path}: is of another recipe; name that one")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}


def labelled(source: str) -> data.Records:
    """The pictures of `source`. Raises UserError for a class that has none."""
    records = data.read(source)
    if empty := records.empty_classes:
        raise UserError(f"{source}: has no pictures of {empty[0]}; add some, or remove the class")
    return records


def taken(source: str, count: int | None, path: str, seed: int = 0) -> str:
    """`source` whole, or a list at `path` of `count` of its pictures, of each class in proportion, drawn by `seed`."""
    records = labelled(source)
    if count is None or count >= len(records):
        return source
    if count < records.num_classes:
        raise UserError(f"{source}: has {records.num_classes} classes, so {count} pictures are too few")
    part, _ = records.split([count / len(records), 1 - count / len(records)], seed)
    return written(part, path)


def written(records: data.Records, path: str) -> str:
    """The path of a list of `records`; one that is there already stays as it is, whatever has become of its source."""
    if not tf.io.gfile.exists(path):
        lists.write(records, path)
    return path

"""A training run: load, choose, train, write down, and take up again where it was stopped."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError, nets, weights
from barenets.ops import Preprocessing, named_variables
from barenets.train import checkpoints, data, inspect
from barenets.train.data import augment
from barenets.train.evaluate import Evaluation, Evaluator
from barenets.train.loop import DivergedError, StepResult, Trainer, first_nonfinite
from barenets.train.model import preprocessing_for
from barenets.train.optimizers import OPTIMIZERS, schedule
from barenets.train.progress import Progress
from barenets.train.select import freeze_norms, multipliers, trained_variables
from barenets.train.summaries import SummaryWriter


@dataclass(frozen=True)
class Settings:
    """All that a run depends on; each checkpoint keeps it, so that its folder is enough to take a run up."""

    train: str
    """Label list or folder of class folders."""
    val: str | None = None
    net: str = "alexnet"
    variant: str = ""
    """Empty: the network's first."""
    weights: str | None = None
    """Weight file or name in the catalog; None starts from scratch."""
    preprocessing: Preprocessing | None = None
    """None: what the weights are known to want."""
    layers: tuple[str, ...] = ()
    """Patterns of what trains; none: everything."""
    reinit: tuple[str, ...] = ()
    """Patterns of what starts afresh instead of being loaded."""
    class_names: tuple[str, ...] | None = None
    epochs: int = 10
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.001
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0005
    schedule: str = "constant"
    decay_every: int = 0
    """Epochs after which the "step" schedule divides the rate by ten."""
    warm_up: int = 0
    """Steps over which the rate rises."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Pattern -> multiplier of the learning rate."""
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    dropout: float | None = None
    """None: the network's own."""
    augment: str = "standard"
    """A policy, by name or as a list of steps; see `barenets.train.data.augment`."""
    sampler: str = "shuffled"
    """In which order, and how often, pictures come: "shuffled", "weighted" or "paired:K", of K classes a step."""
    seed: int = 0
    on_error: str = "stop"
    summary_every: int = 1
    """Steps; 0 for no summaries of layers."""
    exact_histograms: bool = False
    checkpoint_every: int = 0
    """Steps, besides the end of each epoch; 0 for none."""
    keep: int = 2
    logdir: str = "runs/finetune"

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_size": 1, "keep": 1, "summary_every": 0, "checkpoint_every": 0}.items():
            self._require(name, getattr(self, name) >= least, f"at least {least}")
        for name in ("seed", "decay_every", "warm_up", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("dropout", "momentum"):
            self._require(name, 0 <= (getattr(self, name) or 0) < 1, "at least 0 and below 1")
        self._require("label_smoothing", 0 <= self.label_smoothing <= 1, "from 0 to 1")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive")
        augment.parse(self.augment)
        sampler = _sampler(self.sampler, self.seed)
        if isinstance(sampler, data.ClassPaired):
            step = 2 * sampler.classes
            self._require("batch_size", self.batch_size % step == 0, f"a multiple of {step} with {self.sampler}")
        object.__setattr__(self, "variant", self.variant or nets.variants(self.net)[0])

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {what}, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        known = {f.name for f in fields(cls)}
        if isinstance(values.get("augment"), bool):  # version 1: random crop and flip, or not
            values = {**values, "augment": "standard" if values["augment"] else "none"}
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
        if values.get("preprocessing"):
            values["preprocessing"] = Preprocessing(**values["preprocessing"])
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Result:
    """What a run came to."""

    settings: Settings
    step: int
    checkpoint: str
    before: Evaluation | None
    """On the validation pictures, before the first step; None without them and in a run that was taken up."""
    after: Evaluation | None
    best: Mapping[str, float] | None
    """`step` and `top1` of the checkpoint that validated best."""
    history: inspect.History
    """The sizes of each trained variable's gradient at the first and the last watched steps of this process."""
    picture: str | None
    """Path of a picture of `history`."""
    interrupted: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "checkpoint": self.checkpoint,
            "before": self.before and self.before.to_json(),
            "after": self.after and self.after.to_json(),
            "best": self.best,
            "gradients": self.history[max(self.history)] if self.history else None,
            "picture": self.picture,
            "interrupted": self.interrupted,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        s, lines = self.settings, []
        if self.history:
            lines += ["gradients, layer by layer (medians over the last tenth of the steps)"]
            lines += [inspect.gradient_table(self.history), ""]
        if self.before:
            lines.append(f"validation accuracy before  {self.before.top1:.2%} of {self.before.count} pictures")
        if self.after:
            lines.append(f"validation accuracy after   {self.after.top1:.2%} of {self.after.count} pictures")
        if self.best and self.after and self.best["top1"] > self.after.top1:
            lines.append(f"best                        {self.best['top1']:.2%} at step {self.best['step']}")
        lines.append(f"{self.step} steps, {self.seconds:.0f} s; checkpoint {self.checkpoint}")
        if self.picture:
            lines.append(f"gradient sizes as a picture: {self.picture}")
        lines.append(f"look inside:  tensorboard --logdir {s.logdir}")
        if self.interrupted:
            lines.append(f"interrupted; go on with:  barenets finetune --resume --logdir {s.logdir}")
        else:
            lines.append(f"use it:       barenets predict --checkpoint {s.logdir} --images FILES_OR_FOLDER")
        return "\n".join(lines)


_REMEMBERED = 1000
"""Watched steps whose sizes a run keeps in memory; TensorBoard's files have all of them."""


class Run:
    """A network and its data at some step of a run, from scratch, from weights or from a checkpoint."""

    def __init__(self, settings: Settings, checkpoint: checkpoints.Checkpoint | None = None) -> None:
        s = self.settings = settings
        state = checkpoint.state if checkpoint else {}
        self.step, self.epoch, self.position = (state.get(key, 0) for key in ("step", "epoch", "position"))
        self.best: dict[str, float] | None = state.get("best")
        self.path = checkpoint.path if checkpoint else ""

        self.records = data.read(s.train, state.get("class_names") or s.class_names)
        if self.records.fingerprint != state.get("pictures", self.records.fingerprint):
            raise UserError(
                f"{s.train}: holds other pictures, or other labels, than when the run in {s.logdir} began; "
                "put them back, or start a new run"
            )
        self.class_names = self.records.class_names
        if len(self.class_names) < 2:
            raise UserError(f"{s.train}: has one class only, {self.class_names[0]!r}; there is nothing to tell apart")
        dropout = {} if s.dropout is None else {"dropout_rate": s.dropout}
        self.net = nets.build(s.net, num_classes=len(self.class_names), variant=s.variant, seed=s.seed, **dropout)
        arrays = weights.read(s.weights) if s.weights and not checkpoint else None
        if checkpoint:
            self.preprocessing = Preprocessing(**state["preprocessing"])
        else:
            self.preprocessing = s.preprocessing or preprocessing_for(s.weights, arrays, s.net, s.variant, self.net)
        self.batches = data.Batches(
            self.records,
            self.preprocessing,
            s.batch_size,
            seed=s.seed,
            sampler=_sampler(s.sampler, s.seed),
            policy=augment.parse(s.augment),
            on_error=s.on_error,
        )
        self.validation = s.val and data.Batches(
            data.read(s.val, self.class_names), self.preprocessing, s.batch_size, on_error=s.on_error
        )
        self.load_report: weights.LoadReport | None = None
        if checkpoint:
            weights.load(self.net, checkpoint.weights)
        elif arrays is not None:
            self.load_report = weights.load(self.net, arrays, skip=s.reinit, origin=str(s.weights))
        elif s.reinit:
            raise UserError("--reinit starts layers afresh instead of loading them; without --weights all of them are")

        self.evaluator = Evaluator(self.net)
        trained = trained_variables(self.net, s.layers)
        freeze_norms(self.net, trained)
        options = {"momentum": s.momentum, "nesterov": s.nesterov} if s.optimizer == "sgd" else {}
        if s.optimizer not in OPTIMIZERS:
            raise UserError(f"there is no optimizer {s.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        self.optimizer = OPTIMIZERS[s.optimizer](
            trained, weight_decay=s.weight_decay, multipliers=multipliers(trained, s.rates), **options
        )
        if checkpoint:
            weights.load(self.optimizer, checkpoint.optimizer)
        self.trainer = Trainer(
            self.net,
            trained,
            self.optimizer,
            seed=s.seed,
            clip_norm=s.clip_norm,
            label_smoothing=s.label_smoothing,
            exact_histograms=s.exact_histograms,
        )
        self.schedule = schedule(
            s.schedule,
            s.learning_rate,
            self.steps_per_epoch * s.epochs,
            every=s.decay_every * self.steps_per_epoch,
            warm=s.warm_up,
        )

    @cached_property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.pictures_per_epoch / self.settings.batch_size)

    @cached_property
    def pictures_per_epoch(self) -> int:
        return len(self.batches.order(0))

    @property
    def sizes(self) -> dict[str, int]:
        """Trained variable -> number of values, in the network's order."""
        return {name: int(np.prod(variable.shape)) for name, variable in self.trainer.trained.items()}

    def save(self) -> None:
        """Writes a checkpoint of this very state to `path` and drops those that are no longer kept."""
        folder = os.path.join(self.settings.logdir, checkpoints.FOLDER)
        state = {
            "net": self.settings.net,
            "variant": self.settings.variant,
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "best": self.best,
            "pictures": self.records.fingerprint,
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.to_json(),
            "settings": self.settings.to_json(),
        }
        self.path = checkpoints.save(folder, self.step, self.net, self.optimizer, state)
        checkpoints.prune(folder, self.settings.keep, int(self.best["step"]) if self.best else None)

    def describe(self) -> str:
        """What the run starts with, for a person to check."""
        s, trained = self.settings, self.trainer.trained
        total = sum(math.prod(v.shape) for v in named_variables(self.net).values())
        lines = [
            f"{s.net} {s.variant}: {total:,} parameters, of which {sum(self.sizes.values()):,} train "
            f"({', '.join(dict.fromkeys(name.rpartition('/')[0] for name in trained))})",
            f"training: {len(self.records)} pictures of {len(self.class_names)} classes from {s.train} "
            f"({', '.join(self.class_names[:8])}{', …' if len(self.class_names) > 8 else ''})",
        ]
        if self.load_report:
            skipped = f"; {', '.join(s.reinit)} start afresh" if self.load_report.skipped else ""
            lines.insert(1, f"weights: {len(self.load_report.loaded)} variables from {s.weights}{skipped}")
        if empty := [name for i, name in enumerate(self.class_names) if not (self.records.labels == i).any()]:
            lines.append(f"warning: no training pictures of {', '.join(empty)}")
        return "\n".join(lines)


def _sampler(text: str, seed: int) -> data.Sampler:
    kind, _, classes = text.partition(":")
    if text == "shuffled":
        return data.Shuffled(seed)
    if text == "weighted":
        return data.ClassWeighted(seed)
    if kind == "paired" and classes.isdecimal() and int(classes):
        return data.ClassPaired(seed, int(classes))
    raise UserError(f"--sampler must be shuffled, weighted, or paired:K for K classes a step, got {text!r}")


def start(settings: Settings) -> Run:
    """A new run. Raises UserError if its log folder holds another run's checkpoints already."""
    if checkpoints.steps(os.path.join(settings.logdir, checkpoints.FOLDER)):
        raise UserError(
            f"{settings.logdir}: holds the checkpoints of another run; choose another --logdir, or go on with that "
            f"run: --resume --logdir {settings.logdir}"
        )
    # A run may be taken up from another working directory.
    train, val = settings.train, settings.val
    return Run(replace(settings, train=data.absolute(train), val=val and data.absolute(val)))


def resume(logdir: str) -> Run:
    """The run in `logdir` as its newest readable checkpoint has it. Raises UserError if there is none."""
    checkpoint = checkpoints.latest(logdir)
    settings = Settings.from_json({**checkpoint.state["settings"], "logdir": logdir})
    return Run(settings, checkpoint)


def train(run: Run, progress: Progress) -> Result:
    """Trains `run` to the end of its last epoch, or until it is interrupted, and returns what came of it.

    An interrupt (Ctrl-C, SIGTERM) lets the step end and writes a checkpoint. Raises DivergedError, naming
    the layer, at the first loss or gradient that is not finite, with nothing of that step applied.
    """
    s = run.settings
    started = time.monotonic()
    history: dict[int, dict[str, dict[str, float]]] = {}
    before = after = None
    writer = SummaryWriter(s.logdir, run.step)
    try:
        if run.step == 0:
            _write_graph(writer, run)
            if run.validation:
                before = _validate(run, writer, progress)
                progress.say(f"validation before training: {before.top1:.2%} of {before.count}")
        with _interruptible() as interrupted:
            while run.epoch < s.epochs and not interrupted:
                bar = progress.epoch(run.epoch, s.epochs, run.pictures_per_epoch, run.position)
                for batch in run.batches.epoch(run.epoch, run.position):
                    rate = run.schedule(run.step)
                    watch = s.summary_every > 0 and run.step % s.summary_every == 0
                    result = run.trainer.step(batch.images, batch.labels, run.step, rate, watch=watch)
                    if not result.finite:
                        where = first_nonfinite(run.trainer, batch.images, batch.labels, run.step)
                        raise DivergedError(
                            f"step {run.step}: not a finite number, first in {where}; nothing of this step was "
                            "applied. A lower --learning-rate or --clip-norm 1 may help"
                        )
                    count = len(batch.indices)
                    bar.advance(count, float(result.loss), int(result.correct))
                    if run.step == 0:
                        writer.pictures("pictures", run.preprocessing.pictures(batch.images[:8]).numpy(), 0)
                    if watch:
                        history[run.step] = write_step(writer, run.step, result, run.sizes, rate, count)
                        if len(history) > _REMEMBERED:
                            del history[list(history)[1]]  # the first step is shown beside the last
                    run.step, run.position = run.step + 1, batch.position
                    if interrupted or (s.checkpoint_every and run.step % s.checkpoint_every == 0):
                        run.save()
                    if interrupted:
                        break
                if interrupted:
                    break
                if bar.pictures == 0 and run.position == 0:
                    raise UserError(f"{s.train}: none of its pictures can be read; see `barenets data check {s.train}`")
                run.epoch, run.position = run.epoch + 1, 0
                if run.validation:
                    after = _validate(run, writer, progress)
                    if run.best is None or after.top1 > run.best["top1"]:
                        run.best = {"step": run.step, "top1": after.top1}
                bar.close(after.top1 if after else None)
                run.save()
    finally:
        writer.close()
    for skipped, reason in {
        **run.batches.skipped,
        **(run.validation.skipped if run.validation else {}),
    }.items():
        progress.say(f"not read: {skipped} ({reason})")
    picture = None
    if history:
        picture = os.path.join(s.logdir, "gradients.png")
        inspect.draw_gradients(history, picture, f"{s.net} {s.variant}, {len(history)} steps up to {run.step}")
    return Result(
        settings=s,
        step=run.step,
        checkpoint=run.path,
        before=before,
        after=after,
        best=run.best,
        history=history,
        picture=picture,
        interrupted=run.epoch < s.epochs,
        seconds=time.monotonic() - started,
    )


def _validate(run: Run, writer: SummaryWriter, progress: Progress) -> Evaluation:
    assert run.validation
    with progress.pictures("validation", len(run.validation.records)) as advance:
        result = run.evaluator.evaluate(run.validation, advance)
    scalars = {"validation/top1": result.top1, "validation/top5": result.top5, "validation/loss": result.loss}
    writer.write(scalars, {}, run.step)
    return result


def _write_graph(writer: SummaryWriter, run: Run) -> None:
    spec = tf.TensorSpec([None, *run.net.input_shape], tf.float32, name="pictures")
    writer.graph(tf.function(run.net, autograph=False).get_concrete_function(spec).graph)


def write_step(
    writer: SummaryWriter, step: int, result: StepResult, sizes: Mapping[str, int], rate: float, count: int
) -> dict[str, dict[str, float]]:
    """Hands a watched step on `count` pictures to the writer; returns the sizes of each variable's gradient.

    `sizes` are the trained variables' numbers of values.
    """
    quantities, histograms = inspect.layer_sizes(result.seen, sizes)
    scalars = {
        "training/loss": float(result.loss),
        "training/accuracy": int(result.correct) / count,
        "training/learning_rate": rate,
        "training/gradient_norm": float(result.gradient_norm),
    }
    for name, values in quantities.items():
        scalars |= {
            (key if key == "update_ratio" else f"gradient_{key}") + f"/{name}": value for key, value in values.items()
        }
    writer.write(scalars, histograms, step)
    return quantities


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; the second one ends the program as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

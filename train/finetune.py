"""A training run: load, choose, train, write down, and take up again where it was stopped."""

import json
import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError, printable, weights
from barenets.look.findings import findings
from barenets.look.report import Report
from barenets.nets import Headed, Maps
from barenets.ops import Preprocessing, named_variables
from barenets.train import checkpoints, data, model
from barenets.train.blend import Blend, BlendEvaluator
from barenets.train.data import augment, features
from barenets.train.distribute import Devices
from barenets.train.evaluate import Evaluation, Evaluator
from barenets.train.lock import locked
from barenets.train.loop import DivergedError, StepResult, Trainer, bad_variables, first_nonfinite
from barenets.train.optimizers import OPTIMIZERS, Averaged, Schedule, schedule
from barenets.train.precision import InPrecision, LossScale
from barenets.train.progress import Progress
from barenets.train.select import freeze_norms, multipliers, rate_decay, trained_variables
from barenets.train.settings import Settings
from barenets.train.summaries import NoSummaries, SummaryWriter


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
    """`step`, `epoch`, `top1` and `loss` of the checkpoint that validated best."""
    stages: tuple[Mapping[str, float], ...]
    """Of each stage that is over: `step` and `epoch` of its end, and what validated best in it."""
    report: Report
    """What the layers did at the watched steps of the last stage that this process was in."""
    report_files: tuple[str, ...]
    """Paths of the files that show it."""
    interrupted: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What `barenets finetune --json` prints; `null` is what was not measured."""
        return {
            "step": self.step,
            "checkpoint": self.checkpoint,
            "before": self.before and self.before.to_json(),
            "after": self.after and self.after.to_json(),
            "best": self.best,
            "stages": list(self.stages),
            "gradients": self.report.variables.row(self.report.steps[-1]) if self.report.steps else None,
            "findings": [asdict(finding) for finding in findings(self.report)],
            "report_files": list(self.report_files),
            "interrupted": self.interrupted,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        s, lines = self.settings, []
        if self.report.steps:
            lines += ["gradients, layer by layer (medians over the last tenth of the steps)"]
            lines += [self.report.table(), "", *map(str, findings(self.report))]
        if self.before:
            lines.append(f"validation accuracy before  {self.before.top1:.2%} of {self.before.count} pictures")
        for number, stage in enumerate(self.stages[:-1], 1):
            if "top1" in stage:
                lines.append(f"best of stage {number:<2}            {stage['top1']:.2%}, over at step {stage['step']}")
        if self.after:
            lines.append(f"validation accuracy after   {self.after.top1:.2%} of {self.after.count} pictures")
        if self.best and self.after and self.best["top1"] > self.after.top1:
            lines.append(f"best                        {self.best['top1']:.2%} at step {self.best['step']}")
        lines.append(f"{self.step} steps, {self.seconds:.0f} s; checkpoint {self.checkpoint}")
        if self.report_files:
            lines.append(f"gradients as a page and as pictures: {', '.join(self.report_files)}")
        lines.append(f"look inside:  tensorboard --logdir {s.logdir}")
        if self.interrupted:
            lines.append(f"interrupted; go on with:  barenets finetune --resume --logdir {s.logdir}")
        else:
            lines.append(f"use it:       barenets predict --checkpoint {s.logdir} --images FILES_OR_FOLDER")
        return "\n".join(lines)


_REPORT_EVERY = 60.0
"""Seconds, at least, between two writings of a report during a run."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """What follows from a stage's settings, the network's variables and the labels."""

    trained: dict[str, tf.Variable]
    multipliers: dict[str, float]
    class_weights: list[float] | None
    pictures_per_epoch: int
    steps_per_epoch: int
    schedule: Schedule


class Run:
    """A network and its data at some step of a run, from scratch, from weights or from a checkpoint."""

    def __init__(
        self,
        settings: Settings,
        checkpoint: checkpoints.Checkpoint | None = None,
        progress: Progress | None = None,
        devices: Devices | None = None,
    ) -> None:
        """On `devices`, or on one; they are no part of the run, which can go on with others."""
        s = self.settings = settings
        self.devices = devices or Devices()
        self._progress = progress or Progress(quiet=True)
        state = checkpoint.state if checkpoint else {}
        self.step, self.epoch, self.position = (state.get(key, 0) for key in ("step", "epoch", "position"))
        self.stage: int = state.get("stage", 0)
        self.begun: dict[str, int] = state.get("begun") or {"step": 0, "epoch": 0}
        self.stages: list[dict[str, Any]] = state.get("stages", [])
        self.best: dict[str, float] | None = state.get("best")
        self.best_of_stage: dict[str, float] | None = state.get("best_of_stage")
        self.blend: Blend | None = Blend(**state["blend"]) if state.get("blend") else None
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
        self.held_out = data.read(s.val, self.class_names) if s.val else None
        if self.held_out and self.held_out.fingerprint != (state.get("validation") or self.held_out.fingerprint):
            raise UserError(
                f"{s.val}: holds other pictures, or other labels, than when the run in {s.logdir} began; put them back"
            )
        if self.devices.workers > 1:  # first of all: to make variables they meet already
            places = dict.fromkeys(("train", "val", "weights", "features", "logdir"))  # whose content counts
            pictures = [self.records.fingerprint, self.held_out and self.held_out.fingerprint]
            self.devices.check("its pictures or settings", [*pictures, {**s.to_json(), **places}])
        with self.devices.scope():
            self.net = s.build(len(self.class_names))
        self.load_report: weights.LoadReport | None = None
        if checkpoint:
            self.preprocessing = Preprocessing(**state["preprocessing"])
            weights.load(self.net, checkpoint.weights)
        else:
            self.preprocessing, self.load_report = model.initialise(self.net, s)
            for stage in range(s.num_stages):  # a mistake in the last one shall not cost the time of the first
                self._plan(s.stage(stage))
        self._enter()
        if checkpoint:
            weights.load(self.optimizer, checkpoint.optimizer)
            if scale := state.get("loss_scale"):
                self.trainer.loss_scale = LossScale(**scale)
        if self.devices.workers > 1:
            digests = [zlib.crc32(variable.numpy().tobytes()) for variable in named_variables(self.net).values()]
            self.devices.check("its weights", digests)

    def _plan(self, s: Settings) -> "_Plan":
        """What a stage with the settings `s` will do; raises UserError for what it cannot."""
        trained = trained_variables(self.net, s.layers or (("head",) if s.bottleneck else ()))
        if s.bottleneck and (below := [name for name in trained if not name.startswith("head/")]):
            raise UserError(f"--bottleneck trains the head alone: {below[0]} lies below it; choose --layers head")
        if s.blend and not (s.head == "glu" and self.net.auxiliary):
            raise UserError("--blend wants a second classifier: --head glu, with auxiliary above 0")
        if isinstance(s.order, data.ClassPaired):
            counts = np.bincount(self.records.labels, minlength=len(self.class_names))
            if (counts == 1).any():
                alone = self.class_names[int((counts == 1).argmax())]
                raise UserError(
                    f"{s.train}: has one picture of {alone}, and {s.sampler} shows two different ones of each class; "
                    "add pictures, or choose another --sampler"
                )
        if s.batch_size < self.devices.replicas:
            raise UserError(
                f"--batch-size {s.batch_size}: is fewer pictures than there are devices, {self.devices.replicas}"
            )
        if self.devices.replicas > 1 and s.xla:
            raise UserError(
                "--xla: within what it compiles several devices cannot meet; train on one, or start without"
            )
        if self.devices.workers > 1 and s.bottleneck:
            raise UserError("--bottleneck keeps its maps in one folder: one worker does that, on any devices")
        if self.devices.workers > 1 and s.on_error == "skip":
            raise UserError(
                "--on-error skip: several workers must agree on every batch; find the pictures that cannot be read "
                f"with `barenets data check {s.train}`, and take them out"
            )
        pictures = len(s.order.order(self.records.labels, 0))
        steps = math.ceil(pictures / s.batch_size)
        rates, decay = multipliers(trained, s.rates), rate_decay(trained, s.rate_decay)
        return _Plan(
            trained=trained,
            multipliers={name: rates[name] * decay[name] for name in trained},
            class_weights=_class_weights(self.records, s.class_weights),
            pictures_per_epoch=pictures,
            steps_per_epoch=steps,
            schedule=schedule(
                s.schedule, s.learning_rate, steps * s.epochs, every=s.decay_every * steps, warm=s.warm_up
            ),
        )

    def _enter(self) -> None:
        """Makes what the present stage trains with."""
        s = self.now = self.settings.stage(self.stage)
        plan = self.plan = self._plan(s)
        freeze_norms(self.net, plan.trained)
        self.batches, self.validation = self._batches()
        net = self.net
        if s.bottleneck:
            net = Headed(Maps(self.batches.features.shape), self.net.head)
        judged = InPrecision(net, s.precision)
        self.evaluator = (
            BlendEvaluator(judged, next(iter(net.auxiliary)), xla=s.xla) if s.blend else Evaluator(judged, xla=s.xla)
        )
        options = {"momentum": s.momentum, "nesterov": s.nesterov} if s.optimizer == "sgd" else {}
        with self.devices.scope():
            self.optimizer = OPTIMIZERS[s.optimizer](
                plan.trained, weight_decay=s.weight_decay, multipliers=plan.multipliers, **options
            )
            if s.average:
                self.optimizer = Averaged(self.optimizer, s.average)
        self.trainer = Trainer(
            net,
            plan.trained,
            self.optimizer,
            seed=s.seed,
            clip_norm=s.clip_norm,
            label_smoothing=s.label_smoothing,
            class_weights=plan.class_weights,
            accumulate=s.accumulate,
            exact=s.exact_histograms,
            eager=s.eager,
            precision=s.precision,
            xla=s.xla,
            devices=self.devices,
        )

    def _batches(self) -> tuple[Any, Any]:
        """Those to train on, and to validate on: of pictures, or of the maps that the frozen base gives for them."""
        s, sampler = self.now, self.now.order
        plain = partial(data.Batches, preprocessing=self.preprocessing, on_error=s.on_error)
        if not s.bottleneck:
            plain = partial(plain, batch_size=s.batch_size)
            policy, part = augment.parse(s.augment), self.devices.part
            batches = plain(self.records, seed=s.seed, sampler=sampler, policy=policy, part=part)
            # A blend is sought on all pictures at once, by every worker.
            return batches, self.held_out and plain(self.held_out, part=(0, 1, 1) if s.blend else part)

        # A later stage may find another base.
        parent = os.path.join(s.features or os.path.join(s.logdir, "features"), f"stage-{self.stage + 1}")

        def kept(records: data.Records, name: str, sampler: data.Sampler) -> features.FeatureBatches:
            folder = os.path.join(parent, name)
            self._progress.say(f"features of {len(records):,} pictures: {folder}")
            with self._progress.pictures(f"features of {name}", len(records)) as advance:
                found = features.compute(self.net.base, plain(records, batch_size=32), folder, advance)
            return features.FeatureBatches(found, records, s.batch_size, sampler)

        return kept(self.records, "train", sampler), self.held_out and kept(self.held_out, "val", data.InOrder())

    @property
    def over(self) -> bool:
        """Whether the present stage has come to its end."""
        done = self.epoch - self.begun["epoch"]
        stale = self.epoch - int(self.best_of_stage["epoch"]) if self.best_of_stage else 0
        return self.position == 0 and (done >= self.now.epochs or 0 < self.now.patience <= stale)

    def new_report(self) -> Report:
        """That of the present stage, which has seen nothing yet."""
        s = self.settings
        stage = f", stage {self.stage + 1} of {s.num_stages}" if s.stages else ""
        return Report(f"{s.net} {s.variant}{f', {s.head} head' if s.head else ''}{stage}", self.trainer.trained)

    @property
    def sizes(self) -> dict[str, int]:
        """Trained variable -> number of values, in the network's order."""
        return {name: int(np.prod(variable.shape)) for name, variable in self.trainer.trained.items()}

    def save(self) -> None:
        """Writes a checkpoint of this very state to `path` and drops those that are no longer kept; the chief does.

        Raises DivergedError, and writes nothing, if a variable is not finite, which ReLUs and poolings can hide.
        """
        if found := bad_variables(self.net):
            raise DivergedError(
                f"step {self.step}: not a finite number, first in the variable {found[0]}; the checkpoints before are "
                f"without it: --resume --logdir {self.settings.logdir}"
            )
        folder = os.path.join(self.settings.logdir, checkpoints.FOLDER)
        if not self.devices.chief:
            self.path = checkpoints.path(folder, self.step)
            return
        state = {
            "net": self.settings.net,
            "variant": self.settings.variant,
            "step": self.step,
            "epoch": self.epoch,
            "position": self.position,
            "stage": self.stage,
            "begun": self.begun,
            "stages": self.stages,
            "best": self.best,
            "best_of_stage": self.best_of_stage,
            # Chosen at the end of an epoch, for the variables of that moment.
            "blend": asdict(self.blend) if self.blend and self.position == 0 else None,
            "pictures": self.records.fingerprint,
            "validation": self.held_out and self.held_out.fingerprint,
            "loss_scale": self.trainer.loss_scale and self.trainer.loss_scale.to_json(),
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.to_json(),
            "settings": self.settings.to_json(),
        }
        self.path = checkpoints.save(folder, self.step, self.net, self.optimizer, state)
        checkpoints.prune(folder, self.step, self.settings.keep, int(self.best["step"]) if self.best else None)

    def rest(self) -> Iterator[data.Batch]:
        """The batches of this epoch that are still to come."""
        with self.kept():
            yield from self.batches.epoch(self.epoch, self.position)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A picture that cannot be read when the block wants it costs no step."""
        try:
            yield
        except UserError as error:
            if self.step == 0 or not self.devices.chief:
                raise
            self.save()
            go_on = f"put back what is missing and go on with --resume --logdir {self.settings.logdir}"
            raise UserError(f"{error}; step {self.step} is saved: {go_on}") from None

    def note(self, validation: Evaluation) -> None:
        """Keeps what is best: the highest accuracy, and among equal ones the lowest loss."""
        now = {"step": self.step, "epoch": self.epoch, "top1": validation.top1, "loss": validation.loss}

        def better(best: Mapping[str, float] | None) -> bool:
            return best is None or (now["top1"], -now["loss"]) > (best["top1"], -best.get("loss", math.inf))

        if better(self.best):
            self.best = now
        if better(self.best_of_stage):
            self.best_of_stage = now

    def advance(self) -> None:
        """From the end of a stage to the beginning of the next."""
        if isinstance(self.optimizer, Averaged):
            self.optimizer.settle()
        self.devices.any(False)  # the others come here when the chief has written its checkpoint
        if self.now.keep_best and self.best and self.best["step"] != self.step:
            weights.load(self.net, checkpoints.best(self.settings.logdir).judged)
        self.stage, self.begun, self.best_of_stage = self.stage + 1, {"step": self.step, "epoch": self.epoch}, None
        self._enter()

    def describe(self) -> str:
        """What the run starts with, for a person to check."""
        s = self.settings
        total = sum(math.prod(v.shape) for v in named_variables(self.net).values())
        lines = [
            f"{s.net} {s.variant}{f' with a {s.head} head' if s.head else ''}: {total:,} parameters, of which "
            + self.describe_stage(),
            f"training: {len(self.records)} pictures of {len(self.class_names)} classes from {s.train} "
            f"({', '.join(self.class_names[:8])}{', …' if len(self.class_names) > 8 else ''})",
        ]
        if self.load_report:
            skipped = f"; {', '.join(s.reinit)} start afresh" if self.load_report.skipped else ""
            lines.insert(1, f"weights: {len(self.load_report.loaded)} variables from {s.weights}{skipped}")
        if empty := self.records.empty_classes:
            lines.append(f"warning: no training pictures of {', '.join(empty)}")
        return "\n".join(lines)

    def describe_stage(self) -> str:
        """How many numbers train, and in which layers, for people to read."""
        layers = list(dict.fromkeys(name.rpartition("/")[0] for name in self.trainer.trained))
        named = ", ".join(layers if len(layers) < 12 else [*layers[:5], "…", *layers[-5:]])
        return f"{sum(self.sizes.values()):,} train ({named})"


def _class_weights(records: data.Records, weights: str | Mapping[str, float] | None) -> list[float] | None:
    """The weight of each class; of "balanced" ones, pictures / (classes · pictures of the class)."""
    if weights is None:
        return None
    if isinstance(weights, str):
        if empty := records.empty_classes:
            raise UserError(
                f"{records.source}: has no pictures of {empty[0]}, so class weights cannot be balanced; add some"
            )
        counts = np.bincount(records.labels, minlength=records.num_classes)
        return [float(x) for x in len(records) / (records.num_classes * counts)]
    if unknown := [name for name in weights if name not in records.class_names]:
        raise UserError(
            f"--class-weights: there is no class {unknown[0]!r}; there are {', '.join(records.class_names)}"
        )
    if negative := [name for name, weight in weights.items() if not weight >= 0]:
        raise UserError(f"--class-weights: that of {negative[0]} must be 0 or more, got {weights[negative[0]]}")
    return [weights.get(name, 1.0) for name in records.class_names]


def start(settings: Settings, progress: Progress | None = None, devices: Devices | None = None) -> Run:
    """A new run. Raises UserError if its log folder holds another run's checkpoints already."""
    if _is_begun(settings.logdir):
        raise UserError(
            f"{settings.logdir}: holds the checkpoints of another run; choose another --logdir, or go on with that "
            f"run: --resume --logdir {settings.logdir}"
        )
    return Run(_absolute(settings), progress=progress, devices=devices)


def resume(logdir: str, progress: Progress | None = None, devices: Devices | None = None) -> Run:
    """The run in `logdir` as its newest readable checkpoint has it. Raises UserError if there is none."""
    checkpoint = checkpoints.latest(logdir)
    settings = Settings.from_json({**checkpoint.state["settings"], "logdir": logdir})
    return Run(settings, checkpoint, progress, devices)


def start_or_resume(settings: Settings, progress: Progress | None = None) -> Run:
    """The run in the log folder, if one has been begun there with these very settings; else a new one.

    Raises UserError, naming what differs, for one that was begun with others.
    """
    if not _is_begun(settings.logdir):
        return start(settings, progress)
    checkpoint = checkpoints.latest(settings.logdir)
    began = Settings.from_json(checkpoint.state["settings"])
    ours, theirs = (json.loads(json.dumps(some.to_json())) for some in (_absolute(settings), began))
    for key in ours:  # whether the pictures are the same is not told by where they lie
        if key not in ("train", "val", "weights", "features", "logdir") and ours[key] != theirs[key]:
            raise UserError(
                f"{settings.logdir}: holds a run that was begun with {key} {theirs[key]!r}, not {ours[key]!r}; "
                "choose another --logdir, or leave the settings as they were"
            )
    return Run(_absolute(settings), checkpoint, progress)


def _is_begun(logdir: str) -> bool:
    return bool(checkpoints.steps(os.path.join(logdir, checkpoints.FOLDER)))


def _absolute(settings: Settings) -> Settings:
    """A run may be taken up from another working directory."""
    places = {name: getattr(settings, name) for name in ("train", "val", "weights")}
    places = {name: value and data.absolute(value) for name, value in places.items()}
    if settings.features and "://" not in settings.features:
        places["features"] = os.path.abspath(settings.features)
    return replace(settings, **places)


def train(run: Run, progress: Progress) -> Result:
    """Trains `run` to the end of its last epoch, or until it is interrupted, and returns what came of it.

    An interrupt (Ctrl-C, SIGTERM) lets the step end and writes a checkpoint. Raises DivergedError, naming
    the layer, at the first loss or gradient that is not finite, with nothing of that step applied; UserError if
    another process trains in the log folder. Of several workers, each calls this; it raises UserError in the others
    when one is gone.
    """
    with locked(run.settings.logdir) if run.devices.chief else nullcontext(), run.devices.together():
        return _train(run, progress)


def _train(run: Run, progress: Progress) -> Result:
    s, devices = run.settings, run.devices
    started = time.monotonic()
    report, written = run.new_report(), time.monotonic()
    before = after = None
    writer = SummaryWriter(s.logdir, run.step) if devices.chief else NoSummaries()
    try:
        if run.step == 0:
            _write_graph(writer, run)
            if run.validation:
                before = _validate(run, writer, progress)
                assert before
                progress.say(f"validation before training: {before.top1:.2%} of {before.count}")
        stop = False
        with _interruptible() as interrupted:
            while not stop:
                if run.over:
                    if run.stage + 1 == s.num_stages:
                        break
                    run.advance()
                    report = run.new_report()
                    progress.say(f"stage {run.stage + 1} of {s.num_stages}: {run.describe_stage()}")
                now, begun = run.now, run.begun
                epoch = run.epoch - begun["epoch"]
                bar = progress.epoch(epoch, now.epochs, run.plan.pictures_per_epoch, run.position)
                for batch in run.rest():
                    rate = run.plan.schedule(run.step - begun["step"])
                    inside = s.report_every > 0 and run.step % s.report_every == 0
                    watch = inside or (s.summary_every > 0 and run.step % s.summary_every == 0)
                    result = run.trainer.step(batch.images, batch.labels, run.step, rate, watch=watch, inside=inside)
                    accepted = run.trainer.accepts(result)
                    if watch and devices.chief and (result.finite or not accepted):
                        note(writer, report, run.step, result, rate)
                    if not accepted:
                        where = first_nonfinite(run.trainer, batch.images, batch.labels, run.step)
                        raise DivergedError(
                            f"step {run.step}: not a finite number, first in {where}; nothing of this step was "
                            "applied. A lower --learning-rate or --clip-norm 1 may help"
                            + (", and so may --precision bfloat16" if s.precision == "float16" else "")
                        )
                    if not result.finite:
                        progress.say(f"step {run.step}: gradients overflow float16; left out, the loss scale is halved")
                    bar.advance(int(result.count), float(result.loss), int(result.correct))
                    if run.step == 0 and not now.bottleneck:
                        writer.pictures("pictures", run.preprocessing.pictures(batch.images[:8]).numpy(), 0)
                    run.step, run.position = run.step + 1, batch.position
                    stop = devices.any(bool(interrupted))
                    if stop or (s.checkpoint_every and run.step % s.checkpoint_every == 0):
                        run.save()
                    if stop:
                        break
                if stop:
                    break
                if bar.pictures == 0 and run.position == 0:
                    raise UserError(f"{s.train}: none of its pictures can be read; see `barenets data check {s.train}`")
                if run.validation:
                    # Of several workers none can leave the others.
                    after = _validate(run, writer, progress, interrupted if devices.workers == 1 else ())
                    if after is None:
                        run.save()
                        break
                run.epoch, run.position = run.epoch + 1, 0
                if after:
                    run.note(after)
                bar.close(after.top1 if after else None)
                if run.over:
                    run.stages.append({**(run.best_of_stage or {}), "step": run.step, "epoch": run.epoch})
                run.save()
                stop = devices.any(bool(interrupted))
                if report.steps and devices.chief and time.monotonic() > written + _REPORT_EVERY:
                    report.write(s.logdir)
                    written = time.monotonic()
        written_files = tuple(report.write(s.logdir)) if report.steps and devices.chief else ()
    except DivergedError:
        if report.steps and devices.chief:
            report.write(s.logdir)
        raise
    finally:
        writer.close()
    for skipped, reason in {
        **run.batches.skipped,
        **(run.validation.skipped if run.validation else {}),
    }.items():
        progress.say(printable(f"not read: {skipped} ({reason})"))
    return Result(
        settings=s,
        step=run.step,
        checkpoint=run.path,
        before=before,
        after=after,
        best=run.best,
        stages=tuple(run.stages),
        report=report,
        report_files=written_files,
        interrupted=not (run.over and run.stage + 1 == s.num_stages),
        seconds=time.monotonic() - started,
    )


class _InterruptedError(Exception):
    pass


def _validate(
    run: Run, writer: SummaryWriter, progress: Progress, interrupted: Sequence[int] = ()
) -> Evaluation | None:
    """How the network does on the validation pictures; None if it was interrupted before it knew."""
    assert run.validation

    def advance(pictures: int) -> None:
        shown(pictures)
        if interrupted:
            raise _InterruptedError

    averages = run.optimizer.in_place() if isinstance(run.optimizer, Averaged) else nullcontext()
    pictures = len(run.validation.records) // run.devices.workers
    with run.kept(), averages, progress.pictures("validation", pictures) as shown:
        try:
            result = run.evaluator.evaluate(run.validation, advance)
        except _InterruptedError:
            return None
    if isinstance(result, tuple):
        result, run.blend = result
    else:
        result = _merged(result, run.devices)
    scalars = {"validation/top1": result.top1, "validation/top5": result.top5, "validation/loss": result.loss}
    if run.blend:
        scalars["validation/blend"] = run.blend.weight
    writer.write(scalars, {}, run.step)
    return result


def _merged(own: Evaluation, devices: Devices) -> Evaluation:
    """The result on all workers' pictures."""
    if devices.workers == 1:
        return own
    sums = devices.total(np.array([own.loss * own.count, own.top5_correct, *own.confusion.ravel()]))
    confusion = sums[2:].reshape(own.confusion.shape).astype(np.int64)
    return replace(own, loss=float(sums[0]) / max(confusion.sum(), 1), top5_correct=int(sums[1]), confusion=confusion)


def _write_graph(writer: SummaryWriter, run: Run) -> None:
    spec = tf.TensorSpec([None, *run.net.input_shape], tf.float32, name="pictures")
    writer.graph(tf.function(run.net, autograph=False).get_concrete_function(spec).graph)


def note(writer: SummaryWriter, report: Report, step: int, result: StepResult, rate: float) -> None:
    """Hands a watched step to the report and to TensorBoard's files."""
    scalars = {
        "loss": float(result.loss),
        "accuracy": int(result.correct) / int(result.count),
        "learning_rate": rate,
        "gradient_norm": float(result.gradient_norm),
    }
    writer.write(*report.note(step, result.seen, result.inside, scalars), step)


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

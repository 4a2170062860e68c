"""All that a run depends on: what trains, on which pictures, in which stages, and how."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from barenets import UserError, nets
from barenets.ops import PRECISIONS, Preprocessing
from barenets.train import data
from barenets.train.data import augment
from barenets.train.optimizers import OPTIMIZERS

LARGEST = 3500
"""Of the sides, in pixels, that a network's pictures may have: a number in a file must not fill the memory."""


@dataclass(frozen=True)
class Settings:
    """All that a run depends on; each checkpoint keeps it, so that its folder is enough to take a run up."""

    train: str
    """Label list or folder of class folders."""
    val: str | None = None
    net: str = "alexnet"
    variant: str = ""
    """Empty: the network's first."""
    head: str | None = None
    """A new classifier on the network's last map, in place of its own: a name in `nets.HEADS`. Variables are then
    called base/... and head/..., and `weights` are for the base; a classifier that they have is passed over."""
    head_options: Mapping[str, bool | int | float] = field(default_factory=dict)
    size: int | None = None
    """Side of the pictures in pixels, where the network takes others than its usual."""
    weights: str | None = None
    """Weight file, name in the catalog, or another run's log folder; None starts from scratch."""
    preprocessing: Preprocessing | None = None
    """None: what the weights are known to want."""
    reinit: tuple[str, ...] = ()
    """Patterns of what starts afresh instead of being loaded."""
    class_names: tuple[str, ...] | None = None
    dropout: float | None = None
    """None: the network's own."""
    blend: bool = False
    """Classify by both classifiers of a "glu" head, in the proportion that is best on the validation pictures."""
    seed: int = 0
    on_error: str = "stop"
    summary_every: int = 1
    """Steps; 0 for no summaries of layers."""
    report_every: int = 0
    """Steps between looks inside every layer: activations, the gradients that come back, dead channels; 0 for none."""
    exact_histograms: bool = False
    """Count large tensors and whole batches, not a sample."""
    eager: bool = False
    """Run every step line by line, in Python, for a debugger; far slower."""
    precision: str = "float32"
    """What layers compute in: float32, bfloat16 or float16. Variables, their gradients and losses are float32."""
    xla: bool = False
    """Compile the network, forwards and backwards."""
    checkpoint_every: int = 0
    """Steps, besides the end of each epoch; 0 for none."""
    keep: int = 2
    logdir: str = "runs/finetune"

    # How it trains: each of `stages` may have its own.
    layers: tuple[str, ...] = ()
    """Patterns of what trains; none: everything."""
    epochs: int = 10
    batch_size: int = 64
    accumulate: int = 1
    """Into how many pieces a batch is cut, whose gradients are added up: the same step in less memory."""
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
    rate_decay: float = 1.0
    """How much slower each layer trains than the one above it, as a factor; see `select.rate_decay`."""
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    class_weights: str | Mapping[str, float] | None = None
    """Class -> how much its pictures count, 1 for those not named; "balanced": all classes count the same in all."""
    average: float = 0.0
    """How slowly averages of what trains follow it, 0.999 for example; these are then validated and kept. 0: none."""
    patience: int = 0
    """Epochs without a better validation after which the stage ends early; 0: never."""
    keep_best: bool = False
    """Whether the next stage goes on from what validated best so far, and not from where this one ends. (What is used
    after training is always the best.)"""
    augment: str = "standard"
    """A policy, by name or as a list of steps; see `barenets.train.data.augment`."""
    sampler: str = "shuffled"
    """In which order, and how often, pictures come: "shuffled", "weighted" or "paired:K", of K classes a step."""
    bottleneck: bool = False
    """Run the frozen base of a network with a `head` once, keep its maps on disk, and train the head on these."""
    features: str | None = None
    """Where these maps are kept, so that runs on the same pictures can share them; None: in the log folder."""

    stages: tuple[Mapping[str, Any], ...] = ()
    """What is done one after the other: of each, what differs from the settings above. None: one stage."""

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "keep": 1, "summary_every": 0, "report_every": 0}
        least["checkpoint_every"] = 0
        for name, lowest in least.items():
            self._require(name, getattr(self, name) >= lowest, f"at least {lowest}")
        for name in ("seed", "decay_every", "warm_up", "weight_decay", "patience"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("dropout", "momentum", "average"):
            self._require(name, 0 <= (getattr(self, name) or 0) < 1, "at least 0 and below 1")
        self._require("rate_decay", 0 < self.rate_decay <= 1, "above 0 and at most 1")
        self._require("label_smoothing", 0 <= self.label_smoothing <= 1, "from 0 to 1")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive")
        self._require("size", self.size is None or 0 < self.size <= LARGEST, f"from 1 to {LARGEST}")
        if self.precision not in PRECISIONS:
            raise UserError(f"there is no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if self.eager and self.xla:
            raise UserError("--eager runs a step line by line, --xla compiles it; choose one")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"there is no optimizer {self.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        if isinstance(self.class_weights, str):
            self._require("class_weights", self.class_weights == "balanced", "balanced, or CLASS=X ...")
        policy = augment.parse(self.augment)
        if isinstance(sampler := self.order, data.ClassPaired):
            step = 2 * sampler.classes
            self._require("batch_size", self.batch_size % step == 0, f"a multiple of {step} with {self.sampler}")
        if self.bottleneck:
            self._require("head", self.head is not None, "given with --bottleneck, which trains a head alone")
            if random := [str(step) for step in policy if step.draws]:
                raise UserError(
                    f"--bottleneck keeps one map of each picture, and {', '.join(random)} would need more; "
                    "choose --augment none"
                )
        if (self.patience or self.keep_best or self.blend) and not self.val:
            raise UserError("--patience, --keep-best and --blend go by validation pictures; name some with --val")
        object.__setattr__(self, "variant", self.variant or nets.variants(self.net)[0])
        for stage in range(len(self.stages)):
            self.stage(stage)

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {what}, got {getattr(self, name)}")

    @property
    def order(self) -> data.Sampler:
        """What `sampler` means."""
        kind, _, classes = self.sampler.partition(":")
        if self.sampler == "shuffled":
            return data.Shuffled(self.seed)
        if self.sampler == "weighted":
            return data.ClassWeighted(self.seed)
        if kind == "paired" and classes.isdecimal() and int(classes):
            return data.ClassPaired(self.seed, int(classes))
        raise UserError(f"--sampler must be shuffled, weighted, or paired:K for K classes a step, got {self.sampler!r}")

    @property
    def num_stages(self) -> int:
        """How many stages the run has; one if none are given."""
        return max(1, len(self.stages))

    def stage(self, index: int) -> "Settings":
        """These settings as stage `index` has them. Raises UserError for one that a stage cannot change."""
        if not self.stages:
            return self
        differing: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.stages[index].items()}
        if unknown := [key for key in differing if key not in STAGED]:
            raise UserError(f"stage {index + 1}: has no setting {unknown[0]!r}; a stage has {', '.join(STAGED)}")
        try:
            return replace(self, stages=(), **differing)
        except UserError as error:
            raise UserError(f"stage {index + 1}: {error}") from None

    def build(self, num_classes: int) -> Any:
        """The network with `num_classes` classes, its first values drawn by `seed`."""
        return nets.build(
            self.net,
            num_classes=num_classes,
            variant=self.variant,
            head=self.head,
            head_options=self.head_options,
            size=self.size,
            seed=self.seed,
            dropout_rate=self.dropout,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """What `to_json` gave, in this version or an earlier one; fields that are no more are left out."""
        known = {f.name for f in fields(cls)}
        if isinstance(values.get("augment"), bool):  # version 1: random crop and flip, or not
            values = {**values, "augment": "standard" if values["augment"] else "none"}
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
        if values.get("preprocessing"):
            values["preprocessing"] = Preprocessing(**values["preprocessing"])
        return cls(**values)


_ORDER = [f.name for f in fields(Settings)]
STAGED = tuple(_ORDER[_ORDER.index("layers") : _ORDER.index("stages")])
"""The settings that each stage may have its own of."""

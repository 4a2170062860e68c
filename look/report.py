"""What the layers did over the steps that were watched: tables of numbers, findings, and files to look at."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from barenets.look import activations
from barenets.look.gradients import layer_sizes
from barenets.look.histograms import Histogram
from barenets.ops import aligned
from barenets.weights import files

KEPT = 256
"""Watched steps whose numbers a report keeps, evenly spread; TensorBoard's files have all of them."""

WINDOW = 32
"""Watched steps over which a channel must not have been positive once to count as dead."""


@dataclass(frozen=True)
class Quantity:
    """A column of a table."""

    label: str
    text: str
    log: bool = True
    share: bool = False
    """Whether it is a share, 0 to 1."""


VARIABLES = {
    "norm": Quantity("gradient norm", "Euclidean norm of the gradient that was applied"),
    "rms": Quantity("gradient RMS", "root mean square of its values"),
    "largest": Quantity("largest", "its largest magnitude"),
    "zeros": Quantity("zeros", "share of its values that are exactly zero", log=False, share=True),
    "nonfinite": Quantity("not finite", "how many of the values that were counted are NaN or infinite", log=False),
    "update_ratio": Quantity("update/weight", "norm of the change of the variable over the norm of the variable"),
    "angle": Quantity("angle", "degrees between it and the gradient at the last watched step", log=False),
    "noise": Quantity("noise", "spread of the pictures' own gradients about their mean, over the norm of the mean"),
}
"""Of each variable's gradient."""

ACTIVATIONS = {
    "mean": Quantity("mean", "mean of the values", log=False),
    "spread": Quantity("spread", "standard deviation of the values"),
    "zeros": Quantity("zeros", "share of exact zeros", log=False, share=True),
    "dead": Quantity("dead", "share of a ReLU's channels that were not positive once", log=False, share=True),
    "saturated": Quantity(
        "saturated", "share of values where a ReLU is 0, or a sigmoid within 0.01 of its ends", log=False, share=True
    ),
    "nonfinite": Quantity("not finite", "1 if any of the values is NaN or infinite", log=False),
    "gradient_mean": Quantity("gradient mean", "mean of the gradient of a picture's loss", log=False),
    "gradient_spread": Quantity("gradient spread", "standard deviation of the gradient of a picture's loss"),
    "gradient_norm": Quantity("gradient norm", "norm of the gradient of a picture's loss, as root mean square"),
    "gradient_zeros": Quantity("gradient zeros", "share of exact zeros in that gradient", log=False, share=True),
    "norm_gap": Quantity("norm gap", "nats between the batch's statistics and a batch norm's moving averages"),
}
"""Of each activation, and of the gradient that comes back to it."""


@dataclass(eq=False)
class Table:
    """Numbers by step, quantity and name."""

    quantities: Mapping[str, Quantity]
    names: tuple[str, ...] = ()
    """In the network's order."""
    values: dict[int, np.ndarray] = field(default_factory=dict)
    """Step -> float64 [quantities, names]; NaN is what was not measured."""

    def note(self, step: int, rows: Mapping[str, Mapping[str, float]]) -> None:
        """`rows` are name -> quantity -> number."""
        self.names = tuple(rows)
        self.values[step] = np.array([[row.get(q, np.nan) for row in rows.values()] for q in self.quantities])

    def row(self, step: int) -> dict[str, dict[str, float]]:
        """Name -> quantity -> number, of what was measured at `step`."""
        columns = zip(self.names, self.values[step].T, strict=True)
        return {
            name: {q: float(v) for q, v in zip(self.quantities, column, strict=True) if math.isfinite(v)}
            for name, column in columns
        }

    def series(self, quantity: str, steps: Iterable[int]) -> np.ndarray:
        """float64 [steps, names]; NaN where it was not measured."""
        place, missing = list(self.quantities).index(quantity), np.full(len(self.names), np.nan)
        return np.array([self.values[step][place] if step in self.values else missing for step in steps])

    def measured(self) -> list[str]:
        """The quantities of which there is any number."""
        return [q for q in self.quantities if self.values and np.isfinite(self.series(q, self.values)).any()]

    def median(self, quantity: str, steps: Sequence[int]) -> np.ndarray:
        """float64 [names]: over those of `steps` where it was measured, over all others if at none; NaN if never."""
        for among in (steps, list(self.values)):
            found = self.series(quantity, among)
            if (measured := np.isfinite(found).any(0)).any():
                result = np.full(len(self.names), np.nan)
                result[measured] = np.nanmedian(np.where(np.isfinite(found), found, np.nan)[:, measured], axis=0)
                return result
        return np.full(len(self.names), np.nan)

    def to_json(self, steps: Sequence[int]) -> dict[str, Any]:
        """What report.json holds of it; None is what was not measured, or is not finite."""
        measured = self.measured()
        return {
            "names": list(self.names),
            "quantities": {q: asdict(self.quantities[q]) for q in measured},
            "values": {q: [[_number(v) for v in row] for row in self.series(q, steps)] for q in measured},
        }


def _number(value: float) -> float | None:
    """What JSON can hold, in five digits."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _columns(
    what: str, table: Table, shown: Sequence[str], steps: Sequence[int], more: Mapping[str, np.ndarray]
) -> str:
    """A line for each name, of medians over `steps`, but for what was never measured and for counts that are 0."""
    columns = {key: (Quantity(key, ""), values) for key, values in more.items()}
    for q in shown:
        values = table.median(q, steps)
        if np.isfinite(values).any() and (q != "nonfinite" or values.any()):
            columns[q] = table.quantities[q], values
    head = [q.replace("update_ratio", "update/weight").replace("_", " ") for q in columns]
    cells = [[_cell(quantity, v) for v in values] for quantity, values in columns.values()]
    return aligned([(what, *head), *zip(table.names, *cells, strict=True)])


def _cell(quantity: Quantity, value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.1%}" if quantity.share else f"{value:.0f}" if quantity.label == "angle" else f"{value:.2e}"


_TAGS = {q: q if q == "update_ratio" else f"gradient_{q}" for q in VARIABLES}
"""What TensorBoard calls them: gradient_rms/conv1/weights."""


class Report:
    """What is known of the layers of a network from the steps that it was told of with `note`.

    `trained` are the variables that train, by name and in the network's order.
    """

    def __init__(self, title: str, trained: Mapping[str, tf.Variable]) -> None:
        self.title = title
        self.sizes = {name: math.prod(variable.shape) for name, variable in trained.items()}
        self.variables, self.activations = Table(VARIABLES), Table(ACTIVATIONS)
        self.scalars: dict[int, dict[str, float]] = {}
        self.pictures: list[dict[str, Any]] = []
        """Of each picture `path`, `label`, `loss` and `norm` of its own gradient, where they were asked for."""
        self.changed: dict[str, float] = {}
        """Variables that do not train, and yet changed while they were watched, by how much of their norm."""
        self.positive: dict[str, np.ndarray] = {}
        """ReLU -> int [channels]: the last of the watched steps, counted from 0, at which it was positive, or -1."""
        self.seen_pictures: list[int] = []
        """At each step that was watched inside, how many pictures were looked at."""
        self.places: dict[str, int] = {}
        """ReLU -> values that one of its channels has in a picture."""
        self._directions: dict[str, np.ndarray] = {}
        self._frozen: dict[str, float] = {}
        self._numbers: dict[int, int] = {}
        self._every = 1

    @property
    def steps(self) -> list[int]:
        """The steps that are kept."""
        return sorted(self.scalars)

    @property
    def last(self) -> list[int]:
        """The last tenth of them, at least one: what training ended with, without one step's noise."""
        steps = self.steps
        return steps[-max(1, len(steps) // 10) :]

    def note(
        self, step: int, seen: Mapping[str, Any], inside: Mapping[str, Any], scalars: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, Histogram]]:
        """Takes in a watched step: `seen` and `inside` of the trainer's result, and further numbers by name.

        Returns what TensorBoard is to show of it: scalars and histograms by tag.
        """
        rows, histograms = layer_sizes(seen, self.sizes)
        for row in rows.values():
            row["nonfinite"] = row.pop("nans", 0) + row.pop("infinities", 0)
        found: dict[str, dict[str, float]] = {}
        if inside:
            self._note_variables(inside, rows)
            found = self._note_activations(inside)
        self.scalars[step] = dict(scalars)
        self.variables.note(step, rows)
        if found:
            self.activations.note(step, found)
        tags = {f"training/{key}": value for key, value in scalars.items()}
        for name, row in rows.items():
            # A curve of zeros for each variable would only hide the others.
            tags |= {f"{_TAGS[q]}/{name}": value for q, value in row.items() if value or q != "nonfinite"}
        for name, row in found.items():
            shown = {q: v for q, v in row.items() if math.isfinite(v) and (v or q != "nonfinite")}
            tags |= {f"activation_{q}/{name}": value for q, value in shown.items()}
        self._thin()
        return tags, histograms

    def _note_variables(self, inside: Mapping[str, Any], rows: dict[str, dict[str, float]]) -> None:
        directions = {name: np.asarray(x, np.float64) for name, x in inside["directions"].items()}
        for name, new in directions.items():
            old = self._directions.get(name)
            product = np.linalg.norm(new) * np.linalg.norm(old) if old is not None else 0.0
            if old is not None and product > 0:
                rows[name]["angle"] = math.degrees(math.acos(np.clip(new @ old / product, -1, 1)))
        self._directions = directions
        for name, squares in inside["picture_squares"].items():
            square = float(inside["squares"][name])
            if square > 0:  # E |g_n − g|² = E |g_n|² − |g|²
                rows[name]["noise"] = math.sqrt(max(float(np.mean(squares)) - square, 0) / square)
        for name, value in inside["frozen"].items():
            first, now = self._frozen.setdefault(name, math.sqrt(value)), math.sqrt(value)
            if abs(now - first) > 1e-6 * first:  # what another order of adding may make of it
                self.changed[name] = abs(now - first) / (first or now)

    def _note_activations(self, inside: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        now = len(self.seen_pictures)
        self.seen_pictures.append(int(inside["pictures"]))
        found = {}
        for name, part in inside["activations"].items():
            found[name] = activations.row(part)
            if "positive" in part:
                self.places[name] = int(part["places"])
                last = self.positive.setdefault(name, np.full(len(part["positive"]), -1))
                last[np.asarray(part["positive"])] = now
                found[name]["dead"] = float(np.mean(self.dead(name)))
        return found

    def looked_at(self, name: str) -> int:
        """How many values of each channel of a ReLU `dead` goes by."""
        return sum(self.seen_pictures[-WINDOW:]) * self.places[name]

    def dead(self, name: str) -> np.ndarray:
        """bool [channels] of a ReLU: which were not positive once over the last WINDOW steps watched inside."""
        return np.asarray(self.positive[name] < max(0, len(self.seen_pictures) - WINDOW))

    def _thin(self) -> None:
        """Keeps each step, then each second, each fourth, ...; and always the last."""
        self._numbers[self.steps[-1]] = len(self._numbers)
        if len(self.scalars) > KEPT:
            self._every *= 2
        for step in self.steps[:-1]:
            if self._numbers[step] % self._every:
                for kept in (self.scalars, self.variables.values, self.activations.values):
                    kept.pop(step, None)

    def table(self) -> str:
        """The sizes of each variable's gradient at the first step and, as medians, over the last tenth of them; then,
        if they were watched, the activations."""
        shown = ["rms", "norm", "largest", "zeros", "update_ratio", "angle", "noise", "nonfinite"]
        first = self.variables.values[self.steps[0]][list(VARIABLES).index("rms")]
        text = _columns("variable", self.variables, shown, self.last, {"first rms": first})
        if not self.activations.values:
            return text
        shown = ["mean", "spread", "zeros", "dead", "gradient_norm", "norm_gap", "nonfinite"]
        return f"{text}\n\n{_columns('activation', self.activations, shown, self.last, {})}"

    def to_json(self) -> dict[str, Any]:
        """The content of report.json: see docs/inspecting.md."""
        from barenets.look.findings import findings

        names = list(dict.fromkeys(key for row in self.scalars.values() for key in row))
        return {
            "format": "barenets report 1",
            "title": self.title,
            "steps": self.steps,
            "scalars": {key: [_number(self.scalars[s].get(key, math.nan)) for s in self.steps] for key in names},
            "tables": {
                "variables": self.variables.to_json(self.steps),
                "activations": self.activations.to_json(self.steps),
            },
            "findings": [asdict(finding) for finding in findings(self)],
            "pictures": self.pictures,
        }

    def write(self, folder: str) -> list[str]:
        """Writes report.json, report.html, gradients.png and, of several steps, gradients_by_step.png to `folder`.

        Returns their paths, each whole or not there. Raises UserError if the folder cannot be written.
        """
        from barenets.look import draw, page

        content = self.to_json()
        paths = {name: os.path.join(folder, name) for name in ("report.json", "report.html", "gradients.png")}
        with files.replacing(paths["report.json"]) as file:
            file.write(json.dumps(content).encode())
        page.write(content, paths["report.html"])
        draw.lines(self, paths["gradients.png"])
        if len(self.activations.values) > 1:
            paths["by step"] = os.path.join(folder, "gradients_by_step.png")
            draw.heat_map(self, paths["by step"])
        return list(paths.values())

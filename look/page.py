"""A report as one page to open in a browser: all that it needs is in the file, and nothing is fetched."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from barenets.weights import files

MOST_NUMBERS = 800_000
"""How many numbers a page holds, of at most 11 bytes each; of a longer run it shows fewer steps."""


def write(report: Mapping[str, Any], path: str) -> None:
    """Writes `report`, which is what `Report.to_json` gives, as an HTML page at `path`.

    The page shows the findings, the scalars over the steps, and for each table a chart and a heat map
    of layers and steps, and the numbers to sort. If there are more than MOST_NUMBERS of them, steps in
    equal distances are shown, among them the first and the last, and the page says so.

    Raises UserError if the page cannot be written; what was at `path` is then still there.
    """
    with files.replacing(path) as file:
        file.write(render(report).encode())


def render(report: Mapping[str, Any]) -> str:
    """The page's HTML. Numbers have four significant digits."""
    before, _, after = resources.files(__package__).joinpath("page.html").read_text("utf-8").partition("{{report}}")
    text = json.dumps(_short(thinned(report)), separators=(",", ":"), allow_nan=False)
    # A name may hold `</script>` or `<!--`; in JSON, < is as well written by its number.
    return before + text.replace("<", "\\u003c") + after


def thinned(report: Mapping[str, Any], most: int = MOST_NUMBERS) -> dict[str, Any]:
    """The report with as many of its steps as make `most` numbers, at least two; `all_steps` is how many it had.

    The steps lie in distances that are equal to one step; the first and the last are among them.
    """
    tables = report["tables"]
    numbers = len(report["scalars"]) + sum(len(t["names"]) * len(t["values"]) for t in tables.values())
    steps = len(report["steps"])
    count = min(steps, max(2, most // max(1, numbers)))
    kept = np.linspace(0, steps - 1, count).round().astype(int).tolist()

    def pick(series: Sequence[Any]) -> list[Any]:
        return [series[i] for i in kept]

    def picked(every: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        return {name: pick(series) for name, series in every.items()}

    return {
        **report,
        "all_steps": steps,
        "steps": pick(report["steps"]),
        "scalars": picked(report["scalars"]),
        "tables": {key: {**table, "values": picked(table["values"])} for key, table in tables.items()},
    }


def _short(value: Any) -> Any:
    """With four digits of each float, and None for what is not finite, for which JSON has no word."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value

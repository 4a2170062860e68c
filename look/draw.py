"""A report as pictures: layers across, sizes up; and layers by steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from barenets.look.report import Report, Table
from barenets.weights import files

_DPI = 110


def lines(report: Report, path: str) -> None:
    """A PNG at `path`: across, the layers in the network's order; up, on a log scale, one line for each quantity.

    The gradients and the updates of kernels and biases, at the first step and, as medians, over the last tenth of
    the steps; then, if they were watched, the activations and the gradients that come back to them.
    """
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in report.variables.names))
    inside = bool(report.activations.values)
    across = max(len(layers), len(report.activations.names) if inside else 0)
    figure, panels = _figure(min(26.0, max(6.0, 1.0 + 0.8 * min(len(layers), 12) + 0.12 * max(0, across - 12))), inside)
    for panel, quantity, label in (
        (panels[0], "rms", "gradient, root mean square"),
        (panels[1], "update_ratio", "update / weight, norms"),
    ):
        for kind, colour in (("weights", "tab:blue"), ("biases", "tab:orange")):
            _variables(panel, report, quantity, kind, colour, layers)
        _finish(panel, label, layers)
    panels[1].axhline(1e-3, color="grey", linestyle="--", linewidth=1)
    panels[1].annotate("10⁻³: a common rule of thumb", (0, 1e-3), color="grey", fontsize=8, va="bottom")
    panels[0].set_title(report.title)
    panels[0].legend(fontsize=8)
    if inside:
        panel = panels[2]
        for quantity, colour in (
            ("spread", "tab:green"),
            ("gradient_norm", "tab:red"),
            ("gradient_spread", "tab:pink"),
        ):
            values = report.activations.median(quantity, report.last)
            panel.plot(_positive(values), ".-", color=colour, label=report.activations.quantities[quantity].label)
        _finish(panel, "activations", list(report.activations.names))
        panel.legend(fontsize=8)
    _save(figure, path)


def _variables(panel: Any, report: Report, quantity: str, kind: str, colour: str, layers: Sequence[str]) -> None:
    table, steps = report.variables, report.steps
    places = [i for i, name in enumerate(table.names) if name.endswith(kind)]
    if not places:
        return
    across = [layers.index(table.names[i].rpartition("/")[0]) for i in places]
    series = table.series(quantity, steps)[:, places]
    panel.plot(across, _positive(series[0]), "o:", color=colour, alpha=0.6, markersize=4, label=f"{kind}, first step")
    if len(steps) == 1:
        return
    now = table.median(quantity, report.last)[places]
    panel.plot(across, _positive(now), "o-", color=colour, markersize=4, label=f"{kind}, at the end")
    low, high = np.transpose([_percentiles(column, [10, 90]) for column in series.T])
    band = f"{kind}, 10–90 % of steps"
    panel.fill_between(across, _positive(low), _positive(high), color=colour, alpha=0.15, label=band)


def heat_map(report: Report, path: str) -> None:
    """A PNG at `path`: layers up, steps across; colour is the gradient's root mean square, on a log scale.

    Beside it, if they were watched, the norm of the gradient that comes back to each activation.
    """
    shown: Mapping[str, tuple[Table, str, Sequence[int]]] = {
        "gradient RMS": (report.variables, "rms", report.steps),
        "gradient norm at the activations": (report.activations, "gradient_norm", sorted(report.activations.values)),
    }
    shown = {title: part for title, part in shown.items() if part[0].values}
    tallest = max(len(table.names) for table, _, _ in shown.values())
    figure, panels = _figure(8.0 * len(shown), False, height=min(26.0, max(4.0, 1.5 + 0.16 * tallest)), side=len(shown))
    for panel, (title, (table, quantity, steps)) in zip(panels, shown.items(), strict=True):
        values = _positive(table.series(quantity, steps).T)
        import matplotlib.colors

        finite = np.isfinite(values).any()
        norm = matplotlib.colors.LogNorm(*_percentiles(values, [1, 99])) if finite else None
        drawn = panel.imshow(values, aspect="auto", norm=norm, interpolation="nearest", cmap="viridis")
        panel.set_facecolor("lightgrey")
        every = max(1, len(table.names) // 60)
        panel.set_yticks(range(0, len(table.names), every), table.names[::every], fontsize=7)
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 9)).astype(int))
        panel.set_xticks(ticks, [f"{steps[i]:,}" for i in ticks])
        panel.set_xlabel("step")
        panel.set_title(title, fontsize=10)
        if finite:
            figure.colorbar(drawn, ax=panel)
    figure.suptitle(report.title)
    _save(figure, path)


def _figure(width: float, inside: bool, height: float | None = None, side: int = 0) -> tuple[Any, Any]:
    import matplotlib.figure  # a second of start-up that most commands need not pay

    height = height or (13.0 if inside else 8.0)
    figure = matplotlib.figure.Figure(figsize=(width, height))
    panels = figure.subplots(1, side, squeeze=False)[0] if side else figure.subplots(3 if inside else 2, 1)
    # In inches; a layout that is worked out takes seconds where there are hundreds of names.
    left, below, above = (1.8, 0.6, 0.7) if side else (0.9, 1.6, 0.4)
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.3 / width,
        bottom=below / height,
        top=1 - above / height,
        hspace=0.5 if inside else 0.3,
        wspace=0.4,
    )
    return figure, panels


def _finish(panel: Any, label: str, names: Sequence[str]) -> None:
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in panel.get_lines()):
        panel.set_yscale("log", nonpositive="mask")
    every = max(1, len(names) // 60)
    steep = len(names) > 8
    panel.set_xticks(
        range(0, len(names), every), names[::every], rotation=90 if len(names) > 20 else 45 if steep else 0, fontsize=8
    )
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)


def _positive(values: np.ndarray) -> np.ndarray:
    """What a log scale can show; gaps elsewhere."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _percentiles(values: np.ndarray, which: Sequence[float]) -> np.ndarray:
    """Of the finite ones among `values`; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return np.percentile(finite, which) if finite.size else np.full(len(which), np.nan)


def _save(figure: Any, path: str) -> None:
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=_DPI)

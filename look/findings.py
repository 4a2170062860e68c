"""What is wrong with a network's layers, in plain words, each with its number and its threshold."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from barenets.look.report import Report

VANISHING, EXPLODING = 1e-4, 1e4
"""Norm of the gradient that comes back to a layer, over that at the last one."""
DEAD, DEAD_AFTER = 0.4, 256
"""Share of a ReLU's channels that were not positive once, and how many values of each it takes to say so."""
TOO_FAST, TOO_SLOW = 0.1, 1e-7
"""Norm of an update over that of the kernel, as the median over kernels and steps."""
STALE = 3.0
"""Nats between the batch's statistics and a batch norm's moving averages."""


@dataclass(frozen=True)
class Finding:
    """Something that deserves a look."""

    kind: str
    layers: tuple[str, ...]
    value: float
    threshold: float
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def findings(report: Report) -> list[Finding]:
    """All that is to be said of the steps that `report` was told of; nothing, if all is well."""
    checks = (_not_finite, _no_gradient, _changed, _along_the_layers, _dead, _rate, _stale)
    return [finding for check in checks for finding in check(report)] if report.steps else []


def _named(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _not_finite(report: Report) -> Iterator[Finding]:
    for what, table in (("the activation of", report.activations), ("the gradient of", report.variables)):
        if not table.values:
            continue
        counts = np.nan_to_num(table.series("nonfinite", table.values)).max(0)
        if (bad := np.flatnonzero(counts)).size:
            first = table.names[bad[0] if table is report.activations else bad[-1]]
            names = tuple(table.names[i] for i in bad)
            text = f"{what} {first} holds {counts.max():.0f} NaN or infinite values, first of {len(names)} such layers"
            yield Finding("not finite", names, float(counts.max()), 0, text)
            return


def _no_gradient(report: Report) -> Iterator[Finding]:
    largest = np.nan_to_num(report.variables.series("norm", report.steps), nan=1).max(0)
    if names := tuple(name for name, norm in zip(report.variables.names, largest, strict=True) if norm == 0):
        text = f"{_named(names)}: to be trained, and the gradient was exactly 0 at each of {len(report.steps)} steps"
        yield Finding("no gradient", names, 0.0, 0.0, text)


def _changed(report: Report) -> Iterator[Finding]:
    if report.changed:
        name = max(report.changed, key=report.changed.__getitem__)
        text = (
            f"{_named(list(report.changed))}: not among what trains, and yet changed; the norm of {name} by "
            f"{report.changed[name]:.1e} of itself"
        )
        yield Finding("frozen, but changed", tuple(report.changed), report.changed[name], 0.0, text)


def _along_the_layers(report: Report) -> Iterator[Finding]:
    """From the last layer down: where the gradient's norm has shrunk, or grown, too far, and stays so."""
    table = report.activations
    layers = {name.rpartition("/")[0] for name in report.variables.names}
    norms = table.median("gradient_norm", report.last) if table.values else np.empty(0)
    chain = [(name, n) for name, n in zip(table.names, norms, strict=True) if name in layers and np.isfinite(n)]
    if not chain or not (top := chain[-1][1]) > 0:
        return
    for kind, threshold, side, far, worst in (
        ("vanishing gradient", VANISHING, "below", operator.lt, min),
        ("exploding gradient", EXPLODING, "above", operator.gt, max),
    ):
        below = []
        for name, value in chain:  # from the first layer up, as long as it is too far off
            if not far(value / top, threshold):
                break
            below.append((name, value / top))
        if below:
            name, ratio = worst(below, key=lambda pair: pair[1])
            text = (
                f"from {below[-1][0]} down the norm of the gradient is {ratio:.1e} of that at {chain[-1][0]} "
                f"(at {name}; {side} {threshold:.0e})"
            )
            yield Finding(kind, tuple(name for name, _ in below), ratio, threshold, text)


def _dead(report: Report) -> Iterator[Finding]:
    for name in report.positive:
        dead = np.flatnonzero(report.dead(name))
        channels, values = len(report.positive[name]), report.looked_at(name)
        if values >= DEAD_AFTER and dead.size > DEAD * channels:
            text = (
                f"{dead.size} of {channels} channels of {name} were not positive at any of {values:,} places "
                f"(more than {DEAD:.0%}): {_named(list(map(str, dead)), 12)}"
            )
            yield Finding("dead channels", (name,), dead.size / channels, DEAD, text)


def _rate(report: Report) -> Iterator[Finding]:
    table = report.variables
    kernels = [i for i, name in enumerate(table.names) if name.endswith("weights")]
    ratios = table.series("update_ratio", report.steps)[:, kernels]
    if not ratios.size or not np.isfinite(ratios).any():
        return
    middle, moved = float(np.nanmedian(ratios)), bool((table.series("norm", report.steps)[:, kernels] > 0).any())
    each = table.median("update_ratio", report.steps)[kernels]
    for kind, wrong, threshold, of in (
        ("learning rate too high", middle > TOO_FAST, TOO_FAST, each > TOO_FAST),
        ("learning rate too low", moved and middle < TOO_SLOW, TOO_SLOW, each < TOO_SLOW),
    ):
        if wrong:
            names = tuple(table.names[kernels[i]] for i in np.flatnonzero(of))
            text = (
                f"a step changes a kernel by {middle:.1e} of its norm, as the median "
                f"({'more' if threshold is TOO_FAST else 'less'} than {threshold:.0e}; 1e-3 is usual)"
            )
            yield Finding(kind, names, middle, threshold, text)


def _stale(report: Report) -> Iterator[Finding]:
    table = report.activations
    gaps = table.median("norm_gap", report.last) if table.values else np.empty(0)
    if names := tuple(name for name, gap in zip(table.names, gaps, strict=True) if gap > STALE):
        worst = float(np.nanmax(gaps))
        text = (
            f"the moving averages of {_named(names)} are up to {worst:.1f} nats from the statistics of these pictures "
            f"(more than {STALE:g}): they are of other pictures, other preprocessing, or too few steps"
        )
        yield Finding("stale batch norm", names, worst, STALE, text)

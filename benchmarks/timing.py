"""What the benchmarks share: interleaved rounds, ratios with their spread, fresh processes, tables.

A ratio is taken within each round, between calls that ran one after the other, so a slow minute of the
machine hits both alike. Tables give the median of these ratios and, in brackets, the 10th to 90th percentile.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Times = dict[str, list[float]]
"""Variant -> its seconds, one for each round."""


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> Times:
    """Times `variants` in turn, A B C A B C ..., after `warm_up` rounds that are not counted.

    A variant returns when its work is done: it hands back a number or an array, not a promise of one.
    """
    times: Times = {name: [] for name in variants}
    for number in range(-warm_up, rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            seconds = time.perf_counter() - start
            if number >= 0:
                times[name].append(seconds)
    return times


def fresh(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` in a process of its own, which ends with it.

    It is forked from a server that has imported TensorFlow and done nothing with it. Raises
    BrokenProcessPool if the process is killed, as it is when memory runs out.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tensorflow"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def memory() -> dict[str, int]:
    """Bytes by the names of /proc/self/status: VmHWM (peak), VmRSS (now) and, of it, RssAnon and RssFile."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def forget_peak() -> None:
    """VmHWM starts again from VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")


def available() -> int:
    """Bytes of memory that a new process could use (MemAvailable)."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def spread(values: Iterable[float], form: str = ".2f") -> str:
    """Median (10th..90th percentile)."""
    low, median, high = np.percentile(list(values), [10, 50, 90])
    return f"{median:{form}} ({low:{form}}..{high:{form}})"


def seconds(values: Sequence[float]) -> str:
    """The median, in a unit that suits it."""
    median = float(np.median(values))
    return f"{median:.2f} s" if median >= 1 else f"{median * 1e3:.3g} ms"


def ratios(times: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Time of `name` over time of `base`, round by round."""
    return [a / b for a, b in zip(times[name], times[base], strict=True)]


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    times: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What the figures come from; goes to the JSON file only."""
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        padded = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        padded.insert(1, " | ".join("-" * w for w in widths))
        table = "\n".join(f"| {line} |" for line in padded)
        return "\n\n".join([f"### {self.title}", table, *self.notes])


def comparison(title: str, times: Times, base: str, notes: Sequence[str] = (), **more: Mapping[str, str]) -> Table:
    """A row for each variant: its seconds, and these over the seconds of `base`; `more` adds columns."""
    rows = [
        (
            name,
            seconds(values),
            "1" if name == base else spread(ratios(times, name, base)),
            *(column.get(name, "") for column in more.values()),
        )
        for name, values in times.items()
    ]
    heads = ("variant", "median", f"time / {base}", *(head.replace("_", " ") for head in more))
    return Table(title, heads, rows, times, notes)


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have; `doc` is the script's docstring."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    result.add_argument("--rounds", type=int, default=rounds, help="rounds that count (default: %(default)s)")
    result.add_argument("--json", metavar="PATH", help="also write the tables and the seconds of each round there")
    return result


def report(tables: Sequence[Table], path: str | None) -> None:
    """Prints the machine and the tables; writes them to `path` as JSON."""
    here = machine()
    print("\n".join(f"{key}: {value}" for key, value in here.items()), *tables, sep="\n\n")
    if path:
        content = {"machine": here, "tables": [asdict(table) for table in tables]}
        Path(path).write_text(json.dumps(content, indent=1))


def machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
    import tensorflow as tf  # not above: some cases measure a process without it

    information = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in information if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in information if line.startswith("flags")), [])
    vectors = [flag for flag in ("avx2", "fma", "avx512f", "amx_bf16") if flag in flags]
    memory_size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    gpus = [details["device_name"] for details in devices]
    versions = [f"Python {platform.python_version()}", *map(_version, ("tensorflow", "keras", "numpy", "torch"))]
    return {
        "CPU": f"{model}, {len(os.sched_getaffinity(0))} cores, {' '.join(vectors)}",
        "GPU": ", ".join(gpus) or "none",
        "memory": gigabytes(memory_size),
        "system": f"{platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
        "load average at the end": f"{os.getloadavg()[0]:.1f}",
    }


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"

"""Twenty thousand steps of a tiny network: whether memory, open files or traces grow.

    python -m benchmarks.soak [--quick]

A run as `barenets finetune` does it, with histograms of every gradient at each step, a look inside every layer at each
50th, a validation after each 100 and a checkpoint at each 10th. After warm-up, a tenth of the steps: resident memory as
a straight line through what is measured at the ends of epochs, open files, threads, and the traces of all functions
that there are. Exit status 1 if any of the last three grow, or memory by more than 50 MB.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from barenets import nets
from barenets.train import finetune
from barenets.train.progress import EpochProgress, Progress
from benchmarks.timing import Table, memory, parser, report
from tests.pictures import write_pictures
from tests.train.tiny import NETWORK

Function = type(tf.function(lambda: None))


class Watch(Progress):
    """Measures where an epoch begins."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self._steps = steps
        self.rows: list[tuple[int, float, int, int, int]] = []
        """Step, MB resident, open files, threads, traces."""

    def epoch(self, epoch: int, epochs: int, total: int, done: int) -> EpochProgress:
        gc.collect()
        traces = sum(x.experimental_get_tracing_count() for x in gc.get_objects() if type(x) is Function)
        # matplotlib keeps fonts open from the first drawing of a report on, which is after a minute.
        open_files = sum(not os.path.realpath(file).endswith(".ttf") for file in Path("/proc/self/fd").iterdir())
        threads = len(list(Path("/proc/self/task").iterdir()))
        self.rows.append((epoch * self._steps, memory()["VmRSS"] / 1e6, open_files, threads, traces))
        return super().epoch(epoch, epochs, total, done)


def soak(steps: int, each: int) -> np.ndarray:
    """What is measured before each epoch of `each` steps, until there were `steps`: float64 [epochs, 5]."""
    nets.NETWORKS["tiny"] = NETWORK
    with tempfile.TemporaryDirectory() as folder:
        train = write_pictures(Path(folder) / "train", each)
        val = write_pictures(Path(folder) / "val", 4, seed=1)
        settings = finetune.Settings(
            train=str(train),
            val=str(val),
            net="tiny",
            epochs=steps // each + 1,
            batch_size=2,
            optimizer="adam",
            learning_rate=1e-4,
            checkpoint_every=10,
            report_every=50,
            logdir=f"{folder}/run",
        )
        watch = Watch(each)
        finetune.train(finetune.start(settings), watch)
    return np.array(watch.rows)


def main() -> None:
    args = parser(__doc__, 1).parse_args()
    steps, each = (300, 30) if args.quick else (20_000, 100)
    rows = soak(steps, each)
    warm = rows[max(3, len(rows) // 10) :]
    slope = np.polyfit(warm[:, 0] / 1000, warm[:, 1], 1)[0]
    shown = warm[np.linspace(0, len(warm) - 1, 6).astype(int)]
    table = Table(
        f"{steps:,} steps with summaries and checkpoints",
        ("step", "resident, MB", "open files", "threads", "traces"),
        [[f"{row[0]:,.0f}", f"{row[1]:.1f}", *(f"{value:.0f}" for value in row[2:])] for row in shown],
        notes=[f"Memory grows by {slope:.3f} MB in 1,000 steps after warm-up."],
    )
    report([table], args.json)
    if (warm[-1] - warm[0] > [np.inf, 50, 0, 0, 0]).any():
        sys.exit("something grows")


if __name__ == "__main__":
    main()

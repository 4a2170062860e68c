"""What the full live report costs: every layer looked inside at each tenth step.

    python -m benchmarks.live_report [--quick] [--batch-size N]

One network, trained in every layer (SGD with momentum): the step as it is without logging, the step whose gradients
are logged as `barenets finetune` does by default, and the step that is watched inside (`--report-every`), with the
numbers taken in by a report and written to an event file, flushed within the time. The three alternate in one process.
The last column is what `--report-every 10` adds to training without any logging: a tenth of the difference between
the step that is watched inside and the plain one. Making the graph of the watched step, once a run, is left out and
told apart.
"""

import itertools
import tempfile
import time
from collections.abc import Callable

import tensorflow as tf

from barenets import nets
from barenets.look.report import Report
from barenets.train import finetune
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import trained_variables
from barenets.train.summaries import SummaryWriter
from benchmarks.timing import Table, fresh, interleaved, parser, ratios, report, seconds, spread

PLAIN, LOGGED, INSIDE = "no logging", "gradients logged", "watched inside"
EVERY = 10
RATE = 1e-9
"""Changes nothing: a loss that grew to NaN would stop the step from being applied."""


def measure(name: str, batch: int, size: int | None, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each kind of step, and of the first of each, which makes its graph."""
    net = nets.build(name, num_classes=1000, size=size, **({"auxiliary": False} if name == "googlenet" else {}))
    trained = trained_variables(net, [])
    trainer, seen = Trainer(net, trained, SGD(trained)), Report("", trained)
    images = tf.random.stateless_normal((batch, *net.input_shape), (0, 1))
    labels = tf.random.stateless_uniform((batch,), (0, 2), 0, 1000, tf.int32)
    numbers = itertools.count()

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)

        def step(**how: bool) -> None:
            number = next(numbers)
            result = trainer.step(images, labels, number, RATE, **how)
            if how:
                finetune.note(writer, seen, number, result, RATE)
                writer.flush()
            result.loss.numpy()

        calls: dict[str, Callable[[], None]] = {
            PLAIN: step,
            LOGGED: lambda: step(watch=True),
            INSIDE: lambda: step(inside=True),
        }
        first = {}
        for kind, call in calls.items():
            start = time.perf_counter()
            call()
            first[kind] = time.perf_counter() - start
        times = interleaved(calls, rounds)
        writer.close()
    return times, first


def main() -> None:
    options = parser(__doc__, rounds=8)
    options.add_argument("--batch-size", type=int, default=64)
    args = options.parse_args()
    choices = {"alexnet": (args.batch_size, None), "resnet50": (max(1, args.batch_size // 2), None)}
    if args.quick:
        choices, args.rounds = {"resnet18": (2, 32)}, 1
    tables = []
    for name, (batch, size) in choices.items():
        times, first = fresh(measure, name, batch, size, args.rounds)
        rows = []
        for kind, values in times.items():
            share = ((ratio - 1) * 100 / EVERY for ratio in ratios(times, kind, PLAIN))
            ratio = "1" if kind == PLAIN else spread(ratios(times, kind, PLAIN))
            rows.append(
                (kind, seconds(values), ratio, "" if kind == PLAIN else spread(share, ".1f"), f"{first[kind]:.0f} s")
            )
        columns = ("step", "median", f"time / {PLAIN}", f"percent, at each {EVERY}th step", "the first")
        tables.append(Table(f"{name}, batch of {batch}", columns, rows, times))
    report(tables, args.json)


if __name__ == "__main__":
    main()

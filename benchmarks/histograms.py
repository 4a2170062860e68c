"""What it costs to log gradients and variables at every step.

    python -m benchmarks.histograms [--quick] [--batch-size N]

A training step of AlexNet (SGD with momentum) without logging, against the same step with

    default              barenets as `barenets finetune` logs: exact below 2^20 values, a sample above
    exact                barenets with exact=True
    tf.summary.histogram of the same gradients and variables, one call each after the step

for all variables and for fc7 and fc8. Each variant has a fresh process in which it alternates with the step
without logging, on the same network: the time is the ratio of the two, round by round, and the peak is that
process's VmHWM. The event file is written and flushed within the step that is timed. tf.summary.histogram is
called eagerly, since inside the step's tf.function TensorFlow builds several of its one-hot matrices (240 bytes
for each value) at a time; where even one of them does not fit into memory, the row says so.

What logging costs does not depend on the batch, so a second table has it from steps on few pictures, where
it is not lost in the noise of a long step: the difference in milliseconds, and as a share of the step above.

A third table has one tensor of 37.7 million values, fc6's kernel, in a tf.function, with tf.reduce_sum as
the time that it takes to read it once. tf.summary.histogram has three rounds.
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from barenets.look.histograms import count_bits, sample
from barenets.look.report import Report
from barenets.nets import AlexNet
from barenets.ops import softmax_cross_entropy
from barenets.train import finetune
from barenets.train.loop import Trainer
from barenets.train.optimizers import SGD
from barenets.train.select import trained_variables
from barenets.train.summaries import SummaryWriter
from benchmarks.timing import (
    Table,
    Times,
    available,
    forget_peak,
    fresh,
    gigabytes,
    interleaved,
    memory,
    parser,
    ratios,
    report,
    seconds,
    spread,
)

PLAIN, DEFAULT, EXACT, SUMMARY = "no logging", "default", "exact", "tf.summary.histogram"
FLOOR, COUNT, SAMPLED = "tf.reduce_sum", "count_bits", "sampled"
FC6 = 9216 * 4096
RATE = 1e-9
"""Changes nothing: a loss that grew to NaN would stop the step from being applied."""
BYTES_PER_VALUE, BYTES_OF_A_STEP = 280, 5e9
"""What tf.summary.histogram needs, its one-hot matrix and what goes into it, and what the rest needs at most."""


class Measured(NamedTuple):
    times: Times
    peak: int


def steps(patterns: Sequence[str], variant: str, batch: int, rounds: int) -> Measured:
    """Alternates the step without logging with `variant`, in this process."""
    net = AlexNet()
    trained = trained_variables(net, patterns)
    optimizer = SGD(trained, momentum=0.9)
    trainer = Trainer(net, trained, optimizer, exact=variant == EXACT)
    seen = Report("", trained)
    images = 50.0 * tf.random.stateless_normal((batch, *net.input_shape), (0, 1))
    labels = tf.random.stateless_uniform((batch,), (0, 2), 0, 1000, tf.int32)
    numbers = itertools.count()

    def plain() -> None:
        trainer.step(images, labels, next(numbers), RATE).loss.numpy()

    def ours(writer: SummaryWriter) -> None:
        number = next(numbers)
        result = trainer.step(images, labels, number, RATE, watch=True)
        finetune.note(writer, seen, number, result, RATE)
        writer.flush()

    @tf.function
    def step_with_gradients(rng: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(trained.values()))
            loss = tf.reduce_mean(softmax_cross_entropy(labels, net(images, train=True, rng=rng)))
        gradients = tape.gradient(loss, trained)
        optimizer.apply(gradients, tf.constant(RATE))
        return gradients

    def theirs(writer: Any) -> None:
        number = next(numbers)
        with writer.as_default(step=number):
            for name, gradient in step_with_gradients(tf.constant([0, number])).items():
                tf.summary.histogram(f"gradients/{name}", gradient)
                tf.summary.histogram(f"variables/{name}", trained[name])
        writer.flush()

    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], None]] = {PLAIN: plain}
        if variant == SUMMARY:
            calls[variant] = partial(theirs, tf.summary.create_file_writer(folder))
        elif variant != PLAIN:
            calls[variant] = partial(ours, SummaryWriter(folder))
        forget_peak()  # building the network is not part of it
        return Measured(interleaved(calls, rounds), memory()["VmHWM"])


def one_tensor(variant: str, size: int, rounds: int) -> Measured:
    """Alternates reading a tensor of `size` values once with `variant`, in this process."""
    x = tf.random.stateless_normal((size,), (0, 1), stddev=1e-3)
    rng = tf.constant([0, 3])
    calls: dict[str, Callable[[], Any]] = {
        FLOOR: tf.function(lambda: tf.reduce_sum(x)),
        COUNT: tf.function(lambda: count_bits(x)),
        SAMPLED: tf.function(lambda: count_bits(tf.gather(x, sample(size, rng)))),
    }
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)

        def summary() -> None:
            with writer.as_default(step=0):
                tf.summary.histogram("x", x)
            writer.flush()

        calls[SUMMARY] = summary
        forget_peak()
        before = memory()["VmRSS"]
        times = interleaved({name: calls[name] for name in dict.fromkeys((FLOOR, variant))}, rounds)
        return Measured(times, memory()["VmHWM"] - before)


def table(
    title: str, base: str, peak: str, measure: Callable[[str], Measured], variants: Sequence[str], largest: int
) -> Table:
    """A row for `base` and each of `variants`; `largest` is the size of the largest tensor that is logged."""
    rows: list[tuple[str, ...]] = []
    times: dict[str, Sequence[float]] = {}
    for variant in (base, *variants):
        needed = largest * BYTES_PER_VALUE + BYTES_OF_A_STEP
        if variant == SUMMARY and needed > available():
            rows.append((variant, f"not run: may need {gigabytes(needed)}, {gigabytes(available())} are there", "", ""))
            continue
        try:
            measured = measure(variant)
        except BrokenProcessPool:
            rows.append((variant, "killed, for want of memory", "", ""))
            continue
        ratio = "1" if variant == base else spread(ratios(measured.times, variant, base))
        rows.append((variant, seconds(measured.times[variant]), ratio, gigabytes(measured.peak)))
        times |= {f"{variant} / {name}" if name == base else name: values for name, values in measured.times.items()}
    return Table(title, ("variant", "median", f"time / {base}", peak), rows, times)


def difference(title: str, measure: Callable[[str], Measured], variants: Sequence[str], step: float) -> Table:
    """What each of `variants` adds to a step; `step` are the seconds of the step that it is a share of."""
    rows, times = [], {}
    for variant in variants:
        measured = measure(variant)
        added = [a - b for a, b in zip(measured.times[variant], measured.times[PLAIN], strict=True)]
        share = spread((100 * value / step for value in added), ".1f")
        rows.append((variant, spread((1e3 * value for value in added), ".0f"), share))
        times |= {f"{variant} / {name}": values for name, values in measured.times.items()}
    return Table(title, ("variant", "added, ms", "percent of the step"), rows, times)


def main() -> None:
    options = parser(__doc__, rounds=10)
    options.add_argument("--batch-size", type=int, default=128)
    args = options.parse_args()
    run: Callable[..., Measured] = fresh
    choices = {"fc7 and fc8": (("fc7", "fc8"), 4096 * 4096), "all variables": ((), FC6)}
    variants, size, batch, rounds = (DEFAULT, EXACT, SUMMARY), FC6, args.batch_size, args.rounds
    if args.quick:  # in this process: the figures for memory mean nothing
        choices, run = {"fc8": (("fc8",), 4096 * 1000)}, lambda function, *arguments: function(*arguments)
        variants, size, batch, rounds = (DEFAULT,), 1 << 20, 2, 1

    def few(variant: str) -> int:
        return min(rounds, 3) if variant == SUMMARY else rounds  # a minute each

    tables = []
    for what, (patterns, largest) in choices.items():

        def step(variant: str, patterns: Sequence[str] = patterns) -> Measured:
            return run(steps, patterns, variant, batch, few(variant))

        tables.append(table(f"Training step of {what}, batch of {batch}", PLAIN, "peak", step, variants, largest))
    whole = float(np.median(tables[-1].times[f"{PLAIN} / {PLAIN}"]))

    def short_step(variant: str) -> Measured:
        return run(steps, patterns, variant, min(batch, 4), 3 * rounds)

    title = f"What logging adds to a step, {what}, against the step of {batch} pictures"
    tables.append(difference(title, short_step, variants[:-1] or variants, whole))

    def tensor(variant: str) -> Measured:
        return run(one_tensor, variant, size, few(variant))

    title = f"One tensor of {size / 1e6:.1f} million values"
    tables.append(table(title, FLOOR, "peak on top", tensor, (COUNT, SAMPLED, SUMMARY), size))
    report(tables, args.json)


if __name__ == "__main__":
    main()

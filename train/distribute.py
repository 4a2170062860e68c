"""The devices that train together, of this machine or of several: `tf.distribute`, behind one small face.

Each device, a replica, takes its part of every batch; gradients, batch norm's statistics and figures are summed over
all of them, so that together they make the step that one device would make of the whole batch.
"""

import json
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.ops import replicas

_GONE = (tf.errors.UnavailableError, tf.errors.InternalError, tf.errors.AbortedError, tf.errors.CancelledError)
"""What TensorFlow raises, one or the other, where another worker is no more."""


class Devices:
    """One device, this process's default, without a strategy; or all replicas of a `tf.distribute.Strategy`.

    A worker is a process with some of the replicas; the first is the chief, which alone writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, worker: int = 0, workers: int = 1) -> None:
        self.strategy, self.worker, self.workers = strategy, worker, workers
        self.replicas: int = strategy.num_replicas_in_sync if strategy else 1

    @property
    def chief(self) -> bool:
        """Whether this process writes checkpoints, summaries and what people read."""
        return self.worker == 0

    def describe(self) -> str:
        """What shares the work, for a person to check."""
        of = f" of {self.workers} workers, of which this is number {self.worker}" if self.workers > 1 else ""
        return f"each batch goes to {self.replicas} devices{of}"

    @property
    def own(self) -> int:
        """How many of the replicas are this process's."""
        return self.replicas // self.workers

    @property
    def part(self) -> tuple[int, int, int]:
        """Which parts of each batch this process gives to `run`, as `data.Batches` has it: all, if it is alone."""
        if self.workers == 1:
            return 0, 1, 1
        return self.worker * self.own, (self.worker + 1) * self.own, self.replicas

    def scope(self) -> Any:
        """Variables that are made in this context have a copy on each device."""
        return self.strategy.scope() if self.strategy else _nothing()

    def run(self, step: Callable[..., Any], images: tf.Tensor, labels: tf.Tensor, *others: tf.Tensor) -> Any:
        """What the first of this process's replicas returns of `step(images, labels, *others)`, each on its rows."""
        if not self.strategy:
            return step(images, labels, *others)

        def on_each(images: tf.Tensor, labels: tf.Tensor, *others: tf.Tensor) -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group - self.worker * self.own
            with tf.device("CPU"):  # so that no more than its part goes to the device
                begin, end = (replicas.boundary(tf.shape(labels)[0], i, self.own) for i in (replica, replica + 1))
                images, labels = images[begin:end], labels[begin:end]
            return step(images, labels, *others)

        results = self.strategy.run(on_each, (images, labels, *others))
        return tf.nest.map_structure(lambda x: self.strategy.experimental_local_results(x)[0], results)

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of the workers' float64 arrays."""
        if self.workers == 1:
            return values
        with self.together():
            return self._total(tf.constant(values, tf.float64)).numpy()

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of the workers."""
        return bool(self.total(np.array([flag], np.float64))[0])

    def check(self, what: str, value: Any) -> None:
        """Raises UserError, on one worker at least, unless `value`, as JSON, is the same in all of them."""
        own = float(zlib.crc32(json.dumps(value).encode()))
        if self.total(np.array([own]))[0] != self.workers * own:
            raise UserError(
                f"worker {self.worker}: {what} are not those of the others; start all with the same options"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raises UserError where TensorFlow fails within because another worker is gone."""
        try:
            yield
        except _GONE as error:
            if self.workers == 1:
                raise
            raise UserError(
                f"worker {self.worker}: another worker is gone, so this one stops; go on from the last checkpoint with "
                "--resume, on as many workers as there are"
            ) from error

    @property
    def _total(self) -> Callable[[tf.Tensor], tf.Tensor]:
        if not hasattr(self, "_summing"):
            assert self.strategy
            strategy = self.strategy

            def total(values: tf.Tensor) -> tf.Tensor:
                sums = strategy.run(lambda values: replicas.total(tf.identity(values)) / self.own, (values,))
                return strategy.experimental_local_results(sums)[0]

            self._summing = tf.function(total, [tf.TensorSpec(None, tf.float64)], autograph=False)
        return self._summing


def local(count: int | None) -> Devices:
    """`count` devices of this machine, GPUs if it has some and else parts of its processor; None: all GPUs.

    To be called before TensorFlow has been at work. Raises UserError for more GPUs than there are.
    """
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    count = max(1, len(gpus)) if count is None else count
    if count == 1:
        return Devices()
    if gpus:
        if count > len(gpus):
            raise UserError(f"--devices {count}: this machine has {len(gpus)} GPUs")
        return Devices(tf.distribute.MirroredStrategy([gpu.name for gpu in gpus[:count]]))
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:  # it has been at work: what there is must do
        if len(tf.config.list_logical_devices("CPU")) < count:
            raise ValueError(f"TensorFlow has been at work before its {count} devices were asked for") from None
    return Devices(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)]))


def of_workers(hosts: Sequence[str], worker: int, say: Callable[[str], object] = lambda text: None) -> Devices:
    """The devices of all workers, of which this process is number `worker`; returns when all of them are there.

    Until then it waits, which it lets `say` tell; Ctrl-C ends the process.

    `hosts` are their addresses, host:port, the same on each. To be called before TensorFlow has been at work. Raises
    UserError for what cannot be addresses.
    """
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"--workers: {host!r} is no address; give HOST:PORT,HOST:PORT,...")
    if len(set(hosts)) < len(hosts):
        raise UserError(
            f"--workers: {max(hosts, key=list(hosts).count)} is there twice; each worker has its own address"
        )
    if not 0 <= worker < len(hosts):
        raise UserError(f"--worker {worker}: the workers are 0 to {len(hosts) - 1}, in the order of --workers")
    cluster = {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": worker}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    return of_environment(say)


def of_environment(say: Callable[[str], object] = lambda text: None) -> Devices:
    """The devices of all workers that TF_CONFIG names; of this process alone if it names none.

    As `of_workers`. Raises UserError if TF_CONFIG is not what TensorFlow writes there.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        workers = config.get("cluster", {}).get("worker", [])
        others = set(config.get("cluster", {})) - {"worker"}
        task = config.get("task", {})
        index, is_worker = int(task.get("index", -1)), task.get("type") == "worker"
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"TF_CONFIG is not a cluster and a task as JSON: {text[:80]!r}") from None
    if others:
        raise UserError(
            f"TF_CONFIG names {', '.join(sorted(others))}; all processes must be workers, the first is chief"
        )
    if len(workers) < 2:
        return Devices()
    if not is_worker or not 0 <= index < len(workers):
        raise UserError(
            f'TF_CONFIG must say which of its {len(workers)} workers this is: "task": {{"type": "worker", "index": N}}'
        )
    say(f"worker {index} at {workers[index]}: waiting until all {len(workers)} workers are there")
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if main else None  # Python sees no signal while it waits
    try:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(), index, len(workers))
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(getattr(error, "message", error)).partition("\n")[0]
        raise UserError(f"worker {index}: cannot begin at {workers[index]} ({reason}); is its port free?") from None
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield

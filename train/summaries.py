"""Event files for TensorBoard, written by a thread of their own.

The formats are those that TensorBoard's scalar, histogram, distribution, image and graph tabs read.
`tf.summary.histogram` is not used: it builds a one-hot matrix of 30 times the tensor.
"""

import os
import queue
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from barenets import UserError
from barenets.look.histograms import Histogram

_PREFIX = "events.out.tfevents."
_NAME = re.compile(re.escape(_PREFIX) + r"(\d+\.\d+)")
_LOOK_EVERY = 5.0
"""Seconds between looks whether the file is still there."""


class SummaryWriter:
    """Writes an event file in the folder `logdir`; encoding and the disk are left to a thread.

    TensorBoard forgets what an interrupted run in the folder wrote from `step` on. If the file is deleted, a new one
    is begun, with a warning.
    If the disk fails, the next call raises UserError.
    """

    def __init__(self, logdir: str, step: int = 0) -> None:
        self._logdir = logdir
        self._failure: Exception | None = None
        try:
            self._open()
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{logdir}: cannot be written ({error}); choose another --logdir") from None
        self._queue: queue.Queue[Callable[[], Event] | None] = queue.Queue(maxsize=64)
        self._thread = threading.Thread(target=self._work, name="summaries", daemon=True)
        self._thread.start()
        # Also at step 0: TensorBoard takes a run's first START for its beginning, only the next for a restart.
        self._put(lambda: Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def _open(self) -> None:
        tf.io.gfile.makedirs(self._logdir)
        # TensorBoard reads a run's files in the order of their names, and the clock may have been put back.
        before = [float(m[1]) for name in tf.io.gfile.listdir(self._logdir) if (m := _NAME.match(name))]
        stamp = max(time.time(), *(moment + 1e-3 for moment in before), 0)
        name = f"{_PREFIX}{stamp:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = os.path.join(self._logdir, name)
        self._file = RecordWriter(tf.io.gfile.GFile(self._path, "wb"))
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self._file.flush()

    def write(self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int) -> None:
        """One point, and one histogram, for each tag."""

        def event() -> Event:
            values = [_scalar(*item) for item in scalars.items()] + [_histogram(*item) for item in histograms.items()]
            return Event(step=step, summary=Summary(value=values))

        self._put(event)

    def pictures(self, tag: str, pictures: np.ndarray, step: int) -> None:
        """uint8 RGB [N, H, W, 3], side by side."""

        def event() -> Event:
            _, height, width, _ = pictures.shape
            encoded = [tf.io.encode_png(picture).numpy() for picture in pictures]
            tensor = make_tensor_proto([str(width).encode(), str(height).encode(), *encoded], dtype="string")
            metadata = image_metadata.create_summary_metadata(display_name="", description="", converted_to_tensor=True)
            return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]))

        self._put(event)

    def graph(self, graph: tf.Graph) -> None:
        """The graph of a traced tf.function."""
        self._put(lambda: Event(graph_def=graph.as_graph_def().SerializeToString()))

    def flush(self) -> None:
        """Returns when all that was handed over is on the disk."""
        self._queue.join()
        self._check()

    def close(self) -> None:
        """Writes what is left and ends the thread. Calling it again does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._check()

    def _put(self, event: Callable[[], Event]) -> None:
        self._check()
        if not self._thread.is_alive():
            raise ValueError(f"{self._path} is closed")
        self._queue.put(event)

    def _check(self) -> None:
        if self._failure is not None:
            raise UserError(f"{self._path}: cannot be written ({self._failure}); make room, then go on with --resume")

    def _work(self) -> None:
        flushed = looked = time.monotonic()
        while (make := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    if time.monotonic() > looked + _LOOK_EVERY:
                        looked = time.monotonic()
                        if not tf.io.gfile.exists(self._path):
                            gone = self._path
                            self._open()
                            warnings.warn(f"{gone}: was deleted; {self._path} has what comes from now on", stacklevel=1)
                    event = make()
                    event.wall_time = time.time()
                    self._file.write(event.SerializeToString())
                    if self._queue.empty() or time.monotonic() > flushed + 5:
                        self._file.flush()
                        flushed = time.monotonic()
                except Exception as error:  # handed to the training thread by _check
                    self._failure = error
            self._queue.task_done()
        try:
            self._file.close()
        except Exception as error:
            self._failure = self._failure or error
        self._queue.task_done()


class NoSummaries(SummaryWriter):
    """Takes what a `SummaryWriter` takes, and writes nothing: where there are several workers, one writes."""

    def __init__(self) -> None:
        pass

    def _put(self, event: Callable[[], Event]) -> None:
        pass

    def close(self) -> None:
        """Does nothing."""


def _scalar(tag: str, value: float) -> Summary.Value:
    metadata = scalar_metadata.create_summary_metadata(display_name="", description="")
    return Summary.Value(tag=tag, tensor=make_tensor_proto(np.float32(value)), metadata=metadata)


def _histogram(tag: str, histogram: Histogram) -> Summary.Value:
    description = "all values" if histogram.exact else f"a sample of {histogram.seen:,} of {histogram.size:,} values"
    metadata = histogram_metadata.create_summary_metadata(display_name="", description=description)
    return Summary.Value(tag=tag, tensor=make_tensor_proto(histogram.rows()), metadata=metadata)

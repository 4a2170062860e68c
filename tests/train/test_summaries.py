"""What the writer writes, as TensorBoard's own plugins read it back; and a disk that fails."""

from __future__ import annotations

import math
import threading
import urllib.parse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin

from barenets import UserError
from barenets.look.histograms import Histogram, count_bits
from barenets.train import summaries
from barenets.train.summaries import SummaryWriter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # about the html5lib that TensorBoard brings along
    from tensorboard.plugins.distribution.compressor import NORMAL_HISTOGRAM_BPS
    from tensorboard.plugins.distribution.distributions_plugin import DistributionsPlugin
    from tensorboard.plugins.graph.graphs_plugin import GraphsPlugin
    from tensorboard.plugins.histogram.histograms_plugin import HistogramsPlugin
    from tensorboard.plugins.image.images_plugin import ImagesPlugin
    from tensorboard.plugins.scalar.scalars_plugin import OutputFormat, ScalarsPlugin

SHARES = np.array(NORMAL_HISTOGRAM_BPS) / 10_000


class Board:
    """TensorBoard on a log folder: what each of its tabs is given for the run that lies in it."""

    def __init__(self, logdir: Path) -> None:
        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(logdir))
        multiplexer.Reload()
        self._provider = MultiplexerDataProvider(multiplexer, str(logdir))
        self._context = base_plugin.TBContext(data_provider=self._provider, logdir=str(logdir))
        self._ctx, self._run = context.RequestContext(), "."

    def plugins(self) -> set[str]:
        return set(self._provider.list_plugins(self._ctx, experiment_id=""))

    def tags(self, plugin: str) -> dict[str, str]:
        """Tag -> description."""
        kinds = {"scalars": ScalarsPlugin, "histograms": HistogramsPlugin, "distributions": DistributionsPlugin}
        found = kinds[plugin](self._context).index_impl(self._ctx, experiment="")
        return {tag: about["description"] for tag, about in found.get(self._run, {}).items()}

    def scalars(self, tag: str) -> dict[int, float]:
        values, _ = ScalarsPlugin(self._context).scalars_impl(self._ctx, tag, self._run, "", OutputFormat.JSON)
        return {step: value for _, step, value in values}

    def histograms(self, tag: str) -> dict[int, list[list[float]]]:
        events, _ = HistogramsPlugin(self._context).histograms_impl(self._ctx, tag, self._run, "")
        return {step: rows for _, step, rows in events}

    def percentiles(self, tag: str) -> dict[int, np.ndarray]:
        """Step -> value at each of SHARES."""
        events, _ = DistributionsPlugin(self._context).distributions_impl(self._ctx, tag, self._run, "")
        assert all(tuple(point for point, _ in points) == NORMAL_HISTOGRAM_BPS for _, _, points in events)
        return {step: np.array([value for _, value in points]) for _, step, points in events}

    def picture(self, tag: str, number: int) -> dict[int, bytes]:
        plugin = ImagesPlugin(self._context)
        found = plugin._image_response_for_run(self._ctx, "", self._run, tag, number)
        keys = {entry["step"]: urllib.parse.parse_qs(entry["query"])["blob_key"][0] for entry in found}
        return {step: plugin._get_generic_data_individual_image(self._ctx, key) for step, key in keys.items()}

    def picture_tags(self) -> dict[str, Any]:
        return ImagesPlugin(self._context)._index_impl(self._ctx, "").get(self._run, {})

    def graph(self) -> str:
        return str(GraphsPlugin(self._context).graph_impl(self._ctx, self._run, None, False, "")[0])


def histogram(x: Any, size: int | None = None) -> Histogram:
    x = np.asarray(x, np.float32)
    return Histogram(count_bits(tf.constant(x)).numpy(), size or x.size)


def test_scalars_and_histograms_come_back(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {step: rng.standard_normal(500) * 10.0**-step for step in range(4)}
    writer = SummaryWriter(str(tmp_path / "new" / "folder"))
    for step, x in tensors.items():
        scalars = {"training/loss": 1 / (1 + step), "gradient_rms/conv1/weights": 1e-30 * step}
        writer.write(scalars, {"gradients/conv1/weights": histogram(x), "large": histogram(x, 12_345)}, step)
    writer.close()

    board = Board(tmp_path / "new" / "folder")
    assert board.plugins() == {"scalars", "histograms"}
    assert list(board.tags("scalars")) == ["training/loss", "gradient_rms/conv1/weights"]
    for plugin in ("histograms", "distributions"):
        about = board.tags(plugin)
        assert "all values" in about["gradients/conv1/weights"]
        assert "a sample of 500 of 12,345 values" in about["large"]
    # Scalars are float32 on the disk.
    assert board.scalars("training/loss") == pytest.approx({step: 1 / (1 + step) for step in range(4)}, rel=1e-7)
    assert board.scalars("gradient_rms/conv1/weights") == pytest.approx({s: 1e-30 * s for s in range(4)}, rel=1e-7)
    for step, x in tensors.items():
        assert board.histograms("gradients/conv1/weights")[step] == histogram(x).rows().tolist()
        assert sum(count for *_, count in board.histograms("large")[step]) == pytest.approx(12_345)


DISTRIBUTIONS = {
    "normal": lambda rng: rng.standard_normal(20_000),
    "shifted": lambda rng: 3 + 0.5 * rng.standard_normal(20_000),
    "tiny": lambda rng: 1e-12 * rng.standard_normal(20_000),
    "spread": lambda rng: np.exp(5 * rng.standard_normal(20_000)) * rng.choice([-1, 1], 20_000),
    "mostly zeros": lambda rng: rng.standard_normal(20_000) * (rng.random(20_000) < 0.1),
    "constant": lambda rng: np.ones(100),
    "all zeros": lambda rng: np.zeros(100),
    "two clusters": lambda rng: np.where(np.arange(10_000) < 4_000, -1.0, 1.0),
    "two clusters above": lambda rng: np.where(np.arange(10_000) < 4_000, 0.01, 1.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentiles_of_the_distribution_tab(tmp_path, name):
    x = DISTRIBUTIONS[name](np.random.default_rng(0)).astype(np.float32)
    writer = SummaryWriter(str(tmp_path))
    writer.write({}, {"x": histogram(x)}, 7)
    writer.close()
    ((step, found),) = Board(tmp_path).percentiles("x").items()
    assert step == 7
    assert (np.diff(found) >= 0).all()
    # A bin is at most a quarter of its edge next to zero wide, and its values may lie anywhere in it.
    expected = np.quantile(x, SHARES, method="inverted_cdf")
    np.testing.assert_allclose(found, expected, rtol=0.26, atol=1e-30)


def test_what_is_not_finite_is_not_fatal(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    writer.write({"a": math.nan, "b": math.inf}, {"none": histogram([math.nan, math.inf])}, 0)
    writer.write({"a": 1.0}, {"none": histogram([math.nan, 1.0, 1.0])}, 1)
    writer.close()
    board = Board(tmp_path)
    assert math.isnan(board.scalars("a")[0])
    assert board.scalars("a")[1] == 1.0
    assert board.scalars("b") == {0: math.inf}
    assert board.histograms("none") == {0: [], 1: [[1.0, 1.25, 2.0]]}
    assert (board.percentiles("none")[0] == 0).all()


def test_pictures_come_back_to_the_pixel(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, [3, 5, 7, 3], np.uint8)
    writer = SummaryWriter(str(tmp_path))
    writer.pictures("pictures", pictures, 4)
    writer.close()
    board = Board(tmp_path)
    assert "images" in board.plugins()
    assert list(board.picture_tags()) == ["pictures"]
    assert board.picture_tags()["pictures"]["samples"] == 3
    for i, picture in enumerate(pictures):
        ((step, encoded),) = board.picture("pictures", i).items()
        assert step == 4
        np.testing.assert_array_equal(tf.io.decode_image(encoded), picture)


def test_the_graph_comes_back(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="pictures")])
    def net(x):
        with tf.name_scope("fc1"):
            return tf.nn.relu(x)

    writer = SummaryWriter(str(tmp_path))
    writer.graph(net.get_concrete_function().graph)
    writer.close()
    board = Board(tmp_path)
    assert "graphs" in board.plugins()
    assert 'name: "fc1/Relu"' in board.graph()
    assert 'name: "pictures"' in board.graph()


def test_a_restart_forgets_what_came_later(tmp_path):
    """A run that had got to step 9 is taken up again at step 5, where another one begins."""
    for first, last, value in ((0, 9, 1.0), (5, 6, 2.0)):
        writer = SummaryWriter(str(tmp_path), first)
        for step in range(first, last + 1):
            writer.write({"loss": value}, {"x": histogram([value])}, step)
        writer.close()
    assert len(list(tmp_path.iterdir())) == 2
    board = Board(tmp_path)
    expected = {step: 1.0 if step < 5 else 2.0 for step in range(7)}
    assert board.scalars("loss") == expected
    assert {step: rows[0][0] for step, rows in board.histograms("x").items()} == expected


def test_flush_leaves_all_on_the_disk(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    for step in range(100):
        writer.write({"loss": step}, {}, step)
    writer.flush()
    assert Board(tmp_path).scalars("loss") == {step: step for step in range(100)}
    writer.close()
    writer.close()


# The thread, and the disk


class Disk:
    """Stands in for tf.io.gfile.GFile; raises on `failing` once `good` writes are done, and notes its threads."""

    def __init__(self, good: float = math.inf, failing: str = "write", error: Exception | None = None) -> None:
        self._good, self._failing, self._error = good, failing, error or OSError(28, "No space left on device")
        self.threads, self.closed = set(), False

    def __call__(self, path: str, mode: str) -> Disk:
        return self

    def _do(self, what: str) -> None:
        self.threads.add(threading.get_ident())
        if self._good <= 0 and what == self._failing:
            raise self._error
        self._good -= what == "write"

    def write(self, data: bytes) -> None:
        self._do("write")

    def flush(self) -> None:
        self._do("flush")

    def close(self) -> None:
        self.closed = True
        self._do("close")


def within(seconds: float, work: Any) -> None:
    """Runs `work` and fails instead of hanging."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if failures:
        raise failures[0]


def test_nothing_is_written_on_the_thread_that_trains(tmp_path, monkeypatch):
    disk, encoders = Disk(), set()
    monkeypatch.setattr(tf.io.gfile, "GFile", disk)
    encode = tf.io.encode_png
    monkeypatch.setattr(tf.io, "encode_png", lambda x: (encoders.add(threading.get_ident()), encode(x))[1])
    monkeypatch.setattr(
        summaries, "_histogram", lambda *x, f=summaries._histogram: (encoders.add(threading.get_ident()), f(*x))[1]
    )
    writer = SummaryWriter(str(tmp_path), 3)
    disk.threads.clear()  # that the file can be made is found out at once
    writer.write({"loss": 1.0}, {"x": histogram([1.0])}, 3)
    writer.pictures("pictures", np.zeros([1, 2, 2, 3], np.uint8), 3)
    writer.graph(tf.Graph())
    writer.flush()
    writer.close()
    assert disk.threads == encoders == {writer._thread.ident}
    assert threading.get_ident() not in disk.threads
    assert disk.closed
    assert not writer._thread.is_alive()


@pytest.mark.parametrize("failing", ["write", "flush"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "full")]
)
def test_a_disk_that_fails(tmp_path, monkeypatch, capfd, failing, error):
    monkeypatch.setattr(tf.io.gfile, "GFile", Disk(2, failing, error))
    writer = SummaryWriter(str(tmp_path))
    message = rf"^{tmp_path}/events\.out.*: cannot be written \(.*(space|full).*\); make room, then go on with --resume"

    def fill() -> None:
        for step in range(1000):
            writer.write({"loss": 1.0}, {}, step)
            if step % 100 == 99:
                writer.flush()  # the thread flushes only once it has caught up, which it need not do by itself

    with pytest.raises(UserError, match=message):
        within(20, fill)
    for call in (writer.flush, lambda: writer.graph(tf.Graph()), writer.close, writer.close):
        with pytest.raises(UserError, match=message):
            within(20, call)
    assert not writer._thread.is_alive()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_disk_that_fails_last(tmp_path, monkeypatch):
    monkeypatch.setattr(tf.io.gfile, "GFile", Disk(0, "close"))
    writer = SummaryWriter(str(tmp_path))
    writer.write({"loss": 1.0}, {}, 0)
    with pytest.raises(UserError, match="No space left on device"):
        within(20, writer.close)


def test_what_cannot_be_encoded_is_told_too(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    writer.pictures("pictures", np.zeros([1, 2, 2, 2], np.float32), 0)
    with pytest.raises(UserError):
        within(20, writer.close)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^{tmp_path}/file/logs: cannot be written \(.*\); choose another --logdir$"):
        SummaryWriter(str(tmp_path / "file" / "logs"))


@pytest.mark.parametrize("moments", [(2e9, 1.7e9, 5.0), (5.0, 2e9, 0.0)])
def test_a_clock_that_jumps_does_not_mix_up_what_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: tuple[float, ...]
) -> None:
    """Each run goes on from the step before the last one that the run before it wrote."""
    for number, moment in enumerate(moments):
        monkeypatch.setattr(summaries.time, "time", lambda now=moment: now)
        writer = SummaryWriter(str(tmp_path), 3 * number)
        for step in range(3 * number, 3 * number + 4):
            writer.write({"loss": 10.0 * number + step}, {}, step)
        writer.close()
    expected = {step: 10.0 * min(step // 3, 2) + step for step in range(10)}
    assert Board(tmp_path).scalars("loss") == expected


def test_a_deleted_file_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_LOOK_EVERY", 0.0)
    writer = SummaryWriter(str(tmp_path / "run"))
    writer.write({"loss": 1.0}, {}, 1)
    writer.flush()
    (first,) = (tmp_path / "run").iterdir()
    first.unlink()
    (tmp_path / "run").rmdir()

    def go_on() -> None:
        writer.write({"loss": 2.0}, {}, 2)
        writer.close()

    with pytest.warns(UserWarning, match=rf"^{first}: was deleted; .* has what comes from now on$"):
        go_on()
    assert Board(tmp_path / "run").scalars("loss") == {2: 2.0}

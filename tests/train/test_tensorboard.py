"""A log folder of ours in TensorBoard, looked at in a real browser: each tab is filled."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from barenets import nets
from barenets.train import finetune
from barenets.train.progress import Progress
from tests.look.browser import a_browser  # noqa: F401 (a fixture)
from tests.pictures import write_pictures
from tests.train.tiny import NETWORK

pytestmark = pytest.mark.slow

STEPS = 4
LAYERS = ["conv1", "relu1", "pool1", "fc2", "relu2", "fc3"]
VARIABLES = [f"{layer}/{kind}" for layer in ("conv1", "fc2", "fc3") for kind in ("weights", "biases")]
LIMIT = 60  # seconds for a tab to fill; it takes two on an idle machine

# TensorBoard's parts lie in shadow trees, one in the other, and it keeps the tabs that were looked at before.
# `all(selector)` are the visible elements in all trees of one dashboard.
ALL = """const all = (selector, root = all('DASHBOARD', document)[0]?.shadowRoot) => {
  const found = [], walk = root => {
    found.push(...root.querySelectorAll(selector));
    for (const e of root.querySelectorAll('*')) if (e.shadowRoot) walk(e.shadowRoot);
  };
  if (root) walk(root);
  return found.filter(e => e.checkVisibility());
};
const size = e => { const { width, height } = e.getBoundingClientRect(); return [width, height]; };
"""


@pytest.fixture(scope="module")
def address(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard's, which shows a run of STEPS steps of the tiny network. (`browser` is for skipping early.)"""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nets.NETWORKS, "tiny", NETWORK)
        write_pictures(folder / "train", 16)
        write_pictures(folder / "val", 2, seed=1)
        options = {"train": f"{folder}/train", "val": f"{folder}/val", "net": "tiny", "variant": "tiny"}
        run = finetune.start(finetune.Settings(**options, logdir=f"{folder}/log", epochs=1, batch_size=32 // STEPS))
        assert finetune.train(run, Progress(quiet=True)).step == STEPS

    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        folder / "log",
        "--port",
        port,
        "--load_fast=false",
    ]
    with open(folder / "tensorboard.log", "w") as log:
        server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
    try:
        address, begun = f"http://localhost:{port}", time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"{address}/data/runs").close()
                break
            except OSError:
                said = (folder / "tensorboard.log").read_text()
                assert server.poll() is None, said
                assert time.monotonic() < begun + LIMIT, said
                time.sleep(0.1)
        browser.get(address)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def seen(browser: Any, address: str, tmp_path: Path) -> Callable[..., Any]:
    """seen(tab, script, expected): waits until the script, in this tab, returns what is expected."""

    def seen(tab: str, script: str, expected: Callable[[Any], bool]) -> None:
        browser.execute_script(
            "if (location.hash.split('&')[0] !== arguments[0]) location.hash = arguments[0]", f"#{tab}"
        )
        script = ALL.replace("DASHBOARD", f"tf-{tab.removesuffix('s')}-dashboard") + script
        end = time.monotonic() + LIMIT
        while not expected(found := browser.execute_script(script)):
            if time.monotonic() > end:
                browser.save_screenshot(str(tmp_path / "screen.png"))
                pytest.fail(f"{tab}: found {found}; see {tmp_path / 'screen.png'}")
            time.sleep(0.2)

    return seen


TAGS = "return all('tf-card-heading').map(e => e.shadowRoot.textContent.match(/tag:\\s*(\\S+)/)?.[1])"


def drawn(chart: str, path: str) -> str:
    """A script for [number of charts, number of those that have a curve as wide as a chart]."""
    return f"""const charts = all('{chart}');
      const wide = chart => [...chart.shadowRoot.querySelectorAll('{path}')].some(e => size(e)[0] > 100);
      return [charts.length, charts.filter(wide).length]"""


def test_scalars(seen):
    groups = {"gradient_largest", "gradient_norm", "gradient_rms", "gradient_zeros", "training", "update_ratio"}
    script = "return all('button.heading').map(e => e.textContent.trim().split(/\\s/)[0])"
    seen("scalars", script, lambda found: groups | {"validation"} <= set(found))
    names = {f"gradient_largest/{name}" for name in VARIABLES}
    seen("scalars", TAGS, lambda found: names <= set(found))
    seen("scalars", drawn("vz-line-chart2", "path.line"), lambda found: found[1] == found[0] >= len(VARIABLES))


def test_images(seen):
    script = "return all('img').map(e => [e.naturalWidth, e.naturalHeight])"
    seen("images", script, lambda found: found == [[16, 16]] * 8)
    seen("images", TAGS, lambda found: set(found) == {"pictures"})


@pytest.mark.parametrize(
    ("tab", "chart", "path"),
    [
        ("histograms", "vz-histogram-timeseries", ".histogram path.outline"),
        ("distributions", "vz-distribution-chart", "path.area"),
    ],
)
def test_histograms_and_distributions(seen, tab, chart, path):
    names = {f"{kind}/{name}" for kind in ("gradients", "variables") for name in VARIABLES}
    seen(tab, TAGS, lambda found: set(found) == names)
    seen(tab, drawn(chart, path), lambda found: found == [len(names)] * 2)


def test_every_step_has_its_histogram(seen):
    script = "return all('vz-histogram-timeseries').map(e => e.shadowRoot.querySelectorAll('g.histogram').length)"
    seen("histograms", script, lambda found: found == [STEPS] * 2 * len(VARIABLES))


def test_the_graph_has_our_layers_from_the_pictures_up(seen):
    script = "return all('g.node').map(e => [e.getAttribute('data-name'), e.getBoundingClientRect().y])"

    def expected(found: list[Any]) -> bool:
        height = dict(found)
        names = ["pictures", *LAYERS]
        return set(names) <= set(height) and sorted(names, key=lambda name: -height[name]) == names

    seen("graphs", script, expected)

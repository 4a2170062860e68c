"""`barenets explain`: explanations of pictures, and what channels see, as PNGs and in TensorBoard's image tab."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from barenets import UserError
from barenets.look import explain, maps
from barenets.ops import named_variables
from barenets.train.data import Batches, Records
from barenets.train.data.preview import grid, sheet
from barenets.train.model import Model
from barenets.train.progress import Progress
from barenets.train.summaries import SummaryWriter

MOST = 64
"""Channels of a map that are drawn."""


class Explanations:
    """Draws into the folder `out`; each method returns the path of its PNG."""

    def __init__(self, model: Model, records: Records, out: str, progress: Progress) -> None:
        self._model, self._records, self._out, self._progress = model, records, out, progress
        self._net = getattr(model.net, "net", model.net)  # of a blend, its last classifier
        self._writer = SummaryWriter(out)

    def close(self) -> None:
        """Closes the event file; what was written stays."""
        self._writer.close()

    def methods(self, names: Sequence[str], count: int, of: str | None, layer: str | None) -> str:
        """Each of the first `count` pictures, and below it what each method of `explain.METHODS` makes of it."""
        strips: dict[str, list[np.ndarray]] = {name: [] for name in ("picture", *names)}
        titles: list[str] = []
        gaps: list[float] = []
        wanted = None if of is None else self._class(of)
        some = self._records.subset(range(min(count, len(self._records))))
        with self._progress.pictures("explaining", len(some) * len(names)) as advance:
            for batch in self._batches(some, 4):
                pictures = self._model.preprocessing.pictures(batch.images).numpy()
                shares = tf.nn.softmax(self._net(batch.images)).numpy()
                classes = shares.argmax(1) if wanted is None else np.full(len(shares), wanted)
                strips["picture"].append(pictures)
                names_of = self._model.class_names
                titles += [f"{names_of[c]} {share[c]:.0%}" for c, share in zip(classes, shares, strict=True)]
                for name in names:
                    options = {"layer": layer} if name == "grad_cam" else {}
                    found = explain.METHODS[name](self._net, batch.images, tf.constant(classes, tf.int32), **options)
                    if name == "integrated_gradients":
                        found, gap = found
                        gaps += np.abs(gap).tolist()
                    strips[name].append(explain.overlay(pictures, found))
                    advance(len(pictures))
        if gaps:
            self._progress.say(
                f"integrated_gradients: add up to the logit's rise, but for {max(gaps):.1%} of it at most"
            )
        drawn = {name: np.concatenate(parts) for name, parts in strips.items()}
        for name, pictures in drawn.items():
            self._writer.pictures(f"explain/{name}", pictures, 0)
        path = os.path.join(self._out, "explained.png")
        sheet(drawn, path, titles, "", columns=min(8, len(titles)))
        return path

    def filters(self, layer: str) -> str:
        """The kernels of `layer`."""
        variables = named_variables(self._net)
        kernels = [name for name, v in variables.items() if name.endswith("weights") and len(v.shape) == 4]
        name = f"{layer}/weights"
        if name not in kernels:
            raise UserError(explain.no_such_map(layer, [kernel.rpartition("/")[0] for kernel in kernels]))
        kernel = variables[name].numpy()
        if kernel.shape[2] == 3 and self._model.preprocessing.channels == "BGR":
            kernel = kernel[:, :, ::-1]
        return self._grid("filters", layer, maps.filters(kernel)[: 4 * MOST], columns=16)

    def features(self, layer: str) -> str:
        """The map `layer` of the first picture, channel by channel."""
        batch = next(iter(self._batches(self._records.subset([0]), 1)))
        return self._grid("features", layer, maps.feature_maps(self._net, batch.images[0], layer)[:MOST])

    def top_pictures(self, layer: str, channels: Sequence[int]) -> str:
        """For each of `channels` of the map `layer` the pictures in which it is largest, and where."""
        with self._progress.pictures("looking for the largest", len(self._records)) as advance:
            batches = self._batches(self._records, 16)
            best = maps.maximally_activating(self._net, batches, layer, channels, advance=advance)
        found = [(channel, place) for channel, places in best.items() for place in places]
        wanted, pictures = self._records.subset([place.record for _, place in found]), []
        for batch in self._batches(wanted, 4):
            some = [found[i] for i in batch.indices]
            boxes = maps.depends_on(self._net, batch.images, layer, [c for c, _ in some], [place for _, place in some])
            pictures.append(maps.outlined(self._model.preprocessing.pictures(batch.images).numpy(), boxes))
        titles = [f"{channel}: {place.value:.3g}" for channel, place in found]
        columns = len(next(iter(best.values())))
        return self._grid("top_pictures", layer, np.concatenate(pictures), titles, columns)

    def _batches(self, records: Records, size: int) -> Any:
        return Batches(records, self._model.preprocessing, size).epoch(0)

    def _grid(
        self, kind: str, layer: str, pictures: np.ndarray, titles: Sequence[str] | None = None, columns: int = 8
    ) -> str:
        name = f"{kind}_{layer.replace('/', '_')}"
        self._writer.pictures(f"{kind}/{layer}", pictures, 0)
        path = os.path.join(self._out, f"{name}.png")
        grid(pictures, path, titles or [str(i) for i in range(len(pictures))], layer, columns)
        return path

    def _class(self, of: str) -> int:
        names = self._model.class_names
        if of in names:
            return names.index(of)
        if of.isdecimal() and int(of) < len(names):
            return int(of)
        raise UserError(f"--class {of}: is none of the {len(names)} classes, {', '.join(names[:3])}, ...")

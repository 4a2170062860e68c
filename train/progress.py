"""What a person sees of long work, on stderr: bars on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_LINE_EVERY = 15.0  # seconds between plain lines


class Progress:
    """Where progress is shown; `quiet` shows none."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars = not quiet and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Writes a line to stderr, above the bar, unless quiet."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def epoch(self, epoch: int, epochs: int, total: int, done: int) -> "EpochProgress":
        """The progress of epoch `epoch` (from 0) of `epochs`, over `total` pictures of which `done` are done."""
        return EpochProgress(self, f"epoch {epoch + 1}/{epochs}", total, done)

    @contextmanager
    def pictures(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over `total` pictures; yields what to call with the number of further ones. No plain lines."""
        with tqdm(total=total, desc=what, unit="pic", disable=not self._bars, leave=False, file=sys.stderr) as bar:
            yield lambda pictures: (bar.update(pictures), None)[1]


class EpochProgress:
    """Mean loss and accuracy so far, as training goes through an epoch."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit="pic",
            disable=not progress._bars,
            leave=False,
            file=sys.stderr,
        )
        self._done, self.pictures = done, 0
        self._loss, self._correct = 0.0, 0
        self._started = self._said = time.monotonic()

    def advance(self, pictures: int, loss: float, correct: int) -> None:
        """`pictures` more, of which `correct` were right at a mean loss of `loss`."""
        self.pictures += pictures
        self._loss += loss * pictures
        self._correct += correct
        self._bar.set_postfix_str(self._figures(), refresh=False)
        self._bar.update(pictures)
        if not self._progress._bars and time.monotonic() > self._said + _LINE_EVERY:
            self._said = time.monotonic()
            self._progress.say(f"{self._title}: {self._done + self.pictures}/{self._total} pictures, {self._figures()}")

    def close(self, validation: float | None) -> None:
        """Leaves one line on the epoch; `validation` is the share that was right there."""
        self._bar.close()
        seconds = time.monotonic() - self._started
        checked = "" if validation is None else f", validation {validation:.2%}"
        self._progress.say(f"{self._title}: {self._figures()}{checked}, {seconds:.0f} s")

    def _figures(self) -> str:
        count = max(self.pictures, 1)
        return f"loss {self._loss / count:.4f}, accuracy {self._correct / count:.2%}"

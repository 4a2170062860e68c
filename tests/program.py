"""The program in a process of its own, forked from one that has imported TensorFlow, which takes seconds."""

import contextlib
import multiprocessing
import os
import pkgutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import barenets
from barenets.train import cli

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 180
"""Seconds that no command of the tests takes, on a busy machine either."""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_CONTEXT = multiprocessing.get_context("forkserver")
_MODULES = {module.name for module in pkgutil.walk_packages(barenets.__path__, "barenets.")}
# What commands import when they need it, too; barenets.__main__ would run.
_CONTEXT.set_forkserver_preload(["pytest", "tests.train.runs", *sorted(_MODULES - {"barenets.__main__"})])


@dataclass(frozen=True)
class Done:
    """How it ended: its exit status, minus a signal's number if that killed it, and what it wrote."""

    code: int
    out: str
    err: str

    def refused(self, *words: object) -> None:
        """Checks that it ended as by the user's mistake, with these words in the last line of what it said."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("barenets: "), self.err
        assert all(str(word) in line for word in words), self.err


class Running:
    """`barenets ARGUMENTS` at work."""

    def __init__(
        self, *arguments: object, before: Callable[[], None] | None = None, folder: Path | None = None
    ) -> None:
        """In `folder`, or where this process is; `before` is called first in its process."""
        self._said = tempfile.TemporaryDirectory()
        here = Path.cwd()
        given = [*map(str, arguments)], before, self._said.name, str(folder or here), dict(os.environ)
        self._process = _CONTEXT.Process(target=_main, args=given, daemon=True)
        os.chdir(ROOT)  # where the server, which the first start starts, imports from
        try:
            self._process.start()
        finally:
            os.chdir(here)

    @property
    def over(self) -> bool:
        return not self._process.is_alive()

    def said(self, stream: str = "err") -> str:
        """What it has written up to now to `out` or `err`."""
        path = Path(self._said.name, stream)
        return path.read_text() if path.exists() else ""

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self.over:
                os.kill(self._process.pid, number)

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Returns when it has, or when the program is over."""
        begun = time.monotonic()
        while not self.over and not happened():
            assert time.monotonic() < begun + LIMIT
            time.sleep(0.001)

    def done(self, limit: float = LIMIT) -> Done:
        """Waits for its end, but `limit` seconds at most: then it is killed."""
        self._process.join(limit)
        if not self.over:
            self._process.kill()
            self._process.join()
        done = Done(self._process.exitcode, self.said("out"), self.said("err"))
        self._said.cleanup()
        return done


def run(*arguments: object, **options) -> Done:
    """Options as of `Running`."""
    return Running(*arguments, **options).done()


def _main(
    arguments: list[str], before: Callable[[], None] | None, said: str, folder: str, environment: dict[str, str]
) -> None:
    for file, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(os.path.join(said, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), file.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        if before:
            before()
        code = cli.main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""Reads weight files in a process of its own, which hostile files may crash or fill without harm to the tests.

The kernel holds it to 1 s of processor time, 5 s in all, and 200 MB and four times the file for each.
"""

import copyreg
import hashlib
import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, BYTES = 1.0, 200_000_000
EXTENSION = 127  # registered as os.system in that process
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    kind: str
    """"arrays", the name of an exception, or what ended the process."""
    text: str
    """A digest of the arrays, or the message."""
    changed: bool = False
    """Whether reading changed the reader or the registries of pickle."""
    seconds: float = 0.0
    grown: int = 0
    """Bytes of memory in use at most, beyond those before."""

    @property
    def sound(self) -> bool:
        """Arrays, or a UserError of one printable, bounded line that is not about lack of memory."""
        refused = self.kind == "UserError" and self.text.isprintable() and len(self.text) < 2000
        return (self.kind == "arrays" or (refused and "MemoryError" not in self.text)) and not self.changed


class Reader:
    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path, function: str = "open.read") -> Outcome:
        """What `function`, of `barenets.weights` if no other package is said, makes of the file."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.weights.reader"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self._process.stdin.write(json.dumps([str(path), function]) + "\n")
        self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return Outcome(*json.loads(answer))
        code = self.close()
        return Outcome(f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}", "")

    def close(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:
            process.stdin.close()
        return process.returncode


def digest(arrays: Any) -> str:
    """Of names, types, shapes and bytes. Whatever is no array fails here."""
    if hasattr(arrays, "class_names"):  # Records
        arrays = {"labels": arrays.labels, "pixels": arrays.pixels, "spans": arrays.spans}
    elif hasattr(arrays, "optimizer"):  # a Checkpoint
        arrays = {**arrays.weights, **arrays.optimizer}
    arrays = arrays if isinstance(arrays, Mapping) else {"": arrays}
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    return repr(sorted((n, a.dtype.str, a.shape, hashlib.md5(a.tobytes()).hexdigest()) for n, a in arrays.items()))


def _state(pickles: Any) -> Any:
    """Everything global that a pickle might reach."""
    owners = [*vars(pickles).values(), *pickles._ADMITTED.values(), pickles, pickle._Unpickler]
    tables = [vars(owner) for owner in owners if hasattr(owner, "__dict__")]
    tables += [pickles._ADMITTED, pickle._Unpickler.dispatch, copyreg._extension_cache]
    tables += [pickles._Unpickler.dispatch]
    return [{str(key): id(value) for key, value in table.items()} for table in tables]


def _memory(field: str) -> int:
    """Of this process, as the kernel counts it: VmSize, VmRSS or VmHWM, the most there was in use."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split(maxsplit=1)[0]) << 10


def main() -> None:
    from barenets.weights import pickles

    warnings.simplefilter("error")
    copyreg.add_extension("os", "system", EXTENSION)
    for line in sys.stdin:
        path, function = json.loads(line)
        module, _, name = function.rpartition(".")
        whole = module.startswith(("barenets.", "tests."))
        call = getattr(importlib.import_module(module if whole else f"barenets.weights.{module}"), name)
        before = _state(pickles)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts afresh
        used, start = _memory("VmRSS"), time.perf_counter()
        room = BYTES + 4 * os.path.getsize(path) if os.path.exists(path) else BYTES
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + room, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process, as does the other's
        signal.setitimer(signal.ITIMER_REAL, 5.0)
        try:
            kind, text = "arrays", digest(call(path))
        except BaseException as error:
            kind, text = type(error).__name__, str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds, grown = time.perf_counter() - start, _memory("VmHWM") - used
        print(json.dumps([kind, text, _state(pickles) != before, seconds, grown]), flush=True)


if __name__ == "__main__":
    main()

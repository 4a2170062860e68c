"""A run's log folder belongs to one process at a time."""

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterator

from barenets import UserError

_held: set[str] = set()


@contextlib.contextmanager
def locked(logdir: str) -> Iterator[None]:
    """While the block runs, `logdir`, which is made if need be, is this process's to write in.

    What a killed process left there unfinished is removed first. The kernel gives the folder free when the process
    ends, however it ends. Where a file system has no locks (gs://, some network disks) nothing is locked or removed.
    Raises UserError if another process has the folder.
    """
    path = os.path.realpath(logdir)
    if "://" in logdir or path in _held:  # a recipe's run may be in the recipe's own folder
        yield
        return
    try:
        made = not os.path.isdir(path)
        os.makedirs(path, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{logdir}: cannot be written ({error.strerror}); choose another --logdir") from None
    try:
        if _lock(folder, logdir):
            for place in ("", "checkpoints", "features/*/*"):
                for unfinished in glob.glob(os.path.join(glob.escape(path), place, ".*.[0-9]*.tmp")):
                    with contextlib.suppress(OSError):
                        os.remove(unfinished)
        _held.add(path)
        yield
    finally:
        _held.discard(path)
        os.close(folder)
        if made:
            with contextlib.suppress(OSError):  # it holds something, as it should
                os.rmdir(path)


def _lock(folder: int, logdir: str) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{logdir}: another process is training in this folder; wait for its end, or choose another --logdir"
        ) from None
    except OSError:
        return False
    return True

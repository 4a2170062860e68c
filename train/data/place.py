"""Where a data set lies: a file or a folder, and which part of it is meant."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import tensorflow as tf

from barenets import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """What `PATH:WORD:WORD` means, as far as it can be told without knowing the form."""

    source: str
    """All of it, for messages."""
    path: str
    words: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    """What is in the folder at `path`, in sorted order; None for a file."""
    head: bytes = b""
    """The first bytes of the file at `path`."""

    def child(self, name: str) -> str:
        """Path of `name` in the folder."""
        return os.path.join(self.path, name)

    def files(self, fits: Callable[[str], object]) -> Iterator[str]:
        """Names of the files in the folder that fit; of folders with such names there may be some, too."""
        return (name for name in self.names or () if fits(name) and not tf.io.gfile.isdir(self.child(name)))

    def choose(self, parts: Mapping[str, T]) -> T:
        """The part that `words` name; the only one if there is but one. Raises UserError that lists them."""
        if len(self.words) == 1 and self.words[0] in parts:
            return parts[self.words[0]]
        if not self.words and len(parts) == 1:
            return next(iter(parts.values()))
        what = f"has no part {':'.join(self.words)!r}" if self.words else "has several parts"
        raise UserError(f"{self.source}: {what}; name one: {', '.join(f'{self.path}:{part}' for part in parts)}")

    def whole(self) -> None:
        """Raises UserError if a part is named of what has none."""
        if self.words:
            raise UserError(f"{self.source}: {self.path} has no parts; leave out :{':'.join(self.words)}")

    def inside(self, paths: Sequence[str], where: Callable[[int], str]) -> None:
        """Raises UserError for the first of a list's `paths` that leads out of its folder, if it is named LIST:inside.

        Where a link leads counts, of `FILE#INDEX` and `FILE:PART#INDEX` that of FILE.
        """
        if self.words != ("inside",):
            self.whole()
            return
        folder = os.path.realpath(os.path.dirname(self.path))
        for i, path in enumerate(paths):
            names, name = [path], path.rpartition("#")[0]
            while name:
                names.append(name)
                name = name.rpartition(":")[0]
            local = ("://" in path) == ("://" in self.path) and "\0" not in path
            if not local or any(os.path.commonpath([folder, os.path.realpath(name)]) != folder for name in names):
                raise UserError(f"{where(i)}: {path} lies outside of the folder of the list, which :inside forbids")


def locate(source: str) -> Place | None:
    """The place that `source` means, or None if there is nothing. Raises UserError if it cannot be looked at."""
    path = source
    words: tuple[str, ...] = ()
    try:
        while not tf.io.gfile.exists(path):
            path, colon, word = path.rpartition(":")
            if not path or not colon or "/" in word:
                return None
            words = (word, *words)
        if tf.io.gfile.isdir(path):
            return Place(source, path, words, entries(path))
        with tf.io.gfile.GFile(path, "rb") as file:
            return Place(source, path, words, head=file.read(16))
    except tf.errors.OpError as error:  # no such file system, no permission
        raise UserError(f"{source}: {error.message}; check the path") from error


def entries(folder: str) -> tuple[str, ...]:
    """Names in a folder, in sorted order, without what is hidden."""
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(folder or "."))  # gs:// gives "cat/"
    return tuple(sorted(name for name in names if not is_hidden(name)))


def exists(path: str) -> bool:
    """Whether there is such a file or folder, or there may be: one that cannot be looked at is not missing."""
    try:
        return bool(tf.io.gfile.exists(path))
    except tf.errors.OpError:
        return True


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is to be passed over."""
    return name.startswith(".") or name.rstrip("/") == "__MACOSX"  # what a Mac adds to a zip file


def numbered(path: str, count: int) -> tuple[str, ...]:
    """Names for the pictures that lie decoded in one file."""
    return tuple(f"{path}#{i}" for i in range(count))

"""What is wrong with a data set, before a training run finds out: files, labels, and pictures seen twice."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from barenets import UserError, printable
from barenets.ops import aligned
from barenets.train.data import records
from barenets.train.data.pipeline import decode, reason
from barenets.train.data.records import Records

_THREADS = 4  # each holds one decoded picture, and nothing else does
_SHOWN = 10  # findings of a kind, and classes, that the printed report shows; to_json has them all

_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM",
    "WebP": rb"RIFF....WEBP",
    "text": rb"[\t\r\n\x20-\x7e\x80-\xff]+\Z",  # the web page that came instead of the picture
}
_EXTENSIONS = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG"} | {
    kind.lower(): kind for kind in ("PNG", "GIF", "BMP", "WebP")
}


@dataclass(frozen=True)
class Problem:
    """One finding. `kind` is the heading that `Report` counts it under:

    `missing`, `empty`, `unreadable`: the file cannot be used. `misnamed`: its extension is of another format.
    `conflict`: one picture, by content, in two classes. `leak`: one picture in two splits.
    `duplicate`: one picture twice in a split. `classes`: splits that disagree about the classes.
    `gap`: a class without a picture in any split. `absent`: a class without a picture in one of them.
    """

    kind: str
    message: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """One source: how many pictures, of which classes, and their sides in pixels (0: none can be read)."""

    source: str
    pictures: int
    class_counts: dict[str, int]
    smallest_side: int
    largest_side: int


@dataclass(frozen=True)
class Report:
    """What `check` found; prints as a table of the splits and a list of the problems."""

    splits: tuple[Split, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is nothing to put right."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """What `barenets data check --json` prints."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        names = _class_names(self.splits)
        shown = names[:_SHOWN]
        columns = [["", "pictures", "smallest side", "largest side", *(f"class {name}" for name in shown)]]
        for split in self.splits:
            counts = [split.class_counts.get(name, 0) for name in shown]
            cells = [split.source, split.pictures, split.smallest_side, split.largest_side, *counts]
            columns.append([str(cell) for cell in cells])
        lines = [aligned(zip(*columns, strict=True))]
        if len(names) > len(shown):
            lines.append(f"... and {len(names) - len(shown)} more classes")
        return "\n".join([*lines, "", *self._problem_lines()])

    def _problem_lines(self) -> Iterator[str]:
        by_kind: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.kind].append(problem)
        if self.ok:
            yield "no problems"
        for kind, problems in by_kind.items():
            yield f"{kind}: {len(problems)}"
            yield from (f"  {printable(problem.message)}" for problem in problems[:_SHOWN])
            if len(problems) > _SHOWN:
                yield f"  ... and {len(problems) - _SHOWN} more"


def check(sources: list[str]) -> Report:
    """Opens every picture of `sources`, each a split of one data set: the training set first, then others.

    The sources are what `records.read` takes. Every file is read, hashed (SHA-256) and decoded once, a few
    at a time. Raises UserError if a source cannot be read as a list or folder at all; whatever is wrong
    with the pictures and classes is in the report.
    """
    if not sources:
        raise UserError("nothing to check; name the label lists or folders of the splits, training first")
    sets, problems = _read(sources)
    splits = []
    seen: dict[bytes, list[tuple[str, str, str]]] = defaultdict(list)  # digest -> source, class, path
    for data in sets:
        sides: list[int] = []
        with ThreadPool(_THREADS) as pool:
            results = pool.imap(partial(_open, data), range(len(data)), chunksize=8)
            # disable=None: no progress where stderr is no terminal.
            opened = tqdm(results, data.source, len(data), unit=" pictures", disable=None)
            for path, label, (digest, size, problem) in zip(data.paths, data.labels, opened, strict=True):
                if problem:
                    problems.append(problem)
                if size:
                    sides += size
                    sides = [min(sides), max(sides)]
                    seen[digest].append((data.source, data.class_names[label], path))
        numbers = np.bincount(data.labels, minlength=data.num_classes).tolist()
        counts = dict(zip(data.class_names, numbers, strict=True))
        splits.append(Split(data.source, len(data), counts, *(sides or (0, 0))))
    for copies in seen.values():
        problems += _repeated(copies)
    return Report(tuple(splits), (*problems, *_without_pictures(splits)))


def _read(sources: list[str]) -> tuple[list[Records], list[Problem]]:
    """Each source with the classes of the first, as training reads it, or with its own if they do not fit."""
    first = records.read(sources[0])
    sets, problems = [first], []
    for source in sources[1:]:
        own = agreed = records.read(source)
        try:
            agreed = records.read(source, first.class_names)
        except UserError as error:
            problems.append(Problem("classes", str(error)))
        # Lists of numbers always fit each other; but the folders may tell that 0 is a cat here, a dog there.
        for here, there in sorted(set(zip(own.labels.tolist(), agreed.labels.tolist(), strict=True))):
            name, meant = own.class_names[here], agreed.class_names[there]
            if name != meant and name in first.class_names:
                message = f"{source}: label {there} is {name} by its folder, but {meant} in {first.source}"
                problems.append(Problem("classes", message))
        sets.append(agreed)
    return sets, problems


def _open(data: Records, index: int) -> tuple[bytes, tuple[int, int] | None, Problem | None]:
    """SHA-256 of a picture's file, its height and width (`b""`, None if it is of no use), what is wrong."""

    path = data.paths[index] if data.spans is None else f"{data.paths[index]} byte {data.spans[index, 0]}"

    def useless(kind: str, reason: str) -> tuple[bytes, None, Problem]:
        return b"", None, Problem(kind, f"{path}: {reason}", (path,))

    try:
        content = data.content(index)
    except tf.errors.NotFoundError:
        return useless("missing", "no such file")
    except tf.errors.OpError as error:
        return useless("unreadable", error.message)
    if not content:
        return useless("empty", "no bytes in it")

    kind = _kind(content)
    try:
        height, width, _ = decode(content).shape
    except tf.errors.OpError as error:
        return useless("unreadable", f"{kind} that cannot be decoded ({reason(error)})")

    own_file = data.pixels is None and data.spans is None
    named = _EXTENSIONS.get(path.rpartition(".")[2].lower(), kind) if own_file else kind
    misnamed = Problem("misnamed", f"{path}: {kind} under the name of {named}", (path,))
    return hashlib.sha256(content).digest(), (height, width), misnamed if named != kind else None


def _kind(content: bytes) -> str:
    kinds = (kind for kind, magic in _MAGIC.items() if re.match(magic, content[:64], re.DOTALL))
    return next(kinds, "unknown format")


def _repeated(copies: list[tuple[str, str, str]]) -> Iterator[Problem]:
    if len(copies) == 1:
        return
    sources, classes, paths = ([*dict.fromkeys(column)] for column in zip(*copies, strict=True))
    where = ", ".join(f"{path} ({name})" for _, name, path in copies)
    if len(classes) > 1:
        yield Problem("conflict", f"one picture in the classes {', '.join(classes)}: {where}", tuple(paths))
    if len(sources) > 1:
        yield Problem("leak", f"one picture in {' and '.join(sources)}: {where}", tuple(paths))
    if len(classes) == len(sources) == 1:
        yield Problem("duplicate", f"one picture {len(copies)} times: {where}", tuple(paths))


def _without_pictures(splits: list[Split]) -> Iterator[Problem]:
    for name in _class_names(splits):
        absent = [split.source for split in splits if not split.class_counts.get(name)]
        if len(absent) == len(splits):
            yield Problem("gap", f"class {name}: no picture in {' or '.join(absent)}")
        elif absent:
            yield Problem("absent", f"class {name}: no picture in {', '.join(absent)}, which others have")


def _class_names(splits: list[Split] | tuple[Split, ...]) -> list[str]:
    return [*dict.fromkeys(name for split in splits for name in split.class_counts)]

"""Runs the Python of pages from top to bottom, as it stands: `python docs/run.py [PAGE.md ...]`.

Blocks of ```python run; one of ```py is for an engine that is not here, and only shown.
Without a page it runs all that draw a figure, into figures/: what is committed there was drawn by this.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def blocks(language: str, text: str) -> list[tuple[int, str]]:
    """The line at which each code block of the page begins, and the block."""
    found = re.finditer(r"^```(\S*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, block.start(2)), block[2]) for block in found if block[1] == language]


def run(page: Path) -> None:
    """All blocks share their names; a traceback shows the page's own lines."""
    names: dict[str, Any] = {"__name__": page.stem}
    for line, code in blocks("python", page.read_text()):
        exec(compile("\n" * line + code, page, "exec"), names)  # the page's own code, to be run  # nosec B102


def shrink(figure: Path) -> None:
    """A figure of photographs, which would be megabytes, in 96 colours and 1180 pixels wide."""
    from PIL import Image

    picture = Image.open(figure).convert("RGB")
    small = picture.resize((1180, 1180 * picture.height // picture.width))
    small.quantize(96).save(figure, optimize=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--shrink"]:
        sys.exit(shrink(Path(sys.argv[2])))
    drawing = [page for page in sorted(DOCS.glob("*.md")) if "(figures/" in page.read_text()]
    pages = [Path(name).resolve() for name in sys.argv[1:]] or drawing
    os.chdir(DOCS)
    for page in pages:
        print(f"== {page.name}")
        run(page)

"""How Sphinx makes a site of these pages: `make site`."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "barenets"
copyright = author = "the authors of barenets"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "index"
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = "barenets"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
suppress_warnings = ["myst.header"]  # pages that begin below the first level

ROOMS = ("ops", "nets", "weights", "look", "train")


def modules(room: str) -> list[tuple[str, bool]]:
    """The modules of a room and whether they are packages, the room itself first."""
    package = importlib.import_module(f"barenets.{room}")
    found = sorted((m.name, m.ispkg) for m in pkgutil.walk_packages(package.__path__, f"barenets.{room}."))
    return [(f"barenets.{room}", True), *found]


class Reference(SphinxDirective):
    """A section for each room, and in it for each module that has public names of its own."""

    def run(self) -> list[Any]:
        lines: list[str] = []
        for room in ROOMS:
            lines += [room, "-" * len(room), ""]
            for name, is_package in modules(room):
                # What a package passes on is shown where it is defined.
                lines += [name, "~" * len(name), "", f".. automodule:: {name}", "   :no-members:" * is_package, ""]
        return self.parse_text_to_nodes(StringList(lines, "reference"), allow_section_headings=True)


def as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: what is in backticks is code, and what is set in is a table to leave as it is."""
    result: list[str] = []
    verbatim = False
    for line in lines:
        inset = line.startswith("    ")
        if inset and not verbatim:
            result += ["", "::", ""]
        elif verbatim and line and not inset:
            result.append("")
        verbatim = inset or (verbatim and not line)
        result.append(line if inset else plain(line))
    lines[:] = result


def plain(line: str) -> str:
    """A line in which nothing but `code` means anything to reStructuredText."""
    parts = re.split(r"`([^`]*)`", line)
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{code}``\\ " for code in parts[1::2]]
    return "".join(parts)


def setup(app: Sphinx) -> None:
    app.add_directive("reference", Reference)
    app.connect("autodoc-process-docstring", as_rst)

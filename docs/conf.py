"""How Sphinx makes a site of these pages: `make site`."""

import importlib
import os
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOMS = ("ops", "nets", "weights", "look", "train")
DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "barenets"
copyright = author = "the authors of barenets"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "README"
html_theme = "furo"
html_title = "barenets"
html_show_sourcelink = html_copy_source = False
highlight_language = "none"
smartquotes = False  # H' is no quotation
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True, "ignore-module-all": True}
python_use_unqualified_type_names = True
add_module_names = False
viewcode_follow_imported_members = False
toc_object_entries = False  # hundreds, which the theme would copy for every page
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Adds to the first page what it leads to, in its order, and to a page of the reference its room's modules."""
    room = page.removeprefix("reference/")
    if page == root_doc:
        pages = dict.fromkeys(re.findall(r"\]\(([\w/]+)\.md\)", source[0]))
        pages = sorted(pages, key=lambda name: "/" in name)  # the reference last
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", *pages, "```"])
    elif room in ROOMS:
        package = importlib.import_module(f"barenets.{room}")
        names = sorted(module.name for module in pkgutil.walk_packages(package.__path__, f"barenets.{room}."))
        source[0] += automodule(f"barenets.{room}") + "".join(f"\n## {name}\n{automodule(name)}" for name in names)


def automodule(name: str) -> str:
    return f"\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"


def as_rst(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: what is in backticks is code, and what is set in is a table to leave as it is."""
    blocks = re.split(r"(?m)((?:^ {4}.*\n|^\n(?= {4}))+)", "\n".join([*lines, ""]))
    blocks[::2] = map(prose, blocks[::2])
    blocks[1::2] = [f"\n::\n\n{table}\n" for table in blocks[1::2]]
    lines[:] = "".join(blocks).split("\n")


def prose(text: str) -> str:
    """Text in which nothing but `code` means anything to reStructuredText; code that is a name leads to it."""
    parts = re.split(r"`([^`]*)`", text)
    parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [
        rf"\ :py:obj:`{code}`\ " if re.fullmatch(r"\w[\w.]*", code) else rf"\ ``{code}``\ " for code in parts[1::2]
    ]
    return "".join(parts)


def parsable(app: Sphinx, what: str, name: str, thing: Any, options: Any, given: str | None, result: str | None) -> Any:
    """A signature with a dataclass's default factories would be shown raw, types with their modules."""
    return given and given.replace("<factory>", "..."), result


def tidy(app: Sphinx, tree: nodes.document) -> None:
    """A link to a file of a room leads to its page with [docs] links, not to a copy to be downloaded.

    And values such as `<function f>` are left out: they say nothing.
    """
    for link in list(tree.findall(addnodes.download_reference)):
        if found := re.fullmatch(rf"\.\./((?:{'|'.join(ROOMS)})/.*)\.py", link["reftarget"]):
            link.replace_self(nodes.reference("", "", *link.children, refuri=f"_modules/barenets/{found[1]}.html"))
    for value in list(tree.findall(addnodes.desc_annotation)):
        if "<" in value.astext():
            value.parent.remove(value)


def finish(app: Sphinx, failure: Exception | None) -> None:
    """README.md is what a folder shows first on the web's forges, index.html on a site."""
    if not failure:
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-process-signature", parsable)
    app.connect("doctree-read", tidy, priority=400)  # before files to download are collected
    app.connect("build-finished", finish)

"""The pages in docs/: every command and line of Python runs as it stands, figures are drawn, links lead somewhere.

And the reference, and the site that is made of them.
"""

import contextlib
import importlib.util
import inspect
import io
import pkgutil
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import barenets
from tests.pictures import write_pictures
from tests.test_readme import run

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LARGEST = 200_000
"""Bytes of a figure."""

spec = importlib.util.spec_from_file_location("run", DOCS / "run.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


def commands(text: str) -> list[list[str]]:
    lines = "".join(code for _, code in runner.blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def figures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\((.*?)\)", text)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    if needed := commands(text) or "pictures/" in text:
        write_pictures(tmp_path / "pictures/train", 14)
        write_pictures(tmp_path / "pictures/val", 2, seed=1)
    (tmp_path / "figures").mkdir()
    monkeypatch.chdir(tmp_path)
    for words in commands(text):
        assert words[0] == "barenets"
        run(words, tmp_path)
    began = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runner.run(page)
    assert time.monotonic() - began < 60
    if runner.blocks("python", text):
        assert out.getvalue()
        if shown := "".join(code for _, code in runner.blocks("", text)):  # what the page says is printed
            assert [line.rstrip() for line in out.getvalue().splitlines()] == [
                line.rstrip() for line in shown.splitlines()
            ]
        for figure in figures(text):
            assert not figure.startswith("figures/") or (tmp_path / figure).stat().st_size < LARGEST
    assert runner.blocks("python", text) or needed or page.stem == "README"


def test_figures_are_there_and_small() -> None:
    for page in (*PAGES, ROOT / "README.md"):
        for figure in figures(page.read_text()):
            assert (page.parent / figure).stat().st_size < LARGEST, figure
    shown = {figure for page in PAGES for figure in figures(page.read_text())}
    assert {f"figures/{path.name}" for path in (DOCS / "figures").iterdir()} <= shown


def anchors(page: Path) -> set[str]:
    """As GitHub and MyST make them of headings."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


OTHERS = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def public() -> Iterator[tuple[str, Any]]:
    """Modules, and the classes, functions, methods and properties that they define, but those with an underscore."""
    names = [module.name for module in pkgutil.walk_packages(barenets.__path__, "barenets.")]
    names.remove("barenets.__main__")  # runs
    for module in [barenets, *map(importlib.import_module, names)]:
        yield module.__name__, module
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
                continue
            if inspect.isclass(thing):
                for part, method in vars(thing).items():
                    if not part.startswith("_") and (inspect.isroutine(method) or isinstance(method, property)):
                        yield f"{module.__name__}.{name}.{part}", getattr(thing, part)
            if inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)):
                yield f"{module.__name__}.{name}", thing


def test_every_public_name_has_a_docstring() -> None:
    names = dict(public())
    assert {"barenets.ops.conv", "barenets.ops.conv.Conv2D", "barenets.nets.build"} <= names.keys()
    for name, thing in names.items():
        text = inspect.getdoc(thing) or ""
        made_up = f"{name.rpartition('.')[2]}("  # by dataclass and NamedTuple
        assert text, name
        assert not text.startswith(made_up), name


class Html(HTMLParser):
    """What a page has and leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id":
                self.ids.add(value or "")
            elif key == "src" or (key == "href" and tag == "link"):
                self.loads.add(value or "")
            elif key == "href":
                self.links.add(value or "")


@pytest.mark.slow
def test_site(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} builds the site: pip install barenets[docs]")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    pages = {path.resolve(): Html(path) for path in tmp_path.rglob("*.html")}
    for page, html in pages.items():
        assert not [address for address in html.loads if "://" in address or address.startswith("//")], page
        for link in html.links | html.loads:
            if "://" in link or link.startswith("data:"):
                continue
            path, _, anchor = urllib.parse.unquote(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            assert target.is_file(), f"{page.name}: {link}"
            assert not anchor or target.suffix != ".html" or anchor in pages[target].ids, f"{page.name}: {link}"

    first = pages[tmp_path / "index.html"]
    assert first.links >= {f"{page.stem}.html" for page in PAGES if page.stem != "README"}
    assert "_modules/barenets/nets/alexnet.html" in first.links  # ../nets/alexnet.py on the page
    reference = [html.ids for path, html in pages.items() if path.parent.name == "reference"]
    documented = {anchor.removeprefix("module-") for ids in reference for anchor in ids}
    assert dict(public()).keys() <= documented

"""The pages in docs/: every command and line of Python runs as it stands, figures are drawn, links lead somewhere."""

import contextlib
import html
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

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
            assert "\n".join(map(str.rstrip, out.getvalue().splitlines())) == shown.rstrip("\n")
        for figure in figures(text):
            assert not figure.startswith("figures/") or (tmp_path / figure).stat().st_size < LARGEST
    assert runner.blocks("python", text) or needed or page.stem in ("README", "index", "reference")


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


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.slow
def test_site(tmp_path: Path) -> None:
    """It builds without a warning, and in what was built every link leads to a page and to a place on it."""
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    assert len(pages) > len(PAGES)
    for path, text in pages.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            if re.match(r"\w+:", link):
                continue
            to, _, anchor = html.unescape(link).partition("#")
            target = (path.parent / to.partition("?")[0]).resolve() if to else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in ids and target.name not in ("genindex.html", "search.html"):
                assert urllib.parse.unquote(anchor) in ids[target], f"{path.name}: {link}"
    reference = pages[tmp_path / "reference.html"]
    for name in ("barenets.ops.conv.Conv2D", "barenets.look.explain.grad_cam", "barenets.train.loop.Trainer.step"):
        assert f'id="{name}"' in reference

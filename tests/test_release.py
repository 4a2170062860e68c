"""What is said in several places is the same in all (version, Pythons, licence), and forms have their parts."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

import barenets

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## (\S+), (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == barenets.__version__ == CITATION["version"]


def test_pythons_are_those_that_the_matrix_runs() -> None:
    classifiers = re.findall(r"Python :: 3\.(\d+)", SETUP["metadata"]["classifiers"])
    pythons = [int(minor) for minor in classifiers]
    assert pythons == list(range(pythons[0], pythons[-1] + 1))
    ends = [SETUP[f"testenv:{end}"]["base_python"] for end in ("oldest", "newest")]
    assert ends == [f"python3.{pythons[0]}", f"python3.{pythons[-1]}"]
    assert SETUP["options"]["python_requires"] == f">=3.{pythons[0]}"
    assert SETUP["mypy"]["python_version"] == f"3.{pythons[0]}"
    assert f'target-version = "py3{pythons[0]}"' in (ROOT / "ruff.toml").read_text()


def test_every_dependency_has_a_lower_bound() -> None:
    options = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    lines = [line for option in options for line in option.split("\n") if line and not line.startswith("#")]
    assert len(lines) > 10
    assert [line for line in lines if ">=" not in line and not line.startswith(("barenets[", "types-"))] == []


def test_citation_has_what_the_format_demands_and_agrees_with_the_package() -> None:
    """The required fields of schema 1.2.0."""
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"]
    assert CITATION["title"].startswith("barenets")
    assert all(set(author) & {"name", "family-names", "given-names", "alias"} for author in CITATION["authors"])
    assert CITATION["license"] == SETUP["metadata"]["license"]
    assert CITATION["keywords"] == SETUP["metadata"]["keywords"].split(", ")


@pytest.mark.parametrize("name", ["bug", "weights", "question"])
def test_issue_form(name: str) -> None:
    """What GitHub demands of a form; it shows nothing of one that lacks it."""
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields) > 0
    for part in form["body"]:
        assert part["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]

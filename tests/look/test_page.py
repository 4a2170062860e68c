"""The page of a report: what is written into it, and what a browser makes of it, against the report's numbers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from barenets import UserError
from barenets.look import page
from tests.look.browser import a_browser  # noqa: F401 (a fixture)

EVIL = "</script><script>window.hacked = 1</script><!-- <img src=x onerror=alert(1)> & \"'\u2028"


def report(steps: int = 4, layers: int = 3, seed: int = 0) -> dict[str, Any]:
    """Of `layers` layers with weights and biases; a variable that was not measured, one that is zero, and one NaN."""
    rng = np.random.default_rng(seed)
    names = [f"conv{i + 1}/{kind}" for i in range(layers) for kind in ("weights", "biases")]
    # With as many digits as are shown: Python and JavaScript do not round halves alike.
    norm = [[float(f"{x:.2e}") for x in row] for row in 10 ** rng.uniform(-6, 2, (steps, 2 * layers))]
    zeros = rng.random((steps, 2 * layers)).round(3).tolist()
    nonfinite = rng.integers(0, 9, (steps, 2 * layers)).tolist()
    norm[-1][1], norm[-1][2], norm[0][3] = None, 0.0, math.nan
    zeros[-1][:3] = 0.00025, 0.0, 1.0
    return {
        "format": "barenets report 1",
        "title": f"tiny {EVIL}",
        "steps": [10 * i for i in range(steps)],
        "scalars": {"loss": rng.uniform(0, 3, steps).tolist(), "accuracy": [None, *np.linspace(0, 1, steps - 1)]},
        "tables": {
            "variables": {
                "names": names,
                "quantities": {
                    "norm": {"label": "gradient norm", "log": True, "text": f"how large it is {EVIL}"},
                    "zeros": {"label": "zeros", "log": False, "share": True, "text": "share of zeros"},
                    "nonfinite": {"log": False, "text": "NaN and infinities"},
                },
                "values": {"norm": norm, "zeros": zeros, "nonfinite": nonfinite},
            },
            "activations": {
                "names": [f"relu1{EVIL}"],
                "quantities": {"spread": {"label": "spread", "log": True, "text": "standard deviation"}},
                "values": {"spread": rng.uniform(0.1, 9, (steps, 1)).tolist()},
            },
        },
        "findings": [
            {
                "kind": "vanishing gradient",
                "layers": [*names, *(f"more{i}" for i in range(9))],
                "value": 1e-7,
                "threshold": 1e-3,
                "text": f"The gradient vanishes. {EVIL}",
            }
        ],
        "pictures": [
            {"path": f"{EVIL}.jpg", "label": "tabby", "loss": 0.31, "norm": 2.4},
            {"path": "dog.jpg", "label": None, "loss": None, "norm": 17.0},
        ],
    }


def embedded(html: str) -> Any:
    """The report in a page, read as a browser does: up to the first end tag."""
    text = html.partition('id="report">')[2].partition("</script")[0]
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_names_cannot_leave_the_script() -> None:
    html = page.render(report())
    assert "hacked = 1</script" not in html
    assert html.count("<!--") == 0
    assert html.count("</script>") == 2
    assert embedded(html)["title"] == f"tiny {EVIL}"
    assert embedded(page.render({**report(), "title": "\udcff"}))["title"] == "\udcff"  # a path that is not UTF-8


def test_what_is_not_finite_becomes_null_and_floats_have_four_digits() -> None:
    given = report()
    given["scalars"]["loss"] = [math.nan, math.inf, -math.inf, 0.123456789]
    given["tables"]["variables"]["values"]["norm"][0] = [1.23456e-30, -98765.4321, 0.0, None, 1e300, 5.0]
    found = embedded(page.render(given))
    assert found["scalars"]["loss"] == [None, None, None, 0.1235]
    assert found["tables"]["variables"]["values"]["norm"][0] == [1.235e-30, -98770, 0, None, 1e300, 5]
    assert found["tables"]["variables"]["values"]["nonfinite"] == given["tables"]["variables"]["values"]["nonfinite"]
    assert found["findings"][0]["value"] == 1e-7


@pytest.mark.parametrize(("steps", "most", "kept"), [(1, 1, 1), (2, 1, 2), (100, 21 * 100, 100), (1000, 21 * 37, 37)])
def test_thinning_keeps_steps_in_equal_distances_and_both_ends(steps: int, most: int, kept: int) -> None:
    given = report(max(steps, 2))
    if steps == 1:
        given = _first_step(given)
    found = page.thinned(given, most)  # 2 scalars, 6 variables × 3 quantities, 1 activation
    indices = [step // 10 for step in found["steps"]]
    assert len(indices) == kept
    assert found["all_steps"] == steps
    assert (indices[0], indices[-1]) == (0, steps - 1)
    assert np.ptp(np.diff(indices)) <= 1 if kept > 1 else True
    assert found["scalars"]["loss"] == [given["scalars"]["loss"][i] for i in indices]
    for key, table in found["tables"].items():
        for quantity, values in table["values"].items():
            np.testing.assert_equal(values, [given["tables"][key]["values"][quantity][i] for i in indices])


def _first_step(given: dict[str, Any]) -> dict[str, Any]:
    first = page.thinned(given, 0)
    first["steps"] = first["steps"][:1]
    first["scalars"] = {name: values[:1] for name, values in first["scalars"].items()}
    for table in first["tables"].values():
        table["values"] = {name: values[:1] for name, values in table["values"].items()}
    return first


def test_the_page_of_a_long_run_is_below_10_megabytes() -> None:
    given = report(2, 160)  # 320 variables
    quantities = given["tables"]["variables"]["quantities"]
    row = (-1.23456e-105 * np.ones(320)).tolist()  # as long as a number gets
    given["tables"]["variables"]["quantities"] = {f"q{i}": quantities["norm"] for i in range(8)}
    given["tables"]["variables"]["values"] = {f"q{i}": [row] * 1000 for i in range(8)}
    given["tables"]["activations"]["values"]["spread"] = [[1.0]] * 1000
    given["scalars"], given["steps"] = {}, list(range(1000))
    assert 5e6 < len(page.render(given)) < 1e7


def test_nothing_in_the_page_is_elsewhere() -> None:
    html = page.render({**report(), "title": ""})
    assert "default-src 'none'" in html
    for word in ('src="', "@import", "url(http", "fetch(", "XMLHttpRequest", "innerHTML", "import("):
        assert word not in html.replace("<img src=x", ""), word


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report.html: cannot be written"):
        page.write(report(), str(tmp_path / "file" / "report.html"))


class Opened:
    """A report in the browser, and what is to be seen there."""

    def __init__(self, browser: Any, folder: Path, given: dict[str, Any]) -> None:
        self.browser = browser
        page.write(given, str(folder / "report.html"))
        browser.get_log("browser"), browser.get_log("performance")
        browser.get((folder / "report.html").as_uri())
        assert browser.get_log("browser") == []
        sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in sent if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith("data:")] == [(folder / "report.html").as_uri()]
        assert not browser.execute_script("return window.hacked || document.images.length")

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.browser.execute_script(script, selector)

    def cells(self, section: str) -> list[list[str]]:
        script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(
            row => [...row.children].map(cell => cell.textContent))"""
        return self.browser.execute_script(script, section)

    def find(self, selector: str) -> Any:
        (element,) = self.browser.find_elements("css selector", selector)
        return element

    def click_header(self, section: str, number: int) -> None:
        self.browser.execute_script("document.querySelector('.steps')?.remove()")  # it would be in the way
        self.find(f"#{section} th:nth-child({number}) button").click()

    def slide(self, index: int) -> None:
        script = "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
        self.browser.execute_script(script, self.find(".steps input"), index)

    def hover(self, selector: str, x: float, y: float, *, click: bool = False) -> list[str]:
        """Lines of the hint at a share of an element's width and height, with a true mouse."""
        from selenium.webdriver.common.action_chains import ActionChains

        script = """const e = arguments[0]; e.scrollIntoView({block: 'center'});
            const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"""
        left, top, width, height = self.browser.execute_script(script, self.find(selector))
        actions = ActionChains(self.browser, duration=10)
        actions.w3c_actions.pointer_action.move_to_location(int(left + x * width), int(top + y * height))
        if click:
            actions.click()
        actions.perform()
        tip = self.find("#tip")
        return self.browser.execute_script("return arguments[0].hidden ? '' : arguments[0].textContent", tip).split(
            "\n"
        )


def shown(value: float | None, *, log: bool = False, share: bool = False) -> str:
    """A number as the page writes it."""
    if value is None or math.isnan(value):
        return "–"
    if share:
        percent = 100 * value
        return (
            f"{percent:#.2g} %"
            if 0 < percent < 0.1
            else f"{percent:.1f} %"
            if 0 < percent < 100
            else f"{value * 100:g} %"
        )
    return f"{value:.2e}" if log else f"{value:g}"


def rows(given: dict[str, Any], step: int) -> list[list[str]]:
    table = given["tables"]["variables"]
    norm, zeros, nonfinite = (table["values"][q][step] for q in ("norm", "zeros", "nonfinite"))
    return [
        [str(i + 1), name, shown(norm[i], log=True), shown(zeros[i], share=True), str(nonfinite[i])]
        for i, name in enumerate(table["names"])
    ]


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return report()


@pytest.fixture
def opened(browser: Any, given: dict[str, Any], tmp_path: Path) -> Opened:
    return Opened(browser, tmp_path, given)


@pytest.mark.slow
def test_findings_and_numbers_are_the_reports(opened: Opened, given: dict[str, Any]) -> None:
    assert opened.texts("h1") == [given["title"]]
    assert opened.texts("#about") == ["6 variables, 1 activation, steps 0 to 30"]
    finding = given["findings"][0]
    assert opened.texts(".finding h3") == ["vanishing gradient"]
    assert opened.texts(".finding > p:not(.layers)") == [finding["text"], "found 1e-7, threshold 0.001"]
    layers = [name for text in opened.texts(".finding .layers") for name in text.split("  ")]
    assert layers == finding["layers"]
    assert opened.texts(".finding summary") == ["and 7 more layers"]
    assert opened.cells("variables") == rows(given, -1)
    assert opened.cells("activations")[0][:2] == ["1", f"relu1{EVIL}"]
    assert opened.cells("pictures") == [["dog.jpg", "–", "–", "17.0"], [f"{EVIL}.jpg", "tabby", "0.310", "2.40"]]
    assert f"how large it is {EVIL}" in opened.texts("#variables dd")


@pytest.mark.slow
def test_sorting_is_by_number_with_what_is_missing_last(opened: Opened, given: dict[str, Any]) -> None:
    table = given["tables"]["variables"]
    norm = table["values"]["norm"][-1]
    found = [i for i in range(6) if norm[i] is not None]
    down = [*sorted(found, key=lambda i: -norm[i]), 1]
    up = [*sorted(found, key=lambda i: norm[i]), 1]
    assert norm[1] is None
    for expected, aria in ((down, "descending"), (up, "ascending")):
        opened.click_header("variables", 3)
        assert [int(row[0]) - 1 for row in opened.cells("variables")] == expected
        assert opened.find("#variables th:nth-child(3)").get_attribute("aria-sort") == aria
    opened.click_header("variables", 2)
    assert [row[1] for row in opened.cells("variables")] == sorted(table["names"])
    opened.click_header("variables", 1)
    assert [row[0] for row in opened.cells("variables")] == list("123456")


@pytest.mark.slow
def test_the_slider_moves_table_chart_and_scalars(opened: Opened, given: dict[str, Any]) -> None:
    def line() -> str:
        return opened.find("#variables [data-chart] .curve").get_attribute("d")

    at_last = line()
    opened.slide(1)
    assert opened.texts("output") == ["step 10"]
    assert opened.cells("variables") == rows(given, 1)
    assert line() != at_last
    assert opened.texts("[data-scalar=accuracy] span") == ["0 %"]
    opened.slide(0)
    assert opened.texts("[data-scalar=accuracy] span") == ["–"]
    assert opened.cells("variables")[3][2] == "–"  # NaN
    opened.slide(3)
    assert line() == at_last


@pytest.mark.slow
def test_the_line_goes_through_the_values(opened: Opened, given: dict[str, Any]) -> None:
    """The weights' norms at step 10, by the ticks of the log scale; and the biases are dots."""
    opened.slide(1)
    script = """const chart = document.querySelector('[data-chart=variables]');
      return [[...chart.querySelectorAll('text')].filter(t => /^1e/.test(t.textContent)).map(
                  t => [Number(t.textContent.slice(2)), Number(t.getAttribute('y')) - 4]),
              chart.querySelector('.curve').getAttribute('d'),
              [...chart.querySelectorAll('.dot')].map(d => Number(d.getAttribute('cy')))]"""
    ticks, d, dots = opened.browser.execute_script(script)
    slope, offset = np.polyfit(*np.transpose(ticks), 1)
    norm = np.log10(given["tables"]["variables"]["values"]["norm"][1])
    corners = [float(part.split()[1].removesuffix("h0")) for part in d.replace("L", "M").split("M")[1:]]
    # Coordinates of lines are rounded to a tenth of a pixel.
    np.testing.assert_allclose(corners, slope * norm[::2] + offset, atol=0.1)
    np.testing.assert_allclose(dots, slope * norm[1::2] + offset, atol=0.1)


@pytest.mark.slow
def test_hints_tell_layer_quantity_and_value(opened: Opened, given: dict[str, Any]) -> None:
    table = given["tables"]["variables"]
    norm = table["values"]["norm"]
    for k, name in enumerate(table["names"]):
        x = (k + 0.5) / 6
        assert opened.hover("[data-heat=variables] image", x, 2.5 / 4) == [
            name,
            "step 20",
            f"gradient norm {shown(norm[2][k], log=True)}",
        ]
        value = f" {shown(norm[3][k], log=True)}" if norm[3][k] is not None else ": not measured, or not finite"
        assert opened.hover("[data-heat=variables] image", x, 3.5 / 4) == [name, "step 30", f"gradient norm{value}"]
    lines = opened.hover("[data-chart=variables] .grid:first-of-type", 2.5 / 6, 0)  # of the weights of conv2: a zero
    assert lines == ["conv2/weights", "step 30", "gradient norm 0.00e+00"]
    opened.hover("[data-heat=variables] image", 0.1, 1.5 / 4, click=True)
    assert opened.texts("output") == ["step 10"]
    assert opened.cells("variables") == rows(given, 1)
    loss = given["scalars"]["loss"]
    assert opened.hover("[data-scalar=loss] .curve", 1 / 3, 0.5) == ["step 10", f"loss {float(f'{loss[1]:.4g}'):.3g}"]


@pytest.mark.slow
def test_the_heat_map_is_coloured_by_value_and_hatched_where_none_is(opened: Opened, given: dict[str, Any]) -> None:
    script = """const done = arguments[0], image = new Image();
      image.onload = () => { const c = document.createElement('canvas'); c.width = image.width; c.height = image.height;
        const x = c.getContext('2d'); x.drawImage(image, 0, 0);
        done([...x.getImageData(0, 0, c.width, c.height).data]); };
      image.src = document.querySelector('[data-heat=variables] image').getAttribute('href')"""
    pixels = np.reshape(opened.browser.execute_async_script(script), [4, 6, 4])
    norm = np.array(given["tables"]["variables"]["values"]["norm"], np.float64)  # None becomes NaN
    assert ((pixels[..., 3] == 0) == np.isnan(norm)).all()
    assert pixels[norm == 0][:, :3].tolist() == [[0, 0, 0]]
    positive = norm > 0
    green = pixels[positive][:, 1][np.argsort(norm[positive])]  # grows all along the ramp
    assert (np.diff(green) >= 0).all()
    assert np.unique(green).size > 10
    assert opened.texts("[data-bar=variables] text")[:2] == ["no number", "0"]


@pytest.mark.slow
def test_quantities_and_names_can_be_chosen(opened: Opened, given: dict[str, Any]) -> None:
    opened.browser.execute_script("document.querySelector('.steps').style.position = 'static'")
    opened.find("#variables input[name=zeros]").click()
    assert len(opened.browser.find_elements("css selector", "[data-chart=variables] .curve")) == 2
    assert "share" in opened.texts("[data-chart=variables] > text")
    opened.find("#variables input[name=norm]").click()
    opened.find("#variables input[name=zeros]").click()
    opened.find("#variables input[type=search]").send_keys("biases")
    assert [row[1] for row in opened.cells("variables")] == ["conv1/biases", "conv2/biases", "conv3/biases"]
    opened.find("#variables select option[value=zeros]").click()
    zeros = given["tables"]["variables"]["values"]["zeros"]
    lines = opened.hover("[data-heat=variables] image", 2.5 / 3, 1.5 / 4)
    assert lines == ["conv3/biases", "step 10", f"zeros {shown(zeros[1][5], share=True)}"]
    opened.find("#variables input[type=search]").send_keys(" none such")
    assert opened.cells("variables") == []
    assert opened.browser.get_log("browser") == []


@pytest.mark.slow
def test_one_step_has_no_slider_and_no_heat_map(browser: Any, given: dict[str, Any], tmp_path: Path) -> None:
    single = _first_step(given) | {"findings": [], "pictures": [], "all_steps": 1}
    opened = Opened(browser, tmp_path, single)
    assert opened.cells("variables") == rows(single, 0)
    assert opened.texts(".finding h3") == ["nothing found"]
    assert not browser.find_elements("css selector", ".steps, [data-heat], #pictures")
    assert opened.texts("#about") == ["6 variables, 1 activation, step 0"]


@pytest.mark.slow
def test_a_long_run_is_shown_in_time(browser: Any, tmp_path: Path) -> None:
    given = report(1000, 160)
    table = given["tables"]["variables"]
    opened = Opened(browser, tmp_path, given)
    count = page.MOST_NUMBERS // (2 + 320 * 3 + 1)
    assert opened.texts("#about") == [
        f"320 variables, 1 activation, steps 0 to 9990; shown are {count} of 1,000 steps, evenly spaced, "
        "and report.json has all"
    ]
    assert opened.cells("variables") == rows(given, -1)
    assert [cells[1] for cells in opened.cells("variables")] == table["names"]
    begun = time.monotonic()
    for index in range(5):
        opened.slide(index)
    assert time.monotonic() - begun < 10  # 0.05 s each on an idle machine
    assert opened.cells("variables")[0][1:] == ["conv1/weights", *rows(given, page_step(given, 4))[0][2:]]


def page_step(given: dict[str, Any], index: int) -> int:
    """The place in the report of a step that the page shows."""
    return given["steps"].index(page.thinned(given)["steps"][index])

"""A real browser for tests that look at pages: Debian's chromium, without a window."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def start(width: int = 1400, height: int = 1000) -> Any:
    """A selenium driver; skips the test where chromium, chromedriver or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # A container has no sandbox and little /dev/shm; the rest keeps chromium from asking its makers for anything.
    for option in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        f"window-size={width},{height}",
    ):
        options.add_argument(f"--{option}")
    for option in ("disable-background-networking", "disable-component-update", "no-first-run", "disable-sync"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)  # with a path, selenium does not look for one online
    return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope="module", name="browser")
def a_browser() -> Iterator[Any]:
    driver = start()
    try:
        yield driver
    finally:
        driver.quit()

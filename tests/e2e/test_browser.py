"""The demo's page in a real browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import Daemon, program, pushd, wait_until
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

QUIET = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync disable-dev-shm-usage"
)


@contextmanager
def chromium(folder: Path, width: int, height: int) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for name in QUIET.split():
        options.add_argument(f"--{name}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A phone's width is less than a desktop window may have.
    options.add_experimental_option(
        "mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}}
    )
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def state(driver: Chrome) -> str:
    return str(driver.execute_script("return document.documentElement.dataset.state"))


def prices(driver: Chrome) -> dict[str, str]:
    found = driver.execute_script(
        "return [...document.querySelectorAll('[data-symbol]')].map("
        "row => [row.dataset.symbol, row.querySelector('.price').textContent])"
    )
    return dict(found)


def open_page(driver: Chrome, daemon: Daemon) -> None:
    driver.get(daemon.url("/"))
    wait_until(lambda: state(driver) == "live" and len(prices(driver)) >= 9, what="the live page")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_the_page_shows_stocks_that_move(tmp_path: Path, width: int, height: int) -> None:
    with pushd(tmp_path) as daemon, chromium(tmp_path, width, height) as driver:
        open_page(driver, daemon)
        before = prices(driver)
        wait_until(lambda: prices(driver) != before, what="a price's move")
        overflow = (
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert driver.execute_script(overflow) <= 0
        shown = driver.find_element(By.TAG_NAME, "body").text
        assert "undefined" not in shown
        assert "NaN" not in shown
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        picture = tmp_path / "page.png"
        assert driver.save_screenshot(str(picture))
        assert picture.stat().st_size > 20_000


def test_the_page_comes_back_after_a_restart(tmp_path: Path) -> None:
    with chromium(tmp_path, 1280, 900) as driver:
        with pushd(tmp_path) as daemon:
            open_page(driver, daemon)
            port = daemon.port
            daemon.process.end(signal.SIGTERM)
            wait_until(lambda: state(driver) == "reconnecting", what="the page's notice")
        (tmp_path / "again").mkdir()
        with pushd(tmp_path / "again", port=port):
            wait_until(lambda: state(driver) == "live", 30, what="the page's return")
            before = prices(driver)
            wait_until(lambda: prices(driver) != before, what="a price's move")

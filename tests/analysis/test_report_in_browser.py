"""The page in a real browser: it draws, sorts, fits a phone, and asks for nothing but itself."""

import json
import shutil

import pytest
from chain_sweep import write_chain_sweep
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from orchestrator.analysis.build import write_report
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.sweep_log import load_sweep

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield browser
    browser.quit()


def column(browser, number):
    rows = browser.find_elements(By.CSS_SELECTOR, "table.sortable tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[number].get_attribute("data-value") for row in rows]


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_page_in_a_browser(browser, log, tmp_path):
    browser.get(write_report(summarize(log), tmp_path / "report.html").as_uri())
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg .scatterlayer")) == 2
    assert browser.execute_script("const page = document.documentElement; return page.scrollWidth <= page.clientWidth")

    drawn = "return document.querySelectorAll('.plot .scatterlayer path.point').length"
    assert browser.execute_script(drawn) == 36 + 4
    press(browser, ".legend button[data-owner='ME+GD']")
    assert browser.execute_script(drawn) == 36 + 4 - 10

    heading = "table.sortable thead th:nth-child(3) button"
    for reverse in (False, True):
        press(browser, heading)
        values = column(browser, 2)
        assert values[-2:] == ["", ""]  # the failed ones have no objectives and stay last
        assert [float(v) for v in values[:-2]] == sorted((float(v) for v in values[:-2]), reverse=reverse)

    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert any(url.startswith("file:") for url in urls)
    assert [url for url in urls if url.startswith(("http", "ws"))] == []


def test_curves_over_the_tasks_in_a_browser(browser, tmp_path):
    log = load_sweep(write_chain_sweep(tmp_path / "sweep"))
    browser.get(write_report(summarize(log), tmp_path / "report.html").as_uri())
    assert len(browser.find_elements(By.CSS_SELECTOR, "#tasks .plot svg.main-svg .scatterlayer")) == 6
    lines = (
        "return [...document.querySelectorAll('#tasks .scatterlayer path.js-line')]"
        ".map((line) => [line.style.stroke, line.style.strokeDasharray])"
    )
    drawn = browser.execute_script(lines)
    assert len(drawn) == 6 * 5
    assert sum(dashes not in ("", "none") for _, dashes in drawn) == 6
    assert len({color for color, _ in drawn}) == 5
    press(browser, "#tasks .legend button[data-owner='ME+GD']")
    assert len(browser.execute_script(lines)) == 6 * 4
    pressed = "return [...document.querySelectorAll(\".legend button[data-owner='ME+GD']\")].map((b) => b.ariaPressed)"
    assert browser.execute_script(pressed) == ["false", "false"]
    for width in (360, 1600):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        fits = "const page = document.documentElement; return page.scrollWidth <= page.clientWidth"
        assert browser.execute_script(fits)
    assert [entry["message"] for entry in browser.get_log("browser")] == []

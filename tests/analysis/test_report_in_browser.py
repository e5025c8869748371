"""The page in a real browser: it draws, sorts, fits a phone, and asks for nothing but itself."""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from orchestrator.analysis.build import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture
def browser(log, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(write_report(log, tmp_path / "report.html").as_uri())
    yield browser
    browser.quit()


def column(browser, number):
    rows = browser.find_elements(By.CSS_SELECTOR, "table.sortable tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[number].get_attribute("data-value") for row in rows]


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_page_in_a_browser(browser):
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

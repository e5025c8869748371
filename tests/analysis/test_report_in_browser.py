"""The page in a real browser: it draws, sorts, fits a phone, and asks for nothing but itself."""

import csv
import io
import json
import shutil

import pytest
from chain_sweep import write_chain_sweep
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from synthetic_sweep import finished, header, started, write_records, write_sweep
from test_confirmation_table import confirmed
from test_confirmation_table import records as confirmed_records

from orchestrator.analysis.build import render, write_report
from orchestrator.analysis.overlay import overlay
from orchestrator.analysis.palette import method_colors, method_symbols, on_dark
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.journal import CellRecord, TrialState
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
    resize(browser, 360)
    yield browser
    browser.quit()


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def open_page(browser, page):
    """The whole page, with all that is drawn when a reader comes to it."""
    browser.get(page.as_uri())
    # `get` may return before the page's scripts have run.
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script("return document.readyState") == "complete")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")


def show(browser, log, path):
    """Open the page of a sweep."""
    open_page(browser, write_report(summarize(log), path / "report.html"))


def resize(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def rgb(color):
    """As a browser says `#rrggbb`."""
    return "rgb({}, {}, {})".format(*bytes.fromhex(color[1:]))


def fits(browser):
    return browser.execute_script("const page = document.documentElement; return page.scrollWidth <= page.clientWidth")


def asked_for(browser):
    """The addresses that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


def column(browser, number):
    cells = f"return [...document.querySelectorAll('#trials tbody tr')].map((row) => row.cells[{number}].textContent)"
    return browser.execute_script(cells)


def choose(browser, name, value, section="trials"):
    Select(browser.find_element(By.CSS_SELECTOR, f"#{section} select[name={name}]")).select_by_visible_text(value)


def downloaded(browser, folder, kind, section="trials"):
    """What the button writes, read when the file is whole."""
    folder.mkdir()
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    press(browser, f"#{section} [data-download={kind}]")
    # The browser takes the name with an empty file, and moves the whole one over it.
    WebDriverWait(browser, 20).until(lambda _: any(path.stat().st_size for path in folder.glob(f"*.{kind}")))
    (path,) = folder.glob(f"*.{kind}")
    return path.read_bytes().decode()


def test_page_in_a_browser(browser, log, tmp_path):
    browser.get(write_report(summarize(log), tmp_path / "report.html").as_uri())
    WebDriverWait(browser, 20).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#fronts .plot svg.main-svg"))
    below = "#settings figure:last-of-type .plot svg"
    assert not browser.find_elements(By.CSS_SELECTOR, below)  # drawn when a reader comes near
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.find_elements(By.CSS_SELECTOR, below)
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot svg.main-svg .scatterlayer")) == 2 + 2 * 3 * 2 + 1
    assert fits(browser)
    drawn = "return document.querySelectorAll('#fronts .scatterlayer path.point').length"
    assert browser.execute_script(drawn) == 36 + 4
    press(browser, ".legend button[data-owner='ME+GD']")
    assert browser.execute_script(drawn) == 36 + 4 - 10
    slices = "return document.querySelectorAll('#settings [data-slice*=\\'\"setting\":0\\'] path.point').length"
    assert browser.execute_script(slices) == 2 * (36 + 2 - 10)  # two objectives; diverged trials have crosses
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    urls = asked_for(browser)
    assert any(url.startswith("file:") for url in urls)
    assert [url for url in urls if url.startswith(("http", "ws"))] == []


def test_trials_are_sorted_filtered_and_turned_by_keyboard(browser, tmp_path):
    show(browser, load_sweep(write_sweep(tmp_path / "sweep", num_trials=15)), tmp_path)
    status = browser.find_element(By.CSS_SELECTOR, "#trials [role=status]")
    assert status.text == "1 to 50 of 120 trials"
    heading = browser.find_element(By.CSS_SELECTOR, "#trials thead th:nth-child(3) button")
    earlier, later = browser.find_elements(By.CSS_SELECTOR, "#trials .pages button")
    for reverse in (False, True):
        heading.send_keys(Keys.ENTER)
        assert browser.switch_to.active_element == heading
        values = column(browser, 2)
        while later.is_enabled():
            later.send_keys(Keys.SPACE)
            values += column(browser, 2)
        known = [float(value) for value in values if value != "–"]
        # Failed and diverged ones have no scores, and stay last.
        assert 0 < len(known) < 120 and set(values[len(known) :]) == {"–"}
        assert known == sorted(known, reverse=reverse)
    assert status.text == "101 to 120 of 120 trials" and earlier.is_enabled()
    choose(browser, "method", "IDK+AP")
    assert status.text == "30 trials (120 in all)"
    choose(browser, "state", "failed")
    choose(browser, "set", "forget05")
    assert status.text == "1 trial (120 in all)" and column(browser, 0) == ["IDK+AP/forget05/3"]
    assert column(browser, 8)[0].startswith("MemoryError: rank 1 peaked")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_answers_are_filtered(browser, log, tmp_path):
    show(browser, log, tmp_path)
    visible = "return [...document.querySelectorAll('#answers {}')].filter((one) => one.checkVisibility()).length"
    questions, answers, gone = (visible.format(name) for name in (".question", "[data-owner] dd", ".question del"))
    assert browser.execute_script(questions) == 2 * 5  # the third one of a set is folded away
    text = browser.find_element(By.CSS_SELECTOR, "#answers input[name=text]")
    text.send_keys("LEADERSHIP", Keys.ENTER)
    assert browser.execute_script(questions) == 2 and browser.execute_script(answers) == 2 * 6
    status = browser.find_element(By.CSS_SELECTOR, "#answers [role=status]")
    assert status.text == "2 questions of 12"
    choose(browser, "method", "NPO+GD", section="answers")
    assert browser.execute_script(answers) == 2 * 3
    text.clear()
    choose(browser, "set", "real authors", section="answers")
    assert browser.execute_script(questions) == 2 and fits(browser)
    choose(browser, "set", "all", section="answers")
    says = "const said = document.querySelector('#answers .question dd:last-of-type');"
    browser.execute_script(says + "said.innerHTML = '<del>old</del> <ins>new</ins>'")
    assert browser.execute_script(gone) == 1
    press(browser, "#answers input[name=marks]")
    assert browser.execute_script(gone) == 0
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_downloads_hold_what_is_shown_and_no_formula(browser, tmp_path):
    evil = "=HYPERLINK(1)"
    cells = (CellRecord(name=f"{evil}/f", method=evil, forget_set="f", num_trials=2),)
    params = [{"rate": 1e-5, "kind": '@a,"b"'}, {"rate": -2.5e-5, "kind": "plain"}]
    records = [header(cells=cells, name="small")]
    for number, values in enumerate(params):
        start = started(evil, "f", number, values)
        ending = {"state": TrialState.FAILED, "error": "-1 left\nof 2"} if number else {}
        records += [start, finished(start.key, None if number else (0.5, 0.25), **ending)]
    show(browser, load_sweep(write_records(tmp_path / "sweep", records)), tmp_path)
    text = downloaded(browser, tmp_path / "csv", "csv")
    assert text.endswith("\r\n")
    names, first, second = csv.reader(io.StringIO(text, newline=""))
    assert names == [
        "trial", "method", "forget_set", "number", "state", "model_utility", "forget_efficacy", "rate", "kind",
        "seconds", "error", "seed", "forget/rouge", "retain/rouge", "forget/token_entropy", "forget_quality",
    ]  # fmt: skip
    assert first == [f"'{evil}/f/0", f"'{evil}", "f", "0", "complete", "0.5", "0.25", "0.00001", '\'@a,"b"', "39.5", "",
                     "", "0.75", "0.5", "0.91", "0.000013"]  # fmt: skip
    assert second[5:9] == ["", "", "-0.000025", "plain"] and second[10] == "'-1 left\nof 2"
    choose(browser, "state", "complete")
    (only,) = json.loads(downloaded(browser, tmp_path / "json", "json"))
    assert only["trial"] == f"{evil}/f/0" and only["kind"] == '@a,"b"' and only["error"] is None
    assert (only["method"], only["number"], only["rate"], only["model_utility"]) == (evil, 0, 1e-5, 0.5)
    assert [url for url in asked_for(browser) if url.startswith(("http", "ws"))] == []


def test_curves_over_the_tasks_in_a_browser(browser, tmp_path):
    show(browser, load_sweep(write_chain_sweep(tmp_path / "sweep")), tmp_path)
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
    assert browser.execute_script(pressed) == ["false"] * 4
    states = column(browser, 1)
    assert "diverged after task 2" in states and "failed" in states and "complete" in states
    for width in (360, 1600):
        resize(browser, width)
        assert fits(browser)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_every_confirmation_run_can_be_downloaded(browser, tmp_path):
    show(browser, load_sweep(write_records(tmp_path / "sweep", confirmed_records(confirmed()))), tmp_path)
    runs = json.loads(downloaded(browser, tmp_path / "json", "json", "confirmation"))
    assert len(runs) == 2 + 2 * 4
    assert {run["confirms"] for run in runs if run["method"] == "A"} == {"A/f/0", "A/f/1", "A/f/2"}
    assert [run["model_utility"] for run in runs if run["confirms"] == "A/f/1"] == [0.2, 0.4]
    names, *lines = csv.reader(io.StringIO(downloaded(browser, tmp_path / "csv", "csv", "confirmation"), newline=""))
    assert names[-1] == "confirms" and [line[0] for line in lines] == [run["trial"] for run in runs]
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_methods_are_told_apart_by_symbols(browser, log, tmp_path):
    show(browser, log, tmp_path)
    symbols = browser.execute_script(
        "return [...document.querySelectorAll('#fronts .plot')].map((plot) => plot.data"
        ".filter((trace) => trace.meta.owner).map((trace) => [trace.meta.owner, trace.marker.symbol]))"
    )
    expected = method_symbols(summarize(log).methods)
    for plot in symbols:
        assert {tuple(pair) for pair in plot} == set(expected.items())
    swatches = "return [...document.querySelectorAll('#fronts .legend .swatch')].map((one) => one.className)"
    assert browser.execute_script(swatches) == [f"swatch {expected[method]}" for method in summarize(log).methods]


def test_an_overlay_in_a_browser(browser, tmp_path):
    sweeps = {name: summarize(load_sweep(write_sweep(tmp_path / name, seed=seed))) for seed, name in enumerate("ab")}
    page = tmp_path / "both.html"
    page.write_text(render(overlay(sweeps)), encoding="utf-8")
    open_page(browser, page)
    drawn = "return document.querySelectorAll('#fronts .scatterlayer path.point').length"
    assert browser.execute_script(drawn) == 2 * 36 + 4  # the baselines are the same models, and drawn once
    press(browser, ".legend button[data-owner='ME+GD (b)']")
    assert browser.execute_script(drawn) == 2 * 36 + 4 - 10
    choose(browser, "method", "ME+GD (b)")
    assert all(name.startswith("b: ME+GD/") for name in column(browser, 0))
    for width in (360, 1600):
        resize(browser, width)
        assert fits(browser)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_names_of_baselines_are_whole_and_cover_no_point(browser, log, tmp_path):
    names = """return [...document.querySelectorAll("#fronts .plot")].map((plot) => {
      const boxes = [plot, ...plot.querySelectorAll("path.point")].map((one) => one.getBoundingClientRect());
      const [outer, ...points] = boxes;
      return [...plot.querySelectorAll(".annotation-text")].map((name) => {
        const box = name.getBoundingClientRect();
        const isBeside = (point) => box.left >= point.right || box.right <= point.left;
        const isOn = (point) => !isBeside(point) && box.top < point.bottom && box.bottom > point.top;
        return [name.textContent, box.left >= outer.left && box.right <= outer.right, points.filter(isOn).length];
      });
    });"""
    for width in (360, 1200):
        resize(browser, width)
        show(browser, log, tmp_path)
        assert browser.execute_script(names) == [[["before", True, 0], ["retain model", True, 0]]] * 2


def test_a_dark_page_has_dark_paper_and_the_colours_for_it(browser, log, tmp_path):
    looks = """const [trace] = document.querySelector("#fronts .plot").data.filter((one) => one.meta.owner === "ME+GD");
    const swatch = document.querySelector(".legend button[data-owner='ME+GD'] .swatch");
    const [paper, color] = [document.body, swatch].map((one) => getComputedStyle(one).backgroundColor);
    return [trace.marker.color, paper, color];"""
    own = method_colors(summarize(log).methods)["ME+GD"]
    assert on_dark(own) != own
    for scheme, color, paper in (("light", own, "#fbfbf9"), ("dark", on_dark(own), "#151618")):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        show(browser, log, tmp_path)
        assert browser.execute_script(looks) == [color, rgb(paper), rgb(color)]
    feature = {"name": "prefers-color-scheme", "value": "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})  # while the page is open
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script(looks)[0] == own)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_page_fits_a_wide_window(browser, log, tmp_path):
    resize(browser, 1600)
    show(browser, log, tmp_path)
    assert fits(browser)
    columns = "return new Set([...document.querySelectorAll('#fronts .plot')].map((plot) => plot.offsetTop)).size"
    assert browser.execute_script(columns) == 1  # both fronts beside each other


def test_figures_are_drawn_anew_for_another_width(browser, log, tmp_path):
    show(browser, log, tmp_path)
    looks = """return [...document.querySelectorAll(arguments[0])].map((plot) => {
      const [box, drawn] = [plot, plot.querySelector("svg.main-svg")].map((part) => part?.getBoundingClientRect());
      if (!drawn) return [false];  // it is just being drawn anew
      const caption = plot.nextElementSibling?.getBoundingClientRect().top ?? Infinity;
      const covered = Math.max(0, drawn.bottom - caption);
      return [Math.abs(drawn.width - box.width) < 1, drawn.height, box.height, covered, plot.layout.dragmode];
    })"""
    for width, height, drag in ((1200, 420, "zoom"), (360, 320, False), (1200, 420, "zoom")):
        resize(browser, width)
        assert fits(browser)
        # What is far below follows when a reader comes near.
        for selector, tall in (("#fronts .plot", height), ("#settings h4:last-of-type + .panels .plot", 320)):
            browser.execute_script("document.querySelector(arguments[0]).scrollIntoView()", selector)
            WebDriverWait(browser, 20).until(
                lambda _, at=selector: all(f[0] for f in browser.execute_script(looks, at))
            )
            found = browser.execute_script(looks, selector)
            assert found == [[True, tall, tall, 0, drag]] * len(found) and len(found) == 2
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_axes_write_small_numbers_as_the_tables_do(browser, tmp_path):
    show(browser, load_sweep(write_chain_sweep(tmp_path / "sweep")), tmp_path)
    ticks = "return [...document.querySelectorAll('#settings .xtick text')].map((tick) => tick.textContent)"
    assert set(browser.execute_script(ticks)) == {"1e−5", "1.5e−5", "2e−5", "2.5e−5", "3e−5"}

"""Pictures of a finished sweep: its report, wide, narrow and dark, and its page in MLflow; or a part of the report.

python -m benchmarks.pictures SWEEP_DIR OUT_DIR                           report.png and its kin, mlflow.png
python -m benchmarks.pictures SWEEP_DIR OUT_DIR --only NAME FIRST LAST    NAME.png: from FIRST to LAST of the report

FIRST and LAST are CSS selectors of elements of the page: the picture ends where LAST does, without what follows it. The
sweep's folder is only read: the report is made anew from its journal, which an MLflow server of our own shows as well,
on a store that is thrown away.
"""

import argparse
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from orchestrator.analysis.build import write_report
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.journal import JournalError
from orchestrator.tracking.sweep_log import load_sweep

FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "hide-scrollbars",
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip
WIDTH, PHONE_WIDTH = 1400, 360
MLFLOW_HEIGHT = 1400
MARGIN = 24  # pixels above and below a part of the report
WAIT_SECONDS = 180
# Takes away what follows an element, so that a picture that ends with it has nothing in halves.
END_WITH = """
for (let at = arguments[0]; at !== document.body; at = at.parentElement)
  for (let next = at.nextElementSibling; next; next = next.nextElementSibling) next.hidden = true;
"""
ALL_DRAWN = """
const plots = [...document.querySelectorAll(".plot")].filter((plot) => plot.checkVisibility());
return plots.every((plot) => Number(plot.dataset.drawn) === plot.clientWidth);
"""
TOP_AND_BOTTOM = "return [arguments[0].getBoundingClientRect().top, arguments[1].getBoundingClientRect().bottom]"
# The assistant beside the charts, and the note that the view is a shared one.
CLOSING = ("[data-component-id='mlflow.assistant.chat_panel.close']", "button[aria-label='Hide banner']")


class Picture(NamedTuple):
    """A part of the report: from the top of the first element of a CSS selector to the bottom of that of another."""

    name: str
    first: str
    last: str
    width: int = WIDTH
    is_dark: bool = False


PICTURES = (
    Picture("report", "header", "#best .scroll"),
    Picture("report_narrow", "header", "#fronts figure", width=PHONE_WIDTH),
    Picture("report_dark", "header", "#fronts", is_dark=True),
)


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server that keeps everything in `folder` and ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    output = folder / "server.log"
    with output.open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for_server(address, server, output)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the group is the server's own: start_new_session
        server.wait(30)


def _wait_for_server(address: str, server: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"mlflow server did not start:\n{output.read_text()[-2000:]}")


def show_in_mlflow(sweep_dir: Path, address: str) -> str:
    """Write the sweep's view to the server; returns the address of the chart page."""
    command = [sys.executable, "-m", "orchestrator.sync", str(sweep_dir), "--tracking-uri", address]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.split("Open ")[1].split()[0]


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"user-data-dir={profile}", f"window-size={WIDTH},{MLFLOW_HEIGHT}"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def photograph_report(browser: Any, page: Path, picture: Picture, out: Path) -> None:
    """The part of the page, with its figures drawn."""
    _color(browser, "dark" if picture.is_dark else "light")
    browser.get(page.resolve().as_uri())
    _until(browser, lambda: browser.execute_script("return document.readyState") == "complete")  # `get` may be earlier
    first, last = (browser.find_element(By.CSS_SELECTOR, selector) for selector in (picture.first, picture.last))
    browser.execute_script(END_WITH, last)

    def is_drawn() -> bool:
        """A figure is drawn when it is near to the window, which therefore holds the whole page."""
        _resize(browser, picture.width, browser.execute_script("return document.documentElement.scrollHeight"))
        return bool(browser.execute_script(ALL_DRAWN))

    _until(browser, is_drawn)
    top, bottom = browser.execute_script(TOP_AND_BOTTOM, first, last)
    top = max(0, top - MARGIN)
    _save(browser, out, {"x": 0, "y": top, "width": picture.width, "height": bottom + MARGIN - top, "scale": 1})


def photograph_mlflow(browser: Any, address: str, out: Path) -> None:
    """The saved chart view: runs on the left, the objectives and the settings on the right."""
    _color(browser, "light")
    _resize(browser, WIDTH, MLFLOW_HEIGHT)
    browser.get(address)
    _until(browser, lambda: "matching runs" in browser.find_element(By.TAG_NAME, "body").text)
    _until(browser, lambda: _count(browser, ".scatterlayer .point") > 0)
    for selector in CLOSING:
        for button in browser.find_elements(By.CSS_SELECTOR, selector):
            button.click()
    _until(browser, lambda: _count(browser, ".scatterlayer .point") > 0)
    time.sleep(3)  # the charts take their new width in a transition
    _save(browser, out)


def _count(browser: Any, selector: str) -> int:
    return len(browser.find_elements(By.CSS_SELECTOR, selector))


def _until(browser: Any, holds: Callable[[], bool]) -> None:
    WebDriverWait(browser, WAIT_SECONDS, ignored_exceptions=[StaleElementReferenceException]).until(lambda _: holds())


def _color(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _resize(browser: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _save(browser: Any, out: Path, clip: dict[str, float] | None = None) -> None:
    options = {"format": "png", "optimizeForSpeed": False} | ({"clip": clip} if clip else {})
    out.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR", help="folder of a finished sweep")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where the pictures go")
    parser.add_argument("--only", nargs=3, metavar=("NAME", "FIRST", "LAST"), help="this part of the report alone")
    arguments = parser.parse_args()
    try:
        summary = summarize(load_sweep(arguments.sweep_dir, keeps_steps=False))
    except (JournalError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lethe-pictures-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        report = write_report(summary, scratch / "report.html")
        with chromium(scratch / "browser") as browser:
            for picture in [Picture(*arguments.only)] if arguments.only else PICTURES:
                photograph_report(browser, report, picture, arguments.out_dir / f"{picture.name}.png")
            if not arguments.only:
                with mlflow_server(scratch) as address:
                    page = show_in_mlflow(arguments.sweep_dir, address)
                    photograph_mlflow(browser, page, arguments.out_dir / "mlflow.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

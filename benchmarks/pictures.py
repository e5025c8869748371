"""The pictures of the README, from a finished sweep: `python -m benchmarks.pictures SWEEP_DIR OUT_DIR`.

The sweep's folder is only read: its journal is shown by an MLflow server of our own, on a store that is thrown away.
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
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "hide-scrollbars",
    "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip
WIDTH = 1400
REPORT_HEIGHT, MLFLOW_HEIGHT = 1780, 1400
WAIT_SECONDS = 180
# The assistant beside the charts, and the note that the view is a shared one.
CLOSING = ("[data-component-id='mlflow.assistant.chat_panel.close']", "button[aria-label='Hide banner']")


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


def photograph_report(browser: Any, page: Path, out: Path) -> None:
    """The top of the report, with its plots."""
    _resize(browser, REPORT_HEIGHT)
    browser.get(page.resolve().as_uri())
    _until(browser, lambda: _count(browser, ".plot svg.main-svg .scatterlayer path.point") > 0)
    _save(browser, out)


def photograph_mlflow(browser: Any, address: str, out: Path) -> None:
    """The saved chart view: runs on the left, the objectives and the settings on the right."""
    _resize(browser, MLFLOW_HEIGHT)
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


def _resize(browser: Any, height: int) -> None:
    size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _save(browser: Any, out: Path) -> None:
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "optimizeForSpeed": False})["data"]
    out.write_bytes(base64.b64decode(picture))
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR", help="folder of a finished sweep")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="where report.png and mlflow.png go")
    arguments = parser.parse_args()
    report = arguments.sweep_dir / "report.html"
    if not report.is_file():
        sys.stderr.write(f"error: {report} does not exist; make it with python -m orchestrator.report\n")
        return 2
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lethe-pictures-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        with chromium(scratch / "browser") as browser, mlflow_server(scratch) as address:
            photograph_report(browser, report, arguments.out_dir / "report.png")
            page = show_in_mlflow(arguments.sweep_dir, address)
            photograph_mlflow(browser, page, arguments.out_dir / "mlflow.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

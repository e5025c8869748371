import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from orchestrator import sync
from orchestrator.analysis.palette import method_colors
from orchestrator.tracking import pump as pump_module
from orchestrator.tracking.journal import (
    CellRecord,
    ExampleAnswer,
    Journal,
    ObjectiveRecord,
    Record,
    StepRecord,
    StepsReported,
    SweepStarted,
    TaskFinished,
    TrialFinished,
    TrialStarted,
)
from orchestrator.tracking.pump import Pump
from tests.ray.servers import MlflowServer

pytestmark = pytest.mark.ray
NUM_TRIALS, NUM_STEPS = 4, 10
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path)
    yield made
    made.stop()


def _records() -> list[Record]:
    objectives = tuple(
        ObjectiveRecord(metric=name, direction="maximize", worst=0.0) for name in ("model_utility", "forget_efficacy")
    )
    cells = tuple(
        CellRecord(name=f"{name}/forget10", method=name, forget_set="forget10", num_trials=2)
        for name in ("NPO+KL", "GA")
    )
    header = SweepStarted(
        name="late", seed=1, config={}, cells=cells, objectives=objectives, lookahead=1,
        versions={}, command="sweep",
    )  # fmt: skip
    records: list[Record] = [header]
    for number in range(NUM_TRIALS):
        method = cells[number % 2].method
        key = f"{method}/forget10/t{number:03d}"
        params = {"train.learning_rate": 1e-5 * (number + 1)}
        records.append(
            TrialStarted(key=key, method=method, forget_set="forget10", number=number, params=params, config={})
        )
        steps = [
            StepRecord(step=i, loss=1.0 / (i + 1), forget_loss=1.0, retain_loss=None, learning_rate=1e-5, grad_norm=1.0)
            for i in range(NUM_STEPS)
        ]
        records.append(StepsReported(key=key, steps=tuple(steps)))
        records += [
            TaskFinished(
                key=key, task=task, name=str(task), num_steps=5 * task, metrics={"forget_efficacy": 0.3 * task}
            )
            for task in (1, 2)
        ]
        answer = ExampleAnswer(set_name="forget", index=0, question="Who?", truth="Basil", output=HOSTILE)
        scores = {"model_utility": 0.6 - 0.1 * number, "forget_efficacy": 0.2 + 0.1 * number}
        records.append(
            TrialFinished(key=key, state="COMPLETE", metrics=scores, checkpoint=f"trials/{key}", examples=(answer,))
        )
    return records


def _journal(sweep_dir: Path) -> list[Record]:
    records = _records()
    journal = Journal(sweep_dir / "journal")
    for record in records:
        journal.append(record)
    journal.close()
    return records


def _pump(server: MlflowServer, sweep_dir: Path) -> Pump[Any]:
    def make_view() -> Any:
        from orchestrator.tracking.mlflow_view import MlflowView

        return MlflowView(server.url, sweep_dir)

    return Pump(make_view, uri=server.url, sweep_dir=sweep_dir)


def _models(server: MlflowServer) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("late / run1")
    return {model.name: model.model_id for model in client.search_logged_models([experiment.experiment_id])}


def _points(page: Any, number: int) -> list[Any] | None:
    """The points of the scatter of the objectives, once there are exactly so many."""
    cards = page.find_elements(By.CSS_SELECTOR, "[data-testid='experiment-view-compare-runs-card']")
    scatter = [card for card in cards if "model_utility vs. forget_efficacy" in card.text]
    points = [point for card in scatter for point in card.find_elements(By.CSS_SELECTOR, ".scatterlayer .point")]
    return points if len(points) == number else None


def _rgb(color: str) -> str:
    return "rgb({}, {}, {})".format(*bytes.fromhex(color.removeprefix("#")))


def _steps_per_run(server: MlflowServer) -> dict[str, int]:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("late / run1")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: len(client.get_metric_history(run.info.run_id, "train/loss")) for run in runs}


def test_a_view_catches_up_with_a_server_that_comes_late_and_goes_again(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pump_module, "LONGEST_PAUSE_SECONDS", 0.5)
    caplog.set_level(logging.WARNING)
    records = _journal(tmp_path / "run1")
    pump = _pump(server, tmp_path / "run1")
    for record in records[:6]:
        pump.put(record)
    while not caplog.records:  # the outage was noticed
        time.sleep(0.1)
    server.start()
    for record in records[6:]:
        pump.put(record)
    assert pump.close(120) == 0
    assert list(_steps_per_run(server).values()) == [NUM_STEPS] * NUM_TRIALS
    assert [record.name for record in caplog.records] == ["orchestrator.tracking.pump"]

    server.stop()
    pump = _pump(server, tmp_path / "run1")
    for record in records:
        pump.put(record)
    assert pump.close(120) == len(records)

    server.start()
    assert sync.main([str(tmp_path / "run1"), "--tracking-uri", server.url]) == 0
    assert list(_steps_per_run(server).values()) == [NUM_STEPS] * NUM_TRIALS


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_one_address_opens_the_chart_of_the_objectives(server, tmp_path, capsys):
    _journal(tmp_path / "run1")
    server.start()
    assert sync.main([str(tmp_path / "run1"), "--tracking-uri", server.url]) == 0
    address = capsys.readouterr().out.split("Open ")[1].split()[0]
    options = webdriver.ChromeOptions()
    quiet = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update")
    for flag in (*quiet, "disable-sync", "no-first-run", "window-size=1600,2200", f"user-data-dir={tmp_path}/browser"):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(address)
        wait = WebDriverWait(browser, 120, ignored_exceptions=[StaleElementReferenceException])
        wait.until(lambda page: "matching runs" in page.find_element(By.TAG_NAME, "body").text)
        points = wait.until(lambda page: _points(page, NUM_TRIALS))
        text = browser.find_element(By.TAG_NAME, "body").text
        assert f"{NUM_TRIALS}\nmatching runs" in text or f"{NUM_TRIALS} matching runs" in text
        assert "Parallel Coordinates" in text and "model_utility vs. forget_efficacy" in text
        assert "Tasks\n(1)" in text and text.count("(task/forget_efficacy)") == NUM_TRIALS
        colors = {point.value_of_css_property("fill") for point in points}
        methods = method_colors(["NPO+KL", "GA"])
        assert colors == {_rgb(methods["NPO+KL"]), _rgb(methods["GA"])}
        run = browser.find_element(By.LINK_TEXT, "GA/forget10/t001").get_attribute("href")
        models = _models(server)
        browser.get(f"{address.split('/runs?')[0]}/models/{models['GA-forget10-t001']}?workflowType=machine_learning")
        wait.until(lambda page: "forget_efficacy" in page.find_element(By.TAG_NAME, "body").text)
        browser.get(f"{run}/artifacts/examples.json")
        wait.until(lambda page: HOSTILE[:20] in page.find_element(By.TAG_NAME, "body").text)
        assert "owned" not in browser.title
    finally:
        browser.quit()

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
NUM_MANY, NUM_FRONT = 110, 10
FIRST_ROWS = """return [...document.querySelectorAll('.ag-row')].filter((row) => row.querySelector('a'))
    .sort((a, b) => a.getAttribute('row-index') - b.getAttribute('row-index'))
    .map((row) => row.querySelector('a').textContent)"""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium")
    options = webdriver.ChromeOptions()
    quiet = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update")
    for flag in (*quiet, "disable-sync", "no-first-run", "window-size=1600,2200", f"user-data-dir={tmp_path}/browser"):
        options.add_argument(f"--{flag}")
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield made
    made.quit()


def _wait(browser: Any) -> WebDriverWait:
    return WebDriverWait(browser, 120, ignored_exceptions=[StaleElementReferenceException])


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


def _many() -> tuple[list[Record], dict[str, tuple[float, float]]]:
    """A sweep of more runs than MLflow loads at once, and the scores of its front.

    The front began first, and its half that forgets best has the least utility of all.
    """
    records = _records()[:1]
    scores = {"before/forget10": (0.95, 0.1), "retain_model/forget10": (0.95, 0.9)}
    front = {f"GA/forget10/t{n:03d}": (round(0.9 - 0.09 * n, 2), round(0.3 + 0.05 * n, 2)) for n in range(NUM_FRONT)}
    rest = {f"GA/forget10/t{n:03d}": (round(0.5 + 0.001 * n, 3), 0.2) for n in range(NUM_FRONT, NUM_MANY - 2)}
    for place, (key, objectives) in enumerate((scores | front | rest).items()):
        method, number = key.partition("/")[0], None if key in scores else place - len(scores)
        start = records[0].time + 10 * place
        records += [
            TrialStarted(
                time=start, key=key, method=method, forget_set="forget10", number=number,
                params={} if number is None else {"train.learning_rate": 1e-6 * place}, config={},
            ),
            TrialFinished(
                time=start + 5, key=key, state="COMPLETE", objectives=None if number is None else objectives,
                metrics=dict(zip(("model_utility", "forget_efficacy"), objectives, strict=True)),
            ),
        ]  # fmt: skip
    return records, front


def _journal(sweep_dir: Path, records: list[Record]) -> list[Record]:
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


def _scatter(page: Any) -> list[Any]:
    """The card of the objectives, once it is there."""
    cards = page.find_elements(By.CSS_SELECTOR, "[data-testid='experiment-view-compare-runs-card']")
    return [card for card in cards if "model_utility vs. forget_efficacy" in card.text]


def _drawn(page: Any, number: int) -> set[tuple[float, float]] | None:
    """What the scatter of the objectives shows, once it has exactly so many different points."""
    read = """const plot = arguments[0].querySelector('.js-plotly-plot');
        return plot && plot.data.flatMap((trace) => [...trace.x].map((x, i) => [x, trace.y[i]]))"""
    found = [page.execute_script(read, card) for card in _scatter(page)]
    points = {(x, y) for plot in found for x, y in plot or ()}
    return points if len(points) == number else None


def _points(page: Any, number: int) -> list[Any] | None:
    """The points of the scatter of the objectives, once there are exactly so many."""
    scatter = _scatter(page)
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
    records = _journal(tmp_path / "run1", _records())
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


def test_one_address_opens_the_chart_of_the_objectives(server, browser, tmp_path, capsys):
    _journal(tmp_path / "run1", _records())
    server.start()
    assert sync.main([str(tmp_path / "run1"), "--tracking-uri", server.url]) == 0
    address = capsys.readouterr().out.split("Open ")[1].split()[0]
    browser.get(address)
    wait = _wait(browser)
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


def test_of_many_runs_the_front_is_seen_at_once_and_the_others_on_demand(server, browser, tmp_path, capsys):
    records, front = _many()
    _journal(tmp_path / "run1", records)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"  # the server's own, which is quicker without it
    assert sync.main([str(tmp_path / "run1"), "--tracking-uri", uri]) == 0
    said = capsys.readouterr().out
    assert f"MLflow loads 100 of the {NUM_MANY} runs at a time" in said
    server.start()
    browser.get(said.split("Open ")[1].split()[0].replace("http://127.0.0.1:5000", server.url))
    wait = _wait(browser)
    drawn = wait.until(lambda page: _drawn(page, 100))
    assert set(front.values()) <= drawn
    first = browser.execute_script(FIRST_ROWS)[: 2 + len(front)]
    assert set(first[:2]) == {"before/forget10", "retain_model/forget10"} and set(first[2:]) == set(front)
    wait.until(lambda page: page.find_element(By.XPATH, "//button[normalize-space()='Load more']")).click()
    wait.until(lambda page: _drawn(page, NUM_MANY))

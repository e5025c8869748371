"""Chains of tasks in MLflow: curves over the tasks, however often and in whatever pieces the journal is sent."""

import base64
import json
import shutil
import zlib
from pathlib import Path

import pytest
from store_content import content
from tracked_sweep import HOSTILE, write_chain_sweep

from orchestrator.tracking.journal import Record, TaskFinished, TrialStarted
from orchestrator.tracking.mlflow_view import MlflowView

KEY = "ME+GD/forget05/t000"


@pytest.fixture
def sweep(tmp_path: Path, uri: str) -> tuple[Path, list[Record]]:
    return tmp_path / "run1", write_chain_sweep(tmp_path / "run1", uri=uri)


def _points(uri: str, key: str) -> dict:
    (experiment,) = content(uri, with_ids=True).values()
    return next(run for run in experiment["runs"] if run["name"] == key)["points"]


def test_each_metric_of_a_task_is_a_point_at_the_tasks_number(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    tasks = [record for record in records if isinstance(record, TaskFinished) and record.key == KEY]
    points = _points(uri, KEY)
    expected = {
        f"task/{name}": [(t.task, int(t.time * 1000), repr(t.metrics[name])) for t in tasks if name in t.metrics]
        for name in tasks[-1].metrics
    }
    assert {name: values for name, values in points.items() if name.startswith("task/")} == expected
    assert [step for step, _, _ in expected["task/relapse"]] == [2, 3]
    assert "task/task2/forget_efficacy" in expected
    assert len(_points(uri, "before/forget05")["task/model_utility"]) == 3


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_tasks_are_sent_in_pieces_and_again_without_a_trace(uri, sweep, empty_store, tmp_path, piece):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    view = MlflowView(other, sweep_dir)
    for start in range(0, len(records), piece):
        view.apply(records[start : start + piece])
        view.apply(records[start : start + piece])
    view.apply(records)
    assert content(other, with_ids=False) == content(uri, with_ids=False)


def test_tasks_of_an_attempt_that_was_given_up_are_gone(uri, sweep):
    sweep_dir, records = sweep
    own = [record for record in records if getattr(record, "key", "") == KEY]
    first = [record for record in own if isinstance(record, TrialStarted | TaskFinished)]
    again = [record.model_copy(update={"time": record.time + 1000}) for record in first[:2]]
    for _ in range(2):
        MlflowView(uri, sweep_dir).apply([records[0], *first, *again])
        assert _points(uri, KEY)["task/forget_efficacy"] == [(1, int(again[1].time * 1000), repr(0.8))]
        assert "task/relapse" not in _points(uri, KEY)


def test_the_saved_page_draws_curves_over_the_tasks(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    view.write_page()
    (experiment,) = content(uri, with_ids=False).values()
    tag = experiment["tags"]["mlflow.sharedViewState.lethe"]
    assert len(tag) < 20_000  # MLflow's limit
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert [section["name"] for section in state["compareRunSections"]] == ["Objectives", "Tasks", "Settings"]
    lines = [chart for chart in state["compareRunCharts"] if chart["type"] == "LINE"]
    curves = ("forget_efficacy", "model_utility", "earlier/forget_efficacy", "relapse")
    assert [line["metricKey"] for line in lines] == [f"task/{name}" for name in curves]
    assert {line["xAxisKey"] for line in lines} == {"step"}
    assert HOSTILE not in repr(experiment["tags"])

"""The run that holds the report, and the GPU time of cells."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient
from store_content import content
from tracked_sweep import write_sweep

from orchestrator.analysis.summary import summarize
from orchestrator.tracking.mlflow_view import MlflowView
from orchestrator.tracking.sweep_log import log_of

KEY = "ME+GD/forget05/t001"


@pytest.fixture
def sweep(tmp_path, uri):
    sweep_dir = tmp_path / "run1"
    return sweep_dir, write_sweep(sweep_dir, uri=uri, num_steps=4)


def test_the_report_has_one_run_that_the_description_names(uri, sweep, tmp_path):
    sweep_dir, records = sweep
    (tmp_path / "report.html").write_text("<h1>Ergebnis: gut</h1>", encoding="utf-8")
    for _ in range(2):
        view = MlflowView(uri, sweep_dir)
        view.apply(records)
        fragment = view.log_report(tmp_path / "report.html", summarize(log_of(records, sweep_dir)))
    (experiment,) = content(uri, with_ids=True).values()
    (run,) = [run for run in experiment["runs"] if run["name"] == "report"]
    assert run["points"] == {}  # no GPUs were used
    assert run["artifacts"] == {"report.html": "<h1>Ergebnis: gut</h1>"}
    assert f"runs/{run['id']}/artifacts/report.html" in fragment
    assert "`report.html`" in experiment["tags"]["mlflow.note.content"]


def test_the_gpu_time_of_each_cell_is_with_the_report(uri, sweep, tmp_path):
    sweep_dir, records = sweep
    (tmp_path / "report.html").write_text("<h1>Report</h1>", encoding="utf-8")
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    for held, later in ((90.0, 0), (60.0, 5)):  # of a trial that failed and was tried again, the last attempt counts
        log = log_of(records, sweep_dir)
        log.trials[KEY].finished = log.trials[KEY].finished.model_copy(update={"gpu_seconds": held})
        summary = summarize(log)
        view.log_report(tmp_path / "report.html", replace(summary, last_time=summary.last_time + later))
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'tofu_small%'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`lethe.kind` = 'report'")
    assert run.data.metrics == {"gpu_seconds/ME-GD/forget05": 60.0}

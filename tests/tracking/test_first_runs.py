"""MLflow's page loads 100 runs at a time: which come first, and what it costs to say so."""

import base64
import json
import zlib

import pytest
from mlflow import MlflowClient
from tracked_sweep import write_sweep

from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking import mlflow_view
from orchestrator.tracking.mlflow_view import MlflowView

KEY = "ME+GD/forget05/t001"


@pytest.fixture
def sweep(tmp_path, uri):
    return tmp_path / "run1", write_sweep(tmp_path / "run1", uri=uri, num_steps=1)


def test_a_front_costs_requests_for_what_is_new_alone(uri, sweep, monkeypatch):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    requests = []

    class Counting(MlflowClient):
        def log_batch(self, *arguments, **named):
            requests.append("tag")
            return super().log_batch(*arguments, **named)

        def delete_tag(self, *arguments):
            requests.append("no tag")
            return super().delete_tag(*arguments)

    monkeypatch.setattr(mlflow_view, "MlflowClient", Counting)
    two_baselines = ["tag"] * 2
    for front, expected in (
        ({KEY, "NPO+KL/forget05/t002"}, [*two_baselines, "tag", "tag"]),
        ({"NPO+KL/forget05/t002"}, ["no tag"]),
        ({"NPO+KL/forget05/t002"}, []),
    ):
        requests.clear()
        MlflowView(uri, sweep_dir).mark_front(front)
        assert sorted(requests) == sorted(expected)


def test_the_saved_page_begins_with_the_baselines_and_the_front(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    front = {"ME+GD/forget05/t000", KEY, "GA+GD/forget05/t003"}  # best, and worst, in the first objective
    view.mark_front(front)
    view.write_page()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tofu_small / run1")
    packed = json.loads(experiment.tags[page.VIEW_TAG])["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    direction = "ASC" if state["orderByAsc"] else "DESC"
    runs = client.search_runs(
        [experiment.experiment_id], state["searchFilter"], order_by=[f"{state['orderByKey']} {direction}"]
    )  # as MLflow's page asks
    names = [run.info.run_name for run in runs]
    assert set(names[:2]) == {"before/forget05", "retain_model/forget05"}
    assert set(names[2:5]) == front
    assert names[5] == "GA+GD/forget05/t005" and len(names) == 26  # the others, the youngest first

"""Runs that confirm a search in MLflow: found by a tag, hidden in the saved view, and on no front."""

import base64
import json
import zlib

import pytest
from mlflow import MlflowClient
from store_content import content
from tracked_sweep import START, sweep_records, write_records

from orchestrator import sync
from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking.journal import SweepEnded, TrialFinished, TrialStarted, TrialState
from orchestrator.tracking.mlflow_view import MlflowView

FINALIST = "IDK+AP/forget05/t002"


@pytest.fixture
def sweep(tmp_path, uri):
    """The made-up sweep, then a finalist and the model before unlearning once more."""
    *records, _ = sweep_records(uri, 6, 4)
    records[0] = records[0].model_copy(update={"config": records[0].config | {"confirm": {"seeds": 1}}})
    for number, confirms in ((None, "before/forget05"), (1, FINALIST)):
        key, time = f"confirm/{confirms}{f'/s{number}' if number else ''}", START + 9000
        records += [
            TrialStarted(
                time=time, key=key, method=confirms.partition("/")[0], forget_set="forget05", number=number, params={},
                config={"seed": 99}, confirms=confirms,
            ),
            TrialFinished(
                time=time + 5, key=key, state=TrialState.COMPLETE, metrics={"model_utility": 0.4, "forget_efficacy": 1},
                objectives=(0.4, 1.0) if number else None,
            ),
        ]  # fmt: skip
    records.append(SweepEnded(time=START + 9999, state="done"))
    write_records(tmp_path / "run1", records)
    return tmp_path / "run1", records


def test_they_have_a_kind_of_their_own_and_name_what_they_confirm(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    key = f"confirm/{FINALIST}/s1"
    view.mark_front({FINALIST, key})
    (experiment,) = content(uri, with_ids=True).values()
    runs = {run["name"]: run for run in experiment["runs"]}
    tags = runs[key]["tags"]
    assert (tags["lethe.kind"], tags["lethe.confirms"], tags["lethe.seed"]) == ("confirmation", FINALIST, "99")
    assert (tags["lethe.method"], tags["lethe.number"]) == ("IDK+AP", "1")
    assert runs["confirm/before/forget05"]["tags"]["lethe.kind"] == "confirmation"
    assert "lethe.on_front" not in tags and runs[FINALIST]["tags"]["lethe.on_front"] == "true"
    assert "lethe.confirms" not in runs[FINALIST]["tags"] and runs[FINALIST]["tags"]["lethe.seed"] == "7"


def test_the_saved_view_shows_the_search_alone(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    view.write_page()
    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name.startswith("tofu_small"))
    packed = json.loads(experiment.tags[page.VIEW_TAG])["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    ids = [experiment.experiment_id]
    shown = {run.info.run_name for run in client.search_runs(ids, state["searchFilter"])}
    everything = {run.info.run_name for run in client.search_runs(ids)}
    assert everything - shown == {f"confirm/{FINALIST}/s1", "confirm/before/forget05"} and len(shown) == 26
    assert "lethe.confirms" in experiment.tags["mlflow.note.content"]


def test_sync_counts_them_apart(uri, sweep, capsys):
    assert sync.main([str(sweep[0]), "--tracking-uri", uri]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Wrote 24 trials, 2 runs that confirm them, 2 baselines and 96 steps of tofu_small")

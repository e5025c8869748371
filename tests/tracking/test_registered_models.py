"""The winners of a sweep in the model registry of a real store."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from store_content import registered
from tracked_sweep import START, write_sweep

from orchestrator.analysis.summary import summarize
from orchestrator.analysis.winners import winning_keys
from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking.journal import CheckpointDeleted, TrialFinished
from orchestrator.tracking.mlflow_view import MlflowView
from orchestrator.tracking.sweep_log import log_of

NAME = "tofu_small-run1-forget05"
UTILITY, FORGETTING = "IDK+AP/forget05/t000", "ME+GD/forget05/t005"  # the weights of ME+GD's t000 are gone


@pytest.fixture
def sweep_dir(tmp_path):
    return tmp_path / "run1"


def show(uri, sweep_dir, records, view=None):
    """Apply a journal and register who wins by it."""
    view = view or MlflowView(uri, sweep_dir)
    view.apply(records)
    log = log_of(records, sweep_dir)
    return view.register(log, winning_keys(summarize(log)))


def aliases(uri):
    return {alias: key for key, names in registered(uri)[NAME].items() for alias in names}


def test_each_winner_is_a_version_that_its_aliases_lead_to(uri, sweep_dir):
    records = write_sweep(sweep_dir, uri=uri, num_steps=2)
    for _ in range(2):
        assert show(uri, sweep_dir, records) == [NAME]
        found = aliases(uri)
        assert set(found) == {"pareto-knee", "best-utility", "best-forgetting"}
        assert (found["best-utility"], found["best-forgetting"]) == (UTILITY, FORGETTING)
        assert len(registered(uri)[NAME]) == len(set(found.values()))
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias(NAME, "best-utility")
    run = client.get_run(version.run_id)
    assert (run.info.run_name, version.tags["lethe.model_id"]) == (UTILITY, run.outputs.model_outputs[0].model_id)
    assert version.description.startswith(f"{UTILITY}: model_utility 0.68, forget_efficacy 0.2.")
    assert f'mlflow.pyfunc.load_model("models:/{NAME}@pareto-knee")' in client.get_registered_model(NAME).description
    path = download_artifacts(f"{version.source}/{page.MLMODEL}")
    metadata = json.loads(Path(path).read_text())["metadata"]
    assert metadata == {"sweep": str(sweep_dir), "checkpoint": f"trials/{UTILITY}/final"}


def test_a_resumed_sweep_moves_the_aliases(uri, sweep_dir):
    records = write_sweep(sweep_dir, uri=uri, num_steps=2)
    view = MlflowView(uri, sweep_dir)
    show(uri, sweep_dir, records, view)
    MlflowClient(uri).set_registered_model_alias(NAME, "mine", _number(uri, FORGETTING))
    started = next(r for r in records if getattr(r, "key", "") == UTILITY)
    best = started.model_copy(
        update={"key": "ME+GD/forget05/t006", "method": "ME+GD", "number": 6, "time": START + 9000}
    )  # fmt: skip
    scores = {"model_utility": 0.9, "forget_efficacy": 0.95}
    ended = TrialFinished(
        time=START + 9050, key=best.key, state="COMPLETE", metrics=scores, objectives=tuple(scores.values()),
        checkpoint=f"trials/{best.key}/final",
    )  # fmt: skip
    gone = CheckpointDeleted(time=START + 9051, key=UTILITY)
    records = [*records, records[0].model_copy(update={"resumed": True}), best, ended, gone]
    show(uri, sweep_dir, records, view)
    expected = {
        best.key: ("best-forgetting", "best-utility", "pareto-knee"),
        FORGETTING: ("mine",),  # somebody's own, and its weights are still there
    }
    assert registered(uri)[NAME] == expected
    records.append(CheckpointDeleted(time=START + 9052, key=FORGETTING))
    show(uri, sweep_dir, records, view)
    assert registered(uri)[NAME] == {best.key: expected[best.key]}
    show(uri, sweep_dir, records)
    assert registered(uri)[NAME] == {best.key: expected[best.key]}
    records.append(CheckpointDeleted(time=START + 9053, key=best.key))
    everything = [
        CheckpointDeleted(time=START + 9054, key=trial.started.key)
        for trial in log_of(records, sweep_dir).trials.values()
        if trial.checkpoint
    ]
    assert show(uri, sweep_dir, [*records, *everything], view) == []
    assert registered(uri)[NAME] == {}


def _number(uri, key):
    (found,) = (v for v in MlflowClient(uri).search_model_versions() if v.tags["lethe.trial_key"] == key)
    return found.version


def test_without_kept_weights_nothing_is_registered(uri, sweep_dir):
    records = [
        r.model_copy(update={"checkpoint": None}) if isinstance(r, TrialFinished) else r
        for r in write_sweep(sweep_dir, uri=uri, trials_per_cell=1, num_steps=2)
    ]
    assert show(uri, sweep_dir, records) == [] and registered(uri) == {}


def test_another_sweep_of_the_same_names_gets_a_model_of_its_own(uri, tmp_path):
    for owner, start in (("anna", 0.0), ("bert", 5.0)):
        sweep_dir = tmp_path / owner / "run1"
        records = write_sweep(sweep_dir, uri=uri, trials_per_cell=2, num_steps=2)
        header = records[0].model_copy(update={"time": START + start})
        segment = sweep_dir / "journal" / "000001.jsonl"
        lines = segment.read_text().splitlines(keepends=True)
        segment.write_text(header.model_dump_json() + "\n" + "".join(lines[1:]))
        for _ in range(2):
            show(uri, sweep_dir, [header, *records[1:]])
    assert set(registered(uri)) == {NAME, f"{NAME}-2"}


@pytest.mark.parametrize(
    ("sweep", "folder", "expected"),
    [
        ("quickstart", "quickstart-20260101-120000", "quickstart-20260101-120000-forget05"),
        ("tofu", "run1", "tofu-run1-forget05"),
        ("a/b: c@d", "x y", "a-b-c-d-x-y-forget05"),
    ],
)
def test_names_have_no_character_that_mlflow_refuses_or_reads(sweep, folder, expected):
    assert page.registered_model_name(sweep, folder, "forget05") == expected

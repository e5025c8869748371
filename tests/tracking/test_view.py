import base64
import json
import math
import shutil
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient
from store_content import content
from tracked_sweep import HOSTILE, METHODS, START, write_sweep

from orchestrator.analysis.palette import method_colors
from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking.journal import (
    CheckpointDeleted,
    Record,
    StepRecord,
    StepsReported,
    SweepStarted,
    TrialFinished,
    TrialStarted,
)
from orchestrator.tracking.mlflow_view import MlflowView
from orchestrator.tracking.pump import TrackingError

KEY = "ME+GD/forget05/t001"


@pytest.fixture
def sweep(tmp_path: Path, uri: str) -> tuple[Path, list[Record]]:
    sweep_dir = tmp_path / "run1"
    return sweep_dir, write_sweep(sweep_dir, uri=uri, num_steps=4)


def _runs(uri: str) -> dict:
    (experiment,) = content(uri, with_ids=True).values()
    return {run["name"]: run for run in experiment["runs"]}


def _step(number: int, loss: float) -> StepRecord:
    return StepRecord(step=number, loss=loss, forget_loss=1.0, retain_loss=None, learning_rate=1e-5, grad_norm=None)


def test_applying_a_journal_again_changes_nothing(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    for _ in range(2):
        view.apply(records)
        first = content(uri, with_ids=True)
    MlflowView(uri, sweep_dir).apply(records)
    assert content(uri, with_ids=True) == first
    assert len(first["tofu_small / run1"]["runs"]) == len(METHODS) * 6 + 2


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_half_a_journal_and_then_all_of_it_is_all_of_it(uri, sweep, empty_store, tmp_path, cut):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    at_once = content(uri, with_ids=False)
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    MlflowView(other, sweep_dir).apply(records[:cut])
    MlflowView(other, sweep_dir).apply(records)
    assert content(other, with_ids=False) == at_once


def test_record_by_record_is_all_at_once(uri, sweep, empty_store, tmp_path):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    view = MlflowView(other, sweep_dir)
    for record in records:
        view.apply([record])
    assert content(other, with_ids=False) == content(uri, with_ids=False)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_a_trial_that_is_tried_again_after_it_failed_is_shown_as_it_ended(uri, sweep, at_once):
    sweep_dir, records = sweep
    (started,) = [record for record in records if isinstance(record, TrialStarted) and record.key == KEY]
    (ended,) = [record for record in records if isinstance(record, TrialFinished) and record.key == KEY]
    failed = TrialFinished(time=started.time + 1, key=KEY, state="FAILED", error="no room", retry=True)
    again = [started.model_copy(update={"time": started.time + 10_000}), ended.model_copy(update={"time": 2 * START})]
    first = [*records[: records.index(started) + 1], failed]
    for journal in ([*first, *again], [*first, *again]):
        view = MlflowView(uri, sweep_dir)
        for begin in range(0, len(journal), at_once):
            view.apply(journal[begin : begin + at_once])
        run = _runs(uri)[KEY]
        assert (run["status"], run["tags"]["lethe.state"]) == ("FINISHED", "COMPLETE")
        assert "model_utility" in run["points"]


def test_a_complete_trial_is_shown_with_every_facet(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    run = _runs(uri)[KEY]
    started = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    assert (run["status"], run["start"], run["end"]) == (
        "FINISHED",
        int(started.time * 1000),
        int((started.time + 50) * 1000),
    )
    expected = {
        "lethe.kind": "trial",
        "lethe.sweep": "tofu_small",
        "lethe.trial_key": KEY,
        "lethe.method": "ME+GD",
        "lethe.forget_set": "forget05",
        "lethe.scenario": "tofu",
        "lethe.seed": "7",
        "lethe.state": "COMPLETE",
        "lethe.convention": "masked",
        "lethe.number": "1",
        "lethe.judge.entailment": "nli-small@abc",
        "lethe.checkpoint": f"trials/{KEY}/final",
        "mlflow.runColor": method_colors(METHODS)["ME+GD"],
    }
    assert expected.items() <= run["tags"].items()
    assert run["params"] == {
        "method": "ME+GD",
        "forget_set": "forget05",
        "train.learning_rate": repr(1e-5 * 1.7),
        "method.forget_weight": "0.5",
        "model": "tofu_tiny_target",
        "train.convention": "masked",
        "train.epochs": "5",
        "train.betas": "[0.9, 0.95]",
    }
    assert run["points"]["model_utility"] == [(0, run["end"], repr(0.7 - 0.03))]
    assert [step for step, _, _ in run["points"]["train/loss"]] == [0, 1, 2, 3]


def test_rows_are_inputs_and_what_was_asked_is_linked_to_its_metrics(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    (experiment,) = content(uri, with_ids=True).values()
    runs = {run["name"]: run for run in experiment["runs"]}
    asked = [
        ("forget05 questions: facts", "b" * 8, "hugging_face", '{"num_rows": 117}', "evaluation"),
        ("forget05 questions: forget", "a" * 8, "hugging_face", '{"num_rows": 200}', "evaluation"),
    ]
    assert runs["before/forget05"]["inputs"] == asked
    assert runs[KEY]["inputs"] == [
        ("forget05", "f" * 8, "hugging_face", '{"num_rows": 200}', "forget"),
        *asked,
        ("forget05 retain", "e" * 8, "hugging_face", '{"num_rows": 3800}', "retain"),
    ]
    model = next(model for model in experiment["models"] if model["name"] == "ME+GD-forget05-t001")
    linked = {name: dataset for name, *_, dataset in model["metrics"]}
    assert (linked["forget/rouge"], linked["forget_efficacy"]) == ("forget05 questions: forget", "")
    found = MlflowClient(uri).search_runs([_experiment_id(uri)], "dataset.name = 'forget05'")
    assert len(found) == len(METHODS) * 6


def test_a_journal_without_data_is_shown_without_inputs(uri, sweep):
    sweep_dir, records = sweep
    header = records[0].model_copy(update={"data": {}})
    MlflowView(uri, sweep_dir).apply([header, *records[1:]])
    assert _runs(uri)[KEY]["inputs"] == []


@pytest.mark.parametrize(
    ("search", "number"),
    [
        ("tags.`lethe.method` = 'GA+GD'", 6),
        ("tags.`lethe.forget_set` = 'forget05' AND tags.`lethe.kind` = 'trial'", 24),
        ("tags.`lethe.kind` = 'baseline'", 2),
        ("tags.`lethe.state` = 'DIVERGED'", 1),
        ("tags.`lethe.on_front` = 'true'", 2),
        ("tags.`lethe.scenario` = 'tofu'", 26),
        ("tags.`lethe.seed` = '7'", 26),
        ("tags.`lethe.convention` = 'masked'", 26),
        ("tags.`lethe.checkpoint` = 'deleted'", 1),
        ("tags.`lethe.judge.entailment` = 'nli-small@abc'", 22),
        ("attributes.status = 'KILLED'", 1),
        ("params.method = 'NPO+KL' AND params.`method.beta` = '0.1'", 6),
        ("params.`train.convention` = 'masked'", 26),
        ("metrics.model_utility > 0.6 AND tags.`lethe.kind` = 'trial'", 11),
        ("metrics.`forget/rouge` < 0.5 AND metrics.forget_efficacy >= 0.5", 10),
        ("dataset.name = 'forget05 retain'", 24),
    ],
)
def test_filters_work_on_every_facet(whole_view, search, number):
    client = MlflowClient(whole_view)
    assert len(client.search_runs([_experiment_id(whole_view)], search)) == number


@pytest.fixture(scope="module")
def whole_view(empty_store, tmp_path_factory):
    """The URI of a store with a whole sweep, whose front is marked; only read."""
    folder = tmp_path_factory.mktemp("whole")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    view = MlflowView(uri, folder / "run1")
    view.apply(write_sweep(folder / "run1", uri=uri, num_steps=4))
    view.mark_front({KEY, "NPO+KL/forget05/t002"})
    return uri


def test_states_become_statuses(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    shown = {run["tags"]["lethe.state"]: run["status"] for run in _runs(uri).values()}
    assert shown == {"COMPLETE": "FINISHED", "DIVERGED": "FAILED", "FAILED": "FAILED", "PRUNED": "KILLED"}


def test_numbers_that_are_not_finite_and_long_errors_are_kept(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    runs = _runs(uri)
    diverged = runs["GA+GD/forget05/t005"]
    assert diverged["points"]["train/loss"][-1][2] == "nan"
    assert diverged["points"]["train/grad_norm"][-1][2] == repr(1.7976931348623157e308)
    assert diverged["points"]["forget/rouge"][0][2] == "nan"
    assert "model_utility" not in diverged["points"]  # its objectives are the worst possible values, not measurements
    error = runs["IDK+AP/forget05/t004"]["tags"]["lethe.error"]
    assert error.startswith("out of memory: lower train.micro_batch_size") and len(error) == page.MAX_TAG_CHARS


def test_example_answers_are_a_table_of_plain_text(uri, sweep, monkeypatch):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    run = _runs(uri)[KEY]
    table = json.loads(run["artifacts"]["examples.json"])
    assert table["columns"] == ["set", "index", "question", "truth", "output"]
    assert table["data"][2] == ["forget", 2, "Who wrote book 2?", "Basil", f"{HOSTILE} 2"]
    assert json.loads(run["tags"]["mlflow.loggedArtifacts"]) == [{"path": "examples.json", "type": "table"}]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table asks the default store
    loaded = MlflowClient(uri).load_table(_experiment_id(uri), "examples.json", [run["id"]])
    assert list(loaded["output"])[2] == f"{HOSTILE} 2"


def _experiment_id(uri: str) -> str:
    return MlflowClient(uri).get_experiment_by_name("tofu_small / run1").experiment_id


def test_a_trial_that_starts_again_forgets_its_first_attempt(uri, sweep):
    sweep_dir, records = sweep
    first = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    again = first.model_copy(update={"time": first.time + 1000})
    journal = [
        records[0],
        first,
        StepsReported(time=first.time + 1, key=KEY, steps=(_step(0, 5.0), _step(1, 4.0))),
        again,
        StepsReported(time=again.time + 1, key=KEY, steps=(_step(0, 5.0),)),
    ]
    view = MlflowView(uri, sweep_dir)
    for record in journal:
        view.apply([record])
    for replay in (journal, journal[1:3], journal):
        MlflowView(uri, sweep_dir).apply(replay)
        run = _runs(uri)[KEY]
        assert run["points"]["train/loss"] == [(0, int(again.time * 1000) + 1000, "5.0")]
        assert run["start"] == int(again.time * 1000)


def test_what_is_told_again_after_workers_died_is_there_once(uri, sweep):
    """What came before the point has its old time, what came after it a new one; MLflow takes both for different."""
    sweep_dir, records = sweep
    first = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    told = [(1, (0, 1)), (2, (2, 3)), (3, (4,)), (1, (0, 1)), (9, (2, 3)), (10, (4, 5))]
    journal = [records[0], first]
    for seconds, numbers in told:
        steps = tuple(_step(number, 9.0 - number) for number in numbers)
        journal.append(StepsReported(time=first.time + seconds, key=KEY, steps=steps))
    at_once, one_by_one = MlflowView(uri, sweep_dir), MlflowView(uri, sweep_dir)
    for record in journal:
        one_by_one.apply([record])
    for view in (at_once, MlflowView(uri, sweep_dir)):
        view.apply(journal)
        points = _runs(uri)[KEY]["points"]["train/loss"]
        assert [(step, value) for step, _, value in points] == [(number, repr(9.0 - number)) for number in range(6)]


def test_what_mlflow_did_not_take_is_sent_again(uri, sweep, monkeypatch):
    sweep_dir, records = sweep
    first = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    view = MlflowView(uri, sweep_dir)
    view.apply([records[0], first])
    news = StepsReported(time=first.time + 1, key=KEY, steps=(_step(0, 5.0),))
    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
        with pytest.raises(TrackingError):
            view.apply([news])
    view.apply([news])
    assert [value for _, _, value in _runs(uri)[KEY]["points"]["train/loss"]] == ["5.0"]


def test_many_values_travel_in_several_requests(uri, sweep):
    sweep_dir, records = sweep
    started = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    wide = started.model_copy(update={"config": {f"value{i}": i for i in range(250)}})
    steps = StepsReported(time=started.time + 1, key=KEY, steps=tuple(_step(i, 1 / (i + 1)) for i in range(1500)))
    judges = {f"judge{i}": "x" for i in range(200)}
    end = TrialFinished(
        time=started.time + 2,
        key=KEY,
        state="COMPLETE",
        objectives=(0.5, 0.25),
        judges=judges,
        weights_sha256="ab" * 32,
    )
    MlflowView(uri, sweep_dir).apply([records[0], wide, steps, end])
    run = _runs(uri)[KEY]
    assert len(run["points"]["train/loss"]) == len(run["points"]["train/learning_rate"]) == 1500
    assert run["params"]["value249"] == "249"
    assert run["tags"]["lethe.judge.judge199"] == "x" and run["tags"]["lethe.weights_sha256"] == "ab" * 32
    assert run["points"]["forget_efficacy"] == [(0, int(end.time * 1000), "0.25")]


def test_a_checkpoint_is_a_model_until_it_is_deleted(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    (experiment,) = content(uri, with_ids=False).values()
    models = {model["name"]: model for model in experiment["models"]}
    assert "ME+GD-forget05-t000" not in models  # deleted in the journal
    model = models["ME+GD-forget05-t001"]
    assert model["tags"]["lethe.checkpoint"] == str(sweep_dir / "trials" / KEY / "final")
    assert {name: value for name, _, _, value, _ in model["metrics"]}["forget_efficacy"] == pytest.approx(0.3)
    assert _runs(uri)[KEY]["outputs"]
    view.apply([CheckpointDeleted(time=START, key=KEY)])
    (experiment,) = content(uri, with_ids=False).values()
    assert "ME+GD-forget05-t001" not in {model["name"] for model in experiment["models"]}
    assert _runs(uri)[KEY]["tags"]["lethe.checkpoint"] == "deleted"


def test_the_front_is_a_tag_that_moves(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    for front in ({KEY, "NPO+KL/forget05/t002"}, {"NPO+KL/forget05/t002"}):
        view.mark_front(front)
        marked = MlflowClient(uri).search_runs([_experiment_id(uri)], "tags.\"lethe.on_front\" = 'true'")
        assert {run.info.run_name for run in marked} == front
    tagged = {name: run["tags"][page.FRONT_TAG] for name, run in _runs(uri).items() if page.FRONT_TAG in run["tags"]}
    assert tagged == {
        "before/forget05": "baseline",
        "retain_model/forget05": "baseline",
        "NPO+KL/forget05/t002": "true",
    }


def test_a_method_added_on_resume_recolours_the_runs(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    header = records[0]
    assert isinstance(header, SweepStarted)
    view.apply([header.model_copy(update={"cells": header.cells[::-1], "resumed": True})])
    assert _runs(uri)[KEY]["tags"]["mlflow.runColor"] == method_colors(METHODS[::-1])["ME+GD"]


def test_two_sweeps_of_the_same_name_and_folder_name_do_not_mix(uri, tmp_path):
    for owner, start in (("anna", 0.0), ("bert", 5.0)):
        sweep_dir = tmp_path / owner / "run1"
        records = write_sweep(sweep_dir, uri=uri, trials_per_cell=1, num_steps=2)
        header = records[0].model_copy(update={"time": START + start})
        segment = sweep_dir / "journal" / "000001.jsonl"
        lines = segment.read_text().splitlines(keepends=True)
        segment.write_text(header.model_dump_json() + "\n" + "".join(lines[1:]))
        for _ in range(2):
            MlflowView(uri, sweep_dir).apply([header, *records[1:]])
    found = content(uri, with_ids=True)
    assert {name: len(experiment["runs"]) for name, experiment in found.items()} == {
        "tofu_small / run1": 6,
        "tofu_small / run1 (2)": 6,
    }


def test_the_saved_page_shows_the_objectives(uri, sweep):
    sweep_dir, records = sweep
    view = MlflowView(uri, sweep_dir)
    view.apply(records)
    fragment = view.write_page()
    assert fragment.startswith(f"#/experiments/{_experiment_id(uri)}/runs?viewStateShareKey=lethe")
    (experiment,) = content(uri, with_ids=False).values()
    tag = experiment["tags"]["mlflow.sharedViewState.lethe"]
    assert len(tag) < 20_000  # MLflow's limit
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    scatter, parallel = state["compareRunCharts"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("model_utility", "forget_efficacy")
    assert parallel["selectedParams"] == [
        "method",
        "train.learning_rate",
        "method.forget_weight",
    ]  # all trials have them
    view.write_page()
    (again,) = content(uri, with_ids=False).values()
    assert again["tags"] == experiment["tags"]


def test_a_store_that_is_away_is_named_without_its_password(sweep):
    sweep_dir, records = sweep
    with pytest.raises(TrackingError) as caught:
        MlflowView("http://anna:hunter2@127.0.0.1:9", sweep_dir).apply(records)
    assert "127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


def test_no_password_reaches_the_store(uri, sweep):
    sweep_dir, records = sweep
    MlflowView(uri, sweep_dir).apply(records)
    assert "secret" not in repr(content(uri, with_ids=True))


def test_nan_is_not_linked_to_a_model(uri, sweep):
    sweep_dir, records = sweep
    started = next(record for record in records if isinstance(record, TrialStarted) and record.key == KEY)
    metrics = {"forget/rouge": math.nan, "retain/rouge": 0.5}
    end = TrialFinished(time=started.time + 2, key=KEY, state="COMPLETE", metrics=metrics, checkpoint="c")
    MlflowView(uri, sweep_dir).apply([records[0], started, end])
    (experiment,) = content(uri, with_ids=False).values()
    assert [name for name, *_ in experiment["models"][0]["metrics"]] == ["retain/rouge"]
    assert _runs(uri)[KEY]["points"]["forget/rouge"][0][2] == "nan"

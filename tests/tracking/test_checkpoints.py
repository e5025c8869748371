"""Which weights stay, and what a journal is to those who write it."""

import os
import resource
import time

import pytest
from pydantic import ValidationError

from orchestrator.analysis.summary import summarize
from orchestrator.config import CheckpointConfig
from orchestrator.storage import Storage
from orchestrator.tracking.checkpoints import CheckpointKeeper
from orchestrator.tracking.confirmation import finalists
from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    Journal,
    JournalError,
    ObjectiveRecord,
    StepsReported,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
    parse_record,
)
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog, load_sweep

POINTS = [(0.5, 0.5), (0.6, 0.6), (0.9, 0.1), (0.2, 0.2), (0.1, 0.9)]  # the front is 1, 2 and 4; its knee is 1
KEPT = {"pareto": {1, 2, 4}, "best": {1}, "all": {0, 1, 2, 3, 4}, "none": set()}


def header():
    return SweepStarted(
        name="s",
        seed=1,
        config={},
        cells=(CellRecord(name="GA/f", method="GA", forget_set="f", num_trials=5),),
        objectives=tuple(ObjectiveRecord(metric=name, direction="maximize", worst=0) for name in ("u", "e")),
        lookahead=1,
        versions={},
        command="c",
    )


@pytest.mark.parametrize("policy", list(KEPT))
def test_policy(policy, tmp_path):
    start = header()
    recorder = Recorder(Journal(tmp_path / "journal"), SweepLog(start))
    keeper = CheckpointKeeper(CheckpointConfig(policy=policy), Storage(tmp_path), recorder)
    recorder.listeners.append(keeper)
    recorder.record(start)
    for number, values in enumerate(POINTS):
        key = f"GA/f/t{number:03d}"
        (tmp_path / "trials" / key / "model").mkdir(parents=True)
        (tmp_path / "trials" / key / "resume" / "000001").mkdir(parents=True)
        started = TrialStarted(key=key, method="GA", forget_set="f", number=number, params={}, config={})
        recorder.record(started)
        path = f"trials/{key}/model"
        recorder.record(TrialFinished(key=key, state=TrialState.COMPLETE, objectives=values, checkpoint=path))
    keeper.conclude()
    on_disk = {number for number in range(5) if (tmp_path / f"trials/GA/f/t{number:03d}/model").is_dir()}
    assert on_disk == KEPT[policy]
    assert not list(tmp_path.rglob("resume"))  # ended trials are not gone on with
    read_back = load_sweep(tmp_path)
    assert {t.started.number for t in read_back.searched() if t.checkpoint} == KEPT[policy]
    deleted = [record for record in _records(tmp_path) if isinstance(record, CheckpointDeleted)]
    assert len(deleted) == 5 - len(KEPT[policy])


def test_the_knee_that_is_kept_is_measured_by_the_baselines(tmp_path):
    """Where the retain model says that a step in the second objective is worth four of the first."""
    start = header()
    recorder = Recorder(Journal(tmp_path / "journal"), SweepLog(start))
    keeper = CheckpointKeeper(CheckpointConfig(policy="best"), Storage(tmp_path), recorder)
    recorder.record(start)
    for kind, scores in {"before": (2.0, 0.0), "retain_model": (2.0, 0.5)}.items():
        recorder.record(TrialStarted(key=f"{kind}/f", method=kind, forget_set="f", number=None, params={}, config={}))
        metrics = dict(zip("ue", scores, strict=True))
        recorder.record(TrialFinished(key=f"{kind}/f", state=TrialState.COMPLETE, metrics=metrics))
    for number, values in enumerate(POINTS):
        key = f"GA/f/t{number:03d}"
        recorder.record(TrialStarted(key=key, method="GA", forget_set="f", number=number, params={}, config={}))
        recorder.record(TrialFinished(key=key, state=TrialState.COMPLETE, objectives=values, checkpoint=f"c{number}"))
    keeper.conclude()
    (cell,) = summarize(load_sweep(tmp_path)).forget_sets[0].cells
    assert {t.started.number for t in recorder.log.searched() if t.checkpoint} == {4} == {cell.knee.number}
    assert finalists(recorder.log, 1) == [recorder.log.trials["GA/f/t004"]]


def test_points_of_a_failed_trial_stay_where_a_resumed_sweep_tries_it_again(tmp_path):
    start = header()
    recorder = Recorder(Journal(tmp_path / "journal"), SweepLog(start))
    keeper = CheckpointKeeper(CheckpointConfig(), Storage(tmp_path), recorder)
    recorder.listeners.append(keeper)
    recorder.record(start)
    for number, retry in enumerate((True, False)):
        key = f"GA/f/t{number:03d}"
        (tmp_path / "trials" / key / "resume" / "000001").mkdir(parents=True)
        recorder.record(TrialStarted(key=key, method="GA", forget_set="f", number=number, params={}, config={}))
        recorder.record(TrialFinished(key=key, state=TrialState.FAILED, error="disk full", retry=retry))
    keeper.tidy()
    assert [path.parent.name for path in tmp_path.rglob("resume")] == ["t000"]


def test_the_trials_of_a_cell_are_those_of_its_method_and_forget_set_in_order_of_first_start():
    log = SweepLog(header())
    names = [(m, f) for m in ("GA", "NPO", "before", "retain_model") for f in ("f", "g")]
    for number, (method, forget_set) in [(n, name) for n in (0, 1, 2, 0) for name in names]:  # 0 starts again
        baseline = method in ("before", "retain_model")
        key = f"{method}/{forget_set}" + ("" if baseline else f"/t{number}")
        record = TrialStarted(
            key=key, method=method, forget_set=forget_set, number=None if baseline else number, params={}, config={}
        )
        log.add(record)
        log.add(TrialFinished(key=key, state=TrialState.COMPLETE, objectives=(0.1 * number, 0.5)))
    for name in names:
        scanned = [t for t in log.searched() if (t.started.method, t.started.forget_set) == name]
        assert [id(trial) for trial in log.cell(*name)] == [id(trial) for trial in scanned]
    assert [trial.started.number for trial in log.cell("NPO", "g")] == [0, 1, 2]
    assert log.cell("before", "f") == log.cell("ME", "f") == []


def _records(folder):
    from orchestrator.tracking.journal import read_records

    return list(read_records(folder / "journal"))


def test_only_steps_do_not_wait_for_the_disk(tmp_path, monkeypatch):
    now, waits = [0.0], []
    monkeypatch.setattr(os, "fsync", waits.append)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    journal = Journal(tmp_path / "journal")
    waits.clear()  # for the folder
    steps, end = StepsReported(key="k", steps=()), TrialFinished(key="k", state=TrialState.FAILED)
    appended = [(header(), 10, 1), (steps, 10.9, 1), (end, 10.95, 2), (steps, 11.9, 2), (steps, 12, 3), (end, 12, 4)]
    for record, now[0], num_waits in appended:
        journal.append(record)
        assert len(waits) == num_waits
    assert len(_records(tmp_path)) == len(appended)


def test_a_record_with_example_answers_is_written_as_it_was_read_and_their_questions_are_kept_once():
    example = '{"set_name":"forget","index":3,"question":"Who wrote it?","truth":"Basil","output":"Nobody."}'
    text = (
        '{"time":1.5,"kind":"trial_finished","key":"GA/f/t000","state":"COMPLETE","metrics":{"forget/rouge":"NaN"},'
        '"objectives":[0.25,0.5],"error":null,"retry":false,"seconds":{"train":2.0},"gpu_seconds":null,"scores_path":null,'
        f'"scores_sha256":null,"weights_sha256":null,"checkpoint":null,"judges":{{}},"examples":[{example},{example}],"notes":["n"]}}'
    )
    record = parse_record(text)
    assert record.model_dump_json() == text
    again = parse_record(text)
    assert again.examples[0].question is record.examples[1].question
    with pytest.raises(ValidationError):
        parse_record(text.replace('"output"', '"answer"'))


def test_a_journal_has_one_writer_at_a_time(tmp_path):
    first = Journal(tmp_path / "journal")
    with pytest.raises(JournalError, match="another sweep .process [0-9]+ on .* is writing"):
        Journal(tmp_path / "journal")
    first.close()
    Journal(tmp_path / "journal").close()


def test_what_the_disk_does_not_take_is_an_error_and_nothing_follows_it(tmp_path):
    recorder = Recorder(Journal(tmp_path / "journal"), SweepLog(header()))
    recorder.record(header())
    (segment,) = (tmp_path / "journal").glob("*.jsonl")
    size = segment.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
    try:
        with pytest.raises(JournalError, match=f"{segment} cannot be written: File too large"):
            recorder.record(header())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert segment.stat().st_size == size + 50
    with pytest.raises(JournalError, match="File too large") as error:
        recorder.record(header())
    assert error.value is recorder.failure
    recorder.close()
    assert len(_records(tmp_path)) == 1

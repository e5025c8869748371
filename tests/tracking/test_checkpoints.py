"""Which weights stay."""

import pytest

from orchestrator.config import CheckpointConfig
from orchestrator.tracking.checkpoints import CheckpointKeeper
from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    Journal,
    ObjectiveRecord,
    SweepLog,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
    load_sweep,
)
from orchestrator.tracking.recorder import Recorder

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
    keeper = CheckpointKeeper(CheckpointConfig(policy=policy), tmp_path, recorder)
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


def _records(folder):
    from orchestrator.tracking.journal import read_records

    return list(read_records(folder / "journal"))


def test_a_journal_has_one_writer_at_a_time(tmp_path):
    from orchestrator.tracking.journal import JournalError

    first = Journal(tmp_path / "journal")
    with pytest.raises(JournalError, match="another sweep .process [0-9]+ on .* is writing"):
        Journal(tmp_path / "journal")
    first.close()
    Journal(tmp_path / "journal").close()

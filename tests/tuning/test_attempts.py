"""How often a trial is started, and whether a resumed sweep tries it again."""

import pytest

from orchestrator.tracking.journal import TrialFinished, TrialState
from orchestrator.tuning import slot as slot_module
from orchestrator.tuning.slot import SlotSpec, TrialFailedError, WorkersDiedError, WorkersLeftError

SPEC = SlotSpec(
    sweep="s", num_workers=2, cpus_per_worker=1, gpus_per_worker=0, accelerator_type=None, trials_per_group=None,
    max_attempts=3, idle_seconds=1, hang_seconds=1, start_timeout_seconds=1, storage="/s",
)  # fmt: skip
DIED = WorkersDiedError("they died")
LEFT = WorkersLeftError("they left")
WRONG = TrialFailedError("it is wrong", "never")
FULL = TrialFailedError("the disk is full", "on resume")
AWAY = TrialFailedError("the store is away", "at once")
DONE = None


class FakeSlot:
    """Ends each attempt as it is told."""

    name = "fake"

    def __init__(self, ends):
        self.ends = list(ends)

    def run(self, job):
        end = self.ends.pop(0)
        if end is not DONE:
            raise end
        yield TrialFinished(key="a", state=TrialState.COMPLETE).model_dump_json()


@pytest.mark.parametrize(
    ("ends", "num_starts", "error", "retry"),
    [
        ([WRONG], 1, "it is wrong", False),
        ([FULL], 1, "the disk is full", True),
        ([AWAY] * 3, 3, "the store is away", True),
        ([AWAY, AWAY, DONE], 3, None, False),
        ([AWAY, DIED, DIED], 3, "they died (given up after 3 starts, resources.max_attempts)", False),
        ([DIED, DIED, AWAY], 3, "the store is away", True),
        ([DIED, LEFT, LEFT, LEFT, DIED, DONE], 6, None, False),
        ([AWAY] + [LEFT] * 100, 101, "they left, as were those of 99 attempts before", False),
    ],
)
def test_attempts(ends, num_starts, error, retry, monkeypatch):
    fake = FakeSlot(ends)
    monkeypatch.setattr(slot_module, "_acquire", lambda spec: fake)
    records = [record for _, record in slot_module._records(SPEC, "{}", "a")]
    assert len(ends) - len(fake.ends) == num_starts
    (finished,) = [TrialFinished.model_validate_json(record) for record in records]
    assert (finished.error, finished.retry) == (error, retry)
    assert finished.state == (TrialState.COMPLETE if error is None else TrialState.FAILED)

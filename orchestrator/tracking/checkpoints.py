"""Which trials' weights are kept: the policy, applied whenever a trial ends."""

import logging
import math
from collections.abc import Sequence

from orchestrator.analysis.pareto import front, knee
from orchestrator.analysis.volume import Measure, measure
from orchestrator.config import CheckpointConfig
from orchestrator.storage import Storage
from orchestrator.tracking.journal import BASELINES, CheckpointDeleted, Record, TrialFinished, TrialState
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog, TrialLog

_LOG = logging.getLogger(__name__)
_LAST = 100  # more than can have ended when a sweep is killed
WEIGHTS_FOLDER = "model"  # in a trial's folder
RESUME_FOLDER = "resume"  # in a trial's folder: what it goes on from while it has not ended


class CheckpointKeeper:
    """A listener that deletes the weights that the policy no longer wants, and what an ended trial would resume from.

    What a failed trial goes on from when a resumed sweep tries it again stays.

    `pareto` keeps the front of each cell, `all` everything, `none` nothing. `best` keeps the front while the sweep
    runs, because a knee that was overtaken can become the knee again, and only the knees after `conclude`.
    """

    def __init__(self, policy: CheckpointConfig, storage: Storage, recorder: Recorder) -> None:
        self._policy, self._storage, self._recorder = policy.policy, storage, recorder

    def __call__(self, record: Record) -> None:
        """Look at the cell of a trial that ended."""
        if isinstance(record, TrialFinished):
            if not record.retry:  # a resumed sweep goes on with it
                self._remove(f"trials/{record.key}/{RESUME_FOLDER}")
            if record.checkpoint is None:  # of an attempt that was cut off while it saved
                self._remove(f"trials/{record.key}/{WEIGHTS_FOLDER}")
        if isinstance(record, TrialFinished) and self._policy != "all":
            log = self._recorder.log
            started = log.trials[record.key].started
            cell = log.cell(started.method, started.forget_set)
            self._keep(cell, [] if self._policy == "none" else cell_front(log, cell))

    def tidy(self) -> None:
        """Delete what trials that have ended would resume from, where the sweep was killed before it could."""
        ended = [trial.finished for trial in self._recorder.log.trials.values() if trial.finished]
        for finished in sorted(ended, key=lambda finished: finished.time)[-_LAST:]:
            if not finished.retry:
                self._remove(f"trials/{finished.key}/{RESUME_FOLDER}")

    def conclude(self) -> None:
        """The sweep is done: under `best` keep one knee a cell."""
        if self._policy != "best":
            return
        log = self._recorder.log
        directions = [objective.direction for objective in log.header.objectives]
        for record in log.header.cells:
            cell = log.cell(record.method, record.forget_set)
            if trials := cell_front(log, cell):
                spans = measured(log, record.forget_set).spans
                self._keep(cell, [trials[knee([objectives(trial) for trial in trials], directions, spans)]])

    def _keep(self, cell: Sequence[TrialLog], wanted: Sequence[TrialLog]) -> None:
        keys = {trial.started.key for trial in wanted}
        for trial in cell:
            if trial.checkpoint is not None and trial.started.key not in keys:
                self._remove(trial.checkpoint)
                self._recorder.record(CheckpointDeleted(key=trial.started.key))

    def _remove(self, name: str) -> None:
        try:
            self._storage.remove(name)
        except OSError as error:  # room that is not freed is no reason to end a sweep
            _LOG.warning("%s of %s cannot be deleted: %s", name, self._storage, error)


def cell_front(log: SweepLog, cell: Sequence[TrialLog]) -> list[TrialLog]:
    """The complete trials of a cell that no other dominates."""
    complete = [t for t in cell if t.finished is not None and t.finished.state == TrialState.COMPLETE]
    if not complete:
        return []
    directions = [objective.direction for objective in log.header.objectives]
    return [complete[index] for index in front([objectives(trial) for trial in complete], directions)]


def measured(log: SweepLog, forget_set: str) -> Measure:
    """The axes on a forget set, as far as its baselines are scored."""
    goals = log.header.objectives
    found = [trial.values(goals) if (trial := log.baseline(kind, forget_set)) else None for kind in BASELINES]
    before, retain_model = (values if values and all(map(math.isfinite, values)) else None for values in found)
    return measure(goals, before, retain_model)


def objectives(trial: TrialLog) -> list[float]:
    """The objectives of a complete trial."""
    assert trial.finished is not None and trial.finished.objectives is not None, trial.started.key
    return list(trial.finished.objectives)

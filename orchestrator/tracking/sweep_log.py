"""What the records of a sweep tell: its trials, and what they cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.tracking.journal import (
    BASELINES,
    CheckpointDeleted,
    JournalError,
    ObjectiveRecord,
    Record,
    RungReached,
    StepRecord,
    StepsReported,
    SweepEnded,
    SweepStarted,
    TaskFinished,
    TrialFinished,
    TrialStarted,
    TrialState,
    TrialTaken,
    read_records,
)

_OF_A_TRIAL = (TrialTaken, StepsReported, RungReached, TaskFinished, TrialFinished, CheckpointDeleted)


@dataclass(slots=True)
class TrialLog:
    """All that is known of one trial (or baseline)."""

    started: TrialStarted
    taken: float | None = None  # since when workers have the last attempt; None: nobody said so
    steps: list[StepRecord] = field(default_factory=list)
    tasks: list[TaskFinished] = field(default_factory=list)
    finished: TrialFinished | None = None
    checkpoint: str | None = None

    @property
    def gpu_seconds(self) -> float | None:
        """GPU-seconds that the last attempt held until its end; None while it has none."""
        return None if self.finished is None else _held_by(self.started, self.finished)

    @property
    def seconds(self) -> float | None:
        """Time on the clock of the last attempt, without its wait for nodes where a record says when workers had it.

        None while it has no end.
        """
        if self.finished is None:
            return None
        return self.finished.time - (self.started.time if self.taken is None else self.taken)

    @property
    def is_done(self) -> bool:
        """Whether it ended, and a resumed sweep does not try it again: a baseline without a score, a `retry`."""
        if self.finished is None or self.finished.state == TrialState.COMPLETE:
            return self.finished is not None
        return not (self.is_baseline or self.finished.retry)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the model before unlearning, or the retain model."""
        return self.started.method in BASELINES

    @property
    def is_searched(self) -> bool:
        """Whether this is a trial of the search: no baseline, and no run that confirms one."""
        return not self.is_baseline and self.started.confirms is None

    def values(self, objectives: Sequence[ObjectiveRecord]) -> tuple[float, ...] | None:
        """What it scored in the objectives; None without a score. A baseline's are among its metrics."""
        if self.finished is None:
            return None
        if self.finished.objectives is not None or not self.is_baseline:
            return self.finished.objectives
        found = [self.finished.metrics.get(objective.metric) for objective in objectives]
        return None if None in found else tuple(value for value in found if value is not None)

    def add(self, record: TrialTaken | StepsReported | TaskFinished | TrialFinished | CheckpointDeleted) -> None:
        """One more record of this attempt, in the order of the journal."""
        match record:
            case TrialTaken(time=time):  # each group of workers tells it; the first counts
                self.taken = time if self.taken is None else self.taken
            case StepsReported(steps=steps):  # a trial whose workers died reports its steps again
                first = steps[0].step if steps else len(self.steps)
                self.steps = [step for step in self.steps if step.step < first] + list(steps)
            case TaskFinished(task=task):  # told again after the workers died
                self.tasks = [*(one for one in self.tasks if one.task < task), record]
            case TrialFinished(checkpoint=checkpoint):
                self.finished, self.checkpoint = record, checkpoint
            case CheckpointDeleted():
                self.checkpoint = None


@dataclass(slots=True)
class Spent:
    """Time on the clock and GPU time, over all sittings; what was cut off counts until the last sign of life."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    since: float | None = None  # when this sitting began
    last: float = 0.0
    running: dict[str, TrialStarted] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)  # since when those of them that have workers hold their GPUs

    def add(self, record: Record) -> None:
        """One more record, in the order of the journal."""
        match record:
            case SweepStarted():
                self.seconds, self.gpu_seconds = self.until(None)
                self.since, self.last, self.running, self.taken = record.time, record.time, {}, {}
            case TrialStarted(key=key):
                self.running[key] = record
                self.taken.pop(key, None)
            case TrialTaken(key=key):
                self.taken.setdefault(key, record.time)
            case TrialFinished(key=key) if key in self.running:
                self.gpu_seconds += _held_by(self.running.pop(key), record)
        self.last = max(self.last, record.time)  # what is told again keeps its time

    def until(self, now: float | None) -> tuple[float, float]:
        """Both sums by the last record, or by `now`."""
        end = self.last if now is None else now
        held = sum(max(0.0, end - self.taken[key]) * one.gpus for key, one in self.running.items() if key in self.taken)
        return self.seconds + (0.0 if self.since is None else end - self.since), self.gpu_seconds + held


def _held_by(started: TrialStarted, finished: TrialFinished) -> float:
    if finished.gpu_seconds is not None:
        return finished.gpu_seconds
    return max(0.0, finished.time - started.time) * started.gpus  # of a journal that does not say since when


@dataclass(slots=True)
class SweepLog:
    """A journal read back; `trials` in the order of their first start. A driver does without their steps.

    `rungs`: every report of a rung in order, those that were told again by a later attempt included.
    """

    header: SweepStarted
    trials: dict[str, TrialLog] = field(default_factory=dict)
    rungs: list[RungReached] = field(default_factory=list)
    ended: SweepEnded | None = None
    keeps_steps: bool = True
    sittings: list[SweepStarted] = field(default_factory=list)
    _cells: dict[tuple[str, str], dict[str, TrialLog]] = field(default_factory=dict)  # the same trials, found faster
    _spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        """The first sitting began with the header."""
        self.sittings.append(self.header)
        self._spent.since = self._spent.last = self.header.time

    def baseline(self, kind: str, forget_set: str) -> TrialLog | None:
        """The model `before` unlearning or the `retain_model` on a forget set, if it was scored."""
        return self.trials.get(f"{kind}/{forget_set}")

    def searched(self) -> list[TrialLog]:
        """The trials of the search, without the baselines and what was run to confirm it."""
        return [trial for trial in self.trials.values() if trial.is_searched]

    def cell(self, method: str, forget_set: str) -> list[TrialLog]:
        """The searched trials of one cell, in the order of their first start."""
        return list(self._cells.get((method, forget_set), {}).values())

    def spent(self, now: float | None = None) -> tuple[float, float]:
        """Seconds that the sweep ran, and GPU-seconds that its trials held; by the last record, or by `now`."""
        return self._spent.until(now)

    def add(self, record: Record) -> None:
        """Take one more record, in the order of the journal."""
        self._check(record)
        self._spent.add(record)
        match record:
            case SweepStarted():
                self.header, self.ended = record, None
                self.sittings.append(record)
            case SweepEnded():
                self.ended = record
            case TrialStarted(key=key):  # a trial that was cut off starts again from nothing
                trial = self.trials[key] = TrialLog(record)
                if trial.is_searched:
                    self._cells.setdefault((record.method, record.forget_set), {})[key] = trial
            case RungReached():
                self.rungs.append(record)
            case StepsReported() if not self.keeps_steps:
                pass
            case _:
                self.trials[record.key].add(record)

    def _check(self, record: Record) -> None:
        if isinstance(record, _OF_A_TRIAL) and record.key not in self.trials:
            raise JournalError(
                f"the journal has a {record.kind} record of {record.key}, which never started; it is broken"
            )


def load_sweep(sweep_dir: Path, *, keeps_steps: bool = True) -> SweepLog:
    """Read the journal of the sweep in `sweep_dir`. JournalError: none there, or its first record is not the header."""
    return log_of(read_records(sweep_dir / "journal"), sweep_dir, keeps_steps=keeps_steps)


def log_of(records: Iterable[Record], sweep_dir: Path, *, keeps_steps: bool = True) -> SweepLog:
    """What the records of the sweep in `sweep_dir` tell. JournalError: as load_sweep."""
    log: SweepLog | None = None
    for record in records:
        if log is None:
            if not isinstance(record, SweepStarted):
                raise JournalError(f"{sweep_dir}/journal does not begin with a sweep_started record")
            log = SweepLog(record, keeps_steps=keeps_steps)
        else:
            log.add(record)
    if log is None:
        raise JournalError(f"{sweep_dir}/journal holds no complete record; start the sweep again")
    return log

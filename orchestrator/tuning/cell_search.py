"""All cells' studies inside one Tune searcher: which trial a free slot gets, and what its reports come to.

A resumed search goes through the journal first, and then goes on as one that was not cut off (see cell_study).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ray.tune.search import Searcher

from orchestrator.base_config import Value
from orchestrator.tracking.journal import Record, TrialFinished, TrialStarted, TrialState, TrialTaken, parse_record
from orchestrator.tracking.sweep_log import TrialLog
from orchestrator.tuning.cell_study import CellStudy, trial_key
from orchestrator.worker.job import TrialJob


@dataclass
class Cell:
    """One method on one forget set, its study and its trials' jobs."""

    name: str
    method: str
    forget_set: str
    study: CellStudy
    num_trials: int
    make_job: Callable[[int, dict[str, Value]], TrialJob]


@dataclass(frozen=True)
class Baseline:
    """A model that is scored as it is, once the baselines named in `after` are done."""

    key: str
    make_job: Callable[[], TrialJob]
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Confirmation:
    """A trial or baseline, `confirms`, once more, when the runs named in `after` are done; see ConfirmationRun."""

    key: str
    make_job: Callable[[], TrialJob]
    after: frozenset[str]
    confirms: str
    number: int | None


@dataclass
class _Running:
    """A trial that was handed to Tune; of the search where it has a cell."""

    job: TrialJob
    cell: Cell | None = None
    number: int | None = None
    confirms: str | None = None
    slot: str | None = None
    num_reports: int = 0
    taken: float | None = None  # when workers first had it
    waits: bool = False  # no workers came, see CellSearch._waits_again
    finished: TrialFinished | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether trials of the search wait for it."""
        return self.cell is None and self.confirms is None

    def again(self) -> "_Running":
        """The same trial as if it had not run."""
        return _Running(self.job, self.cell, self.number, self.confirms)


_Given = TypeVar("_Given", Baseline, Confirmation)


class Recorder(Protocol):
    """Takes records in the order in which things happened."""

    def record(self, record: Record) -> None:
        """Keep one record before anybody acts on it."""
        ...


class CellSearch(Searcher):
    """Baselines first, then the least served cell next, until every cell has had its trials, then what confirms them.

    `finished` holds the trials that the journal knows to have ended, by key: those are not run again. Every report goes
    to `recorder` before Optuna learns of it. A baseline that fails ends the search; `fatal` says why. Once `budget`
    gives a reason no trial begins any more; `spent` is that reason. `confirm` is asked once, when the last trial of the
    search has ended; no study learns of what it wants run.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        baselines: Sequence[Baseline],
        *,
        finished: Mapping[str, TrialLog],
        recorder: Recorder,
        slot: Mapping[str, Any],
        budget: Callable[[], str | None] = lambda: None,
        confirm: Callable[[], Sequence[Confirmation]] | None = None,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._cells = list(cells)
        self._finished = finished
        self._baselines = [baseline for baseline in baselines if baseline.key not in finished]
        self._recorder, self._slot = recorder, dict(slot)
        self._running: dict[str, _Running] = {}
        self._waiting: list[_Running] = []  # for workers, again
        self.slots: set[str] = set()
        self._budget, self._confirm = budget, confirm
        # Not known before the search is over.
        self._confirmations: list[Confirmation] | None = [] if confirm is None else None
        self.fatal: str | None = None
        self.spent: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher, but a search is resumed from the journal."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The space is fixed per cell."""
        return True

    @property
    def num_left(self) -> int:
        """Trials, baselines and confirmations that are known, and neither finished nor running."""
        waiting = sum(cell.num_trials - cell.study.num_suggested for cell in self._cells)
        return len(self._waiting) + len(self._baselines) + waiting + len(self._confirmations or ())

    @property
    def is_done(self) -> bool:
        """Whether everything that was to run has ended."""
        return not self._running and (self.num_left == 0 or self._is_over)

    @property
    def _is_over(self) -> bool:
        return self.fatal is not None or self.spent is not None

    def suggest(self, trial_id: str) -> Any:
        """The next job for Tune; None: ask again later; FINISHED: nothing is left."""
        self._replay()
        self._begin_to_confirm()
        if self.num_left:
            self.spent = self.spent or self._budget()
        if self._is_over:
            return Searcher.FINISHED
        if (running := self._next()) is not None:
            return self._start(trial_id, running)
        return Searcher.FINISHED if self.num_left == 0 and self._confirmations is not None else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record what a slot reported. Tune hands the last report over twice."""
        running = self._running[trial_id]
        self.slots.add(result["slot"])
        if running.finished is not None:  # its slot's process died after that, and Tune runs it again in another
            return
        if result["slot"] != running.slot:  # of a new process the first report is number 0 again
            running.slot, running.num_reports = result["slot"], result["report"]
        if result["report"] < running.num_reports:
            return
        running.num_reports = result["report"] + 1
        record = parse_record(result["record"])
        if isinstance(record, TrialTaken) and running.taken is None:
            running.taken = record.time
        if isinstance(record, TrialFinished):
            running.waits = self._waits_again(running, record)
            if running.waits:
                return
            record = running.finished = self._with_gpu_seconds(running, record)
        self._recorder.record(record)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record how a trial ended that could not say so itself, then let its study know."""
        running = self._running.pop(trial_id)
        if running.waits:
            self._waiting.append(running)
            return
        if running.finished is None:
            text = "the process that held its slot died" if error else "it ended without a result"
            failed = TrialFinished(key=running.job.key, state=TrialState.FAILED, error=text)
            running.finished = self._with_gpu_seconds(running, failed)
            self._recorder.record(running.finished)
        if running.cell is not None:
            assert running.number is not None
            running.cell.study.add_result(running.number, running.finished)
            self._replay()
        elif running.number is None and running.finished.state != TrialState.COMPLETE:
            self.fatal = f"{running.job.key} could not be scored: {running.finished.error}"
        self._begin_to_confirm()

    def save(self, checkpoint_path: str) -> None:
        """An empty file, because Tune wants one; see __getstate__."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see __getstate__."""

    def _waits_again(self, running: _Running, record: TrialFinished) -> bool:
        """Whether a trial that no workers came for is no failure: others have some, so that there is a cluster, smaller
        than it was planned to be. Their slots end when nothing else is left for them, and give it room."""
        others = (other for other in self._running.values() if other is not running)
        return record.retry and running.taken is None and any(other.taken is not None for other in others)

    def _take_ready(self, waiting: list[_Given]) -> _Given | None:
        """The first whose `after` are done, which then waits no longer."""
        outstanding = {running.job.key for running in self._running.values()} | {one.key for one in waiting}
        found = next((one for one in waiting if not one.after & outstanding), None)
        if found is not None:
            waiting.remove(found)
        return found

    def _begin_to_confirm(self) -> None:
        """Once the search is over, find out what is to be confirmed."""
        if self._confirm is not None and self._confirmations is None and self.num_left == 0 and not self._running:
            self._confirmations = [run for run in self._confirm() if run.key not in self._finished]

    def _next(self) -> _Running | None:
        """What is to run next: what waited for workers, baselines and only then trials, and what confirms them."""
        if self._waiting:
            return self._waiting.pop(0).again()
        if (baseline := self._take_ready(self._baselines)) is not None:
            return _Running(baseline.make_job())
        if self._baselines or any(running.is_baseline for running in self._running.values()):
            return None
        while (found := self._next_trial()) is not None:
            cell, number, params = found
            try:
                return _Running(cell.make_job(number, params), cell, number)
            except ValueError as error:
                self._refuse(cell, number, params, error)
        self._begin_to_confirm()  # the last trials may have been refused
        run = self._take_ready(self._confirmations or [])
        return None if run is None else _Running(run.make_job(), None, run.number, run.confirms)

    def _next_trial(self) -> tuple[Cell, int, dict[str, Value]] | None:
        """The next trial of the least served cell that need not wait for a result."""
        self._replay()
        for cell in sorted(self._cells, key=lambda cell: cell.study.num_suggested):
            number = cell.study.num_suggested
            if number < cell.num_trials and (params := cell.study.suggest()) is not None:
                self._replay()
                return cell, number, params
        return None

    def _replay(self) -> None:
        """Go through the trials that the journal has finished, so that every study knows what it knew."""
        for cell in self._cells if self._finished else ():
            while cell.study.num_suggested < cell.num_trials:
                number = cell.study.num_suggested
                known = self._finished.get(trial_key(cell.name, number))
                if known is None or known.finished is None or cell.study.suggest(known.started.params) is None:
                    break
                cell.study.add_result(number, known.finished)

    def _refuse(self, cell: Cell, number: int, params: dict[str, Value], error: ValueError) -> None:
        """Sampled settings that are fine one by one but not together: a FAILED trial that never ran."""
        key = trial_key(cell.name, number)
        started = TrialStarted(
            key=key, method=cell.method, forget_set=cell.forget_set, number=number, params=params, config={}
        )
        finished = TrialFinished(key=key, state=TrialState.FAILED, error=f"settings do not go together: {error}")
        self._recorder.record(started)
        self._recorder.record(finished)
        cell.study.add_result(number, finished)

    def _start(self, trial_id: str, running: _Running) -> dict[str, Any]:
        self._running[trial_id] = running
        job, cell, confirms = running.job, running.cell, running.confirms
        self._recorder.record(
            TrialStarted(
                key=job.key,
                method=cell.method if cell else (confirms or job.key).partition("/")[0],
                forget_set=job.config.forget_set,
                number=running.number,
                confirms=confirms,
                params=job.params,
                config=job.config.model_dump(mode="json"),
                gpus=self._num_gpus,
            )
        )
        return {"key": job.key, "job": job.model_dump_json(), "slot": self._slot}

    @property
    def _num_gpus(self) -> float:
        held: float = self._slot.get("num_workers", 0) * self._slot.get("gpus_per_worker", 0.0)
        return held

    def _with_gpu_seconds(self, running: _Running, record: TrialFinished) -> TrialFinished:
        seconds = 0.0 if running.taken is None else max(0.0, record.time - running.taken)
        return record.model_copy(update={"gpu_seconds": self._num_gpus * seconds})

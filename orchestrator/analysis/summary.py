"""A journal boiled down to plain data: what the report draws and the terminal prints, decided once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.analysis.pareto import Direction, Points, UnitBox, front, knee
from orchestrator.analysis.volume import Measure, Volume, measure, volumes
from orchestrator.tracking.journal import (
    BASELINES,
    CellRecord,
    DataRecord,
    ExampleAnswer,
    ObjectiveRecord,
    SweepStarted,
    TaskFinished,
    TrialState,
)
from orchestrator.tracking.sweep_log import SweepLog, TrialLog

UNFINISHED = "UNFINISHED"
STATES = (*TrialState, UNFINISHED)


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One trial or baseline.

    `objectives` are in the sweep's order and None without a score; `seconds` is the sum of the recorded phases, or the
    time from start to end where a trial ended before it recorded any, and None while it is unfinished. `gpu_seconds`:
    what its workers held until its end, 0 without GPUs. `tasks` are
    those of a chain that were finished, however the trial ended; empty where there is a single task. `confirms` names
    the trial or baseline that it repeats on held-out questions. `weights_sha256`: of a baseline, the weights scored.
    """

    key: str
    method: str
    forget_set: str
    number: int | None
    state: str
    params: dict[str, float | int | str | bool]
    objectives: tuple[float, ...] | None
    metrics: dict[str, float]
    seconds: float | None
    gpu_seconds: float | None
    error: str | None
    checkpoint: str | None
    examples: tuple[ExampleAnswer, ...]
    tasks: tuple[TaskFinished, ...]
    confirms: str | None = None
    seed: int | None = None
    weights_sha256: str | None = None

    @property
    def is_searched(self) -> bool:
        """Whether it is a trial of the search: no baseline, and no run that confirms one."""
        return self.confirms is None and self.method not in BASELINES

    @property
    def is_complete(self) -> bool:
        """Whether it ended with scores that are a result: a pruned trial's are those of a rung."""
        return self.state == TrialState.COMPLETE

    @property
    def is_comparable(self) -> bool:
        """Whether the trial may stand on a front: it ended COMPLETE and its objectives are numbers."""
        return self.is_complete and self.is_placed

    @property
    def is_placed(self) -> bool:
        """Whether all objectives are finite numbers, so that the trial has a place in a plot."""
        return self.objectives is not None and all(math.isfinite(value) for value in self.objectives)


@dataclass(frozen=True, slots=True)
class CellSummary:
    """One method on one forget set; `knee` and `volume` are None without a complete trial.

    `num_planned` is its budget, or what was started where that is more or the header has no such cell.
    """

    method: str
    forget_set: str
    num_planned: int
    trials: tuple[TrialSummary, ...]
    counts: dict[str, int]
    front: tuple[TrialSummary, ...]
    knee: TrialSummary | None
    volume: Volume | None

    @property
    def hypervolume(self) -> float | None:
        """Of all its complete trials, by the measure of the forget set."""
        return None if self.volume is None else self.volume.whole

    @property
    def gpu_seconds(self) -> float:
        """What the slots of its trials held, together."""
        return sum(trial.gpu_seconds or 0.0 for trial in self.trials)


@dataclass(frozen=True, slots=True)
class ForgetSetSummary:
    """All methods on one forget set: the front over all of them, and the two models they are measured against.

    `knee`: of that front; None without a complete trial. `measure`: the axes of its hypervolumes. `data`: its rows;
    None in old journals.
    """

    name: str
    cells: tuple[CellSummary, ...]
    counts: dict[str, int]
    front: tuple[TrialSummary, ...]
    knee: TrialSummary | None
    before: TrialSummary | None
    retain_model: TrialSummary | None
    measure: Measure
    data: DataRecord | None = None
    confirmations: tuple[TrialSummary, ...] = ()  # of its finalists and baselines; nothing else counts them

    @property
    def ranking(self) -> list[CellSummary]:
        """The cells by hypervolume, largest first; those without one last, in the sweep's order."""
        return sorted(self.cells, key=lambda cell: math.inf if cell.hypervolume is None else -cell.hypervolume)

    @property
    def baselines(self) -> tuple[TrialSummary, ...]:
        """The model before unlearning and the retain model, where they were started."""
        return tuple(trial for trial in (self.before, self.retain_model) if trial is not None)

    @property
    def num_rows(self) -> int | None:
        """Rows of the forget set, all tasks together; None where no record says it."""
        return None if self.data is None else self.data.forget.num_rows

    @property
    def models(self) -> tuple[TrialSummary, ...]:
        """The models worth a closer look: the baselines, then the knee of each cell, best ranked first."""
        return (*self.baselines, *(cell.knee for cell in self.ranking if cell.knee is not None))


@dataclass(frozen=True)
class SweepSummary:
    """Everything a reader wants to know of a sweep. `state` is `running or cut off` where the journal has no end.

    `seconds` is the time of all trials and baselines together, `clock_seconds` the time on the clock over all sittings,
    `gpu_seconds` what slots held in them. `last_time` is when the last
    trial started, finished a task or ended, in seconds since 1970. `judges` lists every model that was recorded under a
    judge's name. `parts`: the sweeps that are overlaid in it, see `overlay`; empty for a sweep by itself.
    """

    name: str
    seed: int
    command: str
    state: str
    methods: tuple[str, ...]
    objectives: tuple[ObjectiveRecord, ...]
    num_planned: int
    trials_per_cell: str
    forget_sets: tuple[ForgetSetSummary, ...]
    counts: dict[str, int]
    seconds: float
    clock_seconds: float
    gpu_seconds: float
    last_time: float
    judges: dict[str, tuple[str, ...]]
    versions: dict[str, str]
    config: dict[str, Any]
    parts: "tuple[SweepSummary, ...]" = ()

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Direction of each objective."""
        return tuple(objective.direction for objective in self.objectives)

    @cached_property
    def trials(self) -> list[TrialSummary]:
        """Every searched trial, by forget set and method."""
        return [trial for group in self.forget_sets for cell in group.cells for trial in cell.trials]

    @cached_property
    def params(self) -> list[str]:
        """The names of all searched params, in the order in which they first appear."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    @cached_property
    def metrics(self) -> list[str]:
        """The names of all metrics of complete trials but the objectives, in the order in which they first appear."""
        objectives = {objective.metric for objective in self.objectives}
        names = dict.fromkeys(name for trial in self.trials if trial.is_complete for name in trial.metrics)
        return [name for name in names if name not in objectives]


def summarize(log: SweepLog) -> SweepSummary:
    """What `log` says, also while its sweep is running: missing parts are None or empty, never guessed."""
    header = log.header
    everything = [_trial(trial, header.objectives) for trial in log.trials.values()]
    searched = [trial for trial in everything if trial.is_searched]
    times = [
        record.time
        for trial in log.trials.values()
        for record in (trial.started, *trial.tasks, trial.finished)
        if record
    ]
    return SweepSummary(
        name=header.name,
        seed=header.seed,
        command=log.sittings[0].command,
        state=log.ended.state if log.ended else "running or cut off",
        methods=_in_order([cell.method for cell in header.cells] + [trial.method for trial in searched]),
        objectives=header.objectives,
        num_planned=header.num_trials,
        trials_per_cell=header.trials_per_cell,
        forget_sets=by_forget_set(everything, header.cells, header.objectives, header.data),
        counts=_counts(searched),
        seconds=sum(trial.seconds or 0.0 for trial in everything),
        clock_seconds=log.spent()[0],
        gpu_seconds=log.spent()[1],
        last_time=max(times, default=header.time),
        judges=_judges(log.trials.values()),
        versions=_versions(log.sittings),
        config=header.config,
    )


def _versions(sittings: Sequence[SweepStarted]) -> dict[str, str]:
    """Of each package: its version, or those of one sitting after another where they differ."""
    names = _in_order([name for sitting in sittings for name in sitting.versions])
    return {
        name: ", then ".join(_in_order([s.versions[name] for s in sittings if name in s.versions])) for name in names
    }


def by_forget_set(
    everything: Sequence[TrialSummary],
    cells: Sequence[CellRecord],
    objectives: Sequence[ObjectiveRecord],
    data: Mapping[str, DataRecord],
) -> tuple[ForgetSetSummary, ...]:
    """Trials, baselines and confirmation runs, sorted into forget sets and methods; first those of `cells`."""
    searched = [trial for trial in everything if trial.is_searched]
    methods = _in_order([cell.method for cell in cells] + [trial.method for trial in searched])
    names = _in_order([cell.forget_set for cell in cells] + [trial.forget_set for trial in searched])
    planned = {(cell.method, cell.forget_set): cell.num_trials for cell in cells}
    groups = []
    for name in names:
        here = [trial for trial in everything if trial.forget_set == name and trial.confirms is None]
        started = {trial.method for trial in here}
        budgets = {m: planned.get((m, name), 0) for m in methods if m in started or (m, name) in planned}
        again = tuple(trial for trial in everything if trial.confirms is not None and trial.forget_set == name)
        group = _forget_set(name, here, budgets, objectives)
        groups.append(replace(group, data=data.get(name), confirmations=again))
    return tuple(groups)


def _trial(log: TrialLog, objectives: Sequence[ObjectiveRecord]) -> TrialSummary:
    started, finished = log.started, log.finished
    seconds = None
    if finished:
        seconds = sum(finished.seconds.values()) if finished.seconds else max(0.0, finished.time - started.time)
    return TrialSummary(
        key=started.key,
        method=started.method,
        forget_set=started.forget_set,
        number=started.number,
        state=finished.state if finished else UNFINISHED,
        params=started.params,
        objectives=log.values(objectives),
        metrics=finished.metrics if finished else {},
        seconds=seconds,
        gpu_seconds=log.gpu_seconds,
        error=finished.error if finished else None,
        checkpoint=log.checkpoint,
        examples=finished.examples if finished else (),
        tasks=tuple(log.tasks),
        confirms=started.confirms,
        seed=started.config.get("seed"),
        weights_sha256=finished.weights_sha256 if finished else None,
    )


def _forget_set(
    name: str, trials: Sequence[TrialSummary], budgets: Mapping[str, int], objectives: Sequence[ObjectiveRecord]
) -> ForgetSetSummary:
    """The summary of one forget set; `budgets` holds its methods in their order."""
    baselines = {trial.method: trial for trial in trials if trial.method in BASELINES}
    before, retain_model = baselines.get("before"), baselines.get("retain_model")
    searched = [trial for trial in trials if trial.method not in BASELINES]
    measured = measure(objectives, _place(before), _place(retain_model))
    in_cell = {method: [trial for trial in searched if trial.method == method] for method in budgets}
    found = _volumes(measured.box, in_cell)
    members = _front(searched, objectives)
    return ForgetSetSummary(
        name=name,
        cells=tuple(
            _cell(method, name, in_cell[method], budget, objectives, measured, found.get(method))
            for method, budget in budgets.items()
        ),
        counts=_counts(searched),
        front=members,
        knee=_knee(members, measured),
        before=before,
        retain_model=retain_model,
        measure=measured,
    )


def _place(trial: TrialSummary | None) -> tuple[float, ...] | None:
    return trial.objectives if trial is not None and trial.is_placed else None


def _volumes(box: UnitBox, in_cell: Mapping[str, Sequence[TrialSummary]]) -> dict[str, Volume]:
    """Of the methods that have a complete trial. One that ended otherwise was spent as well, and came to nothing."""
    ended: dict[str, Points] = {}
    for method, trials in in_cell.items():
        if any(trial.is_comparable for trial in trials):
            rows = [t.objectives if t.is_comparable else box.zero for t in trials if t.state != UNFINISHED]
            ended[method] = np.array(rows, dtype=float)
    return volumes(box, ended)


def _cell(
    method: str,
    forget_set: str,
    trials: Sequence[TrialSummary],
    budget: int,
    objectives: Sequence[ObjectiveRecord],
    measured: Measure,
    volume: Volume | None,
) -> CellSummary:
    ordered = tuple(sorted(trials, key=lambda trial: -1 if trial.number is None else trial.number))
    members = _front(ordered, objectives)
    return CellSummary(
        method=method,
        forget_set=forget_set,
        num_planned=max(budget, len(ordered)),
        trials=ordered,
        counts=_counts(ordered),
        front=members,
        knee=_knee(members, measured),
        volume=volume,
    )


def _front(trials: Iterable[TrialSummary], objectives: Sequence[ObjectiveRecord]) -> tuple[TrialSummary, ...]:
    comparable = [trial for trial in trials if trial.is_comparable]
    values = np.array([trial.objectives for trial in comparable], dtype=float)
    return tuple(comparable[i] for i in front(values, [objective.direction for objective in objectives]))


def _knee(members: Sequence[TrialSummary], measured: Measure) -> TrialSummary | None:
    values = np.array([trial.objectives for trial in members], dtype=float)
    return members[knee(values, measured.box.directions, measured.spans)] if members else None


def _counts(trials: Iterable[TrialSummary]) -> dict[str, int]:
    """How many trials are in each state; every state is a key."""
    states = [trial.state for trial in trials]
    return {str(state): states.count(state) for state in STATES}


def _judges(trials: Iterable[TrialLog]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for trial in trials:
        for role, model in (trial.finished.judges if trial.finished else {}).items():
            found[role] = _in_order([*found.get(role, ()), model])
    return found


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, each where it first appears."""
    return tuple(dict.fromkeys(names))

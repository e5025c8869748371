"""Which runs confirm a search: the front of each cell once more with fresh seeds, and the models it is measured by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.analysis.pareto import Direction, best_first
from orchestrator.tracking.checkpoints import cell_front, measured, objectives
from orchestrator.tracking.journal import BASELINES
from orchestrator.tracking.sweep_log import SweepLog, TrialLog


@dataclass(frozen=True, slots=True)
class ConfirmationRun:
    """One run: what it confirms, and which of its seeds it has (from 1; None: a baseline, which has none)."""

    confirms: TrialLog
    number: int | None

    @property
    def key(self) -> str:
        """`confirm/METHOD/forget_set/tNNN/sN`, or `confirm/before/forget_set`."""
        key = f"confirm/{self.confirms.started.key}"
        return key if self.number is None else f"{key}/s{self.number}"


def finalists(log: SweepLog, most: int | None = None) -> list[TrialLog]:
    """The trials of each cell that are run again, cell by cell, as its front stands; `most`: as in chosen."""
    directions = [objective.direction for objective in log.header.objectives]
    found = []
    for cell in log.header.cells:
        front = cell_front(log, log.cell(cell.method, cell.forget_set))
        values, spans = [objectives(trial) for trial in front], measured(log, cell.forget_set).spans
        found += [front[index] for index in chosen(values, directions, most, spans)]
    return found


def chosen(
    front: Sequence[Sequence[float]],
    directions: Sequence[Direction],
    most: int | None,
    spans: Sequence[float] | None = None,
) -> list[int]:
    """Indices of the rows of a front that are run again: its knee, then what spans it best; None: all of it.

    `spans`: as for pareto.knee.
    """
    return list(range(len(front))) if most is None else sorted(best_first(front, directions, spans)[:most])


def confirmation_runs(log: SweepLog, num_seeds: int, most: int | None = None) -> list[ConfirmationRun]:
    """What confirms the fronts as they stand: baselines first, then each finalist with its first seed, its second, ...

    So that finalists have been run about equally often whenever a sweep is cut off.
    """
    again = finalists(log, most)
    names = dict.fromkeys(trial.started.forget_set for trial in again)
    known = [log.baseline(kind, name) for name in names for kind in reversed(BASELINES)]
    runs = [ConfirmationRun(baseline, None) for baseline in known if baseline is not None]
    return runs + [ConfirmationRun(trial, number) for number in range(1, num_seeds + 1) for trial in again]


def num_seeds(config: Mapping[str, Any]) -> int:
    """Runs of each finalist that the sweep of a recorded configuration is to have."""
    return int((config.get("confirm") or {}).get("seeds", 0))


def most_finalists(config: Mapping[str, Any]) -> int | None:
    """Finalists of a cell at most, by a recorded configuration; None: its whole front."""
    most: int | None = (config.get("confirm") or {}).get("finalists_per_cell")
    return most

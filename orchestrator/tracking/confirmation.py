"""Which runs confirm a search: the front of each cell once more with fresh seeds, and the models it is measured by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.tracking.checkpoints import cell_front
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


def finalists(log: SweepLog) -> list[TrialLog]:
    """The trials on the front of each cell, cell by cell, as it stands."""
    cells = [log.cell(cell.method, cell.forget_set) for cell in log.header.cells]
    return [trial for cell in cells for trial in cell_front(log, cell)]


def confirmation_runs(log: SweepLog, num_seeds: int) -> list[ConfirmationRun]:
    """What confirms the fronts as they stand: baselines first, then each finalist with its first seed, its second, ...

    So that finalists have been run about equally often whenever a sweep is cut off.
    """
    chosen = finalists(log)
    names = dict.fromkeys(trial.started.forget_set for trial in chosen)
    known = [log.baseline(kind, name) for name in names for kind in reversed(BASELINES)]
    runs = [ConfirmationRun(baseline, None) for baseline in known if baseline is not None]
    return runs + [ConfirmationRun(trial, number) for number in range(1, num_seeds + 1) for trial in chosen]


def num_seeds(config: Mapping[str, Any]) -> int:
    """Runs of each finalist that the sweep of a recorded configuration is to have."""
    return int((config.get("confirm") or {}).get("seeds", 0))

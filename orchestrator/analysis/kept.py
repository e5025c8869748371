"""The question of most readers: how much is forgotten by settings that keep nearly all of the model's utility?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.confirmation import ConfirmationTable
from orchestrator.analysis.constraints import Constraint, best_at
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, TrialSummary
from orchestrator.analysis.volume import measures_forgetting, measures_utility
from orchestrator.tracking.journal import ObjectiveRecord

SHARE = 0.95  # of the value before unlearning


@dataclass(frozen=True, slots=True)
class BestKept:
    """For each method the trial that is best in `objective` among those that keep every one of `limits`, best first.

    `limits`: an objective and its least value, 95% of that before unlearning. None: no trial of the method keeps them.
    """

    objective: ObjectiveRecord
    limits: tuple[tuple[ObjectiveRecord, float], ...]
    rows: tuple[tuple[CellSummary, TrialSummary | None], ...]


def best_kept(group: ForgetSetSummary, objectives: Sequence[ObjectiveRecord]) -> BestKept | None:
    """The table of a forget set; None without an objective of forgetting, another to keep, or scores before unlearning.

    What is to be kept are the objectives that do not measure forgetting and of which more is better.
    """
    aims = [i for i, objective in enumerate(objectives) if measures_forgetting(objective)]
    kept = [i for i, objective in enumerate(objectives) if measures_utility(objective)]
    before = group.before.objectives if group.before and group.before.is_placed else None
    if not aims or not kept or before is None or min(before[i] for i in kept) < 0:
        return None
    directions = [objective.direction for objective in objectives]
    constraints = [Constraint(i, "maximize", SHARE, baseline=before[i]) for i in kept]
    best = []
    for cell in group.cells:
        values = np.array([trial.objectives for trial in cell.front], dtype=float)
        chosen = best_at(values, aims[0], constraints, directions)
        best.append((cell, None if chosen is None else cell.front[chosen]))
    limits = tuple((objectives[constraint.column], constraint.limit) for constraint in constraints)
    return BestKept(
        objectives[aims[0]], limits, tuple(sorted(best, key=lambda row: _order(row[1], aims[0], directions)))
    )


def kept_again(found: BestKept, table: ConfirmationTable, objectives: Sequence[ObjectiveRecord]) -> dict[str, bool]:
    """By the key of each trial in `found` that was confirmed: whether its mean keeps the same share on the questions of
    the confirmation. Empty where the model before unlearning was not asked these."""
    before = next((row.mean for row in table.baselines if row.trial.method == "before"), None)
    means = {row.trial.key: row.mean for row in table.finalists}
    chosen = [trial.key for _, trial in found.rows if trial is not None and means.get(trial.key) is not None]
    columns = [objectives.index(objective) for objective, _ in found.limits]
    if before is None:
        return {}
    return {key: all((means[key] or ())[i] >= SHARE * before[i] for i in columns) for key in chosen}


def _order(trial: TrialSummary | None, column: int, directions: Sequence[str]) -> tuple[bool, float]:
    if trial is None or trial.objectives is None:
        return True, 0.0
    value = trial.objectives[column]
    return False, -value if directions[column] == "maximize" else value

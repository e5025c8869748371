"""Which trials of a forget set are worth a name: those that others load."""

from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.pareto import as_costs, front, knee
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.volume import measures_forgetting, measures_utility
from orchestrator.tracking.journal import ObjectiveRecord


def winners(group: ForgetSetSummary, objectives: Sequence[ObjectiveRecord]) -> dict[str, TrialSummary]:
    """By name, among trials whose weights are kept; empty where there are none.

    `pareto-knee` is the knee of the front over all methods. `best-utility` and `best-forgetting` are the ends of that
    front: best in the first objective of utility, and in the first that measures forgetting, where there are such. An
    end is not a model to use: best in utility is often one that forgot little.
    """
    kept = [t for cell in group.cells for t in cell.trials if t.is_comparable and t.checkpoint is not None]
    if not kept:
        return {}
    directions = [objective.direction for objective in objectives]
    values = np.array([trial.objectives for trial in kept], dtype=float)
    members, costs = front(values, directions), as_costs(values, directions)
    found = {"pareto-knee": kept[knee(values, directions, group.measure.spans)]}
    for name, measures in (("best-utility", measures_utility), ("best-forgetting", measures_forgetting)):
        column = next((i for i, one in enumerate(objectives) if measures(one)), None)
        if column is not None:
            found[name] = kept[members[np.argmin(costs[members, column])]]
    return found


def winning_keys(summary: SweepSummary) -> dict[str, dict[str, str]]:
    """The winners of each forget set: a trial's key by its name."""
    return {
        group.name: {name: trial.key for name, trial in winners(group, summary.objectives).items()}
        for group in summary.forget_sets
    }

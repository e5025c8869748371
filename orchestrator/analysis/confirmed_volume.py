"""What each method's finalists are worth together: hypervolumes of confirmation runs, a front for each seed."""

import statistics
from dataclasses import dataclass

from orchestrator.analysis.confirmation import by_seed, confirmation_table
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary
from orchestrator.analysis.volume import measure


@dataclass(frozen=True, slots=True)
class ConfirmedVolume:
    """Of one method: the hypervolume of its finalists' runs with each seed, and how many finalists it has.

    The axes are those of the search, by what the two baselines score on the questions of the confirmation.
    """

    method: str
    seeds: tuple[float, ...]
    num_finalists: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.seeds)


def confirmed_volumes(sweep: SweepSummary, group: ForgetSetSummary) -> tuple[ConfirmedVolume, ...]:
    """Best first; left out are methods with runs outstanding, and those none of whose runs is complete."""
    table = confirmation_table(sweep, group)
    if table is None:
        return ()
    again = {trial.confirms: trial.objectives for trial in group.confirmations if trial.number is None}
    before, retain_model = (again.get(f"{kind}/{group.name}") for kind in ("before", "retain_model"))
    box = measure(sweep.objectives, before, retain_model).box
    found = []
    for cell in group.ranking:
        rows = [row for row in table.finalists if row.trial.method == cell.method]
        ended = all(row.num_ended == row.num_planned for row in rows)
        if ended and any(row.mean is not None for row in rows):
            volumes = tuple(box.hypervolume(points) for points in by_seed(group, rows))
            found.append(ConfirmedVolume(cell.method, volumes, len(rows)))
    return tuple(sorted(found, key=lambda one: -one.mean))

"""What each method's finalists are worth together: hypervolumes of confirmation runs, a front for each seed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.confirmation import by_seed, confirmation_table
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary
from orchestrator.analysis.volume import Measure, measure
from orchestrator.analysis.words import score


@dataclass(frozen=True, slots=True)
class ConfirmedVolume:
    """Of one method: the hypervolume of its finalists' runs with each seed, how many finalists it has, and how many
    trials were on its front."""

    method: str
    seeds: tuple[float, ...]
    num_finalists: int
    num_on_front: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.seeds)


@dataclass(frozen=True, slots=True)
class ConfirmedVolumes:
    """Of the methods of a forget set, best first, at least one. Left out are methods with runs outstanding, and those
    none of whose runs is complete.

    `measure`: the axes, as in the search, but by what the two baselines score on the questions of the confirmation.
    """

    measure: Measure
    methods: tuple[ConfirmedVolume, ...]

    @property
    def leaders(self) -> tuple[str, ...]:
        """The best method, and those that the page shows with the same hypervolume."""
        best = score(self.methods[0].mean)
        return tuple(one.method for one in self.methods if score(one.mean) == best)

    @property
    def how_clearly(self) -> str:
        """` clearly` if the leader's worst seed is better than the best seed of each other method, or that it is not;
        empty where there is no single leader, nobody to compare it with, or a single seed."""
        first, *others = self.methods
        if len(self.leaders) > 1 or not others or any(len(one.seeds) < 2 for one in self.methods):
            return ""
        return " clearly" if is_clear([one.seeds for one in self.methods]) else " within the spread of seeds"


def is_clear(seeds: Sequence[Sequence[float]]) -> bool:
    """Whether the worst seed of the first is better than the best of each other."""
    first, *others = seeds
    return all(min(first) > max(other) for other in others)


def confirmed_volumes(sweep: SweepSummary, group: ForgetSetSummary) -> ConfirmedVolumes | None:
    """None where no method's confirmation has ended with a complete run."""
    table = confirmation_table(sweep, group)
    if table is None:
        return None
    again = {row.trial.method: row.mean for row in table.baselines}
    measured = measure(sweep.objectives, again.get("before"), again.get("retain_model"))
    found = []
    for cell in group.ranking:
        rows = [row for row in table.finalists if row.trial.method == cell.method]
        ended = all(row.num_ended == row.num_planned for row in rows)
        if ended and any(row.mean is not None for row in rows):
            volumes = tuple(measured.box.hypervolume(points) for points in by_seed(group, rows))
            found.append(ConfirmedVolume(cell.method, volumes, len(rows), len(cell.front)))
    return ConfirmedVolumes(measured, tuple(sorted(found, key=lambda one: -one.mean))) if found else None

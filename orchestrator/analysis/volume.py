"""How hypervolumes on one forget set are measured, the same for all methods, and what each method's comes to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.analysis.pareto import Points, UnitBox, contributions
from orchestrator.analysis.resampling import Interval, subset_interval
from orchestrator.tracking.journal import ObjectiveRecord

FEWEST_ENDED = 4  # trials that each method must have ended before intervals are given: below it they are too narrow
LEAST_SPAN = 0.01  # of the way from an objective's worst value to the retain model's: a shorter one is no scale


@dataclass(frozen=True, slots=True)
class Measure:
    """The axes of all hypervolumes on one forget set; `box.zero` is their reference point.

    Where `is_scaled`, 1 is the retain model, and 0 is the model before unlearning in objectives of forgetting, the
    worst value in the others. Else 0 is the worst value in all of them, in their own units; `obstacle` is then the
    objective in which the retain model is not better than 0 would be, or by less than LEAST_SPAN; None where a baseline
    lacks an objective.
    """

    box: UnitBox
    is_scaled: bool
    obstacle: ObjectiveRecord | None = None

    @property
    def spans(self) -> tuple[float, ...] | None:
        """How long the axes are, by which a knee weighs objectives against each other; None where they have no scale.

        A front's own range is a poor one: a single trial that ruined the model stretches it.
        """
        pairs = zip(self.box.zero, self.box.one, strict=True)
        return tuple(abs(one - zero) for zero, one in pairs) if self.is_scaled else None


@dataclass(frozen=True, eq=False)
class Volume:
    """Of one method: its hypervolume, and what all methods together lose without it.

    `ended` holds a row (N, M) for each of its trials that ended, `box.zero` for one that came to nothing; `num_drawn`
    is half of the fewest trials that any of the methods compared has ended.
    """

    whole: float
    alone: float
    ended: Points
    box: UnitBox
    num_drawn: int

    @cached_property
    def interval(self) -> Interval | None:
        """Where the hypervolume of 95% of random draws of `num_drawn` trials lies; None where a method has too few."""
        too_few = 2 * self.num_drawn < FEWEST_ENDED
        return None if too_few else subset_interval(self.ended, self.box, size=self.num_drawn)


def measures_forgetting(objective: ObjectiveRecord) -> bool:
    """Whether the objective says how much is forgotten, in which the model before unlearning is where one starts."""
    return objective.metric.startswith("forget")


def measures_utility(objective: ObjectiveRecord) -> bool:
    """Whether the objective says what the model is still good for: of which more is better, and not forgetting."""
    return not measures_forgetting(objective) and objective.direction == "maximize"


def measure(
    objectives: Sequence[ObjectiveRecord],
    before: tuple[float, ...] | None,
    retain_model: tuple[float, ...] | None,
) -> Measure:
    """The measure of a forget set by its baselines' objectives, each finite, or None where one is missing."""
    directions = tuple(objective.direction for objective in objectives)
    worst = tuple(objective.worst for objective in objectives)
    obstacle = None
    if before is not None and retain_model is not None:
        pairs = zip(objectives, before, strict=True)
        zero = tuple(value if measures_forgetting(objective) else objective.worst for objective, value in pairs)
        ends = zip(objectives, zero, retain_model, strict=True)
        obstacle = next((objective for objective, low, high in ends if not _rises(objective, low, high)), None)
        if obstacle is None:
            return Measure(UnitBox(zero, retain_model, directions), is_scaled=True)
    one = tuple(value + (1 if way == "maximize" else -1) for value, way in zip(worst, directions, strict=True))
    return Measure(UnitBox(worst, one, directions), is_scaled=False, obstacle=obstacle)


def volumes(box: UnitBox, ended: Mapping[str, Points]) -> dict[str, Volume]:
    """The volume of each method; `ended` holds a row for each of its trials that ended, `box.zero` for a lost one."""
    num_drawn = min(map(len, ended.values()), default=0) // 2
    scaled = [box.scale(rows) for rows in ended.values()]
    alone = contributions(scaled, [0.0] * len(box.zero), ["maximize"] * len(box.zero))
    pairs = zip(ended.items(), alone, strict=True)
    return {
        method: Volume(box.hypervolume(rows), float(share), rows, box, num_drawn) for (method, rows), share in pairs
    }


def _rises(objective: ObjectiveRecord, zero: float, one: float) -> bool:
    sign = 1 if objective.direction == "maximize" else -1
    span, whole = sign * (one - zero), sign * (one - objective.worst)
    return span > 0 and (math.isinf(whole) or span >= LEAST_SPAN * whole)

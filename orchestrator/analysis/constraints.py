"""What must hold besides being good: bounds on objectives, and the best of what is within them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.analysis.pareto import Direction, as_costs, checked_points


@dataclass(frozen=True, slots=True)
class Constraint:
    """Column `column` is at least `limit` where more of it is better, at most `limit` where less is.

    `bound` is the limit itself or, with a `baseline`, a share of that value: 0.95 of the utility before unlearning.
    ValueError: a bound that is not finite, a baseline that is not finite or negative, a negative or unknown column.
    """

    column: int
    direction: Direction
    bound: float
    baseline: float | None = None

    def __post_init__(self) -> None:
        if self.column < 0:
            raise ValueError(f"column must be 0 or more, but got {self.column}")
        if not math.isfinite(self.bound):
            raise ValueError(f"bound must be finite, but got {self.bound}")
        if self.baseline is not None and not 0 <= self.baseline < math.inf:
            raise ValueError(f"a share can be taken of a finite baseline from 0 on, but got {self.baseline}")

    @property
    def limit(self) -> float:
        """The bound in the objective's own unit."""
        return self.bound if self.baseline is None else self.bound * self.baseline


def feasible(
    values: ArrayLike, constraints: Iterable[Constraint], directions: Sequence[Direction]
) -> NDArray[np.bool_]:
    """Which rows of `values` (N, M) keep all `constraints`; a row at the limit keeps it.

    ValueError: as for `pareto.front`, or a constraint on a column that does not exist or has another direction.
    """
    points = checked_points(values, directions)
    kept = np.ones(len(points), dtype=bool)
    for constraint in constraints:
        column = constraint.column
        if column >= len(directions) or directions[column] != constraint.direction:
            raise ValueError(f"{constraint} does not fit objectives with directions {list(directions)}")
        worth = points[:, column]
        kept &= worth >= constraint.limit if constraint.direction == "maximize" else worth <= constraint.limit
    return kept


def best_at(
    values: ArrayLike, column: int, constraints: Iterable[Constraint], directions: Sequence[Direction]
) -> int | None:
    """Index of the row that is best in objective `column` among those that keep all `constraints`; None if none does.

    Rows that are equal there are told apart by the other objectives in their order, then by the index, so that no row
    within the constraints dominates the answer. ValueError: as for `feasible`, or a column that does not exist.
    """
    if not 0 <= column < len(directions):
        raise ValueError(f"column must be 0 to {len(directions) - 1}, but got {column}")
    within = np.flatnonzero(feasible(values, constraints, directions))
    if not within.size:
        return None
    costs = as_costs(checked_points(values, directions)[within], directions)
    order = np.lexsort((within, *costs.T[::-1], costs[:, column]))  # the last key sorts first
    return int(within[order[0]])

"""Pareto maths on plain arrays: rows are points, columns are objectives, each with a direction of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["maximize", "minimize"]
Points = NDArray[np.float64]


def front(values: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.intp]:
    """Indices of the non-dominated rows of `values` (N, M), ascending; every copy of a duplicate is kept.

    ValueError: NaN, an unknown direction, or a number of columns that is not the number of directions.
    """
    points = checked_points(values, directions)
    if len(points) == 0:
        return np.empty(0, dtype=np.intp)
    kept = moocore.is_nondominated(points, maximise=_maximise(directions), keep_weakly=True)
    return np.flatnonzero(kept)


def is_dominated(value: ArrayLike, others: ArrayLike, directions: Sequence[Direction]) -> bool:
    """Whether a row of `others` (N, M) is at least as good as `value` (M,) everywhere and better somewhere.

    ValueError: as for `front`.
    """
    point = as_costs(checked_points(np.atleast_2d(np.asarray(value, dtype=float)), directions), directions)[0]
    costs = as_costs(checked_points(others, directions), directions)
    return bool(np.any(np.all(costs <= point, axis=1) & np.any(costs < point, axis=1)))


def hypervolume(values: ArrayLike, reference: ArrayLike, directions: Sequence[Direction]) -> float:
    """Volume that `values` (N, M) dominate, bounded by the `reference` point (M,); 0.0 for no points.

    A point that is worse than the reference in any objective adds nothing. ValueError: as for `front`, and infinities.
    """
    points = checked_points(values, directions)
    bound = checked_points(np.atleast_2d(np.asarray(reference, dtype=float)), directions)[0]
    if not (np.isfinite(points).all() and np.isfinite(bound).all()):
        raise ValueError("hypervolume needs finite values and a finite reference point, but got an infinity")
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=bound, maximise=_maximise(directions)))


def contributions(
    groups: Sequence[ArrayLike], reference: ArrayLike, directions: Sequence[Direction]
) -> NDArray[np.float64]:
    """What each of `groups`, arrays (N, M) with N from 0, alone adds: the hypervolume of all minus that of the others.

    Never negative; 0.0 for a group whose points others dominate or repeat. ValueError: as for `hypervolume`.
    """
    if not groups:
        return np.empty(0)
    each = [checked_points(group, directions) for group in groups]
    points, owners = np.concatenate(each), np.repeat(np.arange(len(each)), [len(group) for group in each])
    whole = hypervolume(points, reference, directions)
    others = [hypervolume(points[owners != owner], reference, directions) for owner in range(len(each))]
    return np.array([max(0.0, whole - rest) for rest in others])


@dataclass(frozen=True, slots=True)
class UnitBox:
    """Scaled axes: in each objective `zero` becomes 0 and `one` becomes 1, so that more is better in all of them.

    What is better than `one` lies beyond 1. ValueError: in an objective `one` is not better than `zero`, or one of them
    is not finite.
    """

    zero: tuple[float, ...]
    one: tuple[float, ...]
    directions: tuple[Direction, ...]

    def __post_init__(self) -> None:
        corners = checked_points([self.zero, self.one], self.directions)
        worse, better = as_costs(corners, self.directions)
        faulty = np.flatnonzero(~((better < worse) & np.isfinite(corners).all(axis=0)))
        if faulty.size:
            column = int(faulty[0])
            raise ValueError(
                f"objective {column} cannot be scaled: {self.one[column]:g} at one must be finite and better "
                f"({self.directions[column]}) than {self.zero[column]:g} at zero"
            )

    def scale(self, values: ArrayLike) -> Points:
        """`values` (N, M) on the scaled axes. ValueError: as for `front`."""
        zero, one = np.array(self.zero), np.array(self.one)
        scaled: Points = (checked_points(values, self.directions) - zero) / (one - zero)
        return scaled

    def hypervolume(self, values: ArrayLike) -> float:
        """Hypervolume on the scaled axes over `zero`: that of the point `one` is 1.0. ValueError: as there."""
        return hypervolume(self.scale(values), np.zeros(len(self.zero)), ["maximize"] * len(self.zero))


def knee(values: ArrayLike, directions: Sequence[Direction], spans: Sequence[float] | None = None) -> int:
    """Index of the row that compromises best: the nearest to the ideal point, each objective divided by its span.

    The ideal point holds the best value of each objective on the front. `spans`, each above 0, say what counts as much
    in one objective as in another; None: the front's range, which follows its outermost rows (an objective on which the
    front does not differ has no say). The distance is Euclidean. Rows at the same distance, as are the two of a front
    of two in two objectives scaled by its range, are told apart by the objectives in their order, then by the index.
    ValueError: as for `front`, no rows, or infinities.
    """
    points = checked_points(values, directions)
    if len(points) == 0:
        raise ValueError("the knee of no points is undefined")
    if not np.isfinite(points).all():
        raise ValueError("the knee needs finite values, but got an infinity")
    members = front(points, directions)
    costs = as_costs(points[members], directions)
    scaled = (costs - costs.min(axis=0)) / _spans(costs, spans)
    distances = np.linalg.norm(scaled, axis=1).round(12)  # so that ties are ties
    order = np.lexsort((members, *costs.T[::-1], distances))  # the last key sorts first
    return int(members[order[0]])


def best_first(values: ArrayLike, directions: Sequence[Direction], spans: Sequence[float] | None = None) -> list[int]:
    """Indices of the rows of `values` (N, M) from the best to the worst.

    Front after front, as non-dominated sorting finds them. Of a front the knee comes first, then always the row
    farthest from those before it (an epsilon-net, as in arXiv 2106.12639): Euclidean distance, each objective scaled as
    for the `knee`; ties by the index. ValueError: as for `knee`, but no rows are fine.
    """
    points = checked_points(values, directions)
    if len(points) == 0:
        return []
    ranks = moocore.pareto_rank(as_costs(points, directions))
    order: list[int] = []
    for rank in range(int(ranks.max()) + 1):
        members = np.flatnonzero(ranks == rank)
        order += members[_epsilon_net(points[members], directions, spans)].tolist()
    return order


def _epsilon_net(points: Points, directions: Sequence[Direction], spans: Sequence[float] | None) -> list[int]:
    """Indices of the rows of one front."""
    scaled = points / _spans(points, spans)
    order = [knee(points, directions, spans)]
    distances = np.full(len(points), np.inf)
    while len(order) < len(points):
        distances = np.minimum(distances, np.linalg.norm(scaled - scaled[order[-1]], axis=1).round(12))
        distances[order[-1]] = -1.0  # never again
        order.append(int(distances.argmax()))
    return order


def _spans(points: Points, spans: Sequence[float] | None) -> NDArray[np.float64]:
    found = np.ptp(points, axis=0) if spans is None else np.array(spans)
    return np.where(found > 0, found, 1.0)


def checked_points(values: ArrayLike, directions: Sequence[Direction]) -> Points:
    """`values` as an array (N, M) of one column a direction, N from 0. ValueError: as for `front`."""
    unknown = set(directions) - set(get_args(Direction))
    if unknown or not directions:
        raise ValueError(f"directions must be 'maximize' or 'minimize', one for each objective, but got {directions!r}")
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0:
        points = points.reshape(0, len(directions))
    if points.ndim != 2 or points.shape[1] != len(directions):
        raise ValueError(f"values must have shape (N, {len(directions)}), but got {points.shape}")
    if np.isnan(points).any():
        raise ValueError(f"values must not hold NaN, but row {int(np.isnan(points).any(axis=1).argmax())} does")
    return points


def as_costs(points: Points, directions: Sequence[Direction]) -> Points:
    """The same points with every objective turned so that smaller is better."""
    return np.where(_maximise(directions), -points, points)


def _maximise(directions: Sequence[Direction]) -> list[bool]:
    return [direction == "maximize" for direction in directions]

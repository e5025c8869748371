"""Pareto maths on plain arrays: rows are points, columns are objectives, each with a direction of its own."""

from collections.abc import Sequence
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
    points = _points(values, directions)
    if len(points) == 0:
        return np.empty(0, dtype=np.intp)
    kept = moocore.is_nondominated(points, maximise=_maximise(directions), keep_weakly=True)
    return np.flatnonzero(kept)


def is_dominated(value: ArrayLike, others: ArrayLike, directions: Sequence[Direction]) -> bool:
    """Whether a row of `others` (N, M) is at least as good as `value` (M,) everywhere and better somewhere.

    ValueError: as for `front`.
    """
    point = _costs(_points(np.atleast_2d(np.asarray(value, dtype=float)), directions), directions)[0]
    costs = _costs(_points(others, directions), directions)
    return bool(np.any(np.all(costs <= point, axis=1) & np.any(costs < point, axis=1)))


def hypervolume(values: ArrayLike, reference: ArrayLike, directions: Sequence[Direction]) -> float:
    """Volume that `values` (N, M) dominate, bounded by the `reference` point (M,); 0.0 for no points.

    A point that is worse than the reference in any objective adds nothing. ValueError: as for `front`, and infinities.
    """
    points = _points(values, directions)
    bound = _points(np.atleast_2d(np.asarray(reference, dtype=float)), directions)[0]
    if not (np.isfinite(points).all() and np.isfinite(bound).all()):
        raise ValueError("hypervolume needs finite values and a finite reference point, but got an infinity")
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=bound, maximise=_maximise(directions)))


def knee(values: ArrayLike, directions: Sequence[Direction]) -> int:
    """Index of the row that compromises best: the nearest to the ideal point, with each objective scaled to the front.

    The ideal point holds the best value of each objective on the front, the scale is the front's range (an objective
    on which the front does not differ has no say), the distance is Euclidean. Rows at the same distance, as are the
    two of a front of two in two objectives, are told apart by the objectives in their order, then by the index.
    ValueError: as for `front`, no rows, or infinities.
    """
    points = _points(values, directions)
    if len(points) == 0:
        raise ValueError("the knee of no points is undefined")
    if not np.isfinite(points).all():
        raise ValueError("the knee needs finite values, but got an infinity")
    members = front(points, directions)
    costs = _costs(points[members], directions)
    spans = np.ptp(costs, axis=0)
    scaled = (costs - costs.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    distances = np.linalg.norm(scaled, axis=1).round(12)  # so that ties are ties
    order = np.lexsort((members, *costs.T[::-1], distances))  # the last key sorts first
    return int(members[order[0]])


def _points(values: ArrayLike, directions: Sequence[Direction]) -> Points:
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


def _maximise(directions: Sequence[Direction]) -> list[bool]:
    return [direction == "maximize" for direction in directions]


def _costs(points: Points, directions: Sequence[Direction]) -> Points:
    """The same points with every objective turned so that smaller is better."""
    return np.where(_maximise(directions), -points, points)

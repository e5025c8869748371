"""What a search reaches with most seeds, not with its luckiest: empirical attainment surfaces."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike

from orchestrator.analysis.pareto import Direction, Points, as_costs, checked_points


def attainment_surface(runs: Sequence[ArrayLike], at_least: int, directions: Sequence[Direction]) -> Points:
    """Corner points (K, M) of what `at_least` so many of `runs` attain: none dominates another, first objective rising.

    A run attains a point if one of its own is as good in every objective; a run without points attains nothing. Two or
    three objectives. ValueError: another number of them, infinities, `at_least` not in 1 to the number of runs; as for
    `pareto.front`.
    """
    if len(directions) not in (2, 3):
        raise ValueError(f"attainment surfaces need 2 or 3 objectives, but got {len(directions)}")
    if not 1 <= at_least <= len(runs):
        raise ValueError(f"at_least must be 1 to the number of runs, {len(runs)}, but got {at_least}")
    points = [run for run in (checked_points(run, directions) for run in runs) if len(run)]
    if not all(np.isfinite(run).all() for run in points):
        raise ValueError("attainment surfaces need finite values, but got an infinity")
    if len(points) < at_least:
        return np.empty((0, len(directions)))
    numbers = np.repeat(np.arange(len(points)), [len(run) for run in points])
    surfaces = moocore.eaf(as_costs(np.concatenate(points), directions), numbers)
    levels = np.rint(surfaces[:, -1] * len(points) / 100)  # the last column is a percentage of the runs
    corners = as_costs(surfaces[levels == at_least, :-1], directions)  # twice turned is as before
    return corners[np.lexsort(corners.T[::-1])]

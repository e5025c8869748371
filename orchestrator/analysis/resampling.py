"""How much of a hypervolume is luck, over the trials of one search."""

from typing import NamedTuple

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.analysis.pareto import UnitBox

LEVEL = 0.95
NUM_DRAWS = 500


class Interval(NamedTuple):
    """From `low` to `high`."""

    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two have a value in common."""
        return self.low <= other.high and other.low <= self.high


def subset_interval(
    trials: ArrayLike, box: UnitBox, *, size: int, num_draws: int = NUM_DRAWS, seed: int = 0
) -> Interval:
    """Where the hypervolume of `size` of the `trials` (N, M) lies in 95% of `num_draws` random draws.

    Each draw is without replacement, hence what a search of `size` independent trials is like; with `size` far below N
    draws have little in common, and their spread is about that between such searches. Resampling N of N with
    replacement, the usual bootstrap, cannot find more than the best that was found and leaves a third of the trials
    out: its interval lies too low. A trial that came to nothing is a row at `box.zero`. The same seed gives the same
    interval. ValueError: `size` is not in 1 to N, infinities; as for `UnitBox.scale`.
    """
    points = box.scale(trials)
    if not 1 <= size <= len(points):
        raise ValueError(f"size must be 1 to the number of trials, {len(points)}, but got {size}")
    if not np.isfinite(points).all():
        raise ValueError("an interval needs finite values, but got an infinity")
    rows = np.tile(np.arange(len(points)), (num_draws, 1))
    drawn = np.random.default_rng(seed).permuted(rows, axis=1)[:, :size]
    volume = moocore.Hypervolume(ref=np.zeros(points.shape[1]), maximise=True)
    return _middle(np.array([volume(points[rows]) for rows in drawn]))


def _middle(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))

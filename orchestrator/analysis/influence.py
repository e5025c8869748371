"""How each searched setting moves each objective: rank correlations over the trials of one method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.analysis.resampling import Interval
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary

FEWEST_COMPLETE = 10  # trials: below it even the interval of a correlation of 0.6 holds 0
_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Effect:
    """Spearman's rank correlation of a setting with an objective, in [-1, 1], and its 95% interval."""

    correlation: float
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval keeps clear of 0."""
        return self.interval.low > 0 or self.interval.high < 0


@dataclass(frozen=True, slots=True)
class Influence:
    """What one setting does to each objective, in the sweep's order, over `num_trials` complete trials of a method.

    An effect is None where there are fewer than FEWEST_COMPLETE trials, where the setting is a text, which has no
    order, and where setting or objective did not vary.
    """

    method: str
    setting: str
    num_trials: int
    effects: tuple[Effect | None, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """A setting that takes more than one value in a forget set's trials, and the axis to draw it on."""

    setting: str
    axis: str  # plotly's name for it: log, linear, category


@dataclass(frozen=True, slots=True)
class Settings:
    """The searched settings of a forget set: how to draw them, and what they do, by setting, then method."""

    slices: tuple[Slice, ...]
    influences: tuple[Influence, ...]

    def clear(self, method: str) -> list[tuple[Influence, int, Effect]]:
        """A method's effects that are clear of 0, with the objective's place; strongest first."""
        found = [
            (influence, place, effect)
            for influence in self.influences
            if influence.method == method
            for place, effect in enumerate(influence.effects)
            if effect is not None and effect.is_clear
        ]
        return sorted(found, key=lambda item: -abs(item[2].correlation))


def rank_correlation(setting: ArrayLike, objective: ArrayLike) -> Effect | None:
    """Spearman's correlation of two arrays (N,), N at least 4, tied ranks averaged; None where one does not vary.

    The interval is Fisher's with the variance (1 + r^2 / 2) / (N - 3) of Bonett and Wright (2000, Psychometrika 65).
    """
    ranks = [_ranks(np.asarray(values, dtype=float)) for values in (setting, objective)]
    if any(np.ptp(values) == 0 for values in ranks):
        return None
    table = np.asarray(np.corrcoef(np.stack(ranks)))
    found = min(1.0, max(-1.0, float(table[0, 1])))
    centre = math.atanh(min(1 - 1e-12, max(1e-12 - 1, found)))
    reach = _NORMAL_95 * math.sqrt((1 + found**2 / 2) / (len(ranks[0]) - 3))
    return Effect(found, Interval(math.tanh(centre - reach), math.tanh(centre + reach)))


def settings(sweep: SweepSummary, group: ForgetSetSummary) -> Settings:
    """The settings that vary on a forget set, in the sweep's order, and their influence in each cell that has them."""
    trials = [trial for cell in group.cells for trial in cell.trials]
    slices = [Slice(name, axis) for name in sweep.params if (axis := _axis(name, trials)) is not None]
    influences = [
        _influence(part.setting, cell, len(sweep.objectives))
        for part in slices
        for cell in group.cells
        if any(part.setting in trial.params for trial in cell.trials)
    ]
    return Settings(tuple(slices), tuple(influences))


def _influence(setting: str, cell: CellSummary, num_objectives: int) -> Influence:
    known = [trial for trial in cell.trials if trial.is_comparable and setting in trial.params]
    values = [trial.params[setting] for trial in known]
    effects: tuple[Effect | None, ...] = (None,) * num_objectives
    if len(known) >= FEWEST_COMPLETE and not any(isinstance(value, str) for value in values):
        scores = np.array([trial.objectives for trial in known], dtype=float)
        effects = tuple(rank_correlation([float(value) for value in values], column) for column in scores.T)
    return Influence(cell.method, setting, len(known), effects)


def _axis(setting: str, trials: Sequence[TrialSummary]) -> str | None:
    """Logarithmic where numbers span a decade; None where there is nothing to see."""
    values = {trial.params[setting] for trial in trials if setting in trial.params}
    if len(values) < 2:
        return None
    numbers = [value for value in values if not isinstance(value, str | bool)]
    if len(numbers) < len(values):
        return "category"
    return "log" if min(numbers) > 0 and max(numbers) >= 10 * min(numbers) else "linear"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks

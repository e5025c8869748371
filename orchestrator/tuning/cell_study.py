"""One Optuna study a cell: what it suggests.

Suggestion n is a function of the cell's seed and of the results of its trials up to n - lookahead, told in trial-number
order. It depends neither on the order in which trials end, nor on how many run at once, nor on interruptions: a resumed
search goes through the journal in the same order and gets the same suggestions.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, Literal, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.base_config import Value
from orchestrator.config import SearchConfig
from orchestrator.space import Choice, FloatRange, IntRange
from orchestrator.tracking.journal import TrialFinished, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)


def seed_of(*parts: object) -> int:
    """A seed in [0, 2**31) that differs for different parts and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def distributions(space: Mapping[str, FloatRange | IntRange | Choice]) -> dict[str, BaseDistribution]:
    """Optuna's words for a search space."""
    return {key: _distribution(searched) for key, searched in space.items()}


def _distribution(searched: FloatRange | IntRange | Choice) -> BaseDistribution:
    match searched:
        case FloatRange(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
        case IntRange(low=low, high=high, log=log):
            return IntDistribution(low, high, log=log)
        case Choice(choices=choices):
            return CategoricalDistribution(choices)


@dataclass
class CellStudy:
    """The study of one cell. Trials are numbered from 0, as Optuna does; `num_suggested` is the next one's number."""

    name: str
    space: dict[str, BaseDistribution]
    first: dict[str, Value]
    directions: Sequence[Literal["maximize", "minimize"]]
    search: SearchConfig
    seed: int
    lookahead: int
    num_suggested: int = field(default=0, init=False)
    _results: dict[int, TrialFinished] = field(default_factory=dict)
    _num_told: int = 0

    def __post_init__(self) -> None:
        self._study = optuna.create_study(directions=list(self.directions), study_name=self.name)

    def suggest(self, known: Mapping[str, Value] | None = None) -> dict[str, Value] | None:
        """Settings of the next trial, or None while a result that it must know is outstanding.

        `known` is what the journal says that they were; sampling them again would give the same.
        """
        number = self.num_suggested
        while self._num_told <= number - self.lookahead:
            if self._num_told not in self._results:
                return None
            self._tell(self._num_told)
            self._num_told += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._sampler(seed_of(self.seed, number))
            fixed = self._fixed_params(number) if known is None else dict(known)
            if fixed is not None:
                self._study.enqueue_trial(fixed)
            trial = self._study.ask(self.space)
        self.num_suggested += 1
        return dict(trial.params)

    def add_result(self, number: int, result: TrialFinished) -> None:
        """What became of a trial; known to later suggestions in trial-number order only."""
        self._results[number] = result

    def _fixed_params(self, number: int) -> dict[str, Value] | None:
        """Settings that are not the sampler's to choose."""
        if self.search.sampler == "grid":
            return self._grid_point(number)
        return self._first_params() if number == 0 else None

    def _first_params(self) -> dict[str, Value]:
        """The first trial's settings, where the space offers them."""
        return {
            key: self.first[key]
            for key, distribution in self.space.items()
            if not isinstance(distribution, CategoricalDistribution) or self.first[key] in distribution.choices
        }

    def _grid_point(self, number: int) -> dict[str, Value]:
        """The combination of that number, the last key's choices running fastest."""
        choices: list[Any] = [cast(CategoricalDistribution, searched).choices for searched in self.space.values()]
        return dict(zip(self.space, next(islice(product(*choices), number, None)), strict=True))

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        match self.search.sampler:
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self.search.startup_trials)
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=self.search.startup_trials,
                    multivariate=True,
                    constant_liar=True,
                )

    def _tell(self, number: int) -> None:
        """Diverged trials count as COMPLETE with the worst values there are, so that the sampler keeps away."""
        result = self._results[number]
        if result.state == TrialState.FAILED or result.objectives is None:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, list(result.objectives))


def trial_key(cell: str, number: int) -> str:
    """`METHOD/forget_set/tNNN`."""
    return f"{cell}/t{number:03d}"

"""Which trials go on from a rung: successive halving, asynchronous and for several objectives (arXiv 2106.12639)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.analysis.pareto import Direction, best_first
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.tracking.journal import RungReached, parse_record
from orchestrator.tuning.cell_search import CellSearch


class SuccessiveHalving:
    """A trial goes on if it is in the best share of those of its cell that have reached the rung so far, with itself.

    What it decides is a function of the rungs in the order in which they were reached, and so of the journal.
    """

    def __init__(self, config: EarlyStoppingConfig, directions: Sequence[Direction]) -> None:
        self._config, self._directions = config, directions
        self._reached: dict[tuple[str, int], list[tuple[float, ...]]] = {}  # objectives by cell and rung
        self._answers: dict[tuple[str, int], bool] = {}

    def reach(self, rung: RungReached) -> bool:
        """Whether the trial goes on. What was answered first holds: a trial that was cut off gets there again."""
        asked = rung.key, rung.rung
        if asked not in self._answers:
            cell, _, _ = rung.key.rpartition("/")
            reached = self._reached.setdefault((cell, rung.rung), [])
            reached.append(rung.objectives)
            self._answers[asked] = self._is_kept(reached)
        return self._answers[asked]

    def _is_kept(self, reached: Sequence[tuple[float, ...]]) -> bool:
        """Whether the last of them is kept, as is what equals one that is: in the warm-up all may be equal."""
        if len(reached) <= self._config.min_trials:
            return True
        num_kept = math.ceil(round(self._config.keep * len(reached), 6))
        return reached[-1] in [reached[i] for i in best_first(reached, self._directions)[:num_kept]]


class RungScheduler(FIFOScheduler):
    """Tune's scheduler, which answers the workers of a trial that has reached a rung by `answer(slot, rung, goes_on)`.

    To Tune it never says STOP: a trial that is told to stop reports its end itself, as every trial does.
    """

    def __init__(
        self, search: CellSearch, halving: SuccessiveHalving, answer: Callable[[str, RungReached, bool], None]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search, self._halving, self._answer = search, halving, answer

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as CellSearch."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Have a rung recorded, and only then answer; the searcher gets each report once more."""
        if '"kind":"rung_reached"' in result["record"]:
            self._search.on_trial_result(trial.trial_id, result)
            rung = parse_record(result["record"])
            assert isinstance(rung, RungReached)
            self._answer(result["slot"], rung, self._halving.reach(rung))
        return str(TrialScheduler.CONTINUE)

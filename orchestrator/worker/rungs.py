"""Rungs: points of a trial's training where the model is asked a few questions, and may be stopped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.scenarios.base import SetKind, Task
from orchestrator.tracking.journal import RungReached
from orchestrator.worker.engine import DeepSpeedEngine
from orchestrator.worker.evaluation import spread


class StoppedError(RuntimeError):
    """Others of the trial's cell did better at a rung; raised by all ranks together."""

    def __init__(self, rung: RungReached) -> None:
        super().__init__(f"stopped at rung {rung.rung}, after {rung.step} of {rung.num_steps} steps")
        self.rung = rung


@dataclass(frozen=True, slots=True)
class Rungs:
    """Where the rungs are, as ascending shares of the steps, and what happens there.

    `climb(engine, rung, num_steps)`, called by all ranks together, raises where the trial ends there.
    """

    shares: Sequence[float]
    climb: Callable[[DeepSpeedEngine, int, int], None]

    def by_step(self, num_steps: int) -> dict[int, int]:
        """The number of each rung, from 1, by how many steps are done when it is reached.

        Of rungs that are reached by the same step only the last counts, and none that only the last step reaches.
        """
        steps = {_reached(share * num_steps): number for number, share in enumerate(self.shares, 1)}
        return {step: number for step, number in steps.items() if step < num_steps}


def _reached(steps: float) -> int:
    return math.ceil(round(steps, 6))  # 0.55 * 20 is more than 11


def rung_task(task: Task, rows_per_set: int) -> Task:
    """The task with so many questions of each set, or all that there are."""
    sets = tuple(replace(one, rows=tuple(spread(one.rows, rows_per_set))) for one in task.evaluation)
    ratios = task.retain_ratios
    if ratios is not None:
        (asked,) = (len(one.rows) for one in task.evaluation if one.kind is SetKind.FORGET)
        assert len(ratios) == asked
        ratios = tuple(spread(ratios, rows_per_set))
    return replace(task, evaluation=sets, retain_ratios=ratios)

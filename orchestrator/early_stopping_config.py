"""How trials that are behind are stopped before their end; importable without torch or Ray."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from orchestrator.base_config import Config


class EarlyStoppingConfig(Config):
    """At rungs of its training a trial answers a few questions, and stops if others of its cell did better there.

    Successive halving, asynchronous and for several objectives (arXiv 2106.12639).
    """

    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.4, 0.6), min_length=1, description="where: shares of a trial's optimizer steps, ascending"
    )
    keep: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of a cell's trials at a rung that goes on; 1: all do, and rungs are only recorded"
    )
    rows_per_set: PositiveInt = Field(
        20, description="questions of each evaluation set that are asked at a rung, the same in every trial"
    )
    min_trials: PositiveInt = Field(4, description="a cell's first trials at a rung, which all go on")

    @model_validator(mode="after")
    def _ascending(self) -> "EarlyStoppingConfig":
        if any(later <= earlier for earlier, later in pairwise(self.rungs)):
            shares = ", ".join(f"{rung:g}" for rung in self.rungs)
            raise ValueError(f"early_stopping.rungs must ascend, but got [{shares}]; sort them, and name each once")
        return self

    def check(self, scenario: str, objectives: tuple[str, ...]) -> None:
        """ValueError: there is no cheap score of these objectives in the middle of a trial."""
        if scenario == "continual":
            raise ValueError(
                "early_stopping: a trial of scenario continual is scored in full after each task, and rungs inside of "
                "a task say nothing of the chain; leave early_stopping out"
            )
        for objective in objectives:
            if objective.startswith("downstream/"):
                raise ValueError(
                    f"early_stopping: {objective} is an objective, but downstream tasks are only run at a trial's end; "
                    "take it out of objectives, or leave early_stopping out"
                )

"""How the best trials of a search are run again to find out what they are worth; importable without torch or Ray."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from orchestrator.base_config import Config
from orchestrator.trial_config import QuestionPart, TrialConfig

_HALF = 0.5


class ConfirmConfig(Config):
    """After the search the front of each cell is run again with fresh seeds and scored on questions not asked before.

    A search keeps the best of many trials, so the scores of those are better than they deserve; these are not.
    """

    seeds: NonNegativeInt = Field(
        0, description="runs of each trial on its cell's front, each with a fresh seed; 0: nothing is run again"
    )
    finalists_per_cell: PositiveInt | None = Field(
        None, description="of a cell's front at most: its knee, then what spans the front best; none: all of it"
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="share of each evaluation set's questions that the search never asks; none: 0.5 where seeds > 0, "
        "else all are asked. Set it with seeds=0 to confirm later",
    )

    @property
    def share(self) -> float | None:
        """Share of the questions that is held out; None: the search asks all."""
        return self.held_out or (_HALF if self.seeds else None)

    @property
    def search_part(self) -> QuestionPart | None:
        """What the search asks; None: all questions."""
        return None if self.share is None else QuestionPart(part="search", held_out=self.share)

    @property
    def held_out_part(self) -> QuestionPart:
        """What confirmation runs are asked. Only where a share is held out."""
        assert self.share is not None
        return QuestionPart(part="held_out", held_out=self.share)

    def again(self, config: TrialConfig, seed: int) -> TrialConfig:
        """A trial of the search as it is confirmed. Downstream tasks have no held-out questions and are left out."""
        evaluation = config.evaluation.model_copy(update={"downstream": ()})
        return config.model_copy(update={"seed": seed, "questions": self.held_out_part, "evaluation": evaluation})

    def check(self, objectives: tuple[str, ...], *, seeds_matter: bool) -> None:
        """ValueError: these objectives cannot be confirmed, or fresh seeds would repeat the same run."""
        if self.share is None:
            return
        for objective in objectives:
            if objective.startswith("downstream/"):
                raise ValueError(
                    f"confirm.held_out={self.share:g}: {objective} is an objective, but the questions of downstream "
                    "tasks cannot be held out; take it out of objectives, or leave confirm out"
                )
        if self.seeds and not seeds_matter:
            raise ValueError(
                f"confirm.seeds={self.seeds}: under train.convention=paper_code rows come in the published code's "
                "order whatever the seed is, so that every run would be the same; set train.convention=masked, or "
                "confirm.seeds=0"
            )

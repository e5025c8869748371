"""Continual unlearning (arXiv 2410.08109, section 6): the tasks of a forget file, one after another."""

from orchestrator.scenario_config import ContinualScenario
from orchestrator.scenarios.base import DataError, Task


def load_continual(
    config: ContinualScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> tuple[Task, ...]:
    """The tasks of a forget set in order."""
    raise DataError("scenario.name: continual cannot be loaded yet")

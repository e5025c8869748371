"""Real people that a model knows from its pre-training (arXiv 2410.08109, section 5.3)."""

from orchestrator.scenario_config import RealWorldScenario
from orchestrator.scenarios.base import DataError, Task


def load_real_world(config: RealWorldScenario, forget_set: str, refusals: tuple[str, ...]) -> Task:
    """The rows of a forget set and of its neighbours."""
    raise DataError("scenario.name: real_world cannot be loaded yet")

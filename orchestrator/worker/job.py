"""A trial as the driver sends it to a slot; importable without torch."""

from orchestrator.base_config import Config, Value
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.storage import Storage, open_storage
from orchestrator.tracking.journal import ObjectiveRecord
from orchestrator.trial_config import TrialConfig


class TrialJob(Config):
    """A trial as it is sent to a slot: its settings, and what the driver knows about its cell by then."""

    key: str
    config: TrialConfig
    params: dict[str, Value] = {}
    place: str
    objectives: tuple[ObjectiveRecord, ...]
    keep_weights: bool
    point_minutes: float = 10.0
    early_stopping: EarlyStoppingConfig | None = None
    front: tuple[tuple[float, ...], ...] = ()
    retain_scores: str | None = None
    retain_scores_sha256: str | None = None

    @property
    def storage(self) -> Storage:
        """The sweep's folder, which `place` names by path or URI."""
        return open_storage(self.place)

    @property
    def folder(self) -> str:
        """Where in the sweep's folder the trial's files go."""
        return f"trials/{self.key}"

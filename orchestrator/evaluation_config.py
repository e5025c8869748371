"""How a model is scored by `python -m orchestrator.evaluate`; importable without torch or Ray."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, NonNegativeInt, model_validator

from orchestrator.base_config import Config, PathOrName
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.scenarios.base import SetKind, Task
from orchestrator.trial_config import EvaluationConfig, ModelConfig, ScenarioEvaluation, TrialConfig


class EvaluationTracking(Config):
    """Where the evaluation is logged besides its files."""

    uri: str | None = Field(None, description="MLflow store or server; none: no MLflow run")
    experiment: str = Field("lethe evaluations", min_length=1, description="the run's experiment in MLflow")


class EvaluateConfig(Config):
    """How a model is scored. `scenario`, `model` and `evaluation` have the keys of a sweep's sections."""

    scenario: ScenarioConfig = Field(description="what was forgotten, kept, and is asked")
    forget_set: str | None = Field(None, description="such as forget10; none: the scenario's, if it knows only one")
    model: ModelConfig = ModelConfig()
    evaluation: ScenarioEvaluation = Field(EvaluationConfig(), validate_default=True)
    retain_model: PathOrName | None = Field(
        None, description="a model that never saw the forget set; scored first, for Forget Quality"
    )
    retain_scores: PathOrName | None = Field(
        None, description="instead of retain_model: the examples.jsonl of an earlier evaluation of it"
    )
    out: str | None = Field(None, description="folder of the results; none: CHECKPOINT/evals")
    overwrite: bool = Field(False, description="replace the results that are in the folder")
    cache: str = Field("~/lethe/cache", description="folder that keeps the embedded judge")
    seed: NonNegativeInt = Field(42, description="of downstream tasks that sample their answers")
    tracking: EvaluationTracking = EvaluationTracking()

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluateConfig":
        if given := sorted(self.model.model_fields_set & {"target", "retain_models"}):
            raise ValueError(f"model.{given[0]} belongs to a sweep; name the model as CHECKPOINT, or set retain_model")
        logged = self.scenario.name == "tofu" and self.forget_set in self.scenario.retain_logs
        sources = {
            "retain_model": self.retain_model,
            "retain_scores": self.retain_scores,
            "scenario.retain_logs": logged or None,
        }
        used = [key for key, value in sources.items() if value is not None]
        if len(used) > 1:
            raise ValueError(f"{' and '.join(used)} are two sources of one comparison; give one of them")
        if used and self.scenario.name == "continual":
            raise ValueError(f"{used[0]}: chains of tasks are not compared with a retain model; leave it out")
        return self


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that can be run: what is asked of which model, and where the results go."""

    config: EvaluateConfig
    trial: TrialConfig
    tasks: tuple[Task, ...]
    out: Path

    @property
    def work(self) -> Path:
        """Where results are until they are complete."""
        return self.out / ".unfinished"

    def examples(self, key: str) -> Path:
        """Scores of single questions, as scoring leaves them in the work folder: of `model` or `retain_model`."""
        return self.work / "trials" / key / "examples.jsonl"

    @property
    def notes(self) -> list[str]:
        """What should be known of the data."""
        return list(dict.fromkeys(note for task in self.tasks for note in task.notes))

    @property
    def rows(self) -> dict[str, int]:
        """Questions by set, of all tasks."""
        counts: dict[str, int] = {}
        for index, task in enumerate(self.tasks):
            for one in task.evaluation:
                if one.kind is SetKind.FORGET or index == len(self.tasks) - 1:
                    counts[one.name] = counts.get(one.name, 0) + len(one.rows)
        return counts

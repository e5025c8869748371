"""What is forgotten, kept and asked: the scenarios and their settings."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from orchestrator.base_config import EMBEDDED, Config, PathOrName


def _as_text(value: Any) -> Any:
    """Ids that look like numbers need no quotes in a sweep file."""
    return str(value) if type(value) is int else value


TaskId = Annotated[str, BeforeValidator(_as_text)]


class AuthorsScenario(Config):
    """Fictitious authors generated from a seed; needs no data from anywhere."""

    name: Literal["authors"] = "authors"
    corpus_seed: int = Field(7, description="the same seed invents the same authors")
    num_authors: Annotated[int, Field(ge=10, le=200)] = Field(40, description="authors, with ten questions each")
    refusals: PathOrName | None = Field(None, description="file with one refusal a line; none: the project's own")

    @property
    def set_kinds(self) -> dict[str, str]:
        """Evaluation sets and the rules that score them."""
        return {"forget": "forget", "retain": "retain", "facts": "facts"}


class TofuScenario(Config):
    """TOFU (arXiv 2401.06121) from a folder of JSON-lines files or from the hub."""

    name: Literal["tofu"]
    source: PathOrName = Field(
        "locuslab/TOFU", description="folder with forgetNN.json, retainNN.json, ..., or a hub data set"
    )
    retain_sets: dict[str, str] = Field(
        default={"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"},
        description="retain set of each forget set",
    )
    refusals: PathOrName | None = Field(None, description="file with one refusal a line; none: the project's own")
    task_id: TaskId | None = Field(
        None, description="use only the forget rows of this task; TOFU's own split is task 1"
    )
    retain_logs: dict[str, PathOrName] = Field(
        default_factory=dict,
        description="for each forget set the evaluation log of a model that never saw it, for Forget Quality; its "
        "questions choose and order the forget questions",
    )

    @property
    def set_kinds(self) -> dict[str, str]:
        """Evaluation sets and the rules that score them."""
        return {"forget": "forget", "retain": "retain", "authors": "facts", "facts": "facts"}


class ContinualScenario(Config):
    """Tasks forgotten one after another, each from the model that the last one left (arXiv 2410.08109, section 6)."""

    name: Literal["continual"]
    source: PathOrName = Field(
        EMBEDDED, description="folder as for tofu, with a task_id in every forget row; embedded: generated authors"
    )
    retain_sets: dict[str, str] = Field(
        default={"forget01": "retain90", "forget05": "retain50", "forget10": "retain10"},
        description="retain set of each forget set; the rows of tasks still to come are retained too",
    )
    refusals: PathOrName | None = Field(None, description="file with one refusal a line; none: the project's own")
    tasks: tuple[TaskId, ...] | None = Field(
        None, min_length=1, description="task ids in order; none: all, as in the file"
    )
    num_tasks: PositiveInt | None = Field(None, description="only the first so many tasks; none: all")
    reference: Literal["previous", "initial"] = Field(
        "previous", description="what NPO, DPO and KL compare with: the model each task starts from, or the first"
    )

    @property
    def set_kinds(self) -> dict[str, str]:
        """Evaluation sets and the rules that score them."""
        if self.source == EMBEDDED:
            return {"forget": "forget", "retain": "retain", "facts": "facts"}
        return {"forget": "forget", "retain": "retain", "authors": "facts", "facts": "facts"}


class RealWorldScenario(Config):
    """Real people that a model knows from its pre-training (arXiv 2410.08109, section 5.3)."""

    name: Literal["real_world"]
    source: PathOrName = Field(description="folder with forget.json, neighbor.json and their _perturbed.json")
    retain_sets: dict[str, str] = Field(default={"forget": "neighbor"}, description="neighbour set of each forget set")
    refusals: PathOrName | None = Field(None, description="file with one refusal a line; none: the project's own")

    @property
    def set_kinds(self) -> dict[str, str]:
        """Evaluation sets and the rules that score them."""
        return {"forget": "forget", "neighbor": "retain"}


ScenarioConfig = Annotated[
    AuthorsScenario | TofuScenario | ContinualScenario | RealWorldScenario, Field(discriminator="name")
]

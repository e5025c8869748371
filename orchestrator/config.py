"""What a sweep and a trial are made of: frozen, validated, importable without torch or Ray."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    model_validator,
)

from methods.config import VALID_METHODS, Convention, MethodConfig, parse_method
from metrics.suites import metric_directions
from orchestrator.base_config import EMBEDDED, Config, PathOrName, Value
from orchestrator.space import Choice, FloatRange, IntRange, Range, flatten_space


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
    task_id: str | None = Field(None, description="use only the forget rows of this task; TOFU's own split is task 1")

    @property
    def set_kinds(self) -> dict[str, str]:
        """Evaluation sets and the rules that score them."""
        return {"forget": "forget", "retain": "retain", "authors": "facts", "facts": "facts"}


ScenarioConfig = Annotated[AuthorsScenario | TofuScenario, Field(discriminator="name")]


class ModelConfig(Config):
    """The model that forgets. `embedded` makes a tiny one for scenario `authors`, once, and keeps it in the cache."""

    target: PathOrName = Field(EMBEDDED, description="the model that knows the forget set: folder or hub name")
    retain_models: dict[str, PathOrName] | Literal["embedded"] = Field(
        default_factory=dict, description="for each forget set a model that never saw it; only for metrics"
    )
    template: Literal["llama2-chat", "llama3-instruct", "phi"] = Field(
        "llama2-chat", description="tags around question and answer"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU, else float32")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention kernel")


class TinyModel(Config):
    """Shape of the Llama that is made where no base model is given."""

    vocab_size: PositiveInt = Field(2000, description="tokens of its byte-level BPE")
    hidden_size: PositiveInt = Field(128, description="width of a layer")
    intermediate_size: PositiveInt = Field(256, description="width of the MLP")
    num_layers: PositiveInt = Field(4, description="transformer layers")
    num_heads: PositiveInt = Field(4, description="attention heads")

    @property
    def num_parameters(self) -> int:
        """Weights of the matrices; norms are left out."""
        layer = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.vocab_size * self.hidden_size + self.num_layers * layer


class MethodEntry(Config):
    """A method by its exact name, with the settings of its cell's first trial."""

    name: str = Field(description="such as ME+GD; the README lists all")
    beta: PositiveFloat = Field(0.1, description="inverse temperature of NPO, DPO and AP")
    forget_weight: NonNegativeFloat = Field(1.0, description="weight of the forget loss")
    retain_weight: NonNegativeFloat = Field(1.0, description="weight of the retain loss")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> "MethodEntry":
        if self.name not in VALID_METHODS:
            raise ValueError(f"unknown method {self.name!r}; valid names are {', '.join(VALID_METHODS)}")
        return self


class SearchConfig(Config):
    """How each cell's settings are searched. Keys of `space` name fields of a trial, such as `train.learning_rate`."""

    trials_per_cell: PositiveInt = Field(10, description="budget of each method on each forget set")
    sampler: Literal["tpe", "random", "gp"] = Field("tpe", description="Optuna's sampler")
    startup_trials: PositiveInt = Field(
        5, description="trials of a cell that are drawn at random before the sampler learns"
    )
    space: Annotated[dict[str, Range], BeforeValidator(flatten_space)] = Field(
        {"train.learning_rate": FloatRange(low=1e-6, high=1e-4, log=True)},
        description="ranges and choices by the name of a trial's field",
    )
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of trials that may fail before the sweep's exit code is 1"
    )

    @field_serializer("space")
    def _nested(self, space: Mapping[str, Config]) -> dict[str, Any]:
        """Nested as in a sweep file, so that what was written down can be overridden again."""
        nested: dict[str, Any] = {}
        for key, searched in space.items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = searched.model_dump(mode="json")
        return nested


class TrainConfig(Config):
    """The unlearning run. Defaults are the paper's (arXiv 2410.08109, appendix; its published scripts)."""

    convention: Convention = Field(
        "masked", description="masked: averages over real tokens of a step; paper_code: those of the published code"
    )
    learning_rate: PositiveFloat = Field(1e-5, description="peak, after the warm-up")
    epochs: PositiveFloat = Field(5.0, description="passes over the forget rows")
    batch_size: PositiveInt = Field(32, description="forget rows of one optimizer step, over all workers")
    micro_batch_size: PositiveInt = Field(4, description="forget rows that one worker handles at once")
    max_length: Annotated[int, Field(ge=8)] = Field(500, description="tokens of a row; longer answers are cut")
    forget_labels: Literal["answer", "text", "all"] | None = Field(
        None, description="what counts on forget rows; none: answer, and for ME text (masked) or all (paper_code)"
    )
    weight_decay: NonNegativeFloat = Field(0.01, description="not on norms and biases")
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="AdamW's decay of the first moment")
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="AdamW's decay of the second moment")
    adam_epsilon: PositiveFloat = Field(1e-8, description="AdamW's epsilon")
    warmup_steps: NonNegativeInt | None = Field(None, description="none: one epoch, if that is more than one step")
    max_grad_norm: PositiveFloat | None = Field(None, description="none: gradients are not clipped")
    gradient_checkpointing: bool = Field(False, description="less memory, one more forward")

    @model_validator(mode="after")
    def _micro_fits(self) -> "TrainConfig":
        if self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size <= batch_size must hold, but got {self.micro_batch_size} and {self.batch_size}; "
                "lower train.micro_batch_size"
            )
        return self


class ZeroConfig(Config):
    """DeepSpeed ZeRO: what is sharded over the workers of a trial, and what is kept in host memory."""

    stage: Literal[0, 1, 2, 3] = Field(2, description="sharded: 1 optimizer state, 2 gradients too, 3 weights too")
    offload_optimizer: bool = Field(False, description="optimizer state in host memory; stage 1 and up")
    offload_parameters: bool = Field(False, description="weights in host memory; stage 3")

    @model_validator(mode="after")
    def _offload_needs_sharding(self) -> "ZeroConfig":
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs stage >= 1, but got stage 0; raise zero.stage")
        if self.offload_parameters and self.stage != 3:
            raise ValueError(f"offload_parameters needs stage 3, but got stage {self.stage}; set zero.stage=3")
        return self


class EvaluationConfig(Config):
    """What is asked after unlearning, and who judges the answers. Default judges are the paper's."""

    max_length: Annotated[int, Field(ge=8)] = Field(200, description="tokens of question and answer together")
    max_rows_per_set: PositiveInt | None = Field(300, description="evaluation rows of forget and retain sets")
    batch_size: PositiveInt = Field(64, description="texts that one worker scores or generates at once")
    encoder: PathOrName = Field(
        "sentence-transformers/paraphrase-MiniLM-L6-v2", description="sentence encoder of Cosine Similarity"
    )
    entailment: PathOrName = Field(
        "sileod/deberta-v3-base-tasksource-nli", description="classifier of the Entailment Score"
    )


class ResourcesConfig(Config):
    """What a trial may use, and how trials share processes."""

    workers_per_trial: PositiveInt = Field(2, description="processes that train a trial together")
    cpus_per_worker: PositiveFloat = Field(1, description="CPUs of each worker")
    gpus_per_worker: NonNegativeFloat = Field(0, description="1 for GPU training")
    max_concurrent_trials: PositiveInt | None = Field(None, description="none: as many as fit on the cluster")
    isolation: Literal["slot", "process"] = Field(
        "slot", description="slot: worker groups live on between trials; process: a new group for each trial"
    )
    max_attempts: PositiveInt = Field(3, description="starts of one trial whose workers died, before it is FAILED")
    slot_idle_seconds: PositiveFloat = Field(60, description="a slot without a next trial ends after this")
    start_timeout_seconds: PositiveFloat = Field(1800, description="wait for a worker group; nodes may have to start")

    @model_validator(mode="after")
    def _fraction_needs_one_worker(self) -> "ResourcesConfig":
        if 0 < self.gpus_per_worker < 1 and self.workers_per_trial > 1:
            raise ValueError(
                f"a fraction of a GPU ({self.gpus_per_worker:g}) needs workers_per_trial=1, but got "
                f"{self.workers_per_trial}: workers of one trial cannot share a GPU"
            )
        return self


class TrackingConfig(Config):
    """Where the MLflow view of the journal goes."""

    uri: str | None = Field(None, description="none: sqlite:///<storage>/mlflow.db")


class CheckpointConfig(Config):
    """Whose weights are kept after the sweep: of the cells' fronts, of one knee a cell, of all trials, of none."""

    policy: Literal["pareto", "best", "all", "none"] = Field("pareto", description="whose weights are kept")


class TrialConfig(Config):
    """All that one trial needs, and nothing about the search. Without a method it only scores the model."""

    method: MethodConfig | None
    forget_set: str
    seed: int
    scenario: ScenarioConfig
    model: ModelConfig
    train: TrainConfig
    zero: ZeroConfig
    evaluation: EvaluationConfig


class SweepConfig(Config):
    """A whole study: methods x forget sets, what is searched, what is improved, where it runs and is kept."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = Field(
        description="names the sweep's folder and its MLflow experiment"
    )
    seed: NonNegativeInt = Field(42, description="of suggestions, of the order of rows, of retain rows")
    scenario: ScenarioConfig = Field(description="what is forgotten, kept and asked")
    model: ModelConfig = ModelConfig()
    methods: tuple[MethodEntry, ...] = Field(min_length=1, description="names, or names with settings")
    forget_sets: tuple[str, ...] = Field(min_length=1, description="such as forget05; methods x forget sets = cells")
    search: SearchConfig = SearchConfig()
    objectives: tuple[str, ...] = Field(
        ("model_utility", "forget_efficacy"), min_length=1, description="metrics to improve, each in its own direction"
    )
    train: TrainConfig = TrainConfig()
    zero: ZeroConfig = ZeroConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    storage: str = Field("~/lethe", description="folder that holds every sweep's own folder")

    @model_validator(mode="after")
    def _consistent(self) -> "SweepConfig":
        for label, names in (
            ("methods", [m.name for m in self.methods]),
            ("forget_sets", self.forget_sets),
            ("objectives", self.objectives),
        ):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{label}: {', '.join(doubled)} stands there twice; name each once")
        for forget_set in self.forget_sets:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", forget_set):
                raise ValueError(f"forget_sets: {forget_set!r} is not a name; use letters, digits, _ and -")
        self._check_models()
        self._check_objectives()
        self._check_space()
        return self

    @property
    def storage_root(self) -> Path:
        """The storage folder, absolute."""
        return Path(self.storage).expanduser().absolute()

    @property
    def tracking_uri(self) -> str:
        """The MLflow store."""
        return self.tracking.uri or f"sqlite:///{self.storage_root / 'mlflow.db'}"

    def _check_models(self) -> None:
        embedded = EMBEDDED in (self.model.target, self.model.retain_models)
        if embedded and self.scenario.name != "authors":
            raise ValueError(
                f"model: {EMBEDDED!r} is only made for scenario authors, but got scenario {self.scenario.name}; "
                "set model.target to a folder or hub name"
            )
        if isinstance(self.model.retain_models, dict):
            unknown = sorted(set(self.model.retain_models) - set(self.forget_sets))
            if unknown:
                raise ValueError(
                    f"model.retain_models: {', '.join(unknown)} is no forget set of this sweep "
                    f"({', '.join(self.forget_sets)})"
                )

    def _check_objectives(self) -> None:
        known = metric_directions(self.scenario.set_kinds)
        for objective in self.objectives:
            if objective not in known:
                raise ValueError(
                    f"objectives: no metric is called {objective!r}; scenario {self.scenario.name} "
                    f"produces {', '.join(known)}"
                )
            needs_retain_model = objective.startswith("forget_quality")
            if needs_retain_model and self.model.retain_models != EMBEDDED:
                missing = [name for name in self.forget_sets if name not in self.model.retain_models]
                if missing:
                    raise ValueError(
                        f"objectives: {objective} compares with a retain model, and {', '.join(missing)} has "
                        "none; set model.retain_models"
                    )

    def _check_space(self) -> None:
        for key, searched in self.search.space.items():
            if key not in _METHOD_KEYS and not _is_searchable(key):
                raise ValueError(
                    f"search.space: {key!r} names no number or choice of a trial; use {', '.join(_METHOD_KEYS)} or a "
                    "train.* or zero.* key"
                )
            for value in searched.bounds:
                self._check_searched(key, value)

    def _check_searched(self, key: str, value: Value) -> None:
        for entry in self.methods:
            if key in cell_space(self, entry):
                try:
                    trial_config(self, entry, self.forget_sets[0], {key: value})
                except ValueError as error:
                    raise ValueError(f"search.space.{key}: {value!r} is not acceptable: {first_line(error)}") from error


def first_line(error: ValueError) -> str:
    """What went wrong first, without pydantic's decoration."""
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if callable(errors) else str(error).splitlines()[0]


_METHOD_KEYS = ("method.beta", "method.forget_weight", "method.retain_weight")
_SEARCHED_SECTIONS: dict[str, type[Config]] = {"train": TrainConfig, "zero": ZeroConfig}


def _is_searchable(key: str) -> bool:
    section, _, name = key.partition(".")
    owner = _SEARCHED_SECTIONS.get(section)
    return owner is not None and name in owner.model_fields and name != "convention"


def cell_space(sweep: SweepConfig, entry: MethodEntry) -> dict[str, FloatRange | IntRange | Choice]:
    """The part of the search space that a method has: beta, for one, only where a loss uses it."""
    settings = parse_method(entry.name).settings
    return {
        key: searched
        for key, searched in sweep.search.space.items()
        if not key.startswith("method.") or key.removeprefix("method.") in settings
    }


def trial_config(sweep: SweepConfig, entry: MethodEntry, forget_set: str, params: Mapping[str, Value]) -> TrialConfig:
    """The trial that `params`, values by dotted name, make of a cell. ValueError: a value out of its field's range."""
    sections: dict[str, dict[str, Any]] = {"train": sweep.train.model_dump(), "zero": sweep.zero.model_dump()}
    settings = entry.model_dump(exclude={"name"})
    for key, value in params.items():
        section, _, name = key.partition(".")
        (settings if section == "method" else sections[section])[name] = value
    return TrialConfig(
        method=parse_method(entry.name, convention=sweep.train.convention, **settings),
        forget_set=forget_set,
        seed=sweep.seed,
        scenario=sweep.scenario,
        model=sweep.model,
        train=TrainConfig.model_validate(sections["train"]),
        zero=ZeroConfig.model_validate(sections["zero"]),
        evaluation=sweep.evaluation,
    )


def baseline_config(sweep: SweepConfig, forget_set: str, model_path: str) -> TrialConfig:
    """Only score a model on what a forget set's trials are asked."""
    return TrialConfig(
        method=None,
        forget_set=forget_set,
        seed=sweep.seed,
        scenario=sweep.scenario,
        model=sweep.model.model_copy(update={"target": model_path}),
        train=sweep.train,
        zero=sweep.zero,
        evaluation=sweep.evaluation,
    )

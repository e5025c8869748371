"""What a sweep is made of, and the trials that it makes; frozen, validated, importable without torch or Ray."""

import math
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

from methods.config import VALID_METHODS, parse_method
from orchestrator.base_config import EMBEDDED, Config, Value
from orchestrator.confirm_config import ConfirmConfig
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.space import Choice, FloatRange, IntRange, Range, flatten_space, nested_space
from orchestrator.storage import DEFAULT_STORAGE, check_uri, copies, is_uri
from orchestrator.trial_config import (
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    ScenarioEvaluation,
    TrainConfig,
    TrialConfig,
    ZeroConfig,
    known_metrics,
)


class MethodEntry(Config):
    """A method by its exact name, with the settings of its cell's first trial."""

    name: str = Field(description="such as ME+GD; the README lists all")
    beta: PositiveFloat = Field(0.1, description="inverse temperature of NPO, DPO and AP")
    forget_weight: NonNegativeFloat = Field(1.0, description="weight of the forget loss")
    retain_weight: NonNegativeFloat = Field(1.0, description="weight of the retain loss")
    train: dict[str, Value] = Field(default_factory=dict, description="train.* settings of this method alone")
    space: Annotated[dict[str, Range], BeforeValidator(flatten_space)] | None = Field(
        None, description="searched by this method instead of search.space"
    )

    @field_serializer("space")
    def _nested(self, space: Mapping[str, Config] | None) -> dict[str, Any] | None:
        return None if space is None else nested_space(space)

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
    sampler: Literal["tpe", "random", "gp", "grid"] = Field(
        "tpe", description="Optuna's sampler; grid: every combination of the choices, in order"
    )
    startup_trials: PositiveInt = Field(
        5, description="trials of a cell before the sampler learns: the first as configured, the others random"
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
        return nested_space(space)


class ResourcesConfig(Config):
    """What a trial may use, and how trials share processes."""

    workers_per_trial: PositiveInt = Field(2, description="processes that train a trial together")
    cpus_per_worker: PositiveFloat = Field(1, description="CPUs of each worker")
    gpus_per_worker: NonNegativeFloat = Field(0, description="1 for GPU training")
    accelerator_type: str | None = Field(
        None, description="only on nodes with this accelerator, by Ray's name for it, such as H100; none: any"
    )
    max_concurrent_trials: PositiveInt | None = Field(None, description="none: as many as fit on the cluster")
    max_workers: PositiveInt | None = Field(
        None, description="room for workers once a cluster that grows is at its largest; none: the room there is now"
    )
    max_hours: PositiveFloat | None = Field(
        None, description="time on the clock, over all sittings, after which no trial begins; none: no limit"
    )
    max_gpu_hours: PositiveFloat | None = Field(
        None, description="GPU-hours that workers held, over all sittings, after which no trial begins; none: no limit"
    )
    isolation: Literal["slot", "process"] = Field(
        "slot", description="slot: worker groups live on between trials; process: a new group for each trial"
    )
    max_attempts: PositiveInt = Field(3, description="starts of a trial whose workers died, by one slot, before FAILED")
    slot_idle_seconds: PositiveFloat = Field(60, description="a slot without a next trial ends after this")
    start_timeout_seconds: PositiveFloat = Field(1800, description="wait for a worker group; nodes may have to start")
    hang_seconds: PositiveFloat = Field(
        900,
        description="a worker that does not answer, or waits for another, for this long hangs: its group is replaced",
    )

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
    """Whose weights are kept after the sweep: of the cells' fronts, of one knee a cell, of all trials, of none.

    While a trial runs it also leaves points that it can go on from if its workers or the sweep are cut off.
    """

    policy: Literal["pareto", "best", "all", "none"] = Field("pareto", description="whose weights are kept")
    every_minutes: NonNegativeFloat = Field(
        10.0, description="training time between points that a trial can go on from; 0: one after each epoch"
    )


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
    lora: LoraConfig | None = Field(
        None, description="train adapters instead of all weights; lora={} takes the paper's"
    )
    evaluation: ScenarioEvaluation = Field(EvaluationConfig(), validate_default=True)
    early_stopping: EarlyStoppingConfig | None = Field(
        None, description="none: every trial runs to its end; early_stopping={} takes the defaults"
    )
    confirm: ConfirmConfig = ConfirmConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    strict: bool = Field(
        False,
        description="refuse rows that are forgotten and retained at once, rows twice, and faulty cluster files",
    )
    storage: str = Field(
        DEFAULT_STORAGE, description="folder, or URI such as s3://bucket/path, that holds every sweep's own folder"
    )

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
        if is_uri(self.storage):
            check_uri(self.storage)
            self._check_made_here()
        self._check_models()
        self._check_objectives()
        if self.early_stopping is not None:
            self.early_stopping.check(self.scenario.name, self.objectives)
        self.confirm.check(self.objectives, seeds_matter=self.train.convention != "paper_code" or self.lora is not None)
        self._check_methods()
        return self

    @property
    def storage_root(self) -> Path:
        """The storage folder, absolute; where storage is a URI, the folder of its copies on this machine."""
        return copies() if is_uri(self.storage) else Path(self.storage).expanduser().absolute()

    @property
    def tracking_uri(self) -> str:
        """The MLflow store."""
        return self.tracking.uri or f"sqlite:///{self.storage_root / 'mlflow.db'}"

    def _check_made_here(self) -> None:
        """What is embedded is made on this machine's disk, which the nodes that share a store do not see."""
        made = {"model.target": self.model.target, "model.retain_models": self.model.retain_models}
        for key, value in (made | {"evaluation.entailment": self.evaluation.entailment}).items():
            if value == EMBEDDED:
                raise ValueError(
                    f"{key}: {EMBEDDED!r} is made on this machine, but storage is {self.storage}; name a folder that "
                    "all nodes see or a hub name, or set storage=FOLDER"
                )

    def _check_models(self) -> None:
        scenario = self.scenario
        generated = scenario.name == "authors" or (scenario.name == "continual" and scenario.source == EMBEDDED)
        if EMBEDDED in (self.model.target, self.model.retain_models) and not generated:
            raise ValueError(
                f"model: {EMBEDDED!r} is only made for generated authors, but got scenario {scenario.name}; "
                "set model.target to a folder or hub name"
            )
        if scenario.name == "continual" and self.model.retain_models:
            raise ValueError(
                "model.retain_models: scenario continual is measured against none, because each task has another; "
                "leave it out"
            )
        models = {} if isinstance(self.model.retain_models, str) else self.model.retain_models
        logs = scenario.retain_logs if scenario.name == "tofu" else {}
        for key, named in (("model.retain_models", models), ("scenario.retain_logs", logs)):
            for name in named:
                if name not in self.forget_sets:
                    raise ValueError(f"{key}: {name} is no forget set of this sweep ({', '.join(self.forget_sets)})")
        if both := sorted(models.keys() & logs.keys()):
            raise ValueError(
                f"scenario.retain_logs: {both[0]} has a retain model in model.retain_models too, and Forget Quality "
                "compares with one; name the model or its log"
            )

    def _check_objectives(self) -> None:
        known = known_metrics(self.scenario, self.evaluation)
        for objective in self.objectives:
            if objective not in known:
                raise ValueError(
                    f"objectives: no metric is called {objective!r}; scenario {self.scenario.name} "
                    f"produces {', '.join(known)}"
                )
            if known[objective].needs_retain_model and self.model.retain_models != EMBEDDED:
                logs = self.scenario.retain_logs if self.scenario.name == "tofu" else {}
                missing = [name for name in self.forget_sets if name not in {*self.model.retain_models, *logs}]
                if missing:
                    remedy = "model.retain_models" + (
                        " or scenario.retain_logs" if self.scenario.name == "tofu" else ""
                    )
                    raise ValueError(
                        f"objectives: {objective} compares with a retain model, and {', '.join(missing)} has "
                        f"none; set {remedy}"
                    )

    def _check_methods(self) -> None:
        for entry in self.methods:
            if unknown := sorted(set(entry.train) - set(TrainConfig.model_fields)):
                raise ValueError(f"methods: {entry.name}: train has no key {unknown[0]!r}; use a key of train")
            if "convention" in entry.train:
                raise ValueError(f"methods: {entry.name}: train.convention is the whole sweep's; set train.convention")
            try:
                trial_config(self, entry, self.forget_sets[0], {})
            except ValueError as error:
                raise ValueError(f"methods: {entry.name}: {first_line(error)}") from error
            self._check_space(entry)

    def _check_space(self, entry: MethodEntry) -> None:
        label = space_label(entry)
        for key, searched in (self.search.space if entry.space is None else entry.space).items():
            if key not in _METHOD_KEYS and not _is_searchable(key, self):
                raise ValueError(
                    f"{label}: {key!r} names no number or choice of a trial; use {', '.join(_METHOD_KEYS)} or a "
                    "train.*, zero.* or (where lora is set) lora.* key"
                )
            if self.search.sampler == "grid" and not isinstance(searched, Choice):
                raise ValueError(
                    f"{label}: search.sampler=grid needs choices, but {key} has a range; write {{choices: [...]}}"
                )
            for value in searched.bounds if key in cell_space(self, entry) else ():
                try:
                    trial_config(self, entry, self.forget_sets[0], {key: value})
                except ValueError as error:
                    raise ValueError(f"{label}.{key}: {value!r} is not acceptable: {first_line(error)}") from error


def first_line(error: ValueError) -> str:
    """What went wrong first, without pydantic's decoration."""
    errors = getattr(error, "errors", None)
    return str(errors()[0]["msg"]).removeprefix("Value error, ") if callable(errors) else str(error).splitlines()[0]


_METHOD_KEYS = ("method.beta", "method.forget_weight", "method.retain_weight")
_SEARCHED_SECTIONS: dict[str, type[Config]] = {"train": TrainConfig, "zero": ZeroConfig, "lora": LoraConfig}


def _is_searchable(key: str, sweep: SweepConfig) -> bool:
    section, _, name = key.partition(".")
    owner = _SEARCHED_SECTIONS.get(section)
    if owner is None or (owner is LoraConfig and sweep.lora is None):
        return False
    return name in owner.model_fields and name not in ("convention", "target_modules")


def cell_space(sweep: SweepConfig, entry: MethodEntry) -> dict[str, FloatRange | IntRange | Choice]:
    """The part of the search space that a method has: beta, for one, only where a loss uses it."""
    settings = parse_method(entry.name).settings
    return {
        key: searched
        for key, searched in (sweep.search.space if entry.space is None else entry.space).items()
        if not key.startswith("method.") or key.removeprefix("method.") in settings
    }


def space_label(entry: MethodEntry) -> str:
    """Where the searched keys of a method stand in a sweep file, for messages."""
    return "search.space" if entry.space is None else f"methods: {entry.name}: space"


def num_combinations(sweep: SweepConfig, entry: MethodEntry) -> int | None:
    """Different settings that a method's cell can try: a grid's points, 1 where nothing is searched, none: no end."""
    space = cell_space(sweep, entry)
    if space and sweep.search.sampler != "grid":
        return None
    return math.prod(len(searched.choices) for searched in space.values() if isinstance(searched, Choice))


def num_trials(sweep: SweepConfig, entry: MethodEntry) -> int:
    """Trials of a method's cell: its budget, but never more than there are combinations."""
    combinations, budget = num_combinations(sweep, entry), sweep.search.trials_per_cell
    return budget if combinations is None else min(combinations, budget)


def first_values(sweep: SweepConfig, entry: MethodEntry) -> dict[str, Value]:
    """What the first trial of a cell takes for each searched key: the method's own settings, else the sweep's."""
    sections: dict[str, Any] = {**_sections(sweep, entry), "method": entry.model_dump()}
    return {key: sections[key.partition(".")[0]][key.partition(".")[2]] for key in cell_space(sweep, entry)}


def trial_config(sweep: SweepConfig, entry: MethodEntry, forget_set: str, params: Mapping[str, Value]) -> TrialConfig:
    """The trial that `params`, values by dotted name, make of a cell. ValueError: a value out of its field's range."""
    sections = _sections(sweep, entry)
    settings = entry.model_dump(include={"beta", "forget_weight", "retain_weight"})
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
        lora=LoraConfig.model_validate(sections["lora"]) if "lora" in sections else None,
        evaluation=sweep.evaluation,
        questions=sweep.confirm.search_part,
    )


def _sections(sweep: SweepConfig, entry: MethodEntry) -> dict[str, dict[str, Any]]:
    """Settings of a trial by section, before anything is searched."""
    sections = {"train": {**sweep.train.model_dump(), **entry.train}, "zero": sweep.zero.model_dump()}
    return sections if sweep.lora is None else {**sections, "lora": sweep.lora.model_dump()}


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
        questions=sweep.confirm.search_part,
    )

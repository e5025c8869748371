"""What one trial is made of: model, training, evaluation; importable without torch or Ray."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

from methods.config import Convention, MethodConfig
from metrics.suites import MetricInfo, metric_directions
from orchestrator.base_config import EMBEDDED, Config, PathOrName
from orchestrator.scenario_config import ScenarioConfig


class ModelConfig(Config):
    """The model that forgets. `embedded` makes a tiny one for scenario `authors`, once, and keeps it in the cache."""

    target: PathOrName = Field(EMBEDDED, description="the model that knows the forget set: folder or hub name")
    retain_models: dict[str, PathOrName] | Literal["embedded"] = Field(
        default_factory=dict, description="for each forget set a model that never saw it; only for metrics"
    )
    template: Literal["llama2-chat", "llama3-instruct", "phi", "chat"] = Field(
        "llama2-chat", description="tags around question and answer; chat: the tokenizer's own chat template"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU, else float32")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention kernel")
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; only if you trust it"
    )


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


class TrainConfig(Config):
    """The unlearning run. Defaults are the paper's (arXiv 2410.08109, appendix; its published scripts)."""

    convention: Convention = Field(
        "masked", description="masked: averages over real tokens of a step; paper_code: those of the published code"
    )
    learning_rate: PositiveFloat = Field(1e-5, description="peak, after the warm-up")
    epochs: PositiveFloat = Field(5.0, description="passes over the forget rows")
    batch_size: PositiveInt = Field(32, description="forget rows of one optimizer step, over all workers")
    micro_batch_tokens: PositiveInt = Field(
        4096, description="tokens that one worker handles at once, of forget rows and all that is read with them"
    )
    micro_batch_size: PositiveInt | None = Field(
        None, description="forget rows that one worker handles at once; none: by tokens, under paper_code 4"
    )
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
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
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


class LoraConfig(Config):
    """Train low-rank adapters instead of all weights (arXiv 2106.09685). Defaults are the paper's."""

    r: PositiveInt = Field(8, description="rank")
    alpha: PositiveFloat = Field(32, description="scale: the adapter's output is multiplied by alpha / r")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="dropout on the adapter's input")
    target_modules: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the layers that get adapters; none: every linear layer but the head"
    )


DOWNSTREAM = ("arc_challenge", "mmlu", "truthfulqa_mc1", "triviaqa", "gsm8k")


class EvaluationConfig(Config):
    """What is asked after unlearning, and who judges the answers. Default judges are the paper's."""

    max_length: Annotated[int, Field(ge=8)] = Field(200, description="tokens of question and answer together")
    max_rows_per_set: PositiveInt | None = Field(
        300,
        description="questions of forget and retain sets; none: all, as scenario real_world asks where this is not "
        "set. TOFU's authors and facts are asked in full, facts beside generated authors are cut too",
    )
    batch_size: PositiveInt = Field(64, description="texts that one worker scores or generates at once")
    encoder: PathOrName = Field(
        "sentence-transformers/paraphrase-MiniLM-L6-v2", description="sentence encoder of Cosine Similarity"
    )
    entailment: PathOrName = Field(
        "sileod/deberta-v3-base-tasksource-nli", description="classifier of the Entailment Score"
    )
    downstream: tuple[str, ...] | None = Field(
        None,
        description=f"tasks of lm-evaluation-harness; none: nothing, in scenario real_world {', '.join(DOWNSTREAM)}",
    )
    downstream_tasks: PathOrName | None = Field(
        None, description="folder with task definitions of your own; none: those of the harness"
    )
    downstream_limit: PositiveInt | None = Field(None, description="questions of each task; none: all")


class QuestionPart(Config):
    """One of two parts of each evaluation set's questions; see orchestrator.scenarios.held_out."""

    part: Literal["search", "held_out"]
    held_out: Annotated[float, Field(gt=0, lt=1)]


def _asks_all_people(evaluation: EvaluationConfig, info: ValidationInfo) -> EvaluationConfig:
    """real_world asks every question unless told otherwise, as the paper does."""
    scenario = info.data.get("scenario")
    if scenario is None or scenario.name != "real_world" or "max_rows_per_set" in evaluation.model_fields_set:
        return evaluation
    return evaluation.model_copy(update={"max_rows_per_set": None})


# In a config whose `scenario` stands before it; a default that depends on it is settled there.
ScenarioEvaluation = Annotated[EvaluationConfig, AfterValidator(_asks_all_people)]


class TrialConfig(Config):
    """All that one trial needs, and nothing about the search. Without a method it only scores the model."""

    method: MethodConfig | None
    forget_set: str
    seed: int
    scenario: ScenarioConfig
    model: ModelConfig
    train: TrainConfig
    zero: ZeroConfig
    lora: LoraConfig | None = None
    evaluation: EvaluationConfig
    questions: QuestionPart | None = Field(None, exclude_if=lambda part: part is None)  # none: all are asked

    @property
    def downstream(self) -> tuple[str, ...]:
        """Tasks of lm-evaluation-harness that the model is scored on at the end."""
        return downstream_tasks(self.scenario, self.evaluation)


def downstream_tasks(scenario: ScenarioConfig, evaluation: EvaluationConfig) -> tuple[str, ...]:
    """The tasks asked for, or those of the scenario."""
    if evaluation.downstream is not None:
        return evaluation.downstream
    return DOWNSTREAM if scenario.name == "real_world" else ()


def known_metrics(scenario: ScenarioConfig, evaluation: EvaluationConfig) -> dict[str, MetricInfo]:
    """Every metric that a trial of a scenario can be scored with, and which way is better.

    The worst of downstream tasks is that of accuracies; check_downstream lets no other score be an objective.
    """
    known = metric_directions(scenario.set_kinds, chain=scenario.name == "continual")
    return known | {
        f"downstream/{task}": MetricInfo("maximize", 0.0) for task in downstream_tasks(scenario, evaluation)
    }

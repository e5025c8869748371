"""One trial from model to metrics, on every rank of a process group; knows nothing of Ray."""

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from methods.config import MethodConfig
from methods.method import build_method
from metrics.suites import ExampleScore, forget_quality_metrics, summarise
from orchestrator.analysis.pareto import is_dominated
from orchestrator.base_config import Config, Value
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.scenarios.base import EvaluationSet, Task
from orchestrator.scenarios.load import load_tasks
from orchestrator.tracking.journal import ExampleAnswer, ObjectiveRecord, StepRecord, TrialFinished, TrialState
from orchestrator.trial_config import EvaluationConfig, TrainConfig, TrialConfig
from orchestrator.worker.batches import BatchBuilder, Encoder, forget_label_mode
from orchestrator.worker.engine import DeepSpeedEngine
from orchestrator.worker.judges import Judges
from orchestrator.worker.loop import Schedule, train_steps
from orchestrator.worker.model import load_model, save_model
from orchestrator.worker.plan import Sizes, learning_rate, plan_steps
from orchestrator.worker.reference import ReferenceAnswers, ReferenceCache, reference_needs
from orchestrator.worker.score import all_questions, score_questions, shard
from orchestrator.worker.template import load_tokenizer, template_for

SCORES_FILE = "examples.jsonl"
WEIGHTS_FOLDER = "model"
_EXAMPLES_PER_SET = 5
ReportSteps = Callable[[Sequence[StepRecord]], None]


class TrialJob(Config):
    """A trial as it is sent to a slot: its settings, and what the driver knows about its cell by then."""

    key: str
    config: TrialConfig
    params: dict[str, Value] = {}
    sweep_dir: str
    objectives: tuple[ObjectiveRecord, ...]
    keep_weights: bool
    front: tuple[tuple[float, ...], ...] = ()
    retain_scores: str | None = None

    @property
    def folder(self) -> Path:
        """Where the trial's files go."""
        return Path(self.sweep_dir) / "trials" / self.key


@dataclass
class WorkerParts:
    """What a worker keeps between trials: tokenised text, judges, reference answers."""

    device: torch.device
    references: ReferenceCache = field(default_factory=ReferenceCache)
    _judges: dict[tuple[str, str], Judges] = field(default_factory=dict)
    _tokenizers: dict[str, Any] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)

    def judges(self, config: EvaluationConfig) -> Judges:
        """The judge models, loaded at first use."""
        key = (config.encoder, config.entailment)
        if key not in self._judges:
            self._judges[key] = Judges(*key, device=self.device, batch_size=config.batch_size)
        return self._judges[key]

    def tokenizer(self, path: str) -> Any:
        """The tokenizer of a model."""
        if path not in self._tokenizers:
            self._tokenizers[path] = load_tokenizer(path)
        return self._tokenizers[path]

    def task(self, scenario: ScenarioConfig, evaluation: EvaluationConfig, forget_set: str) -> Task:
        """The rows of a forget set."""
        key = f"{scenario.model_dump_json()} {evaluation.model_dump_json()} {forget_set}"
        if key not in self._tasks:
            (self._tasks[key],) = load_tasks(scenario, evaluation, forget_set)
        return self._tasks[key]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run_trial(job: TrialJob, parts: WorkerParts, report: ReportSteps) -> TrialFinished:
    """Train if the trial has a method, evaluate where it was trained, keep the weights if they may be wanted.

    Every rank of the process group calls this with the same job; each returns a record, and rank 0's is the one that
    holds metrics. Rank 0 calls `report` with the steps of each epoch.
    """
    config, clock = job.config, _Clock()
    torch.manual_seed(config.seed)
    with clock.phase("setup"):
        task = parts.task(config.scenario, config.evaluation, config.forget_set)
        model = load_model(config.model, parts.device)
    if config.method is not None:
        trained = _train(config, config.method, task, model, parts, report, clock)
        del model
        if trained is None:
            _free_memory()
            return _diverged(job, clock, "the training loss is not finite")
        model = trained
    with clock.phase("evaluate"):
        scores = _evaluate(config, task, model, parts)
    if not all(math.isfinite(score.nll_sum) for score in scores):
        del model
        _free_memory()
        return _diverged(job, clock, "the model's predictions are not finite")
    result = TrialFinished(key=job.key, state=TrialState.COMPLETE)
    if dist.get_rank() == 0:
        with clock.phase("save"):
            result = _record(job, task, scores, parts)
            if _keeps_weights(job, result):
                save_model(model, parts.tokenizer(config.model.target), job.folder / WEIGHTS_FOLDER)
                result = result.model_copy(update={"checkpoint": f"trials/{job.key}/{WEIGHTS_FOLDER}"})
    del model
    _free_memory()
    return result.model_copy(update={"seconds": clock.seconds})


def make_schedule(train: TrainConfig, sizes: Sizes, builder: BatchBuilder, *, seed: int) -> Schedule:
    """The rows and the learning rate of every step. ValueError: not one step fits."""
    steps = plan_steps(sizes, train.convention, seed=seed, length=builder.length)
    warmup = sizes.num_warmup_steps if train.warmup_steps is None else train.warmup_steps
    rates = [
        learning_rate(step, peak=train.learning_rate, num_steps=len(steps), num_warmup_steps=warmup)
        for step in range(len(steps))
    ]
    return Schedule(steps, rates)


def plan_sizes(train: TrainConfig, task: Task, method: MethodConfig, num_workers: int) -> Sizes:
    """How much a task offers to draw from."""
    return Sizes(
        forget=len(task.forget),
        retain=len(task.retain),
        refusals=len(task.refusals) if method.needs_refusals or train.convention == "paper_code" else 0,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        num_workers=num_workers,
        epochs=train.epochs,
    )


def _train(  # noqa: PLR0913  (one private caller; these are the trial's own parts)
    config: TrialConfig,
    method: MethodConfig,
    task: Task,
    model: Any,
    parts: WorkerParts,
    report: ReportSteps,
    clock: _Clock,
) -> Any | None:
    """The trained model, or None where the loss was not finite."""
    with clock.phase("setup"):
        tokenizer = parts.tokenizer(config.model.target)
        encoder = Encoder(tokenizer, template_for(config.model.template, tokenizer), config.train.max_length)
        builder = BatchBuilder(encoder, task, method, config.train)
        sizes = plan_sizes(config.train, task, method, dist.get_world_size())
        schedule = make_schedule(config.train, sizes, builder, seed=config.seed)
        engine = DeepSpeedEngine(model, config.train, config.zero)
    with clock.phase("reference"):
        reference = _reference(config, method, builder, schedule, engine, parts)
    with clock.phase("train"):
        steps_per_epoch = max(1, len(task.forget) // config.train.batch_size)
        steps: list[StepRecord] = []
        diverged = False
        for step in train_steps(engine, build_method(method), builder, schedule, reference):
            steps.append(step)
            diverged = not math.isfinite(step.loss)
            if engine.rank == 0 and (len(steps) >= steps_per_epoch or step.step == len(schedule.steps) - 1 or diverged):
                report(steps)
                steps = []
        trained = engine.release()
    return None if diverged else trained


def _reference(  # noqa: PLR0913
    config: TrialConfig,
    method: MethodConfig,
    builder: BatchBuilder,
    schedule: Schedule,
    engine: DeepSpeedEngine,
    parts: WorkerParts,
) -> ReferenceAnswers | None:
    if not method.needs_reference:
        return None
    # All that the answers depend on; beta, weights and learning rate are left out on purpose: trials differ in those.
    train = config.train.model_dump(include={"convention", "epochs", "batch_size", "micro_batch_size", "max_length"})
    key = json.dumps(
        [
            config.model.model_dump(),
            config.scenario.model_dump(),
            config.forget_set,
            config.seed,
            train,
            reference_needs(method),
            forget_label_mode(method, config.train),
            sorted(method.parts),
            engine.world_size,
        ]
    )
    return parts.references.answers(key, engine, builder, schedule.steps)


def _evaluate(config: TrialConfig, task: Task, model: Any, parts: WorkerParts) -> list[ExampleScore]:
    """Scores of all questions, in order, on every rank; each rank scores its share."""
    tokenizer = parts.tokenizer(config.model.target)
    encoder = Encoder(tokenizer, template_for(config.model.template, tokenizer), config.evaluation.max_length)
    questions = all_questions(task.evaluation)
    mine = shard(questions, dist.get_rank(), dist.get_world_size())
    scores = score_questions(model, encoder, mine, config.evaluation, parts.judges(config.evaluation))
    gathered: list[list[ExampleScore]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, scores)
    found = {(score.set_name, score.index): score for part in gathered for score in part}
    return [found[question.set_name, question.index] for question in questions]


def _record(job: TrialJob, task: Task, scores: list[ExampleScore], parts: WorkerParts) -> TrialFinished:
    by_set = {s.name: [score for score in scores if score.set_name == s.name] for s in task.evaluation}
    metrics = summarise(by_set, {s.name: s.kind.value for s in task.evaluation})
    if job.retain_scores is not None:
        retain_model = [score for score in read_scores(Path(job.retain_scores)) if score.set_name == "forget"]
        metrics |= forget_quality_metrics(by_set["forget"], retain_model)
    path = job.folder / SCORES_FILE
    return TrialFinished(
        key=job.key,
        state=TrialState.COMPLETE,
        metrics=metrics,
        objectives=tuple(metrics[objective.metric] for objective in job.objectives) if job.config.method else None,
        scores_path=str(path.relative_to(job.sweep_dir)),
        scores_sha256=write_scores(scores, path),
        judges=parts.judges(job.config.evaluation).names,
        examples=tuple(answer for s in task.evaluation for answer in _examples(s, by_set[s.name])),
    )


def _examples(evaluation_set: EvaluationSet, scores: list[ExampleScore]) -> list[ExampleAnswer]:
    """Answers to a few questions spread over the set, the same in every trial."""
    number = min(_EXAMPLES_PER_SET, len(scores))
    chosen = [scores[i * len(scores) // number] for i in range(number)]
    return [
        ExampleAnswer(
            set_name=evaluation_set.name,
            index=score.index,
            question=score.question,
            truth=score.semantic_truth,
            output=score.generation,
        )
        for score in chosen
    ]


def write_scores(scores: Sequence[ExampleScore], path: Path) -> str:
    """Write one JSON object a line; returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(asdict(score), ensure_ascii=False) + "\n" for score in scores)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_scores(path: Path) -> list[ExampleScore]:
    """Scores that `write_scores` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [ExampleScore(**{**row, "perturbed_nll": tuple(row["perturbed_nll"])}) for row in rows]


def _keeps_weights(job: TrialJob, result: TrialFinished) -> bool:
    if job.config.method is None or not job.keep_weights or result.objectives is None:
        return False
    directions = [objective.direction for objective in job.objectives]
    return not (job.front and is_dominated(list(result.objectives), [list(row) for row in job.front], directions))


def _diverged(job: TrialJob, clock: _Clock, reason: str) -> TrialFinished:
    return TrialFinished(
        key=job.key,
        state=TrialState.DIVERGED,
        objectives=tuple(objective.worst for objective in job.objectives),
        error=reason,
        seconds=clock.seconds,
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

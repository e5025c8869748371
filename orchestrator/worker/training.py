"""Forget one task: rows, schedule, reference answers, steps, on every rank of a process group."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from methods.method import build_method
from orchestrator.scenarios.base import Task
from orchestrator.tracking.journal import StepRecord
from orchestrator.trial_config import TrainConfig, TrialConfig
from orchestrator.worker.batches import BatchBuilder, forget_label_mode
from orchestrator.worker.engine import DeepSpeedEngine
from orchestrator.worker.evaluation import NotFiniteError
from orchestrator.worker.loop import Schedule, train_steps
from orchestrator.worker.parts import Clock, WorkerParts
from orchestrator.worker.plan import Sizes, learning_rate, plan_sizes, plan_steps
from orchestrator.worker.reference import ReferenceAnswers, reference_needs
from orchestrator.worker.resume import TrainingPoints
from orchestrator.worker.rungs import Rungs, StoppedError

ReportSteps = Callable[[Sequence[StepRecord]], None]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task made ready: its rows tokenised as they are asked for, its steps known."""

    task: Task
    builder: BatchBuilder
    schedule: Schedule


def plan_task(config: TrialConfig, task: Task, parts: WorkerParts) -> TaskPlan:
    """What a trial does with one task. ValueError: not one step fits."""
    assert config.method is not None
    encoder = parts.encoder(config.model, config.train.max_length)
    builder = BatchBuilder(encoder, task, config.method, config.train)
    sizes = plan_sizes(config.train, task, config.method, dist.get_world_size())
    return TaskPlan(task, builder, make_schedule(config.train, sizes, builder, seed=config.seed))


def make_schedule(train: TrainConfig, sizes: Sizes, builder: BatchBuilder, *, seed: int) -> Schedule:
    """The rows and the learning rate of every step. ValueError: not one step fits."""
    steps = plan_steps(sizes, train.convention, seed=seed, length=builder.length)
    warmup = sizes.num_warmup_steps if train.warmup_steps is None else train.warmup_steps
    rates = [
        learning_rate(step, peak=train.learning_rate, num_steps=len(steps), num_warmup_steps=warmup)
        for step in range(len(steps))
    ]
    return Schedule(steps, rates)


def train_task(
    config: TrialConfig,
    plan: TaskPlan,
    model: Any,
    report: ReportSteps,
    clock: Clock,
    reference: Callable[[DeepSpeedEngine], ReferenceAnswers | None],
    points: TrainingPoints | None = None,
    rungs: Rungs | None = None,
) -> Any:
    """The model after the task, whole on every rank. Every rank calls `report` with the steps of each epoch.

    `model` is what the task starts from, and what `reference` is asked about, once. Training goes on from `points`, if
    they hold one, and leaves others; steps done by a point or a rung are reported before it. NotFiniteError: a loss or
    its gradient was not finite; that step is the last that is reported. PreemptedError: as TrainingPoints.save.
    StoppedError: at a rung. `rungs` may raise NotFiniteError too.
    """
    assert config.method is not None
    with clock.phase("setup"):
        engine = DeepSpeedEngine(model, config.train, config.zero)
        torch.manual_seed(config.seed * engine.world_size + engine.rank)  # dropout differs between ranks
    with clock.phase("reference"):
        answers = reference(engine)
    with clock.phase("train"):
        try:
            _take_steps(engine, plan, answers, report, points, rungs)
        except (NotFiniteError, StoppedError):
            engine.close()
            raise
        return engine.release()


def _take_steps(
    engine: DeepSpeedEngine,
    plan: TaskPlan,
    answers: ReferenceAnswers | None,
    report: ReportSteps,
    points: TrainingPoints | None,
    rungs: Rungs | None,
) -> None:
    """The steps of a task, see train_task."""
    steps_per_epoch = max(1, len(plan.task.forget) // plan.builder.train.batch_size)
    num_steps = len(plan.schedule.steps)
    rung_after = rungs.by_step(num_steps) if rungs else {}
    steps: list[StepRecord] = []
    first = points.take_up(engine) if points else 0
    method = build_method(plan.builder.method)
    for step in train_steps(engine, method, plan.builder, plan.schedule, answers, first=first):
        steps.append(step)
        done = step.step + 1
        last = done == num_steps or not step.is_finite
        point = points is not None and not last and points.after_step(engine, done, steps_per_epoch)
        rung = None if last else rung_after.get(done)
        if len(steps) >= steps_per_epoch or last or point or rung:
            report(steps)
            steps = []
        if not step.is_finite:
            raise NotFiniteError("the training loss or its gradient is not finite")
        if rungs is not None and rung:
            rungs.climb(engine, rung, num_steps)
        if points is not None and point:
            points.save(engine, done)


def reference_answers(
    config: TrialConfig, plan: TaskPlan, engine: DeepSpeedEngine, parts: WorkerParts, *, shared: bool
) -> ReferenceAnswers | None:
    """The answers of the engine's model as it stands, None where the method needs none.

    `shared`: that model is the target model, so that other trials have the same answers.
    """
    method = plan.builder.method
    if not method.needs_reference:
        return None
    # All that the answers depend on; beta, weights and learning rate are left out on purpose: trials differ in those.
    numbers = {"convention", "epochs", "batch_size", "micro_batch_size", "micro_batch_tokens", "max_length"}
    train = config.train.model_dump(include=numbers)
    key = json.dumps(
        [
            config.model.model_dump(),
            config.scenario.model_dump(),
            config.forget_set,
            plan.task.name,
            config.seed,
            train,
            reference_needs(method),
            forget_label_mode(method, config.train),
            sorted(method.parts),
            engine.world_size,
        ]
    )
    return parts.references.answers(key if shared else None, engine, plan.builder, plan.schedule.steps)

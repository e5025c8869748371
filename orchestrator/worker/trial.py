"""One trial from model to metrics, on every rank of a process group; knows nothing of Ray.

A trial forgets one task, or a chain of them: each task then starts from the weights that the last one left, read back
from their checkpoint. A trial that was cut off goes on from its newest checkpoint, after a task or between two steps,
and ends exactly as one that was not.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from orchestrator.analysis.pareto import is_dominated
from orchestrator.scenarios.base import Task
from orchestrator.storage import Storage
from orchestrator.tracking.checkpoints import RESUME_FOLDER, WEIGHTS_FOLDER
from orchestrator.tracking.journal import (
    RungReached,
    StepRecord,
    StepsReported,
    TaskFinished,
    TrialFinished,
    TrialState,
    parse_record,
)
from orchestrator.trial_config import TrialConfig
from orchestrator.worker.chain import as_after, asked_after, chain_metrics, task_metrics
from orchestrator.worker.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from orchestrator.worker.downstream import downstream_metrics, load_downstream
from orchestrator.worker.engine import DeepSpeedEngine
from orchestrator.worker.evaluation import (
    NotFiniteError,
    Scores,
    evaluate,
    example_answers,
    whole_metrics,
    write_scores,
)
from orchestrator.worker.job import TrialJob
from orchestrator.worker.model import load_model, save_model, weights_digest
from orchestrator.worker.parts import Clock, WorkerParts
from orchestrator.worker.reference import ReferenceAnswers
from orchestrator.worker.resume import TrainingPoints
from orchestrator.worker.rungs import Rungs, StoppedError, rung_task
from orchestrator.worker.training import plan_task, reference_answers, train_task

SCORES_FILE = "examples.jsonl"
Told = StepsReported | RungReached | TaskFinished
Report = Callable[[Told], None]
_LOG = logging.getLogger(__name__)
_MOST_NOTES = 5


def run_trial(
    job: TrialJob,
    parts: WorkerParts,
    report: Report,
    is_leaving: Callable[[], bool] = lambda: False,
    goes_on: Callable[[RungReached], bool] = lambda rung: True,
) -> TrialFinished:
    """Train if the trial has a method, evaluate where it was trained, keep the weights if they may be wanted.

    Every rank of the process group calls this with the same job; each returns a record, and rank 0's is the one that
    holds metrics. Rank 0 calls `report` with the steps of each epoch, with each rung, and then asks whether the trial
    `goes_on` from it, and in a chain at the end of each task. `is_leaving`, and PreemptedError: as TrainingPoints.
    """
    clock = Clock()
    try:
        with clock.phase("setup"):
            chain = _Chain(job, parts, report, clock, parts.tasks(job.config), is_leaving, goes_on)
            load_downstream(job.config.downstream, job.config.evaluation)  # what cannot be read is found out first
        model = chain.run()
        metrics = chain.metrics() | chain.downstream(model)
        result = TrialFinished(key=job.key, state=TrialState.COMPLETE)
        if dist.get_rank() == 0:
            with clock.phase("save"):
                result = _record(job, chain, metrics, model)
                if _keeps_weights(job, result):
                    name = f"{job.folder}/{WEIGHTS_FOLDER}"
                    job.storage.put(name, partial(save_model, model, parts.tokenizer(job.config.model)))
                    result = result.model_copy(update={"checkpoint": name})
        del model
    except NotFiniteError as error:
        result = TrialFinished(
            key=job.key,
            state=TrialState.DIVERGED,
            objectives=tuple(objective.worst for objective in job.objectives),
            error=str(error),
        )
    except StoppedError as stopped:
        result = TrialFinished(
            key=job.key, state=TrialState.PRUNED, objectives=stopped.rung.objectives, error=str(stopped)
        )
    _free_memory()
    job.storage.drop_copy(f"{job.folder}/{RESUME_FOLDER}")  # no rank reads it any more
    return result.model_copy(update={"seconds": clock.seconds})


@dataclass
class _Chain:
    """The tasks of a trial one after another; most trials have one. A trial without a method only scores them."""

    job: TrialJob
    parts: WorkerParts
    report: Report
    clock: Clock
    tasks: tuple[Task, ...]
    is_leaving: Callable[[], bool]
    goes_on: Callable[[RungReached], bool]
    scores: Scores = field(default_factory=dict)
    records: list[Told] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    resumed: Checkpoint | None = None  # kept until there is a newer one

    @property
    def config(self) -> TrialConfig:
        return self.job.config

    @property
    def is_chain(self) -> bool:
        """Whether tasks are reported one by one; a chain may have a single task."""
        return self.config.scenario.name == "continual"

    @property
    def done(self) -> list[TaskFinished]:
        return [record for record in self.records if isinstance(record, TaskFinished)]

    @property
    def num_steps(self) -> int:
        return sum(len(record.steps) for record in self.records if isinstance(record, StepsReported))

    def run(self) -> Any:
        """The model after the last task, its scores in `scores`. NotFiniteError: as train_task and evaluate."""
        if self.config.method is None:
            return self._only_score(self._load(None))
        start, point = self._resume()
        answers = self._initial_answers()
        model = None
        for index in range(len(self.done), len(self.tasks)):
            if model is not None:
                del model
                _free_memory()
            model = self._forget(index, start, point, answers)
            self._evaluate(index, model)
            if self.is_chain:
                self._record_task(index, self.scores)
            if index < len(self.tasks) - 1:
                start, point = self._save(model), None
        return model

    def metrics(self) -> dict[str, float]:
        """What the trial is judged by."""
        if self.is_chain:
            return chain_metrics([task.metrics for task in self.done])
        (task,) = self.tasks
        return whole_metrics(task, self.scores, _fetch_scores(self.job))

    def _only_score(self, model: Any) -> Any:
        """Nothing changes from task to task: one look at all of them is enough."""
        last = len(self.tasks) - 1
        self._evaluate(last, model)
        if self.is_chain:
            for index in range(len(self.tasks)):
                self._record_task(index, as_after(self.scores, index, last))
        return model

    def _evaluate(self, index: int, model: Any) -> None:
        sets = asked_after(self.tasks, index)
        with self.clock.phase("evaluate"):
            self.scores = evaluate(model, self.config.model, self.config.evaluation, sets, self.parts)

    def downstream(self, model: Any) -> dict[str, float]:
        """What else the model can still do."""
        config = self.config
        with self.clock.phase("downstream"):
            tokenizer = self.parts.tokenizer(config.model)
            return downstream_metrics(model, tokenizer, config.downstream, config.evaluation, seed=config.seed)

    def _load(self, start: Checkpoint | None) -> Any:
        """The target model, or the one that the task before left."""
        with self.clock.phase("setup"):
            torch.manual_seed(self.config.seed)  # the first weights of adapters
            source = self.config.model
            if start is not None:
                source = source.model_copy(update={"target": str(start.part(0))})
            lora = self.config.lora if self.config.method is not None else None
            return load_model(source, self.parts.device, lora)

    def _forget(
        self,
        index: int,
        start: Checkpoint | None,
        point: Checkpoint | None,
        answers: Sequence[ReferenceAnswers | None],
    ) -> Any:
        """Forget one task from its start, or from a point in the middle of it."""
        model = self._load(start)
        with self.clock.phase("setup"):
            plan = plan_task(self.config, self.tasks[index], self.parts)

        def reference(engine: DeepSpeedEngine) -> ReferenceAnswers | None:
            if answers:
                return answers[index]
            return reference_answers(self.config, plan, engine, self.parts, shared=index == 0)

        points = TrainingPoints(
            60 * self.job.point_minutes,
            partial(self._save_point, start),
            None if point is None else (point.part(dist.get_rank()), point.state["step"]),
            self.is_leaving,
        )
        return train_task(self.config, plan, model, self._take_steps, self.clock, reference, points, self._rungs())

    def _rungs(self) -> Rungs | None:
        stopping = self.job.early_stopping
        return None if stopping is None else Rungs(stopping.rungs, partial(self._climb, stopping.rows_per_set))

    def _climb(self, rows_per_set: int, engine: DeepSpeedEngine, rung: int, num_steps: int) -> None:
        """Ask the model as it stands a few questions, and the driver whether the trial goes on: else StoppedError."""
        (task,) = (rung_task(task, rows_per_set) for task in self.tasks)
        with self.clock.phase("rungs"):
            with engine.whole_model() as model:
                scores = evaluate(model, self.config.model, self.config.evaluation, task.evaluation, self.parts)
            metrics = whole_metrics(task, scores, _fetch_scores(self.job))
            record = RungReached(
                key=self.job.key,
                rung=rung,
                step=self.num_steps,
                num_steps=num_steps,
                metrics=metrics,
                objectives=tuple(metrics[objective.metric] for objective in self.job.objectives),
                seconds=self.clock.so_far(),
            )
            self._tell(record)
            stops = dist.get_rank() == 0 and not self.goes_on(record)
            if engine.max_over_ranks(int(stops)):
                raise StoppedError(record)

    def _take_steps(self, steps: Sequence[StepRecord]) -> None:
        """Steps are numbered over the whole chain."""
        first = self.num_steps
        numbered = tuple(step.model_copy(update={"step": first + i}) for i, step in enumerate(steps))
        self._tell(StepsReported(key=self.job.key, steps=numbered))

    def _tell(self, record: Told) -> None:
        self.records.append(record)
        if dist.get_rank() == 0:
            self.report(record)

    def _initial_answers(self) -> list[ReferenceAnswers | None]:
        """With `reference: initial`, what the target model says to every task still to come, else nothing."""
        method, scenario = self.config.method, self.config.scenario
        initial = scenario.name == "continual" and scenario.reference == "initial"
        if method is None or not method.needs_reference or not initial:
            return []
        engine = DeepSpeedEngine(self._load(None), self.config.train, self.config.zero)
        answers: list[ReferenceAnswers | None] = [None] * len(self.done)
        with self.clock.phase("reference"):
            for task in self.tasks[len(self.done) :]:
                plan = plan_task(self.config, task, self.parts)
                answers.append(reference_answers(self.config, plan, engine, self.parts, shared=True))
        engine.close()
        return answers

    def _save(self, model: Any) -> Checkpoint:
        """The weights that the next task starts from."""

        def fill(folder: Path) -> None:
            if dist.get_rank() == 0:
                save_model(model, self.parts.tokenizer(self.config.model), folder)

        with self.clock.phase("save"):
            saved = save_checkpoint(self._root, self.num_steps, fill, self._state(None), keep=self.resumed)
        self.resumed = None
        return saved

    def _save_point(self, start: Checkpoint | None, fill: Callable[[Path], None], step: int) -> None:
        """The state of training after that many steps of a task. Where it cannot be written, the trial goes on."""
        try:
            save_checkpoint(self._root, self.num_steps, fill, self._state(step), start=start, keep=self.resumed)
            self.resumed = None
        except OSError as error:
            self._note(f"it cannot be resumed from step {self.num_steps} or later: {error}")

    def _note(self, text: str) -> None:
        """What should be known of the trial, although it goes on; the first few."""
        _LOG.warning("%s: %s", self.job.key, text)
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(text)

    @property
    def _root(self) -> Storage:
        return self.job.storage.sub(f"{self.job.folder}/{RESUME_FOLDER}")

    def _state(self, step: int | None) -> dict[str, Any]:
        return {
            "made_by": self._fingerprint(),
            "records": [record.model_dump(mode="json") for record in self.records],
            "seconds": self.clock.so_far(),
            "step": step,
        }

    def _resume(self) -> tuple[Checkpoint | None, Checkpoint | None]:
        """Take up what an earlier attempt at this trial left, and report again what it had reported by then.

        Returns the weights that the task in progress starts from (none: the target model), and a point in its middle.
        """
        found = newest_checkpoint(self._root, self._note)
        if found is None or found[0].state["made_by"] != self._fingerprint():
            return None, None
        checkpoint, start = self.resumed, _ = found
        self.clock.seconds.update(checkpoint.state["seconds"])
        for values in checkpoint.state["records"]:
            self._tell(cast(Told, parse_record(json.dumps(values))))
        return (checkpoint, None) if checkpoint.state["step"] is None else (start, checkpoint)

    def _fingerprint(self) -> list[Any]:
        """What must be the same for a checkpoint to be of use: settings, rows, number of workers."""
        rows = hashlib.sha256(repr(self.tasks).encode()).hexdigest()
        return [self.config.model_dump(mode="json"), rows, dist.get_world_size()]

    def _record_task(self, index: int, scores: Scores) -> None:
        name = f"{self.job.folder}/examples-task{index + 1}.jsonl"
        record = TaskFinished(
            key=self.job.key,
            task=index + 1,
            name=self.tasks[index].name,
            num_steps=self.num_steps,
            metrics=task_metrics(self.tasks[index], scores, [task.metrics for task in self.done]),
            scores_path=name,
            scores_sha256=_keep_scores(self.job, scores, name) if dist.get_rank() == 0 else None,
        )
        self._tell(record)


def _record(job: TrialJob, chain: _Chain, metrics: dict[str, float], model: Any) -> TrialFinished:
    name = f"{job.folder}/{SCORES_FILE}"
    return TrialFinished(
        key=job.key,
        state=TrialState.COMPLETE,
        metrics=metrics,
        objectives=tuple(metrics[objective.metric] for objective in job.objectives) if job.config.method else None,
        scores_path=name,
        scores_sha256=_keep_scores(job, chain.scores, name),
        weights_sha256=weights_digest(model) if job.config.method is None else None,
        judges=chain.parts.judges(job.config.evaluation).names,
        examples=example_answers(chain.scores),
        notes=tuple(chain.notes),
    )


def _keep_scores(job: TrialJob, scores: Scores, name: str) -> str:
    return job.storage.put(name, partial(write_scores, scores))


def _fetch_scores(job: TrialJob) -> Path | None:
    """The retain model's scores, if there is one. ValueError: they are not those that the journal knows."""
    name, digest = job.retain_scores, job.retain_scores_sha256
    if name is None:
        return None
    for _ in range(2):
        path = job.storage.fetch(name)
        if digest is None or hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return path
        job.storage.drop_copy(name)  # of another attempt
    raise ValueError(f"{name} of {job.storage} is not the file that was written: its checksum differs")


def _keeps_weights(job: TrialJob, result: TrialFinished) -> bool:
    if job.config.method is None or not job.keep_weights or result.objectives is None:
        return False
    directions = [objective.direction for objective in job.objectives]
    return not (job.front and is_dominated(list(result.objectives), [list(row) for row in job.front], directions))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

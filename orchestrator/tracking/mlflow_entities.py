"""What a journal's records are in MLflow: metrics, tags and data sets."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from orchestrator.analysis.summary import SweepSummary
from orchestrator.storage import is_uri
from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking.journal import (
    BASELINES,
    CheckpointDeleted,
    DataRecord,
    RowsRecord,
    RungReached,
    StepsReported,
    SweepStarted,
    TaskFinished,
    TrialFinished,
    TrialStarted,
    TrialState,
    TrialTaken,
)
from orchestrator.tracking.pump import redact_uri

OnTheWay = StepsReported | RungReached | TaskFinished  # what is measured before a trial's end
_DIGEST_CHARS = 8  # as MLflow's own digests, which it shows beside names


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return int(seconds * 1000)


@dataclass(slots=True)
class News:
    """What one call of `MlflowView.apply` has to say about one trial.

    `told`: by kind of record the last step or task that its run has, or has with this news. A trial whose workers died
    tells again what came after its last point, and MLflow would keep both: only what is beyond counts.
    """

    told: dict[str, int]
    started: TrialStarted | None = None
    metrics: list[Metric] = field(default_factory=list)
    finished: TrialFinished | None = None
    deleted: bool = False

    def take(self, record: TrialTaken | OnTheWay | TrialFinished | CheckpointDeleted) -> None:
        """One more record of the trial."""
        match record:
            case TrialTaken():
                pass  # what follows from it is told at the end
            case TrialFinished():
                self.finished = record
            case CheckpointDeleted():
                self.deleted = True
            case _:
                last = self.told.get(record.kind, -1)
                news = [metric for metric in _metrics_on_the_way(record) if metric.step > last]
                self.told[record.kind] = max((metric.step for metric in news), default=last)
                self.metrics += news


def _metrics_on_the_way(record: OnTheWay) -> list[Metric]:
    """What was measured before the end: after a task of a chain at the task's number, else at the number of steps."""
    time_ms = milliseconds(record.time)
    match record:
        case StepsReported():
            return _step_metrics(record, time_ms)
        case RungReached(step=step):
            return [Metric(f"rung/{name}", value, time_ms, step) for name, value in record.metrics.items()]
        case TaskFinished(task=task):
            return [Metric(page.task_metric(name), value, time_ms, task) for name, value in record.metrics.items()]


def _step_metrics(record: StepsReported, time_ms: int) -> list[Metric]:
    names = ("loss", "forget_loss", "retain_loss", "learning_rate", "grad_norm")
    return [
        Metric(f"train/{name}", value, time_ms, step.step)
        for step in record.steps
        for name in names
        if (value := getattr(step, name)) is not None
    ]


def final_metrics(
    finished: TrialFinished, header: SweepStarted, tags: Mapping[str, str], *, model_id: str | None
) -> list[Metric]:
    """How a trial ended, linked to its weights where they are kept and to the questions that were asked.

    `tags` are those of its run.
    """
    values = dict(finished.metrics) | {f"seconds/{phase}": value for phase, value in finished.seconds.items()}
    if finished.gpu_seconds:
        values["gpu_seconds"] = finished.gpu_seconds
    if finished.state is TrialState.COMPLETE and finished.objectives:
        names = [objective.metric for objective in header.objectives]
        values = dict(zip(names, finished.objectives, strict=True)) | values
    forget_set = tags["lethe.forget_set"]
    asked = {} if "lethe.confirms" in tags else _questions(forget_set, header.data.get(forget_set))
    time_ms = milliseconds(finished.time)
    metrics = []
    for name, value in values.items():
        # MLflow stores NaN as 0 with a model's metrics: those stay with the run alone.
        metric = Metric(name, value, time_ms, 0, model_id=model_id if math.isfinite(value) else None)
        dataset = asked.get(name.rpartition("/")[0])
        if dataset is not None and metric.model_id is not None:
            metric = Metric(name, value, time_ms, 0, model_id, dataset.name, dataset.digest)
        metrics.append(metric)
    return metrics


def cell_metrics(summary: SweepSummary) -> list[Metric]:
    """GPU-seconds of each cell that held any."""
    time_ms = milliseconds(summary.last_time)  # a trial that is tried again may make a sum smaller: the latest counts
    return [
        Metric(page.cell_metric(cell.method, cell.forget_set), cell.gpu_seconds, time_ms, 0)
        for group in summary.forget_sets
        for cell in group.cells
        if cell.gpu_seconds
    ]


def final_tags(finished: TrialFinished) -> dict[str, str]:
    """State, judges, error and weights."""
    tags = {"lethe.state": finished.state.value}
    tags |= {f"lethe.judge.{name}": judge for name, judge in finished.judges.items()}
    if finished.error:
        tags["lethe.error"] = redact_uri(finished.error)[: page.MAX_TAG_CHARS]
    if finished.weights_sha256:
        tags["lethe.weights_sha256"] = finished.weights_sha256
    if finished.checkpoint:
        tags["lethe.checkpoint"] = finished.checkpoint
    if finished.examples:
        tags["mlflow.loggedArtifacts"] = json.dumps([{"path": page.EXAMPLES, "type": "table"}])
    return tags


def inputs(started: TrialStarted, header: SweepStarted) -> list[DatasetInput]:
    """The rows that a trial forgets and retains, and those that it is asked; nothing where the journal has none.

    A baseline is asked only. What confirms a trial is asked other questions than the search, which are not recorded.
    """
    data = header.data.get(started.forget_set)
    return [] if data is None else list(_inputs(started, data))


def _inputs(started: TrialStarted, data: DataRecord) -> Iterator[DatasetInput]:
    if started.method not in BASELINES:
        yield _input(_dataset(started.forget_set, data.forget, data.source), "forget")
        yield _input(_dataset(f"{started.forget_set} retain", data.retain, data.source), "retain")
    if started.confirms is None:
        for dataset in _questions(started.forget_set, data).values():
            yield _input(dataset, "evaluation")


def _input(dataset: Dataset, context: str) -> DatasetInput:
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _questions(forget_set: str, data: DataRecord | None) -> dict[str, Dataset]:
    """By the name of the evaluation set, which is the first part of its metrics' names.

    Each forget set has its own, also of the same rows: MLflow's table of models tells data sets apart by name alone.
    """
    if data is None:
        return {}
    return {
        name: _dataset(f"{forget_set} questions: {name}", rows, data.source) for name, rows in data.questions.items()
    }


def _dataset(name: str, rows: RowsRecord, source: str) -> Dataset:
    where: dict[str, Any]
    if source.startswith("/"):
        kind, where = "local", {"uri": source}
    elif "/" in source and not is_uri(source):
        kind, where = "hugging_face", {"path": source}
    else:
        kind, where = "code", {"tags": {"mlflow.source.name": source}}
    profile = json.dumps({"num_rows": rows.num_rows})
    return Dataset(name, rows.sha256[:_DIGEST_CHARS], kind, json.dumps(where), None, profile)

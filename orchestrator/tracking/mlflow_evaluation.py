"""One evaluation as one run in MLflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.tracking.mlflow_page import MAX_PARAM_CHARS
from orchestrator.tracking.pump import redact_uri, tracking_error

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """What a run shows: metrics (at step 0), params, tags, and files that become artifacts."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    files: Sequence[Path]
    start_time: float  # seconds since 1970
    end_time: float


def log_evaluation(uri: str, experiment: str, run: EvaluationRun) -> str:
    """Write one finished run; returns the part of its URL that follows the server's address.

    The experiment is made where there is none. TrackingError, without credentials: MLflow does not take it.
    """
    start, end = int(run.start_time * 1000), int(run.end_time * 1000)
    metrics = [Metric(name, value, end, 0) for name, value in run.metrics.items()]
    params = [Param(name, redact_uri(text)[:MAX_PARAM_CHARS]) for name, text in run.params.items()]
    tags = [RunTag(name, text) for name, text in run.tags.items()]
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, _artifacts(uri))
        run_id = client.create_run(experiment_id, start, run_name=run.name).info.run_id
        client.log_batch(run_id, metrics, params, tags)
        for path in run.files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, "FINISHED", end)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise tracking_error(error, uri) from None
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def _artifacts(uri: str) -> str | None:
    """Beside a SQLite file, where MLflow would take the current folder; elsewhere the server or store decides."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "mlflow-artifacts").as_uri()

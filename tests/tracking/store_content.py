"""Everything an MLflow store holds of a sweep, as plain values that can be compared."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts


def content(uri: str, *, with_ids: bool) -> dict[str, Any]:
    """Experiments, runs with full metric histories, artifacts and models; `with_ids` also MLflow's own identifiers."""
    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        models = {model.model_id: model for model in client.search_logged_models([experiment.experiment_id])}
        runs = client.search_runs([experiment.experiment_id], max_results=5000)
        found[experiment.name] = {
            "tags": experiment.tags,
            "runs": sorted((_run(client, run, models, with_ids) for run in runs), key=lambda run: run["name"]),
            "models": sorted((_model(model, with_ids) for model in models.values()), key=lambda model: model["name"]),
        }
    return found


def _run(client: MlflowClient, run: Any, models: dict[str, Any], with_ids: bool) -> dict[str, Any]:
    points = {
        key: sorted((m.step, m.timestamp, repr(m.value)) for m in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }
    outputs = [model.model_id for model in run.outputs.model_outputs]
    return {
        "id": run.info.run_id if with_ids else None,
        "name": run.info.run_name,
        "status": run.info.status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": run.data.params,
        "tags": run.data.tags,
        "points": points,
        "inputs": sorted(
            (one.dataset.name, one.dataset.digest, one.dataset.source_type, one.dataset.profile, one.tags[0].value)
            for one in run.inputs.dataset_inputs
        ),
        "outputs": outputs if with_ids else [models[name].name for name in outputs if name in models],
        "artifacts": {
            file.path: Path(
                download_artifacts(run_id=run.info.run_id, artifact_path=file.path, tracking_uri=uri)
            ).read_text()
            for uri in [client.tracking_uri]
            for file in client.list_artifacts(run.info.run_id)
        },
    }


def _model(model: Any, with_ids: bool) -> dict[str, Any]:
    metrics = sorted((m.key, m.step, m.timestamp, m.value, m.dataset_name or "") for m in model.metrics or [])
    identity = model.model_id if with_ids else None
    tags = dict(model.tags)
    return {"id": identity, "name": model.name, "status": str(model.status), "tags": tags, "metrics": metrics}


def registered(uri: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Registered models: the trial of each version, and the aliases that lead to it."""
    client = MlflowClient(uri)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for model in client.search_registered_models():
        aliases = client.get_registered_model(model.name).aliases
        versions = client.search_model_versions(f"name = '{model.name}'")
        found[model.name] = {
            version.tags["lethe.trial_key"]: tuple(
                sorted(a for a, n in aliases.items() if str(n) == str(version.version))
            )
            for version in versions
        }
    return found

"""The winners of a sweep in MLflow's model registry: a registered model for each forget set, found by aliases.

A version's files are one `MLmodel` that says where the weights are; they are not copied. So a version is loaded in the
same way whether they are in a folder or in a store, adapters or whole models, and whether MLflow has a server or not (a
server refuses versions whose files are in a folder of another machine).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from orchestrator.tracking.mlflow_page import MLMODEL

ALIASES = ("pareto-knee", "best-utility", "best-forgetting")
_MODEL = "lethe.model_id"  # MLflow leaves out a version's own model_id when it is asked for it
_MISSING = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


@dataclass(frozen=True, slots=True)
class Winner:
    """A trial with its logged model and run; `mlmodel` is what its file of that name holds."""

    aliases: tuple[str, ...]
    model_id: str
    run_id: str
    mlmodel: dict[str, Any]
    description: str
    tags: Mapping[str, str]


def registered_name(client: MlflowClient, base: str, owner: Mapping[str, str]) -> str:
    """`base`, or with a number where that is another sweep's; a model is a sweep's if it has the tags of `owner`."""
    for number in count(1):
        name = base if number == 1 else f"{base}-{number}"
        found = _find(client, name)
        if found is None or owner.items() <= found.tags.items():
            return name
    raise AssertionError("count() ended")


def register(client: MlflowClient, name: str, tags: Mapping[str, str], text: str, winners: Sequence[Winner]) -> None:
    """Make the registered model show these winners and no others. Aliases of somebody else stay while weights do."""
    model = _find(client, name)
    if model is None:
        if not winners:
            return
        model = client.create_registered_model(name, dict(tags), text)
    elif model.description != text:
        client.update_registered_model(name, text)
    wanted = {winner.model_id: winner for winner in winners}
    known = {version.tags.get(_MODEL): version for version in client.search_model_versions(f"name = '{name}'")}
    others = set(model.aliases) - set(ALIASES)
    for model_id, version in known.items():
        named = {alias for alias in others if str(model.aliases[alias]) == str(version.version)}
        if model_id not in wanted and not (named and model_id and _is_there(client, model_id)):
            client.delete_model_version(name, version.version)
    places = {alias: _version(client, name, winner, known) for winner in winners for alias in winner.aliases}
    for alias in ALIASES:
        if alias in places and str(model.aliases.get(alias)) != places[alias]:
            client.set_registered_model_alias(name, alias, places[alias])
    for alias in set(ALIASES) & set(model.aliases) - set(places):
        client.delete_registered_model_alias(name, alias)


def _version(client: MlflowClient, name: str, winner: Winner, known: dict[str | None, ModelVersion]) -> str:
    """The number of a winner's version, made where there is none. Its file is written again: the weights may move."""
    with tempfile.TemporaryDirectory() as folder:
        # JSON is YAML too.
        (Path(folder) / MLMODEL).write_text(json.dumps(winner.mlmodel, indent=2) + "\n", encoding="utf-8")
        client.log_model_artifacts(winner.model_id, folder)
    version = known.get(winner.model_id)
    if version is None:
        version = known[winner.model_id] = client.create_model_version(
            name,
            client.get_logged_model(winner.model_id).artifact_location,
            winner.run_id,
            {_MODEL: winner.model_id, **winner.tags},
            description=winner.description,
            model_id=winner.model_id,
        )
    elif version.description != winner.description:
        client.update_model_version(name, version.version, winner.description)
    return str(version.version)


def _find(client: MlflowClient, name: str) -> RegisteredModel | None:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        return None


def _is_there(client: MlflowClient, model_id: str) -> bool:
    """Whether a logged model was not deleted, as it is when its weights are."""
    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        return False
    return True

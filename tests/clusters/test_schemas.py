"""Kubernetes files against KubeRay's own schemas, and mistakes that these find."""

import copy
from functools import cache

import jsonschema
import pytest
import yaml

from tests.clusters.conftest import CLUSTERS, ROOT

SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
pytestmark = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="no ../shared/schemas/kuberay beside the checkout")
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}


def closed(schema):
    """OpenAPI as JSON Schema: Kubernetes drops unknown keys, so they are mistakes; `nullable`; numbers or strings."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    has_keys = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if has_keys and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        found["type"] = [schema["type"], "null"]
    return found


@cache
def validator(kind):
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a megabyte
    with (SCHEMAS / f"ray.io_{PLURALS[kind]}.yaml").open(encoding="utf-8") as file:
        definition = yaml.load(file, Loader=loader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    return jsonschema.Draft7Validator(schema)


def mistakes(document):
    return [f"{error.json_path}: {error.message}" for error in validator(document["kind"]).iter_errors(document)]


@pytest.fixture(params=["kuberay-cluster.yaml", "kuberay-job.yaml"])
def document(request):
    return yaml.safe_load((CLUSTERS / request.param).read_text(encoding="utf-8"))


def test_shipped_files_are_what_kuberay_accepts(document):
    assert document["apiVersion"] == "ray.io/v1"
    assert mistakes(document) == []


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda spec: spec.update(rayVerson="2.60.0"), "'rayVerson' was unexpected"),
        (lambda spec: spec["authOptions"].update(mode="tokn"), "'tokn' is not one of ['disabled', 'token']"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="2"), "'2' is not of type 'integer'"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("template"), "'template' is a required property"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda spec: spec["autoscalerOptions"].update(idleTimeout=60), "'idleTimeout' was unexpected"),
    ],
)
def test_planted_mistakes_are_found(document, plant, said):
    wrong = copy.deepcopy(document)
    plant(wrong["spec"].get("rayClusterSpec", wrong["spec"]))
    assert any(said in mistake for mistake in mistakes(wrong)), mistakes(wrong)


def test_the_volume_is_the_one_that_pods_claim(document):
    (storage,) = yaml.safe_load_all((CLUSTERS / "kuberay-storage.yaml").read_text())
    assert (storage["kind"], storage["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    pod = spec["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == storage["metadata"]["name"]

"""Cluster files, read without a cluster: what a file of Ray's launcher, KubeRay or SLURM offers at its largest."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.load_config import ConfigError
from orchestrator.tuning.resources import ACCELERATOR, Node

Kind = Literal["launcher", "kuberay", "slurm"]
_GPUS = "nvidia.com/gpu"
_QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>m|)")
_DIRECTIVE = re.compile(r"^#SBATCH\s+--(?P<name>[a-z-]+)(=(?P<value>\S+))?", re.MULTILINE)


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file: its text, and for YAML the document that describes the cluster."""

    path: Path
    kind: Kind
    text: str
    document: dict[str, Any]
    num_slots: int | None = None  # of the sweep that is planned for it; none: one for each GPU

    @property
    def ray_cluster(self) -> dict[str, Any]:
        """KubeRay's description of the cluster, also where a RayJob holds it."""
        spec = self.document.get("spec", {})
        found = spec.get("rayClusterSpec", spec) if self.document.get("kind") == "RayJob" else spec
        return found if isinstance(found, dict) else {}

    @property
    def directives(self) -> dict[str, str]:
        """SLURM's #SBATCH lines, `--name=value`; without a value "" ."""
        return {found["name"]: found["value"] or "" for found in _DIRECTIVE.finditer(self.text)}


def read_cluster_file(path: Path | str) -> ClusterFile:
    """ConfigError: no such file, no YAML, or nothing in it that describes a cluster."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"--cluster: cannot read {path} ({reason}); name a file like those in clusters/") from error
    if "#SBATCH" in text:
        return ClusterFile(path, "slurm", text, {})
    try:
        documents = [found for found in yaml.safe_load_all(text) if isinstance(found, dict)]
    except yaml.YAMLError as error:
        raise ConfigError(f"--cluster: {path} is no YAML ({' '.join(str(error).split())}); correct it") from error
    for document in documents:
        if "provider" in document:
            return ClusterFile(path, "launcher", text, document)
        if document.get("kind") in ("RayCluster", "RayJob"):
            return ClusterFile(path, "kuberay", text, document)
    raise ConfigError(
        f"--cluster: {path} describes no cluster; name a file of Ray's launcher (with `provider`), of KubeRay (kind "
        "RayCluster or RayJob) or of SLURM (with #SBATCH lines)"
    )


def nodes_at_maximum(file: ClusterFile) -> list[Node]:
    """The nodes that there are when the cluster is as large as it gets. ConfigError: a number is missing or none."""
    match file.kind:
        case "launcher":
            return _launcher_nodes(file)
        case "kuberay":
            return _kuberay_nodes(file)
        case "slurm":
            return _slurm_nodes(file)


def _launcher_nodes(file: ClusterFile) -> list[Node]:
    """The head, and workers by priority until `max_workers` is reached, as the autoscaler would add them."""
    if _mapping(file, file.document.get("provider"), "provider").get("type") == "local":
        return _own_hosts(file)
    types = _mapping(file, file.document.get("available_node_types"), "available_node_types")
    head = file.document.get("head_node_type")
    if not isinstance(head, str) or head not in types:
        raise _error(file, "head_node_type", head, f"name one of {', '.join(types)}")
    workers = [(name, _mapping(file, types[name], f"available_node_types.{name}")) for name in types if name != head]
    largest = _whole(file, file.document.get("max_workers"), "max_workers")
    nodes = [_launcher_node(file, head, types[head])]
    for name, worker in sorted(workers, key=lambda found: -found[1].get("priority", 0)):
        number = _whole(file, worker.get("max_workers", largest), f"available_node_types.{name}.max_workers")
        nodes += [_launcher_node(file, name, worker)] * min(number, largest + 1 - len(nodes))
    return nodes


def _launcher_node(file: ClusterFile, name: str, node_type: Mapping[str, Any]) -> Node:
    key = f"available_node_types.{name}.resources"
    offered = _mapping(file, node_type.get("resources"), key)
    return Node(
        _number(file, offered.get("CPU"), f"{key}.CPU"),
        _number(file, offered.get("GPU", 0), f"{key}.GPU"),
        _accelerators(offered),
    )


def _accelerators(offered: Mapping[str, Any]) -> frozenset[str]:
    """Those that the autoscaler knows of before a node is there: what is not written down is never asked for."""
    return frozenset(name.removeprefix(ACCELERATOR) for name in offered if str(name).startswith(ACCELERATOR))


def _own_hosts(file: ClusterFile) -> list[Node]:
    """Ray finds out what its own hosts have when it starts there; `metadata.worker` says it beforehand."""
    hosts = file.document["provider"].get("worker_ips")
    if not isinstance(hosts, list):
        raise _error(file, "provider.worker_ips", hosts, "list the addresses of the workers")
    metadata = _mapping(file, file.document.get("metadata"), "metadata")
    offered = _mapping(file, metadata.get("worker"), "metadata.worker")
    number = _whole(file, file.document.get("max_workers", len(hosts)), "max_workers")
    worker = Node(
        _number(file, offered.get("CPU"), "metadata.worker.CPU"),
        _number(file, offered.get("GPU", 0), "metadata.worker.GPU"),
    )
    return [Node(0, 0), *[worker] * min(number, len(hosts))]


def is_spot(group: Mapping[str, Any]) -> bool:
    """A worker group says by its name that its nodes may be taken away: clouds have labels of their own for that."""
    return "spot" in str(group.get("groupName"))


def placeless(group: Mapping[str, Any]) -> dict[str, Any]:
    """A worker group's pods, but for where they land: alike in the two groups of a pair."""
    spec = dict((group.get("template") or {}).get("spec") or {})
    for key in ("nodeSelector", "tolerations", "affinity"):
        spec.pop(key, None)
    return {"spec": spec, "started": group.get("rayStartParams"), "resources": group.get("resources")}


def _kuberay_nodes(file: ClusterFile) -> list[Node]:
    """The head and every worker group at its largest; of a pair of spot and on-demand groups the larger alone.

    The autoscaler knows no limit over all groups: it would start both of a pair for what both can hold.
    """
    spec = file.ray_cluster
    nodes = [_pod(file, _mapping(file, spec.get("headGroupSpec"), "headGroupSpec"), "headGroupSpec")]
    groups = spec.get("workerGroupSpecs")
    if not isinstance(groups, list) or not groups:
        raise _error(file, "workerGroupSpecs", groups, "give at least one worker group")
    alike: dict[str, dict[bool, list[Node]]] = {}
    for index, group in enumerate(groups):
        key = f"workerGroupSpecs[{index}]"
        found = _mapping(file, group, key)
        number = _whole(file, found.get("maxReplicas"), f"{key}.maxReplicas")
        number *= _whole(file, found.get("numOfHosts", 1), f"{key}.numOfHosts")
        pods = alike.setdefault(json.dumps(placeless(found), sort_keys=True, default=str), {False: [], True: []})
        pods[is_spot(found)] += [_pod(file, found, key)] * number
    for pods in alike.values():
        nodes += pods[len(pods[True]) > len(pods[False])]
    return nodes


def _pod(file: ClusterFile, group: Mapping[str, Any], key: str) -> Node:
    """As KubeRay and Ray's autoscaler read it: whole CPUs and GPUs, the group's own `resources` before all else."""
    own, started = group.get("resources") or {}, group.get("rayStartParams") or {}
    container = f"{key}.template.spec.containers[0].resources"
    try:
        asked = group["template"]["spec"]["containers"][0]["resources"]
    except (KeyError, IndexError, TypeError):
        asked = {}

    def amount(resource: str, option: str, name: str) -> float:
        places = {
            f"{key}.resources.{resource}": own.get(resource),
            f"{key}.rayStartParams.{option}": started.get(option),
            f"{container}.limits.{name}": (asked.get("limits") or {}).get(name),
            f"{container}.requests.{name}": (asked.get("requests") or {}).get(name),
        }
        given = [(where, value) for where, value in places.items() if value is not None]
        where, value = given[0] if given else (f"{container}.limits.{name}", 0 if resource == "GPU" else None)
        return math.ceil(_number(file, value, where))

    cpus, gpus = amount("CPU", "num-cpus", "cpu"), amount("GPU", "num-gpus", _GPUS)
    return Node(cpus, gpus, _accelerators(own or _started_resources(file, started, key)))


def _started_resources(file: ClusterFile, started: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    try:  # a JSON text in quotes, as `ray start --resources` gets it from a shell
        offered = json.loads(json.loads(started.get("resources", '"{}"')))
    except (ValueError, TypeError):
        offered = None
    if not isinstance(offered, Mapping):
        remedy = r"""write it as '"{\"accelerator_type:A100\": 1}"'"""
        raise _error(file, f"{key}.rayStartParams.resources", started["resources"], remedy)
    return offered


def _slurm_nodes(file: ClusterFile) -> list[Node]:
    """The nodes of the job are all alike; the head runs beside workers on the first."""
    asked = file.directives
    number = _whole(file, asked.get("nodes", "").split("-")[-1], "#SBATCH --nodes")
    cpus = _number(file, asked.get("cpus-per-task"), "#SBATCH --cpus-per-task")
    gpus = asked.get("gpus-per-node") or asked.get("gres", "gpu:0")
    return [Node(cpus, _number(file, gpus.split(":")[-1], "#SBATCH --gres"))] * number


def _mapping(file: ClusterFile, value: object, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _error(file, key, value, "write a mapping of names to values there")
    return value


def _number(file: ClusterFile, value: object, key: str) -> float:
    found = _QUANTITY.fullmatch(str(value)) if not isinstance(value, bool) else None
    if not found:
        raise _error(file, key, value, "write how many one node has, such as 8")
    return float(found["number"]) / (1000 if found["unit"] == "m" else 1)


def _whole(file: ClusterFile, value: object, key: str) -> int:
    number = _number(file, value, key)
    if number != math.floor(number):
        raise _error(file, key, value, "write a whole number")
    return int(number)


def _error(file: ClusterFile, key: str, value: object, remedy: str) -> ConfigError:
    said = "is missing" if value is None or value == "" else f"is {value!r}"
    return ConfigError(f"--cluster: {file.path}: {key} {said}; {remedy}")

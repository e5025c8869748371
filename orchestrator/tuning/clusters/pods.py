"""Checks of KubeRay's RayCluster and RayJob, beyond what their schemas say."""

import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.load_config import ConfigError
from orchestrator.tuning.clusters.files import ClusterFile, is_spot, placeless
from orchestrator.tuning.clusters.launcher import slots_at_maximum, too_small_head
from orchestrator.tuning.resources import ACCELERATOR

_ALLOCATE = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
_USER = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}  # the image's
_GIB = {"Gi": 1.0, "G": 1e9 / 2**30, "Mi": 1 / 1024, "Ti": 1024.0}


def _head(file: ClusterFile) -> dict[str, Any]:
    found = file.ray_cluster.get("headGroupSpec")
    return found if isinstance(found, dict) else {}


def _groups(file: ClusterFile) -> list[dict[str, Any]]:
    found = file.ray_cluster.get("workerGroupSpecs")
    return [group for group in found if isinstance(group, dict)] if isinstance(found, list) else []


def _pods(file: ClusterFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of Ray by the key that holds them."""
    for key, group in (("headGroupSpec", _head(file)), *((str(g.get("groupName")), g) for g in _groups(file))):
        spec = group.get("template", {}).get("spec", {})
        if spec.get("containers"):
            yield key, spec


def ray_version(file: ClusterFile) -> Iterator[str]:
    """KubeRay does what this version of Ray needs; the image has the version of requirements.lock."""
    written, installed = file.ray_cluster.get("rayVersion"), importlib.metadata.version("ray")
    if written != installed:
        yield f"rayVersion is {written!r}; write '{installed}', as in requirements.lock and the image"


def token_everywhere(file: ClusterFile) -> Iterator[str]:
    """Whoever reaches Ray's ports runs code, unless it asks for a token; KubeRay gives every container the Secret's."""
    options = file.ray_cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        yield f"authOptions.mode is {options.get('mode')!r}; write token, or Ray asks nobody for one"
    if not options.get("secretName"):
        yield "authOptions.secretName is missing; name the Secret that holds the token"


def head_gives_nothing(file: ClusterFile) -> Iterator[str]:
    """Training on the head would take the memory that the trainables need."""
    started, own = _head(file).get("rayStartParams") or {}, _head(file).get("resources") or {}
    for name, resource in (("num-cpus", "CPU"), ("num-gpus", "GPU")):
        if str(started.get(name)) != "0":
            yield f"headGroupSpec.rayStartParams.{name} is {started.get(name)!r}; write '0': no worker lands there"
        if str(own.get(resource, 0)) != "0":
            yield f"headGroupSpec.resources.{resource} is {own[resource]!r}; write '0': no worker lands there"


def _head_limit(file: ClusterFile) -> str:
    containers = _head(file).get("template", {}).get("spec", {}).get("containers") or [{}]
    return str(containers[0].get("resources", {}).get("limits", {}).get("memory"))


def head_memory_gib(file: ClusterFile) -> float | None:
    """None where the limit is missing, or written otherwise than 32Gi."""
    found = re.fullmatch(rf"(\d+)({'|'.join(_GIB)})", _head_limit(file))
    return float(found[1]) * _GIB[found[2]] if found else None


def head_size(file: ClusterFile) -> Iterator[str]:
    """Each slot has its trainable and actors on the head; a pod over its limit is killed."""
    memory = head_memory_gib(file)
    if memory is None:
        yield f"headGroupSpec: the limit of memory is {_head_limit(file)}; write it as 32Gi"
        return
    try:
        yield from too_small_head(memory, slots_at_maximum(file))
    except ConfigError as error:
        yield str(error)


def workers_from_zero(file: ClusterFile) -> Iterator[str]:
    """GPU nodes that nobody asked for cost money."""
    for group in _groups(file):
        for key in ("replicas", "minReplicas"):
            if group.get(key) != 0:
                yield f"{group.get('groupName')}.{key} is {group.get(key)!r}; write 0: pods come when trials wait"


def idle_nodes_end(file: ClusterFile) -> Iterator[str]:
    """Pods come and go with the trials."""
    if file.ray_cluster.get("enableInTreeAutoscaling") is not True:
        yield "enableInTreeAutoscaling is not true; no worker would ever start"
    options = file.ray_cluster.get("autoscalerOptions") or {}
    seconds = options.get("idleTimeoutSeconds")
    if not isinstance(seconds, int) or not 0 < seconds <= 3600:
        yield f"autoscalerOptions.idleTimeoutSeconds is {seconds!r}; write seconds between 60 and 3600"
    if options.get("version") != "v2":
        yield f"autoscalerOptions.version is {options.get('version')!r}; write v2, the one that knows priorities"
    waits = [one.get("value") for one in options.get("env") or [] if one.get("name") == _ALLOCATE]
    if not waits or not str(waits[0]).isdigit() or int(waits[0]) > 1800:
        yield (
            f"autoscalerOptions.env: {_ALLOCATE} is {waits[0] if waits else None!r}; write seconds up to 1800, after "
            "which a pod that stays pending makes room for the other group"
        )


def spot_with_on_demand(file: ClusterFile) -> Iterator[str]:
    """Two groups that differ in where their pods may land, the cheaper one first."""
    groups = _groups(file)
    spot = [group for group in groups if is_spot(group)]
    others = [group for group in groups if group not in spot]
    if not spot or not others:
        yield "workerGroupSpecs: there is no pair of groups for spot and on-demand nodes; add the other"
        return
    if min(group.get("priority", 0) for group in spot) <= max(group.get("priority", 0) for group in others):
        yield "workerGroupSpecs: priority of the spot group is not above the other's; spot nodes come first then"
    if placeless(spot[0]) != placeless(others[0]):
        yield "workerGroupSpecs: the groups differ in more than where their pods land; make their templates alike"


def gpu_nodes(file: ClusterFile) -> Iterator[str]:
    """Workers ask for GPUs, and say of which kind."""
    for group in _groups(file):
        name, spec = group.get("groupName"), group.get("template", {}).get("spec", {})
        limits = (spec.get("containers") or [{}])[0].get("resources", {}).get("limits", {})
        if not int(limits.get("nvidia.com/gpu") or 0):
            yield f"{name}: no nvidia.com/gpu in the limits of its container; workers would have no GPU"
        if ACCELERATOR not in str(group.get("resources") or (group.get("rayStartParams") or {}).get("resources")):
            yield f"{name}: rayStartParams.resources names no {ACCELERATOR}, so resources.accelerator_type finds none"
        if not spec.get("nodeSelector"):
            yield f"{name}: nodeSelector is missing; a pod may land on GPUs of another kind"


def shared_storage(file: ClusterFile) -> Iterator[str]:
    """Head and workers see one volume, beneath the path that the sweep is given."""
    claims = set()
    for key, spec in _pods(file):
        all_volumes = spec.get("volumes") or []
        volumes = {one.get("name"): one.get("persistentVolumeClaim", {}).get("claimName") for one in all_volumes}
        mounts = spec["containers"][0].get("volumeMounts") or []
        found = {(volumes[one["name"]], one.get("mountPath")) for one in mounts if volumes.get(one.get("name"))}
        if not found:
            yield f"{key}: mounts no persistentVolumeClaim; checkpoints would end with the pod"
        claims.add(frozenset(found))
    if len(claims) > 1:
        yield "head and workers mount different claims or paths; write the same"


def no_public_address(file: ClusterFile) -> Iterator[str]:
    """Reached by `kubectl port-forward` alone."""
    service = _head(file).get("serviceType")
    if service != "ClusterIP":
        yield f"headGroupSpec.serviceType is {service!r}; write ClusterIP"
    if _head(file).get("enableIngress"):
        yield "headGroupSpec.enableIngress is true; remove it: the dashboard runs what it is sent"
    for key, spec in _pods(file):
        if spec.get("hostNetwork"):
            yield f"{key}: hostNetwork opens Ray's ports on the machine; remove it"


def without_root(file: ClusterFile) -> Iterator[str]:
    """As the image's user, who owns the volume's files; a pod that ended is not started again with old state."""
    for key, spec in _pods(file):
        context = spec.get("securityContext") or {}
        if not _USER.items() <= context.items():
            yield f"{key}: securityContext is {context}; write {{runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000}}"
        if spec["containers"][0].get("securityContext", {}).get("privileged"):
            yield f"{key}: the container is privileged; remove that"
        if spec.get("restartPolicy") != "Never":
            yield f"{key}: restartPolicy is {spec.get('restartPolicy')!r}; write Never, which the autoscaler needs"


def notice_is_passed_on(file: ClusterFile) -> Iterator[str]:
    """A pod that is asked to stop tells Ray, and leaves trials the time to save themselves."""
    for group in _groups(file):
        spec = group.get("template", {}).get("spec", {})
        container = (spec.get("containers") or [{}])[0]
        command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command") or []
        if "orchestrator.tuning.notice now" not in " ".join(str(word) for word in command):
            yield f"{group.get('groupName')}: preStop does not run python -m orchestrator.tuning.notice now; add it"
        if int(spec.get("terminationGracePeriodSeconds") or 30) < 60:
            yield f"{group.get('groupName')}: terminationGracePeriodSeconds is under 60; trials save themselves in it"


def job_goes_on(file: ClusterFile) -> Iterator[str]:
    """A job that is tried again repeats one command, which goes on where the last attempt ended."""
    if file.document.get("kind") != "RayJob":
        return
    spec = file.document["spec"]
    if "orchestrator.sweep" not in str(spec.get("entrypoint")) or "--resume " not in str(spec.get("entrypoint")):
        yield "spec.entrypoint: python -m orchestrator.sweep SWEEP --resume PLACE is what can be repeated; write that"
    if not spec.get("backoffLimit"):
        yield "spec.backoffLimit is 0; write how often the sweep goes on after a lost head, such as 3"
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "spec.shutdownAfterJobFinishes is not true; the head would stay, and cost, when the sweep is done"


CHECKS = (
    ray_version,
    token_everywhere,
    head_gives_nothing,
    head_size,
    workers_from_zero,
    idle_nodes_end,
    spot_with_on_demand,
    gpu_nodes,
    shared_storage,
    no_public_address,
    without_root,
    notice_is_passed_on,
    job_goes_on,
)

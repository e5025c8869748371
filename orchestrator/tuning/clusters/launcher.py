"""Checks of files for Ray's cluster launcher: AWS, Google Cloud, Azure and own hosts."""

import copy
import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.load_config import ConfigError
from orchestrator.tuning.clusters.files import ClusterFile, nodes_at_maximum
from orchestrator.tuning.clusters.machines import MACHINES, NODE_KEYS, PROVIDER_KEYS, REGIONS
from orchestrator.tuning.spot import on_demand

TOKEN = "~/.ray/auth_token"
# GiB on the head: of a slot's processes (docs/scale.md), and of Ray, autoscaler, driver and MLflow beside them.
SLOT_GIB, HEAD_GIB = 0.75, 6
_LONGEST_IDLE_MINUTES = 60


def _cloud(document: Mapping[str, Any]) -> str:
    """aws, gcp, azure or local; what else a file names is returned as it is."""
    provider = document["provider"]
    kind = str(provider.get("type"))
    module = str(provider.get("module", ""))
    return module.rpartition(".")[2].lower() if module.startswith("orchestrator.tuning.spot.") else kind


def _types(document: Mapping[str, Any], *, head: bool = False) -> dict[str, dict[str, Any]]:
    """Node types that are complete enough to look into; only the head's, or only the workers'."""
    types = document.get("available_node_types")
    found = types.items() if isinstance(types, dict) else ()
    head_type = document.get("head_node_type")
    return {name: kind for name, kind in found if isinstance(kind, dict) and (name == head_type) == head}


def _nearest(word: str, known: set[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def ray_schema(file: ClusterFile) -> Iterator[str]:
    """What Ray itself says of the file, before it starts anything."""
    from ray.autoscaler._private import cli_logger  # noqa: PLC0415  (seconds to import)
    from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: PLC0415

    silent: Any = cli_logger.cli_logger
    silent.configure(verbosity=-1)  # it prints what it raises
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.ERROR)  # of keys that it added itself
    try:
        validate_config(prepare_config(copy.deepcopy(file.document)))
    except Exception as error:  # whatever comes first: schema errors, KeyError, AssertionError, ClickException
        where = ".".join(str(part) for part in getattr(error, "absolute_path", ()))
        yield f"Ray says: {where + ': ' if where else ''}{(str(error).splitlines() or [type(error).__name__])[0]}"


def provider_keys(file: ClusterFile) -> Iterator[str]:
    """Keys that the provider does not know are ignored by Ray."""
    cloud = _cloud(file.document)
    if cloud not in PROVIDER_KEYS:
        known = ", ".join(sorted(PROVIDER_KEYS))
        yield f"provider.type is {cloud!r}; known are {known}, or a class of orchestrator.tuning.spot"
        return
    for key in file.document["provider"]:
        if key not in PROVIDER_KEYS[cloud]:
            yield f"provider.{key} is no key of {cloud}; {_nearest(str(key), PROVIDER_KEYS[cloud])}"


def node_config_keys(file: ClusterFile) -> Iterator[str]:
    """Keys that the cloud does not know fail when a node is asked for, not before."""
    cloud = _cloud(file.document)
    for name, kind in {**_types(file.document), **_types(file.document, head=True)}.items():
        config = kind.get("node_config")
        levels: dict[str, Any] = {cloud: config} if isinstance(config, dict) else {}
        if cloud == "azure" and isinstance(config, dict):
            levels["azure_arm_parameters"] = config.get("azure_arm_parameters")
        for level, values in levels.items():
            known = NODE_KEYS.get(level, set())
            for key in values if isinstance(values, dict) and known else ():
                if key not in known:
                    yield f"available_node_types.{name}.node_config: no key {key}; {_nearest(str(key), known)}"


def places(file: ClusterFile) -> Iterator[str]:
    """Regions that the cloud has, and a zone of the region."""
    provider, cloud = file.document["provider"], _cloud(file.document)
    if cloud not in REGIONS:
        return
    key = "location" if cloud == "azure" else "region"
    region, zone = str(provider.get(key)), str(provider.get("availability_zone"))
    if region not in REGIONS[cloud]:
        yield f"provider.{key} is {region!r}, no {key} of {cloud} that is known; {_nearest(region, REGIONS[cloud])}"
    if cloud == "gcp" and not re.fullmatch(rf"{re.escape(region)}-[a-f]", zone):
        yield f"provider.availability_zone is {zone!r}; name a zone of provider.region={region}"


def _machine(kind: Mapping[str, Any]) -> str:
    config = kind.get("node_config") or {}
    config = config.get("azure_arm_parameters", config)
    return str(config.get("InstanceType") or config.get("machineType") or config.get("vmSize"))


def machine_types(file: ClusterFile) -> Iterator[str]:
    """Machines that the cloud has, with the resources that they have: too many, and trials wait for ever."""
    known = MACHINES.get(_cloud(file.document), {})
    if not known:
        return
    for name, kind in {**_types(file.document), **_types(file.document, head=True)}.items():
        machine = _machine(kind)
        if machine not in known:
            yield f"available_node_types.{name}: no machine type {machine}; {_nearest(machine, set(known))}"
        elif name != file.document.get("head_node_type"):
            has, offered = known[machine], kind.get("resources") or {}
            if offered != has.resources:
                yield (
                    f"available_node_types.{name}.resources is {offered}, but {machine} has {has.resources}; write that"
                )


def disk_types(file: ClusterFile) -> Iterator[str]:
    """A disk that the machine does not take, or of another zone, fails when a node is asked for."""
    provider = file.document["provider"]
    zone = f"projects/{provider.get('project_id')}/zones/{provider.get('availability_zone')}/diskTypes/"
    for name, kind in _types(file.document).items():
        for disk in (kind.get("node_config") or {}).get("disks") or []:
            written = (disk.get("initializeParams") or {}).get("diskType")
            if written is None and _machine(kind).startswith("a3-"):
                yield f"available_node_types.{name}: a3 takes no pd-standard; write diskType: {zone}pd-balanced"
            if written is not None and not written.startswith(zone):
                yield f"available_node_types.{name}: diskType is {written}; write one of {zone}"


def head_gives_nothing(file: ClusterFile) -> Iterator[str]:
    """Training on the head would take the memory that the trainables need."""
    if _cloud(file.document) == "local":
        started = " ".join(file.document.get("head_start_ray_commands") or [])
        if "--num-cpus=0" not in started or "--num-gpus=0" not in started:
            yield "head_start_ray_commands: give the head --num-cpus=0 --num-gpus=0, so that no worker lands there"
        return
    for name, kind in _types(file.document, head=True).items():
        offered = kind.get("resources") or {}
        if offered.get("CPU") != 0 or offered.get("GPU", 0) != 0:
            yield f"available_node_types.{name}.resources is {offered}; write {{CPU: 0, GPU: 0}} for the head"
        if kind.get("max_workers", 0) != 0:
            yield f"available_node_types.{name}.max_workers is {kind['max_workers']}; write 0: the head is no worker"


def slots_at_maximum(file: ClusterFile) -> int:
    """Those planned, else of one GPU each, or of one CPU where there are none. ConfigError: not to be read."""
    if file.num_slots is not None:
        return file.num_slots
    nodes = nodes_at_maximum(file)
    gpus = sum(node.gpus for node in nodes)
    return int(gpus or sum(node.cpus for node in nodes))


def head_memory_gib(file: ClusterFile) -> float | None:
    """None where the file does not say."""
    if _cloud(file.document) == "local":
        memory = (file.document.get("metadata") or {}).get("head", {}).get("memory_gib")
        return memory if isinstance(memory, int | float) else None
    known = MACHINES.get(_cloud(file.document), {})
    found = [known.get(_machine(kind)) for kind in _types(file.document, head=True).values()]
    return found[0].memory_gib if found and found[0] else None


def too_small_head(memory_gib: float, num_slots: int) -> Iterator[str]:
    """One line where so many slots do not fit into the memory of the head."""
    needed = HEAD_GIB + SLOT_GIB * num_slots
    if memory_gib < needed:
        fitting = int((memory_gib - HEAD_GIB) / SLOT_GIB)
        fewer = f", or set resources.max_concurrent_trials={fitting}" if fitting > 0 else ""
        yield (
            f"the head has {memory_gib:g} GiB, but {num_slots} slots need {HEAD_GIB} + {num_slots} x {SLOT_GIB} = "
            f"{needed:g}; take a larger head{fewer}"
        )


def head_size(file: ClusterFile) -> Iterator[str]:
    """Each slot has its trainable and actors on the head."""
    memory = head_memory_gib(file)
    if memory is None:
        if _cloud(file.document) == "local":
            yield "metadata.head.memory_gib is missing; say how much memory the head has"
        return
    try:
        yield from too_small_head(memory, slots_at_maximum(file))
    except ConfigError as error:
        yield str(error)


def workers_from_zero(file: ClusterFile) -> Iterator[str]:
    """GPU nodes that nobody asked for cost money."""
    if _cloud(file.document) == "local":
        return
    for name, kind in _types(file.document).items():
        number = kind.get("min_workers", 0)
        if number != 0:
            yield f"available_node_types.{name}.min_workers is {number}; write 0: nodes come as trials wait"


def idle_nodes_end(file: ClusterFile) -> Iterator[str]:
    """Nodes without work are given back within an hour."""
    if _cloud(file.document) == "local":
        return
    minutes = file.document.get("idle_timeout_minutes")
    if not isinstance(minutes, int | float) or not 0 < minutes <= _LONGEST_IDLE_MINUTES:
        yield f"idle_timeout_minutes is {minutes!r}; write minutes between 1 and {_LONGEST_IDLE_MINUTES}"


def spot_with_on_demand(file: ClusterFile) -> Iterator[str]:
    """Spot nodes, and the same on demand: a refused spot node is replaced by what differs from it in price alone."""
    if _cloud(file.document) == "local":
        return
    workers = _types(file.document)
    configs = {name: kind.get("node_config") or {} for name, kind in workers.items()}
    spot = {name: plain for name, config in configs.items() if (plain := on_demand(config)) is not None}
    if not spot:
        yield "available_node_types: no worker type is a spot node; add one, with a higher priority"
    for name, plain in spot.items():
        same = [other for other, config in configs.items() if other not in spot and config == plain]
        if not same:
            yield f"available_node_types.{name}: no on-demand type is the same but for the price; add one"
        for other in same:
            if workers[other].get("resources") != workers[name].get("resources"):
                yield f"available_node_types.{other}.resources differs from that of {name}; write the same"
            if workers[other].get("priority", 0) >= workers[name].get("priority", 0):
                yield f"available_node_types.{name}.priority is not above that of {other}; spot nodes come first then"
    if not str(file.document["provider"].get("module", "")).startswith("orchestrator.tuning.spot."):
        yield (
            "provider.module: Ray's own provider asks for a refused spot node again and again; "
            "write type: external and a class of orchestrator.tuning.spot"
        )


def token_everywhere(file: ClusterFile) -> Iterator[str]:
    """Whoever reaches Ray's ports runs code, unless it asks for a token."""
    if TOKEN not in (file.document.get("file_mounts") or {}):
        yield f"file_mounts: {TOKEN} is missing, so nodes have no token; add {TOKEN}: {TOKEN}"
    if "RAY_AUTH_MODE=token" not in " ".join((file.document.get("docker") or {}).get("run_options") or []):
        yield "docker.run_options: --env RAY_AUTH_MODE=token is missing, so Ray asks nobody for a token; add it"


def image_of_containers(file: ClusterFile) -> Iterator[str]:
    """Everything runs in the image; what is installed on top of it has no pinned version."""
    docker = file.document.get("docker") or {}
    if not docker.get("image") or not docker.get("container_name"):
        yield "docker: image or container_name is missing; without them Ray starts on the bare machine"
    keys = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    for key in keys:
        for command in file.document.get(key) or []:
            if "pip install" in command or "uv add" in command:
                yield f"{key}: {command!r} installs what requirements.lock does not pin; build it into the image"


def identity_is_kept(file: ClusterFile) -> Iterator[str]:
    """`ray down` deletes the identity that Ray made, and rights in the cluster's resource group."""
    provider = file.document["provider"]
    if _cloud(file.document) != "azure":
        return
    for key in ("msi_name", "msi_resource_group"):
        if not provider.get(key):
            yield f"provider.{key} is missing; ray down would delete the identity, and its rights on the storage"
    if provider.get("msi_resource_group") == provider.get("resource_group"):
        yield "provider.msi_resource_group is the cluster's, where ray down deletes the identity's rights; take another"


def no_public_address(file: ClusterFile) -> Iterator[str]:
    """Nodes have internal addresses alone, in networks and groups that the user named, and are reached by a tunnel."""
    provider, auth, cloud = file.document["provider"], file.document.get("auth") or {}, _cloud(file.document)
    if cloud == "local":
        return
    if provider.get("use_internal_ips") is not True:
        yield f"provider.use_internal_ips is {provider.get('use_internal_ips')!r}; write true: no public addresses"
    if provider.get("use_external_head_ip"):
        yield "provider.use_external_head_ip is true: the head gets a public address; remove it"
    if not auth.get("ssh_proxy_command"):
        yield "auth.ssh_proxy_command is missing; nodes without a public address are reached through one"
    for name, kind in {**_types(file.document), **_types(file.document, head=True)}.items():
        config, key = kind.get("node_config") or {}, f"available_node_types.{name}.node_config"
        for network in ("SubnetIds", "SecurityGroupIds") if cloud == "aws" else ():
            if not config.get(network):
                yield f"{key}.{network} is missing; Ray's own would open port 22 to all"
        interfaces = config.get("networkInterfaces") or []
        if cloud == "gcp" and not interfaces:
            yield f"{key}.networkInterfaces is missing; Ray's own has a public address"
        if any("accessConfigs" in interface for interface in interfaces):
            yield f"{key}.networkInterfaces: accessConfigs is a public address; remove it"


def notice_is_passed_on(file: ClusterFile) -> Iterator[str]:
    """Without it a spot node vanishes, and its trials lose what they did since their last point."""
    cloud, command = _cloud(file.document), f"python -m orchestrator.tuning.notice {_cloud(file.document)}"
    if cloud in MACHINES and command not in " ".join(file.document.get("worker_start_ray_commands") or []):
        yield f"worker_start_ray_commands: {command} is missing; add it, in the background"


def ray_starts(file: ClusterFile) -> Iterator[str]:
    """The head with an autoscaler, the workers at its address."""
    head = " ".join(file.document.get("head_start_ray_commands") or [])
    workers = " ".join(file.document.get("worker_start_ray_commands") or [])
    if "--autoscaling-config=~/ray_bootstrap_config.yaml" not in head:
        yield "head_start_ray_commands: --autoscaling-config=~/ray_bootstrap_config.yaml is missing; no node comes"
    if "$RAY_HEAD_IP" not in workers:
        yield "worker_start_ray_commands: --address=$RAY_HEAD_IP:6379 is missing; workers would not find the head"
    if not re.search(r"unset OMP_NUM_THREADS\b.*ray start", workers):
        yield "worker_start_ray_commands: write unset OMP_NUM_THREADS; ray start: Ray's launcher sets it to 1"
    if _cloud(file.document) == "local":  # a cloud's group lets its members in by any port
        for key, started in (("head_start_ray_commands", head), ("worker_start_ray_commands", workers)):
            for option in ("--object-manager-port", "--node-manager-port"):
                if not re.search(rf"{option}[= ][1-9]", started):
                    yield f"{key}: {option} is missing; Ray would take a random port, which a firewall keeps shut"


def every_host_starts(file: ClusterFile) -> Iterator[str]:
    """Version 2 of the autoscaler knows no resources of own hosts, and counts the head as one of them."""
    if _cloud(file.document) != "local":
        return
    if "RAY_enable_autoscaler_v2=0 " not in " ".join(file.document.get("head_start_ray_commands") or []):
        yield "head_start_ray_commands: write RAY_enable_autoscaler_v2=0 ray start --head; v2 leaves a host out"
    hosts = file.document["provider"].get("worker_ips") or []
    for key in ("min_workers", "max_workers"):
        number = file.document.get(key, len(hosts))
        if number != len(hosts):
            yield f"{key} is {number}, but there are {len(hosts)} worker_ips; remove it: Ray then starts on all of them"


CHECKS = (
    ray_schema,
    provider_keys,
    node_config_keys,
    places,
    machine_types,
    disk_types,
    head_gives_nothing,
    head_size,
    workers_from_zero,
    idle_nodes_end,
    spot_with_on_demand,
    token_everywhere,
    image_of_containers,
    identity_is_kept,
    no_public_address,
    notice_is_passed_on,
    ray_starts,
    every_host_starts,
)

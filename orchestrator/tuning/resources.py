"""What fits on a cluster: how many slots run at once, and whether a trial can run at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config import ResourcesConfig
from orchestrator.load_config import ConfigError

ACCELERATOR = "accelerator_type:"  # before an accelerator's name in Ray's resources


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster offers; `accelerators` by Ray's names, None where they are not known."""

    cpus: float
    gpus: float
    accelerators: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How many slots run at once, each with a whole trial's workers."""

    num_slots: int
    workers_per_slot: int
    room_for_workers: int
    room_now: int

    def __str__(self) -> str:
        now = "" if self.room_now == self.room_for_workers else f", now for {self.room_now}"
        return (
            f"{self.num_slots} slot{'s' if self.num_slots > 1 else ''} x {self.workers_per_slot} workers "
            f"(room for {self.room_for_workers} workers{now})"
        )


def plan_slots(resources: ResourcesConfig, nodes: Sequence[Node], num_trials: int) -> Plan:
    """As many slots as fit, are allowed and are of use, now or when the cluster has grown to resources.max_workers.

    ConfigError: not even one trial's workers will ever fit.
    """
    now = sum(_room(resources, node) for node in nodes)
    room = max(now, resources.max_workers or 0)
    if room < resources.workers_per_trial:
        wanted = f"{resources.cpus_per_worker:g} CPU"
        if resources.gpus_per_worker:
            wanted += f" and {resources.gpus_per_worker:g} GPU"
        if resources.accelerator_type:
            known = sorted(set().union(*(node.accelerators or () for node in nodes)))
            wanted += f" on a node with {resources.accelerator_type} (there are: {', '.join(known) or 'none known'})"
        raise ConfigError(
            f"resources.workers_per_trial={resources.workers_per_trial}: a trial needs that many workers with {wanted} "
            f"each, but the cluster ({_describe(nodes)}) has room for {room}; lower resources.workers_per_trial, "
            "resources.cpus_per_worker or resources.gpus_per_worker, or add nodes; where nodes come when they are "
            "asked for, set resources.max_workers to the room there is then"
        )
    fitting = room // resources.workers_per_trial
    slots = min(fitting, num_trials, resources.max_concurrent_trials or fitting)
    return Plan(_that_fill_the_head(max(1, slots)), resources.workers_per_trial, room, now)


def head_share(num_slots: int) -> float:
    """The part of the head node's own resource that one trainable reserves, so that `num_slots` slots fill it."""
    return math.floor(1e4 / num_slots) / 1e4


def _that_fill_the_head(num_slots: int) -> int:
    """The most slots, of up to so many, whose shares leave no room for one more: all up to 100, then some fewer."""
    return next(n for n in range(num_slots, 0, -1) if (n + 1) * round(1e4 * head_share(n)) > 1e4)


def _room(resources: ResourcesConfig, node: Node) -> int:
    wanted = resources.accelerator_type
    if wanted is not None and node.accelerators is not None and wanted not in node.accelerators:
        return 0
    by_cpu = math.floor(node.cpus / resources.cpus_per_worker + 1e-9)
    if not resources.gpus_per_worker:
        return by_cpu
    return min(by_cpu, math.floor(node.gpus / resources.gpus_per_worker + 1e-9))


def _describe(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, {cpus:g} CPUs, {gpus:g} GPUs"

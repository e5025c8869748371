"""What runs on the Ray Train workers of a slot: take a job, run it, send what it reports; again until told to stop."""

import errno
import gc
import os
import resource
import socket
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device

from orchestrator.storage import StorageError, is_uri
from orchestrator.tracking.journal import RungReached, TrialTaken
from orchestrator.tracking.pump import redact_uri
from orchestrator.worker.engine import import_deepspeed, leave_process_group, start_process_group
from orchestrator.worker.hub import HubError
from orchestrator.worker.job import TrialJob
from orchestrator.worker.parts import WorkerParts, phase_of
from orchestrator.worker.resume import PreemptedError
from orchestrator.worker.trial import Told, run_trial


def serve(mailbox: Any, hang_seconds: float) -> None:
    """Train function of a slot: run jobs until there are no more.

    `mailbox` is the actor that jobs come from and records go to; a rank that waits longer than `hang_seconds` for
    another gives up.
    """
    import_deepspeed()
    device = get_device()
    _join_group(device, hang_seconds)
    parts, rank = WorkerParts(device), dist.get_rank()
    for sequence, job in jobs(mailbox):
        if _is_leaving():
            ray.get(mailbox.leave.remote(sequence))
            return
        if rank == 0:
            ray.get(mailbox.push.remote(sequence, TrialTaken(key=job.key).model_dump_json()))
        try:
            result = run_trial(job, parts, partial(_send, mailbox, sequence), _is_leaving, partial(_goes_on, mailbox))
        except PreemptedError:  # all ranks together
            ray.get(mailbox.leave.remote(sequence))
            return
        except Exception as error:
            # The other ranks may wait for this one in a collective, so the group cannot go on; say why before it ends.
            # A rank that only lost its peer does not know why: the peer says so, or it died and the trial starts again.
            if not _lost_a_peer(error):
                retry, hint = _retry(error, job.place)
                reason = f"{type(error).__name__}: {error}{hint}\n{traceback.format_exc()}"
                ray.get(mailbox.fail.remote(sequence, redact_uri(reason), retry))
            raise
        if rank == 0:
            ray.get(mailbox.push.remote(sequence, result.model_dump_json()))
        if gc.get_freeze_count() == 0:
            gc.freeze()  # modules, judges, rows live on: later collections, several a trial, need not look at them
    leave_process_group()


def _join_group(device: torch.device, hang_seconds: float) -> None:
    """Join torch's process group as torchrun would have it; DeepSpeed reads the environment too."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    address, port = broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    if device.type == "cuda":
        torch.cuda.set_device(device)
    start_process_group(rank, context.get_world_size(), "env://", device.type, timedelta(seconds=hang_seconds))


def _free_address() -> tuple[str, int]:
    node: Any = ray.util
    address: str = node.get_node_ip_address()
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        return address, server.getsockname()[1]


def jobs(mailbox: Any) -> Iterator[tuple[int, TrialJob]]:
    """Jobs and their sequence numbers, as the mailbox gets them, until it says that there are no more."""
    done = 0
    while True:
        sequence, text = ray.get(mailbox.next_job.remote(done))
        if sequence < 0:
            return
        if text is not None:
            done = sequence
            yield sequence, TrialJob.model_validate_json(text)


def _is_leaving() -> bool:
    """Whether the cluster is about to take away a node of this group; all ranks ask together."""
    return ray.train.get_preemption_info() is not None


def _send(mailbox: Any, sequence: int, record: Told) -> None:
    ray.get(mailbox.push.remote(sequence, record.model_dump_json()))


def _goes_on(mailbox: Any, rung: RungReached) -> bool:
    """Wait for the driver's answer."""
    answer: bool | None = None
    while answer is None:
        answer = ray.get(mailbox.goes_on.remote(rung.key, rung.rung))
    return answer


def _lost_a_peer(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _retry(error: Exception, place: str) -> tuple[str, str]:
    """When the trial may succeed, in the words of a slot's TrialFailedError, and what to do."""
    if not isinstance(error, StorageError | HubError):
        return "never", _memory_hint(error)
    # A store may soon be back; a full disk needs somebody, and so does a hub whose client has tried several times.
    at_once = isinstance(error, StorageError) and is_uri(place)
    return "at once" if at_once else "on resume", "; a resumed sweep tries this trial again"


# What torch's allocator says, and what the system does of a file that cannot be mapped.
_NO_MEMORY = ("can't allocate memory", os.strerror(errno.ENOMEM))


def _memory_hint(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        peak = torch.cuda.max_memory_allocated() / 2**30
    elif isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        return ""
    in_training = "lower train.micro_batch_tokens (or train.micro_batch_size), or raise zero.stage"
    in_scoring = "lower evaluation.batch_size"
    remedy = in_scoring if phase_of(error) in ("rungs", "evaluate", "downstream") else in_training
    return f" (peak {peak:.1f} GiB; {remedy})"

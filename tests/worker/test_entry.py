"""Which errors say that a rank lost its peers, not that its trial is at fault."""

import errno
import os
import re
import resource

import pytest
import torch.distributed as dist

from orchestrator.storage import StorageError
from orchestrator.worker.entry import _lost_a_peer, _memory_hint, _retry
from orchestrator.worker.hub import HubError
from orchestrator.worker.parts import Clock


def test_a_broken_connection_is_a_lost_peer():
    assert not _lost_a_peer(ValueError("the settings do not go together"))
    assert not _lost_a_peer(RuntimeError("shape mismatch"))
    assert _lost_a_peer(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
    assert _lost_a_peer(dist.DistBackendError("NCCL communicator was aborted"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
        RuntimeError("unable to mmap 90868376 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_rank_without_memory_says_how_much_it_had_and_what_to_lower(error):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = re.fullmatch(r" \(peak ([0-9.]+) GiB; lower train.micro_batch_tokens .*zero.stage\)", _memory_hint(error))
    assert float(found[1]) == pytest.approx(peak, abs=0.2)
    assert _memory_hint(ValueError("another fault")) == ""


def test_a_rank_without_memory_names_the_key_of_what_it_did():
    clock, error = Clock(), MemoryError()
    with pytest.raises(MemoryError), clock.phase("train"), clock.phase("evaluate"):
        raise error
    assert _memory_hint(error).endswith("lower evaluation.batch_size)")


@pytest.mark.parametrize(
    ("error", "place", "retry"),
    [
        (StorageError(28, "no room"), "/sweep", "on resume"),
        (StorageError(28, "no room"), "s3://bucket/sweep", "at once"),
        (HubError("model: cannot load"), "s3://bucket/sweep", "on resume"),
        (OSError("model.target: no such folder"), "/sweep", "never"),
    ],
)
def test_what_may_succeed_the_next_time_is_tried_again(error, place, retry):
    assert _retry(error, place)[0] == retry

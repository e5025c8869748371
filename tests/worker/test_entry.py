"""Which errors say that a rank lost its peers, not that its trial is at fault."""

import re
import resource

import pytest
import torch.distributed as dist

from orchestrator.worker.engine import join_process_group
from orchestrator.worker.entry import _lost_a_peer, _memory_hint


@pytest.fixture
def group():
    join_process_group()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_that_was_taken_apart_is_a_lost_peer(group):
    fault = ValueError("the settings do not go together")
    assert not _lost_a_peer(fault)
    assert _lost_a_peer(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="process group has not been initialized") as error:
        dist.get_rank()
    assert _lost_a_peer(error.value)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")],
)
def test_a_rank_without_memory_says_how_much_it_had_and_what_to_lower(error):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = re.fullmatch(r" \(peak ([0-9.]+) GiB; lower train.micro_batch_tokens .*zero.stage\)", _memory_hint(error))
    assert float(found[1]) == pytest.approx(peak, abs=0.2)
    assert _memory_hint(ValueError("another fault")) == ""

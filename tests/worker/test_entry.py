"""Which errors say that a rank lost its peers, not that its trial is at fault."""

import pytest
import torch.distributed as dist

from orchestrator.worker.engine import start_process_group
from orchestrator.worker.entry import _lost_a_peer


@pytest.fixture
def group(tmp_path):
    start_process_group(0, 1, f"file://{tmp_path / 'store'}")
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

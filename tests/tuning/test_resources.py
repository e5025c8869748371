"""What fits, and what never will."""

import pytest

from orchestrator.config import ResourcesConfig
from orchestrator.load_config import ConfigError
from orchestrator.tuning.resources import Node, head_share, plan_slots


@pytest.mark.parametrize(
    ("resources", "nodes", "trials", "slots"),
    [
        ({}, [Node(2, 0)], 24, 1),
        ({}, [Node(8, 0)], 24, 4),
        ({}, [Node(8, 0)], 3, 3),
        ({"max_concurrent_trials": 2}, [Node(8, 0)], 24, 2),
        ({"workers_per_trial": 8, "gpus_per_worker": 1}, [Node(96, 8), Node(96, 8)], 24, 2),
        ({"workers_per_trial": 16, "gpus_per_worker": 1}, [Node(96, 8), Node(96, 8)], 24, 1),
        ({"workers_per_trial": 1, "gpus_per_worker": 0.25}, [Node(16, 1)], 24, 4),
        ({"workers_per_trial": 1, "cpus_per_worker": 1.5}, [Node(2, 0), Node(2, 0)], 24, 2),  # no worker spans nodes
    ],
)
def test_slots(resources, nodes, trials, slots):
    assert plan_slots(ResourcesConfig(**resources), nodes, trials).num_slots == slots


@pytest.mark.parametrize(
    ("resources", "room"),
    [({"workers_per_trial": 3}, 2), ({"gpus_per_worker": 1}, 0), ({"workers_per_trial": 1, "cpus_per_worker": 4}, 0)],
)
def test_what_never_fits_is_an_error_with_key_value_and_remedy(resources, room):
    with pytest.raises(ConfigError, match=rf"resources.workers_per_trial=.*room for {room}; lower"):
        plan_slots(ResourcesConfig(**resources), [Node(2, 0)], 10)


def test_only_nodes_with_the_accelerator_that_was_asked_for_count():
    nodes = [Node(8, 0, frozenset()), Node(96, 8, frozenset({"A100"})), Node(96, 8, frozenset({"H100", "GPU"}))]
    asked = {"workers_per_trial": 2, "gpus_per_worker": 1}
    assert plan_slots(ResourcesConfig(**asked), nodes, 24).num_slots == 8
    assert plan_slots(ResourcesConfig(**asked, accelerator_type="H100"), nodes, 24).num_slots == 4
    assert plan_slots(ResourcesConfig(**asked, accelerator_type="H100"), [Node(96, 8)], 24).num_slots == 4  # not known
    with pytest.raises(
        ConfigError, match=r"1 GPU on a node with T4 \(there are: A100, GPU, H100\) each, .* room for 0"
    ):
        plan_slots(ResourcesConfig(**asked, accelerator_type="T4"), nodes, 24)


def test_a_cluster_that_grows_is_planned_for_at_its_largest():
    resources = ResourcesConfig(workers_per_trial=2, gpus_per_worker=1, max_workers=16)
    plan = plan_slots(resources, [Node(0, 0)], 24)  # a head alone
    assert (plan.num_slots, str(plan)) == (8, "8 slots x 2 workers (room for 16 workers, now for 0)")
    grown = plan_slots(resources, [Node(0, 0), *[Node(96, 8)] * 2], 24)
    assert str(grown) == "8 slots x 2 workers (room for 16 workers)"
    assert plan_slots(resources, [Node(96, 8)] * 4, 24).num_slots == 16  # it grew by hand
    with pytest.raises(ConfigError, match="room for 16; lower .*; where nodes come"):
        plan_slots(resources.model_copy(update={"workers_per_trial": 17}), [Node(0, 0)], 24)


@pytest.mark.parametrize(("room", "planned"), [(100, 100), (109, 109), (150, 149), (999, 909), (2000, 2000)])
def test_some_slots_are_left_out_so_that_the_head_is_filled(room, planned):
    plan = plan_slots(ResourcesConfig(workers_per_trial=1), [Node(room, 0)], 10_000)
    assert plan.num_slots == planned


@pytest.mark.parametrize("num_slots", [1, 2, 3, 7, 16, 32, 100, 149, 2000])
def test_slots_fill_the_head(num_slots):
    taken = num_slots * head_share(num_slots)
    assert taken <= 1 + 1e-9
    assert taken + head_share(num_slots) > 1  # no room for one more

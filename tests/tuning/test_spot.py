"""An on-demand node in place of a spot node that the cloud refuses."""

import copy

import pytest
import yaml

from orchestrator.tuning import spot
from tests.clusters.conftest import CLOUDS, CLUSTERS


class Refused(Exception):
    pass


class Cloud:
    """Stands for Ray's provider of a cloud: keeps what it was asked for, and has no spot nodes left after some."""

    def __init__(self, spot_left=0, broken=False):
        self.spot_left, self.broken, self.asked = spot_left, broken, []

    def create_node(self, node_config, tags, count):
        kind = "on-demand" if spot.on_demand(node_config) is None else "spot"
        self.asked.append((kind, count))
        node_config["changed"] = True  # as Ray's providers do
        if self.broken or (kind == "spot" and not self.spot_left):
            raise Refused("InsufficientInstanceCapacity")
        self.spot_left -= kind == "spot"
        return {f"node-{len(self.asked)}": kind}


def node_config(name, kind="worker_spot"):
    return yaml.safe_load((CLUSTERS / name).read_text())["available_node_types"][kind]["node_config"]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_refused_spot_node_is_taken_on_demand(name):
    config = node_config(name)
    before = copy.deepcopy(config)
    provider = spot.with_on_demand(Cloud)(spot_left=1)
    created = provider.create_node(config, {}, 3)
    assert list(created.values()) == ["spot", "on-demand", "on-demand"]
    assert provider.asked == [("spot", 1), ("spot", 1), ("on-demand", 1), ("spot", 1), ("on-demand", 1)]
    assert config == before


@pytest.mark.parametrize("name", CLOUDS)
def test_what_is_taken_instead_is_the_on_demand_type_of_the_file(name):
    assert spot.on_demand(node_config(name)) == node_config(name, "worker_on_demand")
    assert spot.on_demand(node_config(name, "worker_on_demand")) is None
    assert spot.on_demand(node_config(name, "head")) is None


@pytest.mark.parametrize("kind", ["head", "worker_spot"])
def test_another_fault_is_raised(kind):
    provider = spot.with_on_demand(Cloud)(broken=True)
    with pytest.raises(Refused):
        provider.create_node(node_config("aws-g5.yaml", kind), {}, 1)
    assert len(provider.asked) == (1 if kind == "head" else 2)


def test_a_class_is_made_for_a_cloud_whose_library_is_there():
    boto3 = pytest.importorskip("boto3", reason="no boto3; the image has it")
    assert boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.loader import load_function_or_class

    made = load_function_or_class("orchestrator.tuning.spot.Aws")
    assert issubclass(made, AWSNodeProvider) and issubclass(made, spot.OnDemandInstead)
    assert load_function_or_class("orchestrator.tuning.spot.Aws") is made


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Aliyun'"):
        _ = spot.Aliyun

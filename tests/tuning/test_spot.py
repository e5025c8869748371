"""An on-demand node in place of a spot node that the cloud refuses."""

import copy

import pytest
import yaml
from ray.autoscaler.node_launch_exception import NodeLaunchException

from orchestrator.tuning import spot
from tests.clusters.conftest import CLOUDS, CLUSTERS

# As the three clouds say it: Ray's exception with AWS' code, an operation's error of Google Cloud, a text of Azure.
REFUSALS = [
    NodeLaunchException("InsufficientInstanceCapacity", "We currently do not have sufficient capacity.", None),
    NodeLaunchException("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", None),
    Exception({"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": "does not have enough"}]}),
    Exception({"errors": [{"code": "QUOTA_EXCEEDED", "message": "Quota 'PREEMPTIBLE_NVIDIA_A100_GPUS' exceeded."}]}),
    Exception("(DeploymentFailed) At least one resource deployment operation failed. (SkuNotAvailable) not available"),
    Exception("(OperationNotAllowed) results in exceeding approved Low Priority Cores quota."),
]
# After these the node may be there, or it is not there for another reason.
FAULTS = [
    BrokenPipeError("[Errno 32] Broken pipe"),
    TimeoutError("The read operation timed out"),
    Exception('<HttpError 503 when requesting https://compute/zones/a/operations/1 returned "Backend Error">'),
    Exception("User Rate Limit Exceeded. rateLimitExceeded"),
    NodeLaunchException("UnauthorizedOperation", "You are not authorized to perform this operation.", None),
    NodeLaunchException("RequestLimitExceeded", "Request limit exceeded.", None),
    Exception("(AuthorizationFailed) The client does not have authorization"),
]


class Cloud:
    """Stands for Ray's provider of a cloud: keeps what it was asked for, and has no spot nodes left after some."""

    def __init__(self, said=REFUSALS[0], spot_left=0):
        self.said, self.spot_left, self.asked = said, spot_left, []

    def create_node(self, node_config, tags, count):
        kind = "on-demand" if spot.on_demand(node_config) is None else "spot"
        self.asked.append((kind, count))
        node_config["changed"] = True  # as Ray's providers do
        if kind == "spot" and not self.spot_left:
            raise self.said
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


@pytest.mark.parametrize("said", REFUSALS, ids=str)
def test_every_cloud_s_refusal_is_known(said):
    provider = spot.with_on_demand(Cloud)(said)
    assert list(provider.create_node(node_config("aws-g5.yaml"), {}, 1).values()) == ["on-demand"]


@pytest.mark.parametrize("said", FAULTS, ids=str)
def test_after_another_fault_no_second_node_is_bought(said):
    provider = spot.with_on_demand(Cloud)(said)
    with pytest.raises(type(said)) as error:
        provider.create_node(node_config("gcp-a3.yaml"), {}, 1)
    assert error.value is said
    assert provider.asked == [("spot", 1)]


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

"""What cluster files and their README rest on, asked of the Ray that is installed: options, reading, choices."""

import copy
import re
import shlex
import subprocess

import pytest
import yaml
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
    _generate_available_node_types_from_ray_cr_spec,
)
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.util import prepare_config, with_head_node_ip
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, ResourceRequestByCount
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent, NodeKind
from ray.dashboard.modules.job.cli import submit
from ray.scripts.scripts import start

from orchestrator.load_config import ConfigError
from orchestrator.tuning.clusters.files import nodes_at_maximum, read_cluster_file
from tests.clusters.conftest import CLOUDS, CLUSTERS, LAUNCHER


def options(command, words):
    """Parse words as the command would; click raises for what it does not know."""
    return command.make_context(command.name, list(words), resilient_parsing=False).params


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_start_knows_every_option_of_the_launcher(name):
    document = yaml.safe_load((CLUSTERS / name).read_text())
    for key, is_head in (("head_start_ray_commands", True), ("worker_start_ray_commands", False)):
        (command,) = [command for command in document[key] if "ray start" in command]
        found = options(start, shlex.split(command.partition("ray start")[2]))
        assert found["head"] is is_head
        assert found["address"] == (None if is_head else "$RAY_HEAD_IP:6379")
        if name == "own-hosts.yaml":  # behind a firewall, whose open ports the README lists
            assert (found["object_manager_port"], found["node_manager_port"]) == (8076, 8077)
            assert (found["min_worker_port"], found["max_worker_port"]) == (10002, 19999)


def test_ray_start_knows_every_option_of_the_slurm_script():
    text = (CLUSTERS / "slurm.sbatch").read_text().replace("\\\n", " ")
    text = re.sub(r'"?\$\{?\w+\}?"?', "7", text.replace('"$RAY_ADDRESS"', "10.0.0.1:7"))
    head, worker = re.findall(r"ray start (.*?)\s*(?:&|\n)", text)
    found = options(start, shlex.split(head))
    assert (found["head"], found["block"], found["dashboard_host"], found["port"]) == (True, True, "127.0.0.1", 7)
    assert (found["min_worker_port"], found["max_worker_port"]) == (0, 0)
    found = options(start, shlex.split(worker))
    assert (found["head"], found["block"], found["address"]) == (False, True, "10.0.0.1:7")


def test_ray_job_submit_knows_every_option():
    text = (CLUSTERS / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"ray job submit (.*?)(?:'|\n)", text)
    assert len(commands) >= 7
    for command in (command for command in commands if "orchestrator" in command):
        found = options(submit, shlex.split(command))
        assert found["no_wait"] is True
        assert found["entrypoint"][:3] == ("python", "-m", "orchestrator.sweep")


@pytest.mark.parametrize("name", LAUNCHER)
def test_workers_are_free_to_have_as_many_threads_as_cpus(name, tmp_path):
    """Ray sets OMP_NUM_THREADS of a worker to its CPUs unless it is set where Ray was started."""
    document = yaml.safe_load((CLUSTERS / name).read_text())
    (command,) = [command for command in document["worker_start_ray_commands"] if "ray start" in command]
    (tmp_path / ".bashrc").write_text('ray() { echo "threads: ${OMP_NUM_THREADS-as many as CPUs} $2"; }\n')
    line = " ".join(_with_interactive(with_head_node_ip([command], "10.0.0.1")[0]))
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        line, shell=True, env=environment, capture_output=True, text=True, check=True, start_new_session=True
    )
    assert "threads: as many as CPUs --address=10.0.0.1:6379\n" in done.stdout


@pytest.fixture
def own_hosts(tmp_path, monkeypatch):
    """The file as the head reads it; nodes are started within the call, and Ray is started on none."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where the provider keeps its books
    document = yaml.safe_load((CLUSTERS / "own-hosts.yaml").read_text())
    document["provider"] |= {"foreground_node_launch": True, "disable_node_updaters": True}
    return prepare_config({**document, "auth": {}, "file_mounts": {}})


def test_every_own_host_is_started_without_being_asked_for(own_hosts):
    autoscaler = StandardAutoscaler(lambda: copy.deepcopy(own_hosts), LoadMetrics(), None, update_interval_s=0)
    autoscaler.update()
    hosts = own_hosts["provider"]["worker_ips"]
    assert sorted(autoscaler.provider.non_terminated_nodes({"ray-node-type": "worker"})) == hosts


@pytest.mark.parametrize(("least", "started"), [(0, {}), (2, {"local.cluster.node": 1})])
def test_version_2_leaves_own_hosts_out(own_hosts, least, started):
    """Why own-hosts.yaml asks for version 1: for work none is started, and the head is counted as one of the least."""
    own_hosts["available_node_types"]["local.cluster.node"]["min_workers"] = least
    config = AutoscalingConfig(own_hosts, skip_content_hash=True)
    head = Instance(
        instance_id="head", instance_type="local.cluster.node", status=Instance.RAY_RUNNING, node_kind=NodeKind.HEAD
    )
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=[ResourceRequestByCount(request=ResourceRequestUtil.make({"CPU": 1, "GPU": 1}), count=8)],
            current_instances=[
                AutoscalerInstance(im_instance=head, ray_node=NodeState(), cloud_instance_id="10.0.0.10")
            ],
            disable_launch_config_check=True,
        )
    )
    assert {request.instance_type: request.count for request in reply.to_launch} == started


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_ray_reads_the_same_nodes_from_pods_as_a_dry_run(name):
    file = read_cluster_file(CLUSTERS / name)
    types = _generate_available_node_types_from_ray_cr_spec(file.ray_cluster)
    for group in ("worker-spot", "worker-on-demand"):  # one of them counts: pods of the one stand in for the other's
        offered = types[group]["resources"]
        assert offered["accelerator_type:A100"] == 1
        expected = [(types["headgroup"]["resources"]["CPU"], types["headgroup"]["resources"].get("GPU", 0), set())]
        expected += [(offered["CPU"], offered["GPU"], {"A100"})] * types[group]["max_workers"]
        assert [(node.cpus, node.gpus, node.accelerators) for node in nodes_at_maximum(file)] == expected
    assert types["worker-spot"]["priority"] > types["worker-on-demand"]["priority"]


A100 = "accelerator_type:A100"


@pytest.mark.parametrize("requests", [{}, {"cpu": "7500m", "nvidia.com/gpu": 1}])
@pytest.mark.parametrize("limits", [{}, {"cpu": "5500m", "nvidia.com/gpu": 2}])
@pytest.mark.parametrize("started", [{}, {"num-cpus": "3", "num-gpus": "3", "resources": f'"{{\\"{A100}\\": 1}}"'}])
@pytest.mark.parametrize("own", [{}, {"CPU": "2500m", "GPU": "4"}, {"CPU": "2", "accelerator_type:H100": "1"}])
def test_ray_finds_what_a_group_has_in_the_same_place_as_a_dry_run(own, started, limits, requests, tmp_path):
    container = {"resources": {"limits": limits, "requests": requests}}
    group = {
        "groupName": "workers", "replicas": 0, "minReplicas": 0, "maxReplicas": 1, "resources": own,
        "rayStartParams": started, "template": {"spec": {"containers": [container]}},
    }  # fmt: skip
    head = {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": {"containers": [{}]}}}
    spec = {"headGroupSpec": head, "workerGroupSpecs": [group]}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"kind": "RayCluster", "spec": spec}))
    try:
        theirs = _generate_available_node_types_from_ray_cr_spec(spec)["workers"]["resources"]
    except ValueError:  # no CPUs anywhere
        with pytest.raises(ConfigError, match="limits.cpu is missing; write how many"):
            nodes_at_maximum(read_cluster_file(tmp_path / "cluster.yaml"))
        return
    _, node = nodes_at_maximum(read_cluster_file(tmp_path / "cluster.yaml"))
    named = {name.removeprefix("accelerator_type:") for name in theirs if name.startswith("accelerator_type:")}
    assert (node.cpus, node.gpus, node.accelerators) == (theirs["CPU"], theirs.get("GPU", 0), named)


def launches(name, monitor, number=3, accelerator=None):
    """What the autoscaler would start for as many workers of a trial as fill `number` nodes."""
    document = yaml.safe_load((CLUSTERS / name).read_text())
    return launched({**document, "auth": {}}, "worker_spot", monitor, number, accelerator)


def launched(document, spot, monitor, number, accelerator=None):
    """The same for a file as Ray's launcher has them; `spot` names its type of spot nodes."""
    config = AutoscalingConfig(document, skip_content_hash=True)
    each = document["available_node_types"][spot]["resources"]["GPU"]
    wanted = {"CPU": 1, "GPU": 1, **({f"accelerator_type:{accelerator}": 0.001} if accelerator else {})}
    ask = ResourceRequestByCount(request=ResourceRequestUtil.make(wanted), count=number * each)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=[ask],
            cloud_resource_availabilities=monitor.get_resource_availabilities(),
            recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
            disable_launch_config_check=True,
        )
    )
    return {
        request.instance_type: request.count
        for request in reply.to_launch
        if request.instance_type != document["head_node_type"]
    }


def told(status, spot="worker_spot"):
    monitor = CloudResourceMonitor()
    event = InstanceUpdateEvent(instance_id="i", new_instance_status=status, instance_type=spot)
    monitor.notify([event])
    return monitor


def test_spot_nodes_are_asked_for_first_as_many_as_are_needed():
    assert launches("aws-g5.yaml", CloudResourceMonitor()) == {"worker_spot": 3}


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_with_the_accelerator_that_is_asked_for_are_asked_for(name):
    """Ray's provider for AWS adds accelerators to node types by itself; the others know what is written down."""
    (accelerator,) = nodes_at_maximum(read_cluster_file(CLUSTERS / name))[-1].accelerators
    assert launches(name, CloudResourceMonitor(), 1, accelerator) == {"worker_spot": 1}
    assert launches(name, CloudResourceMonitor(), 1, "T4") == {}


def test_after_a_refusal_ray_asks_for_the_same_type_again():
    """Why cluster files name a provider of Lethe. Where this fails, Ray has learned it and that is not needed."""
    assert launches("aws-g5.yaml", told(Instance.ALLOCATION_FAILED)) == {"worker_spot": 3}


def test_after_a_node_that_never_joined_ray_asks_for_the_other_type():
    assert launches("aws-g5.yaml", told(Instance.ALLOCATION_TIMEOUT)) == {"worker_on_demand": 3}


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_pods_on_demand_come_in_place_of_spot_pods_and_never_beside_them(name):
    """For as many workers as the file's own command asks for, which is all that a dry run counts."""
    file = read_cluster_file(CLUSTERS / name)
    (workers,) = set(re.findall(r"resources\.max_workers=(\d+)", file.text))
    pods = nodes_at_maximum(file)[1:]
    assert int(workers) == sum(pod.gpus for pod in pods) == 16
    cluster = {"metadata": {"name": "lethe", "namespace": "default"}, "spec": file.ray_cluster}
    document = _derive_autoscaling_config_from_ray_cr(cluster)
    assert launched(document, "worker-spot", CloudResourceMonitor(), len(pods)) == {"worker-spot": len(pods)}
    pending_for_long = told(Instance.ALLOCATION_TIMEOUT, "worker-spot")
    assert launched(document, "worker-spot", pending_for_long, len(pods)) == {"worker-on-demand": len(pods)}

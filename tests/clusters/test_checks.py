"""Shipped cluster files are in order, and mistakes that are planted into copies are found and named."""

import re

import pytest

from orchestrator.tuning.clusters import batch, launcher, pods
from orchestrator.tuning.clusters.checks import no_open_address, no_secret, one_image, problems
from orchestrator.tuning.clusters.files import read_cluster_file

from tests.clusters.conftest import NAMES

SPOT = "InstanceMarketOptions: {MarketType: spot}"
HEAD_TYPE = "resources: {CPU: 0, GPU: 0}"
G5 = "resources: {CPU: 48, GPU: 4}"

# File, what is written, what is written instead, and the whole line that is said of it, or how it begins with `...`.
PLANTED = [
    ("aws-g5.yaml", "max_workers: 4\n\n", "max_wrokers: 4\n\n", "ray-schema: Ray says: "),
    ("aws-g5.yaml", "max_workers: 4\n\n", "max_workers: many\n\n", "ray-schema: Ray says: "),
    ("aws-g5.yaml", "head_node_type: head", "head_node_type: hed", "ray-schema: Ray says: `head_node_type` must be one of"),
    ("aws-g5.yaml", "GPU: 4}", "GPU: four}", "ray-schema: Ray says: available_node_types.worker_spot.resources.GPU: "),
    ("own-hosts.yaml", "  head_ip: 10.0.0.10", "  haed_ip: 10.0.0.10", "ray-schema: Ray says: Please supply a `head_ip`"),
    (
        "aws-g5.yaml", "  use_internal_ips: true", "  use_internl_ips: true",
        "provider-keys: provider.use_internl_ips is no key of aws; did you mean use_internal_ips?",
    ),
    (
        "gcp-a2.yaml", "  project_id: YOUR", "  projectid: YOUR",
        "provider-keys: provider.projectid is no key of gcp; did you mean project_id?",
    ),
    (
        "aws-p4d.yaml", "spot.Aws", "spot.Aliyun",
        "provider-keys: provider.type is 'aliyun'; known are aws, azure, gcp, local, or a class of orchestrator.tuning.spot",
    ),
    (
        "aws-g5.yaml", "InstanceType: m6i", "InstnceType: m6i",
        "node-config-keys: available_node_types.head.node_config: no key InstnceType; did you mean InstanceType?",
    ),
    (
        "azure-nd.yaml", "        osDiskSize: 200", "        osDiscSize: 200",
        "node-config-keys: available_node_types.head.node_config: no key osDiscSize; did you mean osDiskSize?",
    ),
    (
        "aws-g5.yaml", "region: us-west-2 ", "region: us-west ",
        "places: provider.region is 'us-west', which is no region of aws",
    ),
    (
        "gcp-a3.yaml", "availability_zone: us-central1-a ", "availability_zone: us-east4-a ",
        "places: provider.availability_zone is 'us-east4-a'; name a zone of provider.region=us-central1",
    ),
    (
        "aws-g5.yaml", "g5.12xlarge\n", "g5.12xlrge\n",
        "machine-types: available_node_types.worker_spot: no machine type g5.12xlrge; did you mean g5.12xlarge?",
    ),
    (
        "azure-nd.yaml", "{CPU: 96, GPU: 8}", "{CPU: 96, GPU: 16}",
        "machine-types: available_node_types.worker_spot.resources is {'CPU': 96, 'GPU': 16}, but Standard_ND96asr_v4 has "
        "{CPU: 96, GPU: 8}; write that",
    ),
    (
        "aws-g5.yaml", HEAD_TYPE, "resources: {CPU: 8}",
        "head-gives-nothing: available_node_types.head.resources is {'CPU': 8}; write {CPU: 0, GPU: 0} for the head",
    ),
    (
        "gcp-a2.yaml", "    max_workers: 0", "    max_workers: 1",
        "head-gives-nothing: available_node_types.head.max_workers is 1; write 0: the head is no worker",
    ),
    (
        "own-hosts.yaml", "--num-cpus=0 ", "",
        "head-gives-nothing: head_start_ray_commands: give the head --num-cpus=0 --num-gpus=0, so that no worker lands there",
    ),
    (
        "aws-g5.yaml", "m6i.2xlarge", "m6i.xlarge",
        "head-size: the head has 16 GiB, but 16 slots need 6 + 16 x 1 = 22; take a larger head",
    ),
    (
        "own-hosts.yaml", "{memory_gib: 32}", "{memory_gib: 8}",
        "head-size: the head has 8 GiB, but 8 slots need 6 + 8 x 1 = 14; take a larger head",
    ),
    (
        "aws-p4d.yaml", "    min_workers: 0\n    max_workers: 2\n    priority: 1", "    min_workers: 1\n    max_workers: 2\n    priority: 1",
        "workers-from-zero: available_node_types.worker_spot.min_workers is 1; write 0: nodes come as trials wait",
    ),
    (
        "own-hosts.yaml", "min_workers: 0", "min_workers: 2",
        "workers-from-zero: min_workers is 2; write 0: Ray starts on hosts as trials wait",
    ),
    (
        "gcp-a2.yaml", "idle_timeout_minutes: 10", "idle_timeout_minutes: 600",
        "idle-nodes-end: idle_timeout_minutes is 600; write minutes between 1 and 60",
    ),
    (
        "aws-g5.yaml", f"      {SPOT}\n", "",
        "spot-with-on-demand: available_node_types: no worker type is a spot node; add one, with a higher priority",
    ),
    (
        "azure-nd.yaml", "    priority: 1\n", "    priority: 0\n",
        "spot-with-on-demand: available_node_types.worker_spot.priority is not above that of worker_on_demand; spot nodes "
        "come first then",
    ),
    (
        "gcp-a2.yaml", "        provisioningModel: SPOT\n", "        provisioningModel: SPOT\n        preemptible: true\n",
        "spot-with-on-demand: available_node_types.worker_spot: no on-demand type is the same but for the price; add one",
    ),
    (
        "aws-g5.yaml", "  type: external\n  module: orchestrator.tuning.spot.Aws", "  type: aws",
        "spot-with-on-demand: provider.module: Ray's own provider asks for a refused spot node again and again; write type: "
        "external and a class of orchestrator.tuning.spot",
    ),
    (
        "azure-nd.yaml", "  ~/.ray/auth_token: ~/.ray/auth_token", "  ~/data: ~/data",
        "token-everywhere: file_mounts: ~/.ray/auth_token is missing, so nodes have no token; add ~/.ray/auth_token: "
        "~/.ray/auth_token",
    ),
    (
        "own-hosts.yaml", "    - --env RAY_AUTH_MODE=token\n", "",
        "token-everywhere: docker.run_options: --env RAY_AUTH_MODE=token is missing, so Ray asks nobody for a token; add it",
    ),
    (
        "gcp-a3.yaml", "setup_commands: []\nhead", "setup_commands: [pip install ray]\nhead",
        "image-of-containers: setup_commands: 'pip install ray' installs what requirements.lock does not pin; build it into "
        "the image",
    ),
    (
        "aws-g5.yaml", "use_internal_ips: true", "use_internal_ips: false",
        "no-public-address: provider.use_internal_ips is False; write true: no public addresses",
    ),
    (
        "aws-g5.yaml", "      SecurityGroupIds: [sg-0aaaaaaaaaaaaaaaa]         # YOURS: lets", "      # SecurityGroupIds: lets",
        "no-public-address: available_node_types.head.node_config.SecurityGroupIds is missing; Ray's own would open port 22 "
        "to all",
    ),
    (
        "gcp-a2.yaml", "/subnetworks/lethe\n      tags: {items: [lethe]}                           # what the firewall's rules are about\n\n",
        "/subnetworks/lethe\n          accessConfigs: [{type: ONE_TO_ONE_NAT}]\n",
        "no-public-address: available_node_types.head.node_config.networkInterfaces: accessConfigs is a public address; "
        "remove it",
    ),
    (
        "azure-nd.yaml", "  use_internal_ips: true", "  use_internal_ips: true\n  use_external_head_ip: true",
        "no-public-address: provider.use_external_head_ip is true: the head gets a public address; remove it",
    ),
    (
        "azure-nd.yaml", "  - nohup python -m orchestrator.tuning.notice azure > ~/notice.log 2>&1 &\n", "",
        "notice-is-passed-on: worker_start_ray_commands: python -m orchestrator.tuning.notice azure is missing; add it, in "
        "the background",
    ),
    (
        "aws-p4d.yaml", '--address="$RAY_HEAD_IP:6379"', "--address=10.0.0.1:6379",
        "ray-starts: worker_start_ray_commands: --address=$RAY_HEAD_IP:6379 is missing; workers would not find the head",
    ),
    (
        "aws-g5.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0",
        "no-open-address: line N: 0.0.0.0 is every address; let in the cluster's own, and listen on 127.0.0.1 or on the "
        "node's internal address",
    ),
    (
        "aws-g5.yaml", "  cache_stopped_nodes: false",
        "  cache_stopped_nodes: false\n  security_group: {IpPermissions: [{IpRanges: [{CidrIp: 0.0.0.0/0}]}]}",
        "no-open-address: line N: 0.0.0.0/0 is every address; let in the cluster's own, and listen on 127.0.0.1 or on the "
        "node's internal address",
    ),
    (
        "aws-g5.yaml", "    - --env RAY_AUTH_MODE=token", f"    - --env RAY_AUTH_MODE=token\n    - --env HF_TOKEN=hf_{'a' * 30}",
        "no-secret: line N: holds a key or token; name a file or a Secret that holds it instead",
    ),
    (
        "gcp-a2.yaml", "lethe:0.1.0", "lethe:latest",
        "one-image: names image ghcr.io/lethe-unlearning/lethe:latest; every node needs "
        "ghcr.io/lethe-unlearning/lethe:0.1.0, which has this version of Lethe and of Ray",
    ),
    (
        "kuberay-cluster.yaml", 'rayVersion: "2.60.0"', 'rayVersion: "2.52.0"',
        "ray-version: rayVersion is '2.52.0'; write '2.60.0', as in requirements.lock and the image",
    ),
    (
        "kuberay-cluster.yaml", "mode: token", "mode: disabled",
        "token-everywhere: authOptions.mode is 'disabled'; write token, or Ray asks nobody for one",
    ),
    (
        "kuberay-job.yaml", 'num-cpus: "0"', 'num-cpus: "4"',
        "head-gives-nothing: headGroupSpec.rayStartParams.num-cpus is '4'; write '0': no worker lands there",
    ),
    (
        "kuberay-job.yaml", "memory: 24Gi", "memory: 8Gi",
        "head-size: the head has 8 GiB, but 16 slots need 6 + 16 x 1 = 22; raise its limit",
    ),
    (
        "kuberay-cluster.yaml", "minReplicas: 0\n      maxReplicas: 2\n      priority: 1", "minReplicas: 1\n      maxReplicas: 2\n      priority: 1",
        "workers-from-zero: worker-spot.minReplicas is 1; write 0: pods come when trials wait",
    ),
    (
        "kuberay-cluster.yaml", "idleTimeoutSeconds: 600", "idleTimeoutSeconds: 0",
        "idle-nodes-end: autoscalerOptions.idleTimeoutSeconds is 0; write seconds between 60 and 3600",
    ),
    (
        "kuberay-cluster.yaml", "    version: v2\n", "    version: v1\n",
        "idle-nodes-end: autoscalerOptions.version is 'v1'; write v2, the one that knows priorities",
    ),
    (
        "kuberay-cluster.yaml", "priority: 1\n", "priority: 0\n",
        "spot-with-on-demand: workerGroupSpecs: priority of the spot group is not above the other's; spot nodes come first "
        "then",
    ),
    (
        "kuberay-job.yaml", 'limits: {cpu: "44", memory: 300Gi, nvidia.com/gpu: "4"}', 'limits: {cpu: "44", memory: 300Gi}',
        "gpu-nodes: worker-spot: no nvidia.com/gpu in the limits of its container; workers would have no GPU",
    ),
    (
        "kuberay-cluster.yaml", "              - {name: shared, mountPath: /shared}\n        volumes", "              - {name: tmp, mountPath: /tmp}\n        volumes",
        "shared-storage: headGroupSpec: mounts no persistentVolumeClaim; checkpoints would end with the pod",
    ),
    (
        "kuberay-cluster.yaml", "serviceType: ClusterIP", "serviceType: LoadBalancer",
        "no-public-address: headGroupSpec.serviceType is 'LoadBalancer'; write ClusterIP",
    ),
    (
        "kuberay-cluster.yaml", "runAsUser: 1000", "runAsUser: 0",
        "without-root: headGroupSpec: securityContext is {'runAsNonRoot': True, 'runAsUser': 0, 'fsGroup': 1000}; write "
        "{runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000}",
    ),
    (
        "kuberay-cluster.yaml", "python -m orchestrator.tuning.notice now && sleep 45", "sleep 45",
        "notice-is-passed-on: worker-spot: preStop does not run python -m orchestrator.tuning.notice now; add it",
    ),
    (
        "kuberay-job.yaml", " --resume /shared/lethe/tofu_search\n", " storage=/shared/lethe\n",
        "job-goes-on: spec.entrypoint: python -m orchestrator.sweep SWEEP --resume PLACE is what can be repeated; write that",
    ),
    (
        "kuberay-job.yaml", "backoffLimit: 3", "backoffLimit: 0",
        "job-goes-on: spec.backoffLimit is 0; write how often the sweep goes on after a lost head, such as 3",
    ),
    (
        "slurm.sbatch", "#SBATCH --requeue\n", "",
        "directives: #SBATCH --requeue is missing; write #SBATCH --requeue",
    ),
    (
        "slurm.sbatch", "--signal=B:TERM@120", "--signal=TERM@10",
        "directives: #SBATCH --signal=TERM@10; write it as #SBATCH --signal=B:TERM@120",
    ),
    (
        "slurm.sbatch", "export RAY_AUTH_MODE=token\n", "",
        "token-everywhere: export RAY_AUTH_MODE=token is missing; Ray would ask nobody for a token",
    ),
    (
        "slurm.sbatch", "chmod 600", "chmod 644",
        "token-everywhere: the token's file: make it under umask 077 and chmod 600 it; other users must not read it",
    ),
    (
        "slurm.sbatch", "apptainer pull", "sudo apptainer pull",
        "without-root: 'sudo' needs rights that users of a cluster lack; run the image with apptainer",
    ),
    (
        "slurm.sbatch", '--dashboard-port="$dashboard"', "--dashboard-port=8265",
        "no-fixed-ports: --dashboard-port=8265 is the same in every job; take a port that is free, or 0",
    ),
    (
        "slurm.sbatch", '--node-ip-address="$ip"', "",
        "servers-inside: ray start without --node-ip-address listens where it likes; give the node's internal address",
    ),
    (
        "slurm.sbatch", ' --temp-dir="$scratch"', "",
        "servers-inside: ray start without --temp-dir uses /tmp/ray, which belongs to whoever came first; give it one",
    ),
    (
        "slurm.sbatch", "trap on_term TERM\n", "",
        "goes-on: no trap for TERM, which comes before the time limit; close the sweep there and requeue",
    ),
    (
        "slurm.sbatch", '--resume "$place"', '"storage=$place"',
        "goes-on: python -m orchestrator.sweep SWEEP --resume PLACE is what can be repeated; write that",
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_shipped_files_are_in_order(name, problems_of):
    assert problems_of(name) == []


@pytest.mark.parametrize(
    ("name", "written", "instead", "said"), PLANTED, ids=[f"{row[0]}-{row[3][:40]}" for row in PLANTED]
)
def test_a_planted_mistake_is_found_and_named(name, written, instead, said, problems_of):
    found = [re.sub(r"line \d+", "line N", line) for line in problems_of(name, (written, instead))]
    if said.startswith("ray-schema"):
        assert any(line.startswith(said) and len(line) > len(said) for line in found), found
    else:
        assert said in found


def test_every_check_has_a_planted_mistake():
    checks = (no_open_address, no_secret, one_image, *launcher.CHECKS, *pods.CHECKS, *batch.CHECKS)
    assert {check.__name__.replace("_", "-") for check in checks} == {row[3].partition(":")[0] for row in PLANTED}
    assert len(PLANTED) >= 20


@pytest.mark.parametrize(
    ("name", "machine", "other", "offered", "instead"),
    [
        ("aws-g5.yaml", "g5.12xlarge", "g6.12xlarge", "GPU: 4}", "GPU: 4}"),
        ("aws-p4d.yaml", "p4d.24xlarge", "p5.48xlarge", "{CPU: 96, GPU: 8}", "{CPU: 192, GPU: 8}"),
        ("gcp-a2.yaml", "a2-highgpu-4g", "a2-highgpu-1g", "{CPU: 48, GPU: 4}", "{CPU: 12, GPU: 1}"),
        ("gcp-a3.yaml", "a3-highgpu-8g", "a3-highgpu-2g", "{CPU: 208, GPU: 8}", "{CPU: 52, GPU: 2}"),
        ("azure-nd.yaml", "Standard_ND96asr_v4", "Standard_ND96isr_H100_v5", "GPU: 8}", "GPU: 8}"),
    ],
)
def test_the_other_machine_that_a_file_speaks_of_is_in_order_too(name, machine, other, offered, instead, problems_of):
    assert problems_of(name, (machine, other), (offered, instead)) == []


@pytest.mark.parametrize(
    "text", ["provider: {type: aws}\n", "kind: RayCluster\n", "kind: RayJob\nspec: {}\n", "#SBATCH\n"]
)
def test_no_check_breaks_on_a_file_with_nothing_in_it(text, tmp_path):
    (tmp_path / "empty").write_text(text)
    assert len(problems(read_cluster_file(tmp_path / "empty"))) > 5

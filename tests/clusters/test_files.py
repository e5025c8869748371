"""What a cluster file offers at its largest, and a dry run that plans for it."""

import io

import pytest
from rich.console import Console

from orchestrator import session
from orchestrator.load_config import ConfigError, load_config, shipped_sweeps
from orchestrator.sweep import main
from orchestrator.tuning.clusters.files import nodes_at_maximum, read_cluster_file
from tests.clusters.conftest import CLUSTERS, NAMES
from tests.ray import folders, tiny

# Nodes without the head, each one's CPUs and GPUs.
LARGEST = {
    "aws-g5.yaml": (4, 48, 4),
    "aws-p4d.yaml": (2, 96, 8),
    "azure-nd.yaml": (2, 96, 8),
    "gcp-a2.yaml": (4, 48, 4),
    "gcp-a3.yaml": (2, 208, 8),
    "kuberay-cluster.yaml": (4, 44, 4),
    "kuberay-job.yaml": (4, 44, 4),
    "own-hosts.yaml": (2, 32, 4),
    "slurm.sbatch": (2, 32, 4),
}
# Slots of a trial with two GPUs, as most shipped sweeps for GPUs have, on the files above.
SLOTS = {name: nodes * gpus // 2 for name, (nodes, _, gpus) in LARGEST.items()}
ONE_GPU, NO_GPU = ("tofu_lora",), {"quickstart": 24, "tofu_tiny": 24, "continual_tiny": 12}


def offered(path):
    return [(node.cpus, node.gpus) for node in nodes_at_maximum(read_cluster_file(path))]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_of_shipped_files(name):
    nodes, cpus, gpus = LARGEST[name]
    head = [] if name == "slurm.sbatch" else [(0, 0)]  # there it is beside workers
    assert offered(CLUSTERS / name) == [*head, *[(cpus, gpus)] * nodes]


LAUNCHER = """
provider: {type: aws}
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, node_config: {}}
  big: {resources: {CPU: 8, GPU: 8}, max_workers: 2, node_config: {}}
  small: {resources: {CPU: 1}, max_workers: 2, priority: 1, node_config: {}}
"""
POD = """
kind: RayCluster
spec:
  headGroupSpec: {rayStartParams: {num-cpus: "0"}}
  workerGroupSpecs:
    - maxReplicas: 2
      numOfHosts: 2
      template: {spec: {containers: [{resources: {limits: {cpu: 7500m, nvidia.com/gpu: 2}}}]}}
"""


def test_the_limit_of_all_workers_holds_and_higher_priority_comes_first(tmp_path):
    (tmp_path / "a.yaml").write_text(LAUNCHER)
    assert offered(tmp_path / "a.yaml") == [(0, 0), (1, 0), (1, 0), (8, 8)]


def test_pods_of_several_hosts_and_thousandths_of_a_cpu(tmp_path):
    (tmp_path / "a.yaml").write_text(POD)
    assert offered(tmp_path / "a.yaml") == [(0, 0), *[(8, 2)] * 4]


GROUP = """
    - groupName: %s
      maxReplicas: %d
      template: {spec: {nodeSelector: {kind: "%s"}, containers: [{resources: {limits: {cpu: %d}}}]}}
"""


@pytest.mark.parametrize(
    ("groups", "cpus"),
    [
        ([("a-spot", 3, "x", 4), ("a", 3, "y", 4)], [4] * 3),  # a pair
        ([("a-spot", 3, "x", 4), ("a", 1, "y", 4)], [4] * 3),
        ([("a-spot", 0, "x", 4), ("a", 2, "y", 4)], [4] * 2),
        ([("a-spot", 3, "x", 4), ("a", 1, "y", 8)], [4, 4, 4, 8]),  # no pair: other pods
        ([("a", 1, "x", 4), ("b", 2, "y", 4)], [4] * 3),  # neither is spot
        ([("a-spot", 1, "x", 4), ("b-spot", 1, "y", 4), ("a", 1, "z", 4)], [4] * 2),
    ],
)
def test_of_a_pair_of_spot_and_on_demand_groups_the_larger_counts(groups, cpus, tmp_path):
    head, _, _ = POD.partition("    - maxReplicas")
    (tmp_path / "a.yaml").write_text(head + "".join(GROUP % group for group in groups))
    assert offered(tmp_path / "a.yaml") == [(0, 0), *[(number, 0) for number in cpus]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read {path} (No such file or directory); name a file like those in clusters/"),
        ("a: [", "{path} is no YAML (while parsing a flow node"),
        ("a: 1", "{path} describes no cluster; name a file of Ray's launcher (with `provider`), of KubeRay"),
        (LAUNCHER.replace("max_workers: 3", ""), "{path}: max_workers is missing; write how many"),
        (LAUNCHER.replace("3", "3.5"), "{path}: max_workers is 3.5; write a whole number"),
        (LAUNCHER.replace("head_node_type: head", ""), "{path}: head_node_type is missing; name one of head, b"),
        (LAUNCHER.replace("CPU: 8", "CPU: all"), "available_node_types.big.resources.CPU is 'all'; write how"),
        ("provider: {type: aws}", "{path}: available_node_types is missing; write a mapping of names to values there"),
        ("provider: {type: local}", "{path}: provider.worker_ips is missing; list the addresses of the workers"),
        ("provider: {type: local, worker_ips: [a]}", "{path}: metadata is missing; write a mapping"),
        (POD.replace("maxReplicas: 2", ""), "{path}: workerGroupSpecs[0].maxReplicas is missing; write how many"),
        (POD.replace("cpu: 7500m", "cpu: x"), "spec.containers[0].resources.limits.cpu is 'x'; write how"),
        (POD.replace("- m", "- rayStartParams: {resources: A100}\n      m"), "rayStartParams.resources is 'A100'; "),
        ("kind: RayJob\nspec: {}", "{path}: headGroupSpec is missing; write a mapping of names to values there"),
        ("#SBATCH --nodes=2", "{path}: #SBATCH --cpus-per-task is missing; write how many one node has, such as 8"),
        ("#SBATCH --cpus-per-task=2", "{path}: #SBATCH --nodes is missing; write how many one node has, such as 8"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_with_key_value_and_remedy(text, said, tmp_path):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        offered(path)
    assert str(error.value).startswith("--cluster: ")
    assert said.format(path=path) in str(error.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    tiny.make_models(folder)
    folders.write_tofu(folder / "tofu")
    folders.write_real_world(folder / "real_world")
    return folder


def sweep_of(name, place, *more):
    overrides = [f"storage={place / 'store'}"]
    if name not in ("quickstart", "continual_tiny"):
        data = place / ("real_world" if name.startswith("real_world") else "tofu")
        overrides += [f"scenario.source={data}", f"model.target={place / 'target'}", "train.batch_size=8"]
    if name == "tofu_tiny":
        overrides.append("scenario.retain_sets={forget01: retain99}")
    return load_config(name, [*overrides, *more])


def plan(sweep, cluster):
    out = io.StringIO()
    session.dry_run(sweep, Console(file=out, width=400), str(cluster))
    return out.getvalue()


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_shipped_sweep_is_planned_for_every_cluster_file(name, place):
    """The largest number of slots on GPUs; without GPUs there are more CPUs than trials."""
    sweep = sweep_of(name, place)
    for cluster in NAMES:
        out = plan(sweep, CLUSTERS / cluster)
        nodes, cpus, gpus = LARGEST[cluster]
        if name in NO_GPU:
            expected = f"{NO_GPU[name]} slots x 2 workers (room for {nodes * cpus} workers)"
        elif name in ONE_GPU:
            expected = f"{nodes * gpus} slots x 1 workers (room for {nodes * gpus} workers)"
        else:
            expected = f"{SLOTS[cluster]} slots x 2 workers (room for {nodes * gpus} workers)"
        assert f"plan for {CLUSTERS / cluster} at its largest: {expected}\n" in out
        assert f"note: {CLUSTERS / cluster}" not in out
        assert "dry run: nothing was started" in out


def test_a_trial_that_no_node_can_hold_is_refused(place):
    with pytest.raises(ConfigError) as error:
        plan(sweep_of("tofu_search", place, "resources.workers_per_trial=32"), CLUSTERS / "aws-g5.yaml")
    assert str(error.value) == (
        "resources.workers_per_trial=32: a trial needs that many workers with 1 CPU and 1 GPU each, but the cluster "
        "(5 nodes, 192 CPUs, 16 GPUs) has room for 16; lower resources.workers_per_trial, resources.cpus_per_worker or "
        "resources.gpus_per_worker, or add nodes; where nodes come when they are asked for, set resources.max_workers "
        "to the room there is then"
    )


@pytest.mark.parametrize(
    ("name", "has"), [("gcp-a2.yaml", "A100"), ("gcp-a3.yaml", "H100"), ("kuberay-job.yaml", "A100")]
)
def test_an_accelerator_that_no_node_has_is_refused(name, has, place):
    asked = "resources.accelerator_type="
    assert "plan for" in plan(sweep_of("tofu_search", place, f"{asked}{has}"), CLUSTERS / name)
    with pytest.raises(ConfigError, match=rf"on a node with L4 \(there are: {has}\) each, .* has room for 0"):
        plan(sweep_of("tofu_search", place, f"{asked}L4"), CLUSTERS / name)


@pytest.mark.parametrize(("name", "has", "fitting"), [("aws-g5.yaml", 32, 34), ("kuberay-job.yaml", 24, 24)])
def test_a_head_that_is_too_small_for_the_slots_of_this_sweep_is_noted(name, has, fitting, place):
    """Four trials on a GPU: four times the slots that the file is sized for."""
    sizes = ["resources.gpus_per_worker=0.25", "resources.cpus_per_worker=0.25", "search.trials_per_cell=99"]
    path = CLUSTERS / name
    said = (
        f"note: {path}: head-size: the head has {has} GiB, but 64 slots need 6 + 64 x 0.75 = 54; take a larger head, "
        f"or set resources.max_concurrent_trials={fitting}\n"
    )
    assert said in plan(sweep_of("tofu_lora", place, *sizes), path)
    fewer = f"resources.max_concurrent_trials={fitting}"
    assert "head-size" not in plan(sweep_of("tofu_lora", place, *sizes, fewer), path)


def test_what_is_wrong_with_the_file_is_noted_and_refused_if_strict(place, tmp_path, capsys):
    text = (CLUSTERS / "aws-g5.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("idle_timeout_minutes: 10", "idle_timeout_minutes: 0"))
    said = "idle-nodes-end: idle_timeout_minutes is 0; write minutes between 1 and 60"
    assert f"note: {tmp_path / 'mine.yaml'}: {said}\n" in plan(sweep_of("quickstart", place), tmp_path / "mine.yaml")
    arguments = ["quickstart", "--dry-run", "--cluster", str(tmp_path / "mine.yaml"), f"storage={place}", "strict=true"]
    assert main(arguments) == 2
    assert f"error: --cluster: {tmp_path / 'mine.yaml'}: {said} (strict=true" in capsys.readouterr().err


def test_a_cluster_file_is_for_dry_runs_alone(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--cluster", "clusters/aws-g5.yaml"])
    assert ended.value.code == 2
    assert "--cluster only plans; add --dry-run" in capsys.readouterr().err

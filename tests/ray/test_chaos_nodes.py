"""Nodes of a cluster leave under a real sweep: the nodes are processes of this machine."""

import subprocess
import sys
import time

import psutil
import pytest
from ray.cluster_utils import Cluster

from orchestrator.tracking.journal import TrialState, has_records
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import (
    NUM_STEPS,
    command,
    ends_with,
    key,
    same_results,
    start,
    told_twice,
    wait_for_point,
    wait_until,
    went_on,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.cluster,
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
# All nodes are on one machine here, where Ray would take the head's for this one's; a spot node sees none but its own.
NOTICE_ON = """
import sys
from ray._private import services
from orchestrator.tuning import notice
services.find_node_ids = lambda: {sys.argv[1]}
sys.exit(notice.main(["now"]))
"""
TWO = "search.trials_per_cell=2"


@pytest.fixture
def cluster():
    """A head without CPUs of its own."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


def on(cluster):
    return {"RAY_ADDRESS": cluster.address}


def node_of_workers(cluster):
    """The node that the only worker group runs on."""
    for node in cluster.worker_nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        if any("".join(one.cmdline()[:1]).startswith("ray::RayTrainWorker") for one in raylet.children(recursive=True)):
            return node
    raise AssertionError("no node has workers")


def test_a_node_leaves_and_another_comes_20_seconds_later(models, undisturbed, cluster, tmp_path):
    node = cluster.add_node(num_cpus=2)
    sweep = start(models, tmp_path, TWO, **on(cluster))
    wait_for_point(sweep, tmp_path, key(0))
    cluster.remove_node(node, allow_graceful=False)
    time.sleep(20)
    cluster.add_node(num_cpus=2)
    ends_with(sweep, 0)
    folder = tiny.sweep_folder(tmp_path)
    same_results(folder, undisturbed)
    went_on(folder, key(0))


def test_without_another_node_the_trial_fails_in_time_and_goes_on_when_resumed(models, undisturbed, cluster, tmp_path):
    node = cluster.add_node(num_cpus=2)
    sweep = start(
        models, tmp_path, TWO, "resources.start_timeout_seconds=15", "search.max_failed_share=0.5", **on(cluster)
    )
    wait_for_point(sweep, tmp_path, key(0))
    cluster.remove_node(node, allow_graceful=False)
    folder = tiny.sweep_folder(tmp_path)
    wait_until(sweep, lambda: load_sweep(folder).trials[key(0)].finished is not None, "the end of the first trial")
    cluster.add_node(num_cpus=2)
    ends_with(sweep, 0)
    failed = load_sweep(folder).trials[key(0)].finished
    assert failed.state == TrialState.FAILED
    assert failed.error == (
        "no room for 2 workers (1 CPU each) within resources.start_timeout_seconds=15; add nodes, or raise it"
    )
    same_results(folder, undisturbed, but={key(0)})
    ends_with(command("--resume", str(folder), **on(cluster)), 0)
    same_results(folder, undisturbed, again={key(0)})
    went_on(folder, key(0))


def test_on_notice_of_preemption_a_trial_is_saved_and_goes_on_elsewhere(models, cluster, tmp_path):
    """There are no other points, and a death of the workers would be the end of the trial."""
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    long = ("train.epochs=600", "checkpoint.every_minutes=1000", "resources.max_attempts=1", "search.trials_per_cell=1")
    sweep = start(models, tmp_path, *long, **on(cluster))
    wait_until(sweep, lambda: steps_of(tmp_path), "the first steps")
    first = node_of_workers(cluster)
    said = subprocess.run(
        [sys.executable, "-c", NOTICE_ON, first.node_id],
        env=tiny.environment(**on(cluster)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.stdout == "this node ends within 30 s; Ray knows\n", said.stderr
    assert said.returncode == 0
    wait_for_point(sweep, tmp_path, key(0))
    ends_with(sweep, 0)
    folder = tiny.sweep_folder(tmp_path)
    trial = load_sweep(folder).trials[key(0)]
    assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
    assert [step.step for step in trial.steps] == list(range(5 * NUM_STEPS))
    again = told_twice(folder, key(0))
    assert again == set(range(len(again))) and 0 < len(again) < 5 * NUM_STEPS


def steps_of(storage):
    if not any(has_records(path.parent) for path in storage.glob("*/journal")):  # it has just been made
        return False
    trial = load_sweep(tiny.sweep_folder(storage)).trials.get(key(0))
    return trial is not None and trial.steps

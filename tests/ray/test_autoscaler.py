"""Ray's real autoscaler under a real sweep; nodes are processes of this machine, started by Ray's fake provider."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import chaos, tiny

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
RAY = str(Path(sys.executable).with_name("ray"))
ALIVE = "import ray; ray.init('{}', logging_level='ERROR'); print(sum(node['Alive'] for node in ray.nodes()))"


def cluster_file(address):
    """A head without CPUs, and at most one worker node with two."""
    lists = (
        "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
        "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
    )  # fmt: skip
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    return {
        "cluster_name": "fake", "max_workers": 1, "idle_timeout_minutes": 0.1, "upscaling_speed": 10.0,
        "provider": {
            "type": "external", "module": provider, "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},  # the provider's own name
            "worker": {
                "resources": {"CPU": 2, "object_store_memory": 150 * 2**20}, "node_config": {}, "min_workers": 0,
                "max_workers": 1,
            },
        },
        "head_node_type": "ray.head.default",
    } | {name: [] for name in lists}  # fmt: skip


@pytest.fixture
def head():
    """The address of a head that has an autoscaler, and no CPUs."""
    folder = Path(tempfile.mkdtemp(prefix="la-", dir="/tmp"))  # sockets need short paths
    with socket.socket() as gcs, socket.socket() as agent:
        for one in (gcs, agent):
            one.bind(("127.0.0.1", 0))
        port, agent_port = gcs.getsockname()[1], agent.getsockname()[1]
    address = f"127.0.0.1:{port}"
    (folder / "cluster.json").write_text(json.dumps(cluster_file(address)))
    environment = tiny.environment(
        AUTOSCALER_UPDATE_INTERVAL_S="1", RAY_FAKE_CLUSTER="1", RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=FAKE_HEAD_NODE_ID, RAY_OVERRIDE_NODE_ID_FOR_TESTING=FAKE_HEAD_NODE_ID,
        RAY_AUTH_MODE="disabled", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )  # fmt: skip
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0",
        f"--autoscaling-config={folder / 'cluster.json'}", f"--temp-dir={folder}", "--include-dashboard=false",
        f"--dashboard-agent-listen-port={agent_port}", "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    deadline = time.monotonic() + 90
    while not is_open(port):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
        time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def num_nodes(address):
    done = subprocess.run(
        [sys.executable, "-c", ALIVE.format(address)],
        capture_output=True,
        text=True,
        env=tiny.environment(RAY_AUTH_MODE="disabled", RAY_SCHEDULER_EVENTS="0"),  # else it may print the autoscaler's
        check=True,
    )
    return int(done.stdout)


def test_a_cluster_grows_from_nothing_for_a_sweep_and_shrinks_after_it(models, head, tmp_path):
    assert num_nodes(head) == 1
    more = ("methods=[GA+GD]", "search.trials_per_cell=1", "resources.max_workers=2")
    sweep = chaos.command(*tiny.settings(models, tmp_path, *more), RAY_ADDRESS=head, RAY_AUTH_MODE="disabled")
    out = chaos.ends_with(sweep, 0)
    assert "on 1 slot x 2 workers (room for 2 workers, now for 0)" in out
    trial = load_sweep(tiny.sweep_folder(tmp_path)).trials["GA+GD/forget10/t000"].finished
    assert trial.state == TrialState.COMPLETE, trial.error
    deadline = time.monotonic() + 120
    while num_nodes(head) > 1 and time.monotonic() < deadline:
        time.sleep(2)
    assert num_nodes(head) == 1


def test_without_nodes_to_come_a_head_alone_refuses_the_sweep(models, head, tmp_path):
    done = tiny.run(tiny.settings(models, tmp_path), RAY_ADDRESS=head, RAY_AUTH_MODE="disabled")
    assert done.returncode == 2
    assert "room for 0" in done.stderr and "set resources.max_workers" in done.stderr

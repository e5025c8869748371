"""A sweep on several nodes: processes of this machine, and machines with addresses of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import ends_with, key, same_results, start, wait_for_point, went_on, workers

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
RAY = str(Path(sys.executable).with_name("ray"))


def test_slots_run_side_by_side_each_on_a_node_of_its_own(models, tmp_path):
    """What each trial learns is what it learns alone: the same sweep, one trial at a time."""
    more = ("methods=[GA+GD,NPO+GD]", "search.trials_per_cell=2", "search.sampler=random", "train.epochs=40")
    alone = tmp_path / "alone"
    ends_with(start(models, alone, *more, "resources.max_concurrent_trials=1"), 0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        sweep = start(models, tmp_path / "beside", *more, RAY_ADDRESS=cluster.address)
        wait_for_point(sweep, tmp_path / "beside", key(0))
        second = tiny.run(tiny.settings(models, tmp_path / "second"), RAY_ADDRESS=cluster.address)
        used = set()
        while sweep.poll() is None:
            used.add(frozenset(number for number, node in enumerate(nodes) if has_workers(node)))
            time.sleep(0.5)
        out = ends_with(sweep, 0)
    finally:
        cluster.shutdown()
    assert "4 trials on 2 slots x 2 workers (room for 4 workers)" in out
    assert second.returncode == 2 and "another sweep" in second.stderr, second.stderr
    assert frozenset({0, 1}) in used  # both at once
    folder = tiny.sweep_folder(tmp_path / "beside")
    same_results(folder, tiny.sweep_folder(alone))
    trials = [trial for trial in load_sweep(folder).trials.values() if not trial.is_baseline]
    spans = [(trial.started.time, trial.finished.time) for trial in trials]
    assert max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans) == 2


def has_workers(node):
    with contextlib.suppress(psutil.NoSuchProcess):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        names = ["".join(one.cmdline()[:1]) for one in raylet.children(recursive=True)]
        return sum(name.startswith("ray::RayTrainWorker") for name in names) == 2
    return False


class Network:
    """A bridge on this machine and machines beyond it: namespaces with their own address, behind a cable each."""

    def __init__(self):
        self.tag = f"{os.getpid() % 10_000}"
        self.prefix = f"10.231.{os.getpid() % 250}"
        self.bridge = f"lb{self.tag}"
        self.names = []
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._ip("addr", "add", f"{self.prefix}.1/24", "dev", self.bridge)
        self._ip("link", "set", self.bridge, "up")

    @property
    def address(self):
        return f"{self.prefix}.1"

    def add(self):
        """A new machine; returns its address and what a command on it begins with."""
        number = len(self.names) + 2
        name, cable = f"ln{self.tag}-{number}", f"lv{self.tag}-{number}"
        self.names.append(name)
        self._ip("netns", "add", name)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._ip("link", "set", cable, "master", self.bridge, "up")
        for command in (["addr", "add", f"{self.prefix}.{number}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            self._ip("-n", name, *command)
        self._ip("-n", name, "link", "set", "lo", "up")
        return f"{self.prefix}.{number}", ["ip", "netns", "exec", name]

    def cut(self, address):
        """Pull a machine's cable out."""
        self._ip("link", "set", f"lv{self.tag}-{address.rpartition('.')[2]}", "down")

    def close(self):
        for name in self.names:
            self._ip("netns", "del", name)
        self._ip("link", "del", self.bridge)

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def network():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    try:
        made = Network()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no bridge can be made here: {error.stderr.strip()}")
    yield made
    made.close()


def test_a_machine_that_is_cut_off_in_the_middle_of_a_trial(models, undisturbed, network, tmp_path):
    temp = Path(tempfile.mkdtemp(prefix="ln-", dir="/tmp"))  # sockets need short paths
    common = ["--block", "--disable-usage-stats"]
    head = [RAY, "start", "--head", f"--node-ip-address={network.address}", "--port=6399", "--num-cpus=0", *common]
    processes = [run([*head, "--include-dashboard=false", f"--temp-dir={temp}"], temp / "head.log")]
    addresses = []
    try:
        wait_for_port(network.address, 6399)
        for _ in range(2):
            address, on_it = network.add()
            addresses.append(address)
            joined = [RAY, "start", f"--address={network.address}:6399", f"--node-ip-address={address}", "--num-cpus=2"]
            processes.append(run([*on_it, *joined, *common], temp / f"{address}.log"))
        time.sleep(10)
        two = ("search.trials_per_cell=2", "resources.max_concurrent_trials=1")
        sweep = start(models, tmp_path, *two, RAY_ADDRESS=f"{network.address}:6399")
        wait_for_point(sweep, tmp_path, key(0))
        network.cut(next(address for address, raylet in zip(addresses, processes[1:], strict=True) if workers(raylet)))
        ends_with(sweep, 0)
    finally:
        for process in processes:
            stop(process)
        shutil.rmtree(temp, ignore_errors=True)
    folder = tiny.sweep_folder(tmp_path)
    same_results(folder, undisturbed)
    went_on(folder, key(0))


def run(command, log):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = tiny.environment(RAY_AUTH_MODE="disabled", PATH=path)
    with log.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def stop(process):
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def wait_for_port(address, port, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return
        time.sleep(0.5)
    raise AssertionError(f"nothing listens on {address}:{port}")

"""A sweep on several nodes: processes of this machine, and machines with addresses of their own."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
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
NODES = """
import json, ray
from ray._private.state import state
ray.init(address="auto", log_to_driver=False)
nodes = {"alive": [], "leaving": []}
for node in ray.nodes():
    stays = node["Alive"] and node["NodeID"] not in state.get_draining_nodes()
    nodes["alive" if stays else "leaving"].append(node["NodeManagerAddress"])
print(json.dumps(nodes))
"""


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


@dataclass(frozen=True)
class Machine:
    """A machine that runs `ray start`: it has an address and a view of processes of its own, behind a cable."""

    address: str
    ray: subprocess.Popen
    log: Path

    @property
    def on_it(self):
        """What a command on it begins with."""
        (first,) = psutil.Process(self.ray.pid).children()
        return ["nsenter", f"--target={first.pid}", "--net", "--pid", "--mount", f"--wd={tiny.ROOT}"]

    def wait_until_it_runs(self, seconds=120):
        deadline = time.monotonic() + seconds
        while "Ray runtime started" not in self.log.read_text():
            assert self.ray.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.5)


class Network:
    """A bridge on this machine and machines beyond it, in namespaces."""

    def __init__(self):
        self.tag = f"{os.getpid() % 10_000}"
        self.prefix = f"10.231.{os.getpid() % 250}"
        self.bridge = f"lb{self.tag}"
        self.names = []
        self.machines = []
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._ip("link", "set", self.bridge, "up")
        self.folder = Path(tempfile.mkdtemp(prefix="ln-", dir="/tmp"))  # sockets need short paths

    def add(self, token, *words):
        """A new machine that runs `ray start` with a token."""
        number = len(self.names) + 2
        name, cable, address = f"ln{self.tag}-{number}", self._cable(number), f"{self.prefix}.{number}"
        self.names.append(name)
        self._ip("netns", "add", name)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._ip("link", "set", cable, "master", self.bridge, "up")
        for command in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            self._ip("-n", name, *command)
        self._ip("-n", name, "link", "set", "lo", "up")
        of_its_own = ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        files = f"--temp-dir={self.folder / str(number)}"  # two that start at once would take the same names of sockets
        ray = [RAY, "start", f"--node-ip-address={address}", files, "--block", "--disable-usage-stats", *words]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = self.folder / f"{address}.log"
        with log.open("w") as file:
            environment = tiny.environment(**knows(token), PATH=path)
            started = subprocess.Popen([*of_its_own, *ray], env=environment, stdout=file, stderr=subprocess.STDOUT)
        self.machines.append(Machine(address, started, log))
        return self.machines[-1]

    def cut(self, machine):
        """Pull a machine's cable out."""
        self._ip("link", "set", self._cable(machine.address.rpartition(".")[2]), "down")

    def close(self):
        for machine in self.machines:
            machine.ray.kill()  # and with it all that runs on the machine
            machine.ray.wait(30)
        for number, name in enumerate(self.names, 2):
            self._ip("link", "del", self._cable(number))  # connections that cannot end keep a namespace for minutes
            self._ip("netns", "del", name)
        self._ip("link", "del", self.bridge)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _cable(self, number):
        return f"lv{self.tag}-{number}"

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def network():
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("needs root, iproute2 and util-linux")
    try:
        made = Network()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no bridge can be made here: {error.stderr.strip()}")
    yield made
    made.close()


def knows(token):
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def test_a_machine_that_is_cut_off_in_the_middle_of_a_trial(models, undisturbed, network, tmp_path):
    """All know a token; a machine with another does not join. A notice to the one that is left reaches Ray."""
    token = secrets.token_hex(32)
    head = network.add(token, "--head", "--port=6399", "--num-cpus=0", "--include-dashboard=false")
    head.wait_until_it_runs()
    join = (f"--address={head.address}:6399", "--num-cpus=2")
    machines = [network.add(token, *join) for _ in range(2)]
    stranger = network.add(secrets.token_hex(32), *join)
    for machine in machines:
        machine.wait_until_it_runs()
    two = ("search.trials_per_cell=2", "resources.max_concurrent_trials=1")
    sweep = start(models, tmp_path, *two, on=head.on_it, RAY_ADDRESS=f"{head.address}:6399", **knows(token))
    wait_for_point(sweep, tmp_path, key(0))
    lost = next(machine for machine in machines if workers(machine.ray))
    network.cut(lost)
    ends_with(sweep, 0)
    folder = tiny.sweep_folder(tmp_path)
    same_results(folder, undisturbed)
    went_on(folder, key(0))
    assert stranger.ray.poll() not in (None, 0) and "InvalidAuthToken" in stranger.log.read_text()
    (left,) = (machine for machine in machines if machine is not lost)
    assert told(left, token, "-m", "orchestrator.tuning.notice", "now") == "this node ends within 30 s; Ray knows\n"
    nodes = json.loads(told(head, token, "-c", NODES))
    assert nodes["alive"] == [head.address]
    assert sorted(nodes["leaving"]) == sorted([lost.address, left.address])


def told(machine, token, *words):
    """What Python says on a machine."""
    command, environment = [*machine.on_it, sys.executable, *words], tiny.environment(**knows(token))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

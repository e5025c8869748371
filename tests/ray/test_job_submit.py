"""`ray job submit` against a head of our own that asks for a token."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny

pytestmark = pytest.mark.ray
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def head():
    """A head with two CPUs and its own token; yields the environment of a client, and the dashboard's address."""
    folder = Path(tempfile.mkdtemp(prefix="lh-", dir="/tmp"))  # sockets need short paths
    gcs, dashboard, agent_http, agent_grpc = free_ports(4)
    token = secrets.token_hex(32)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = tiny.environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, PATH=path)
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent_http}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 90
        while (listed := ray_job(environment, "list", "--address", address)).returncode != 0:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text() + str(
                listed
            )
            time.sleep(1)
        yield environment, address
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def ray_job(environment, *arguments):
    return subprocess.run(
        [RAY, "job", *arguments],
        cwd=tiny.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def submit(head, *arguments, **more):
    environment, address = head
    sweep = ["python", "-m", "orchestrator.sweep", *arguments]
    return ray_job({**environment, **more}, "submit", "--address", address, "--working-dir", ".", "--", *sweep)


def test_a_submitted_sweep_runs_and_returns_success(head, models, tmp_path):
    more = ("methods=[ME+GD]", "search.trials_per_cell=1")
    done = submit(head, *tiny.settings(models, tmp_path, *more))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    log = load_sweep(tiny.sweep_folder(tmp_path))
    assert log.ended.state == "done"
    assert set(log.trials) == {"retain_model/forget10", "before/forget10", "ME+GD/forget10/t000"}
    assert "report   " in done.stdout


def test_bad_input_fails_the_job_and_says_why(head, models, tmp_path):
    done = submit(head, *tiny.settings(models, tmp_path, "train.learning_rate=-1"))
    assert done.returncode != 0
    assert "error: train.learning_rate: input should be greater than 0, but got -1" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr


def test_a_wrong_token_is_refused(head, models, tmp_path):
    done = submit(head, *tiny.settings(models, tmp_path), RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert done.returncode != 0
    assert "the authentication token is invalid or incorrect" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())

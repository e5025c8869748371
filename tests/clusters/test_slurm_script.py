"""The SLURM script runs from start to end where small programs stand for SLURM, Apptainer, Ray and the sweep."""

import contextlib
import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.clusters.conftest import CLUSTERS

# Each writes down what it was asked. `apptainer exec OPTIONS IMAGE COMMAND` runs the command, as it is on this machine.
PROGRAMS = {
    "apptainer": """
        [ "$1" = exec ] || { echo "pulled $*" >> "$LOG"; touch "$2"; exit 0; }
        while [ "$1" != "$LETHE_IMAGE" ]; do shift; done
        shift
        exec "$@"
    """,
    "ray": """
        echo "ray $* | $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH" >> "$LOG"
        exec sleep 300
    """,
    "python": """
        case "$*" in
            -c*) exec python3 "$@" ;;
            -m*) ;;
            *) cat > /dev/null; echo "waited for $2 nodes at $RAY_ADDRESS" >> "$LOG"; exit 0 ;;
        esac
        trap 'echo "sweep closed" >> "$LOG"; exit 130' TERM
        echo "sweep $*" >> "$LOG"
        if [ "$FAKE_SWEEP" = ends ]; then
            until [ "$(grep -c '^ray start' "$LOG")" -ge "$HEADS" ]; do sleep 0.05; done
            exit 1
        fi
        while true; do sleep 0.1; done
    """,
    "srun": """
        echo "srun ${*%%bash -c*}" >> "$LOG"
        while [ "$1" != bash ]; do shift; done
        exec "$@"
    """,
    "scontrol": 'echo "scontrol $*" >> "$LOG"',
    "hostname": 'case "$1" in -s) echo node1 ;; *) echo "10.0.0.1 172.17.0.1 " ;; esac',
}


@pytest.fixture
def job(tmp_path):
    """Starts the script for a job of `nodes` nodes; returns the process. What the programs wrote is in tmp_path/log."""
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    started = []

    def start(nodes=2, **more):
        environment = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "LOG": str(tmp_path / "log"),
            "SLURM_JOB_ID": f"test{os.getpid()}", "SLURM_JOB_NAME": "lethe", "SLURM_CPUS_PER_TASK": "32",
            "SLURM_JOB_NUM_NODES": str(nodes), "SLURMD_NODENAME": "gpu-node1",
            "LETHE_IMAGE": str(tmp_path / "lethe.sif"), "FAKE_SWEEP": "runs", "HEADS": "1", **more,
        }  # fmt: skip
        command = ["bash", str(CLUSTERS / "slurm.sbatch"), "tofu_search", "search.trials_per_cell=3"]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait(10)


def lines(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def wait_for(tmp_path, words, number=1):
    deadline = time.monotonic() + 120
    while sum(line.startswith(words) for line in lines(tmp_path)) < number:
        assert time.monotonic() < deadline, lines(tmp_path)
        time.sleep(0.05)


def left_of(process):
    """Processes of the job that are still there."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(pid) == process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def ended_by(number, job, tmp_path, code):
    """A job of two nodes that a signal ended while its sweep ran, and what it printed."""
    process = job()
    wait_for(tmp_path, "sweep ")
    wait_for(tmp_path, "ray start", 2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    return process, out


def test_the_signal_before_the_limit_closes_the_sweep_and_queues_the_job_again(job, tmp_path):
    process, out = ended_by(signal.SIGUSR1, job, tmp_path, 0)
    said = lines(tmp_path)
    job_id = f"test{os.getpid()}"
    assert said[-2:] == ["sweep closed", f"scontrol requeue {job_id}"]
    (sweep,) = [line for line in said if line.startswith("sweep -m")]
    assert sweep == (
        f"sweep -m orchestrator.sweep tofu_search --resume {tmp_path}/lethe/sweeps/lethe-tofu_search "
        f"tracking.uri=sqlite:////tmp/lethe-{job_id}/mlflow.db search.trials_per_cell=3"
    )
    head, worker = [line for line in said if line.startswith("ray start")]
    assert "--head --block --node-ip-address=10.0.0.1 " in head and "--num-cpus=32" in head
    port = head.split("--port=")[1].split()[0]
    assert f"--block --address=10.0.0.1:{port} --node-ip-address=10.0.0.1 " in worker
    (asked,) = [line.split() for line in said if line.startswith("srun")]
    # SLURM hands a job's --cpus-per-task on to no srun; without it a worker would have one core.
    assert asked[1:6] == ["--nodes=1", "--ntasks=1", "--cpus-per-task=32", "--exclude=gpu-node1", "--export=ALL"]
    assert f"waited for 2 nodes at 10.0.0.1:{port}" in said
    token = tmp_path / ".ray" / "auth_token"
    assert all(line.endswith(f"| token {token}") for line in (head, worker))
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
    assert said[0].startswith(f"pulled pull {tmp_path / 'lethe.sif'} docker://ghcr.io/lethe-unlearning/lethe:")
    assert token.read_text() not in "\n".join([out, *said])
    deadline = time.monotonic() + 60
    while left_of(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of(process) == []
    assert not os.path.exists(f"/tmp/lethe-{job_id}")


def test_scancel_closes_the_sweep_and_the_job_is_not_queued_again(job, tmp_path):
    ended_by(signal.SIGTERM, job, tmp_path, 130)
    assert lines(tmp_path)[-1] == "sweep closed"
    assert not [line for line in lines(tmp_path) if line.startswith("scontrol")]


def test_a_sweep_that_ends_ends_the_job_with_its_code_and_is_not_repeated(job, tmp_path):
    process = job(nodes=1, FAKE_SWEEP="ends")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert len([line for line in lines(tmp_path) if line.startswith("ray start")]) == 1
    assert not [line for line in lines(tmp_path) if line.startswith("scontrol")]
    assert "dashboard: ssh -L 8265:127.0.0.1:" in out


def test_two_jobs_get_ports_of_their_own(job, tmp_path):
    for number in (1, 2):
        job(nodes=1, FAKE_SWEEP="ends", HEADS=str(number)).communicate(timeout=120)
    first, second = [line.split("--port=")[1].split()[0] for line in lines(tmp_path) if line.startswith("ray start")]
    assert first != second

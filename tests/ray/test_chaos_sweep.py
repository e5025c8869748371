"""Real processes are killed in the middle of a real sweep."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from orchestrator.tracking.journal import TrialState, load_sweep
from tests.ray import tiny

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
KEY = "GA+GD/forget10/t000"


def start(models, storage, *more):
    arguments = tiny.settings(models, storage, "methods=[GA+GD]", "search.trials_per_cell=1", *more)
    command = [sys.executable, "-m", "orchestrator.sweep", *arguments]
    return subprocess.Popen(
        command, cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_steps(sweep, storage):
    """Until the trial's first steps are in the journal."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and sweep.poll() is None:
        segments = list(storage.glob("*/journal/*.jsonl"))
        if any(b'"kind":"steps_reported"' in segment.read_bytes() for segment in segments):
            return
        time.sleep(0.2)
    pytest.fail("no steps: " + sweep.communicate(timeout=60)[0])


def workers(sweep):
    """The Train workers of this sweep's own Ray."""
    family = psutil.Process(sweep.pid).children(recursive=True)
    return [process for process in family if process.cmdline()[:1] == ["ray::RayTrainWorker.execute"]] or [
        process for process in family if process.cmdline() and process.cmdline()[0].startswith("ray::RayTrainWorker")
    ]


@pytest.mark.parametrize("rank_place", [0, -1])
def test_a_trial_whose_worker_is_killed_starts_again_and_ends_as_if_undisturbed(models, tmp_path, rank_place):
    sweep = start(models, tmp_path, "train.epochs=300")
    wait_for_steps(sweep, tmp_path)
    workers(sweep)[rank_place].send_signal(signal.SIGKILL)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    log = load_sweep(tiny.sweep_folder(tmp_path))
    trial = log.trials[KEY]
    assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
    assert [step.step for step in trial.steps] == list(range(750))  # 300 epochs x 10 rows / batch 4, each once


def test_sigterm_saves_the_state_and_ends_with_130(models, tmp_path):
    sweep = start(models, tmp_path, "train.epochs=3000")
    wait_for_steps(sweep, tmp_path)
    sweep.send_signal(signal.SIGTERM)
    out = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130, out
    folder = tiny.sweep_folder(tmp_path)
    assert f"--resume {folder}" in out
    assert load_sweep(folder).ended.state == "interrupted"

"""Real workers are killed, stopped and starved, one trial of a real sweep after another."""

import re
import signal
import time

import psutil
import pytest

from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import (
    NUM_TRIALS,
    actors,
    ends_with,
    key,
    num_reports,
    points,
    same_results,
    start,
    wait_for_point,
    wait_until,
    went_on,
    workers,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
FIRST_KILLED, STOPPED, NO_ROOM, ALWAYS_KILLED, LAST_KILLED, HOLDER_KILLED = range(NUM_TRIALS)


def test_one_fault_of_workers_after_another(models, undisturbed, tmp_path):
    sweep = start(
        models, tmp_path, "resources.hang_seconds=10", "resources.max_attempts=2", "search.max_failed_share=0.5"
    )

    wait_for_point(sweep, tmp_path, FIRST_KILLED)
    workers(sweep)[0].kill()

    wait_for_point(sweep, tmp_path, STOPPED)
    workers(sweep)[-1].send_signal(signal.SIGSTOP)

    wait_for_point(sweep, tmp_path, NO_ROOM)
    limit(sweep, 10_000)
    time.sleep(1.3)
    newest = max(points(tmp_path, NO_ROOM))
    time.sleep(2.0)
    assert newest == max(points(tmp_path, NO_ROOM))
    limit(sweep, psutil.RLIM_INFINITY)

    for _ in range(2):
        known = num_reports(tmp_path)
        wait_until(
            sweep,
            lambda known=known: num_reports(tmp_path) > known and points(tmp_path, ALWAYS_KILLED),
            f"more steps of trial {ALWAYS_KILLED}",
        )
        group = workers(sweep)
        group[0].kill()
        psutil.wait_procs(group, timeout=60)
        time.sleep(1)  # what they sent last is written

    wait_for_point(sweep, tmp_path, LAST_KILLED)
    workers(sweep)[-1].kill()

    wait_for_point(sweep, tmp_path, HOLDER_KILLED)
    (holder,) = actors(sweep, "ImplicitFunc")
    holder.kill()

    ends_with(sweep, 0)
    folder = tiny.sweep_folder(tmp_path)
    same_results(folder, undisturbed, but={key(ALWAYS_KILLED)})
    for number in (FIRST_KILLED, STOPPED, LAST_KILLED, HOLDER_KILLED):
        went_on(folder, number)
    log = load_sweep(folder)
    assert "cannot be resumed from step" in log.trials[key(NO_ROOM)].finished.notes[0]
    assert not any(log.trials[key(number)].finished.notes for number in (FIRST_KILLED, STOPPED, LAST_KILLED))
    given_up = log.trials[key(ALWAYS_KILLED)].finished
    assert given_up.state == TrialState.FAILED
    assert "given up after 2 starts, resources.max_attempts" in given_up.error


def limit(sweep, num_bytes):
    """How large a file the workers may write."""
    for worker in workers(sweep):
        worker.rlimit(psutil.RLIMIT_FSIZE, (num_bytes, psutil.RLIM_INFINITY))


def test_a_trial_that_needs_more_memory_than_there_is_fails_with_a_hint_and_the_next_one_runs(models, tmp_path):
    """Adapters of rank 10^9 are 128 GB a layer, which no machine of these tests has."""
    more = ("lora={}", "search.sampler=grid", "search.space={lora.r: {choices: [1000000000, 4]}}")
    sweep = start(models, tmp_path, *more, "search.trials_per_cell=2", "search.max_failed_share=0.5", "train.epochs=2")
    ends_with(sweep, 0)
    greedy, modest = (load_sweep(tiny.sweep_folder(tmp_path)).trials[key(number)].finished for number in (0, 1))
    assert greedy.state == TrialState.FAILED
    assert "can't allocate memory" in greedy.error
    assert re.search(r"\(peak [0-9.]+ GiB; lower train.micro_batch_tokens .* or raise zero.stage\)", greedy.error)
    assert modest.state == TrialState.COMPLETE, modest.error

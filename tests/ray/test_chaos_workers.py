"""Real workers are killed, stopped and starved, one trial of a real sweep after another."""

import re
import signal
import time

import psutil
import pytest

from orchestrator.tracking.journal import TrialStarted, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import (
    NUM_TRIALS,
    actors,
    command,
    ends_with,
    key,
    longest_pause,
    losses,
    mlflow_losses,
    mlflow_states,
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
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
FIRST_KILLED, STOPPED, NO_ROOM, ALWAYS_KILLED, LAST_KILLED, HOLDER_KILLED, FULL = map(key, range(NUM_TRIALS))


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
            f"more steps of {ALWAYS_KILLED}",
        )
        group = workers(sweep)
        group[0].kill()
        psutil.wait_procs(group, timeout=60)
        time.sleep(1)  # what they sent last is written

    wait_for_point(sweep, tmp_path, LAST_KILLED)
    workers(sweep)[-1].kill()

    wait_for_point(sweep, tmp_path, HOLDER_KILLED)
    assert not actors(sweep, "PlacementGroupCleaner") and not actors(sweep, "DatasetManager")
    (holder,) = actors(sweep, "ImplicitFunc")
    holder.kill()

    wait_for_point(sweep, tmp_path, FULL)
    limit(sweep, 500)

    ends_with(sweep, 0)
    folder = tiny.sweep_folder(tmp_path)
    full = load_sweep(folder).trials[FULL].finished
    assert full.state == TrialState.FAILED and full.retry
    said = "cannot be written: File too large; a resumed sweep tries this trial again"
    assert re.search(rf"{re.escape(FULL)}/\S+ {said}", full.error)
    assert not list((folder / "trials" / FULL).glob("*.jsonl"))

    out = ends_with(command("--resume", str(folder)), 0)
    assert f"{NUM_TRIALS - 1} trials are done" in out and f"[{NUM_TRIALS + 2}/{NUM_TRIALS + 2}] {FULL}" in out
    same_results(folder, undisturbed, but={ALWAYS_KILLED}, again={FULL})
    assert mlflow_states(folder) == {name: trial.finished.state for name, trial in load_sweep(folder).trials.items()}
    for trial in (FIRST_KILLED, STOPPED, LAST_KILLED, HOLDER_KILLED, FULL):
        went_on(folder, trial)
        print(f"{trial}: {longest_pause(folder, trial):.1f} s from one step to the next")
    shown, told = mlflow_losses(folder), losses(folder)
    assert shown.keys() == told.keys()  # given up, a trial keeps in MLflow what its last start did not get to again
    assert all(shown[name] == told[name] for name in told if name != ALWAYS_KILLED)
    log = load_sweep(folder)
    assert "cannot be resumed from step" in log.trials[NO_ROOM].finished.notes[0]
    assert not any(log.trials[trial].finished.notes for trial in (FIRST_KILLED, STOPPED, LAST_KILLED))
    given_up = log.trials[ALWAYS_KILLED].finished
    assert given_up.state == TrialState.FAILED
    assert "given up after 2 starts, resources.max_attempts" in given_up.error


def limit(sweep, num_bytes):
    """How large a file the workers may write."""
    for worker in workers(sweep):
        worker.rlimit(psutil.RLIMIT_FSIZE, (num_bytes, psutil.RLIM_INFINITY))


def test_what_a_trial_does_wrong_is_no_harm_to_the_next(models, tmp_path):
    """Adapters of rank 10^9 are 128 GB a layer, which no machine of these tests has; 10^30 is no learning rate.

    The first trial that is well is in a group that has no judges yet, and one of its ranks has no room for them.
    """
    space = "{lora.r: {choices: [1000000000, 4]}, train.learning_rate: {choices: [1.0e+30, 1.0e-4, 2.0e-4]}}"
    more = ("lora={}", "search.sampler=grid", "search.trials_per_cell=6", "train.epochs=2")
    method = f"methods=[{{name: GA+GD, space: {space}}}]"
    sweep = start(models, tmp_path, method, *more, "search.max_failed_share=0.9")
    seen = {}  # the whole group that was there last before the next trial started
    limited = None
    while sweep.poll() is None:
        group = workers(sweep)
        if len(group) == 2 and (names := started(tmp_path)):
            seen[names[-1]] = {worker.pid for worker in group}
            if names[-1] == key(4) and limited is None:
                limited = group[-1]
                hold_at_most(limited, 80_000_000)
        time.sleep(0.1)
    ends_with(sweep, 0)
    trials = load_sweep(tiny.sweep_folder(tmp_path)).trials
    *too_large, diverged, too_small, well = (trials[key(number)].finished for number in range(6))
    in_training, in_scoring = "lower train.micro_batch_tokens .* or raise zero.stage", "lower evaluation.batch_size"
    for failed, remedy in ((too_small, in_scoring), *((one, in_training) for one in too_large)):
        assert failed.state == TrialState.FAILED and not failed.retry
        assert re.search(r"(can't|Cannot) allocate memory", failed.error)
        assert re.search(rf"\(peak [0-9.]+ GiB; {remedy}\)", failed.error)
    assert diverged.state == TrialState.DIVERGED
    assert limited.pid in seen[key(3)] and seen[key(3)] == seen[key(4)]  # the group lived on
    assert not seen[key(4)] & seen[key(5)]  # both ranks were replaced
    assert well.state == TrialState.COMPLETE, well.error


def hold_at_most(process, more):
    """How many bytes a process may hold, beyond those that it holds."""
    held = process.memory_info().data + more
    process.rlimit(psutil.RLIMIT_DATA, (held, psutil.RLIM_INFINITY))


def started(storage):
    segment = next(storage.glob("*/journal/*.jsonl"), None)
    records = read_records(segment.parent) if segment else []
    return [record.key for record in records if isinstance(record, TrialStarted)]

"""A real MLflow server is down and hangs beside a real sweep."""

import signal
import time

import pytest

from orchestrator.tracking.journal import StepsReported, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import ends_with, key, losses, mlflow_losses, start, wait_for_point, wait_until
from tests.ray.servers import MlflowServer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
MINUTE = 60
NUM_BASELINES = 2


def test_a_server_that_comes_late_and_then_hangs_for_a_minute(models, undisturbed, tmp_path, record_property):
    """Trials long enough that the sweep is not over before the server is back, on a fast machine either."""
    server, storage = MlflowServer(tmp_path), tmp_path / "storage"
    long = ("train.epochs=600", "search.trials_per_cell=5")
    sweep = start(models, storage, f"tracking.uri={server.url}", *long)
    try:
        wait_for_point(sweep, storage, key(0))
        server.start()
        wait_until(sweep, lambda: num_ended(storage) > NUM_BASELINES, "the end of a trial")
        server.send_signal(signal.SIGSTOP)
        ended = num_ended(storage)
        time.sleep(MINUTE)
        wait_until(sweep, lambda: num_ended(storage) > ended, "the end of another")  # nobody waits for it
        server.send_signal(signal.SIGCONT)
        out = ends_with(sweep, 0)
        folder = tiny.sweep_folder(storage)
        assert {trial.finished.state for trial in load_sweep(folder).trials.values()} == {TrialState.COMPLETE}
        assert out.count(f"MLflow at {server.url}") >= 1
        assert mlflow_losses(folder, server.url) == losses(folder)
    finally:
        server.stop()
    for name, place in (("hung", folder), ("undisturbed", undisturbed)):
        text = ", ".join(f"{pause:.3f}" for pause in longest_pauses(place))
        record_property(f"seconds from report to report at most, {name}", text)
        print(f"{name}: from one report of steps to the next at most {text} s, trial by trial")


def num_ended(storage):
    return sum(segment.read_bytes().count(b'"kind":"trial_finished"') for segment in storage.glob("*/journal/*.jsonl"))


def longest_pauses(folder):
    """Of each trial, the longest time between two of its reports."""
    times = {}
    for record in read_records(folder / "journal"):
        if isinstance(record, StepsReported):
            times.setdefault(record.key, []).append(record.time)
    return [max(later - one for one, later in zip(told, told[1:], strict=False)) for _, told in sorted(times.items())]

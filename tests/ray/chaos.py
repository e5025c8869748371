"""How sweeps are broken, and what must be left of them: shared by the tests that kill, stop and starve processes."""

import contextlib
import itertools
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from orchestrator.tracking.journal import StepsReported, TrialFinished, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny

CELL = "GA+GD/forget10"
NUM_TRIALS = 7
NUM_STEPS = 300  # 120 epochs x 10 rows / batch 4
# Random suggestions do not depend on what became of other trials, so that a trial can be compared whatever they met.
SEARCH = (
    "methods=[GA+GD]", f"search.trials_per_cell={NUM_TRIALS}", "search.sampler=random", "train.epochs=120",
    "checkpoint.every_minutes=0.01",
)  # fmt: skip
STARTED = []


def key(number, cell=CELL):
    return f"{cell}/t{number:03d}"


def start(models, storage, *more, on=(), **environment):
    return command(*tiny.settings(models, storage, *SEARCH, *more), on=on, **environment)


def command(*arguments, on=(), **environment):
    """A sweep in the background, which ends with the test."""
    sweep = tiny.start(arguments, on=on, **environment)
    STARTED.append(sweep)
    return sweep


def stop_all():
    """A test that failed half-way must not slow down those after it."""
    for sweep in STARTED:
        if sweep.poll() is None:
            family = psutil.Process(sweep.pid).children(recursive=True)
            for process in [sweep, *family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            sweep.communicate(timeout=60)
    STARTED.clear()


def wait_until(sweep, condition, what, seconds=600):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and sweep.poll() is None:
        if condition():
            return
        time.sleep(0.05)
    if sweep.poll() is None:
        sweep.kill()
    pytest.fail(f"not in time: {what}\n{sweep.communicate(timeout=60)[0]}")


def ends_with(sweep, code, seconds=900):
    out = sweep.communicate(timeout=seconds)[0]
    assert sweep.returncode == code, out
    return out


def num_reports(storage):
    """How often steps were reported so far."""
    return sum(segment.read_bytes().count(b'"kind":"steps_reported"') for segment in storage.glob("*/journal/*.jsonl"))


def wait_for_point(sweep, storage, trial):
    """Until a trial has left a point that it can go on from, and the journal knows of steps before it."""
    wait_until(sweep, lambda: points(storage, trial) and has_told(storage, trial), f"a point of {trial}, and its steps")


def has_told(storage, trial):
    """Whether steps of a trial are in the journal."""
    lines = (line for segment in Path(storage).glob("*/journal/*.jsonl") for line in segment.open("rb"))
    return any(b'"kind":"steps_reported"' in line and f'"key":"{trial}"'.encode() in line for line in lines)


def points(storage, trial):
    return list(Path(storage).glob(f"*/trials/{trial}/resume/*/manifest.json"))


def told_twice(folder, trial):
    """Numbers of the steps that were reported again as they were, by the clock: those before the point."""
    records = [record for record in read_records(folder / "journal") if isinstance(record, StepsReported)]
    times = Counter(record.time for record in records if record.key == trial)
    return {step.step for record in records if times[record.time] > 1 for step in record.steps}


def went_on(folder, trial):
    """A trial began again at a point in its middle."""
    again = told_twice(folder, trial)
    assert again == set(range(len(again))) and 0 < len(again) < NUM_STEPS


def longest_pause(folder, trial):
    """Seconds between two reports of steps of a trial that are new, at most: what a fault cost."""
    records = [record for record in read_records(folder / "journal") if isinstance(record, StepsReported)]
    times = sorted({record.time for record in records if record.key == trial})
    return max(later - one for one, later in itertools.pairwise(times))


def same_results(folder, undisturbed, but=(), again=()):
    """Every trial, `but` some, ended as in a sweep that nothing happened to, to the last bit.

    It is there once, or twice if it was to be tried `again`. Points are left of none but those to be tried again.
    """
    log, expected = load_sweep(folder), load_sweep(undisturbed)
    assert log.trials.keys() <= expected.trials.keys()
    for name, trial in log.trials.items():
        if name in but:
            continue
        assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
        assert trial.started.params == expected.trials[name].started.params
        assert trial.steps == expected.trials[name].steps
        assert trial.finished.metrics == expected.trials[name].finished.metrics
        assert trial.finished.scores_sha256 == expected.trials[name].finished.scores_sha256
    ends = Counter(record.key for record in read_records(folder / "journal") if isinstance(record, TrialFinished))
    assert ends == {name: 1 + (name in again) for name in ends}
    left = {str(path.parent.relative_to(folder / "trials")) for path in folder.glob("trials/**/resume")}
    assert left <= {name for name, trial in log.trials.items() if trial.finished.retry}


def workers(sweep):
    """The Train workers of this sweep's own Ray."""
    return actors(sweep, "RayTrainWorker")


def actors(sweep, name):
    """The processes of actors of this name in this sweep's own Ray, or below another process."""
    found = []
    for process in psutil.Process(sweep.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it is ending
            if "".join(process.cmdline()[:1]).startswith(f"ray::{name}"):
                found.append(process)
    return found


def mlflow_runs(folder):
    """Names of the runs in the sweep's experiment."""
    return sorted(run.info.run_name for run in _runs(folder))


def mlflow_states(folder):
    """How MLflow says that trials and baselines ended."""
    return {run.info.run_name: run.data.tags["lethe.state"] for run in _runs(folder) if "lethe.state" in run.data.tags}


def losses(folder):
    """The loss of each step of each trial, by the journal."""
    trials = load_sweep(folder).trials
    return {name: [(step.step, step.loss) for step in trial.steps] for name, trial in trials.items()}


def mlflow_losses(folder, uri=None):
    """The same by MLflow, each point that it has."""
    client = MlflowClient(uri or f"sqlite:///{folder.parent / 'mlflow.db'}")
    found = {}
    for run in _runs(folder, uri):
        if run.info.run_name != "report":
            points = client.get_metric_history(run.info.run_id, "train/loss")
            found[run.info.run_name] = sorted((point.step, point.value) for point in points)
    return found


def _runs(folder, uri=None):
    client = MlflowClient(uri or f"sqlite:///{folder.parent / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name.endswith(folder.name)]
    return client.search_runs([experiment.experiment_id])

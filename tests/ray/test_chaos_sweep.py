"""Real processes are killed in the middle of a real sweep."""

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest
from mlflow import MlflowClient

from orchestrator.tracking.journal import StepsReported, TrialFinished, TrialState, load_sweep, read_records
from tests.ray import tiny

pytestmark = [pytest.mark.ray, pytest.mark.chaos]
KEYS = [f"{method}/forget10/t000" for method in ("GA+GD", "NPO+GD")]
NUM_STEPS = 300  # 120 epochs x 10 rows / batch 4
SEARCH = ("methods=[GA+GD,NPO+GD]", "search.trials_per_cell=1", "train.epochs=120", "checkpoint.every_minutes=0.005")
STARTED = []


@pytest.fixture(autouse=True)
def no_sweep_is_left():
    """A test that failed half-way must not slow down those after it."""
    yield
    for sweep in STARTED:
        if sweep.poll() is None:
            family = psutil.Process(sweep.pid).children(recursive=True)
            for process in [sweep, *family]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            sweep.communicate(timeout=60)
    STARTED.clear()


def start(models, storage, *more):
    return command(*tiny.settings(models, storage, *SEARCH, *more))


def command(*arguments):
    command = [sys.executable, "-m", "orchestrator.sweep", *arguments]
    sweep = subprocess.Popen(
        command, cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    STARTED.append(sweep)
    return sweep


def num_reports(storage):
    """How often steps were reported so far."""
    return sum(segment.read_bytes().count(b'"kind":"steps_reported"') for segment in storage.glob("*/journal/*.jsonl"))


def wait_for_steps(sweep, storage, more_than=0):
    """Until a trial's first steps are in the journal, or some more."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and sweep.poll() is None:
        if num_reports(storage) > more_than:
            return
        time.sleep(0.1)
    pytest.fail("no steps: " + sweep.communicate(timeout=60)[0])


def wait_for_point(sweep, storage, key):
    """Until a trial has left a point that it can go on from."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and sweep.poll() is None:
        if any(storage.glob(f"*/trials/{key}/resume/*/manifest.json")):
            return
        time.sleep(0.05)
    pytest.fail("no point: " + sweep.communicate(timeout=60)[0])


def told_twice(folder, key):
    """Numbers of the steps that were reported again as they were, by the clock: those before the point."""
    records = [record for record in read_records(folder / "journal") if isinstance(record, StepsReported)]
    times = Counter(record.time for record in records if record.key == key)
    return {step.step for record in records if times[record.time] > 1 for step in record.steps}


def same_results(folder, undisturbed):
    """Every trial ended as in a sweep that nothing happened to, to the last bit, and is there once."""
    log, expected = load_sweep(folder), load_sweep(undisturbed)
    assert log.trials.keys() == expected.trials.keys()
    for key, trial in log.trials.items():
        assert trial.finished.state == TrialState.COMPLETE, trial.finished.error
        assert trial.started.params == expected.trials[key].started.params
        assert trial.steps == expected.trials[key].steps
        assert trial.finished.metrics == expected.trials[key].finished.metrics
        assert trial.finished.scores_sha256 == expected.trials[key].finished.scores_sha256
    ends = Counter(record.key for record in read_records(folder / "journal") if isinstance(record, TrialFinished))
    assert set(ends.values()) == {1}
    assert not list(folder.glob("trials/**/resume"))


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    sweep = start(models, storage)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    folder = tiny.sweep_folder(storage)
    assert [step.step for step in load_sweep(folder).trials[KEYS[0]].steps] == list(range(NUM_STEPS))
    return folder


def workers(sweep):
    """The Train workers of this sweep's own Ray."""
    found = []
    for process in psutil.Process(sweep.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it is ending
            if "".join(process.cmdline()[:1]).startswith("ray::RayTrainWorker"):
                found.append(process)
    return found


@pytest.mark.parametrize("rank_place", [0, -1])
def test_a_trial_whose_worker_is_killed_goes_on_from_its_last_point(models, undisturbed, tmp_path, rank_place):
    sweep = start(models, tmp_path)
    wait_for_point(sweep, tmp_path, KEYS[0])
    workers(sweep)[rank_place].send_signal(signal.SIGKILL)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    folder = tiny.sweep_folder(tmp_path)
    same_results(folder, undisturbed)
    again = told_twice(folder, KEYS[0])
    assert again == set(range(len(again))) and 0 < len(again) < NUM_STEPS


def test_a_sweep_whose_driver_is_killed_is_resumed_in_the_middle_of_a_trial(models, undisturbed, tmp_path):
    sweep = start(models, tmp_path)
    wait_for_point(sweep, tmp_path, KEYS[1])
    family = workers(sweep)
    sweep.kill()
    assert psutil.wait_procs(family, timeout=60)[1] == []  # nobody is left to write beside those who go on
    folder = tiny.sweep_folder(tmp_path)
    before = load_sweep(folder).trials
    assert before[KEYS[0]].finished is not None and before[KEYS[1]].finished is None
    resumed = command("--resume", str(folder))
    out = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, out
    same_results(folder, undisturbed)
    assert load_sweep(folder).trials[KEYS[0]].finished == before[KEYS[0]].finished
    assert told_twice(folder, KEYS[1])
    runs = mlflow_runs(folder)
    assert sorted(runs) == sorted({*load_sweep(folder).trials, "report"})


def test_a_rank_that_hangs_is_replaced(models, undisturbed, tmp_path):
    sweep = start(models, tmp_path, "resources.hang_seconds=10")
    wait_for_point(sweep, tmp_path, KEYS[0])
    workers(sweep)[-1].send_signal(signal.SIGSTOP)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    same_results(tiny.sweep_folder(tmp_path), undisturbed)
    assert told_twice(tiny.sweep_folder(tmp_path), KEYS[0])


def test_a_trial_whose_workers_die_every_time_is_given_up_and_the_sweep_goes_on(models, tmp_path):
    sweep = start(models, tmp_path, "resources.max_attempts=2", "search.max_failed_share=0.5")
    known = 0
    for _ in range(2):
        wait_for_steps(sweep, tmp_path, known)
        group = workers(sweep)
        group[0].send_signal(signal.SIGKILL)
        psutil.wait_procs(group, timeout=60)
        time.sleep(1)  # what they sent last is written
        known = num_reports(tmp_path)
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    first, second = (load_sweep(tiny.sweep_folder(tmp_path)).trials[key].finished for key in KEYS)
    assert first.state == TrialState.FAILED
    assert "given up after 2 starts, resources.max_attempts" in first.error
    assert second.state == TrialState.COMPLETE


def test_a_disk_without_room_for_points_costs_nothing(models, undisturbed, tmp_path):
    sweep = start(models, tmp_path)
    wait_for_point(sweep, tmp_path, KEYS[0])
    for worker in workers(sweep):
        worker.rlimit(psutil.RLIMIT_FSIZE, (10_000, psutil.RLIM_INFINITY))
    time.sleep(0.7)
    newest = max(tmp_path.glob(f"*/trials/{KEYS[0]}/resume/*/manifest.json"))
    time.sleep(1.5)
    assert newest == max(tmp_path.glob(f"*/trials/{KEYS[0]}/resume/*/manifest.json"))
    for worker in workers(sweep):
        worker.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    out = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, out
    same_results(tiny.sweep_folder(tmp_path), undisturbed)


def test_a_disk_without_room_for_the_journal_ends_the_sweep_and_it_is_resumed(models, undisturbed, tmp_path):
    sweep = start(models, tmp_path)
    wait_for_point(sweep, tmp_path, KEYS[1])
    (segment,) = tmp_path.glob("*/journal/*.jsonl")
    psutil.Process(sweep.pid).rlimit(psutil.RLIMIT_FSIZE, (segment.stat().st_size + 100, psutil.RLIM_INFINITY))
    out = sweep.communicate(timeout=300)[0]
    folder = tiny.sweep_folder(tmp_path)
    assert sweep.returncode == 1, out
    assert f"error: {segment} cannot be written: File too large; nothing that was recorded is lost" in out
    assert f"--resume {folder}" in out
    assert not segment.read_bytes().endswith(b"\n")  # torn, and left so
    resumed = command("--resume", str(folder))
    out = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, out
    same_results(folder, undisturbed)


def mlflow_runs(folder):
    """Names of the runs in the sweep's experiment."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name.endswith(folder.name)]
    return [run.info.run_name for run in client.search_runs([experiment.experiment_id])]


def test_sigterm_saves_the_state_and_ends_with_130(models, tmp_path):
    sweep = start(models, tmp_path, "train.epochs=3000")
    wait_for_steps(sweep, tmp_path)
    sweep.send_signal(signal.SIGTERM)
    out = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130, out
    folder = tiny.sweep_folder(tmp_path)
    assert f"--resume {folder}" in out
    assert load_sweep(folder).ended.state == "interrupted"

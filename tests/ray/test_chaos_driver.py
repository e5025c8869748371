"""Real drivers are told to stop, killed and starved, and their sweep is resumed each time."""

import hashlib
import shutil
import signal
import time

import psutil
import pytest

from orchestrator.storage import Storage, join
from orchestrator.tracking.journal import StepsReported, SweepStarted, has_records, read_records
from orchestrator.tracking.kept_journal import fetch_journal
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.chaos import (
    SEARCH,
    command,
    ends_with,
    key,
    mlflow_runs,
    same_results,
    start,
    wait_for_point,
    wait_until,
    went_on,
    workers,
)
from tests.stores import new_bucket

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(2400),
    pytest.mark.usefixtures("no_sweep_is_left"),
]
# Two cells, each of which is searched by what came out of its trials before, side by side.
CELLS = ("GA+GD/forget10", "NPO+GD/forget10")
TPE = ("methods=[GA+GD, NPO+GD]", "search.trials_per_cell=3", "search.sampler=tpe", "search.startup_trials=1")
TERMINATED, KILLED, INTERRUPTED_TWICE, NO_ROOM = (key(number, cell) for number in range(2) for cell in CELLS)


@pytest.fixture(scope="module")
def searched(models, tmp_path_factory):
    """The search of two cells when nothing happens to it."""
    storage = tmp_path_factory.mktemp("searched")
    ends_with(start(models, storage, *TPE), 0)
    return tiny.sweep_folder(storage)


def test_one_fault_of_the_driver_after_another(models, searched, tmp_path, record_property):
    sweep = start(models, tmp_path, *TPE)
    wait_for_point(sweep, tmp_path, TERMINATED)
    folder = tiny.sweep_folder(tmp_path)
    sent = time.time()
    sweep.send_signal(signal.SIGTERM)
    assert f"--resume {folder}" in ends_with(sweep, 130)
    ended = load_sweep(folder).ended
    assert ended.state == "interrupted"
    record_property("seconds from SIGTERM to the last record", ended.time - sent)
    print(f"the journal was closed {ended.time - sent:.2f} s after SIGTERM")

    sweep = command("--resume", str(folder))
    wait_for_point(sweep, tmp_path, KILLED)
    before = load_sweep(folder).trials[TERMINATED].finished
    family = workers(sweep)
    sweep.kill()
    assert psutil.wait_procs(family, timeout=60)[1] == []  # nobody is left to write beside those who go on

    sweep = command("--resume", str(folder))
    wait_for_point(sweep, tmp_path, INTERRUPTED_TWICE)
    assert load_sweep(folder).trials[TERMINATED].finished == before
    sweep.send_signal(signal.SIGINT)
    wait_until(sweep, lambda: load_sweep(folder).ended is not None, "the end of the journal")
    sweep.send_signal(signal.SIGINT)
    assert "interrupted" in ends_with(sweep, 130)

    sweep = command("--resume", str(folder))
    wait_for_point(sweep, tmp_path, NO_ROOM)
    segment = max(folder.glob("journal/*.jsonl"))
    psutil.Process(sweep.pid).rlimit(psutil.RLIMIT_FSIZE, (segment.stat().st_size + 100, psutil.RLIM_INFINITY))
    out = ends_with(sweep, 1)
    assert f"error: {segment} cannot be written: File too large; nothing that was recorded is lost" in out
    assert f"--resume {folder}" in out
    assert not segment.read_bytes().endswith(b"\n")  # torn, and left so

    ends_with(command("--resume", str(folder)), 0)
    same_results(folder, searched)
    assert list(load_sweep(folder).trials) == list(load_sweep(searched).trials)  # the last of each cell among them
    for trial in (TERMINATED, KILLED, INTERRUPTED_TWICE, NO_ROOM):
        went_on(folder, trial)
    assert mlflow_runs(folder) == sorted({*load_sweep(folder).trials, "report"})


def test_a_head_that_is_lost_with_its_disk(models, undisturbed, s3, tmp_path, record_property):
    """The sweep is kept in S3; home is where a head has its copies. The same command starts it and goes on with it."""
    place = join(new_bucket(s3), "mine")
    kept = Storage(tmp_path / "look", place)
    settings = tiny.settings(models, "none", *SEARCH, "search.trials_per_cell=2")
    again = [*(one for one in settings if not one.startswith("storage=")), "--resume", place]
    sweep = command(*again, HOME=str(tmp_path / "first"))  # nothing is there yet: it starts
    wait_until(sweep, lambda: points_in(kept, 1), "a point of trial 1 in the store")
    family = workers(sweep)
    sweep.kill()
    psutil.wait_procs(family, timeout=60)
    shutil.rmtree(tmp_path / "first")
    log = recorded(kept)
    assert log.trials[key(0)].finished is not None
    assert key(1) not in log.trials or log.trials[key(1)].finished is None  # one of the last ten seconds

    sweep = command(*again, HOME=str(tmp_path / "second"))
    wait_until(sweep, lambda: trains_again(tmp_path / "second", 1), "steps of trial 1 on the second head")
    sent = time.time()
    sweep.send_signal(signal.SIGTERM)
    wait_until(sweep, lambda: recorded(kept).ended is not None, "the end of the journal in the store")
    record_property("seconds from SIGTERM to the last record in the store", time.time() - sent)
    print(f"the journal in the store was closed {time.time() - sent:.2f} s after SIGTERM")
    assert "go on with" in ends_with(sweep, 130)

    out = ends_with(command(*again, HOME=str(tmp_path / "third")), 0)
    assert "1 trials are done" in out
    (folder,) = (tmp_path / "third" / "lethe").glob("mine-*")
    same_results(folder, undisturbed)
    assert went_on_with_what_was_lost(folder, 1)
    assert set(kept.names()) >= {"journal", "report.html", "trials"} and not points_in(kept, 1)
    trial = load_sweep(folder).trials[key(1)].finished
    assert hashlib.sha256(kept.fetch(trial.scores_path).read_bytes()).hexdigest() == trial.scores_sha256
    shown = ends_with(command("--resume", place, HOME=str(tmp_path / "fourth")), 0)  # nothing is left to do
    assert "2 trials are done" in shown


def recorded(kept):
    """The journal as it is in the store."""
    fetch_journal(kept)
    return load_sweep(kept.local)


def trains_again(home, number):
    """Whether a second head, whose home this is, has steps of a trial from its own sitting."""
    begun = [folder for folder in (home / "lethe").glob("mine-*") if has_records(folder)]
    records = [record for folder in begun for record in read_records(folder / "journal")]
    sittings = [record.time for record in records if isinstance(record, SweepStarted)]
    steps = [record.time for record in records if isinstance(record, StepsReported) and record.key == key(number)]
    return len(sittings) > 1 and max(steps, default=0.0) > sittings[1]


def went_on_with_what_was_lost(folder, number):
    """Steps of the sitting before, which it may not have brought into the store, are told by the trial again."""
    records = list(read_records(folder / "journal"))
    resumed = [record.time for record in records if isinstance(record, SweepStarted)][-1]
    steps = [record for record in records if isinstance(record, StepsReported) and record.key == key(number)]
    begun = [record.time for record in steps if record.steps[0].step == 0]
    return bool(begun) and max(begun) < resumed


def points_in(kept, number):
    """Points of a trial that are whole."""
    resume = kept.sub(f"trials/{key(number)}/resume")
    return [name for name in resume.names() if "manifest.json" in resume.sub(name).names()]

"""A real sweep whose trials are stopped at rungs, cut off in the middle, and resumed."""

import signal
import sqlite3
import threading

import pytest

from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep
from orchestrator.tuning.early_stopping import SuccessiveHalving
from tests.ray import tiny

pytestmark = pytest.mark.ray
STOPPING = EarlyStoppingConfig(rungs=(0.2, 0.4), keep=0.5, min_trials=1, rows_per_set=2)
SETTINGS = (
    "methods=[GA+GD]",
    "search.trials_per_cell=12",
    "search.sampler=random",
    f"early_stopping={{rungs: [0.2, 0.4], keep: {STOPPING.keep}, min_trials: 1, rows_per_set: 2}}",
)


class Groups(threading.Thread):
    """Which worker groups there were: each leaves a folder of Ray Train until the sweep ends."""

    def __init__(self, storage):
        super().__init__(daemon=True)
        self.storage, self.seen, self.ended = storage, set(), threading.Event()

    def run(self):
        while not self.ended.wait(0.2):
            self.seen |= {path.name for path in self.storage.glob("*/.ray/lethe-*")}


def interrupted(models, storage):
    """A sweep that is told to end when its first trial is stopped; the worker groups that it had."""
    sweep = tiny.start(tiny.settings(models, storage, *SETTINGS))
    groups, seen, stopped = Groups(storage), [], False
    groups.start()
    for line in sweep.stdout:
        seen.append(line)
        if stopped and "GA+GD/forget10/t" in line:  # the trial after it
            sweep.send_signal(signal.SIGINT)
            break
        stopped = stopped or "PRUNED: stopped at rung" in line
    rest = sweep.communicate(timeout=120)[0]
    groups.ended.set()
    assert sweep.returncode == 130, "".join(seen) + rest
    return groups.seen


@pytest.fixture(scope="module")
def cut_and_whole(models, tmp_path_factory):
    storage = tmp_path_factory.mktemp("stopped")
    groups = interrupted(models, storage)
    folder = tiny.sweep_folder(storage)
    cut = load_sweep(folder)
    done = tiny.run(["--resume", str(folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    return groups, cut, load_sweep(folder), folder


def test_trials_that_are_behind_are_stopped_and_the_slot_lives_on(cut_and_whole):
    groups, cut, _, _ = cut_and_whole
    ended = [trial.finished.state for trial in cut.searched() if trial.finished]
    assert TrialState.PRUNED in ended[:-1]
    assert len(groups) == 1


def test_the_journal_says_which_and_a_resumed_sweep_decides_by_all_of_it(cut_and_whole):
    _, cut, log, _ = cut_and_whole
    halving = SuccessiveHalving(STOPPING, [objective.direction for objective in log.header.objectives])
    stopped = {rung.key for rung in log.rungs if not halving.reach(rung)}
    trials = log.searched()
    assert log.ended.state == "done" and len(trials) == 12
    assert {t.started.key for t in trials if t.finished.state == TrialState.PRUNED} == stopped
    assert {t.finished.state for t in trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    assert log.rungs[: len(cut.rungs)] == cut.rungs and len(log.rungs) > len(cut.rungs)
    for trial in trials:
        rungs = [rung for rung in log.rungs if rung.key == trial.started.key]
        if trial.finished.state == TrialState.PRUNED:
            assert trial.finished.objectives == rungs[-1].objectives and trial.finished.metrics == {}
            assert len(trial.steps) == rungs[-1].step < 5
            assert trial.checkpoint is None
        else:
            assert [(rung.rung, rung.step) for rung in rungs][-2:] == [(1, 1), (2, 2)] and len(trial.steps) == 5
    assert not any(rung.key.startswith(("before", "retain_model")) for rung in log.rungs)


def test_nothing_is_left_of_what_a_stopped_trial_would_have_gone_on_from(cut_and_whole):
    _, _, log, folder = cut_and_whole
    for trial in log.searched():
        if trial.finished.state == TrialState.PRUNED:
            assert not list((folder / "trials" / trial.started.key).rglob("*.safetensors"))


def test_mlflow_shows_stopped_trials_as_killed_with_their_rungs(cut_and_whole):
    _, _, log, folder = cut_and_whole
    with sqlite3.connect(folder.parent / "mlflow.db") as store:
        states = dict(store.execute("select name, status from runs where lifecycle_stage = 'active'"))
        query = (
            "select name, step, value from runs join metrics using (run_uuid) "
            "where key = 'rung/forget_efficacy' and lifecycle_stage = 'active'"
        )
        shown = {(name, step): value for name, step, value in store.execute(query)}
    wanted = {TrialState.PRUNED: "KILLED", TrialState.COMPLETE: "FINISHED"}
    assert {t.started.key: states[t.started.key] for t in log.searched()} == {
        t.started.key: wanted[t.finished.state] for t in log.searched()
    }
    assert shown == {(r.key, r.step): pytest.approx(r.metrics["forget_efficacy"]) for r in log.rungs}

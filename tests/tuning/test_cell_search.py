"""Suggestions are a function of the cell's seed, the trial's number and what was known by then."""

import itertools
import json
import random

import pytest
from ray.tune.search import Searcher

from orchestrator.config import SearchConfig, trial_config
from orchestrator.load_config import load_config
from orchestrator.tracking.journal import ObjectiveRecord, TrialFinished, TrialStarted, TrialState, TrialTaken
from orchestrator.tracking.sweep_log import TrialLog
from orchestrator.tuning.cell_search import Baseline, Cell, CellSearch
from orchestrator.tuning.cell_study import CellStudy, distributions, trial_key
from orchestrator.worker.job import TrialJob

SWEEP = load_config("quickstart")
SPACE = distributions(SWEEP.search.space)
FIRST = {"train.learning_rate": 1e-3, "method.beta": 0.1, "method.forget_weight": 1.0}
OBJECTIVES = tuple(ObjectiveRecord(metric=name, direction="maximize", worst=0) for name in SWEEP.objectives)


def study(*, lookahead=1, seed=5, sampler="tpe"):
    search = SearchConfig(trials_per_cell=99, sampler=sampler, startup_trials=3)
    return CellStudy("GA+GD/forget05", SPACE, FIRST, ["maximize", "maximize"], search, seed, lookahead)


def result(number, state=TrialState.COMPLETE, key="k"):
    values = None if state == TrialState.FAILED else (0.5 + 0.01 * number, 0.9 - 0.02 * number)
    return TrialFinished(key=key, state=state, objectives=values)


def run(cell, number, order=None):
    """Suggest `number` trials, answering those that are outstanding in `order` as late as the study allows."""
    params, waiting = [], []
    while len(params) < number:
        suggestion = cell.suggest()
        if suggestion is None:
            if order:
                order.shuffle(waiting)
            done = waiting.pop(0)
            cell.add_result(done, result(done))
        else:
            waiting.append(len(params))
            params.append(suggestion)
    return params


def test_first_trial_takes_the_paper_settings_and_the_default_learning_rate():
    assert study().suggest() == FIRST


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_same_seed_same_suggestions_and_other_seed_others(sampler):
    one, same, other = (run(study(seed=seed, sampler=sampler), 6) for seed in (5, 5, 6))
    assert one == same
    assert one[1:] != other[1:]
    assert all(SPACE[key]._contains(value) for params in one for key, value in params.items())


def test_order_of_completion_changes_nothing():
    orders = [run(study(lookahead=4), 12, random.Random(seed)) for seed in range(3)]
    assert orders[0] == orders[1] == orders[2]


def test_waits_for_the_result_that_it_must_know():
    cell = study(lookahead=2)
    assert cell.suggest() is not None
    assert cell.suggest() is not None
    assert cell.suggest() is None
    cell.add_result(1, result(1))
    assert cell.suggest() is None
    cell.add_result(0, result(0))
    assert cell.suggest() is not None


def test_what_a_trial_scored_moves_later_suggestions():
    good, bad = study(sampler="tpe"), study(sampler="tpe")
    for number in range(8):
        assert good.suggest() is not None and bad.suggest() is not None
        good.add_result(number, result(number))
        bad.add_result(number, result(-number))
    assert good.suggest() != bad.suggest()


def test_states_are_told_as_decided():
    cell = study(sampler="random")
    states = [TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED, TrialState.PRUNED]
    for number, state in enumerate(states):
        cell.suggest()
        cell.add_result(number, result(number, state))
    cell.suggest()
    told = [trial.state.name for trial in cell._study.trials[:4]]
    assert told == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


class Tape:
    """A recorder that remembers."""

    def __init__(self):
        self.records = []

    def record(self, record):
        self.records.append(record)


def job(key, params=None):
    config = trial_config(SWEEP, SWEEP.methods[0], "forget05", params or {})
    return TrialJob(
        key=key,
        config=config,
        params=params or {},
        place="/d",
        objectives=OBJECTIVES,
        keep_weights=True,
    )


def search(tape, *, finished=None, cells=("A", "B"), per_cell=3, baselines=(), budget=lambda: None):
    made = []
    for index, name in enumerate(cells):
        config = SearchConfig(trials_per_cell=per_cell, startup_trials=2)
        space = distributions({k: v for k, v in SWEEP.search.space.items() if k != "method.beta"})
        cell_study = CellStudy(name, space, FIRST, ["maximize"] * 2, config, index, 1)

        def make(number, params, name=name):
            return job(trial_key(name, number), params)

        made.append(Cell(name, name, "forget05", cell_study, per_cell, make))
    slot = {"sweep": "s", "num_workers": 2, "gpus_per_worker": 0.5}
    return CellSearch(made, baselines, finished=finished or {}, recorder=tape, slot=slot, budget=budget)


def report(number, record):
    return {"slot": "slot-1", "report": number, "record": record.model_dump_json()}


def drive(searcher, answer=result, limit=1000):
    """Play Tune: one trial at a time, the last report handed over twice."""
    for number in itertools.count():
        assert number < limit
        suggestion = searcher.suggest(f"id{number}")
        if suggestion == Searcher.FINISHED:
            return
        assert suggestion is not None
        finished = answer(number, key=suggestion["key"])
        for _ in range(2):
            searcher.on_trial_result(f"id{number}", report(0, finished))
        searcher.on_trial_complete(f"id{number}", {})


def test_cells_are_served_in_turn_and_every_report_is_recorded_once():
    tape = Tape()
    drive(search(tape))
    started = [record.key for record in tape.records if isinstance(record, TrialStarted)]
    assert started == ["A/t000", "B/t000", "A/t001", "B/t001", "A/t002", "B/t002"]
    assert [r.key for r in tape.records if isinstance(r, TrialFinished)] == started


def test_once_the_budget_is_spent_no_trial_begins_and_those_that_run_end():
    tape = Tape()

    def budget():
        return "resources.max_hours=1" if len(tape.records) >= 5 else None

    searcher = search(tape, budget=budget)
    first, second = searcher.suggest("one"), searcher.suggest("two")
    assert not searcher.is_done
    for name, suggestion in (("one", first), ("two", second)):
        searcher.on_trial_result(name, report(0, result(0, key=suggestion["key"])))
        searcher.on_trial_complete(name, {})
    third = searcher.suggest("three")
    assert third is not None and searcher.suggest("four") == Searcher.FINISHED
    assert searcher.spent == "resources.max_hours=1" and not searcher.is_done and searcher.num_left == 3
    searcher.on_trial_result("three", report(0, result(0, key=third["key"])))
    searcher.on_trial_complete("three", {})
    assert searcher.is_done
    assert {record.gpus for record in tape.records if isinstance(record, TrialStarted)} == {1.0}


def test_resume_repeats_the_same_suggestions_and_runs_only_what_is_missing():
    whole = Tape()
    drive(search(whole))
    started = {r.key: r for r in whole.records if isinstance(r, TrialStarted)}
    params = {key: record.params for key, record in started.items()}
    ended = {r.key: r for r in whole.records if isinstance(r, TrialFinished)}
    for kept in (["A/t000"], ["A/t000", "B/t000", "B/t001"], ["B/t000", "B/t001", "B/t002"], list(ended)):
        tape = Tape()
        searcher = search(tape, finished={key: TrialLog(started[key], finished=ended[key]) for key in kept})

        def same(number, key):
            return ended[key]

        drive(searcher, same)
        again = {r.key: r.params for r in tape.records if isinstance(r, TrialStarted)}
        assert set(again) == set(params) - set(kept)
        assert all(params[key] == value for key, value in again.items())
        assert searcher.is_done


@pytest.mark.parametrize("lookahead", [1, 3])
def test_a_study_that_is_told_what_was_suggested_goes_on_as_one_that_suggested_it(lookahead):
    whole, again = study(lookahead=lookahead), study(lookahead=lookahead)
    params = run(whole, 14)
    for number, known in enumerate(params[:10]):
        assert again.suggest(json.loads(json.dumps(known))) == known  # as read from a journal
        again.add_result(number, result(number))
    rest = []
    for number in range(10, 14):
        rest.append(again.suggest())
        again.add_result(number, result(number))
    assert rest == params[10:]


def test_baselines_run_first_and_in_order():
    tape = Tape()
    before = Baseline("before/f", lambda: job("before/f"), frozenset({"retain_model/f"}))
    searcher = search(tape, baselines=[Baseline("retain_model/f", lambda: job("retain_model/f")), before])
    assert searcher.suggest("a")["key"] == "retain_model/f"
    assert searcher.suggest("b") is None  # before waits for the retain model
    searcher.on_trial_result("a", report(0, result(0, key="retain_model/f")))
    searcher.on_trial_complete("a", {})
    assert searcher.suggest("b")["key"] == "before/f"
    assert searcher.suggest("c") is None  # trials wait for the baselines
    searcher.on_trial_result("b", report(0, result(0, key="before/f")))
    searcher.on_trial_complete("b", {})
    assert searcher.suggest("c")["key"] == "A/t000"


def test_a_baseline_that_fails_ends_the_search():
    searcher = search(Tape(), baselines=[Baseline("before/f", lambda: job("before/f"))])
    searcher.suggest("a")
    failed = TrialFinished(key="before/f", state=TrialState.FAILED, error="no judge")
    searcher.on_trial_result("a", report(0, failed))
    searcher.on_trial_complete("a", {})
    assert searcher.suggest("b") == Searcher.FINISHED
    assert searcher.fatal == "before/f could not be scored: no judge"
    assert searcher.is_done


def test_a_trial_whose_slot_died_is_failed_and_the_cell_goes_on():
    tape = Tape()
    searcher = search(tape, cells=("A",), per_cell=2)
    searcher.suggest("a")
    searcher.on_trial_complete("a", None, error=True)
    assert tape.records[-1].state == TrialState.FAILED
    assert searcher.suggest("b")["key"] == "A/t001"


def test_a_trial_that_had_ended_when_its_slot_died_is_recorded_once():
    """Tune, which has not heard of its end yet, runs it again in another slot."""
    tape = Tape()
    searcher = search(tape, cells=("A",), per_cell=1)
    finished = result(0, key=searcher.suggest("a")["key"])
    searcher.on_trial_result("a", report(0, finished))
    searcher.on_trial_result("a", report(0, finished) | {"slot": "slot-2"})
    searcher.on_trial_complete("a", {})
    assert [record.time for record in tape.records if isinstance(record, TrialFinished)] == [finished.time]
    assert searcher.is_done


def test_a_trial_holds_gpus_from_when_workers_first_have_it():
    """Two workers of half a GPU each; it waited ten seconds for them, and a second group took it later."""
    tape = Tape()
    searcher = search(tape, cells=("A",), per_cell=2)
    key = searcher.suggest("a")["key"]
    begun = tape.records[-1].time
    for number, seconds in enumerate((10, 50)):
        searcher.on_trial_result("a", report(number, TrialTaken(key=key, time=begun + seconds)))
    finished = result(0, key=key).model_copy(update={"time": begun + 110})
    searcher.on_trial_result("a", report(2, finished))
    searcher.on_trial_complete("a", {})
    assert tape.records[-1].gpu_seconds == pytest.approx(100)
    searcher.suggest("b")
    searcher.on_trial_complete("b", None, error=True)  # no workers came
    assert tape.records[-1].gpu_seconds == 0


def test_a_trial_that_no_workers_came_for_waits_while_others_have_some():
    """The cluster is smaller than it may grow to: no trial fails of it, and those after it are not burned."""
    tape = Tape()
    searcher = search(tape, cells=("A", "B"), per_cell=1)
    first, second = (searcher.suggest(name)["key"] for name in "ab")
    searcher.on_trial_result("a", report(0, TrialTaken(key=first)))
    no_room = TrialFinished(key=second, state=TrialState.FAILED, error="no room", retry=True)
    for name in ("b", "c"):  # and again
        searcher.on_trial_result(name, report(0, no_room))
        searcher.on_trial_complete(name, {})
        assert searcher.num_left == 1 and not searcher.is_done
        assert searcher.suggest({"b": "c", "c": "d"}[name])["key"] == second
    searcher.on_trial_result("a", report(1, result(0, key=first)))
    searcher.on_trial_complete("a", {})
    assert not any(isinstance(record, TrialFinished) and record.key == second for record in tape.records)
    searcher.on_trial_result("d", report(0, no_room))  # now nobody has any
    searcher.on_trial_complete("d", {})
    assert tape.records[-1].error == "no room" and searcher.is_done


def test_settings_that_do_not_go_together_fail_alone():
    tape = Tape()
    searcher = search(tape, cells=("A",), per_cell=3)
    make = searcher._cells[0].make_job

    def picky(number, params):
        if number == 1:
            raise ValueError("micro_batch_size <= batch_size must hold")
        return make(number, params)

    searcher._cells[0].make_job = picky
    drive(searcher)
    ended = {r.key: r.state for r in tape.records if isinstance(r, TrialFinished)}
    assert ended == {"A/t000": "COMPLETE", "A/t001": "FAILED", "A/t002": "COMPLETE"}


def test_settings_that_never_go_together_end_the_search_however_many_they_are():
    tape = Tape()
    searcher = search(tape, cells=("A",), per_cell=1200)
    searcher._cells[0].study.search = SearchConfig(trials_per_cell=1200, sampler="random")

    def refuse(number, params):
        raise ValueError("never")

    searcher._cells[0].make_job = refuse
    drive(searcher)
    assert sum(isinstance(record, TrialFinished) for record in tape.records) == 1200
    assert searcher.is_done

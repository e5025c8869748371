"""Grid search: every combination once, in the order of the sweep file, also over a resume and with less budget."""

import random

import pytest
from ray.tune.search import Searcher

from orchestrator.config import SweepConfig, cell_space, first_values, num_combinations, num_trials, trial_config
from orchestrator.load_config import ConfigError, build_config, load_config
from orchestrator.tracking.journal import ObjectiveRecord, TrialFinished, TrialStarted, TrialState
from orchestrator.tracking.sweep_log import TrialLog
from orchestrator.tuning.cell_search import Cell, CellSearch
from orchestrator.tuning.cell_study import CellStudy, distributions, trial_key
from orchestrator.tuning.samples import sample_trials
from orchestrator.worker.job import TrialJob

OBJECTIVES = tuple(ObjectiveRecord(metric=name, direction="maximize", worst=0) for name in ("a", "b"))
GRID = [(1e-5, 5), (1e-5, 3), (5e-6, 5), (5e-6, 3), (2e-6, 5), (2e-6, 3)]
METHODS = "methods=[GA+GD, NPO+GD, {name: ME+GD, train: {learning_rate: 5.0e-6}, space: {}}]"


def sweep(*overrides):
    """Two methods that share a grid of six points, one with nothing to search."""
    return load_config("real_world_paper", ["scenario.source=/data", METHODS, *overrides])


class Tape:
    """A recorder that remembers."""

    def __init__(self):
        self.records = []

    def record(self, record):
        self.records.append(record)

    def params(self):
        return {r.key: tuple(r.params.values()) for r in self.records if isinstance(r, TrialStarted)}

    def ended(self):
        started = {r.key: r for r in self.records if isinstance(r, TrialStarted)}
        return {r.key: TrialLog(started[r.key], finished=r) for r in self.records if isinstance(r, TrialFinished)}


def study(sweep, entry, lookahead=1):
    return CellStudy(
        entry.name, distributions(cell_space(sweep, entry)), first_values(sweep, entry), ["maximize"] * 2,
        sweep.search, 5, lookahead,
    )  # fmt: skip


def search(sweep, tape, finished=()):
    def maker(entry):
        def make(number, params):
            config = trial_config(sweep, entry, "forget", params)
            key = trial_key(entry.name, number)
            return TrialJob(
                key=key,
                config=config,
                params=params,
                place="/d",
                objectives=OBJECTIVES,
                keep_weights=True,
            )

        return make

    cells = [
        Cell(entry.name, entry.name, "forget", study(sweep, entry), num_trials(sweep, entry), maker(entry))
        for entry in sweep.methods
    ]
    return CellSearch(cells, (), finished=dict(finished), recorder=tape, slot={"sweep": "s"})


def drive(searcher):
    """Play Tune: one trial at a time."""
    for number in range(100):
        suggestion = searcher.suggest(f"id{number}")
        if suggestion == Searcher.FINISHED:
            return
        values = (0.1 * number, 0.5)
        finished = TrialFinished(key=suggestion["key"], state=TrialState.COMPLETE, objectives=values)
        record = {"slot": "slot-1", "report": 0, "record": finished.model_dump_json()}
        searcher.on_trial_result(f"id{number}", record)
        searcher.on_trial_complete(f"id{number}", {})
    pytest.fail("the search does not end")


def test_every_combination_runs_once_the_last_key_fastest_and_a_cell_without_a_space_once():
    tape = Tape()
    drive(search(sweep(), tape))
    for method in ("GA+GD", "NPO+GD"):
        found = [params for key, params in tape.params().items() if key.startswith(method)]
        assert found == GRID
    assert tape.params()["ME+GD/t000"] == ()
    assert len(tape.params()) == 13


def test_neither_seed_nor_results_nor_order_of_ends_change_a_grid():
    config = sweep()
    cell, waiting, found = study(config, config.methods[0], lookahead=3), [], []
    order = random.Random(0)
    while len(found) < 6:
        suggestion = cell.suggest()
        if suggestion is None:
            done = waiting.pop(order.randrange(len(waiting)))
            cell.add_result(done, TrialFinished(key="k", state=TrialState.FAILED))
        else:
            waiting.append(len(found))
            found.append(tuple(suggestion.values()))
    assert found == GRID


@pytest.mark.parametrize("num_kept", [0, 1, 7, 12, 13])
def test_a_resumed_grid_runs_what_is_missing(num_kept):
    whole = Tape()
    drive(search(sweep(), whole))
    kept = dict(list(whole.ended().items())[:num_kept])
    tape = Tape()
    drive(search(sweep(), tape, kept))
    assert tape.params() == {key: params for key, params in whole.params().items() if key not in kept}


def test_a_budget_below_the_grid_cuts_its_end_and_can_be_raised_on_resume():
    small, tape = sweep("search.trials_per_cell=4"), Tape()
    drive(search(small, tape))
    assert [params for key, params in tape.params().items() if key.startswith("GA+GD")] == GRID[:4]
    rest = Tape()
    drive(search(sweep("search.trials_per_cell=60"), rest, tape.ended()))
    assert rest.params() == {
        f"{method}/t00{number}": GRID[number] for number in (4, 5) for method in ("GA+GD", "NPO+GD")
    }


@pytest.mark.parametrize(
    ("override", "trials", "combinations"),
    [
        ("search.trials_per_cell=10", [6, 6, 1], [6, 6, 1]),
        ("search.trials_per_cell=4", [4, 4, 1], [6, 6, 1]),
        ("search.space.method.beta.choices=[0.1, 0.5]", [6, 6, 1], [6, 12, 1]),  # GA+GD has no beta
        ("search.sampler=random", [6, 6, 1], [None, None, 1]),
        ("methods=[{name: GA, space: {method.beta: {choices: [1, 2]}}}]", [1], [1]),
    ],
)
def test_number_of_trials(override, trials, combinations):
    config = sweep(override)
    assert [num_trials(config, entry) for entry in config.methods] == trials
    assert [num_combinations(config, entry) for entry in config.methods] == combinations


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.space.method.beta={low: 0.1, high: 1}", "search.space: search.sampler=grid needs choices, but"),
        ("search.space.train.epochs={low: 1, high: 5}", "search.space: search.sampler=grid needs choices, but train"),
        ("search.space.train.epochs.choices=[5, 3, 5]", "search.space.train.epochs: 5 stands there twice; name each"),
    ],
)
def test_a_grid_needs_different_choices(override, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        sweep(override)


@pytest.mark.parametrize("kind", ["", "type: float, "])
def test_a_range_laid_over_choices_replaces_them_and_the_other_way_round(kind):
    laid_over = f"search.space.train.learning_rate={{{kind}low: 1.0e-6, high: 1.0e-5, log: true}}"
    config = sweep("search.sampler=tpe", laid_over)
    found = config.search.space["train.learning_rate"]
    assert found.model_dump() == {"type": "float", "low": 1e-6, "high": 1e-5, "log": True}
    assert [num_trials(config, entry) for entry in config.methods] == [6, 6, 1]
    overrides = ["search.space.train.learning_rate.choices=[1.0e-5]"]
    again = build_config(SweepConfig, None, overrides, base=config.model_dump(mode="json"))
    assert again.search.space["train.learning_rate"].choices == (1e-5,)


def test_samples_are_trials_that_will_run():
    config, tape = sweep(), Tape()
    drive(search(config, tape))
    samples = sample_trials(config, 5)
    assert list(samples) == [
        "GA+GD/forget/t000", "NPO+GD/forget/t001", "ME+GD/forget/t000", "GA+GD/forget/t003", "NPO+GD/forget/t004",
    ]  # fmt: skip
    for key, params in samples.items():
        assert tuple(params.values()) == tape.params()[key.replace("/forget", "")]


def test_the_only_trial_of_a_cell_is_sampled_once():
    config = load_config("tofu_paper", ["methods=[NPO+KL]", "forget_sets=[forget05]"])
    assert sample_trials(config, 3) == {"NPO+KL/forget05/t000": {}}

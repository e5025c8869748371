"""Successive halving at rungs: who goes on is a function of the order in which trials get there."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from orchestrator.analysis.pareto import best_first, front, is_dominated
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.load_config import ConfigError, load_config
from orchestrator.resumable import check_resumable
from orchestrator.tracking.journal import RungReached, StepsReported
from orchestrator.tuning.early_stopping import RungScheduler, SuccessiveHalving
from orchestrator.tuning.slot import Mailbox

BOTH = ("maximize", "minimize")
grid = st.integers(0, 4).map(lambda n: n / 4)  # ties are frequent
points = st.lists(st.tuples(grid, grid), min_size=1, max_size=24)
shares = st.sampled_from([0.25, 1 / 3, 0.5, 0.75])


def rung(trial, objectives, number=1, cell="ME+GD/forget05"):
    return RungReached(
        key=f"{cell}/t{trial:03d}",
        rung=number,
        step=2,
        num_steps=10,
        metrics={},
        objectives=objectives,
        seconds={},
    )


def halving(keep=0.5, min_trials=1, directions=BOTH):
    return SuccessiveHalving(EarlyStoppingConfig(keep=keep, min_trials=min_trials), directions)


def answers(values, **settings):
    rungs = halving(**settings)
    return [rungs.reach(rung(trial, value)) for trial, value in enumerate(values)]


@settings(deadline=None)
@given(points)
def test_everything_goes_on_where_all_are_kept(values):
    assert all(answers(values, keep=1.0))


@settings(deadline=None)
@given(points, shares)
def test_what_no_other_equals_in_any_objective_goes_on(values, keep):
    """Such a trial is the only one on its front; and whoever comes first goes on too."""
    found = answers(values, keep=keep)
    assert found[0]
    for last in range(1, len(values)):
        if all(values[last][0] > other[0] and values[last][1] < other[1] for other in values[:last]):
            assert found[last]


@settings(deadline=None)
@given(points, shares)
def test_who_goes_on_is_not_dominated_by_as_many_as_are_kept(values, keep):
    for last, goes_on in enumerate(answers(values, keep=keep)):
        better = [v for v in values[:last] if is_dominated(values[last], [v], BOTH)]
        if goes_on:
            assert len(better) < math.ceil(keep * (last + 1) - 1e-6)


@settings(deadline=None)
@given(points, shares, st.integers(0, 24))
def test_a_search_that_was_cut_off_decides_as_one_that_was_not(values, keep, cut):
    """The journal is gone through again, in its order, and may hold rungs that a trial has reached twice."""
    rungs = [rung(trial, value) for trial, value in enumerate(values)]
    whole, again = halving(keep), halving(keep)
    first = [whole.reach(one) for one in rungs]
    replayed = [again.reach(one) for one in [*rungs[:cut], *rungs]]
    assert replayed == [*first[:cut], *first]


@settings(deadline=None)
@given(st.lists(grid, min_size=1, max_size=30), shares, st.sampled_from(["maximize", "minimize"]))
def test_with_one_objective_it_is_plain_successive_halving(values, keep, direction):
    """A trial goes on if fewer are better than are kept."""
    found = answers([(value,) for value in values], keep=keep, directions=(direction,))
    sign = 1 if direction == "maximize" else -1
    for last, value in enumerate(values):
        ahead = sum(sign * other > sign * value for other in values[:last])
        assert found[last] == (ahead < math.ceil(keep * (last + 1) - 1e-6))


def test_the_first_trials_of_a_cell_all_go_on_at_each_rung():
    worse_and_worse = [(-trial, trial) for trial in range(8)]
    assert answers(worse_and_worse, min_trials=4) == [True] * 4 + [False] * 4


def test_a_third_of_six_is_two():
    values = [(0.9, 0), (0.8, 0), (0.1, 0), (0.2, 0), (0.3, 0)]
    assert answers([*values, (0.85, 0)], keep=1 / 3)[-1]
    assert not answers([*values, (0.5, 0)], keep=1 / 3)[-1]


def test_cells_and_rungs_are_compared_by_themselves():
    rungs = halving()
    assert rungs.reach(rung(0, (0.9, 0)))
    assert not rungs.reach(rung(1, (0.1, 0)))
    assert rungs.reach(rung(0, (0.1, 0), cell="GA+GD/forget05"))
    assert rungs.reach(rung(2, (0.1, 0), number=2))


def test_trials_that_are_equal_so_far_all_go_on():
    """As those at a rung in the warm-up may be, whose learning rates have hardly mattered."""
    assert answers([(0.5, 0.5)] * 6) == [True] * 6
    assert answers([(0.5, 0.5)] * 3 + [(0.4, 0.6), (0.5, 0.5)]) == [True, True, True, False, True]


def test_what_was_answered_first_holds():
    rungs = halving()
    rungs.reach(rung(0, (0.9, 0)))
    assert not rungs.reach(rung(1, (0.1, 0)))
    assert not rungs.reach(rung(1, (0.95, 0)))  # by other workers, whose sums round otherwise
    assert rungs.reach(rung(2, (0.92, 0)))  # the second report of trial 1 does not count


@settings(deadline=None)
@given(st.lists(st.tuples(grid, grid), max_size=24))
def test_order_goes_front_by_front_and_is_the_same_in_other_units(values):
    order = best_first(values, BOTH)
    assert sorted(order) == list(range(len(values)))
    left = list(range(len(values)))
    while left:
        members = [left[i] for i in front([values[i] for i in left], BOTH)]
        assert set(order[: len(members)]) == set(members)
        order, left = order[len(members) :], [i for i in left if i not in members]
    assert best_first(values, BOTH) == best_first([(100 * a + 7, -3 * b) for a, b in values], ("maximize", "maximize"))


def test_a_front_begins_with_its_knee_and_goes_on_far_from_what_it_has():
    values = [(0, 1), (0.7, 0.75), (0.68, 0.78), (1, 0), (0.9, 0.4)]
    order = best_first(values, ("maximize", "maximize"))
    assert order[0] == 2 and order[1] == 3 and order[2] == 0  # knee, then the two ends
    assert order[3:] == [4, 1]  # 1 is beside the knee
    assert np.allclose(values[order[0]], (0.68, 0.78))


class Asked:
    """Notes in which order what happens."""

    def __init__(self):
        self.calls = []

    def on_trial_result(self, trial_id, result):
        self.calls.append(("recorded", trial_id, result["record"]))

    trial_id = "tune-1"


def test_the_scheduler_records_first_then_answers_and_never_stops_a_trial_itself():
    asked = Asked()
    scheduler = RungScheduler(asked, halving(), lambda *answer: asked.calls.append(answer))
    steps = StepsReported(key="ME+GD/forget05/t000", steps=())
    rungs = [rung(0, (0.9, 0)), rung(1, (0.1, 0))]
    for record in (steps, *rungs):
        result = {"slot": "s", "record": record.model_dump_json()}
        assert scheduler.on_trial_result(None, asked, result) == TrialScheduler.CONTINUE
    told = [("recorded", "tune-1", one.model_dump_json()) for one in rungs]
    assert asked.calls == [told[0], ("s", rungs[0], True), told[1], ("s", rungs[1], False)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rungs": [0.4, 0.2]}, r"early_stopping.rungs must ascend, but got \[0.4, 0.2\]; sort them"),
        ({"rungs": [0.2, 0.2]}, "must ascend"),
        ({"rungs": []}, "at least 1 item"),
        ({"rungs": [0.0]}, "greater than 0"),
        ({"rungs": [1.0]}, "less than 1"),
        ({"keep": 0}, "greater than 0"),
        ({"keep": 1.1}, "less than or equal to 1"),
        ({"rows_per_set": 0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        EarlyStoppingConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("sweep", "settings", "words"),
    [
        ("continual_tiny", ["model.target=x", "early_stopping={}"], "a trial of scenario continual is scored in full"),
        (
            "quickstart",
            ["evaluation.downstream=[mmlu]", "objectives=[downstream/mmlu]", "early_stopping={}"],
            "downstream/mmlu is an objective, but downstream tasks are only run at a trial's end",
        ),
        ("quickstart", ["early_stopping.keeps=1"], "unknown key; did you mean early_stopping.keep"),
    ],
)
def test_sweeps_without_an_early_score_are_refused(sweep, settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config(sweep, settings)


def test_it_is_off_by_default_and_a_resumed_sweep_keeps_it_as_it_was():
    plain, stopping = load_config("quickstart"), load_config("quickstart", ["early_stopping={}"])
    assert plain.early_stopping is None and stopping.early_stopping == EarlyStoppingConfig()
    with pytest.raises(ConfigError, match="early_stopping: cannot change when a sweep is resumed"):
        check_resumable(plain, stopping)


def test_workers_wait_for_their_own_answer_and_for_none_once_the_slot_ends():
    async def conversation():
        mailbox = Mailbox()
        await mailbox.assign("job")
        waiting = asyncio.create_task(mailbox.goes_on("t001", 1))
        await mailbox.answer("t000", 1, False)
        await mailbox.answer("t001", 2, False)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await mailbox.answer("t001", 1, True)
        assert await waiting and await mailbox.goes_on("t001", 2) is False
        await mailbox.assign("next job")
        waiting = asyncio.create_task(mailbox.goes_on("t001", 1))  # answers are of one job
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await mailbox.stop()
        assert await waiting is False

    asyncio.run(conversation())

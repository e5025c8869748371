"""Intervals: what they must hold whatever the points, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pareto import UP, points_and_directions, worst_corner

from orchestrator.analysis.pareto import UnitBox
from orchestrator.analysis.resampling import Interval, subset_interval

UNIT = UnitBox((0.0, 0.0), (1.0, 1.0), (UP, UP))


def box_of(directions):
    zero = worst_corner(directions)
    one = zero + [1.0 if direction == UP else -1.0 for direction in directions]
    return UnitBox(tuple(zero), tuple(one), tuple(directions))


@given(points_and_directions(min_rows=1), st.data())
def test_an_interval_lies_between_the_worst_trial_and_all_of_them(case, data):
    values, directions = case
    box = box_of(directions)
    size = data.draw(st.integers(1, len(values)))
    low, high = subset_interval(values, box, size=size, num_draws=20, seed=3)
    each = [box.hypervolume([row]) for row in values]
    assert min(each) - 1e-9 <= low <= high <= box.hypervolume(values) + 1e-9
    assert subset_interval(values, box, size=size, num_draws=20, seed=3) == (low, high)
    whole = box.hypervolume(values)
    assert subset_interval(values, box, size=len(values), num_draws=20) == pytest.approx((whole, whole))


def test_draws_of_one_trial_are_its_own_volumes():
    values = [[0.1, 1.0]] * 50 + [[0.9, 1.0]] * 50
    assert subset_interval(values, UNIT, size=1) == pytest.approx((0.1, 0.9))
    assert subset_interval(values, UNIT, size=51) == pytest.approx((0.9, 0.9))  # one of the better is always drawn


def test_a_trial_that_came_to_nothing_widens_the_interval():
    values = [[0.8, 0.5]] * 3
    assert subset_interval(values, UNIT, size=1) == pytest.approx((0.4, 0.4))
    assert subset_interval([*values, UNIT.zero], UNIT, size=1) == pytest.approx((0.0, 0.4))


def test_half_of_the_trials_tell_what_half_the_budget_finds():
    """Of 100 searches of 20 trials nearly all intervals hold the mean volume of searches of 10, taken from 2,000."""
    rng = np.random.default_rng(5)
    mean = np.mean([UNIT.hypervolume(rng.random((10, 2))) for _ in range(2000)])
    found = [subset_interval(rng.random((20, 2)), UNIT, size=10, num_draws=60) for _ in range(100)]
    assert sum(low <= mean <= high for low, high in found) >= 85


@given(*[st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted)] * 2)
def test_intervals_overlap_where_they_share_a_number(one, other):
    shared = {*range(one[0], one[1] + 1)} & {*range(other[0], other[1] + 1)}
    assert Interval(*one).overlaps(Interval(*other)) == Interval(*other).overlaps(Interval(*one)) == bool(shared)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subset_interval([[1.0, 1.0]], UNIT, size=2), "number of trials, 1, but got 2"),
        (lambda: subset_interval([[1.0, 1.0]], UNIT, size=0), "but got 0"),
        (lambda: subset_interval([[np.nan, 1.0]], UNIT, size=1), "NaN"),
        (lambda: subset_interval([[np.inf, 1.0]], UNIT, size=1), "infinity"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Attainment surfaces against counting, at every point of a grid, how many runs attain it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pareto import COORDINATES, DOWN, UP

from orchestrator.analysis.attainment import attainment_surface
from orchestrator.analysis.pareto import front


@st.composite
def runs_and_directions(draw):
    directions = draw(st.lists(st.sampled_from([UP, DOWN]), min_size=2, max_size=3))
    row = st.tuples(*[COORDINATES] * len(directions))
    return draw(st.lists(st.lists(row, max_size=5), min_size=1, max_size=5)), directions


def attained(goal, points, directions):
    """Whether one of `points` is as good as `goal` in every objective."""
    signs = np.array([1 if direction == UP else -1 for direction in directions])
    return any((np.array(point) * signs >= np.array(goal) * signs).all() for point in points)


@given(runs_and_directions(), st.data())
def test_a_surface_bounds_what_so_many_runs_attain(case, data):
    runs, directions = case
    at_least = data.draw(st.integers(1, len(runs)))
    surface = attainment_surface(runs, at_least, directions)
    assert len(front(surface, directions)) == len({*map(tuple, surface)}) == len(surface)
    assert surface.tolist() == sorted(surface.tolist())
    for goal in itertools.product(range(-4, 5, 2), repeat=len(directions)):
        reached = sum(attained(goal, run, directions) for run in runs)
        assert attained(goal, surface, directions) == (reached >= at_least)


@given(runs_and_directions())
def test_the_best_surface_is_the_front_of_all_runs(case):
    runs, directions = case
    every = np.array([row for run in runs for row in run]).reshape(-1, len(directions))
    expected = sorted({*map(tuple, every[front(every, directions)])})
    assert [*map(tuple, attainment_surface(runs, 1, directions))] == expected


def test_three_seeds_by_hand():
    runs = [[[0.2, 0.8], [0.8, 0.2]], [[0.5, 0.5]], [[0.6, 0.6]]]
    best, median, worst = (attainment_surface(runs, level, [UP, UP]).tolist() for level in (1, 2, 3))
    assert best == [[0.2, 0.8], [0.6, 0.6], [0.8, 0.2]]
    assert median == [[0.2, 0.6], [0.5, 0.5], [0.6, 0.2]]
    assert worst == [[0.2, 0.5], [0.5, 0.2]]


def test_a_run_without_points_attains_nothing():
    assert [len(attainment_surface([[[0.2, 0.8]], []], level, [UP, UP])) for level in (1, 2)] == [1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attainment_surface([[[1.0]]], 1, [UP]), "2 or 3 objectives, but got 1"),
        (lambda: attainment_surface([[[1.0] * 4]], 1, [UP] * 4), "2 or 3 objectives, but got 4"),
        (lambda: attainment_surface([[[1.0, 2.0]]], 2, [UP, UP]), "number of runs, 1, but got 2"),
        (lambda: attainment_surface([], 1, [UP, UP]), "number of runs, 0"),
        (lambda: attainment_surface([[[1.0, np.inf]]], 1, [UP, UP]), "infinity"),
        (lambda: attainment_surface([[[1.0, np.nan]]], 1, [UP, UP]), "NaN"),
    ],
)
def test_what_has_no_surface_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()

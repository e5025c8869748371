"""Bounds on objectives and the best within them, against brute force."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pareto import DOWN, UP, dominates, points_and_directions

from orchestrator.analysis.constraints import Constraint, best_at, feasible


@st.composite
def constrained_points(draw):
    values, directions = draw(points_and_directions())
    columns = draw(st.lists(st.integers(0, len(directions) - 1), max_size=3))
    constraints = [Constraint(column, directions[column], draw(st.integers(-4, 4))) for column in columns]
    return values, constraints, directions


def keeps(row, constraint):
    return (
        row[constraint.column] >= constraint.bound
        if constraint.direction == UP
        else (row[constraint.column] <= constraint.bound)
    )


@given(constrained_points())
def test_feasible_rows_keep_every_constraint(case):
    values, constraints, directions = case
    expected = [all(keeps(row, constraint) for constraint in constraints) for row in values]
    assert feasible(values, constraints, directions).tolist() == expected


@given(constrained_points(), st.data())
def test_the_best_is_what_brute_force_finds_and_nothing_within_the_bounds_dominates_it(case, data):
    values, constraints, directions = case
    column = data.draw(st.integers(0, len(directions) - 1))
    within = [row for row in values if all(keeps(row, constraint) for constraint in constraints)]
    index = best_at(values, column, constraints, directions)
    if not within:
        assert index is None
        return
    best = max(within, key=lambda row: row[column] if directions[column] == UP else -row[column])
    assert values[index][column] == best[column]
    assert any((values[index] == row).all() for row in within)
    assert not any(dominates(row, values[index], directions) for row in within)
    assert index == min(i for i, row in enumerate(values) if (row == values[index]).all())


@given(points_and_directions(), st.tuples(st.integers(-4, 4), st.integers(-4, 4)).map(sorted))
def test_a_tighter_bound_keeps_no_row_that_a_looser_one_does_not(case, bounds):
    values, directions = case
    loose, tight = bounds if directions[0] == UP else reversed(bounds)
    kept = [feasible(values, [Constraint(0, directions[0], bound)], directions) for bound in (loose, tight)]
    assert (kept[0] >= kept[1]).all()


def test_best_forgetting_at_most_of_the_utility_before():
    values = [[0.60, 0.5], [0.57, 0.7], [0.5699, 0.9], [0.2, 1.0]]  # utility, forgetting
    assert best_at(values, 1, [Constraint(0, UP, 0.95, baseline=0.6)], [UP, UP]) == 1  # 0.57 is the limit itself
    assert best_at(values, 1, [Constraint(0, UP, 0.5)], [UP, UP]) == 2
    assert best_at(values, 1, [Constraint(0, UP, 0.7)], [UP, UP]) is None
    assert best_at([], 1, [], [UP, UP]) is None


def test_a_share_of_a_baseline_bounds_from_above_where_less_is_better():
    assert Constraint(0, DOWN, 1.5, baseline=20.0).limit == 30.0
    assert feasible([[30.0], [30.5]], [Constraint(0, DOWN, 1.5, baseline=20.0)], [DOWN]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Constraint(0, UP, math.nan), "bound must be finite"),
        (lambda: Constraint(-1, UP, 0.5), "column must be 0 or more"),
        (lambda: Constraint(0, UP, 0.95, baseline=-1.0), "from 0 on, but got -1.0"),
        (lambda: Constraint(0, UP, 0.95, baseline=math.inf), "from 0 on, but got inf"),
        (lambda: feasible([[0.0]], [Constraint(1, UP, 0.5)], [UP]), "does not fit"),
        (lambda: feasible([[0.0]], [Constraint(0, DOWN, 0.5)], [UP]), "does not fit"),
        (lambda: best_at([[0.0]], 1, [], [UP]), "column must be 0 to 0"),
        (lambda: best_at([[math.nan]], 0, [], [UP]), "NaN"),
    ],
)
def test_what_cannot_be_asked_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()

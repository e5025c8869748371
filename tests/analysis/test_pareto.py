"""Pareto maths against brute force and against numbers done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.analysis.pareto import UnitBox, best_first, contributions, front, hypervolume, is_dominated, knee

UP, DOWN = "maximize", "minimize"
# Small integers make ties and duplicates common and the arithmetic exact.
COORDINATES = st.integers(-4, 4).map(float)


@st.composite
def points_and_directions(draw, min_rows=0, max_columns=4):
    directions = draw(st.lists(st.sampled_from([UP, DOWN]), min_size=1, max_size=max_columns))
    shape = (draw(st.integers(min_rows, 12)), len(directions))
    return draw(arrays(float, shape, elements=COORDINATES)), directions


@st.composite
def groups_and_directions(draw):
    values, directions = draw(points_and_directions())
    owners = draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    return [values[np.array(owners, dtype=int) == owner] for owner in range(4)], directions


def worst_corner(directions):
    return np.array([-4.0 if direction == UP else 4.0 for direction in directions])


def dominates(a, b, directions):
    signs = np.array([1 if direction == UP else -1 for direction in directions])
    return bool((a * signs >= b * signs).all() and (a * signs > b * signs).any())


def unit_boxes(values, reference, directions):
    """Hypervolume of integer points by counting the unit boxes between them and the reference."""
    signs = np.array([1 if direction == UP else -1 for direction in directions])
    heights = ((values - reference) * signs).astype(int)
    boxes = np.zeros((9,) * len(directions), dtype=bool)
    for height in heights[(heights > 0).all(axis=1)]:
        boxes[tuple(slice(0, h) for h in height)] = True
    return int(boxes.sum())


@given(points_and_directions())
def test_front_is_what_brute_force_finds(case):
    values, directions = case
    expected = [i for i, v in enumerate(values) if not any(dominates(other, v, directions) for other in values)]
    assert front(values, directions).tolist() == expected
    assert [i for i, v in enumerate(values) if not is_dominated(v, values, directions)] == expected


@given(points_and_directions(), st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order_of_rows(case, random):
    values, directions = case
    order = random.sample(range(len(values)), len(values))
    assert sorted(order[i] for i in front(values[order], directions)) == front(values, directions).tolist()


@given(points_and_directions())
def test_turning_an_objective_and_its_direction_changes_nothing(case):
    values, directions = case
    turned = [DOWN if direction == UP else UP for direction in directions]
    assert front(-values, turned).tolist() == front(values, directions).tolist()
    if len(values):
        assert knee(-values, turned) == knee(values, directions)


@given(points_and_directions())
def test_hypervolume_counts_unit_boxes(case):
    values, directions = case
    reference = worst_corner(directions)
    assert hypervolume(values, reference, directions) == pytest.approx(unit_boxes(values, reference, directions))


@given(points_and_directions(min_rows=1))
def test_dominated_rows_add_no_hypervolume(case):
    values, directions = case
    reference = [-5.0 if direction == UP else 5.0 for direction in directions]
    whole = hypervolume(values, reference, directions)
    assert hypervolume(values[front(values, directions)], reference, directions) == pytest.approx(whole)
    assert hypervolume(values[1:], reference, directions) <= whole + 1e-9


@given(groups_and_directions())
def test_a_contribution_counts_the_unit_boxes_that_only_one_group_reaches(case):
    groups, directions = case
    reference = worst_corner(directions)
    for i, found in enumerate(contributions(groups, reference, directions)):
        others = np.concatenate([group for j, group in enumerate(groups) if j != i])
        whole = unit_boxes(np.concatenate(groups), reference, directions)
        assert found == pytest.approx(whole - unit_boxes(others, reference, directions))


def test_contributions_by_hand():
    groups = [[[1.0, 0.5], [0.5, 1.0]], [[0.5, 1.0], [0.8, 0.8]], [], [[0.4, 0.4]]]
    # beyond all others the first holds (1.0, 0.5) alone: 0.2 * 0.5; the second the square from (0.5, 0.5) to (0.8, 0.8)
    assert contributions(groups, [0, 0], [UP, UP]).tolist() == pytest.approx([0.1, 0.09, 0.0, 0.0])
    assert contributions([], [0, 0], [UP, UP]).tolist() == []


@given(points_and_directions(), st.data())
def test_a_unit_box_divides_the_hypervolume_by_its_own(case, data):
    values, directions = case
    spans = data.draw(st.lists(st.sampled_from([0.25, 1.0, 3.0]), min_size=len(directions), max_size=len(directions)))
    zero = worst_corner(directions)
    one = zero + np.array([span if d == UP else -span for span, d in zip(spans, directions, strict=True)])
    box = UnitBox(tuple(zero), tuple(one), tuple(directions))
    assert box.hypervolume(values) == pytest.approx(hypervolume(values, zero, directions) / np.prod(spans))
    assert box.scale([zero, one]).tolist() == [[0.0] * len(zero), [1.0] * len(zero)]
    assert box.hypervolume([one]) == 1.0
    assert front(box.scale(values), [UP] * len(zero)).tolist() == front(values, directions).tolist()


@given(points_and_directions(min_rows=1), st.sampled_from([0.125, 1.0, 32.0]))
def test_knee_is_on_the_front_and_free_of_units(case, factor):
    values, directions = case
    index = knee(values, directions)
    assert index in front(values, directions)
    units = np.array([factor, *[1.0] * (len(directions) - 1)])
    assert knee(values * units + 64.0, directions) == index


def test_knee_by_hand():
    values = [[0.0, 1.0], [0.8, 0.7], [1.0, 0.0], [0.5, 0.5]]
    assert knee(values, [UP, UP]) == 1  # distances 1, 0.36, 1; the last is dominated


def test_a_ruined_model_does_not_move_a_knee_whose_spans_are_given():
    values = [[0.79, 0.82], [0.56, 0.89], [0.82, 0.7]]
    for ruined in ([], [[0.0, 0.91]]):
        assert knee([*values, *ruined], [UP, UP], spans=(0.85, 0.8)) == 0
    assert knee(values, [UP, UP]) == 0 and knee([*values, [0.0, 0.91]], [UP, UP]) == 1  # by the front's own range
    assert best_first([*values, [0.0, 0.91]], [UP, UP], spans=(0.85, 0.8))[:2] == [0, 3]
    assert knee(values, [UP, UP], spans=(1e9, 1.0)) == 1 and knee(values, [UP, UP], spans=(1.0, 1e9)) == 2


@given(points_and_directions(min_rows=1))
def test_a_knee_with_spans_is_on_the_front_and_that_of_the_scaled_values(case):
    values, directions = case
    spans = [2.0 ** (column - 1) for column in range(len(directions))]
    index = knee(values, directions, spans)
    assert index in front(values, directions)
    assert knee(values / spans, directions, [1.0] * len(directions)) == index


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([[0.3, 0.4]], 0, id="one point"),
        pytest.param([[0.2, 0.9], [0.6, 0.1]], 1, id="two points tie, the first objective decides"),
        pytest.param([[0.5, 0.5], [0.5, 0.5]], 0, id="copies, the first of them"),
    ],
)
def test_knee_of_few_points(values, expected):
    assert knee(values, [UP, UP]) == expected


def test_front_keeps_every_copy():
    assert front([[1, 1], [1, 1], [0, 2], [0, 1]], [UP, UP]).tolist() == [0, 1, 2]


def test_hypervolume_ignores_points_beyond_the_reference():
    assert hypervolume([[0.5, 0.5], [0.9, -1.0]], [0, 0], [UP, UP]) == pytest.approx(0.25)
    assert hypervolume([[0.5, 0.2]], [0, 1], [UP, DOWN]) == pytest.approx(0.4)
    assert hypervolume([], [0, 0], [UP, UP]) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: front([[0.0, np.nan]], [UP, UP]), "NaN"),
        (lambda: front([[0.0, 1.0]], [UP]), "shape"),
        (lambda: front([[0.0]], ["up"]), "directions"),
        (lambda: is_dominated([np.nan, 0], [[0, 1]], [UP, UP]), "NaN"),
        (lambda: hypervolume([[np.nan, 0]], [0, 0], [UP, UP]), "NaN"),
        (lambda: hypervolume([[np.inf, 0]], [0, 0], [UP, UP]), "finite"),
        (lambda: contributions([[[0, 1]], [[0, np.nan]]], [0, 0], [UP, UP]), "NaN"),
        (lambda: UnitBox((0.2, 0.6), (0.7, 0.6), (UP, UP)), "objective 1 cannot be scaled: 0.6 at one .* than 0.6"),
        (lambda: UnitBox((0.2, 0.5), (0.7, 0.6), (UP, DOWN)), r"objective 1 .* better \(minimize\)"),
        (lambda: UnitBox((0.2, -np.inf), (0.7, 0.6), (UP, UP)), "objective 1 .* finite"),
        (lambda: UnitBox((0.2,), (0.7,), (UP, UP)), "shape"),
        (lambda: knee([], [UP, UP]), "no points"),
        (lambda: knee([[np.nan, 1]], [UP, UP]), "NaN"),
    ],
)
def test_what_cannot_be_compared_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.probability import (
    answer_probability,
    choice_probability,
    truth_ratio_forget,
    truth_ratio_raw,
    truth_ratio_raw_arithmetic,
    truth_ratio_retain,
    truth_ratio_retain_arithmetic,
)

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
nlls = st.floats(min_value=0, max_value=1e4)


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings(), np.errstate(all="warn"):
        warnings.simplefilter("error")
        yield


def test_answer_probability_is_normalised_by_length():
    np.testing.assert_allclose(answer_probability([LN2, 2 * LN2, 0.0, 1e9], [1, 2, 7, 1]), [0.5, 0.5, 1, 0], rtol=1e-15)


def test_answer_probability_refuses_an_answer_without_tokens():
    with pytest.raises(ValueError, match="least is 0"):
        answer_probability([1.0, 1.0], [3, 0])


def test_choice_probability():
    p = choice_probability([LN2, LN4, 5.0], [[LN4, LN4], [LN2, LN4, math.inf], [5.0]])  # rows may differ in length
    np.testing.assert_allclose(p, [0.5, 0.25, 0.5], rtol=1e-14)


def test_choice_probability_of_tiny_probabilities_is_not_zero_over_zero():
    p = choice_probability([2000.0, 2000.0, 5000.0], [[2000.0], [2000.0 + LN3], [1.0]])
    np.testing.assert_allclose(p, [0.5, 0.75, 0], rtol=1e-11)


def test_truth_ratio_raw_takes_the_mean_of_the_losses():
    r = truth_ratio_raw([0.0, LN2], [[LN2, 3 * LN2], [0.0, 0.0]])
    assert r.dtype == np.float64
    np.testing.assert_allclose(r, [4, 0.5], rtol=1e-14)


def test_truth_ratio_raw_arithmetic_takes_the_mean_of_the_probabilities():
    ratios = truth_ratio_raw_arithmetic([0.0, LN2], [[LN2, 3 * LN2], [0.0, 0.0]])
    np.testing.assert_allclose(ratios, [(1 / 2 + 1 / 8) / 2, 2], rtol=1e-14)


@pytest.mark.parametrize(
    ("reduce", "ratios", "expected"),
    [
        (truth_ratio_retain, [4.0, 0.5], 0.375),  # 3/4 and 0
        (truth_ratio_retain, [math.inf, 2.0], 0.75),
        (truth_ratio_retain, [0.0, 2.0], 0.25),
        (truth_ratio_forget, [4.0, 0.5], 0.625),  # 1 - (1/4 + 1/2) / 2
        (truth_ratio_forget, [1.0, 1.0], 0.0),
        (truth_ratio_forget, [math.inf, 1.0], 0.5),
        (truth_ratio_forget, [0.0, 1.0], 0.5),
        (truth_ratio_retain_arithmetic, [0.25, 3.0], 0.375),
        (truth_ratio_retain_arithmetic, [math.inf, 0.0], 0.5),
    ],
)
def test_truth_ratio_reductions(reduce, ratios, expected):
    assert reduce(np.array(ratios)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("reduce", [truth_ratio_retain, truth_ratio_forget, truth_ratio_retain_arithmetic])
def test_truth_ratio_reductions_refuse_no_example_and_keep_nan(reduce):
    with pytest.raises(ValueError, match="at least one example"):
        reduce(np.array([]))
    assert math.isnan(reduce(np.array([math.nan, 1.0])))


def test_overflow_is_infinite_and_silent():
    ratios = truth_ratio_raw([0.0, 2000.0], [[2000.0], [0.0]])
    assert ratios.tolist() == [math.inf, 0.0]
    assert truth_ratio_retain(ratios) == 0.5
    assert truth_ratio_forget(ratios) == 1.0
    assert truth_ratio_raw_arithmetic([2000.0], [[0.0]]).tolist() == [math.inf]


@pytest.mark.parametrize("function", [choice_probability, truth_ratio_raw, truth_ratio_raw_arithmetic])
@pytest.mark.parametrize(
    ("true", "wrong", "message"),
    [
        ([1.0, 2.0], [[1.0]], "one row of wrong answers"),
        ([1.0], [1.0], "example 0"),
        ([1.0, 2.0], [[1.0], []], "example 1"),
    ],
)
def test_rows_must_align(function, true, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(true, wrong)


@given(base=nlls, perturbed=st.lists(nlls, min_size=1, max_size=5))
def test_ratios_stay_in_range_and_agree_with_their_definition(base, perturbed):
    geometric, arithmetic = truth_ratio_raw([base], [perturbed]), truth_ratio_raw_arithmetic([base], [perturbed])
    for value in (
        truth_ratio_retain(geometric),
        truth_ratio_forget(geometric),
        truth_ratio_retain_arithmetic(arithmetic),
        float(choice_probability([base], [perturbed])[0]),
    ):
        assert 0 <= value <= 1
    # the arithmetic mean of probabilities is at least the geometric one
    with np.errstate(all="ignore"):
        assert arithmetic[0] >= (1 / geometric[0]) * (1 - 1e-9)

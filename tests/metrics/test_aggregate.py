import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.aggregate import (
    LOG10_P_FLOOR,
    SET_METRICS,
    forget_efficacy,
    forget_quality,
    forget_quality_log10,
    harmonic_mean,
    model_utility,
    tofu_model_utility,
)


def metrics_of(value, **changed):
    return {**dict.fromkeys((*SET_METRICS, "truth_ratio_arithmetic"), value), **changed}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], 0.5), ([1.0, 0.5], 2 / 3), ([1.0, 1.0, 0.25], 0.5), ([0.9, 0.0, 0.9], 0.0), ([5e-324], 5e-324)],
)
def test_harmonic_mean(values, expected):
    assert harmonic_mean(values) == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize("values", [[], [-0.1], [0.5, math.nan], [0.0, math.nan], [math.inf]])
def test_harmonic_mean_refuses(values):
    with pytest.raises(ValueError, match="harmonic mean needs"):
        harmonic_mean(values)


@given(st.lists(st.floats(min_value=0, max_value=1, allow_subnormal=False), min_size=1))
def test_harmonic_mean_lies_between_least_and_arithmetic_mean(values):
    assert min(values) * (1 - 1e-12) <= harmonic_mean(values) <= np.mean(values) * (1 + 1e-12)


def test_model_utility_weighs_every_metric_of_every_set_alike():
    assert model_utility({"retain": metrics_of(1.0), "authors": metrics_of(0.5)}) == pytest.approx(2 / 3)
    assert model_utility({"retain": metrics_of(1.0), "authors": metrics_of(1.0, rouge=0.0)}) == 0
    # 11 ones and one 1/13: 12 / (11 + 13)
    assert model_utility({"a": metrics_of(1.0), "b": metrics_of(1.0, token_entropy=1 / 13)}) == pytest.approx(0.5)


def test_forget_efficacy_leaves_token_entropy_out():
    metrics = metrics_of(0.2, rouge=0.7, token_entropy=1.0)
    assert forget_efficacy("forget", metrics) == pytest.approx(0.7)


def test_tofu_model_utility_reads_the_truth_ratio_of_its_form():
    sets = {"retain": metrics_of(1.0, truth_ratio=0.25, truth_ratio_arithmetic=0.5, cosine_similarity=0.0)}
    assert tofu_model_utility(sets, form="geometric") == pytest.approx(0.5)
    assert tofu_model_utility(sets, form="arithmetic") == pytest.approx(0.75)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
@pytest.mark.parametrize(
    "aggregate",
    [
        lambda metrics: model_utility({"retain": metrics_of(0.5), "authors": metrics}),
        lambda metrics: forget_efficacy("authors", metrics),
        lambda metrics: tofu_model_utility({"authors": metrics}, form="geometric"),
    ],
)
def test_a_number_that_is_none_names_set_and_metric(aggregate, value):
    with pytest.raises(ValueError, match="'probability' of set 'authors'"):
        aggregate(metrics_of(0.0, probability=value))


def test_a_missing_metric_names_set_and_metric():
    with pytest.raises(ValueError, match=r"'facts' lacks the metrics \['rouge'\]"):
        model_utility({"facts": {name: 0.5 for name in SET_METRICS if name != "rouge"}})


@pytest.mark.parametrize(
    ("ratios", "retain_model_ratios", "expected"),
    [
        ([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], 1.0),
        (
            [1.0, 2.0, 3.0],
            [4.0, 5.0, 6.0],
            0.1,
        ),  # 2 of the C(6, 3) = 20 orders are as extreme
        ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, math.inf], 2 / 70),
        ([math.inf, math.inf], [math.inf, math.inf], 1.0),
    ],
)
def test_forget_quality_is_exact(ratios, retain_model_ratios, expected):
    assert forget_quality(ratios, retain_model_ratios) == pytest.approx(expected, rel=1e-12)


def test_forget_quality_is_not_on_folded_ratios():
    ratios = np.array([2.0, 3.0, 4.0, 5.0])
    assert forget_quality(ratios, 1 / ratios) == pytest.approx(2 / 70)  # min(r, 1 / r) would be equal: p = 1


@pytest.mark.parametrize(
    ("ratios", "retain_model_ratios", "message"),
    [
        ([1.0], [1.0, 2.0], "equally many"),
        ([[1.0]], [[1.0]], "equally many"),
        ([], [], "at least one"),
        ([1.0, math.nan], [1.0, 2.0], "ratio 1 of this model is NaN"),
        ([1.0, 2.0], [math.nan, 2.0], "ratio 0 of the retain model is NaN"),
    ],
)
def test_forget_quality_refuses(ratios, retain_model_ratios, message):
    with pytest.raises(ValueError, match=message):
        forget_quality(ratios, retain_model_ratios)


@pytest.mark.parametrize(("p", "expected"), [(1.0, 0.0), (1e-21, -21.0), (5e-324, LOG10_P_FLOOR), (0.0, LOG10_P_FLOOR)])
def test_forget_quality_log10_is_finite(p, expected):
    assert forget_quality_log10(p) == pytest.approx(expected)


def test_forget_quality_of_disjoint_ratios_underflows_to_the_floor():
    p = forget_quality(np.arange(600.0), np.arange(600.0) + 600)
    assert p == 0
    assert forget_quality_log10(p) == LOG10_P_FLOOR == pytest.approx(-323.306, abs=1e-3)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_forget_quality_log10_refuses(p):
    with pytest.raises(ValueError, match="p-value"):
        forget_quality_log10(p)

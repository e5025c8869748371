"""How settings move objectives: correlations by hand, and where none is claimed."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from synthetic_sweep import cell, finished, header, started, write_records, write_sweep

from orchestrator.analysis.influence import FEWEST_COMPLETE, Slice, rank_correlation, settings
from orchestrator.analysis.plots import slice_axes
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep


def test_rank_correlation_is_spearmans_ties_included():
    rng = np.random.default_rng(5)
    for _ in range(20):
        x, y = rng.integers(6, size=15), rng.integers(6, size=15)
        assert rank_correlation(x, y).correlation == pytest.approx(spearmanr(x, y).statistic)


def test_interval_by_hand():
    effect = rank_correlation([1, 2, 3, 4, 5, 6, 7], [10, 30, 20, 40, 60, 50, 70])
    assert effect.correlation == pytest.approx(1 - 6 * 4 / (7 * 48))
    reach = 1.959964 * math.sqrt((1 + (13 / 14) ** 2 / 2) / 4)
    assert effect.interval == pytest.approx(
        (math.tanh(math.atanh(13 / 14) - reach), math.tanh(math.atanh(13 / 14) + reach))
    )
    assert effect.is_clear
    assert rank_correlation(range(10), range(0, -10, -1)).interval == pytest.approx((-1, -1), abs=1e-6)
    assert not rank_correlation([1, 2, 3, 4, 5, 6], [1, 5, 2, 6, 3, 4]).is_clear


def test_nothing_moves_what_does_not_vary():
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 2, 3, 4], [0.5] * 4) is None


def sweep_of(folder, params, **ending):
    records = [header(cells=(cell("A", "f"),))]
    for number, values in enumerate(params):
        start = started("A", "f", number, values)
        records += [start, finished(start.key, (0.1 + number / 100, 0.9 - number / 100), **ending)]
    summary = summarize(load_sweep(write_records(folder, records)))
    return summary, settings(summary, summary.forget_sets[0])


@pytest.mark.parametrize(("num_trials", "is_given"), [(FEWEST_COMPLETE - 1, False), (FEWEST_COMPLETE, True)])
def test_no_effect_of_too_few_trials(tmp_path, num_trials, is_given):
    summary, found = sweep_of(tmp_path, [{"a": float(number)} for number in range(num_trials)])
    (influence,) = found.influences
    assert influence.num_trials == num_trials
    assert [effect is not None for effect in influence.effects] == [is_given] * 2
    assert [(place, round(effect.correlation)) for _, place, effect in found.clear("A")] == [(0, 1), (1, -1)] * is_given


def test_trials_that_diverged_are_in_no_correlation(tmp_path):
    _, found = sweep_of(tmp_path, [{"a": float(number)} for number in range(20)], state=TrialState.DIVERGED)
    assert found.influences[0].num_trials == 0 and found.influences[0].effects == (None, None)


def test_axes_and_texts(tmp_path):
    kinds = ["answer", "text", "all"]
    params = [
        {"rate": 1e-5 * (1 + number), "weight": 0.5 + number / 100, "on": number % 2 == 0, "labels": kinds[number % 3],
         "same": 1.0}
        for number in range(12)
    ]  # fmt: skip
    summary, found = sweep_of(tmp_path, params)
    assert found.slices == (
        Slice("rate", "log"), Slice("weight", "linear"), Slice("on", "category"), Slice("labels", "category")
    )  # fmt: skip
    effects = {influence.setting: influence.effects for influence in found.influences}
    assert effects["labels"] == (None, None) and "same" not in effects
    assert effects["on"][0].correlation == pytest.approx(spearmanr([1, 0] * 6, range(12)).statistic)


def test_diverged_trials_are_drawn_at_the_worse_end(tmp_path):
    summary = summarize(load_sweep(write_sweep(tmp_path)))
    first, _ = slice_axes(summary, [settings(summary, group) for group in summary.forget_sets])
    assert [one["name"] for one in first["settings"]] == [
        "train.learning_rate", "method.forget_weight", "method.beta"
    ]  # fmt: skip
    utility = first["objectives"][0]
    assert utility["worse"] == utility["range"][0] < 0.2

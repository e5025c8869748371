"""The picture of confirmed fronts: means, bars, and what half of the seeds attain; every number by hand."""

import pytest
from test_confirmation_table import confirmed, summary_of

from orchestrator.analysis.build import render
from orchestrator.analysis.confirmation import confirmation_table
from orchestrator.analysis.confirmation_plots import confirmation_figures


def figure_of(folder, runs):
    summary = summary_of(folder, runs)
    (figure,) = confirmation_figures(summary, [confirmation_table(summary, summary.forget_sets[0])])
    return figure


def traces(figure, owner, mode):
    return [t for t in figure["data"] if t["meta"]["owner"] == owner and t["mode"].startswith(mode)]


def test_points_are_means_and_bars_are_deviations(tmp_path):
    (points,) = traces(figure_of(tmp_path, confirmed()), "A", "markers")

    assert points["x"] == pytest.approx([0.2, 0.3, 0.8])
    assert points["y"] == pytest.approx([0.85, 0.1, 0.25])
    assert points["error_x"]["array"] == pytest.approx([0.0, 0.1 * 2**0.5, 0.0], abs=1e-12)
    assert "± 0.141 (search: 0.500)" in points["hovertext"][1]


def test_the_line_is_what_half_of_the_seeds_attain(tmp_path):
    (line,) = traces(figure_of(tmp_path, confirmed()), "A", "lines")

    # One of two seeds is half of them: the best of both, without what another dominates.
    assert list(zip(line["x"], line["y"], strict=True)) == [(0.2, 0.9), (0.8, 0.3)]


def test_the_range_holds_every_bar_and_the_baselines(tmp_path):
    figure = figure_of(tmp_path, confirmed())
    low, high = figure["layout"]["xaxis"]["range"]

    assert low < 0.2 and high > 0.9
    assert [name["text"] for name in figure["layout"]["annotations"]] == ["before", "retain model"]


def test_nothing_confirmed_is_no_figure(tmp_path):
    summary = summary_of(tmp_path, [])

    assert confirmation_figures(summary, [None]) == [None]
    assert 'data-figure="confirmed' not in render(summary)


def test_the_page_draws_it(tmp_path):
    assert 'data-figure="confirmed/0"' in render(summary_of(tmp_path, confirmed()))

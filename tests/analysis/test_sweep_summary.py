"""A journal boiled down: what counts, what never stands on a front, and what is said when parts are missing."""

import math

import pytest
from synthetic_sweep import FORGET_SETS, METHODS, OBJECTIVES, finished, header, started, write_records

from orchestrator.analysis.answers import side_by_side
from orchestrator.analysis.kept import best_kept
from orchestrator.analysis.summary import UNFINISHED, summarize
from orchestrator.analysis.words import duration, measure, number, score, short_names
from orchestrator.tracking.journal import BASELINES, CellRecord, ObjectiveRecord, TrialState
from orchestrator.tracking.sweep_log import load_sweep


def sweep_of(folder, trials, **changes):
    """A sweep whose cells are those of `trials`: (method, number, objectives or None for unfinished, changes)."""
    names = dict.fromkeys(method for method, *_ in trials if method not in BASELINES)
    cells = tuple(CellRecord(name=f"{name}/f", method=name, forget_set="f", num_trials=5) for name in names)
    records = [header(cells=cells, **changes)]
    for method, trial, objectives, ending in trials:
        start = started(method, "f", trial)
        records += [start, finished(start.key, objectives, **ending)] if ending is not None else [start]
    return summarize(load_sweep(write_records(folder, records)))


def same_every_time(method, objectives):
    return [(method, number, objectives, {}) for number in range(4)]


def test_every_trial_is_counted_once(log):
    summary = summarize(log)
    assert summary.counts == {"COMPLETE": 36, "DIVERGED": 2, "FAILED": 2, "PRUNED": 0, UNFINISHED: 0}
    assert [group.name for group in summary.forget_sets] == list(FORGET_SETS)
    assert [cell.method for cell in summary.forget_sets[0].cells] == list(METHODS)
    assert len(summary.trials) == 40
    assert summary.judges == {"sentence_encoder": ("all-MiniLM-L6-v2",)}


def test_each_cell_is_counted_against_its_own_budget(tmp_path):
    cells = [CellRecord(name=f"{m}/f", method=m, forget_set="f", num_trials=n) for m, n in (("A", 1), ("B", 6))]
    records = [header(cells=tuple(cells)), *(started(m, "f", n) for m, n in (("A", 0), ("A", 1), ("B", 0), ("C", 0)))]
    (group,) = summarize(load_sweep(write_records(tmp_path, records))).forget_sets
    assert [(cell.method, cell.num_planned) for cell in group.cells] == [("A", 2), ("B", 6), ("C", 1)]


def test_seconds_are_recorded_phases_or_the_time_to_the_end(log):
    trials = {trial.key: trial for trial in summarize(log).trials}
    assert trials["ME+GD/forget01/0"].seconds == 39.5
    assert trials["IDK+AP/forget01/3"].seconds == 3600 - 3 * 60


def test_front_knee_and_hypervolume_by_hand(tmp_path):
    trials = [
        ("A", 0, (0.2, 1.0), {}), ("A", 1, (0.8, 0.8), {}), ("A", 2, (1.0, 0.2), {}), ("A", 3, (0.5, 0.5), {}),
        ("B", 0, (0.9, 0.75), {}),
    ]  # fmt: skip
    (group,) = sweep_of(tmp_path, trials).forget_sets
    first, second = group.cells
    assert [trial.number for trial in first.front] == [0, 1, 2]
    assert first.knee.number == 1
    assert first.hypervolume == pytest.approx(0.2 * 1.0 + 0.6 * 0.8 + 0.2 * 0.2)
    assert second.hypervolume == pytest.approx(0.675)
    assert {trial.key for trial in group.front} == {"A/f/0", "A/f/1", "A/f/2", "B/f/0"}
    assert [cell.method for cell in group.ranking] == ["A", "B"]


@pytest.mark.parametrize(
    ("objectives", "ending"),
    [
        pytest.param((1.0, 1.0), {"state": TrialState.DIVERGED}, id="diverged"),
        pytest.param((1.0, 1.0), {"state": TrialState.PRUNED}, id="pruned"),
        pytest.param(None, {"state": TrialState.FAILED}, id="failed"),
        pytest.param((1.0, math.nan), {}, id="not a number"),
        pytest.param(None, None, id="unfinished"),
    ],
)
def test_only_complete_trials_with_numbers_stand_on_a_front(tmp_path, objectives, ending):
    summary = sweep_of(tmp_path, [("A", 0, (0.1, 0.1), {}), ("A", 1, objectives, ending), ("B", 0, objectives, ending)])
    (group,) = summary.forget_sets
    assert [trial.key for trial in group.front] == ["A/f/0"]
    assert group.cells[1].knee is None
    assert group.cells[1].hypervolume is None
    assert group.ranking[-1].method == "B"
    assert len(summary.trials) == 3


def test_minimized_objectives(tmp_path):
    down = ObjectiveRecord(metric="forget/rouge", direction="minimize", worst=1.0)
    trials = [("A", 0, (0.5, 0.2), {}), ("A", 1, (0.5, 0.4), {})]
    cell = sweep_of(tmp_path / "a", trials, objectives=(OBJECTIVES[0], down)).forget_sets[0].cells[0]
    assert [trial.number for trial in cell.front] == [0]
    assert cell.hypervolume == pytest.approx(0.5 * 0.8)


BEFORE, RETAIN = ("before", None, (0.6, 0.2), {}), ("retain_model", None, (0.5, 0.7), {})


def test_hypervolumes_are_scaled_by_the_two_baselines(tmp_path):
    trials = [BEFORE, RETAIN, ("A", 0, (0.25, 0.7), {}), ("B", 0, (0.6, 0.2), {}), ("C", 0, (0.5, 0.7), {})]
    (group,) = (summary := sweep_of(tmp_path, trials)).forget_sets
    assert group.measure.is_scaled
    assert (group.measure.box.zero, group.measure.box.one) == ((0.0, 0.2), (0.5, 0.7))
    assert [cell.hypervolume for cell in group.cells] == pytest.approx([0.5, 0.0, 1.0])
    assert [cell.volume.alone for cell in group.cells] == pytest.approx([0.0, 0.0, 0.5])
    assert (
        "model utility from the worst value 0 to 0.500 and forget efficacy from 0.200 before unlearning to 0.700"
        in (measure(group, summary.objectives))
    )


@pytest.mark.parametrize(
    ("baselines", "said"),
    [
        pytest.param([], "are not both scored", id="no baseline"),
        pytest.param([BEFORE], "are not both scored", id="no retain model"),
        pytest.param(
            [BEFORE, ("retain_model", None, (0.5, 0.2), {})], "model's forget efficacy is not clearly better", id="same"
        ),
        pytest.param(
            [BEFORE, ("retain_model", None, (0.0, 0.7), {})], "model's model utility is not clearly better", id="worst"
        ),
        pytest.param(
            [BEFORE, ("retain_model", None, (0.5, 0.20069), {})], "model's forget efficacy is not clearly", id="hardly"
        ),
        pytest.param(
            [BEFORE, ("retain_model", None, (0.5, math.nan), {})], "retain model has no forget efficacy", id="no number"
        ),
    ],
)
def test_axes_stay_as_they_are_where_the_baselines_do_not_span_them(tmp_path, baselines, said):
    (group,) = (summary := sweep_of(tmp_path, [*baselines, ("A", 0, (0.5, 0.4), {})])).forget_sets
    assert group.cells[0].hypervolume == pytest.approx(0.2)
    text = measure(group, summary.objectives)
    assert "worst values (model utility 0 and forget efficacy 0)" in text
    assert said in text


def test_a_short_span_is_a_scale(tmp_path):
    trials = [BEFORE, ("retain_model", None, (0.5, 0.2021), {}), ("A", 0, (0.5, 0.2021), {})]
    (group,) = sweep_of(tmp_path, trials).forget_sets
    assert group.measure.is_scaled and group.cells[0].hypervolume == pytest.approx(1)


def test_a_baseline_that_lacks_an_objective_is_said_to_lack_it(tmp_path):
    goals = (*OBJECTIVES, ObjectiveRecord(metric="forget_quality", direction="maximize", worst=0))
    scores = {"model_utility": 0.5, "forget_efficacy": 0.7}
    trials = [
        ("before", None, None, {"metrics": {**scores, "forget_quality": 0.01}}),
        ("retain_model", None, None, {"metrics": scores}), ("A", 0, (0.5, 0.4, 0.1), {}),
    ]  # fmt: skip
    (group,) = (summary := sweep_of(tmp_path, trials, objectives=goals)).forget_sets
    assert "not scaled: the retain model has no forget quality." in measure(group, summary.objectives)


def test_intervals_are_of_as_many_trials_of_each_method_and_count_those_that_were_lost(tmp_path):
    trials = [*same_every_time("A", (0.5, 0.5)), ("A", 4, (0.5, 0.5), {}), ("A", 5, (0.5, 0.5), {})]
    trials += [("B", 0, (0.5, 0.8), {}), ("B", 1, (0.5, 0.8), {})]
    trials += [("B", 2, (0.0, 0.0), {"state": TrialState.DIVERGED}), ("B", 3, None, {"state": TrialState.FAILED})]
    trials += [("B", 4, None, None)]
    first, second = sweep_of(tmp_path, trials).forget_sets[0].cells
    assert (first.volume.num_drawn, second.volume.num_drawn) == (2, 2)
    assert first.volume.interval == pytest.approx((0.25, 0.25))
    assert second.volume.interval == pytest.approx((0.0, 0.4))  # one draw in six has only lost ones


def test_the_most_forgotten_at_nearly_all_of_the_utility(tmp_path):
    trials = [
        BEFORE, ("A", 0, (0.57, 0.5), {}), ("A", 1, (0.59, 0.4), {}), ("A", 2, (0.56, 0.9), {}),
        ("B", 0, (0.6, 0.6), {}), ("C", 0, (0.5, 0.9), {}), ("D", 0, None, None),
    ]  # fmt: skip
    summary = sweep_of(tmp_path, trials)
    table = best_kept(summary.forget_sets[0], summary.objectives)
    assert [(cell.method, trial and trial.number) for cell, trial in table.rows] == [
        ("B", 0), ("A", 0), ("C", None), ("D", None),
    ]  # fmt: skip
    assert table.objective.metric == "forget_efficacy"
    assert [(o.metric, limit) for o, limit in table.limits] == [("model_utility", pytest.approx(0.57))]


@pytest.mark.parametrize(
    ("baselines", "objectives"),
    [
        pytest.param([RETAIN], OBJECTIVES, id="no scores before unlearning"),
        pytest.param(
            [BEFORE], (OBJECTIVES[0], OBJECTIVES[0].model_copy(update={"metric": "retain/rouge"})), id="no aim"
        ),
        pytest.param([BEFORE], (OBJECTIVES[1], OBJECTIVES[1].model_copy(update={"metric": "forget/x"})), id="no limit"),
    ],
)
def test_no_table_where_the_question_makes_no_sense(tmp_path, baselines, objectives):
    summary = sweep_of(tmp_path, [*baselines, ("A", 0, (0.5, 0.5), {})], objectives=objectives)
    assert best_kept(summary.forget_sets[0], summary.objectives) is None


def test_baselines_without_objectives_are_placed_by_their_metrics(tmp_path):
    metrics = {"model_utility": 0.6, "forget_efficacy": 0.2}
    trials = [("A", 0, (0.5, 0.5), {}), ("before", None, None, {"metrics": metrics})]
    (group,) = sweep_of(tmp_path, trials).forget_sets
    assert group.before.objectives == (0.6, 0.2)
    assert group.retain_model is None


def test_answers_are_matched_by_set_and_index(log):
    group = summarize(log).forget_sets[0]
    sets = side_by_side(group)
    assert [asked.name for asked in sets] == ["forget", "retain", "real_authors"]
    outputs = dict(sets[0].questions[1].outputs)
    assert list(outputs) == ["before", "retain_model", *(cell.method for cell in group.ranking)]
    assert outputs["before"] == sets[0].questions[1].truth == "Her father is a civil engineer."
    assert outputs["IDK+AP"] == "I don't know the answer to that."


def test_a_missing_answer_is_none(tmp_path):
    said = finished("A/f/0", (0.5, 0.5)).examples
    trials = [("A", 0, (0.5, 0.5), {}), ("B", 0, (0.5, 0.5), {"examples": said[1:2]})]
    first, second, _ = side_by_side(sweep_of(tmp_path, trials).forget_sets[0])[0].questions
    assert dict(first.outputs)["B"] is None
    assert dict(second.outputs)["B"] == said[1].output


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(2.0869e-5), "2.09e-5"), (number(1.0), "1"), (number(True), "True"), (number(123456), "123456"),
        (number(math.inf), "∞"), (number(None), "–"), (score(0.5), "0.500"), (score(0.0), "0.000"),
        (score(1.34e-5), "1.34e-5"), (score(math.nan), "not a number"), (duration(0.5), "0.5 s"),
        (duration(90), "90 s"), (duration(600), "10 min"), (duration(9000), "2.5 h"), (duration(None), "–"),
    ],
)  # fmt: skip
def test_numbers_have_a_sensible_precision(shown, expected):
    assert shown == expected


def test_params_are_shortened_only_where_they_stay_apart():
    assert short_names(["train.rate", "method.beta"]) == {"train.rate": "rate", "method.beta": "beta"}
    assert short_names(["a.rate", "b.rate"]) == {"a.rate": "a.rate", "b.rate": "b.rate"}

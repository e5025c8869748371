"""Chains of tasks and downstream tasks in the report: the numbers, the curves, and what is shown of half a chain."""

import re

import pytest
from chain_sweep import DOWNSTREAM, NUM_TASKS, efficacy, trial_records, write_chain_sweep
from rich.console import Console
from synthetic_sweep import finished, header, started, write_records, write_sweep
from test_report_page import HOSTILE, Page, data_of, page_of

from orchestrator.analysis.build import key_metrics
from orchestrator.analysis.chains import task_chains
from orchestrator.analysis.downstream import downstream_table
from orchestrator.analysis.summary import summarize
from orchestrator.analysis.task_plots import task_figures
from orchestrator.analysis.terminal import render_summary
from orchestrator.analysis.words import difference, words
from orchestrator.tracking.journal import CellRecord, TrialState
from orchestrator.tracking.sweep_log import load_sweep


@pytest.fixture
def chain_log(tmp_path):
    return load_sweep(write_chain_sweep(tmp_path / "chain"))


@pytest.fixture
def group(chain_log):
    return summarize(chain_log).forget_sets[0]


def chains_of(group):
    return {chain.trial.method: chain for chain in task_chains(group).chains}


def test_numbers_of_a_whole_chain_are_those_it_was_scored_with(group):
    chains = chains_of(group)
    assert list(chains) == ["before", "ME+GD", "IDK+AP", "GA+GD", "NPO+GD"]
    for method in ("before", "ME+GD", "IDK+AP", "GA+GD"):
        chain, metrics = chains[method], chains[method].trial.metrics
        shown = (chain.right_after, chain.at_the_end, chain.relapse, chain.model_utility)
        names = ("forget_efficacy", "forget_efficacy_final", "relapse", "model_utility")
        assert shown == pytest.approx([metrics[name] for name in names])
        assert list(chain.over_tasks["earlier/forget_efficacy"]) == [2, 3, 4, 5]
    knee = chains["IDK+AP"]
    assert knee.trial is group.ranking[1].knee
    assert knee.over_tasks["forget_efficacy"] == {t: efficacy("IDK+AP", 0, t, t) for t in range(1, NUM_TASKS + 1)}


def test_a_method_without_a_knee_shows_its_longest_chain_so_far(group):
    chain = chains_of(group)["NPO+GD"]
    assert (chain.trial.number, chain.trial.state, len(chain.trial.tasks)) == (1, TrialState.DIVERGED, 3)
    right_after = [efficacy("NPO+GD", 1, task, task) for task in (1, 2, 3)]
    by_then = [efficacy("NPO+GD", 1, task, 3) for task in (1, 2, 3)]
    assert chain.right_after == pytest.approx(sum(right_after) / 3)
    assert chain.at_the_end == pytest.approx(sum(by_then) / 3)
    assert chain.relapse == pytest.approx((sum(right_after) - sum(by_then)) / 2) == pytest.approx(0.045)


def test_after_one_task_nothing_can_have_come_back(tmp_path):
    records = [header(), *trial_records("IDK+AP", "f", 2)]
    chain = chains_of(summarize(load_sweep(write_records(tmp_path, records))).forget_sets[-1])["IDK+AP"]
    assert chain.right_after == chain.at_the_end == efficacy("IDK+AP", 2, 1, 1)
    assert chain.relapse is None


def test_a_baseline_that_was_scored_once_is_a_level(tmp_path):
    metrics = {"model_utility": 0.6, "forget_efficacy": 0.2, "earlier/forget_efficacy": 0.3}
    records = [header(), started("before", "f", None), finished("before/f", metrics=metrics)]
    records += trial_records("ME+GD", "f", 0)
    chain = chains_of(summarize(load_sweep(write_records(tmp_path, records))).forget_sets[-1])["before"]
    assert chain.over_tasks["model_utility"] == dict.fromkeys(range(1, NUM_TASKS + 1), 0.6)
    assert chain.over_tasks["earlier/forget_efficacy"] == dict.fromkeys(range(2, NUM_TASKS + 1), 0.3)


def test_sweeps_without_chains_or_downstream_tasks_have_neither_section(log, tmp_path):
    groups = summarize(log).forget_sets
    assert [task_chains(group) for group in groups] == [None, None]
    assert [downstream_table(group) for group in groups] == [None, None]
    text = Page(page_of(log, tmp_path)).text
    assert "Over the tasks" not in text and "Downstream" not in text


def test_curves_are_drawn_over_task_numbers(chain_log):
    first, second = task_figures([task_chains(group) for group in summarize(chain_log).forget_sets])
    for figure in first:
        owners = {trace["meta"]["owner"]: trace for trace in figure["data"]}
        assert {owner for owner, trace in owners.items() if trace["line"]["dash"] == "dash"} == {"before"}
        assert len(owners["ME+GD"]["x"]) - len(owners["NPO+GD"]["x"]) == 2
        assert figure["layout"]["xaxis"]["dtick"] == 1
    right_after, earlier, utility = first
    assert owners["NPO+GD"]["x"] == [1, 2, 3]
    assert earlier["data"][0]["x"] == [2, 3, 4, 5]
    assert right_after["layout"]["yaxis"] == earlier["layout"]["yaxis"] == second[0]["layout"]["yaxis"]
    assert right_after["layout"]["yaxis"]["range"] != utility["layout"]["yaxis"]["range"]


def test_the_page_tells_of_tasks_and_of_where_chains_ended(chain_log, tmp_path):
    text = page_of(chain_log, tmp_path)
    page = Page(text)
    for expected in (
        "Over the tasks", "Task by task", "Downstream tasks", *DOWNSTREAM, "3 of 5", "−0.120", "+0.010", "−0.004",
    ):  # fmt: skip
        assert expected in page.text, expected
    trials = data_of(text)["trials"]
    reached = {(row[1], owner[3]) for row, owner in zip(trials["rows"], trials["owners"], strict=True)}
    assert reached >= {("diverged", 2), ("failed", 1), ("failed", 0), ("unfinished", 2), ("complete", NUM_TASKS)}
    for table in ("Scores after each task", "Task by task"):
        for forget_set in ("forget01", "forget05"):
            assert ("aria-label", f"{table} on {forget_set}") in page.attributes


@pytest.mark.parametrize("last_record", range(1, 40, 2))
def test_the_page_of_a_sweep_that_is_in_the_middle_of_a_chain(tmp_path, last_record):
    log = load_sweep(write_chain_sweep(tmp_path, last_record=last_record))
    page = Page(page_of(log, tmp_path))
    tasks = sum(len(trial.tasks) for trial in log.trials.values())
    assert ("Over the tasks" in page.text) == (tasks > 0)


def test_hostile_task_names_show_as_text(tmp_path):
    names = load_sweep(write_chain_sweep(tmp_path / "a", name=lambda task: f"{HOSTILE}{task}"))
    text, honest = page_of(names, tmp_path), load_sweep(write_chain_sweep(tmp_path / "b"))
    assert Page(text).tags.count("script") == Page(page_of(honest, tmp_path)).tags.count("script")
    assert "<script>alert" not in text
    assert ("title", f"{HOSTILE}1") in Page(text).attributes
    hovers = [
        hover
        for panels in data_of(text)["tasks"]
        for panel in panels
        for t in panel["data"]
        for hover in t["hovertext"]
    ]
    assert all("after task" in hover and "&lt;script&gt;" in hover for hover in hovers)
    assert {tag for hover in hovers for tag in re.findall(r"<.*?>", hover)} == {"<b>", "</b>", "<br>"}


def test_downstream_scores_are_compared_with_the_model_before(group):
    table = downstream_table(group)
    assert table.tasks == tuple(DOWNSTREAM)
    rows = {trial.method: scores for trial, scores in table.rows}
    assert list(rows) == ["before", "ME+GD", "IDK+AP", "GA+GD"]
    assert [(score.value, score.difference) for score in rows["before"]] == [(v, None) for v in DOWNSTREAM.values()]
    assert [score.difference for score in rows["GA+GD"]] == pytest.approx([-0.12] * 3)


def test_downstream_scores_without_a_model_before_have_no_difference(tmp_path):
    records = [header(), started("A", "f", 0), finished("A/f/0", (0.5, 0.5), metrics={"downstream/mmlu": 0.4})]
    ((_, scores),) = downstream_table(summarize(load_sweep(write_records(tmp_path, records))).forget_sets[-1]).rows
    assert [(score.value, score.difference) for score in scores] == [(0.4, None)]


def test_key_metrics_leave_out_what_has_a_section_of_its_own(chain_log, tmp_path):
    assert key_metrics(summarize(chain_log)) == ["relapse", "forget/rouge", "retain/rouge", "forget_efficacy_final"]
    metrics = {"downstream/mmlu": 0.4, "neighbor/entailment_score": 0.1, "neighbor/rouge": 0.6, "forget/rouge": 0.2}
    cells = (CellRecord(name="A/forget", method="A", forget_set="forget", num_trials=1),)
    records = [header(cells=cells), started("A", "forget", 0), finished("A/forget/0", (0.5, 0.5), metrics=metrics)]
    real_world = summarize(load_sweep(write_records(tmp_path / "real", records)))
    assert key_metrics(real_world) == ["forget/rouge", "neighbor/rouge", "neighbor/entailment_score"]


def test_terminal_tells_the_relapse_of_chains_alone(chain_log, tmp_path):
    def printed(log):
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(render_summary(summarize(log)))
        return console.export_text()

    text = printed(chain_log)
    assert "relapse" in text and "0.125" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "relapse" not in printed(load_sweep(write_sweep(tmp_path / "plain")))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model_utility", "model utility"), ("forget/rouge", "forget rouge"),
        ("neighbor/entailment_score", "neighbor entailment score"), ("downstream/arc_challenge", "arc_challenge"),
        ("earlier/forget_efficacy", "forget efficacy of earlier tasks"), ("task12", "task 12"),
        ("task3/forget_efficacy", "forget efficacy of task 3"), ("a/b/c_d", "a/b/c d"),
        ("retain_model", "retain model"), ("forget_efficacy_final", "forget efficacy at the end"),
    ],
)  # fmt: skip
def test_names_read_as_words(name, expected):
    assert words(name) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0121, "+0.012"), (-0.5, "−0.500"), (0.0, "±0"), (-0.0004, "±0"), (None, "–")]
)
def test_differences_have_a_sign(value, expected):
    assert difference(value) == expected

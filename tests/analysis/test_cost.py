"""Forget-set size against cost: medians by hand, and what older journals lack."""

import pytest
from synthetic_sweep import cell, data, finished, header, started, write_records, write_sweep

from orchestrator.analysis.build import render
from orchestrator.analysis.cost import Cost, Spent, cell_totals, cost_figure, cost_tables, time_spent
from orchestrator.analysis.overlay import overlay
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.sweep_log import load_sweep


def summary_of(folder, rows):
    """A on two forget sets of `rows`, three trials each and one that failed; B on the second alone."""
    cells = tuple(cell(method, name) for method, name in (("A", "f"), ("A", "g"), ("B", "g")))
    records = [header(cells=cells, data={name: data(number) for name, number in rows.items()})]
    for method, name, each in (("A", "f", (10, 30, 11)), ("A", "g", (50, 60, 52)), ("B", "g", (70,))):
        for number, seconds in enumerate(each):
            start = started(method, name, number)
            records += [start, finished(start.key, (0.5, 0.5), seconds={"train": seconds})]
    failed = started("A", "f", 3)
    records += [failed, finished(failed.key, state=TrialState.FAILED, seconds={"train": 999})]
    return summarize(load_sweep(write_records(folder, records)))


def test_medians_by_the_size_of_the_forget_set(tmp_path):
    (table,) = cost_tables(summary_of(tmp_path, {"f": 400, "g": 40}))
    assert [(group.name, group.num_rows) for group in table.groups] == [("g", 40), ("f", 400)]
    assert table.rows == (("A", (Cost(3, 52, 50, 60), Cost(3, 11, 10, 30))), ("B", (Cost(1, 70, 70, 70), None)))
    figure = cost_figure(table)
    assert [(trace["meta"]["owner"], trace["x"], trace["y"]) for trace in figure["data"]] == [
        ("A", [40, 400], [52, 11]), ("B", [40], [70])
    ]  # fmt: skip
    assert figure["layout"]["xaxis"]["tickvals"] == [40, 400]


def test_an_older_journal_has_the_table_alone(tmp_path):
    (table,) = cost_tables(summary_of(tmp_path, {"g": 40}))
    assert [group.num_rows for group in table.groups] == [40, None] and cost_figure(table) is None


def test_one_forget_set_has_a_table_and_no_curve(tmp_path):
    cells = (cell("A", "f"),)
    records = [header(cells=cells), started("A", "f", 0)]
    assert cost_tables(summarize(load_sweep(write_records(tmp_path / "none", records)))) == []
    folder = write_records(tmp_path / "one", [*records, finished("A/f/0", (0.5, 0.5))])
    (table,) = cost_tables(summarize(load_sweep(folder)))
    assert dict(table.rows)["A"][0].median == 39.5 and cost_figure(table) is None


def test_gpu_time_has_a_table_of_its_own(tmp_path):
    log = load_sweep(write_sweep(tmp_path))
    trial = log.trials["ME+GD/forget01/0"]
    trial.started = trial.started.model_copy(update={"gpus": 2.0})
    log._spent.gpu_seconds = 1.0
    plain, held = cost_tables(summarize(log))
    assert (plain.title, held.title) == ("Time of a trial", "GPU time of a trial")
    assert dict(held.rows)["ME+GD"][0].most == 2 * 3600


def test_all_trials_of_a_cell_together(tmp_path):
    """Failed trials are paid for as well; the sum of a trial that runs is not known yet."""
    summary = summary_of(tmp_path / "cpu", {"f": 400, "g": 40})
    totals = cell_totals(summary)
    assert totals.title == "Time of all trials" and [group.name for group in totals.groups] == ["g", "f"]
    assert totals.rows == (("A", (162, 1050)), ("B", (70, None)))
    section = render(summary).split('<section id="cost">')[1].split("</section>")[0]
    assert '<div class="scroll" tabindex="0" role="region" aria-label="Time of all trials">' in section
    assert "18 min" in section  # 1050 s
    records = [header(cells=(cell("A", "f"),)), started("A", "f", 0).model_copy(update={"gpus": 2.0})]
    assert cell_totals(summarize(load_sweep(write_records(tmp_path / "begun", records)))) is None
    for number, held in ((0, 400.0), (1, 300.0)):
        end = finished(f"A/f/{number}", state=TrialState.FAILED).model_copy(update={"gpu_seconds": held})
        records += [started("A", "f", number), end]
    totals = cell_totals(summarize(load_sweep(write_records(tmp_path / "gpu", [records[0], *records[2:]]))))
    assert (totals.title, totals.rows) == ("GPU time of all trials", (("A", (700,)),))


def test_what_all_the_time_went_to(tmp_path):
    summary = summary_of(tmp_path / "one", {"f": 400, "g": 40})
    assert time_spent(summary) == [Spent("complete trials", 7, 283, 0), Spent("failed trials", 1, 999, 0)]
    assert "78%" in render(summary)
    log = load_sweep(write_sweep(tmp_path / "synthetic"))
    kinds = {one.kind: one for one in time_spent(summarize(log))}
    assert [kinds[kind].num_trials for kind in ("complete trials", "model before and retain model")] == [36, 4]
    assert sum(one.seconds for one in kinds.values()) == pytest.approx(summarize(log).seconds)


def test_the_baselines_of_each_overlaid_sweep_were_paid_for(tmp_path):
    sweeps = {name: summarize(load_sweep(write_sweep(tmp_path / name))) for name in ("one", "two")}
    both = {one.kind: one for one in time_spent(overlay(sweeps))}
    assert both["model before and retain model"].num_trials == 8
    assert sum(one.seconds for one in both.values()) == pytest.approx(overlay(sweeps).seconds)

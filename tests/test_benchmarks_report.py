"""The benchmark of the report: its journal is one that a report can be made of, and its record is a table."""

from benchmarks import report
from benchmarks.driver import sweep_config
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.sweep_log import load_sweep


def test_its_journal_is_a_finished_sweep_with_every_setting_drawn(tmp_path):
    sweep = sweep_config(6, 3, tmp_path)
    num_records = report.write_journal(sweep, tmp_path / "sweep")
    summary = summarize(load_sweep(tmp_path / "sweep"))
    assert num_records == sum(1 for _ in (tmp_path / "sweep" / "journal" / "000001.jsonl").open())
    assert (summary.state, len(summary.trials), len(summary.forget_sets)) == ("done", 6, 3)
    assert all(group.before and group.retain_model for group in summary.forget_sets)
    assert all(trial.params.keys() == summary.trials[0].params.keys() for trial in summary.trials)
    assert len({trial.params["train.learning_rate"] for trial in summary.trials}) == 6
    made = report.make(tmp_path / "sweep")
    assert (
        set(made) == {"make_s", "read_s", "summarize_s", "write_s"} and (tmp_path / "sweep" / "report.html").is_file()
    )


def test_its_page_has_a_row_for_each_run():
    run = dict.fromkeys(report.TITLES, 1.234)
    facts = {"date": "2026-01-01", "machine": "m", "cores": 2, "load": 0.5, "nice": 0, "command": "c", "versions": {},
             "trials": 6, "cells": 3, "records": 9, "page_mb": 5.0, "medians": run, "runs": [run, run]}  # fmt: skip
    page = report.page(facts, "report.json")
    assert "6 trials in 3 cells, 9 records; a page of 5.0 MB." in page
    assert sum(line.startswith("| run") for line in page.splitlines()) == 2

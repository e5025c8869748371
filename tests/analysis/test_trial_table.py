"""The rows that the page's table, downloads and slices are made of."""

import json
import math

from synthetic_sweep import cell, finished, header, started, write_records

from orchestrator.analysis.summary import summarize
from orchestrator.analysis.trial_table import trial_table
from orchestrator.tracking.sweep_log import load_sweep

METRICS = ("forget/rouge", "retain/rouge", "forget/token_entropy", "forget_quality")


def test_a_row_for_each_trial_whatever_became_of_it(log):
    summary = summarize(log)
    table = trial_table(summary)
    assert [(column["name"], column["kind"]) for column in table["columns"]] == [
        ("trial", "trial"), ("state", "state"), ("model_utility", "score"), ("forget_efficacy", "score"),
        ("train.learning_rate", "setting"), ("method.forget_weight", "setting"), ("method.beta", "setting"),
        ("seconds", "duration"), ("error", "error"), ("seed", "download"),
        *((name, "download") for name in METRICS),
    ]  # fmt: skip
    assert len(table["rows"]) == len(table["owners"]) == 40
    rows = {row[0]: row for row in table["rows"]}
    failed = rows["IDK+AP/forget01/3"]
    assert failed[1:4] == ["failed", None, None] and failed[6] is None and "MemoryError" in failed[8]
    assert failed[10:] == [None] * len(METRICS)
    (complete,) = (trial for trial in summary.trials if trial.key == "ME+GD/forget01/2")
    assert rows["ME+GD/forget01/2"][10:] == [complete.metrics[name] for name in METRICS]
    assert table["owners"][table["rows"].index(failed)] == ["IDK+AP", "forget01", 3, 0]


def test_a_row_has_the_seed_that_its_trial_was_given(tmp_path):
    start = started("A", "f", 0).model_copy(update={"config": {"seed": 11}})
    records = [header(cells=(cell("A", "f"),)), start, finished(start.key, (0.5, 0.5))]
    table = trial_table(summarize(load_sweep(write_records(tmp_path, records))))
    assert table["rows"][0][[column["name"] for column in table["columns"]].index("seed")] == 11


def test_what_json_has_no_number_for_is_text(tmp_path):
    start = started("A", "f", 0)
    records = [header(cells=(cell("A", "f"),)), start, finished(start.key, (math.nan, -math.inf))]
    (row,) = trial_table(summarize(load_sweep(write_records(tmp_path, records))))["rows"]
    assert row[2:4] == ["not a number", "−∞"]
    json.dumps(row, allow_nan=False)

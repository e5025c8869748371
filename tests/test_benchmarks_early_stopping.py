"""What the benchmark of early stopping makes of journals whose answer is known."""

import json
import subprocess
import sys

import pytest

from benchmarks import early_stopping
from orchestrator.tracking.journal import RungReached, TrialState
from orchestrator.tracking.sweep_log import load_sweep
from tests.analysis.synthetic_sweep import FORGET_SETS, METHODS, finished, header, started

CONFIG = {"early_stopping": {"rungs": [0.2, 0.6], "keep": 1.0, "rows_per_set": 20, "min_trials": 4}}
NUM_TRIALS, NUM_STEPS = 12, 10
# The trials of a cell from the worst to the best, in the order in which they run: the worst of them early on.
STRENGTHS = [0.5, 0.1, 0.9, 0.3, 0.2, 0.8, 0.05, 0.7, 0.15, 0.4, 0.95, 0.6]


def append(folder, records):
    """A journal of these records, in one more segment; not flushed to disk one by one."""
    place = folder / "journal"
    place.mkdir(parents=True, exist_ok=True)
    segment = place / f"{len(list(place.iterdir())) + 1:06d}.jsonl"
    segment.write_text("".join(record.model_dump_json() + "\n" for record in records))


def write(folder, early):
    """A sweep of full trials; `early(number, final)` is what a trial scores at its rungs."""
    records = [header(config=header().config | CONFIG)]
    for kind, values in (("retain_model", (0.9, 0.9)), ("before", (0.9, 0.0))):
        for name in FORGET_SETS:
            records.append(started(kind, name, None))
            metrics = dict(zip(("model_utility", "forget_efficacy"), values, strict=True))
            records.append(finished(f"{kind}/{name}", None, metrics=metrics))
    for number in range(NUM_TRIALS):
        for method in METHODS:
            for name in FORGET_SETS:
                start = started(method, name, number)
                records.append(start)
                final = (0.8 * STRENGTHS[number], 0.9 * STRENGTHS[number])
                for rung, step in enumerate((2, 6), 1):
                    records.append(
                        RungReached(
                            key=start.key,
                            rung=rung,
                            step=step,
                            num_steps=NUM_STEPS,
                            metrics={},
                            objectives=early(number, final),
                            seconds={"train": float(step), "rungs": 0.5 * rung},
                        )
                    )
                seconds = {"train": 10.0, "rungs": 1.0, "evaluate": 10.0}
                records.append(finished(start.key, final, seconds=seconds))
    append(folder, records)
    return folder


def measured(folder):
    return early_stopping.measure(list(early_stopping.cells(load_sweep(folder))))


def test_where_early_scores_are_final_scores_stopping_is_free(tmp_path):
    facts = measured(write(tmp_path, lambda number, final: final))
    assert (facts["cells"], facts["trials"], facts["rungs"]) == (8, 96, {"1": 0.2, "2": 0.6})
    assert [rank["method"] for rank in facts["ranks"]] == [m for m in METHODS for _ in (1, 2)]
    assert all(rank["tau"] == rank["low"] == rank["high"] == 1 and rank["trials"] == 24 for rank in facts["ranks"])
    assert all(row["volume"] == row["worst volume"] == 0 for row in facts["savings"])
    half = next(
        row for row in facts["savings"] if row["rungs"] == [1] and row["keep"] == 1 / 2 and row["min_trials"] == 4
    )
    # By hand: the first four go on; then 0.2, 0.05 and 0.15 are not in the better half so far.
    assert half["stopped"] == pytest.approx(3 / 12)
    assert half["steps"] == pytest.approx(3 * 8 / 120)
    assert half["seconds"] == pytest.approx(1 - (3 * 2.5 + 9 * 20.5) / 240)
    assert facts["on_by_default"] and facts["because"] == []
    assert facts["setting"] == "rungs 1, 2, keep 0.25, min_trials 1"  # saves most


def test_where_early_scores_say_the_opposite_the_best_are_lost_and_the_verdict_says_why(tmp_path):
    facts = measured(write(tmp_path, lambda number, final: (1 - final[0], 1 - final[1])))
    assert all(rank["tau"] == rank["high"] == -1 for rank in facts["ranks"])
    assert all(row["worst volume"] > 0.05 for row in facts["savings"])
    assert not facts["on_by_default"] and facts["setting"] is None
    assert "loses" in facts["because"][0] and "does not predict final order of GA+GD, NPO+GD" in facts["because"][0]


def test_where_early_scores_say_nothing_the_interval_holds_zero(tmp_path):
    shuffled = [5, 11, 0, 8, 3, 9, 1, 6, 10, 2, 7, 4]
    facts = measured(write(tmp_path, lambda number, final: (shuffled[number], shuffled[number])))
    assert all(rank["low"] < 0 < rank["high"] for rank in facts["ranks"])
    assert not facts["on_by_default"]


def test_the_command_writes_a_record_and_a_page(tmp_path):
    folder, out = write(tmp_path / "sweep", lambda number, final: final), tmp_path / "record.json"
    command = [sys.executable, "-m", "benchmarks.early_stopping", str(folder), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(out.read_text())
    assert facts["on_by_default"] and facts["sweeps"] == ["sweep"] and facts["rows_per_set"] == 20
    page = out.with_suffix(".md").read_text()
    assert page.strip() == done.stdout.strip()
    assert "**Should trials be stopped by default? Yes: rungs 1, 2, keep 0.25, min_trials 1.**" in page
    assert "| GA+GD | 1 | 24 | 1.00 | 1.00 to 1.00 |" in page


def test_a_sweep_that_stopped_trials_or_recorded_no_rungs_is_refused(tmp_path):
    folder = write(tmp_path, lambda number, final: final)
    start = started("GA+GD", "forget01", 99)
    append(folder, [start, finished(start.key, (0.1, 0.1), state=TrialState.PRUNED)])
    with pytest.raises(SystemExit, match="GA\\+GD/forget01/99 was stopped; run the sweep with early_stopping.keep=1"):
        measured(folder)

"""The program that simulates a thousand slots runs a small sweep, and its numbers agree with each other."""

import json

import pytest

from benchmarks import scale


@pytest.mark.parametrize("minutes", [0.0, 0.01])
def test_a_small_sweep_is_run_caught_up_and_recorded(tmp_path, monkeypatch, capsys, minutes):
    out = tmp_path / "scale.json"
    arguments = ["--trials", "40", "--cells", "6", "--slots", "12", "--trial-minutes", str(minutes)]
    monkeypatch.setattr("sys.argv", ["scale", *arguments, "--storage", str(tmp_path), "--out", str(out)])
    assert scale.main() == 0
    facts = json.loads(out.read_text())
    assert (facts["trials"], facts["lookahead"], sum(facts["states"].values())) == (42, 2, 42)
    (window,) = facts["windows"]
    assert window["records"] > 42 * 3 and window["view_records_behind"] == facts["catch_up"]["records"]
    assert 0 < window["busy_slots"] <= 12
    assert window["lag_records_median"] <= window["lag_records_max"] <= window["records"] + 50
    assert 0 <= window["lag_seconds_median"] <= window["lag_seconds_max"]
    assert ("late_p99_ms" in window) == (minutes > 0)
    assert facts["view_cpu_ms"] > 0 and facts["report"]["mb"] > 0
    assert "| 42 |" in out.with_suffix(".md").read_text() == capsys.readouterr().out.partition("\n")[2][:-1]
    assert not list(tmp_path.glob("tmp*"))  # the sweep's folder is gone


def test_loads_are_rates_times_what_a_trial_costs():
    windows = [{"trials": 500}, {"trials": 1000, "records": 3500, "cpu_ms": 30.0}]
    first, *_, hour = scale.loads({"windows": windows, "view_cpu_ms": 90.0}, 600)
    assert first == {
        "trial_minutes": 1,
        "trials_per_second": 10.0,
        "records_per_second": 70.0,
        "driver": 0.3,
        "view": 0.9,
    }
    assert (hour["trial_minutes"], hour["trials_per_second"]) == (60, 0.167)

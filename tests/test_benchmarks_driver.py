"""The program that measures the driver runs a whole sweep and counts what it did."""

import json

import pytest

from benchmarks import driver


def test_a_small_sweep_is_run_resumed_and_recorded(tmp_path, monkeypatch, capsys):
    out = tmp_path / "driver.json"
    arguments = ["--trials", "40", "--cells", "6", "--at-a-time", "8", "--storage", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["driver", *arguments])
    assert driver.main() == 0
    facts = json.loads(out.read_text())
    assert (facts["trials"], facts["cells"], sum(facts["states"].values())) == (42, 6, 42)
    (window,) = facts["windows"]
    assert window["trials"] == 42 and window["view_seconds_behind"] > 0
    assert 0 < window["median_ms"] <= window["p95_ms"]
    assert sum(window["parts_ms"].values()) == pytest.approx(window["mean_ms"], rel=0.1)
    assert set(window["parts_ms"]) == {part for *_, part in driver.PARTS}
    assert set(facts["resume"]) == {"read", "open", "replay", "view"}
    assert "| 42 |" in out.with_suffix(".md").read_text() == capsys.readouterr().out.partition("\n")[2][:-1]
    assert not list(tmp_path.glob("tmp*"))  # the sweep's folder is gone


def test_cells_come_in_threes(tmp_path):
    with pytest.raises(ValueError, match="multiple of 3 from 3 to 30, but got 10"):
        driver.sweep_config(10, 10, tmp_path)

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from store_content import content
from tracked_sweep import write_sweep

from orchestrator import sync


def _fails(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    assert sync.main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_sync_writes_the_view_and_says_how_to_open_it(uri, tmp_path, capsys):
    sweep_dir = tmp_path / "run1"
    write_sweep(sweep_dir, uri=uri, trials_per_cell=1, num_steps=3)
    (sweep_dir / "report.html").write_text("<h1>report</h1>")
    assert sync.main([str(sweep_dir)]) == 0
    first = content(uri, with_ids=True)
    out = capsys.readouterr().out
    assert "4 trials, 2 baselines and 12 steps of tofu_small" in out
    assert f"mlflow ui --backend-store-uri {uri} --port 5000" in out
    assert "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=lethe" in out
    assert "Load more" not in out  # there is no more
    assert sync.main([str(sweep_dir), "--tracking-uri", uri]) == 0
    assert content(uri, with_ids=True) == first
    front = [run["name"] for run in first["tofu_small / run1"]["runs"] if run["tags"].get("lethe.on_front") == "true"]
    assert front == ["ME+GD/forget05/t000"]  # the same efficacy as the others, the best utility
    assert "report" in {run["name"] for run in first["tofu_small / run1"]["runs"]}


def test_the_default_store_stands_beside_the_sweep(empty_store, tmp_path, capsys):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    write_sweep(tmp_path / "run1", uri=None, trials_per_cell=1, num_steps=2)
    assert sync.main([str(tmp_path / "run1")]) == 0
    assert f"sqlite:///{tmp_path}/mlflow.db" in capsys.readouterr().out


def test_a_folder_without_a_journal_is_named(tmp_path, capsys):
    assert str(tmp_path / "absent") in _fails(capsys, 2, str(tmp_path / "absent"))


def test_a_broken_journal_is_named_by_line(uri, tmp_path, capsys):
    write_sweep(tmp_path / "run1", uri=uri, trials_per_cell=1)
    segment = tmp_path / "run1" / "journal" / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + b"{}\n" + b"".join(lines[1:]))
    assert "000001.jsonl:2 is not a journal record" in _fails(capsys, 2, str(tmp_path / "run1"))


def test_a_uri_without_its_password_is_asked_for(tmp_path, capsys):
    write_sweep(tmp_path / "run1", uri="http://***@host", trials_per_cell=1)
    assert "--tracking-uri" in _fails(capsys, 2, str(tmp_path / "run1"))


def test_a_server_that_is_away_is_named_without_its_password(tmp_path, capsys):
    write_sweep(tmp_path / "run1", uri="http://anna:hunter2@127.0.0.1:9", trials_per_cell=1)
    message = _fails(capsys, 1, str(tmp_path / "run1"))
    assert "http://***@127.0.0.1:9" in message
    assert "hunter2" not in message


def test_server_addresses_are_shown_without_passwords():
    shown = sync.how_to_open("https://anna:hunter2@mlflow.example/", "#/experiments/1")
    assert shown == "Open https://***@mlflow.example/#/experiments/1"


@pytest.mark.parametrize(("num_runs", "told"), [(100, False), (101, True)])
def test_more_runs_than_mlflow_loads_at_once_are_told_of(num_runs, told):
    shown = sync.how_to_open("http://127.0.0.1:9", "#/experiments/1", ["m"], num_runs=num_runs).splitlines()
    assert shown[0] == "Open http://127.0.0.1:9/#/experiments/1" and shown[-1].startswith("Load mlflow.pyfunc")
    assert len(shown) == 2 + told
    if told:
        assert shown[1].startswith("MLflow loads 100 of the 101 runs at a time, baselines and front first; Load more")


def test_the_door_exits_2_for_a_bad_folder(tmp_path: Path):
    command = [sys.executable, "-m", "orchestrator.sync", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no journal in")

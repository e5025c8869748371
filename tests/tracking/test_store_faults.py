"""MLflow's database locked, deleted, or of another version: one warning, nobody waits, and the journal rebuilds it."""

import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from store_content import content
from tracked_sweep import write_sweep

from orchestrator import sync
from orchestrator.tracking import pump as pump_module
from orchestrator.tracking.mlflow_view import MlflowView
from orchestrator.tracking.pump import Pump


@pytest.fixture
def sweep(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(pump_module, "LONGEST_PAUSE_SECONDS", 0.5)
    sweep_dir = tmp_path / "run1"
    return sweep_dir, write_sweep(sweep_dir, uri=uri, trials_per_cell=1, num_steps=2)


def database(uri):
    return Path(make_url(uri).database)


def shown(uri):
    (experiment,) = content(uri, with_ids=False).values()
    return sorted(run["name"] for run in experiment["runs"])


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def pump_of(uri, sweep_dir):
    return Pump(lambda: MlflowView(uri, sweep_dir), uri=uri, sweep_dir=sweep_dir)


def test_a_locked_database_is_written_when_it_is_free_again(uri, sweep, caplog):
    sweep_dir, records = sweep
    locked = f"{uri}?timeout=0.2"
    holder = sqlite3.connect(database(uri), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    pump = pump_of(locked, sweep_dir)
    for record in records:
        pump.put(record)
    wait_for(lambda: caplog.records)
    time.sleep(1.5)  # it tries again, and says no more
    holder.execute("ROLLBACK")
    holder.close()
    assert pump.close(120) == 0
    assert [one.levelno for one in caplog.records if one.name == pump_module.__name__] == [logging.WARNING]
    assert "database is locked" in caplog.text
    assert len(shown(uri)) == len({record.key for record in records if hasattr(record, "key")})


def test_a_deleted_database_is_noticed_and_rebuilt_by_one_command(uri, sweep, caplog):
    sweep_dir, records = sweep
    pump = pump_of(uri, sweep_dir)
    for record in records[:4]:
        pump.put(record)
    wait_for(lambda: pump.num_waiting == 0)
    database(uri).unlink()
    for record in records[4:]:
        pump.put(record)
    wait_for(lambda: caplog.records)
    assert pump.close(60) == len(records) - 4
    assert "was deleted or replaced while it was in use" in caplog.text and caplog.text.count("takes no records") == 1
    assert f"python -m orchestrator.sync {sweep_dir}" in caplog.text
    # That command, in a process of its own as a user would give it: this one cannot open a deleted database anew.
    command = [sys.executable, "-m", "orchestrator.sync", str(sweep_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(shown(rebuilt(uri))) == len({record.key for record in records if hasattr(record, "key")})


def rebuilt(uri):
    """A copy of a database, which this process has not opened yet."""
    copy = database(uri).with_name("copy.db")
    shutil.copy(database(uri), copy)
    return f"sqlite:///{copy}"


def test_a_database_of_another_version_is_named_and_another_store_takes_the_view(uri, sweep, caplog):
    sweep_dir, records = sweep
    with sqlite3.connect(database(uri)) as store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    pump = pump_of(uri, sweep_dir)
    for record in records:
        pump.put(record)
    wait_for(lambda: caplog.records)
    assert pump.close(3) == len(records)
    (warning,) = [one for one in caplog.records if one.name == pump_module.__name__]
    assert "schema" in warning.getMessage().lower() and f"orchestrator.sync {sweep_dir}" in warning.getMessage()
    other = uri.replace("mlflow.db", "other.db")
    assert sync.main([str(sweep_dir), "--tracking-uri", other]) == 0
    assert len(shown(other)) == len({record.key for record in records if hasattr(record, "key")})

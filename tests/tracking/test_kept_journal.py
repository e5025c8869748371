"""A journal in a store: what is there when, who may write, what becomes of a machine's last records."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from orchestrator.storage import Storage
from orchestrator.tracking import kept_journal
from orchestrator.tracking.journal import (
    JournalError,
    StepsReported,
    SweepEnded,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    read_records,
)
from orchestrator.tracking.kept_journal import KeptJournal, fetch_journal, open_journal, reconcile_journal

HEADER = SweepStarted(name="s", seed=1, config={}, cells=(), objectives=(), lookahead=1, versions={}, command="c")


def started(key="a"):
    return TrialStarted(key=key, method="GA", forget_set="f", number=0, params={}, config={})


def finished(key="a"):
    return TrialFinished(key=key, state="COMPLETE")


@pytest.fixture
def store(tmp_path):
    """The sweep's folder in a store, as two machines see it."""
    uri = (tmp_path / "store").as_uri()
    return Storage(tmp_path / "one", uri), Storage(tmp_path / "two", uri)


def kinds(storage):
    """What a machine reads that has nothing of the journal yet."""
    shutil.rmtree(storage.local, ignore_errors=True)
    fetch_journal(storage)
    return [record.kind for record in read_records(storage.local / "journal")]


def test_the_end_of_a_trial_is_in_the_store_at_once_and_steps_soon(store, monkeypatch):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 0.3)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    journal.append(started())
    journal.append(finished())
    assert kinds(two) == ["sweep_started", "trial_started", "trial_finished"]
    journal.append(StepsReported(key="a", steps=()))
    deadline = time.monotonic() + 20
    while len(kinds(two)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kinds(two)[3] == "steps_reported"
    journal.append(started("b"))
    journal.close()
    journal.close()
    assert kinds(two)[4] == "trial_started"
    assert [record.kind for record in read_records(one.local / "journal")] == kinds(two)


def test_only_one_sweep_writes_at_a_time(store):
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    with pytest.raises(JournalError, match=rf"another sweep \(process {os.getpid()} on .*\) is writing to file:"):
        open_journal(two)
    with pytest.raises(JournalError, match="another sweep"):
        reconcile_journal(two)
    journal.close()
    reconcile_journal(two)
    open_journal(two).close()


def lease_of(storage, **changes):
    path = storage.local / "journal" / "lease.json"
    lease = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(lease))
    storage.publish("journal/lease.json")


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "holder",
    [
        {"time": time.time() - 61, "machine": "elsewhere"},
        {"process": dead_process(), "machine": socket.gethostname()},
    ],
    ids=["silent for a minute", "a process that is gone"],
)
def test_a_sweep_that_is_gone_is_taken_over_and_notices(store, monkeypatch, holder):
    one, two = store
    monkeypatch.setattr(kept_journal.KeptJournal, "_keep", lambda self: None)
    journal = open_journal(one)
    journal.append(HEADER)
    lease_of(one, **holder)
    reconcile_journal(two)
    other = open_journal(two)
    other.append(finished())
    with pytest.raises(JournalError, match=rf"taken over by process {os.getpid()} on"):
        journal._lease.renew()
    other.close()


def test_a_sweep_that_was_taken_over_stops_at_the_next_record(store, monkeypatch):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 0.2)
    one, _ = store
    journal = open_journal(one)
    journal.append(HEADER)
    lease_of(one, id="somebody else", process=1, machine="elsewhere")
    journal._thread.join(20)
    with pytest.raises(JournalError, match="taken over by process 1 on elsewhere"):
        journal.append(finished())
    journal.close()
    assert json.loads((one.local / "journal" / "lease.json").read_text())["id"] == "somebody else"


def crash(journal):
    """What is left of a sweep whose process is killed."""
    journal._closing.set()
    journal._thread.join(20)
    journal._file.close()
    journal._lock.close()
    lease_of(Storage(journal._folder.parent, journal._storage.uri.removesuffix("/journal")), time=0.0)


def test_the_last_records_of_a_machine_that_is_still_there_are_kept(store):
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    journal.append(started())
    crash(journal)
    assert kinds(two) == ["sweep_started"]
    reconcile_journal(one)
    assert kinds(two) == ["sweep_started", "trial_started"]
    assert [record.kind for record in read_records(one.local / "journal")] == ["sweep_started", "trial_started"]


def test_where_the_sweep_went_on_elsewhere_the_store_counts(store):
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    journal.append(started("lost"))
    crash(journal)
    reconcile_journal(two)
    other = open_journal(two)
    other.append(HEADER)
    other.append(finished("kept"))
    other.append(SweepEnded(state="done"))
    other.close()
    reconcile_journal(one)
    found = [record.kind for record in read_records(one.local / "journal")]
    assert found == ["sweep_started", "sweep_started", "trial_finished", "sweep_ended"] == kinds(two)
    (aside,) = (one.local / "journal").glob("*.aside-*")
    assert b'"lost"' in aside.read_bytes()


def test_a_store_that_is_away_for_a_while_costs_patience_and_then_the_sweep_but_no_record(store, monkeypatch, tmp_path):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 1000.0)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    away = (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("no folder")
    pauses = []

    def back_after_two(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            (tmp_path / "store").unlink()
            away.rename(tmp_path / "store")

    monkeypatch.setattr(kept_journal.time, "sleep", back_after_two)
    journal.append(finished())
    assert pauses == [0.5, 1.0] and kinds(two) == ["sweep_started", "trial_finished"]

    away = (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("no folder")
    monkeypatch.setattr(kept_journal, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(JournalError, match="takes no records: .*what is missing there is in"):
        journal.append(finished("b"))
    (tmp_path / "store").unlink()
    away.rename(tmp_path / "store")
    crash(journal)
    reconcile_journal(one)
    assert kinds(two) == ["sweep_started", "trial_finished", "trial_finished"]


def test_a_folder_without_a_store_has_a_plain_journal(tmp_path):
    journal = open_journal(Storage(tmp_path))
    assert not isinstance(journal, KeptJournal)
    journal.append(HEADER)
    journal.close()
    reconcile_journal(Storage(tmp_path))
    assert sorted(os.listdir(tmp_path / "journal")) == ["000001.jsonl", "lock"]

"""A journal in a store: what is there when, who may write, what becomes of a machine's last records."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from orchestrator import storage as storage_module
from orchestrator.storage import Storage, split
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


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(kept_journal, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(storage_module, "PATIENCE_SECONDS", 0.0)


def started(key="a"):
    return TrialStarted(key=key, method="GA", forget_set="f", number=0, params={}, config={})


def finished(key="a"):
    return TrialFinished(key=key, state="COMPLETE")


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


def test_only_one_sweep_writes_at_a_time(store, monkeypatch):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 0.2)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    for attempt in (open_journal, reconcile_journal):
        with pytest.raises(JournalError, match=rf"another sweep \(process {os.getpid()} on .*\) is writing to [fs]"):
            attempt(two)
    journal.close()
    reconcile_journal(two)
    open_journal(two).close()


def lease_of(storage, **changes):
    path = storage.fetch("journal/lease.json")
    lease = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(lease))
    storage.publish("journal/lease.json")


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def without_keeper(monkeypatch):
    """A sweep that renews nothing, as one that is suspended or cut off."""
    monkeypatch.setattr(kept_journal.KeptJournal, "_keep", lambda self: None)


@pytest.mark.parametrize(
    "holder",
    [{"time": time.time() - 61, "where": "elsewhere"}, {"process": dead_process()}, {"where": "elsewhere"}],
    ids=["silent for a minute", "a process that is gone", "silent while it was waited for"],
)
def test_a_sweep_that_is_gone_is_taken_over_and_writes_nothing_more(store, monkeypatch, holder):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 0.2)
    monkeypatch.setattr(kept_journal, "LEASE_SECONDS", 1.0 if list(holder) == ["where"] else 60.0)
    without_keeper(monkeypatch)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    lease_of(one, **holder)
    reconcile_journal(two)
    other = open_journal(two)
    other.append(finished("theirs"))
    with pytest.raises(JournalError, match=rf"taken over by process {os.getpid()} on"):
        journal.append(finished("mine"))
    journal.close()
    other.append(finished("theirs too"))  # its lease was left alone
    other.close()
    with pytest.raises(JournalError, match="taken over by another sweep"):
        journal._lease.renew()
    assert kinds(two) == ["sweep_started", "trial_finished", "trial_finished"]


def test_a_sweep_that_was_taken_over_stops_at_the_next_record(store, monkeypatch):
    monkeypatch.setattr(kept_journal, "CUT_SECONDS", 0.2)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    deadline = time.monotonic() + 60
    while journal._thread.is_alive() and time.monotonic() < deadline:  # it may be about to write its own again
        lease_of(two, id="somebody else", process=1, machine="elsewhere")
        journal._thread.join(1)
    with pytest.raises(JournalError, match="taken over by process 1 on elsewhere"):
        journal.append(started())
    journal.close()
    two.drop_copy("journal/lease.json")
    assert json.loads(two.fetch("journal/lease.json").read_text())["id"] == "somebody else"


def crash(journal):
    """What is left of a sweep whose process is killed."""
    journal._closing.set()
    journal._thread.join(20)
    journal._file.close()
    journal._lock.close()
    lease_of(Storage(journal._folder.parent, split(journal._storage.uri)[0]), time=0.0)


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
    assert any(b'"lost"' in path.read_bytes() for path in (one.local / "journal").glob("*.aside"))


def test_a_store_that_was_emptied_is_not_filled_again_from_a_copy(store):
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    journal.close()
    two.remove("journal")
    reconcile_journal(one)
    assert two.sub("journal").names() == [] and not list((one.local / "journal").glob("*.jsonl"))


def test_a_store_that_is_away_costs_patience_and_then_the_sweep_but_no_record(store, monkeypatch):
    without_keeper(monkeypatch)
    monkeypatch.setattr(kept_journal, "_PATIENCE_SECONDS", 0.0)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)

    def away(uri):
        raise OSError(errno.EHOSTUNREACH, "no route to the store")

    with (
        monkeypatch.context() as outage,
        pytest.raises(JournalError, match="no route to the store.*missing there is in"),
    ):
        outage.setattr(storage_module, "_open", away)
        journal.append(finished("b"))
    crash(journal)
    reconcile_journal(one)
    assert kinds(two) == ["sweep_started", "trial_finished"]


def test_an_interrupted_sweep_does_not_wait_for_a_store_that_is_away(store, monkeypatch):
    without_keeper(monkeypatch)
    one, two = store
    journal = open_journal(one)
    journal.append(HEADER)
    patience = []

    def away(uri):
        raise OSError(errno.EHOSTUNREACH, "no route to the store")

    with monkeypatch.context() as outage:
        outage.setattr(storage_module, "_open", away)
        outage.setattr(kept_journal.Lease, "renew", lambda lease, seconds=0.0: patience.append(seconds))
        journal.append(SweepEnded(state="interrupted"))
        journal.close()
    assert patience == [0.0]
    monkeypatch.setattr(kept_journal, "LEASE_SECONDS", 1.0)  # its holder, this process, is alive and silent
    reconcile_journal(one)
    assert kinds(two) == ["sweep_started", "sweep_ended"]


@pytest.mark.parametrize("num_torn", [2, 3])
def test_a_lease_that_is_renewed_while_it_is_read_is_read_again(store, monkeypatch, num_torn):
    one, two = store
    lease, fetch, torn = kept_journal.Lease(one), Storage.fetch, [*range(num_torn)]
    lease.take()

    def fetch_too_much(storage, name, patience_seconds=None):
        path = fetch(storage, name, patience_seconds)
        if torn and torn.pop() is not None:
            path.write_text(path.read_text() + "}")
        return path

    monkeypatch.setattr(Storage, "fetch", fetch_too_much)
    if num_torn == 2:
        with pytest.raises(JournalError, match=f"process {os.getpid()} on"):
            kept_journal.Lease(two).renew()
    else:
        with pytest.raises(OSError, match=r"lease.json cannot be read: Extra data"):
            kept_journal.Lease(two).renew()


def test_a_folder_without_a_store_has_a_plain_journal(tmp_path):
    journal = open_journal(Storage(tmp_path))
    assert not isinstance(journal, KeptJournal)
    journal.append(HEADER)
    journal.close()
    reconcile_journal(Storage(tmp_path))
    assert sorted(os.listdir(tmp_path / "journal")) == ["000001.jsonl", "lock"]

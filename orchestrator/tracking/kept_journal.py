"""A journal that outlives its machine: its segments are also put into a store, where no file can be added to."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from orchestrator.storage import Storage, StorageError
from orchestrator.tracking.journal import (
    Journal,
    JournalError,
    Record,
    SweepEnded,
    SweepStarted,
    TrialFinished,
    lock_folder,
)

CUT_SECONDS = 10.0
LEASE_SECONDS = 60.0
_PATIENCE_SECONDS = 60.0
_SETTLE_SECONDS = 1.0
_LEASE = "lease.json"
_READINGS = 3  # a store asks for the size first: of a lease that is renewed in between, more or less than all is read
_log = logging.getLogger(__name__)


class KeptJournal(Journal):
    """Append records to new segments of a folder that is a copy of one in a store.

    A segment ends, and is put into the store, with the end of each trial, before anybody acts on it, and every 10 s. A
    lease in the store, renewed as often and before each segment, keeps other sweeps away; its id is in the segments'
    names, so that no sweep writes over another's. JournalError: another sweep holds the lease, or took it over while
    the store did not hear of this one for a minute, or the store has been away for that long.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lease = Lease(storage)
        self._lease.take()
        self._guard = threading.RLock()
        self._waiting: list[str] = []  # names of segments that the store does not have yet
        self._failure: JournalError | None = None
        self._closing = threading.Event()
        try:
            super().__init__(storage.local, suffix=f"-{self._lease.id}")
        except JournalError:
            self._lease.release()
            raise
        self._thread = threading.Thread(target=self._keep, name="journal-keeper", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Write one record; the end of a trial is in the store, with all before it, when this returns.

        So is the end of the sweep, unless it was interrupted: then there are seconds left, and `close` tries once.
        """
        with self._guard:
            if self._failure is not None:
                raise self._failure
            super().append(record)
            interrupted = isinstance(record, SweepEnded) and record.state == "interrupted"
            if isinstance(record, SweepStarted | TrialFinished | SweepEnded) and not interrupted:
                try:
                    self._cut(_PATIENCE_SECONDS)
                except OSError as error:
                    raise JournalError(f"{error}; what is missing there is in {self._folder}") from error

    def close(self) -> None:
        """Put the rest into the store, close the segment and let others write; closing twice is fine."""
        self._closing.set()
        with self._guard:
            if not self._file.closed and self._failure is None:
                try:
                    self._cut(0.0)
                    self._lease.release()
                except (JournalError, OSError) as error:
                    _log.warning("the end of the journal is on this machine only (%s): %s", self._folder, error)
            super().close()

    def _keep(self) -> None:
        while not self._closing.wait(CUT_SECONDS):
            with self._guard:
                if self._closing.is_set():
                    return
                try:
                    if not self._cut(0.0):
                        self._lease.renew()
                except OSError as error:
                    _log.warning("%s (tried again in %g s)", error, CUT_SECONDS)
                except JournalError as error:  # said by the next record
                    self._failure = error
                    return
                except Exception as error:
                    self._failure = JournalError(f"{self._storage}: {type(error).__name__}: {error}")
                    return

    def _cut(self, patience_seconds: float) -> bool:
        """End the segment if there is anything in it, and put what waits into the store; whether anything did.

        OSError: not within the time. JournalError: another sweep took over.
        """
        if self._file.tell():
            ended, self._file = self._file, self._next_segment()
            self._waiting.append(os.path.basename(ended.name))
            ended.close()
        num_waiting = len(self._waiting)
        if num_waiting:
            self._lease.renew(patience_seconds)
        while self._waiting:
            self._storage.publish(self._waiting[0], patience_seconds=patience_seconds)
            self._waiting.pop(0)
        return num_waiting > 0


class Lease:
    """Who writes to a journal in a store, and when that was last so; one that is a minute old counts for nothing."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self.id = storage, uuid.uuid4().hex[:8]

    def take(self) -> None:
        """Hold it, after waiting whether a holder that is silent comes back. JournalError: it does."""
        try:
            self._wait_for_holder()
            self._write()
            time.sleep(_SETTLE_SECONDS)  # of two that took it at once, the later one has it
            self.renew()
        except OSError as error:
            raise JournalError(f"{self._storage} cannot be written: {error}") from error

    def renew(self, patience_seconds: float = 0.0) -> None:
        """JournalError: another sweep has it, or had it. OSError: the store does not answer within the time."""
        found = self._read(patience_seconds)
        if found is None or found["id"] != self.id:
            other = "another sweep" if found is None else f"process {found['process']} on {found['machine']}"
            raise JournalError(
                f"{self._storage} was taken over by {other}, when the store did not hear of this sweep; one can go on"
            )
        self._write(patience_seconds)

    def release(self) -> None:
        """Let others write at once, if it is still held. OSError: the store does not answer."""
        found = self._read()
        if found is not None and found["id"] == self.id:
            self._storage.remove(_LEASE)

    def _wait_for_holder(self) -> None:
        first = found = self._read()
        deadline = time.monotonic() + LEASE_SECONDS
        while found is not None and not _is_over(found):
            if found != first:
                raise JournalError(
                    f"another sweep (process {found['process']} on {found['machine']}) is writing to {self._storage}; "
                    "wait until it ends, or stop it"
                )
            if time.monotonic() > deadline:  # whatever its clock says
                return
            time.sleep(min(1.0, CUT_SECONDS))
            found = self._read()

    def _read(self, patience_seconds: float = 0.0) -> Any:
        broken: Exception | None = None
        for _ in range(_READINGS):
            self._storage.drop_copy(_LEASE)
            try:
                path = self._storage.fetch(_LEASE, patience_seconds)
            except FileNotFoundError:
                return None
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError) as error:  # another sweep on this machine has its copy there too
                broken = error
        raise StorageError(f"{self._storage}: {_LEASE} cannot be read: {broken}") from broken

    def _write(self, patience_seconds: float = 0.0) -> None:
        mine = {"id": self.id, "process": os.getpid(), "machine": socket.gethostname(), "where": _where()}
        text = json.dumps(mine | {"time": time.time()})
        # Whole or not at all here too: another sweep on this machine has its copies in the same folder.
        self._storage.put(
            _LEASE, lambda path: path.write_text(text, encoding="utf-8"), patience_seconds=patience_seconds
        )


def _is_over(lease: Any) -> bool:
    """Whether its holder is gone: silent for a minute, or a process of this machine that does not exist."""
    if time.time() - float(lease["time"]) > LEASE_SECONDS:
        return True
    if lease["where"] != _where():
        return False
    try:
        os.kill(lease["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        pass
    return False


def _where() -> str:
    """This start of this machine, and this container: where process numbers mean the same."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def open_journal(storage: Storage) -> Journal:
    """The next segment of the journal in a sweep's folder. JournalError: another sweep holds it, or no room for it."""
    folder = storage.sub("journal")
    return Journal(folder.local) if folder.uri is None else KeptJournal(folder)


def fetch_journal(storage: Storage) -> None:
    """Bring what this machine lacks of a journal, to be read. JournalError: the store does not answer."""
    folder = storage.sub("journal")
    if folder.uri is None:
        return
    try:
        folder.fetch_files(_segments(folder))
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} cannot be read: {error}") from error


def reconcile_journal(storage: Storage) -> None:
    """Make this machine's copy of a journal what counts, to be gone on with.

    What only this machine has, because the sweep died before it was in the store, follows what is there. Where the
    sweep went on elsewhere meanwhile, or the store was emptied, it does not count and is moved aside. JournalError: the
    store does not answer, or another sweep is writing.
    """
    folder = storage.sub("journal")
    if folder.uri is None:
        return
    try:
        with lock_folder(folder.local):
            lease = Lease(folder)
            lease.take()
            kept = _segments(folder)
            for path in sorted(folder.local.glob("*.jsonl")):
                if path.name in kept:
                    continue
                if path.stat().st_size and kept and path.name > kept[-1] and _writer(path.name) == _writer(kept[-1]):
                    folder.publish(path.name)
                else:
                    path.rename(path.with_suffix(".aside"))
            lease.release()
        fetch_journal(storage)
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} cannot be read: {error}") from error


def _segments(folder: Storage) -> list[str]:
    return [name for name in folder.names() if name.endswith(".jsonl") and not name.startswith(".")]


def _writer(segment: str) -> str:
    return segment.partition("-")[2]

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

from orchestrator.storage import Storage
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
_LEASE = "lease.json"
_log = logging.getLogger(__name__)


class KeptJournal(Journal):
    """Append records to new segments of a folder that is a copy of one in a store.

    A segment ends, and is put into the store, with the end of each trial, before anybody acts on it, and every 10 s. A
    lease in the store, renewed as often, keeps other sweeps away. JournalError: another sweep holds it, or took it over
    while the store was away for a minute, or the store has been away for that long.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lease = Lease(storage)
        _take(self._lease, storage)
        self._guard = threading.RLock()
        self._waiting: list[str] = []  # names of segments that the store does not have yet
        self._failure: JournalError | None = None
        self._closing = threading.Event()
        super().__init__(storage.local)
        self._thread = threading.Thread(target=self._keep, name="journal-keeper", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Write one record; the end of a trial is in the store, with all before it, when this returns."""
        with self._guard:
            if self._failure is not None:
                raise self._failure
            super().append(record)
            if isinstance(record, SweepStarted | TrialFinished | SweepEnded):
                self._cut(_PATIENCE_SECONDS)

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
                    self._lease.renew()
                    self._cut(0.0)
                except JournalError as error:  # said by the next record
                    self._failure = error
                    return
                except OSError as error:
                    _log.warning("%s takes no records (%s); tried again in %g s", self._storage, error, CUT_SECONDS)

    def _cut(self, patience_seconds: float) -> None:
        """End the segment if there is anything in it, and put what waits into the store.

        OSError: not now. JournalError: not within the time.
        """
        if self._file.tell():
            ended, self._file = self._file, self._next_segment()
            self._waiting.append(os.path.basename(ended.name))
            ended.close()
        deadline, pause = time.monotonic() + patience_seconds, 0.5
        while self._waiting:
            try:
                self._storage.publish(self._waiting[0])
            except OSError as error:
                if not patience_seconds:
                    raise
                if time.monotonic() + pause > deadline:
                    raise JournalError(
                        f"{self._storage} takes no records: {error}; what is missing there is in {self._folder}"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self._waiting.pop(0)


class Lease:
    """Who writes to a journal in a store, and when that was last so; one that is a minute old counts for nothing.

    Clocks of machines that share a store are taken to agree within seconds.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._id = storage, uuid.uuid4().hex

    def take(self) -> None:
        """JournalError: another sweep holds it."""
        found = self._read()
        if found is not None and not _is_over(found):
            raise JournalError(
                f"another sweep (process {found['process']} on {found['machine']}) is writing to {self._storage}; wait "
                f"until it ends, or stop it; if it is gone, try again in {_seconds_left(found):.0f} s"
            )
        self._write()

    def renew(self) -> None:
        """JournalError: another sweep took it over. OSError: the store does not answer."""
        found = self._read()
        if found is not None and found["id"] != self._id:
            raise JournalError(
                f"{self._storage} was taken over by process {found['process']} on {found['machine']} while the store "
                "did not hear of this sweep; only one can go on"
            )
        self._write()

    def release(self) -> None:
        """Let others write at once."""
        self._storage.remove(_LEASE)

    def _read(self) -> Any:
        self._storage.drop_copy(_LEASE)
        try:
            return json.loads(self._storage.fetch(_LEASE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        mine = {"id": self._id, "process": os.getpid(), "machine": socket.gethostname(), "time": time.time()}
        self._storage.local.mkdir(parents=True, exist_ok=True)
        (self._storage.local / _LEASE).write_text(json.dumps(mine), encoding="utf-8")
        self._storage.publish(_LEASE)


def _seconds_left(lease: Any) -> float:
    return float(lease["time"]) + LEASE_SECONDS - time.time()


def _is_over(lease: Any) -> bool:
    """Whether its holder is gone: silent for a minute, or a process of this machine that does not exist."""
    if _seconds_left(lease) <= 0:
        return True
    if lease["machine"] != socket.gethostname():
        return False
    try:
        os.kill(lease["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        pass
    return False


def _take(lease: Lease, storage: Storage) -> None:
    try:
        lease.take()
    except OSError as error:
        raise JournalError(f"{storage} cannot be written: {error}") from error


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
        for name in _segments(folder):
            folder.fetch(name)
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} cannot be read: {error}") from error


def reconcile_journal(storage: Storage) -> None:
    """Make the store and this machine's copy of a journal the same, to be gone on with.

    Segments that only this machine has, because the sweep died before they were in the store, follow those that are.
    Where the sweep went on elsewhere meanwhile they do not count, and are moved aside. JournalError: the store does not
    answer, or another sweep is writing.
    """
    folder = storage.sub("journal")
    if folder.uri is None:
        return
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder.local):
            _take(Lease(folder), folder)
            kept = _segments(folder)
            for path in sorted(folder.local.glob("*.jsonl")):
                if kept and path.name <= kept[-1]:
                    _replace(folder, path, path.name in kept)
                elif path.stat().st_size:
                    folder.publish(path.name)
            folder.remove(_LEASE)
        fetch_journal(storage)
    except (OSError, ValueError) as error:
        raise JournalError(f"{folder} cannot be read: {error}") from error


def _replace(folder: Storage, path: Path, is_kept: bool) -> None:
    """What the store has counts; what differs here stays beside it."""
    aside = path.rename(path.with_suffix(f".aside-{uuid.uuid4().hex[:8]}"))
    if is_kept and folder.fetch(path.name).read_bytes() == aside.read_bytes():
        aside.unlink()


def _segments(folder: Storage) -> list[str]:
    return [name for name in folder.names() if name.endswith(".jsonl") and not name.startswith(".")]

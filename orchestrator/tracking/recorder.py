"""The one place where records enter: journal first, then everybody who looks at them."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from orchestrator.tracking.journal import Journal, JournalError, Record
from orchestrator.tracking.sweep_log import SweepLog

Listener = Callable[[Record], None]


class Recorder:
    """Writes records to the journal, keeps the log that the driver reads, and tells the listeners, in that order."""

    def __init__(self, journal: Journal, log: SweepLog, listeners: Sequence[Listener] = ()) -> None:
        self._journal, self.log = journal, log
        self.listeners = list(listeners)
        self.failure: JournalError | None = None

    def record(self, record: Record) -> None:
        """Keep one record; returns when it is on disk. Listeners may record in turn.

        JournalError: it cannot be kept, which is then in `failure`. A part of it may be written, so it is the last.
        """
        if self.failure is not None:
            raise self.failure
        with _uninterrupted():
            try:
                self._journal.append(record)
            except JournalError as error:
                self.failure = error
                raise
            self.log.add(record)
            for listener in self.listeners:
                listener(record)

    def close(self) -> None:
        """Close the journal; nothing can be recorded after this."""
        self._journal.close()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until everybody knows of the record: nothing is done by half.

    By handlers, not by a mask: a signal that another thread takes is handled in this one all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])

"""Ships journal records to a view in the background: the caller never waits, and an outage loses no record."""

import logging
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from orchestrator.tracking.journal import Record

MAX_BATCH_RECORDS = 2000
LINGER_SECONDS = 0.5  # records that arrive together travel together: one request per run and flush
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
_CLIENT_ENV = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the pump retries; MLflow's own retries would hold a batch for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints the tracking URI with its password
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_REMEDIES = {
    "UNAUTHENTICATED": "the server does not take this user and password; give them as MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD",
    "PERMISSION_DENIED": "this user needs MANAGE on the experiment and its models, given by their owner or "
    "an administrator, and the server's --allowed-hosts must name this address",
}
_log = logging.getLogger(__name__)


class TrackingError(RuntimeError):
    """The tracking store did not take what was sent; the message holds no credentials."""


class View(Protocol):
    """What a pump ships to. `apply` must be idempotent: a batch whose answer was lost is sent again."""

    def apply(self, records: Sequence[Record], /) -> None:
        """Bring the view up to date. TrackingError: the store is away."""


ViewT = TypeVar("ViewT", bound=View)


def redact_uri(text: str) -> str:
    """A URI, or a text with URIs in it, without user names, passwords and query values."""
    text = re.sub(r"(?<!sqlite)(?<!file)://[^\s'\"]*@", "://***@", text)
    text = re.sub(r"(://[^\s?'\"]*)\?[^\s'\")]*", r"\1?***", text)
    return re.sub(r"\?[^\s'\")=]+=[^\s'\")]*", "?***", text)  # of an address without its server, as errors have it


def redact_argument(text: str) -> str:
    """As redact_uri, of a text that is one URI, or has one at its end, so that quotes belong to the password."""
    return redact_uri(re.sub(r"(?<!sqlite)(?<!file)://\S*@", "://***@", text))


def tracking_error(error: Exception, uri: str) -> TrackingError:
    """The error without credentials, and what to do where MLflow's code says that the user is not let in."""
    code = getattr(error, "error_code", None)
    shown = redact_uri(uri)
    message = f"MLflow at {shown}: {redact_uri(str(error).replace(uri, shown))}"
    return TrackingError(f"{message}; {_REMEDIES[code]}" if code in _REMEDIES else message)


def set_client_env() -> None:
    """Make MLflow's client fail fast and keep quiet. Best before MLflow is imported; what the user set stays."""
    for name, value in _CLIENT_ENV.items():
        os.environ.setdefault(name, value)


class Pump(Generic[ViewT]):
    """A daemon thread that hands records to a view, in order and in batches, again and again until they are taken.

    `make_view` is called in that thread (importing MLflow takes seconds). `uri` and `sweep_dir` are named in the one
    warning of an outage; credentials in `uri` are not.
    """

    def __init__(self, make_view: Callable[[], ViewT], *, uri: str, sweep_dir: Path) -> None:
        self._make_view = make_view
        self._uri, self._sweep_dir = uri, sweep_dir
        self._queue: queue.SimpleQueue[Record | Callable[[ViewT], object] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._num_put = self._num_shipped = 0
        self._view: ViewT | None = None
        self._away = False
        self._thread = threading.Thread(target=self._run, name="tracking-pump", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record; returns at once, whatever the server does. From one thread only."""
        self._num_put += 1
        self._queue.put(record)

    def then(self, action: Callable[[ViewT], object]) -> None:
        """Queue a call on the view, made once every record put before it is shipped; returns at once."""
        self._queue.put(action)

    @property
    def num_waiting(self) -> int:
        """Records that were put and are not shipped yet."""
        return self._num_put - self._num_shipped

    def close(self, timeout_seconds: float) -> int:
        """Ship what is left, for at most `timeout_seconds` and not while the server is away. Returns records left."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        return self.num_waiting

    def _run(self) -> None:
        set_client_env()
        pause, waiting, ended = FIRST_PAUSE_SECONDS, deque[Record | Callable[[ViewT], object]](), False
        while waiting or not ended:
            if not waiting:
                ended = self._fetch(waiting)
            try:
                self._ship(waiting)
                self._back()
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:  # nothing is swallowed: the batch stays in `waiting` and is shipped again
                self._warn(error)
                if self._closing.is_set():
                    return
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _fetch(self, waiting: deque[Record | Callable[[ViewT], object]]) -> bool:
        """Wait for something to ship and take all that is there; True: the pump was closed and this is the last."""
        item = self._queue.get()
        self._closing.wait(LINGER_SECONDS)
        while item is not None:
            waiting.append(item)
            if len(waiting) >= MAX_BATCH_RECORDS:
                return False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return False
        return True

    def _ship(self, waiting: deque[Record | Callable[[ViewT], object]]) -> None:
        """Empty `waiting` from the front; what an exception interrupts is still in it."""
        while waiting:
            if self._view is None:
                self._view = self._make_view()
            head = waiting[0]
            if callable(head):
                self._act(head, self._view)
                waiting.popleft()
                continue
            batch = [item for item in takewhile(lambda item: not callable(item), waiting) if not callable(item)]
            self._view.apply(batch)
            for _ in batch:
                waiting.popleft()
            self._num_shipped += len(batch)

    def _act(self, action: Callable[[ViewT], object], view: ViewT) -> None:
        try:
            action(view)
        except TrackingError:
            raise
        except Exception:  # a page that cannot be drawn must not hold up the records behind it
            _log.exception("the tracking view could not be finished; the journal and the report are complete")

    def _warn(self, error: Exception) -> None:
        if not self._away:
            _log.warning(
                "tracking at %s takes no records (%s: %s); the sweep goes on and they are sent when it is back. "
                "Should it stay away: python -m orchestrator.sync %s",
                redact_uri(self._uri),
                type(error).__name__,
                redact_uri(str(error)).replace(self._uri, redact_uri(self._uri)),
                self._sweep_dir,
            )
        self._away = True

    def _back(self) -> None:
        if self._away:
            _log.info("tracking at %s is back", redact_uri(self._uri))
        self._away = False

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED, UNAUTHENTICATED

from orchestrator.tracking import pump as pump_module
from orchestrator.tracking.journal import CheckpointDeleted, Record
from orchestrator.tracking.pump import MAX_BATCH_RECORDS, Pump, TrackingError, redact_uri, tracking_error

URI = "http://anna:hunter2@mlflow.example:5000"


class ListView:
    """Keeps what it is given; refuses the first `num_refusals` calls; waits for `gate` when there is one."""

    def __init__(self, num_refusals: int = 0, gate: threading.Event | None = None) -> None:
        self.keys: list[str] = []
        self.num_refusals = num_refusals
        self.gate = gate
        self.calls = 0
        self.thread = threading.current_thread()

    def apply(self, records: Sequence[Record]) -> None:
        self.calls += 1
        if self.gate is not None:
            self.gate.wait()
        if self.calls <= self.num_refusals:
            raise TrackingError(f"connection to {URI} refused")
        self.keys += [record.key for record in records]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_SECONDS", "FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS"):
        monkeypatch.setattr(pump_module, name, 0.005)


def _pump(view: ListView, tmp_path) -> Pump[ListView]:
    return Pump(lambda: view, uri=URI, sweep_dir=tmp_path)


def _put(pump: Pump[ListView], numbers: range) -> list[str]:
    for number in numbers:
        pump.put(CheckpointDeleted(key=str(number)))
    return [str(number) for number in numbers]


def _wait_until_refused(view: ListView, times: int) -> None:
    while view.calls < times:
        threading.Event().wait(0.005)


def test_records_arrive_once_and_in_order(tmp_path):
    view = ListView()
    pump = _pump(view, tmp_path)
    keys = _put(pump, range(2 * MAX_BATCH_RECORDS + 1))
    assert pump.close(30) == 0
    assert view.keys == keys
    assert view.calls >= 3  # a batch is limited


def test_an_outage_delays_records_and_is_one_warning(tmp_path, caplog):
    view = ListView(num_refusals=5)
    pump = _pump(view, tmp_path)
    keys = _put(pump, range(3))
    _wait_until_refused(view, 3)
    keys += _put(pump, range(3, 6))
    _wait_until_refused(view, 6)
    assert pump.close(30) == 0
    assert view.keys == keys
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert f"python -m orchestrator.sync {tmp_path}" in warnings[0]
    assert "mlflow.example:5000" in warnings[0]
    assert "hunter2" not in caplog.text


def test_a_second_outage_is_a_second_warning(tmp_path, caplog):
    view = ListView(num_refusals=2)
    pump = _pump(view, tmp_path)
    _put(pump, range(1))
    _wait_until_refused(view, 3)
    view.num_refusals = 10**9
    _put(pump, range(1, 2))
    _wait_until_refused(view, 6)
    assert pump.close(30) == 1
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 2


def test_close_counts_what_a_server_that_stays_away_did_not_get(tmp_path):
    view = ListView(num_refusals=10**9)
    pump = _pump(view, tmp_path)
    _put(pump, range(7))
    _wait_until_refused(view, 2)
    assert pump.close(30) == 7


def test_put_and_close_return_while_the_server_hangs(tmp_path):
    gate = threading.Event()
    view = ListView(gate=gate)
    pump = _pump(view, tmp_path)
    _put(pump, range(1))
    _wait_until_refused(view, 1)
    _put(pump, range(1, 1000))  # returns although nothing is taken
    assert pump.close(0.05) == 1000
    gate.set()


def test_the_view_is_made_in_the_pump_s_thread_and_again_when_that_fails(tmp_path):
    attempts: list[threading.Thread] = []
    view = ListView()

    def make_view() -> ListView:
        attempts.append(threading.current_thread())
        if len(attempts) == 1:
            raise ImportError("no such module")
        return view

    pump = Pump(make_view, uri=URI, sweep_dir=tmp_path)
    keys = _put(pump, range(2))
    while len(attempts) < 2:
        threading.Event().wait(0.005)
    assert pump.close(30) == 0
    assert view.keys == keys
    assert threading.current_thread() not in attempts


def test_actions_wait_for_the_records_before_them(tmp_path):
    view = ListView(num_refusals=1)
    pump = _pump(view, tmp_path)
    seen: list[list[str]] = []
    before = _put(pump, range(3))
    pump.then(lambda shown: seen.append(list(shown.keys)))
    after = _put(pump, range(3, 5))
    _wait_until_refused(view, 3)
    assert pump.close(30) == 0
    assert seen == [before]
    assert view.keys == before + after


def test_an_action_that_cannot_work_does_not_hold_up_records(tmp_path, caplog):
    view = ListView()
    pump = _pump(view, tmp_path)
    pump.then(lambda _: (tmp_path / "absent.html").read_text())
    keys = _put(pump, range(2))
    assert pump.close(30) == 0
    assert view.keys == keys
    assert "absent.html" in caplog.text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://anna:pw@host/base", "https://***@host/base"),
        ("postgresql://anna:p@w/d@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("postgresql://db/mlflow?user=anna&password=pw", "postgresql://db/mlflow?***"),
        ("sqlite:////home/anna@lab/mlflow.db", "sqlite:////home/anna@lab/mlflow.db"),
        ("API request to https://a:pw@h/api failed", "API request to https://***@h/api failed"),
    ],
)
def test_a_uri_is_shown_without_its_credentials(uri, shown):
    assert redact_uri(uri) == shown


@given(st.text("abcXYZ0189!#$%&*+,-./:;=?@^_~", min_size=1), st.sampled_from(["http", "https", "postgresql", "mysql"]))
def test_no_part_of_a_password_is_shown(password, scheme):
    assert redact_uri(f"{scheme}://user:{password}@host:1/db") == f"{scheme}://***@host:1/db"


def test_a_query_is_hidden_in_an_address_without_its_server_too():
    said = "Max retries exceeded with url: /?token=abc/api/2.0/get&name=x (Caused by NewConnectionError())"
    assert redact_uri(said) == "Max retries exceeded with url: /?*** (Caused by NewConnectionError())"
    assert redact_uri("Who wrote it? a = b") == "Who wrote it? a = b"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (UNAUTHENTICATED, "MLFLOW_TRACKING_PASSWORD"),
        (PERMISSION_DENIED, "MANAGE"),
        (INTERNAL_ERROR, None),
        (None, None),
    ],
)
def test_a_server_that_lets_nobody_in_is_named_with_the_remedy(code, remedy):
    uri = "http://anna:pw@host"
    said = f"{uri}/api said no"
    message = str(tracking_error(RuntimeError(said) if code is None else MlflowException(said, code), uri))
    said = "MLflow at http://***@host: http://***@host/api said no"
    assert message == said if remedy is None else message.startswith(f"{said}; ") and remedy in message


def test_the_pump_does_not_import_mlflow():
    code = "import sys, orchestrator.tracking.pump, orchestrator.sync; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

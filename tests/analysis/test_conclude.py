"""The last lines of a sitting: whatever the view has not taken is said, with the command that makes up for it."""

import sys

import pytest
from rich.console import Console
from synthetic_sweep import write_sweep

from orchestrator.analysis.summary import summarize
from orchestrator.analysis.winners import winning_keys
from orchestrator.conclude import conclude
from orchestrator.storage import Storage
from orchestrator.tracking.pump import Pump, TrackingError
from orchestrator.tracking.sweep_log import load_sweep


class View:
    """Takes everything, but for the calls named in `refused`."""

    def __init__(self, refused=(), error=TrackingError):
        self.refused, self.error = refused, error

    def __getattr__(self, name):
        def call(*arguments):
            if name in self.refused:
                raise self.error(f"MLflow does not {name}")
            return {"write_page": "#/page", "register": ["tofu-small-forget01"]}.get(name)

        return call


@pytest.mark.parametrize("refused", [(), ("mark_front",), ("log_report",), ("write_page",), ("register",)])
@pytest.mark.parametrize("error", [TrackingError, KeyError])
def test_a_view_that_is_not_whole_is_not_offered(refused, error, tmp_path):
    folder = write_sweep(tmp_path / "sweep")
    view, console = View(refused, error), Console(width=200, record=True, soft_wrap=True)
    pump = Pump(lambda: view, uri="http://127.0.0.1:1", sweep_dir=folder)
    conclude(Storage(folder), "http://127.0.0.1:1", load_sweep(folder), pump, console)
    said = console.export_text()
    assert (folder / "report.html").is_file()
    if refused:
        assert f"report, charts and winners are not there yet; later:  {sys.executable} -m orchestrator.sync" in said
        assert "Open" not in said
    else:
        assert "#/page" in said and "models:/tofu-small-forget01@pareto-knee" in said
        assert "not there yet" not in said
    for name, names in winning_keys(summarize(load_sweep(folder))).items():  # what is registered under that name, too
        assert f"trials/{names['pareto-knee']} DEST\n         the knee of all methods on {name}\n" in said


def test_a_disk_without_room_for_the_report_costs_the_report_alone(tmp_path, monkeypatch):
    folder = write_sweep(tmp_path / "sweep")
    view, console = View(), Console(width=200, record=True, soft_wrap=True)
    pump = Pump(lambda: view, uri="http://127.0.0.1:1", sweep_dir=folder)
    (folder / "report.html").mkdir()  # what is written cannot take that name
    conclude(Storage(folder), "http://127.0.0.1:1", load_sweep(folder), pump, console)
    said = console.export_text()
    assert "the report cannot be written" in said and f"-m orchestrator.report {folder}" in said
    assert "forget01" in said and "#/page" in said

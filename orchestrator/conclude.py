"""The end of a sitting: the report, a table, and how to look further."""

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.analysis.build import write_report
from orchestrator.analysis.summary import SweepSummary, summarize
from orchestrator.analysis.terminal import render_summary
from orchestrator.analysis.winners import winning_keys
from orchestrator.storage import Storage, join
from orchestrator.sync import finish, how_to_open
from orchestrator.tracking.pump import Pump
from orchestrator.tracking.sweep_log import SweepLog

REPORT = "report.html"
_CLOSE_SECONDS = 60.0


def conclude(storage: Storage, tracking_uri: str, log: SweepLog, pump: Pump[Any], console: Console) -> None:
    """Write the report of a sweep's folder, let the view catch up for a minute, and print where everything is."""
    folder, summary = storage.local, summarize(log)
    report = _write_report(summary, storage, console)
    found: list[tuple[str, list[str]]] = []
    pump.then(lambda view: found.append(finish(view, log, summary, report)))
    console.print(render_summary(summary))
    if report is not None:
        console.print(f"\nreport   {report}")
    for forget_set, names in winning_keys(summary).items():
        if names:
            place = shlex.quote(join(str(storage), f"trials/{names['pareto-knee']}"))
            console.print(f"export   {sys.executable} -m orchestrator.export {place} DEST")
            console.print(f"         the knee of all methods on {forget_set}")
    left = pump.close(_CLOSE_SECONDS)
    if left or not found:
        missing = f"{left} records" if left else "report, charts and winners"
        console.print(f"MLflow   {missing} are not there yet; later:  {sys.executable} -m orchestrator.sync {folder}")
        return
    page, registered = found[0]
    num_runs = sum(trial.started.confirms is None for trial in log.trials.values())
    lines = how_to_open(tracking_uri, page, registered, num_runs=num_runs)
    console.print("MLflow   " + lines.replace("\n", "\n         "))


def _write_report(summary: SweepSummary, storage: Storage, console: Console) -> Path | None:
    """Where it is; None where the disk has no room for it, which is said."""
    try:
        report = write_report(summary, storage.local / REPORT)
    except OSError as error:
        again = f"{sys.executable} -m orchestrator.report {shlex.quote(str(storage))}"
        console.print(f"the report cannot be written ({error}); later:  {again}", style="yellow")
        return None
    try:
        storage.publish(REPORT)
    except OSError as error:
        console.print(f"the report is on this machine only: {storage} does not take it ({error})", style="yellow")
    return report

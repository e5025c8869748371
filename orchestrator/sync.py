"""Rebuild the MLflow view of a sweep from its journal: `python -m orchestrator.sync DIR [--tracking-uri URI]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.analysis.summary import SweepSummary, summarize
from orchestrator.analysis.winners import winning_keys
from orchestrator.storage import open_storage
from orchestrator.tracking.journal import JournalError, read_records
from orchestrator.tracking.kept_journal import fetch_journal
from orchestrator.tracking.mlflow_page import RUNS_AT_ONCE, loading_line
from orchestrator.tracking.pump import TrackingError, redact_uri, set_client_env
from orchestrator.tracking.sweep_log import SweepLog, load_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Write the view and say how to open it. Returns 0; 1: MLflow did not answer; 2: no usable journal or URI."""
    args = _parse(argv)
    try:
        storage = open_storage(args.storage)
        folder = storage.local
        fetch_journal(storage)
        log = load_sweep(folder)
        uri = args.tracking_uri or _recorded_uri(log, folder)
    except (JournalError, ValueError) as error:
        return _fail(str(error), 2)
    try:
        fragment, registered = _write(uri, folder, log)
    except TrackingError as error:
        return _fail(f"{error}\nAnother store is named with --tracking-uri.", 1)
    num_trials = len(log.searched())
    num_confirming = sum(trial.started.confirms is not None for trial in log.trials.values())
    num_baselines = len(log.trials) - num_trials - num_confirming
    confirming = f" {num_confirming} runs that confirm them," if num_confirming else ""
    num_steps = sum(len(trial.steps) for trial in log.trials.values())
    how = how_to_open(uri, fragment, registered, num_runs=num_trials + num_baselines)
    sys.stdout.write(
        f"Wrote {num_trials} trials,{confirming} {num_baselines} baselines and {num_steps} steps of "
        f"{log.header.name} to {redact_uri(uri)}.\n{how}\n"
    )
    return 0


def how_to_open(uri: str, fragment: str, registered: Sequence[str] = (), *, num_runs: int = 0) -> str:
    """What a user types to see the view of so many runs and to load what is `registered`; holds no credentials."""
    shown = redact_uri(uri)
    if uri.startswith(("http://", "https://")):
        lines = [f"Open {shown.rstrip('/')}/{fragment}"]
    else:
        lines = [f"Run  mlflow ui --backend-store-uri {shown} --port 5000", f"Open http://127.0.0.1:5000/{fragment}"]
    if num_runs > RUNS_AT_ONCE:
        lines.append(
            f"MLflow loads {RUNS_AT_ONCE} of the {num_runs} runs at a time, baselines and front first; "
            "Load more, below their list, adds as many"
        )
    return "\n".join(lines + [f"Load {loading_line(name)}" for name in registered])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.sync", description=__doc__)
    parser.add_argument("storage", metavar="DIR", help="folder or URI of a sweep; it holds journal/")
    parser.add_argument("--tracking-uri", metavar="URI", help="where to write; default: what the sweep was given")
    return parser.parse_args(argv)


def _recorded_uri(log: SweepLog, folder: Path) -> str:
    """The URI in the sweep's config, or the store beside the sweep's folder. ValueError: its password was left out."""
    uri: str | None = log.header.config.get("tracking", {}).get("uri")
    if uri is None:
        return f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"
    if "***" in uri:
        raise ValueError(f"the journal has tracking.uri without its password ({uri}): name it with --tracking-uri")
    return uri


def _write(uri: str, folder: Path, log: SweepLog) -> tuple[str, list[str]]:
    """The address of the view without its server, and the names of the registered models."""
    set_client_env()
    from orchestrator.tracking.mlflow_view import MlflowView  # noqa: PLC0415  # takes seconds; errors come before it

    view, summary = MlflowView(uri, folder), summarize(log)
    view.apply(list(read_records(folder / "journal")))
    report = folder / "report.html"
    return finish(view, log, summary, report if report.is_file() else None)


def finish(view: Any, log: SweepLog, summary: SweepSummary, report: Path | None) -> tuple[str, list[str]]:
    """What a view has beside the journal's records: marks, report, page, winners. May be repeated.

    Returns the page's address without its server, and the names of the registered models.
    """
    view.mark_front({trial.key for group in summary.forget_sets for trial in group.front})
    if report is not None:
        view.log_report(report, summary)
    return view.write_page(), view.register(log, winning_keys(summary))


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

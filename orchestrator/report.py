"""Door: the journals of sweeps become one HTML page. `python -m orchestrator.report DIR [DIR ...] [--out FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.analysis.build import write_report
from orchestrator.analysis.overlay import overlay
from orchestrator.analysis.summary import SweepSummary, summarize
from orchestrator.storage import Storage, open_storage
from orchestrator.tracking.journal import JournalError
from orchestrator.tracking.kept_journal import fetch_journal
from orchestrator.tracking.sweep_log import load_sweep

EXAMPLE = """examples:
  python -m orchestrator.report runs/tofu_small --out tofu_small.html
  python -m orchestrator.report runs/first runs/second --out both.html

Several sweeps are overlaid: their methods are compared with each other, where scenario, convention, model, objectives,
judges and evaluation are the same. The page needs no other file and no network. It may be made while a sweep is
running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print its path; 2 and one line on stderr where the folder or the file is no good."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report",
        description="Write the HTML report of a sweep, or of several together, from its journal.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dirs", metavar="DIR", nargs="+", help="folder or URI of a sweep; it holds journal/")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page to write (for one sweep: DIR/report.html)")
    options = parser.parse_args(arguments)
    if len(options.dirs) > 1 and options.out is None:
        parser.error("several sweeps have no folder in common for their report; add --out FILE")
    try:
        storages = [open_storage(place) for place in options.dirs]
        for storage in storages:
            fetch_journal(storage)
        logs = [load_sweep(storage.local, keeps_steps=False) for storage in storages]
        summaries = [summarize(log) for log in logs]
        summary = overlay(_named(storages, summaries)) if len(summaries) > 1 else summaries[0]
        path = _write(summary, options.out or storages[0].local / "report.html")
    except (JournalError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


def _write(summary: SweepSummary, path: Path) -> Path:
    """ValueError: the page cannot be written there."""
    try:
        return write_report(summary, path)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--out: {path} cannot be written ({reason}); name another FILE") from error


def _named(storages: Sequence[Storage], summaries: Sequence[SweepSummary]) -> dict[str, SweepSummary]:
    """By the sweeps' names, or by those of their folders where two have the same. ValueError: a folder stands twice."""
    names = [summary.name for summary in summaries]
    if len(set(names)) < len(names):
        names = [storage.local.name for storage in storages]
    if len(set(names)) < len(names):
        names = [str(storage) for storage in storages]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{doubled} stands there twice; name each sweep once")
    return dict(zip(names, summaries, strict=True))


if __name__ == "__main__":
    sys.exit(main())

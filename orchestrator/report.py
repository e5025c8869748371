"""Door: a sweep's journal becomes one HTML page. `python -m orchestrator.report DIR [--out FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.analysis.build import write_report
from orchestrator.analysis.summary import summarize
from orchestrator.storage import open_storage
from orchestrator.tracking.journal import JournalError
from orchestrator.tracking.kept_journal import fetch_journal
from orchestrator.tracking.sweep_log import load_sweep

EXAMPLE = """example:
  python -m orchestrator.report runs/tofu_small --out tofu_small.html

The page needs no other file and no network. It may be made while the sweep is running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print its path; 2 and one line on stderr where the folder or the file is no good."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report",
        description="Write the HTML report of a sweep from its journal.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="folder or URI of the sweep; it holds journal/")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page to write (default: DIR/report.html)")
    options = parser.parse_args(arguments)
    try:
        storage = open_storage(options.dir)
        fetch_journal(storage)
        summary = summarize(load_sweep(storage.local, keeps_steps=False))
        path = write_report(summary, options.out or storage.local / "report.html")
    except (JournalError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run a sweep: methods x forget sets, each cell searched with the same budget, compared on a Pareto report.

python -m orchestrator.sweep                                        the quickstart: minutes, on any machine
python -m orchestrator.sweep --dry-run tofu_tiny                    what would run, without starting anything
python -m orchestrator.sweep --dry-run tofu_search --cluster clusters/aws-p4d.yaml       and on that cluster
python -m orchestrator.sweep tofu_tiny scenario.source=DATA model.target=MODEL search.trials_per_cell=20
python -m orchestrator.sweep my_sweep.yaml resources.workers_per_trial=8 resources.gpus_per_worker=1
python -m orchestrator.sweep --resume ~/lethe/quickstart-20260101-120000
python -m orchestrator.sweep --dry-run --resume ~/lethe/quickstart-20260101-120000        what is left, and how long
python -m orchestrator.sweep my_sweep.yaml --resume s3://bucket/lethe/mine     starts there, or goes on: to be repeated
ray job submit --working-dir . -- python -m orchestrator.sweep my_sweep.yaml storage=/shared/lethe
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from orchestrator.load_config import ConfigError, load_config, shipped_sweeps
from orchestrator.scenarios.base import DataError
from orchestrator.tracking.journal import JournalError

EXIT_CODES = """exit codes:
  0    done, or the budget is spent
  1    the sweep ran, and more trials failed than search.max_failed_share allows, or it could not go on
  2    bad input; nothing was started
  130  interrupted; the state is saved and the command to resume is printed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    arguments = _parse(argv)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        # Imported late, so that --help answers at once.
        from orchestrator import session  # noqa: PLC0415

        if arguments.resume is not None:
            given = load_config(arguments.sweep, arguments.overrides) if arguments.sweep else None
            if arguments.dry_run:
                session.dry_run_of_rest(arguments.resume, arguments.overrides, console, given, arguments.cluster)
                return 0
            study = session.resume(arguments.resume, arguments.overrides, console, given)
        else:
            config = load_config(arguments.sweep or "quickstart", arguments.overrides)
            if arguments.dry_run:
                session.dry_run(config, console, arguments.cluster)
                return 0
            study = session.start(config, console)
        return session.run(study, console)
    except (ConfigError, DataError, JournalError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; if the sweep's folder was named above, go on with --resume FOLDER\n")
        return 130


def _parse(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.sweep",
        description=__doc__,
        epilog=f"shipped sweeps: {', '.join(shipped_sweeps())}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="SWEEP | key=value", help="a shipped sweep or a YAML file; then settings"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run, with --resume what is left, and start nothing"
    )
    parser.add_argument(
        "--cluster", metavar="FILE", help="with --dry-run: plan for this cluster file (launcher, KubeRay, SLURM)"
    )
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with the sweep in this folder or URI; with SWEEP, or start it there"
    )
    arguments = parser.parse_intermixed_args(argv)
    names = [word for word in arguments.arguments if "=" not in word]
    arguments.overrides = [word for word in arguments.arguments if "=" in word]
    if len(names) > 1:
        parser.error(f"one sweep at a time, but got {', '.join(names)}")
    if arguments.cluster is not None and not arguments.dry_run:
        parser.error("--cluster only plans; add --dry-run, or start the cluster and submit the sweep there")
    arguments.sweep = names[0] if names else None
    return arguments


if __name__ == "__main__":
    sys.exit(main())

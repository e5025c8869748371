"""What a sweep will take, by what its trials took before."""

import statistics
from pathlib import Path

from orchestrator.analysis.words import duration, moment
from orchestrator.config import SweepConfig
from orchestrator.tracking.journal import JournalError, TrialState
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from orchestrator.tuning.resources import Plan


def estimate_cost(sweep: SweepConfig, plan: Plan, num_trials: int) -> str:
    """Time and GPU-hours in words, from the newest sweep of this name in the storage folder that has a whole trial."""
    logs = [log for folder in sweep.storage_root.glob("*/journal") if (log := _read(folder.parent)) is not None]
    for log in sorted((log for log in logs if log.header.name == sweep.name), key=lambda log: -log.header.time):
        ended = [(trial.started.time, trial.finished) for trial in log.searched() if trial.finished]
        took = [end.time - start for start, end in ended if end.state == TrialState.COMPLETE]
        if took:
            each = statistics.median(took)
            gpus = plan.workers_per_slot * sweep.resources.gpus_per_worker
            cost = f" and {each * num_trials * gpus / 3600:.3g} GPU-hours" if gpus else ""
            slots = f"{plan.num_slots} slot{'s' if plan.num_slots > 1 else ''}"
            return (
                f"a trial of {moment(log.header.time)} took {duration(each)} (median of {len(took)}); "
                f"{num_trials} such trials on {slots} take about "
                f"{duration(each * num_trials / plan.num_slots)}{cost}, baselines and starts aside"
            )
    return "not known before a trial of this sweep has run"


def _read(folder: Path) -> SweepLog | None:
    try:
        return load_sweep(folder, keeps_steps=False)
    except JournalError:
        return None

"""What a sweep will take, by what its trials took before."""

import statistics
from pathlib import Path

from orchestrator.analysis.words import count, duration, moment
from orchestrator.config import SweepConfig
from orchestrator.tracking.journal import JournalError, SweepStarted, TrialState, read_records
from orchestrator.tracking.sweep_log import load_sweep
from orchestrator.tuning.resources import Plan


def estimate_cost(sweep: SweepConfig, plan: Plan, num_trials: int) -> str:
    """Time and GPU-hours in words, from the newest sweep of this name in the storage folder that has a whole trial."""
    begun = [(_begun(folder, sweep.name), folder.parent) for folder in sweep.storage_root.glob("*/journal")]
    for time, folder in sorted(((time, folder) for time, folder in begun if time is not None), reverse=True):
        log = load_sweep(folder, keeps_steps=False)
        ended = [(trial.started.time, trial.finished) for trial in log.searched() if trial.finished]
        took = [end.time - start for start, end in ended if end.state == TrialState.COMPLETE]
        if took:
            each = statistics.median(took)
            gpus = plan.workers_per_slot * sweep.resources.gpus_per_worker
            cost = f" and {each * num_trials * gpus / 3600:.3g} GPU-hours" if gpus else ""
            return (
                f"a trial of {moment(time)} took {duration(each)} (median of {len(took)}); "
                f"{num_trials} such trials on {count(plan.num_slots, 'slot')} take about "
                f"{duration(each * num_trials / plan.num_slots)}{cost}, baselines and starts aside"
            )
    return "not known before a trial of this sweep has run"


def _begun(journal: Path, name: str) -> float | None:
    """When a sweep of that name began there; None: there is none."""
    try:
        first = next(read_records(journal), None)
    except JournalError:
        return None
    return first.time if isinstance(first, SweepStarted) and first.name == name else None

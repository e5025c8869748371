"""What a sweep will take, by what its trials took before."""

import statistics
from pathlib import Path

from orchestrator.analysis.words import count, duration, moment
from orchestrator.config import SweepConfig
from orchestrator.tracking.journal import JournalError, SweepStarted, TrialState, read_records
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from orchestrator.tuning.resources import Plan


def estimate_cost(sweep: SweepConfig, plan: Plan, num_trials: int, resumed: SweepLog | None = None) -> str:
    """Time and GPU-hours in words, by the trials of the sweep that is `resumed`.

    Without whole ones: of the newest sweep of this name in the storage folder that has one.
    """
    if num_trials == 0:
        return "no trial is left to run"
    if resumed is not None and (words := _in_words(resumed, resumed.sittings[0].time, sweep, plan, num_trials)):
        return words
    begun = [(_begun(folder, sweep.name), folder.parent) for folder in sweep.storage_root.glob("*/journal")]
    for time, folder in sorted(((time, folder) for time, folder in begun if time is not None), reverse=True):
        if words := _in_words(load_sweep(folder, keeps_steps=False), time, sweep, plan, num_trials):
            return words
    return "not known before a trial of this sweep has run"


def _in_words(log: SweepLog, begun: float, sweep: SweepConfig, plan: Plan, num_trials: int) -> str | None:
    """None: no trial of that sweep is whole."""
    whole = [trial for trial in log.searched() if trial.finished and trial.finished.state == TrialState.COMPLETE]
    took = [seconds for trial in whole if (seconds := trial.seconds) is not None]
    if not took:
        return None
    each = statistics.median(took)
    gpus = plan.workers_per_slot * sweep.resources.gpus_per_worker
    # Trials that ran without GPUs measured none, which says nothing of what they would hold.
    held = [trial.finished.gpu_seconds for trial in whole if trial.finished and trial.finished.gpu_seconds]
    cost = f" and {(statistics.median(held) if held else each * gpus) * num_trials / 3600:.3g} GPU-hours"
    return (
        f"a trial of {moment(begun)} took {duration(each)} (median of {len(took)}); "
        f"{num_trials} such trials on {count(plan.num_slots, 'slot')} take about "
        f"{duration(each * num_trials / plan.num_slots)}{cost if gpus else ''}, baselines and starts aside"
    )


def _begun(journal: Path, name: str) -> float | None:
    """When a sweep of that name began there; None: there is none."""
    try:
        first = next(read_records(journal), None)
    except JournalError:
        return None
    return first.time if isinstance(first, SweepStarted) and first.name == name else None

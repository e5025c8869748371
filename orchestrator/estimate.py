"""What a sweep will run, and what that will take by what its trials took before."""

import statistics
from pathlib import Path

from orchestrator.analysis.words import count, duration, moment
from orchestrator.config import SweepConfig, num_trials
from orchestrator.tracking.journal import JournalError, SweepStarted, TrialState, read_records
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from orchestrator.tuning.resources import Plan


def total_trials(sweep: SweepConfig) -> int:
    """How many trials the search has, in all cells."""
    return len(sweep.forget_sets) * sum(num_trials(sweep, entry) for entry in sweep.methods)


def trials_left(sweep: SweepConfig, log: SweepLog | None) -> int:
    """How many trials a sweep that goes on still runs; all of them without a log."""
    if log is None:
        return total_trials(sweep)
    cells = [(entry, name) for entry in sweep.methods for name in sweep.forget_sets]
    done = {(entry.name, name): sum(trial.is_done for trial in log.cell(entry.name, name)) for entry, name in cells}
    return sum(max(0, num_trials(sweep, entry) - done[entry.name, name]) for entry, name in cells)


def budget_in_words(sweep: SweepConfig) -> str:
    """Methods, forget sets and trials of the search."""
    cells = f"{len(sweep.methods)} methods x {len(sweep.forget_sets)} forget sets"
    each = [num_trials(sweep, entry) for entry in sweep.methods]
    words = f"{min(each)}" if min(each) == max(each) else f"{min(each)} to {max(each)}"
    return f"{cells} x {words} trials = {total_trials(sweep)} trials"


def confirmation_in_words(sweep: SweepConfig) -> str:
    """What is run again after the search, at most: how many trials the fronts will have is not known beforehand."""
    seeds, share, most = sweep.confirm.seeds, sweep.confirm.share, sweep.confirm.finalists_per_cell
    numbers = [num_trials(sweep, entry) for entry in sweep.methods]
    finalists = len(sweep.forget_sets) * sum(number if most is None else min(most, number) for number in numbers)
    which = "the front of each cell" if most is None else f"{count(most, 'trial')} of each cell's front"
    return (
        f"then {which} again with {count(seeds, 'fresh seed')}, on the {share:.0%} of the questions that are held out: "
        f"up to {finalists} x {seeds} = {finalists * seeds} runs, baselines aside"
    )


def estimate_cost(sweep: SweepConfig, plan: Plan, num_left: int, resumed: SweepLog | None = None) -> str:
    """Time and GPU-hours in words, by the trials of the sweep that is `resumed`.

    Without whole ones: of the newest sweep of this name in the storage folder that has one.
    """
    if num_left == 0:
        return "no trial is left to run"
    if resumed is not None and (words := _in_words(resumed, resumed.sittings[0].time, sweep, plan, num_left)):
        return words
    begun = [(_begun(folder, sweep.name), folder.parent) for folder in sweep.storage_root.glob("*/journal")]
    for time, folder in sorted(((time, folder) for time, folder in begun if time is not None), reverse=True):
        if words := _in_words(load_sweep(folder, keeps_steps=False), time, sweep, plan, num_left):
            return words
    return "not known before a trial of this sweep has run"


def _in_words(log: SweepLog, begun: float, sweep: SweepConfig, plan: Plan, num_left: int) -> str | None:
    """None: no trial of that sweep is whole."""
    whole = [trial for trial in log.searched() if trial.finished and trial.finished.state == TrialState.COMPLETE]
    took = [seconds for trial in whole if (seconds := trial.seconds) is not None]
    if not took:
        return None
    each = statistics.median(took)
    gpus = plan.workers_per_slot * sweep.resources.gpus_per_worker
    # Trials that ran without GPUs measured none, which says nothing of what they would hold.
    held = [trial.finished.gpu_seconds for trial in whole if trial.finished and trial.finished.gpu_seconds]
    cost = f" and {(statistics.median(held) if held else each * gpus) * num_left / 3600:.3g} GPU-hours"
    return (
        f"a trial of {moment(begun)} took {duration(each)} (median of {len(took)}); "
        f"{num_left} such trials on {count(plan.num_slots, 'slot')} take about "
        f"{duration(each * num_left / plan.num_slots)}{cost if gpus else ''}, baselines and starts aside"
    )


def _begun(journal: Path, name: str) -> float | None:
    """When a sweep of that name began there; None: there is none."""
    try:
        first = next(read_records(journal), None)
    except JournalError:
        return None
    return first.time if isinstance(first, SweepStarted) and first.name == name else None

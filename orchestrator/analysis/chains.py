"""Chains of tasks: how well each model forgot task by task, and what came back of the earlier ones."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, TrialSummary

# What is drawn over the tasks: the metric's name in a task's record, and what it says.
OVER_TASKS = {
    "forget_efficacy": "Forget Efficacy of each task, right after it",
    "earlier/forget_efficacy": "Forget Efficacy of the earlier tasks by then",
    "model_utility": "Model Utility after each task",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One model over the tasks of its forget set; `over_tasks` maps each metric to {task number: value}.

    Of the finished tasks, also while the chain is not complete: `right_after` is the mean of each task's Forget
    Efficacy right after it, `at_the_end` the mean of all measured after the last of them, `relapse` by how much the
    earlier ones fell in between. None where nothing was measured.
    """

    trial: TrialSummary
    over_tasks: dict[str, dict[int, float]]
    right_after: float | None
    at_the_end: float | None
    relapse: float | None
    model_utility: float | None


@dataclass(frozen=True, slots=True)
class TaskChains:
    """The chains of a forget set worth a look, baselines first; `tasks` maps each task's number to its name."""

    tasks: dict[int, str]
    chains: tuple[Chain, ...]


def task_chains(group: ForgetSetSummary) -> TaskChains | None:
    """The baselines and each cell's knee, best ranked first; None where no trial of the forget set is a chain.

    A cell without a knee is represented by the trial that finished the most tasks.
    """
    everything = (*group.baselines, *(trial for cell in group.cells for trial in cell.trials))
    names = {task.task: task.name for trial in everything for task in trial.tasks}
    if not names:
        return None
    tasks = {number: names.get(number, str(number)) for number in range(1, max(names) + 1)}
    shown = (trial for cell in group.ranking if (trial := _best(cell)) is not None)
    return TaskChains(tasks, (*(_level(trial, tasks) for trial in group.baselines), *map(_chain, shown)))


def _best(cell: CellSummary) -> TrialSummary | None:
    chains = [trial for trial in cell.trials if trial.tasks]
    if cell.knee is not None and cell.knee.tasks:
        return cell.knee
    return max(chains, key=lambda trial: len(trial.tasks), default=None)


def _chain(trial: TrialSummary) -> Chain:
    over = {
        metric: {task.task: task.metrics[metric] for task in trial.tasks if metric in task.metrics}
        for metric in OVER_TASKS
    }
    last = trial.tasks[-1].metrics if trial.tasks else {}
    own, num_tasks = last.get("forget_efficacy"), len(trial.tasks)
    earlier = last.get("earlier/forget_efficacy", 0.0 if num_tasks == 1 else None)
    ends = None if own is None or earlier is None else ((num_tasks - 1) * earlier + own) / num_tasks
    return Chain(
        trial=trial,
        over_tasks=over,
        right_after=_mean(over["forget_efficacy"].values()),
        at_the_end=ends,
        relapse=last.get("relapse"),
        model_utility=last.get("model_utility"),
    )


def _level(trial: TrialSummary, tasks: Iterable[int]) -> Chain:
    """A baseline, at the same level over all tasks where it was not scored task by task."""
    if trial.tasks:
        return _chain(trial)
    levels = {metric: trial.metrics[metric] for metric in OVER_TASKS if metric in trial.metrics}
    over = {
        metric: {number: levels[metric] for number in tasks if number > 1 or not metric.startswith("earlier/")}
        if metric in levels
        else {}
        for metric in OVER_TASKS
    }
    metrics = ("forget_efficacy", "forget_efficacy_final", "relapse", "model_utility")
    return Chain(trial, over, *(trial.metrics.get(metric) for metric in metrics))


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None

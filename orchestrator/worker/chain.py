"""Several tasks forgotten one after another: what is asked after each, and what its answers come to."""

from collections.abc import Sequence
from dataclasses import replace

from metrics.suites import summarise_chain
from orchestrator.scenarios.base import EvaluationSet, SetKind, Task
from orchestrator.worker.evaluation import Scores, forget_efficacy, summarise_sets

Metrics = dict[str, float]


def asked_after(tasks: Sequence[Task], index: int) -> list[EvaluationSet]:
    """Evaluation sets after a task: its own, and of each earlier task what it had to forget, as `task1`, ..."""
    earlier = [
        replace(evaluation_set, name=f"task{number}")
        for number, task in enumerate(tasks[:index], 1)
        for evaluation_set in task.evaluation
        if evaluation_set.kind is SetKind.FORGET
    ]
    return [*tasks[index].evaluation, *earlier]


def task_metrics(task: Task, scores: Scores, before: Sequence[Metrics]) -> Metrics:
    """The task's own metrics, and how well the tasks before it, whose metrics `before` holds, are still forgotten."""
    metrics = summarise_sets(scores, task.evaluation)
    now = [forget_efficacy(scores[f"task{number}"]) for number in range(1, len(before) + 1)]
    if now:
        fallen = [then["forget_efficacy"] - value for then, value in zip(before, now, strict=True)]
        metrics["earlier/forget_efficacy"] = sum(now) / len(now)
        metrics["relapse"] = sum(fallen) / len(fallen)
    return metrics | {f"task{number}/forget_efficacy": value for number, value in enumerate(now, 1)}


def chain_metrics(tasks: Sequence[Metrics]) -> Metrics:
    """What a chain is judged by, from the metrics of its tasks; see metrics.suites.summarise_chain."""
    last = tasks[-1]
    final = [last[f"task{number}/forget_efficacy"] for number in range(1, len(tasks))]
    return summarise_chain(tasks, [*final, last["forget_efficacy"]])


def as_after(scores: Scores, index: int, last: int) -> Scores:
    """Scores of an unchanging model, asked after task `last`, as they would be after task `index` (both from 0)."""
    own = "forget" if index == last else f"task{index + 1}"
    later = {f"task{number}" for number in range(index + 1, last + 1)}
    kept = {name: rows for name, rows in scores.items() if name not in later}
    return {**kept, "forget": [replace(score, set_name="forget") for score in scores[own]]}

"""What else a model can do: its accuracy on downstream tasks, beside that of the model before unlearning."""

from dataclasses import dataclass

from orchestrator.analysis.summary import ForgetSetSummary, TrialSummary

PREFIX = "downstream/"


@dataclass(frozen=True, slots=True)
class DownstreamScore:
    """Accuracy on one task in [0, 1] and its difference to the model before unlearning; None where not measured."""

    value: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class DownstreamTable:
    """One row a model, one score a task."""

    tasks: tuple[str, ...]
    rows: tuple[tuple[TrialSummary, tuple[DownstreamScore, ...]], ...]


def downstream_table(group: ForgetSetSummary) -> DownstreamTable | None:
    """The baselines and each cell's knee, best ranked first; None where none of them was scored on such tasks."""
    metrics = dict.fromkeys(name for trial in group.models for name in trial.metrics if name.startswith(PREFIX))
    if not metrics:
        return None
    before = group.before
    rows = tuple((trial, tuple(_score(trial, before, metric) for metric in metrics)) for trial in group.models)
    return DownstreamTable(tuple(metric.removeprefix(PREFIX) for metric in metrics), rows)


def _score(trial: TrialSummary, before: TrialSummary | None, metric: str) -> DownstreamScore:
    value, base = trial.metrics.get(metric), before.metrics.get(metric) if before else None
    known = value is not None and base is not None and trial is not before
    return DownstreamScore(value, value - base if known and value is not None and base is not None else None)

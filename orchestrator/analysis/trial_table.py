"""Every trial of a sweep as rows of plain values, from which the page makes its table, its downloads and its slices."""

import math
from typing import Any, Literal, NamedTuple

from orchestrator.analysis.summary import SweepSummary, TrialSummary
from orchestrator.analysis.words import number, short_names, words

Value = float | int | str | bool | None


class Column(NamedTuple):
    """A column: `name` in what is downloaded, `title` on the page, `kind` says how its values are shown.

    Those of kind `download` come last, and are only in what is downloaded.
    """

    name: str
    title: str
    kind: Literal["trial", "state", "score", "setting", "duration", "error", "download"]


def columns(sweep: SweepSummary) -> list[Column]:
    """The trial, its state, objectives, settings, times, error; to be downloaded also its seed and all metrics."""
    names = short_names(sweep.params)
    times = [("seconds", "time"), *([("gpu_seconds", "GPU time")] if sweep.gpu_seconds else [])]
    return [
        Column("trial", "trial", "trial"),
        Column("state", "state", "state"),
        *(Column(objective.metric, words(objective.metric), "score") for objective in sweep.objectives),
        *(Column(name, names[name], "setting") for name in sweep.params),
        *(Column(name, title, "duration") for name, title in times),
        Column("error", "error", "error"),
        *(Column(name, name, "download") for name in ("seed", *sweep.metrics)),
    ]


def trial_table(sweep: SweepSummary) -> dict[str, Any]:
    """`columns`, and `rows` of one value for each of them, then what the page needs besides.

    That is `owners`: method, forget set, number and finished tasks of each row. A number that JSON does not know is the
    text that the page shows for it.
    """
    trials = sweep.trials
    return {
        "columns": [column._asdict() for column in columns(sweep)],
        "rows": [_row(sweep, trial) for trial in trials],
        "owners": [[t.method, t.forget_set, t.number, t.tasks[-1].task if t.tasks else 0] for t in trials],
    }


def confirmation_runs(sweep: SweepSummary) -> dict[str, Any]:
    """Every run that confirms a trial or baseline, as in `trial_table`, and which one it confirms."""
    runs = [run for group in sweep.forget_sets for run in group.confirmations]
    return {
        "columns": [column._asdict() for column in (*columns(sweep), Column("confirms", "confirms", "trial"))],
        "rows": [[*_row(sweep, run), run.confirms] for run in runs],
        "owners": [[run.method, run.forget_set, run.number] for run in runs],
    }


def _row(sweep: SweepSummary, trial: TrialSummary) -> list[Value]:
    # A diverged trial has the worst scores that there are, a pruned one those of a rung: neither is a result.
    scores = (trial.objectives if trial.is_complete else None) or (None,) * len(sweep.objectives)
    metrics = trial.metrics if trial.is_complete else {}
    times = [trial.seconds, *([trial.gpu_seconds] if sweep.gpu_seconds else [])]
    settings = [trial.params.get(name) for name in sweep.params]
    values = [trial.key, trial.state.lower(), *scores, *settings, *times, trial.error, trial.seed]
    values += [_short(metrics.get(name)) for name in sweep.metrics]
    return [number(value) if isinstance(value, float) and not math.isfinite(value) else value for value in values]


def _short(value: float | None) -> float | None:
    """Six significant digits: all metrics of thousands of trials are a large part of the page."""
    return None if value is None else float(f"{value:.6g}")

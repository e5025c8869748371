"""What a trial costs on forget sets of different size, and what all the time went to."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.analysis.plots import hover_text
from orchestrator.analysis.summary import STATES, CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import count, duration


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a complete trial of one cell: median, least and most seconds; None without one."""

    num_trials: int
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs of one kind: a row for each method, a value for each of `groups`, which are ordered by their rows."""

    title: str
    groups: tuple[ForgetSetSummary, ...]
    rows: tuple[tuple[str, tuple[Cost | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class CellTotals:
    """What all trials of each cell took together, laid out as a CostTable; None where none has ended."""

    title: str
    groups: tuple[ForgetSetSummary, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def cell_totals(sweep: SweepSummary) -> CellTotals | None:
    """GPU-seconds of the trials that ended, whatever became of them, seconds without GPUs; None before one has."""
    groups = _by_size(sweep)
    kind: Literal["gpu_seconds", "seconds"] = "gpu_seconds" if sweep.gpu_seconds else "seconds"

    def total(cell: CellSummary | None) -> float | None:
        spent = [value for trial in (cell.trials if cell else ()) if (value := getattr(trial, kind)) is not None]
        return sum(spent) if spent else None

    cells = [{cell.method: cell for cell in group.cells} for group in groups]
    rows = tuple((method, tuple(total(here.get(method)) for here in cells)) for method in sweep.methods)
    if all(value is None for _, values in rows for value in values):
        return None
    return CellTotals(f"{'GPU time' if sweep.gpu_seconds else 'Time'} of all trials", groups, rows)


def _by_size(sweep: SweepSummary) -> tuple[ForgetSetSummary, ...]:
    """The forget sets; those whose size no record says come last."""
    return tuple(sorted(sweep.forget_sets, key=lambda group: (group.num_rows is None, group.num_rows or 0)))


def cost_tables(sweep: SweepSummary) -> list[CostTable]:
    """Seconds and, where there were GPUs, GPU-seconds of a trial; none where no trial is complete."""
    groups = _by_size(sweep)
    if not sum(group.counts["COMPLETE"] for group in groups):
        return []
    tables = [_table("Time of a trial", sweep, groups, lambda trial: trial.seconds)]
    if sweep.gpu_seconds:
        tables.append(_table("GPU time of a trial", sweep, groups, lambda trial: trial.gpu_seconds))
    return tables


@dataclass(frozen=True, slots=True)
class Spent:
    """What trials of one kind took together; of `num_trials`, those that have not ended are not in the seconds."""

    kind: str
    num_trials: int
    seconds: float
    gpu_seconds: float


def time_spent(sweep: SweepSummary) -> list[Spent]:
    """All trials of a sweep by what became of them, then baselines and confirmation runs; no kind without one."""
    trials = [(f"{state.lower()} trials", [t for t in sweep.trials if t.state == state]) for state in STATES]
    # Of sweeps that are overlaid each had its own baselines.
    groups = [group for part in sweep.parts or (sweep,) for group in part.forget_sets]
    baselines = [trial for group in groups for trial in group.baselines]
    runs = [trial for group in groups for trial in group.confirmations]
    kinds = [*trials, ("model before and retain model", baselines), ("confirmation runs", runs)]
    return [
        Spent(kind, len(of), sum(t.seconds or 0.0 for t in of), sum(t.gpu_seconds or 0.0 for t in of))
        for kind, of in kinds
        if of
    ]


def cost_figure(table: CostTable) -> dict[str, Any] | None:
    """The medians over the number of forget rows, a line for each method; None where fewer than two sizes are known."""
    sizes = [group.num_rows for group in table.groups]
    known = [place for place, size in enumerate(sizes) if size is not None]
    if len({sizes[place] for place in known}) < 2:
        return None
    data = []
    for method, costs in table.rows:
        drawn = [(sizes[place], cost) for place in known if (cost := costs[place]) is not None]
        hover = [
            f"<b>{hover_text(method)}</b><br>{count(size or 0, 'forget row')}: {duration(cost.median)}<br>"
            f"{duration(cost.least)} to {duration(cost.most)} in {count(cost.num_trials, 'trial')}"
            for size, cost in drawn
        ]
        data.append({
            "type": "scatter", "mode": "lines+markers", "x": [size for size, _ in drawn],
            "y": [cost.median for _, cost in drawn], "hovertext": hover, "hoverinfo": "text", "line": {"width": 2},
            "marker": {"size": 7, "opacity": 1, "line": {"width": 0}}, "meta": {"owner": method},
        })  # fmt: skip
    ticks = sorted({size for size in sizes if size is not None})
    axes = {
        "xaxis": {"title": {"text": "rows of the forget set"}, "type": "log", "tickvals": ticks},
        "yaxis": {"title": {"text": "seconds of a trial"}, "rangemode": "tozero"},
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": axes}


def _table(
    title: str,
    sweep: SweepSummary,
    groups: tuple[ForgetSetSummary, ...],
    seconds: Callable[[TrialSummary], float | None],
) -> CostTable:
    cells = [{cell.method: cell for cell in group.cells} for group in groups]
    rows = tuple((method, tuple(_cost(here.get(method), seconds) for here in cells)) for method in sweep.methods)
    return CostTable(title, groups, rows)


def _cost(cell: CellSummary | None, seconds: Callable[[TrialSummary], float | None]) -> Cost | None:
    trials = cell.trials if cell is not None else ()
    spent = [value for trial in trials if trial.state == "COMPLETE" and (value := seconds(trial)) is not None]
    return Cost(len(spent), statistics.median(spent), min(spent), max(spent)) if spent else None

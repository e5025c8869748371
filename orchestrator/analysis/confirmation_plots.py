"""Confirmed fronts with the spread of their seeds as plain plotly data; the page chooses colours, as in `plots`."""

from collections.abc import Sequence
from typing import Any

from orchestrator.analysis.attainment import attainment_surface
from orchestrator.analysis.confirmation import ConfirmationTable, Confirmed, by_seed
from orchestrator.analysis.plots import Range, baseline_look, figure, hover_text, padded, step_line
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary
from orchestrator.analysis.words import MISSING, count, score, words

Figure = dict[str, Any]


def confirmation_figures(sweep: SweepSummary, tables: Sequence[ConfirmationTable | None]) -> list[Figure | None]:
    """A plotly figure (`data`, `layout`) for each forget set; None without confirmed finalists, or one objective.

    Points are means over seeds, bars reach one standard deviation to either side. The line of a method is what at least
    half of the seeds attain: each seed's runs of all its finalists are one front.
    """
    if len(sweep.objectives) < 2:
        return [None] * len(tables)
    pairs = zip(sweep.forget_sets, tables, strict=True)
    return [_figure(sweep, group, table) if table else None for group, table in pairs]


def _figure(sweep: SweepSummary, group: ForgetSetSummary, table: ConfirmationTable) -> Figure | None:
    known = [row for row in table.finalists if row.mean is not None]
    if not known:
        return None
    data = []
    for cell in group.ranking:
        rows = [row for row in known if row.trial.method == cell.method]
        if rows:
            data += [_median_surface(sweep, group, rows), _points(sweep, rows)]
    baselines = [row for row in table.baselines if row.mean is not None]
    data += [_points(sweep, [row]) | baseline_look(row.trial.method) for row in baselines]
    return figure(sweep, data, [_reach([*known, *baselines], axis) for axis in (0, 1)])


def _median_surface(sweep: SweepSummary, group: ForgetSetSummary, rows: Sequence[Confirmed]) -> Figure:
    runs = [points[:, :2] for points in by_seed(group, rows)]
    corners = attainment_surface(runs, (len(runs) + 1) // 2, sweep.directions[:2])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": corners[:, 0].tolist(),
        "y": corners[:, 1].tolist(),
        "line": {"shape": step_line(sweep.objectives), "width": 1, "dash": "dot"},
        "marker": {},
        "hoverinfo": "skip",
        "meta": {"owner": rows[0].trial.method},
    }


def _points(sweep: SweepSummary, rows: Sequence[Confirmed]) -> Figure:
    places = [row.mean or () for row in rows]
    bars = [row.deviation or (0.0, 0.0) for row in rows]
    errors = {
        f"error_{axis}": {"type": "data", "array": [bar[place] for bar in bars], "thickness": 1, "width": 3}
        for place, axis in enumerate("xy")
        if any(row.deviation for row in rows)
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [place[0] for place in places],
        "y": [place[1] for place in places],
        **errors,
        "hovertext": [_hover(sweep, row) for row in rows],
        "hoverinfo": "text",
        "marker": {"size": 9, "opacity": 1, "line": {"width": 0}},
        "meta": {"owner": rows[0].trial.method},
    }


def _hover(sweep: SweepSummary, row: Confirmed) -> str:
    lines = [f"<b>{hover_text(row.trial.key)}</b>", count(row.num_complete, "run")]
    for i, objective in enumerate(sweep.objectives):
        mean = MISSING if row.mean is None else score(row.mean[i])
        spread = f" ± {score(row.deviation[i])}" if row.deviation else ""
        lines.append(f"{hover_text(words(objective.metric))}: {mean}{spread} (search: {score(row.search[i])})")
    return "<br>".join(lines)


def _reach(rows: Sequence[Confirmed], axis: int) -> Range:
    """The range of an axis that holds all means with their bars."""
    ends = []
    for row in rows:
        mean, bar = (row.mean or (0.0, 0.0))[axis], (row.deviation or (0.0, 0.0))[axis]
        ends += [mean - bar, mean + bar]
    return padded(ends)

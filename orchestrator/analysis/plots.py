"""The Pareto scatters as plain plotly data: no drawing library is imported, the page brings plotly.js.

Colours are left to the page, which knows whether it is light or dark: each trace says in `meta` whose it is.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from orchestrator.analysis.influence import Settings
from orchestrator.analysis.labels import place_names
from orchestrator.analysis.palette import BASELINE_SYMBOLS
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import number, score, short_names, words
from orchestrator.tracking.journal import ObjectiveRecord

LONGEST_HOVER = 60  # characters of a text in a hover label; the table has the whole
Range = tuple[float, float]


def figures(summary: SweepSummary) -> list[dict[str, Any] | None]:
    """A plotly figure (`data`, `layout`) for each forget set, None where nothing is complete; axes are shared.

    The first two objectives are drawn; a single one is drawn over the trial number.
    """
    groups = summary.forget_sets
    places = [_place(trial) for group in groups for trial in (*_complete(group), *_placed(group.baselines))]
    if not any(_complete(group) for group in groups):
        return [None] * len(groups)
    ranges = [padded([place[axis] for place in places]) for axis in (0, 1)]
    return [_figure(summary, group, ranges) if _complete(group) else None for group in groups]


def axis_titles(objectives: Sequence[ObjectiveRecord]) -> tuple[str, str]:
    """What the two axes show and which way is better."""
    titles = [_title(objective) for objective in objectives]
    return ("trial number", titles[0]) if len(titles) == 1 else (titles[0], titles[1])


def slice_axes(summary: SweepSummary, searched: Sequence[Settings]) -> list[dict[str, Any]]:
    """The axes of each forget set's slices, which the page draws from the rows of the trials.

    An objective has one range for all settings; `worse` is the end of it where trials that diverged are drawn.
    """
    axes = []
    for group, found in zip(summary.forget_sets, searched, strict=True):
        columns = zip(*(trial.objectives or () for trial in _complete(group)), strict=True)
        ranges = [padded(column) for column in columns] or [padded([0.0, 1.0])] * len(summary.objectives)
        objectives = [
            {"title": escape(_title(goal), quote=False), "range": span, "worse": span[goal.direction == "minimize"]}
            for goal, span in zip(summary.objectives, ranges, strict=True)
        ]
        settings = [{"name": part.setting, "axis": part.axis} for part in found.slices]
        axes.append({"name": group.name, "objectives": objectives, "settings": settings})
    return axes


def _title(objective: ObjectiveRecord) -> str:
    return f"{words(objective.metric)} ({'higher' if objective.direction == 'maximize' else 'lower'} is better)"


def _figure(summary: SweepSummary, group: ForgetSetSummary, ranges: Sequence[Range]) -> dict[str, Any]:
    names = short_names(summary.params)
    fronts = {trial.key for trial in group.front}
    data = [_front_line(summary, group)] if len(summary.objectives) == 2 else []
    for cell in group.cells:
        own = {trial.key for trial in cell.front}
        faint = [trial for trial in cell.trials if trial.is_comparable and trial.key not in own]
        data.append(_trace(faint, summary, names, marker={"size": 7, "opacity": 0.45, "line": {"width": 0}}))
        widths = [2.0 if trial.key in fronts else 0.0 for trial in cell.front]
        sizes = [13 if trial.key in fronts else 9 for trial in cell.front]
        data.append(_trace(cell.front, summary, names, marker={"size": sizes, "opacity": 1, "line": {"width": widths}}))
    for trial in _placed(group.baselines):
        data.append(_trace([trial], summary, names, marker={}) | baseline_look(trial.method))
    return figure(summary, data, ranges)


def figure(summary: SweepSummary, data: Sequence[dict[str, Any]], ranges: Sequence[Range]) -> dict[str, Any]:
    """The traces that hold a point, on the axes of the first two objectives."""
    titles = [escape(title, quote=False) for title in axis_titles(summary.objectives)]
    axes = [{"title": {"text": title}, "range": list(span)} for title, span in zip(titles, ranges, strict=True)]
    traces = [trace for trace in data if trace["x"]]
    layout = {"xaxis": axes[0], "yaxis": axes[1], "annotations": place_names(traces, ranges)}
    return {"data": traces, "layout": layout}


def step_line(objectives: Sequence[ObjectiveRecord]) -> str:
    """plotly's name for the edge of what points dominate that come with the first objective rising."""
    return "vh" if objectives[0].direction == "maximize" else "hv"


def baseline_look(method: str) -> dict[str, Any]:
    """What sets a baseline's trace apart: a symbol of its own, and its name."""
    return {
        "cliponaxis": False,
        "name": words(method),
        "marker": {"size": 14, "opacity": 1, "symbol": BASELINE_SYMBOLS[method], "line": {"width": 2}},
    }


def _trace(
    trials: Sequence[TrialSummary], summary: SweepSummary, names: dict[str, str], *, marker: dict[str, Any]
) -> dict[str, Any]:
    places = [_place(trial) for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [place[0] for place in places],
        "y": [place[1] for place in places],
        "hovertext": [_hover(trial, summary, names) for trial in trials],
        "hoverinfo": "text",
        "marker": marker,
        "meta": {"owner": trials[0].method if trials else ""},
    }


def _front_line(summary: SweepSummary, group: ForgetSetSummary) -> dict[str, Any]:
    """The edge of what the front dominates, as a step line between its points."""
    places = sorted(_place(trial) for trial in group.front)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [place[0] for place in places],
        "y": [place[1] for place in places],
        "line": {"shape": step_line(summary.objectives), "width": 1.5},
        "hoverinfo": "skip",
        "meta": {"owner": ""},
    }


def _hover(trial: TrialSummary, summary: SweepSummary, names: dict[str, str]) -> str:
    """Lines of a hover label. plotly reads its own small HTML there, so every text of the journal is escaped."""
    lines = [f"<b>{hover_text(trial.key)}</b>"]
    scores = zip(summary.objectives, trial.objectives or (), strict=False)
    lines += [f"{hover_text(words(objective.metric))}: {score(value)}" for objective, value in scores]
    lines += [
        f"{hover_text(names.get(name, name))}: {hover_text(number(value))}" for name, value in trial.params.items()
    ]
    return "<br>".join(lines)


def hover_text(value: str) -> str:
    """A text of the journal for a hover label: cut, and escaped for the small HTML that plotly reads there."""
    return escape(value if len(value) <= LONGEST_HOVER else value[: LONGEST_HOVER - 1] + "…", quote=False)


def _place(trial: TrialSummary) -> tuple[float, float]:
    values = trial.objectives or ()
    if len(values) == 1:
        return (-1.0 if trial.number is None else trial.number, values[0])
    return values[0], values[1]


def _complete(group: ForgetSetSummary) -> list[TrialSummary]:
    return [trial for cell in group.cells for trial in cell.trials if trial.is_comparable]


def _placed(trials: Iterable[TrialSummary]) -> list[TrialSummary]:
    return [trial for trial in trials if trial.is_placed]


def padded(values: Sequence[float]) -> Range:
    """The range of an axis that holds `values` with some room; at least one, all finite."""
    low, high = min(values), max(values)
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin

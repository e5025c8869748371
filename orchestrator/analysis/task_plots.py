"""Curves over the tasks of a chain as plain plotly data; colours are left to the page, as in `plots`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.analysis.chains import OVER_TASKS, Chain, TaskChains
from orchestrator.analysis.plots import Range, hover_text, padded
from orchestrator.analysis.words import score
from orchestrator.tracking.journal import BASELINES

MAX_TICKS = 10


def task_figures(groups: Sequence[TaskChains | None]) -> list[list[dict[str, Any]]]:
    """For each forget set a plotly figure (`data`, `layout`) for each of OVER_TASKS, none where there are no chains.

    Figures of Forget Efficacy share one vertical range, those of Model Utility another, over all forget sets.
    """
    ranges = {title: _range(title, groups) for title in {_axis(metric) for metric in OVER_TASKS}}
    return [
        [_figure(group, metric, ranges[_axis(metric)]) for metric in OVER_TASKS] if group else [] for group in groups
    ]


def _axis(metric: str) -> str:
    return f"{metric.rpartition('/')[2].replace('_', ' ')} (higher is better)"


def _range(title: str, groups: Iterable[TaskChains | None]) -> Range:
    chains = [chain for group in groups if group for chain in group.chains]
    metrics = [metric for metric in OVER_TASKS if _axis(metric) == title]
    values = [value for chain in chains for metric in metrics for value in chain.over_tasks[metric].values()]
    return padded([value for value in values if math.isfinite(value)] or [0.0, 1.0])


def _figure(group: TaskChains, metric: str, span: Range) -> dict[str, Any]:
    last = len(group.tasks)
    across = {"range": [0.7, last + 0.3], "tickmode": "linear", "tick0": 1, "dtick": math.ceil(last / MAX_TICKS)}
    layout = {
        "xaxis": {"title": {"text": "task"}, **across},
        "yaxis": {"title": {"text": _axis(metric)}, "range": list(span)},
    }
    traces = [_trace(chain, metric, group.tasks) for chain in group.chains]
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _trace(chain: Chain, metric: str, names: dict[int, str]) -> dict[str, Any]:
    points = {task: value for task, value in chain.over_tasks[metric].items() if math.isfinite(value)}
    baseline = chain.trial.method in BASELINES
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(points),
        "y": list(points.values()),
        "hovertext": [_hover(chain, metric, task, names[task], value) for task, value in points.items()],
        "hoverinfo": "text",
        "cliponaxis": False,
        "line": {"width": 1.5 if baseline else 2, "dash": "dash" if baseline else "solid"},
        "marker": {"size": 3 if baseline else 7, "opacity": 1, "line": {"width": 0}},
        "meta": {"owner": chain.trial.method},
    }


def _hover(chain: Chain, metric: str, task: int, name: str, value: float) -> str:
    which = f"task {task}" if name == str(task) else f"task {task}: {hover_text(name)}"
    return (
        f"<b>{hover_text(chain.trial.key)}</b><br>after {which}<br>{_axis(metric).partition(' (')[0]}: {score(value)}"
    )

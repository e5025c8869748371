"""The last thing a sweep prints: each method's best setting, beside the models it is measured against."""

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.palette import method_colors
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary, summarize
from orchestrator.analysis.words import MISSING, number, score, short_names, words
from orchestrator.tracking.journal import SweepLog

MAIN_PARAMS = 3
RELAPSE = "relapse"


def render_summary(log: SweepLog) -> Group:
    """One table per forget set: trials, hypervolume, and the knee's objectives, params and key; legible at 100 columns.

    `trials` counts complete ones, then what went wrong: `18 (1 failed, 2 diverged)`. Methods come by hypervolume.
    Chains of tasks have their relapse in a column of its own.
    """
    summary = summarize(log)
    return Group(*(_table(summary, group) for group in summary.forget_sets))


def _table(summary: SweepSummary, group: ForgetSetSummary) -> Table:
    table = Table(title=escape(group.name), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("complete")
    table.add_column("volume", justify="right", no_wrap=True)
    for objective in summary.objectives:
        arrow = "↑" if objective.direction == "maximize" else "↓"
        table.add_column(f"{escape(words(objective.metric))}\N{NO-BREAK SPACE}{arrow}", justify="right", max_width=10)
    more = [RELAPSE] if _has_relapse(summary, group) else []
    for _ in more:
        table.add_column(f"{RELAPSE}\N{NO-BREAK SPACE}↓", justify="right", no_wrap=True)
    table.add_column("knee: trial and settings", overflow="fold")
    colors = method_colors(summary.methods)
    for cell in group.ranking:
        name = Text.assemble(("● ", colors[cell.method]), cell.method)
        best = _described(cell.knee) if cell.knee else Text("no complete trial", style="dim")
        table.add_row(name, _trials(cell), score(cell.hypervolume), *_scores(summary, cell.knee, more), best)
    for trial in group.baselines:
        state = "" if trial.state == "COMPLETE" else trial.state.lower()
        scores = _scores(summary, trial, more)
        table.add_row(f"  {words(trial.method)}", state, "", *scores, Text(trial.key), style="dim")
    table.add_row()
    return table


def _trials(cell: CellSummary) -> str:
    others = [f"{amount} {state.lower()}" for state, amount in cell.counts.items() if amount and state != "COMPLETE"]
    went_wrong = f" ({', '.join(others)})" if others else ""
    return f"{cell.counts['COMPLETE']}{went_wrong}"


def _has_relapse(summary: SweepSummary, group: ForgetSetSummary) -> bool:
    known = any(RELAPSE in trial.metrics for trial in group.models)
    return known and RELAPSE not in [objective.metric for objective in summary.objectives]


def _scores(summary: SweepSummary, trial: TrialSummary | None, more: list[str]) -> list[str]:
    """The objectives of a trial, then the metrics that `more` names."""
    if trial is None or trial.objectives is None:
        return [MISSING] * (len(summary.objectives) + len(more))
    return [score(value) for value in trial.objectives] + [score(trial.metrics.get(metric)) for metric in more]


def _described(trial: TrialSummary) -> Text:
    """The trial's key, and below it its first params in the order of the search space; the report has all of them."""
    names = short_names(trial.params)
    shown = [f"{names[name]}={number(value)}" for name, value in trial.params.items()][:MAIN_PARAMS]
    more = ["…"] if len(trial.params) > MAIN_PARAMS else []
    return Text.assemble(trial.key, "\n", (" ".join(shown + more), "dim"))

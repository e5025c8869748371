"""The last thing a sweep prints: each method's best setting, beside the models it is measured against."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.confirmation import in_words
from orchestrator.analysis.palette import method_colors
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import MISSING, number, score, short_names, words

MAIN_PARAMS = 3
RELAPSE = "relapse"


def render_summary(summary: SweepSummary) -> Group:
    """One table per forget set: trials, hypervolume, the knee's objectives and number; below it the knees' settings.

    `trials` counts complete ones, then what went wrong: `18 (1 failed, 2 diverged)`. Methods come by hypervolume.
    Chains of tasks have their relapse in a column of its own.
    """
    parts: list[RenderableType] = []
    for group in summary.forget_sets:
        parts += [_table(summary, group), *_settings(group), Text()]
    if confirmed := in_words(summary):
        parts += [Text(confirmed), Text()]
    return Group(*parts)


def _table(summary: SweepSummary, group: ForgetSetSummary) -> Table:
    table = Table(title=Text(group.name), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("complete")
    table.add_column("volume", justify="right", no_wrap=True)
    for objective in summary.objectives:
        arrow = "↑" if objective.direction == "maximize" else "↓"
        table.add_column(Text(f"{words(objective.metric)}\N{NO-BREAK SPACE}{arrow}"), justify="right", max_width=10)
    more = [RELAPSE] if _has_relapse(summary, group) else []
    for _ in more:
        table.add_column(f"{RELAPSE}\N{NO-BREAK SPACE}↓", justify="right", no_wrap=True)
    table.add_column("knee", no_wrap=True)
    colors = method_colors(summary.methods)
    for cell in group.ranking:
        name = Text.assemble(("● ", colors[cell.method]), cell.method)
        best = _trial_name(cell.knee) if cell.knee else MISSING
        table.add_row(name, _trials(cell), score(cell.hypervolume), *_scores(summary, cell.knee, more), best)
    for trial in group.baselines:
        state = "" if trial.state == "COMPLETE" else trial.state.lower()
        scores = _scores(summary, trial, more)
        table.add_row(f"  {words(trial.method)}", state, "", *scores, style="dim")
    return table


def _settings(group: ForgetSetSummary) -> list[Text]:
    """The first params of each knee in the order of the search space; the report has all of them."""
    lines = []
    for cell in group.ranking:
        if cell.knee is not None and cell.knee.params:
            names = short_names(cell.knee.params)
            shown = [f"{names[name]}={number(value)}" for name, value in cell.knee.params.items()][:MAIN_PARAMS]
            more = ["…"] if len(cell.knee.params) > MAIN_PARAMS else []
            lines.append(Text(f"  {cell.method} {_trial_name(cell.knee)}: {' '.join(shown + more)}", style="dim"))
    return lines


def _trial_name(trial: TrialSummary) -> str:
    return trial.key.rpartition("/")[2]


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

"""The report: a sweep's findings as one HTML page that needs nothing else and asks nothing of the network."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from orchestrator.analysis import confirmation, words
from orchestrator.analysis.answers import side_by_side
from orchestrator.analysis.chains import OVER_TASKS, task_chains
from orchestrator.analysis.confirmation_plots import confirmation_figures
from orchestrator.analysis.confirmed_volume import confirmed_volumes
from orchestrator.analysis.cost import cell_totals, cost_figure, cost_tables, time_spent
from orchestrator.analysis.downstream import downstream_table
from orchestrator.analysis.headline import finding, headline
from orchestrator.analysis.influence import FEWEST_COMPLETE, settings
from orchestrator.analysis.kept import SHARE, best_kept, kept_again
from orchestrator.analysis.palette import DARK_BASELINE_COLORS, method_colors, method_symbols, on_dark
from orchestrator.analysis.plots import axis_titles, figures, slice_axes
from orchestrator.analysis.summary import ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.task_plots import task_figures
from orchestrator.analysis.trial_table import confirmation_runs, trial_table
from orchestrator.analysis.volume import FEWEST_ENDED

KEY_METRICS = 4
_UNCONFIRMED = "not both of the two baselines were asked these questions to the end"
# The metrics a reader asks for first, where a sweep has them and does not search by them; then any others.
PREFERRED_METRICS = (
    "relapse", "forget/rouge", "retain/rouge", "neighbor/rouge", "forget_quality",
    "forget/probability", "retain/probability", "neighbor/probability", "forget/token_entropy", "forget/truth_ratio",
    "facts/rouge",
)  # fmt: skip
ELSEWHERE = re.compile(r"(downstream|earlier|task\d+)/")  # metrics that have a section of their own
PAGE = Path(__file__).with_name("page")


def write_report(summary: SweepSummary, path: Path) -> Path:
    """Write the page of a sweep to `path`, replacing what is there only once it is whole; returns `path`.

    Also for a sweep that is still running. OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(render(summary), encoding="utf-8")
        return draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def render(summary: SweepSummary) -> str:
    """The page as text; everything that comes from the journal is escaped."""
    looks = _looks(summary)
    chains = [task_chains(group) for group in summary.forget_sets]
    drawn, over_tasks = figures(summary), task_figures(chains)
    confirmations = [confirmation.confirmation_table(summary, group) for group in summary.forget_sets]
    confirmed = confirmation_figures(summary, confirmations)
    searched = [settings(summary, group) for group in summary.forget_sets]
    trials, runs, costs = trial_table(summary), confirmation_runs(summary), cost_tables(summary)
    questions = [side_by_side(group) for group in summary.forget_sets]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            sweep=summary,
            answer=headline(summary),
            findings=[finding(summary, group) for group in summary.forget_sets],
            confirmed_in_words=confirmation.in_words(summary),
            names=words.short_names(summary.params),
            looks=looks,
            axis_titles=axis_titles(summary.objectives),
            data={
                "name": summary.name,
                "fronts": drawn,
                "confirmed": confirmed,
                "tasks": over_tasks,
                "slices": slice_axes(summary, searched),
                "costs": [cost_figure(table) for table in costs],
                "trials": trials,
                "runs": runs,
                "looks": looks,
            },
            trials=trials,
            costs=costs,
            totals=cell_totals(summary),
            spent=time_spent(summary),
            searched=searched,
            fewest_complete=FEWEST_COMPLETE,
            chains=chains,
            over_tasks=OVER_TASKS,
            downstream=[downstream_table(group) for group in summary.forget_sets],
            key_metrics=key_metrics(summary),
            measures=[words.measure(group, summary.objectives) for group in summary.forget_sets],
            **_kept_and_confirmed(summary, confirmations),
            share=SHARE,
            fewest=FEWEST_ENDED,
            questions=questions,
            asked_sets=list(dict.fromkeys(words.words(asked.name) for sets in questions for asked in sets)),
            making=[
                (part, _facts(part), json.dumps(part.config, indent=2, ensure_ascii=False, default=str))
                for part in summary.parts or (summary,)
            ],
            plotly=get_plotlyjs() if summary.counts["COMPLETE"] or any(over_tasks) else "",
        )
    )


def _kept_and_confirmed(
    summary: SweepSummary, confirmations: Sequence[confirmation.ConfirmationTable | None]
) -> dict[str, Any]:
    """For each forget set what keeps utility, what the confirmation says of that, and what its finalists are worth."""
    kept = [best_kept(group, summary.objectives) for group in summary.forget_sets]
    pairs = zip(kept, confirmations, strict=True)
    volumes = [confirmed_volumes(summary, group) for group in summary.forget_sets]
    return {
        "confirmations": confirmations,
        "confirmed_volumes": volumes,
        "confirmed_axes": [one and words.axes(one.measure, summary.objectives, _UNCONFIRMED) for one in volumes],
        "kept": kept,
        "kept_again": [kept_again(best, table, summary.objectives) if best and table else {} for best, table in pairs],
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    environment.filters |= {"score": words.score, "number": words.number, "duration": words.duration}
    environment.filters |= {"words": words.words, "moment": words.moment, "count": words.count}
    environment.filters |= {"all_metrics": all_metrics, "difference": words.difference, "interval": words.interval}
    environment.filters |= {"worse": confirmation.worse}
    return environment


def key_metrics(summary: SweepSummary) -> list[str]:
    """The metrics, besides the objectives, that the table of best settings shows."""
    objectives = {objective.metric for objective in summary.objectives}
    known = [
        name
        for name in all_metrics(trial for group in summary.forget_sets for trial in group.models)
        if name not in objectives and not ELSEWHERE.match(name)
    ]
    ranked = [name for name in PREFERRED_METRICS if name in known]
    return (ranked + [name for name in known if name not in ranked])[:KEY_METRICS]


def all_metrics(trials: Iterable[TrialSummary]) -> list[str]:
    """The names of all metrics of `trials`, in the order in which they first appear."""
    return list(dict.fromkeys(name for trial in trials for name in trial.metrics))


def _looks(summary: SweepSummary) -> dict[str, dict[str, str]]:
    """Symbol of each method and baseline, its colour on a light and on a dark background."""
    light, symbols = method_colors(summary.methods), method_symbols(summary.methods)
    dark = {name: on_dark(color) for name, color in light.items()} | DARK_BASELINE_COLORS
    return {name: {"light": light[name], "dark": dark[name], "symbol": symbols[name]} for name in light}


def _facts(summary: SweepSummary) -> list[tuple[str, str]]:
    """How the numbers were made, as pairs of a label and a text."""
    config = summary.config
    train = config.get("train")
    convention = train.get("convention") if isinstance(train, dict) else None
    cells = sum(len(group.cells) for group in summary.forget_sets)
    budget = (
        f"{words.count(summary.num_planned, 'trial')} over {words.count(cells, 'cell')}, {summary.trials_per_cell} each"
    )
    states = ", ".join(f"{amount} {state.lower()}" for state, amount in summary.counts.items())
    objectives = [f"{o.metric}: {o.direction}, worst {words.number(o.worst)}" for o in summary.objectives]
    facts = [
        ("Sweep", summary.name),
        ("State", summary.state),
        ("Seed", str(summary.seed)),
        ("Convention", str(convention) if convention else "not recorded"),
        ("Scenario", _described(config.get("scenario"))),
        ("Model", _described(config.get("model"))),
        ("Weights", "; ".join(_weights(summary))),
        ("Data", "; ".join(_rows(group) for group in summary.forget_sets if group.data is not None)),
        ("Objectives", "; ".join(objectives)),
        ("Budget", budget),
        ("Trials", states),
        ("Time of all trials", words.duration(summary.seconds)),
        ("Time on the clock", words.duration(summary.clock_seconds)),
        ("GPU time", words.duration(summary.gpu_seconds) if summary.gpu_seconds else "no GPU"),
        ("Journal until", words.moment(summary.last_time)),
        ("Judges", "; ".join(f"{role}: {', '.join(models)}" for role, models in summary.judges.items())),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]
    return [(label, text or "none recorded") for label, text in facts]


def _rows(group: ForgetSetSummary) -> str:
    """How many rows of what, and the beginnings of their digests, which MLflow and the journal hold in full."""
    assert group.data is not None
    parts = {"forget": group.data.forget, "retain": group.data.retain}
    parts |= {f"questions {name}": rows for name, rows in group.data.questions.items()}
    said = [f"{name} {rows.num_rows} ({rows.sha256[:12]})" for name, rows in parts.items()]
    return f"{group.name} of {group.data.source}: {', '.join(said)}"


def _weights(summary: SweepSummary) -> list[str]:
    """The beginnings of the digests of the models that trials start from, and are measured by."""
    digests: dict[str, dict[str, dict[str, None]]] = {}
    for trial in (trial for group in summary.forget_sets for trial in (*group.baselines, *group.confirmations)):
        if trial.weights_sha256:
            sets = digests.setdefault(trial.method, {}).setdefault(trial.weights_sha256[:12], {})
            sets[trial.forget_set] = None
    return [
        f"{words.words(method)} of {', '.join(sets)} ({digest})"
        for method, found in digests.items()
        for digest, sets in found.items()
    ]


def _described(value: Any) -> str:
    """A part of the config in one line: a text as it is, a mapping as `key value` pairs without what is unset."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_described(part)}" for key, part in value.items() if part not in (None, "", [], {}))
    if isinstance(value, list | tuple):
        return " ".join(_described(part) for part in value)
    return "not recorded" if value is None else str(value)

"""Numbers and findings in words: the same in the report and in the terminal."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from orchestrator.analysis.resampling import Interval
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.volume import measures_forgetting
from orchestrator.tracking.journal import ObjectiveRecord

FEW_TRIALS = 10  # complete trials in a cell, below which the report warns that a difference may be luck
DETAILED_FORGET_SETS = 3  # the answer describes knees for so many forget sets; the table has them all
MISSING = "–"


def number(value: float | int | str | bool | None) -> str:
    """A setting: three significant digits, whole numbers and texts as they are."""
    if value is None:
        return MISSING
    if isinstance(value, bool | str | int):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def score(value: float | None) -> str:
    """A metric: three decimals, or three significant digits where decimals would say nothing."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else number(value)


def difference(value: float | None) -> str:
    """A difference of two metrics with its sign: `+0.012`, `−0.034`."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{'−' if value < 0 else '+'}{abs(value):.3f}" if round(value, 3) else "±0"


def interval(value: Interval) -> str:
    """`0.412 to 0.530`."""
    return f"{score(value.low)} to {score(value.high)}"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that people would use."""
    if seconds is None:
        return MISSING
    if seconds == 0:
        return "0 s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def moment(seconds: float) -> str:
    """Seconds since 1970 as a date and time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def words(name: str) -> str:
    """A name of the sweep as words: `model_utility` reads `model utility`, `task2/rouge` reads `rouge of task 2`.

    A downstream task keeps the name by which its harness knows it.
    """
    where, _, metric = name.rpartition("/")
    if where == "downstream":
        return metric
    text = metric.replace("_", " ")
    if text == "forget efficacy final":
        text = "forget efficacy at the end"
    if where == "earlier":
        return f"{text} of earlier tasks"
    if task := re.fullmatch(r"task(\d+)", where or metric):
        return f"{text} of task {task[1]}" if where else f"task {task[1]}"
    return f"{where} {text}".strip() if re.fullmatch(r"\w*", where) else name.replace("_", " ")


def short_names(params: Iterable[str]) -> dict[str, str]:
    """Each dotted name to its last part, or to itself where two would then be the same."""
    names = list(params)
    last = [name.rpartition(".")[2] for name in names]
    return {name: tail if last.count(tail) == 1 else name for name, tail in zip(names, last, strict=True)}


def count(amount: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def settings(params: Mapping[str, float | int | str | bool], names: Mapping[str, str]) -> str:
    """Params as `learning_rate 2e-5 and beta 0.1`."""
    return listed([f"{names[name]} {number(value)}" for name, value in params.items()])


def answer(summary: SweepSummary) -> str:
    """What the sweep found, in one paragraph of plain text."""
    compared = [group for group in summary.forget_sets if group.front]
    if not compared:
        return f"There is no answer yet: {_states(summary)}."
    parts = [_finding(summary, group) for group in compared[:DETAILED_FORGET_SETS]]
    if rest := compared[DETAILED_FORGET_SETS:]:
        leaders = (f"{_leader(group).method} on {group.name}" for group in rest)
        parts.append(f"Also leading: {', '.join(leaders)}.")
    if silent := [group.name for group in summary.forget_sets if not group.front]:
        parts.append(f"No trial is complete on {listed(silent)}.")
    return " ".join([*parts, *_cautions(summary)])


def _finding(summary: SweepSummary, group: ForgetSetSummary) -> str:
    first, *others = [cell for cell in group.ranking if cell.knee]
    assert first.knee is not None
    chosen = settings(first.knee.params, short_names(first.knee.params))
    offer = f"Its knee, {_named(first.knee)}, reaches {_scores(summary, first.knee)}"
    measured = [f"{label} {_bare(trial)}" for trial, label in _measured(group)]
    against = f" ({'; '.join(measured)})" if measured else ""
    return f"On {group.name}, {_lead(first, others)}. {offer}{against}{f' with {chosen}' if chosen else ''}."


def _lead(first: CellSummary, others: list[CellSummary]) -> str:
    if not others:
        return f"{first.method} is the only method with a complete trial"
    margin = f"{score(first.hypervolume)} against {score(others[0].hypervolume)} for {others[0].method}"
    return f"{first.method} leads by hypervolume ({margin}){_luck(first, others)}"


def _luck(first: CellSummary, others: list[CellSummary]) -> str:
    """Whether the leader's interval keeps clear of those of the others."""
    if first.volume is None or first.volume.interval is None:
        return ", with too few trials to tell merit from luck"
    mine = first.volume.interval
    near = [c.method for c in others if c.volume and c.volume.interval and mine.overlaps(c.volume.interval)]
    drawn = f"with {first.volume.num_drawn} random trials of each method it has {interval(mine)} in 95% of draws"
    if near:
        return f"; {drawn}, which overlaps with {listed(near)}, so another search may end otherwise"
    return f"; {drawn}, which overlaps with no other method"


def measure(group: ForgetSetSummary, objectives: Sequence[ObjectiveRecord]) -> str:
    """From where to where hypervolumes on this forget set are measured, and why so."""
    ends = list(zip(objectives, group.measure.box.zero, group.measure.box.one, strict=True))
    if group.measure.is_scaled:
        spans = [f"{words(o.metric)} from {_start(o, zero)} to {score(one)}" for o, zero, one in ends]
        start = "the model before unlearning has 0, " if any(map(measures_forgetting, objectives)) else ""
        return (
            f"Hypervolume here is measured on scaled axes: {listed(spans)}, the retain model's. So {start}the retain "
            "model has 1, and a front that goes beyond it can have more."
        )
    worst = listed([f"{words(o.metric)} {number(zero)}" for o, zero, _ in ends])
    blocked = group.measure.obstacle
    cause = (
        f"the retain model's {words(blocked.metric)} is not clearly better than where the scale would begin"
        if blocked
        else _missing(group, objectives)
    )
    return f"Hypervolume here is measured from the worst values ({worst}), on axes that are not scaled: {cause}."


def _missing(group: ForgetSetSummary, objectives: Sequence[ObjectiveRecord]) -> str:
    """What a baseline lacks. The retain model never has Forget Quality, which compares a model with it."""
    for name, trial in (("model before unlearning", group.before), ("retain model", group.retain_model)):
        scores = trial.metrics if trial is not None else {}
        lacking = [o for o in objectives if not math.isfinite(scores.get(o.metric, math.nan))]
        if scores and lacking:
            return f"the {name} has no {words(lacking[0].metric)}"
    return "the model before unlearning and the retain model are not both scored"


def _start(objective: ObjectiveRecord, zero: float) -> str:
    return f"{score(zero)} before unlearning" if measures_forgetting(objective) else f"the worst value {number(zero)}"


def _measured(group: ForgetSetSummary) -> list[tuple[TrialSummary, str]]:
    pairs = ((group.before, "before unlearning"), (group.retain_model, "retain model"))
    return [(trial, label) for trial, label in pairs if trial is not None and trial.objectives is not None]


def _cautions(summary: SweepSummary) -> list[str]:
    complete = [cell.counts["COMPLETE"] for group in summary.forget_sets for cell in group.cells]
    few, many = min(complete), max(complete)
    cautions = []
    if few < FEW_TRIALS:
        span = f"only {few}" if few == many else f"{few} to {many}"
        cautions.append(f"Each cell has {span} complete {'trial' if many == 1 else 'trials'}, so a lead may be luck.")
    if few != many:
        cautions.append("More trials can only enlarge a hypervolume, which favours the cells that have more.")
    if summary.state != "done":
        cautions.append(f"The sweep is not finished ({summary.state}): {_states(summary)}.")
    return cautions


def _states(summary: SweepSummary) -> str:
    ended = {state.lower(): amount for state, amount in summary.counts.items() if amount}
    ended_so = listed([f"{amount} {state}" for state, amount in ended.items()]) or "none started"
    return f"of {count(summary.num_planned, 'planned trial')}, {ended_so}"


def _leader(group: ForgetSetSummary) -> CellSummary:
    return next(cell for cell in group.ranking if cell.knee)


def _scores(summary: SweepSummary, trial: TrialSummary) -> str:
    pairs = zip(summary.objectives, trial.objectives or (), strict=False)
    return listed([f"{words(objective.metric)} {score(value)}" for objective, value in pairs])


def _bare(trial: TrialSummary) -> str:
    return listed([score(value) for value in trial.objectives or ()])


def _named(trial: TrialSummary) -> str:
    return trial.key if trial.number is None else f"trial {trial.number}"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)

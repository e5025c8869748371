"""Numbers and findings in words: the same in the report and in the terminal."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from orchestrator.analysis.resampling import Interval
from orchestrator.analysis.summary import ForgetSetSummary
from orchestrator.analysis.volume import Measure, measures_forgetting
from orchestrator.tracking.journal import ObjectiveRecord

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


def measure(group: ForgetSetSummary, objectives: Sequence[ObjectiveRecord]) -> str:
    """From where to where hypervolumes on this forget set are measured, and why so."""
    return axes(group.measure, objectives, _missing(group, objectives))


def axes(measured: Measure, objectives: Sequence[ObjectiveRecord], missing: str) -> str:
    """From where to where hypervolumes are measured, and why so; `missing`: what there is no scale without."""
    ends = list(zip(objectives, measured.box.zero, measured.box.one, strict=True))
    if measured.is_scaled:
        spans = [f"{words(o.metric)} from {_start(o, zero)} to {score(one)}" for o, zero, one in ends]
        start = "the model before unlearning has 0, " if any(map(measures_forgetting, objectives)) else ""
        return (
            f"Hypervolume here is measured on scaled axes: {listed(spans)}, the retain model's. So {start}the retain "
            "model has 1, and a front that goes beyond it can have more."
        )
    worst = listed([f"{words(o.metric)} {number(zero)}" for o, zero, _ in ends])
    blocked = measured.obstacle
    cause = (
        f"the retain model's {words(blocked.metric)} is not clearly better than where the scale would begin"
        if blocked
        else missing
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


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)

"""Several sweeps in one report: their methods side by side, where what they measured is the same."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.analysis.summary import STATES, SweepSummary, TrialSummary, by_forget_set
from orchestrator.analysis.words import listed, score
from orchestrator.tracking.journal import BASELINES, CellRecord, DataRecord

NO_SCORE = ("evaluation.batch_size",)  # what may differ, because no score depends on it
SAME_SCORE = 0.01  # by which scores of one model may differ between machines, where they are shares


class OverlayError(ValueError):
    """Sweeps that cannot be compared; the message names the key, both values and the remedy."""


def overlay(sweeps: Mapping[str, SweepSummary]) -> SweepSummary:
    """One summary of several sweeps by their different names: each method has its sweep's name behind its own.

    Fronts, hypervolumes and everything else are taken over all of them, by the baselines of the first sweep that
    scored them on a forget set. OverlayError: the sweeps differ in scenario, convention, model, objectives, judges,
    evaluation, in the rows of a forget set, or in what a baseline scores: weights may differ under one name.
    """
    _check(sweeps)
    _check_baselines(sweeps)
    everything = _with_one_baseline([_named(trial, name) for name, sweep in sweeps.items() for trial in _all(sweep)])
    cells = [
        CellRecord(name=cell.method, method=_owner(cell.method, name), forget_set=cell.forget_set,
                   num_trials=cell.num_planned)
        for name, sweep in sweeps.items() for group in sweep.forget_sets for cell in group.cells
    ]  # fmt: skip
    parts = tuple(sweeps.values())
    states = {name: sweep.state for name, sweep in sweeps.items() if sweep.state != "done"}
    return replace(
        parts[0],
        name=" + ".join(sweeps),
        command="; ".join(sweep.command for sweep in parts),
        state=", ".join(f"{name} {state}" for name, state in states.items()) or "done",
        methods=tuple(_owner(method, name) for name, sweep in sweeps.items() for method in sweep.methods),
        num_planned=sum(sweep.num_planned for sweep in parts),
        trials_per_cell=listed(list(dict.fromkeys(sweep.trials_per_cell for sweep in parts))),
        forget_sets=by_forget_set(everything, cells, parts[0].objectives, _data(parts)),
        counts={str(state): sum(sweep.counts[state] for sweep in parts) for state in STATES},
        seconds=sum(sweep.seconds for sweep in parts),
        clock_seconds=sum(sweep.clock_seconds for sweep in parts),
        gpu_seconds=sum(sweep.gpu_seconds for sweep in parts),
        last_time=max(sweep.last_time for sweep in parts),
        config={key: value for key, value in parts[0].config.items() if key != "confirm"},  # each has its own seeds
        parts=tuple(replace(sweep, name=name) for name, sweep in sweeps.items()),
    )


def _owner(method: str, name: str) -> str:
    return method if method in BASELINES else f"{method} ({name})"


def _named(trial: TrialSummary, name: str) -> TrialSummary:
    confirms = None if trial.confirms is None else f"{name}: {trial.confirms}"
    return replace(trial, key=f"{name}: {trial.key}", method=_owner(trial.method, name), confirms=confirms)


def _all(sweep: SweepSummary) -> Iterable[TrialSummary]:
    for group in sweep.forget_sets:
        yield from (*group.baselines, *(trial for cell in group.cells for trial in cell.trials), *group.confirmations)


def _with_one_baseline(trials: list[TrialSummary]) -> list[TrialSummary]:
    """The first scored model before unlearning, and retain model, of each forget set, or the first where none is."""
    baselines: dict[tuple[str, str], TrialSummary] = {}
    for trial in trials:
        if trial.confirms is None and not trial.is_searched:
            kept = baselines.setdefault((trial.method, trial.forget_set), trial)
            if trial.is_placed and not kept.is_placed:
                baselines[trial.method, trial.forget_set] = trial
    return [*baselines.values(), *(trial for trial in trials if trial.confirms is not None or trial.is_searched)]


def _check(sweeps: Mapping[str, SweepSummary]) -> None:
    (first, one), *others = ((name, measured(sweep)) for name, sweep in sweeps.items())
    for second, other in others:
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key) and not _is_unknown(key, one, other):
                raise OverlayError(
                    f"{first} and {second} cannot be compared: {key} is {_text(one.get(key))} in {first}, but "
                    f"{_text(other.get(key))} in {second}; report them one by one, or run one of them again with the "
                    "other's"
                )


def _check_baselines(sweeps: Mapping[str, SweepSummary]) -> None:
    known: dict[tuple[str, str], tuple[str, TrialSummary]] = {}
    for name, sweep in sweeps.items():
        for trial in (trial for group in sweep.forget_sets for trial in group.baselines if trial.is_placed):
            first, one = known.setdefault((trial.method, trial.forget_set), (name, trial))
            before, now = one.weights_sha256, trial.weights_sha256
            if before and now and before != now:
                raise OverlayError(
                    f"{first} and {name} cannot be compared: {one.key} has weights with SHA-256 {before[:12]} in "
                    f"{first}, but {now[:12]} in {name}: the weights, or their precision, are others; report them one "
                    "by one"
                )
            scores = zip(sweep.objectives, one.objectives or (), trial.objectives or (), strict=True)
            for objective, a, b in scores:
                if objective.metric != "forget_quality_log10" and abs(a - b) > SAME_SCORE:
                    raise OverlayError(
                        f"{first} and {name} cannot be compared: {one.key} has {objective.metric} {score(a)} in "
                        f"{first}, but {score(b)} in {name}, so that the weights, or their precision, are others; "
                        "report them one by one"
                    )


def _is_unknown(key: str, *sweeps: Mapping[str, Any]) -> bool:
    """Whether it is a judge that no score of one of the sweeps names yet, or rows or a retain model that one lacks."""
    if key.startswith(("data.", "model.retain_models.")):
        return not all(key in sweep for sweep in sweeps)
    return key.startswith("judges.") and not all(any(name.startswith("judges.") for name in sweep) for sweep in sweeps)


def measured(sweep: SweepSummary) -> dict[str, Any]:
    """What decides what a score of the sweep means, by dotted key, without what is unset."""
    model, train, confirm = (sweep.config.get(part) or {} for part in ("model", "train", "confirm"))
    asked = confirm.get("held_out")
    kept = {
        "objectives": [objective.model_dump() for objective in sweep.objectives],
        "scenario": sweep.config.get("scenario"),
        "evaluation": sweep.config.get("evaluation"),
        "judges": {role: list(models) for role, models in sweep.judges.items()},
        # Forget Quality and hypervolumes are measured against the retain model.
        "model": {key: model.get(key) for key in ("target", "template", "retain_models")},
        "train": {"convention": train.get("convention")},
        "data": {group.name: _digests(group.data) for group in sweep.forget_sets if group.data is not None},
        "confirm": {"held_out": asked if asked is not None else 0.5 if confirm.get("seeds") else None},
    }
    return {key: value for key, value in _flat(kept).items() if key not in NO_SCORE}


def _digests(data: DataRecord) -> dict[str, Any]:
    questions = {name: rows.sha256 for name, rows in data.questions.items()}
    return {"forget": data.forget.sha256, "retain": data.retain.sha256, "questions": questions}


def _data(sweeps: Iterable[SweepSummary]) -> dict[str, DataRecord]:
    return {group.name: group.data for sweep in sweeps for group in sweep.forget_sets if group.data is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)

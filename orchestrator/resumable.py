"""What may change when a sweep is resumed, and what would make it another sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.confirm_config import ConfirmConfig
from orchestrator.load_config import ConfigError
from orchestrator.tracking.journal import DataRecord

_RESUMABLE = {"resources", "tracking", "checkpoint", "storage", "strict", "confirm"}
_GROWING = {"model": ("retain_models",), "scenario": ("retain_sets", "retain_logs")}  # entries by forget set


def check_resumable(old: SweepConfig, new: SweepConfig) -> None:
    """ConfigError: a setting that cannot change in the middle of a sweep; names the difference."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    more = {"methods", "forget_sets"}
    _check_confirm(old.confirm, new.confirm)
    for key in before:
        if key in _RESUMABLE or before[key] == after[key]:
            continue
        if key in _GROWING and _only_grown(before[key], after[key], _GROWING[key], before["forget_sets"]):
            continue
        if key in more and all(item in after[key] for item in before[key]):
            continue
        if key == "search":
            grown = {**before[key], "trials_per_cell": after[key]["trials_per_cell"]}
            if grown == after[key] and after[key]["trials_per_cell"] >= before[key]["trials_per_cell"]:
                continue
        raise ConfigError(
            f"{key}: cannot change when a sweep is resumed (it was {before[key]!r}, now {after[key]!r}); start a new "
            "sweep, or change only search.trials_per_cell (up), confirm.seeds (up), resources, tracking, "
            "checkpoint, or add methods and forget sets (with their retain models, logs and sets)"
        )


def check_same_data(old: Mapping[str, DataRecord], new: Mapping[str, DataRecord]) -> None:
    """ConfigError: rows are not those that earlier trials saw, as where a file was edited. Old journals have none."""
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        pairs = [("forget rows", before.forget, after.forget), ("retain rows", before.retain, after.retain)]
        pairs += [(f"questions {key!r}", rows, after.questions[key]) for key, rows in before.questions.items()]
        for what, was, now in pairs:
            if was.sha256 != now.sha256:
                raise ConfigError(
                    f"forget_sets: the {what} of {name} are not those that the sweep began with ({was.num_rows} with "
                    f"SHA-256 {was.sha256[:12]}, now {now.num_rows} with {now.sha256[:12]}); put the data of "
                    f"{before.source} back, or start a new sweep"
                )


def _check_confirm(old: ConfirmConfig, new: ConfirmConfig) -> None:
    """Finalists may get more seeds. Which questions the search was scored on is settled when it starts."""
    if old.share != new.share:
        asked = "all questions" if old.share is None else f"all but {old.share:g} of the questions"
        remedy = "or leave confirm out" if old.share is None else f"or leave confirm.held_out at {old.share:g}"
        raise ConfigError(
            f"confirm.held_out: cannot change when a sweep is resumed (it was {old.share}, now {new.share}): the "
            f"search was scored on {asked}, and what it has seen confirms nothing; start a new sweep, {remedy}"
        )
    if new.seeds < old.seeds:
        raise ConfigError(
            f"confirm.seeds: can only go up when a sweep is resumed (it was {old.seeds}, now {new.seeds}); start a new "
            "sweep, or raise it"
        )


def _only_grown(
    before: dict[str, Any], after: dict[str, Any], names: Sequence[str], forget_sets: Sequence[str]
) -> bool:
    """A forget set that is added may bring its retain model, log or set; those that were there keep theirs."""
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if key not in names or not isinstance(old, dict) or not isinstance(new, dict) or {**new, **old} != new:
            return False
        if (new.keys() - old.keys()) & set(forget_sets):
            return False
    return True

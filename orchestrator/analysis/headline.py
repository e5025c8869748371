"""What a sweep found: in three sentences for all of it, and in one paragraph for each forget set."""

from orchestrator.analysis.confirmation import verdict
from orchestrator.analysis.confirmed_volume import confirmed_volumes
from orchestrator.analysis.resampling import Interval
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import count, interval, listed, score, settings, short_names, words

FEW_TRIALS = 10  # complete trials in a cell, below which a difference may well be luck


def headline(summary: SweepSummary) -> str:
    """Who leads and how surely, with which settings and scores, and what to be careful about."""
    compared = [group for group in summary.forget_sets if group.front]
    if not compared:
        return f"There is no answer yet: {_states(summary)}."
    sentences = [_leaders(compared), _knee(summary, compared[0]), _cautions(summary)]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)


def finding(summary: SweepSummary, group: ForgetSetSummary) -> str:
    """One forget set, in plain text; empty where no trial is complete."""
    cells = [cell for cell in group.ranking if cell.knee]
    if not cells:
        return ""
    first, *others = cells
    lead = _lead(first, others) if others else f"{first.method} is the only method with a complete trial"
    who = f"{first.method}'s" if others and _are_level(first, others[0]) else "Its"
    return f"{lead}. {who} knee{_offer(summary, group, first)}.{_confirmed(summary, group, first)}"


def _confirmed(summary: SweepSummary, group: ForgetSetSummary, first: CellSummary) -> str:
    """What the hypervolumes of the confirmation say of the leader of the search."""
    found = confirmed_volumes(summary, group)
    if len(found) < 2:
        return ""
    best = found[0]
    range_ = f", {score(min(best.seeds))} to {score(max(best.seeds))} over {count(len(best.seeds), 'seed')}"
    said = f" Confirmed, {best.method} leads ({score(best.mean)}{range_ if len(best.seeds) > 1 else ''})"
    place = next((place for place, one in enumerate(found, 1) if one.method == first.method), None)
    if place is None:
        return f"{said}; {first.method} is not confirmed."
    instead = (
        "" if place == 1 else f"; {first.method} has {score(found[place - 1].mean)}, place {place} of {len(found)}"
    )
    return f"{said}{instead}."


def _leaders(groups: list[ForgetSetSummary]) -> str:
    led: dict[str, list[str]] = {}
    contested, level = [], []
    for group in groups:
        best, *others = [cell for cell in group.ranking if cell.knee]
        if tied := [other.method for other in others if _are_level(best, other)]:
            level.append(f"{listed([best.method, *tied])} are level on {group.name}")
            continue
        led.setdefault(best.method, []).append(group.name)
        if others:
            contested.append((best, others))
    if not led:
        return f"by hypervolume {listed(level)}"
    if not contested:
        return f"{listed(list(led))} {'is' if len(led) == 1 else 'are each'} the only method with a complete trial"
    first, *more = led.items()
    ahead = [f"{first[0]} leads on {listed(first[1])}", *(f"{method} on {listed(names)}" for method, names in more)]
    return f"by hypervolume {', '.join(ahead)}, {_how_surely(contested)}{'; ' if level else ''}{listed(level)}"


def _are_level(one: CellSummary, other: CellSummary) -> bool:
    """By what the page shows."""
    return score(one.hypervolume) == score(other.hypervolume)


def _how_surely(contested: list[tuple[CellSummary, list[CellSummary]]]) -> str:
    if any(_interval_of(first) is None for first, _ in contested):
        return "with too few trials to tell merit from luck"
    clear = sum(not _near(first, others) for first, others in contested)
    if clear == len(contested):
        return "clear of what luck does to any other method"
    if clear:
        return f"on {clear} of {count(len(contested), 'forget set')} clear of what luck does to any other method"
    return "but not clear of what luck does to the others, so another search may end otherwise"


def _knee(summary: SweepSummary, group: ForgetSetSummary) -> str:
    first = next(cell for cell in group.ranking if cell.knee)
    return f"on {group.name} the knee of {first.method}{_offer(summary, group, first)}"


def _offer(summary: SweepSummary, group: ForgetSetSummary, cell: CellSummary) -> str:
    assert cell.knee is not None
    chosen = settings(cell.knee.params, short_names(cell.knee.params))
    measured = [f"{label} {_bare(trial)}" for trial, label in _measured(group)]
    against = f" ({'; '.join(measured)})" if measured else ""
    reached = f", {_named(cell.knee)}, reaches {_scores(summary, cell.knee)}{against}"
    return f"{reached}{f' with {chosen}' if chosen else ''}"


def _lead(first: CellSummary, others: list[CellSummary]) -> str:
    if tied := [other.method for other in others if _are_level(first, other)]:
        return f"{listed([first.method, *tied])} are level by hypervolume ({score(first.hypervolume)})"
    margin = f"{score(first.hypervolume)} against {score(others[0].hypervolume)} for {others[0].method}"
    return f"{first.method} leads by hypervolume ({margin}){_luck(first, others)}"


def _luck(first: CellSummary, others: list[CellSummary]) -> str:
    """Whether the leader's interval keeps clear of those of the others."""
    mine = first.volume
    if mine is None or mine.interval is None:
        return ", with too few trials to tell merit from luck"
    drawn = f"with {mine.num_drawn} random trials of each method it has {interval(mine.interval)} in 95% of draws"
    if near := _near(first, others):
        return f"; {drawn}, which overlaps with {listed(near)}, so another search may end otherwise"
    return f"; {drawn}, which overlaps with no other method"


def _near(first: CellSummary, others: list[CellSummary]) -> list[str]:
    mine = _interval_of(first)
    ranges = [(cell.method, _interval_of(cell)) for cell in others]
    return [method for method, other in ranges if mine and other and mine.overlaps(other)]


def _interval_of(cell: CellSummary) -> Interval | None:
    return None if cell.volume is None else cell.volume.interval


def _measured(group: ForgetSetSummary) -> list[tuple[TrialSummary, str]]:
    pairs = ((group.before, "before unlearning"), (group.retain_model, "retain model"))
    return [(trial, label) for trial, label in pairs if trial is not None and trial.objectives is not None]


def _cautions(summary: SweepSummary) -> str:
    complete = [cell.counts["COMPLETE"] for group in summary.forget_sets for cell in group.cells]
    few, many = min(complete), max(complete)
    cautions = []
    if few < FEW_TRIALS:
        span = f"only {few}" if few == many else f"{few} to {many}"
        cautions.append(f"each cell has {span} complete {'trial' if many == 1 else 'trials'}, so a lead may be luck")
    if few != many:
        cautions.append("more trials can only enlarge a hypervolume, which favours the cells that have more")
    if summary.state != "done":
        cautions.append(f"the sweep is not finished ({summary.state}): {_states(summary)}")
    if silent := [group.name for group in summary.forget_sets if not group.front]:
        cautions.append(f"no trial is complete on {listed(silent)}")
    if confirmed := verdict(summary):
        cautions.append(confirmed)
    if instead := _overturned(summary):
        cautions.append(f"confirmed, {listed(instead)} instead")
    return "; ".join(cautions)


def _overturned(summary: SweepSummary) -> list[str]:
    """Where another method has the largest hypervolume once the finalists are confirmed."""
    found = []
    for group in summary.forget_sets:
        confirmed, ranking = confirmed_volumes(summary, group), [cell for cell in group.ranking if cell.knee]
        if ranking and ranking[0].method in [one.method for one in confirmed[1:]]:  # not where its runs are outstanding
            found.append(f"{confirmed[0].method} leads on {group.name}")
    return found


def _states(summary: SweepSummary) -> str:
    ended = {state.lower(): amount for state, amount in summary.counts.items() if amount}
    ended_so = listed([f"{amount} {state}" for state, amount in ended.items()]) or "none started"
    return f"of {count(summary.num_planned, 'planned trial')}, {ended_so}"


def _scores(summary: SweepSummary, trial: TrialSummary) -> str:
    pairs = zip(summary.objectives, trial.objectives or (), strict=False)
    return listed([f"{words(objective.metric)} {score(value)}" for objective, value in pairs])


def _bare(trial: TrialSummary) -> str:
    return listed([score(value) for value in trial.objectives or ()])


def _named(trial: TrialSummary) -> str:
    return trial.key if trial.number is None else f"trial {trial.number}"

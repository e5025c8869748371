"""What a sweep found: in three sentences for all of it, and in one paragraph for each forget set."""

from orchestrator.analysis.confirmation import is_partial, verdict
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
    return (
        f"{lead}. {who} knee, {_offer(summary, group, first.knee)}."
        f"{_behind(group, first)}{_confirmed(summary, group, first)}"
    )


def _behind(group: ForgetSetSummary, first: CellSummary) -> str:
    """That the method with the largest hypervolume has no trial that is not surpassed, where it is so."""
    if group.knee is None or any(trial.method == first.method for trial in group.front):
        return ""
    best = f"{group.knee.method}'s {_named(group.knee)}"
    return f" None of {first.method}'s trials is on the front over all methods, whose knee is {best}."


def _confirmed(summary: SweepSummary, group: ForgetSetSummary, first: CellSummary) -> str:
    """What the hypervolumes of the confirmation say of the leader of the search."""
    found = confirmed_volumes(summary, group)
    if found is None or len(found.methods) < 2:
        return ""
    best = found.methods[0]
    range_ = f", {score(min(best.seeds))} to {score(max(best.seeds))} over {count(len(best.seeds), 'seed')}"
    who = f"{listed(found.leaders)} are level" if len(found.leaders) > 1 else f"{best.method} leads{found.how_clearly}"
    said = f" Confirmed, {who} ({score(best.mean)}{range_ if len(best.seeds) > 1 else ''})"
    if first.method in found.leaders:
        return f"{said}."
    place = next((place for place, one in enumerate(found.methods, 1) if one.method == first.method), None)
    if place is None:
        return f"{said}; {first.method} is not confirmed."
    return f"{said}; {first.method} has {score(found.methods[place - 1].mean)}, place {place} of {len(found.methods)}."


def _leaders(groups: list[ForgetSetSummary]) -> str:
    led, alone = dict[str, list[str]](), dict[str, list[str]]()
    contested, level, nothing = [], [], []
    for group in groups:
        best, *others = [cell for cell in group.ranking if cell.knee]
        if not others:
            alone.setdefault(best.method, []).append(group.name)
        elif score(best.hypervolume) == score(0.0):
            nothing.append(group.name)
        elif tied := _level_with(best, others):
            level.append(f"{listed([best.method, *tied])} are level on {group.name}")
        else:
            led.setdefault(best.method, []).append(group.name)
            contested.append((best, others))
    ahead = [f"{method} {'' if i else 'leads '}on {listed(names)}" for i, (method, names) in enumerate(led.items())]
    clauses = [f"{', '.join(ahead)}, {_how_surely(contested)}"] if led else []
    clauses += level
    clauses += [f"no method has a hypervolume above 0 on {listed(nothing)}"] if nothing else []
    by_volume = "by hypervolume " if led or level else ""
    clauses += [f"{name} is the only method with a complete trial on {listed(names)}" for name, names in alone.items()]
    return by_volume + "; ".join(clauses)


def _are_level(one: CellSummary, other: CellSummary) -> bool:
    """By what the page shows."""
    return score(one.hypervolume) == score(other.hypervolume)


def _level_with(first: CellSummary, others: list[CellSummary]) -> list[str]:
    return [other.method for other in others if _are_level(first, other)]


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
    """The best compromise that there is, whatever method it is of."""
    assert group.knee is not None
    others_kept = any(trial.checkpoint for cell in group.cells for trial in cell.trials)
    lost = "; its weights were not kept" if others_kept and group.knee.checkpoint is None else ""
    return f"on {group.name} the knee of all methods, {group.knee.method}'s {_offer(summary, group, group.knee)}{lost}"


def _offer(summary: SweepSummary, group: ForgetSetSummary, knee: TrialSummary | None) -> str:
    assert knee is not None
    chosen = settings(knee.params, short_names(knee.params))
    measured = [f"{label} {_bare(trial)}" for trial, label in _measured(group)]
    against = f" ({'; '.join(measured)})" if measured else ""
    return f"{_named(knee)}, reaches {_scores(summary, knee)}{against}{f' with {chosen}' if chosen else ''}"


def _lead(first: CellSummary, others: list[CellSummary]) -> str:
    if tied := _level_with(first, others):
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
        cautions.append(f"confirmed{' in part' if is_partial(summary) else ''}, {listed(instead)}")
    return "; ".join(cautions)


def _overturned(summary: SweepSummary) -> list[str]:
    """Where other methods have the largest hypervolume once the finalists are confirmed, and how clearly."""
    found = []
    for group in summary.forget_sets:
        confirmed, ranking = confirmed_volumes(summary, group), [cell for cell in group.ranking if cell.knee]
        if confirmed is None or not ranking:
            continue
        led = {ranking[0].method, *_level_with(ranking[0], ranking[1:])}
        # Where runs of a leader are outstanding, nothing is said yet.
        if led <= {one.method for one in confirmed.methods} and led.isdisjoint(confirmed.leaders):
            verb = "lead" if len(confirmed.leaders) > 1 else "leads"
            found.append(f"on {group.name} {listed(confirmed.leaders)} {verb} instead{confirmed.how_clearly}")
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

"""What the best trials are worth with fresh seeds and on held-out questions, beside what the search said of them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.stats import t as student

from orchestrator.analysis.pareto import Direction, Points, front
from orchestrator.analysis.summary import UNFINISHED, CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import count, listed, score, words
from orchestrator.tracking.confirmation import chosen, most_finalists, num_seeds
from orchestrator.tracking.journal import ObjectiveRecord

Row = tuple[float, ...]
LEVEL = 0.95  # of the interval of a mean shift: one that holds 0 is not called a shift


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One finalist or baseline. Values are objectives, in the sweep's order, over its `num_complete` complete runs.

    `mean` is None without such a run, `deviation` (the sample's) with fewer than two. `stays`: whether no other
    finalist of its cell has a better mean; None for baselines, without a mean, and while runs of the cell are
    outstanding.
    """

    trial: TrialSummary
    search: Row
    mean: Row | None
    deviation: Row | None
    num_complete: int
    num_ended: int
    num_planned: int
    stays: bool | None = None

    @property
    def is_lost(self) -> bool:
        """Whether all its runs have ended and none is complete, so that nothing confirms it."""
        return self.mean is None and self.num_planned <= self.num_ended

    @property
    def shift(self) -> Row | None:
        """Mean of the runs minus the search's value."""
        return None if self.mean is None else tuple(m - s for m, s in zip(self.mean, self.search, strict=True))


@dataclass(frozen=True, slots=True)
class ConfirmationTable:
    """A forget set's finalists, best ranked cell first, and the models that nobody selected."""

    finalists: tuple[Confirmed, ...]
    baselines: tuple[Confirmed, ...]


def confirmation_table(sweep: SweepSummary, group: ForgetSetSummary) -> ConfirmationTable | None:
    """None where nothing was run to confirm the search. Left out are runs of trials that are no finalists any more, and
    finalists that were not run and are not to be."""
    if not group.confirmations:
        return None
    seeds, finalists = num_seeds(sweep.config), list[Confirmed]()
    for cell in group.ranking:
        rows = [_confirmed(trial, group, seeds) for trial in _finalists(sweep, group, cell)]
        finalists += _with_fronts([row for row in rows if row.num_planned], sweep.directions)
    baselines = [_confirmed(trial, group, 1) for trial in group.baselines if trial.is_placed]
    return ConfirmationTable(tuple(finalists), tuple(baselines))


def _finalists(sweep: SweepSummary, group: ForgetSetSummary, cell: CellSummary) -> list[TrialSummary]:
    """Those on the front that were run again, and those that are to be while the sweep has not ended."""
    values, most = [trial.objectives or () for trial in cell.front], most_finalists(sweep.config)
    wanted = {run.confirms for run in group.confirmations}
    if sweep.state != "done":
        wanted |= {cell.front[index].key for index in chosen(values, sweep.directions, most, group.measure.spans)}
    return [trial for trial in cell.front if trial.key in wanted]


def confirmed(sweep: SweepSummary, key: str) -> Confirmed | None:
    """What a trial is worth, on its cell's front or not; None where no run that confirms it is complete."""
    found = ((trial, group) for group in sweep.forget_sets for cell in group.cells for trial in cell.trials)
    rows = [_confirmed(trial, group, num_seeds(sweep.config)) for trial, group in found if trial.key == key]
    return next((row for row in rows if row.mean is not None), None)


def by_seed(group: ForgetSetSummary, finalists: Iterable[Confirmed]) -> list[Points]:
    """Objectives (N, M) of the complete runs of these finalists, one array for each seed, by its name.

    Empty (0, M) for a seed whose runs have all ended and none is complete: such a seed attains nothing.
    """
    keys, found, num_objectives = {row.trial.key for row in finalists}, dict[str, list[Row]](), 0
    for run in group.confirmations:
        if run.confirms in keys and run.state != UNFINISHED:
            values = found.setdefault(run.key.rpartition("/")[2], [])
            if run.is_comparable and run.objectives is not None:
                values.append(run.objectives)
                num_objectives = len(run.objectives)
    return [np.array(points).reshape(len(points), num_objectives) for _, points in sorted(found.items())]


def in_words(sweep: SweepSummary) -> str:
    """Where the search flattered itself, in a few plain sentences; empty where nothing was run to confirm it."""
    tables, finalists, known = _found(sweep)
    if not finalists:
        return ""
    ended, planned = sum(row.num_ended for row in finalists), sum(row.num_planned for row in finalists)
    sentences = _flattered(sweep, tables, known) if known else []
    settled = [row for row in finalists if row.stays is not None]
    if leave := sum(row.stays is False for row in settled):
        which = "leaves its" if leave == 1 else "leave their"
        sentences.append(f"{leave} of {count(len(settled), 'finalist')} {which} method's front.")
    elif settled:
        sentences.append("No finalist leaves its method's front.")
    if (on_fronts := _num_on_fronts(sweep)) > len(finalists):
        again = f"{len(finalists)} {'was' if len(finalists) == 1 else 'were'}"
        sentences.append(
            f"Of {on_fronts} trials on the methods' fronts {again} run again; what the others are worth is not known."
        )
    if lost := sum(row.is_lost for row in finalists):
        verb, whose = ("is", "its") if lost == 1 else ("are", "their")
        sentences.append(f"{count(lost, 'finalist')} {verb} not confirmed: none of {whose} runs is complete.")
    if broken := ended - sum(row.num_complete for row in finalists):
        sentences.append(f"{broken} of {count(ended, 'such run')} did not complete.")
    if stale := sum(_num_left_out(group, table) for group, table in zip(_confirmed_groups(sweep), tables, strict=True)):
        sentences.append(f"Left out: {count(stale, 'run')} of trials that are no finalists any more.")
    if ended < planned:
        sentences.append(f"Confirmation is not finished: {ended} of {count(planned, 'run')} have ended.")
    return " ".join(sentence for sentence in sentences if sentence)


def verdict(sweep: SweepSummary) -> str:
    """What `in_words` comes to, as half a sentence; empty where nothing was run to confirm the search."""
    tables, finalists, known = _found(sweep)
    if not finalists:
        return ""
    if not known:
        return "nothing is confirmed yet"
    beyond, *_ = _worse(_changes(sweep, tables))
    found = f"flattered itself in {listed(beyond)}" if beyond else "did not clearly flatter itself"
    so_far = " so far" if any(row.num_ended < row.num_planned for row in finalists) else ""
    return f"by fresh seeds and other questions the search {found}{so_far}"


def is_partial(sweep: SweepSummary) -> bool:
    """Whether trials on the methods' fronts were left out: a method may be worth more than what was run again."""
    return _num_on_fronts(sweep) > len(_found(sweep)[1])


def _num_on_fronts(sweep: SweepSummary) -> int:
    """On the forget sets where anything was run again."""
    return sum(len(cell.front) for group in _confirmed_groups(sweep) for cell in group.cells)


def _found(sweep: SweepSummary) -> tuple[list[ConfirmationTable], list[Confirmed], list[Confirmed]]:
    """All tables, their finalists, and those of them with a complete run."""
    tables = [table for group in _confirmed_groups(sweep) if (table := confirmation_table(sweep, group))]
    finalists = [row for table in tables for row in table.finalists]
    return tables, finalists, [row for row in finalists if row.mean is not None]


def _confirmed_groups(sweep: SweepSummary) -> list[ForgetSetSummary]:
    return [group for group in sweep.forget_sets if group.confirmations]


def _num_left_out(group: ForgetSetSummary, table: ConfirmationTable) -> int:
    keys = {row.trial.key for row in (*table.finalists, *table.baselines)}
    return sum(run.number is not None and run.confirms not in keys for run in group.confirmations)


def worse(shift: float, direction: Direction) -> bool:
    """Whether the search promised more than that, by what three decimals show."""
    return round(shift if direction == "maximize" else -shift, 3) < 0


def _confirmed(trial: TrialSummary, group: ForgetSetSummary, num_planned: int) -> Confirmed:
    runs = [run for run in group.confirmations if run.confirms == trial.key]
    values = [run.objectives for run in runs if run.is_comparable and run.objectives is not None]
    columns = list(zip(*values, strict=True))
    return Confirmed(
        trial=trial,
        search=trial.objectives or (),
        mean=tuple(math.fsum(column) / len(column) for column in columns) if columns else None,
        deviation=tuple(statistics.stdev(column) for column in columns) if len(values) > 1 else None,
        num_complete=len(values),
        num_ended=sum(run.state != UNFINISHED for run in runs),
        num_planned=max(num_planned, len(runs)),
    )


def _with_fronts(rows: Sequence[Confirmed], directions: Sequence[Direction]) -> list[Confirmed]:
    """The finalists of a cell, told whether they are on the front of their means."""
    if any(row.num_ended < row.num_planned for row in rows):
        return list(rows)
    known = [place for place, row in enumerate(rows) if row.mean is not None]
    best = {known[i] for i in front(np.array([rows[place].mean for place in known], dtype=float), directions)}
    return [replace(row, stays=None if row.mean is None else place in best) for place, row in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class _Change:
    """The mean change of an objective from the search's value; `margin`: half of its 95% interval, None for one run."""

    objective: ObjectiveRecord
    mean: float
    margin: float | None

    @property
    def is_worse(self) -> bool:
        return worse(self.mean, self.objective.direction)

    @property
    def is_beyond_noise(self) -> bool:
        return self.margin is not None and abs(self.mean) > self.margin


def _flattered(sweep: SweepSummary, tables: Sequence[ConfirmationTable], known: Sequence[Confirmed]) -> list[str]:
    changes, before = _changes(sweep, tables), _before(tables)
    changed = listed([_changed(change) for change in changes])
    opening = "With fresh seeds and on questions that the search never asked,"
    who = f"the {count(len(known), 'finalist')} on average" if len(known) > 1 else "the finalist"
    several = len(known) > len(_beyond_questions(tables))  # of a cell: the best of them is the one that luck picked
    if not (before or several):
        return [f"{opening} {changed} than it said of {who}: {_judged(changes)}."]
    plain = zip(sweep.objectives, _mean_shifts(known), strict=True)
    said = listed([f"{words(goal.metric)} is {_in_words(shift, goal.direction)}" for goal, shift in plain])
    parts = ["beyond that"] * bool(before) + ["of the finalists that the search found best in each"] * several
    beyond = ", ".join(parts).capitalize()
    compared = [_compared(sweep, before)] if before else []
    return [f"{opening} {said} than it said of {who}.", *compared, f"{beyond}, {changed}: {_judged(changes)}."]


def _changes(sweep: SweepSummary, tables: Sequence[ConfirmationTable]) -> list[_Change]:
    """Over those finalists that were best of their cell in an objective, where luck shows, or over the runs of a single
    one, beyond what the other questions do to a model that nobody selected, where there is one: easier questions would
    hide what luck was in the search.

    All finalists are asked the same questions and have the same seeds: what these alone do to all of them is not in the
    margins.
    """
    cells = _beyond_questions(tables)
    changes = []
    for place, goal in enumerate(sweep.objectives):
        sign = 1 if goal.direction == "maximize" else -1
        best = [max(rows, key=partial(_searched, place, sign)) for rows in cells]
        (row, _), values = best[0], [shift[place] for _, shift in best]
        number, deviation = len(values), statistics.stdev(values) if len(values) > 1 else 0.0
        if number == 1 and row.deviation is not None:
            number, deviation = row.num_complete, row.deviation[place]
        margin = float(student.ppf((1 + LEVEL) / 2, number - 1)) * deviation / math.sqrt(number) if number > 1 else None
        changes.append(_Change(goal, statistics.fmean(values), margin))
    return changes


def _searched(place: int, sign: int, found: tuple[Confirmed, Row]) -> float:
    return sign * found[0].search[place]


def _beyond_questions(tables: Sequence[ConfirmationTable]) -> list[list[tuple[Confirmed, Row]]]:
    """The finalists of each cell and the shift of each, less that of the model before unlearning on the same forget set
    where all have it. Left out are those without a complete run."""
    subtract, cells = bool(_before(tables)), dict[tuple[str, str], list[tuple[Confirmed, Row]]]()
    for table in tables:
        (plain,) = [row.shift for row in _before([table])] if subtract and _is_known(table) else [None]
        for row in table.finalists:
            if row.shift is not None:
                beyond = tuple(a - b for a, b in zip(row.shift, plain or (0.0,) * len(row.shift), strict=True))
                cells.setdefault((row.trial.method, row.trial.forget_set), []).append((row, beyond))
    return list(cells.values())


def _before(tables: Sequence[ConfirmationTable]) -> list[Confirmed]:
    """The models before unlearning, of each forget set with a confirmed finalist; none where one of them has none."""
    found = [[row for row in t.baselines if row.trial.method == "before" and row.mean] for t in tables if _is_known(t)]
    return [rows[0] for rows in found] if all(found) else []


def _is_known(table: ConfirmationTable) -> bool:
    return any(row.mean is not None for row in table.finalists)


def _changed(change: _Change) -> str:
    return f"{words(change.objective.metric)} is {_in_words(change.mean, change.objective.direction, change.margin)}"


def _judged(changes: Sequence[_Change]) -> str:
    beyond, within, untold = _worse(changes)
    ends = [f"the search flattered itself in {listed(beyond)}"] if beyond else []
    ends += [f"the difference in {listed(within)} is within noise"] if within else []
    ends += [f"one run cannot tell whether the difference in {listed(untold)} is noise"] if untold else []
    return "; ".join(ends) or "the search did not clearly flatter itself"


def _worse(changes: Sequence[_Change]) -> tuple[list[str], list[str], list[str]]:
    """The objectives that are worse on average: by more than noise, within noise, and where there is no telling."""
    beyond, within, untold = (list[str]() for _ in range(3))
    for change in changes:
        if change.is_worse:
            group = untold if change.margin is None else beyond if change.is_beyond_noise else within
            group.append(words(change.objective.metric))
    return beyond, within, untold


def _compared(sweep: SweepSummary, before: Sequence[Confirmed]) -> str:
    """By how much the two parts of the questions differ for a model that was not selected."""
    pairs = zip(sweep.objectives, _mean_shifts(before), strict=True)
    said = [f"{words(goal.metric)} is {_in_words(shift, goal.direction)}" for goal, shift in pairs]
    return f"Of the model before unlearning, which was not selected, {listed(said)} on these questions than on those."


def _in_words(shift: float, direction: Direction, margin: float | None = None) -> str:
    if not round(shift, 3):
        return "no different"
    give_or_take = "" if margin is None else f" ± {score(margin)}"
    return f"{score(abs(shift))}{give_or_take} {'worse' if worse(shift, direction) else 'better'}"


def _mean_shifts(rows: Iterable[Confirmed]) -> Row:
    columns = zip(*(row.shift for row in rows if row.shift is not None), strict=True)
    return tuple(statistics.fmean(column) for column in columns)

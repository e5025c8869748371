"""What the best trials are worth with fresh seeds and on held-out questions, beside what the search said of them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.analysis.pareto import Direction, Points, front
from orchestrator.analysis.summary import UNFINISHED, CellSummary, ForgetSetSummary, SweepSummary, TrialSummary
from orchestrator.analysis.words import count, listed, score, words
from orchestrator.tracking.confirmation import chosen, most_finalists, num_seeds

Row = tuple[float, ...]
BEYOND = 2  # standard errors: a smaller mean shift is not called one


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
        rows = [_confirmed(trial, group, seeds) for trial in _finalists(sweep, cell)]
        finalists += _with_fronts([row for row in rows if row.num_planned], sweep.directions)
    baselines = [_confirmed(trial, group, 1) for trial in group.baselines if trial.is_placed]
    return ConfirmationTable(tuple(finalists), tuple(baselines))


def _finalists(sweep: SweepSummary, cell: CellSummary) -> list[TrialSummary]:
    values = [trial.objectives or () for trial in cell.front]
    return [cell.front[index] for index in chosen(values, sweep.directions, most_finalists(sweep.config))]


def confirmed(sweep: SweepSummary, key: str) -> Confirmed | None:
    """What a trial is worth, on its cell's front or not; None where no run that confirms it is complete."""
    found = ((trial, group) for group in sweep.forget_sets for cell in group.cells for trial in cell.trials)
    rows = [_confirmed(trial, group, num_seeds(sweep.config)) for trial, group in found if trial.key == key]
    return next((row for row in rows if row.mean is not None), None)


def by_seed(group: ForgetSetSummary, finalists: Iterable[Confirmed]) -> list[Points]:
    """Objectives (N, M) of the complete runs of these finalists, one array for each seed, by its name."""
    keys, found = {row.trial.key for row in finalists}, dict[str, list[Row]]()
    for run in group.confirmations:
        if run.confirms in keys and run.is_comparable and run.objectives is not None:
            found.setdefault(run.key.rpartition("/")[2], []).append(run.objectives)
    return [np.array(points) for _, points in sorted(found.items())]


def in_words(sweep: SweepSummary) -> str:
    """Where the search flattered itself, in a few plain sentences; empty where nothing was run to confirm it."""
    tables, finalists, known = _found(sweep)
    if not finalists:
        return ""
    ended, planned = sum(row.num_ended for row in finalists), sum(row.num_planned for row in finalists)
    sentences = [_flattered(sweep, known), _compared(sweep, tables)] if known else []
    settled = [row for row in finalists if row.stays is not None]
    if leave := sum(row.stays is False for row in settled):
        which = "leaves its" if leave == 1 else "leave their"
        sentences.append(f"{leave} of {count(len(settled), 'finalist')} {which} method's front.")
    elif settled:
        sentences.append("No finalist leaves its method's front.")
    if lost := sum(row.is_lost for row in finalists):
        verb, whose = ("is", "its") if lost == 1 else ("are", "their")
        sentences.append(f"{count(lost, 'finalist')} {verb} not confirmed: none of {whose} runs is complete.")
    if broken := ended - sum(row.num_complete for row in finalists):
        sentences.append(f"{broken} of {count(ended, 'such run')} did not complete.")
    if ended < planned:
        sentences.append(f"Confirmation is not finished: {ended} of {count(planned, 'run')} have ended.")
    return " ".join(sentence for sentence in sentences if sentence)


def verdict(sweep: SweepSummary) -> str:
    """What `in_words` comes to, as half a sentence; empty where nothing was run to confirm the search."""
    _, finalists, known = _found(sweep)
    if not finalists:
        return ""
    if not known:
        return "nothing is confirmed yet"
    beyond, *_ = _worse(sweep, known)
    found = f"flattered itself in {listed(beyond)}" if beyond else "did not clearly flatter itself"
    so_far = " so far" if any(row.num_ended < row.num_planned for row in finalists) else ""
    return f"by fresh seeds and other questions the search {found}{so_far}"


def _found(sweep: SweepSummary) -> tuple[list[ConfirmationTable], list[Confirmed], list[Confirmed]]:
    """All tables, their finalists, and those of them with a complete run."""
    tables = [table for group in sweep.forget_sets if (table := confirmation_table(sweep, group))]
    finalists = [row for table in tables for row in table.finalists]
    return tables, finalists, [row for row in finalists if row.mean is not None]


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


def _flattered(sweep: SweepSummary, known: Sequence[Confirmed]) -> str:
    said = [
        f"{words(goal.metric)} is {_in_words(shift, goal.direction, _standard_error(known, place))}"
        for place, (goal, shift) in enumerate(zip(sweep.objectives, _mean_shifts(known), strict=True))
    ]
    beyond, within, untold = _worse(sweep, known)
    ends = [f"the search flattered itself in {listed(beyond)}"] if beyond else []
    ends += [f"the difference in {listed(within)} is within noise, twice the standard error"] if within else []
    ends += [f"one run cannot tell whether the difference in {listed(untold)} is noise"] if untold else []
    who = f"the {count(len(known), 'finalist')}" if len(known) > 1 else "the finalist"
    on_average = " on average" if len(known) > 1 else ""
    return (
        f"With fresh seeds and on questions that the search never asked, {listed(said)} than it said of {who}"
        f"{on_average}: {'; '.join(ends) or 'the search did not flatter itself'}."
    )


def _worse(sweep: SweepSummary, known: Sequence[Confirmed]) -> tuple[list[str], list[str], list[str]]:
    """The objectives that are worse on average: by more than noise, within noise, and where there is no telling."""
    beyond, within, untold = (list[str]() for _ in range(3))
    for place, (goal, shift) in enumerate(zip(sweep.objectives, _mean_shifts(known), strict=True)):
        error = _standard_error(known, place)
        if worse(shift, goal.direction):
            group = untold if error is None else beyond if abs(shift) > BEYOND * error else within
            group.append(words(goal.metric))
    return beyond, within, untold


def _standard_error(known: Sequence[Confirmed], place: int) -> float | None:
    """Of the mean shift in one objective: over the finalists, or over the runs of a single one; None for one run.

    All finalists are asked the same questions and have the same seeds: what these alone do to all of them is not in it.
    """
    shifts = [row.shift[place] for row in known if row.shift is not None]
    if len(shifts) > 1:
        return statistics.stdev(shifts) / math.sqrt(len(shifts))
    (row,) = known
    return None if row.deviation is None else row.deviation[place] / math.sqrt(row.num_complete)


def _compared(sweep: SweepSummary, tables: Iterable[ConfirmationTable]) -> str:
    """By how much the two parts of the questions differ for a model that was not selected."""
    before = [row for table in tables for row in table.baselines if row.trial.method == "before" and row.mean]
    if not before:
        return ""
    pairs = zip(sweep.objectives, _mean_shifts(before), strict=True)
    said = [f"{words(goal.metric)} is {_in_words(shift, goal.direction)}" for goal, shift in pairs]
    return f"Of the model before unlearning, which was not selected, {listed(said)} on these questions than on those."


def _in_words(shift: float, direction: Direction, error: float | None = None) -> str:
    if not round(shift, 3):
        return "no different"
    give_or_take = "" if error is None else f" ± {score(error)}"
    return f"{score(abs(shift))}{give_or_take} {'worse' if worse(shift, direction) else 'better'}"


def _mean_shifts(rows: Iterable[Confirmed]) -> Row:
    columns = zip(*(row.shift for row in rows if row.shift is not None), strict=True)
    return tuple(statistics.fmean(column) for column in columns)

"""Does an early score say how a trial ends? Judged by full trials whose rungs were recorded (`early_stopping.keep=1`).

python -m benchmarks.early_stopping SWEEP_DIR... [--out FILE.json]                  of sweeps that have run
python -m benchmarks.early_stopping --run DATA_AND_MODELS STORAGE [key=value ...]   run tofu_tiny with rungs first

What successive halving would have done is found by going through a journal in its order and stopping what it stops. The
trials that follow are then those that were run, although a search that knew less would have suggested others.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import sweeps
from benchmarks.recording import circumstances, grid, keep, versions_of
from orchestrator.analysis.pareto import Direction, UnitBox, best_first
from orchestrator.analysis.summary import summarize
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.tracking.journal import RungReached, TrialState
from orchestrator.tracking.sweep_log import SweepLog, TrialLog, load_sweep
from orchestrator.tuning.early_stopping import SuccessiveHalving

KEEPS, MIN_TRIALS = (1 / 2, 1 / 3, 1 / 4), (1, 4)
NUM_DRAWS = 2000
# Stopping early should be on by default if some setting of rungs, share and first trials would
LEAST_SAVED = 0.20  # save this share of the seconds, net of what rungs cost,
MOST_LOST_MEDIAN, MOST_LOST = 0.01, 0.05  # lose no more of the final hypervolume, in the median cell and in the worst,
# and if of every method the interval of Kendall's tau at each of the rungs lies above 0.
RUN_SETTINGS = ["early_stopping={rungs: [0.2, 0.4, 0.6], keep: 1.0}", "search.trials_per_cell=16"]


@dataclass(frozen=True)
class Trial:
    """A trial that ran to its end: its rungs by number, its objectives (worst where it diverged), what it took."""

    key: str
    rungs: dict[int, RungReached]
    objectives: tuple[float, ...]
    complete: bool
    num_steps: int
    seconds: float  # without what its rungs took


@dataclass(frozen=True)
class Cell:
    """The trials of a cell, the box of its hypervolumes, and `order`, the rungs as the journal has them."""

    method: str
    trials: dict[str, Trial]
    order: list[RungReached]
    directions: tuple[Direction, ...]
    box: UnitBox

    def volume(self, without: frozenset[str]) -> float:
        """Final hypervolume of the complete trials that are not left out."""
        rows = [t.objectives for key, t in self.trials.items() if t.complete and key not in without]
        return self.box.hypervolume(np.array(rows)) if rows else 0.0


def cells(log: SweepLog) -> Iterator[Cell]:
    """The cells of a sweep that has recorded rungs. SystemExit: it stopped trials, or recorded none."""
    stopped = [t.started.key for t in log.searched() if t.finished and t.finished.state == TrialState.PRUNED]
    if stopped or not log.rungs:
        what = f"{stopped[0]} was stopped" if stopped else "no rung was recorded"
        sys.exit(f"{log.header.name}: {what}; run the sweep with early_stopping.keep=1")
    boxes = {group.name: group.measure.box for group in summarize(log).forget_sets}
    first: dict[tuple[str, int], RungReached] = {}
    for rung in log.rungs:
        first.setdefault((rung.key, rung.rung), rung)
    directions = tuple(objective.direction for objective in log.header.objectives)
    for cell in log.header.cells:
        found = [_trial(trial, first) for trial in log.cell(cell.method, cell.forget_set)]
        trials = {trial.key: trial for trial in found if trial is not None}
        order = [rung for rung in first.values() if rung.key in trials]
        yield Cell(cell.method, trials, order, directions, boxes[cell.forget_set])


def _trial(log: TrialLog, rungs: dict[tuple[str, int], RungReached]) -> Trial | None:
    """None: it has no score, or ended before its first rung, where nothing could have stopped it."""
    key, finished = log.started.key, log.finished
    own = {number: rung for (name, number), rung in rungs.items() if name == key}
    if finished is None or finished.objectives is None or not own:
        return None
    return Trial(
        key=key,
        rungs=own,
        objectives=finished.objectives,
        complete=finished.state == TrialState.COMPLETE,
        num_steps=next(iter(own.values())).num_steps,  # a journal may be kept without the records of steps
        seconds=_without_rungs(finished.seconds),
    )


def _without_rungs(seconds: dict[str, float]) -> float:
    return sum(value for phase, value in seconds.items() if phase != "rungs")


def agreement(cell: Cell, rung: int, objective: int | None = None) -> NDArray[np.float64]:
    """For each pair of a cell's trials 1 where a rung and the end put them in the same order, -1 where not: (N, N).

    The order is that by which trials are stopped, front after front, and in a front as successive halving goes; or that
    by one objective alone.
    """
    trials = [trial for trial in cell.trials.values() if rung in trial.rungs]
    ends = [trial.rungs[rung].objectives for trial in trials], [trial.objectives for trial in trials]
    if objective is None:
        early, late = (_places(values, cell.directions) for values in ends)
    else:
        early, late = (np.array(values)[:, objective] for values in ends)
    return np.sign(early[:, None] - early) * np.sign(late[:, None] - late)


def _places(values: Sequence[tuple[float, ...]], directions: Sequence[Direction]) -> NDArray[np.float64]:
    """The place of each row in the order, from 0; rows that are equal share the first of their places."""
    places: dict[tuple[float, ...], int] = {}
    for place, index in enumerate(best_first(values, directions)):
        places.setdefault(values[index], place)
    return np.array([places[value] for value in values], dtype=float)


def tau(signs: Sequence[NDArray[np.float64]], weights: Sequence[NDArray[np.float64]]) -> float:
    """Kendall's tau over the pairs within cells, each trial with a weight; equal ones are left out."""
    pairs = list(zip(signs, weights, strict=True))
    num_pairs = sum(float(w @ np.abs(s) @ w) for s, w in pairs)
    return sum(float(w @ s @ w) for s, w in pairs) / num_pairs if num_pairs else 0.0


def tau_interval(signs: Sequence[NDArray[np.float64]], seed: int = 0) -> dict[str, float]:
    """Tau with a 95% interval by a bootstrap: in each cell as many trials are drawn with replacement."""
    rng = np.random.default_rng(seed)

    def draw() -> list[NDArray[np.float64]]:
        return [rng.multinomial(len(s), np.full(len(s), 1 / len(s))).astype(float) for s in signs]

    low, high = np.quantile([tau(signs, draw()) for _ in range(NUM_DRAWS)], [0.025, 0.975])
    return {"tau": tau(signs, [np.ones(len(s)) for s in signs]), "low": float(low), "high": float(high)}


def replay(cell: Cell, rungs: frozenset[int], stopping: EarlyStoppingConfig) -> dict[str, float]:
    """What stopping saves and loses, as shares: of steps, of seconds net of what rungs cost, of hypervolume."""
    halving = SuccessiveHalving(stopping, cell.directions)
    stopped: dict[str, RungReached] = {}
    for rung in cell.order:
        if rung.rung in rungs and rung.key not in stopped and not halving.reach(rung):
            stopped[rung.key] = rung
    steps = seconds = 0.0
    for key, trial in cell.trials.items():
        end = stopped.get(key)
        reached = [r for n, r in trial.rungs.items() if n in rungs and (end is None or n <= end.rung)]
        steps += trial.num_steps if end is None else end.step
        seconds += (trial.seconds if end is None else _without_rungs(end.seconds)) + _cost(reached, trial)
    whole = cell.volume(frozenset())
    return {
        "stopped": len(stopped) / len(cell.trials),
        "steps": 1 - steps / sum(trial.num_steps for trial in cell.trials.values()),
        "seconds": 1 - seconds / sum(trial.seconds for trial in cell.trials.values()),
        "volume": 1 - cell.volume(frozenset(stopped)) / whole if whole else 0.0,
    }


def _cost(reached: Sequence[RungReached], trial: Trial) -> float:
    """Seconds of these rungs, each by what the phase had grown to since the rung before it."""
    before = {n: trial.rungs[n - 1].seconds.get("rungs", 0.0) if n - 1 in trial.rungs else 0.0 for n in trial.rungs}
    return sum(rung.seconds.get("rungs", 0.0) - before[rung.rung] for rung in reached)


def measure(found: Sequence[Cell]) -> dict[str, Any]:
    """Everything about these cells, and what follows from it."""
    numbers = sorted({rung.rung for cell in found for rung in cell.order})
    found = [cell for cell in found if len(cell.trials) > 1]
    shares = {rung.rung: rung.step / rung.num_steps for cell in found for rung in cell.order}
    methods = list(dict.fromkeys(cell.method for cell in found))
    ranks = [
        {
            "method": method,
            "rung": number,
            "trials": sum(number in trial.rungs for cell in own for trial in cell.trials.values()),
            **tau_interval([agreement(cell, number) for cell in own]),
            "alone": [_alone(own, number, objective) for objective in range(len(own[0].directions))],
        }
        for method in methods
        for own in [[cell for cell in found if cell.method == method]]
        for number in numbers
    ]
    sets = [*([number] for number in numbers), *([numbers] if len(numbers) > 1 else [])]
    settings = [EarlyStoppingConfig(keep=share, min_trials=first) for share in KEEPS for first in MIN_TRIALS]
    savings = [_saving(found, rungs, stopping) for rungs in sets for stopping in settings]
    return {
        "cells": len(found),
        "trials": sum(len(cell.trials) for cell in found),
        "rungs": {str(number): round(shares[number], 3) for number in numbers},
        "ranks": ranks,
        "savings": savings,
        **verdict(ranks, savings),
    }


def _alone(own: Sequence[Cell], rung: int, objective: int) -> float:
    signs = [agreement(cell, rung, objective) for cell in own]
    return tau(signs, [np.ones(len(s)) for s in signs])


def _saving(found: Sequence[Cell], rungs: list[int], stopping: EarlyStoppingConfig) -> dict[str, Any]:
    rows = [replay(cell, frozenset(rungs), stopping) for cell in found]
    median = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    setting = {"rungs": rungs, "keep": stopping.keep, "min_trials": stopping.min_trials}
    return {**setting, **median, "worst volume": max(row["volume"] for row in rows)}


def verdict(ranks: Sequence[dict[str, Any]], savings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By the rule at the top of this file: whether to stop by default, with which setting, and why not."""
    failed = []
    for row in sorted(savings, key=lambda row: -row["seconds"]):
        reasons = []
        if row["seconds"] < LEAST_SAVED:
            reasons.append(f"saves {row['seconds']:.0%} of the seconds" + " (rungs cost more)" * (row["seconds"] < 0))
        if row["volume"] > MOST_LOST_MEDIAN or row["worst volume"] > MOST_LOST:
            reasons.append(f"loses {row['volume']:.1%} of the hypervolume, {row['worst volume']:.1%} in the worst cell")
        unknown = [rank["method"] for rank in ranks if rank["rung"] in row["rungs"] and rank["low"] <= 0]
        if unknown:
            names = ", ".join(dict.fromkeys(unknown))
            reasons.append(f"early order does not predict final order of {names}")
        if not reasons:
            return {"on_by_default": True, "setting": _setting(row), "because": []}
        failed.append((len(reasons), f"{_setting(row)}: {'; '.join(reasons)}"))
    failed.sort(key=lambda one: one[0])
    return {"on_by_default": False, "setting": None, "because": [text for _, text in failed[:3]]}


def _setting(row: dict[str, Any]) -> str:
    return f"rungs {', '.join(map(str, row['rungs']))}, keep {row['keep']:.2f}, min_trials {row['min_trials']}"


def _rank_table(facts: dict[str, Any]) -> list[list[str]]:
    alone = [f"{objective} alone" for objective in facts["objectives"]]
    return [["method", "rung", "trials", "Kendall's tau", "95% interval", *alone]] + [
        [r["method"], str(r["rung"]), str(r["trials"]), f"{r['tau']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}"]
        + [f"{value:.2f}" for value in r["alone"]]
        for r in facts["ranks"]
    ]


def _savings_table(facts: dict[str, Any]) -> list[list[str]]:
    shares = {"stopped": "stopped", "steps": "steps saved", "seconds": "seconds saved"}
    shares |= {"volume": "hypervolume lost", "worst volume": "in the worst cell"}
    return [["rungs", "keep", "min_trials", *shares.values()]] + [
        [", ".join(map(str, row["rungs"])), f"{row['keep']:.2f}", str(row["min_trials"])]
        + [f"{row[name]:.1%}" for name in shares]
        for row in facts["savings"]
    ]


def page(facts: dict[str, Any], numbers: str) -> str:
    """The record as tables."""
    where = ", ".join(f"{number} at {share:.0%}" for number, share in facts["rungs"].items())
    said = f"Yes: {facts['setting']}." if facts["on_by_default"] else "No."
    why = "".join(f"\n- {reason}" for reason in facts["because"])
    lines = [
        "# Does an early score predict the final one?",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`. Numbers: [{numbers}]({numbers}).",
        versions_of(facts),
        "",
        f"Sweeps: {', '.join(facts['sweeps'])}: {facts['trials']} full trials in {facts['cells']} cells. Rungs, by "
        f"share of the steps: {where}; {facts['rows_per_set']} questions of each set.",
        "",
        f"**Should trials be stopped by default? {said}**{why}",
        "",
        f"The rule: a setting saves at least {LEAST_SAVED:.0%} of the seconds, loses at most {MOST_LOST_MEDIAN:.0%} of "
        f"the final hypervolume in the median cell and {MOST_LOST:.0%} in the worst, and of every method the interval "
        "of tau lies above 0 at its rungs. Of such settings the one that saves most.",
        "",
        "Order of the trials of a cell at a rung against their order at the end, over pairs within cells: the order by "
        "which trials are stopped, and that by each objective alone.",
        "",
        grid(_rank_table(facts)),
        "",
        "Successive halving, replayed in the order of the journals; shares of a cell, their median over cells. "
        "`min_trials`: so many first trials of a cell all go on. Seconds are net of what rungs take, which weighs less "
        "the longer trials are. Searches that knew less would have suggested other trials; the replay does not.",
        "",
        grid(_savings_table(facts)),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_stopping", description=__doc__)
    parser.add_argument("places", nargs="+", metavar="SWEEP_DIR", help="with --run: DATA_AND_MODELS STORAGE key=value")
    parser.add_argument("--run", action="store_true", help="run a sweep first")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the record here, and a page beside it")
    arguments = parser.parse_args()
    folders = [Path(place) for place in arguments.places]
    if arguments.run:
        shared, storage, *more = arguments.places
        overrides = [*RUN_SETTINGS, *more]
        folders = [sweeps.run("tofu_tiny", Path(shared).absolute(), Path(storage).absolute(), overrides)]
    logs = [load_sweep(folder) for folder in folders]
    recorded = [log.header.config.get("early_stopping") for log in logs]
    if any(one != recorded[0] for one in recorded):
        sys.exit(f"{folders[0].name} and another sweep have recorded different rungs; give sweeps that are alike")
    facts = circumstances(["ray", "optuna", "moocore"], "python -m benchmarks.early_stopping SWEEP_DIR...")
    facts["sweeps"] = [folder.name for folder in folders]
    facts |= measure([cell for log in logs for cell in cells(log)])
    facts["objectives"] = [objective.metric for objective in logs[0].header.objectives]
    facts["rows_per_set"] = logs[0].header.config["early_stopping"]["rows_per_set"]
    keep(facts, page(facts, arguments.out.name if arguments.out else "numbers"), arguments.out)


if __name__ == "__main__":
    main()

"""Which interval of a hypervolume is honest: `python -m benchmarks.intervals [--out FILE.json]`; two minutes.

Simulated searches whose truth is known, because there can be thousands of them: independent trials with two objectives,
one in ten of which comes to nothing. Two intervals: draws of half of the trials without replacement, as the report
gives them, and the usual bootstrap, draws of all with replacement.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recording import circumstances, grid, keep, versions_of
from orchestrator.analysis.pareto import UnitBox
from orchestrator.analysis.resampling import Interval, subset_interval

BOX = UnitBox((0.0, 0.0), (1.0, 1.0), ("maximize", "maximize"))
NUM_TRIALS = (3, 4, 6, 10, 20, 40)
NUM_SEARCHES, NUM_TRUE, NUM_DRAWS = 200, 2000, 200


def search(rng: np.random.Generator, num_trials: int) -> NDArray[np.float64]:
    """Utility and forgetting of each trial, (N, 2): a trade-off by strength, below which most trials stay."""
    strength, loss = rng.uniform(size=num_trials), 0.8 * rng.beta(1, 3, size=num_trials)
    values = np.column_stack([1 - strength**3, strength**0.5]) * (1 - loss)[:, None]
    return np.where(rng.uniform(size=(num_trials, 1)) < 0.1, 0.0, values)


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> Interval:
    """Percentiles of the hypervolume of as many trials, drawn with replacement."""
    rows = np.random.default_rng(seed).integers(len(values), size=(NUM_DRAWS, len(values)))
    low, high = np.quantile([BOX.hypervolume(values[chosen]) for chosen in rows], [0.025, 0.975])
    return Interval(float(low), float(high))


def simulate(num_trials: int) -> dict[str, Any]:
    """How often each interval holds what it is about, and how often two equal searches seem different."""
    rng = np.random.default_rng(num_trials)
    half = num_trials // 2
    means = {k: float(np.mean([BOX.hypervolume(search(rng, k)) for _ in range(NUM_TRUE)])) for k in (half, num_trials)}
    searches = [search(rng, num_trials) for _ in range(NUM_SEARCHES)]
    halves = [subset_interval(s, BOX, size=half, num_draws=NUM_DRAWS, seed=i) for i, s in enumerate(searches)]
    whole = [bootstrap_interval(s, i) for i, s in enumerate(searches)]
    return {"trials": num_trials, "halves": _rates(halves, means[half]), "bootstrap": _rates(whole, means[num_trials])}


def _rates(intervals: list[Interval], mean: float) -> dict[str, float]:
    return {
        "holds the mean": float(np.mean([low <= mean <= high for low, high in intervals])),
        "lies below": float(np.mean([high < mean for _, high in intervals])),
        "equal searches apart": float(np.mean([not a.overlaps(b) for a, b in pairwise(intervals)])),
    }


def page(facts: dict[str, Any], numbers: str) -> str:
    """The record as a table."""
    columns = [(kind, title) for kind in ("halves", "bootstrap") for title in facts["rows"][0]["halves"]]
    table = [["trials", *(f"{kind}: {title}" for kind, title in columns)]]
    table += [[str(row["trials"]), *(f"{row[kind][title]:.1%}" for kind, title in columns)] for row in facts["rows"]]
    lines = [
        "# Intervals of hypervolumes",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`. Numbers: [{numbers}]({numbers}).",
        versions_of(facts),
        "",
        f"{NUM_SEARCHES} simulated searches of each size; 95% intervals of {NUM_DRAWS} draws. *The mean*: hypervolume "
        f"of searches of half as many trials (halves) or as many (bootstrap), over {NUM_TRUE} others. *Equal searches "
        "apart*: the intervals of two searches that differ in nothing but their seed do not overlap.",
        "",
        grid(table),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the record here, and a page beside it")
    out = parser.parse_args().out
    facts = circumstances(["numpy", "moocore"], "python -m benchmarks.intervals")
    facts["rows"] = [simulate(num_trials) for num_trials in NUM_TRIALS]
    keep(facts, page(facts, out.name if out else "numbers"), out)


if __name__ == "__main__":
    main()

"""What a sweep of a thousand slots asks of its driver and its MLflow view, with simulated trials.

python -m benchmarks.scale [--trials N] [--slots N] [--cells N] [--trial-minutes X] [--storage DIR] [--out FILE]

As benchmarks.driver, but nobody waits for the view before the last trial has ended, and reports are Poisson events:
each trial that runs reports about seven times in its length. Without `--trial-minutes` no time passes between two
events, and the driver never rests. With it the sweep runs in real time; then it is also measured how late reports are
handled. At the end the view catches up, and the sweep is resumed and reported.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import driver, recording
from benchmarks.driver import Driver, Measurement, OpenSweep, View, measured_windows, open_sweep, sweep_config
from orchestrator.analysis.build import write_report
from orchestrator.analysis.summary import summarize
from orchestrator.conclude import REPORT
from orchestrator.config import SweepConfig
from orchestrator.tracking.sweep_log import load_sweep
from orchestrator.tuning.search import Search

REPORTS_PER_TRIAL = 7  # of 3, 5 or 10 epochs, and the end
TRIAL_MINUTES = (1, 2, 5, 10, 30, 60)


@dataclass
class Clock:
    """Goes from one report to the next; waits until it is due where trials take real time (`trial_minutes` above 0)."""

    trial_minutes: float
    opened: OpenSweep
    view: View
    _late: list[float] = field(default_factory=list)  # seconds by which each report was handled too late
    _lags: list[tuple[int, float]] = field(default_factory=list)
    _elapsed: float = 0.0  # simulated seconds since the last window
    _slot_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(driver.SEED)
        self._due = time.monotonic()

    def __call__(self, num_running: int) -> None:
        """Wait for the next report of any of the trials that run."""
        gap = self._random.exponential((60 * self.trial_minutes or 1.0) / REPORTS_PER_TRIAL / num_running)
        self._elapsed += gap
        self._slot_seconds += gap * num_running
        if self.trial_minutes:
            self._due += gap
            time.sleep(max(0.0, self._due - time.monotonic()))
            self._late.append(time.monotonic() - self._due)
        self._lags.append(self.view.behind(self.opened.put_times))

    def window(self) -> dict[str, float]:
        """Mean number of slots that had a trial; how far the view was behind, and how late reports, since the last."""
        records, seconds = zip(*self._lags, strict=True)
        found = {
            "busy_slots": round(self._slot_seconds / self._elapsed),
            "lag_records_median": float(np.median(records)),
            "lag_records_max": max(records),
            "lag_seconds_median": round(float(np.median(seconds)), 1),
            "lag_seconds_max": round(max(seconds), 1),
        }
        if self._late:
            late = np.percentile(self._late, [50, 99, 100])
            found |= {
                f"late_{name}_ms": round(1e3 * one, 1) for name, one in zip(("p50", "p99", "max"), late, strict=True)
            }
        self._late, self._lags, self._elapsed, self._slot_seconds = [], [], 0.0, 0.0
        return found


def measure(sweep: SweepConfig, slots: int, trial_minutes: float) -> dict[str, Any]:
    """Run the whole sweep, wait for the view, resume the sweep, write its report."""
    windows = []
    with open_sweep(sweep, slots) as opened:
        view = View(opened.pump)
        clock = Clock(trial_minutes, opened, view)
        tune = Driver(Search(sweep, opened.storage, opened.recorder).searcher(opened.plan), slots, clock)
        measurement = Measurement(tune, opened, view, lambda: view.behind(opened.put_times))
        for window in measured_windows(tune, opened, measurement):
            windows.append(window | clock.window() | {"draw_ms": round(1e3 * draw(opened), 1)})
        behind, took = view.catch_up()
        view_seconds = view.cpu_seconds()
    resumed = driver.resume(sweep, opened.storage, opened.plan)
    start = time.perf_counter()
    report = write_report(summarize(load_sweep(opened.storage.local)), opened.storage.local / REPORT)
    return {
        "trials": opened.num_trials,
        "states": opened.states,
        "lookahead": opened.recorder.log.header.lookahead,
        "windows": windows,
        "catch_up": {"records": behind, "seconds": round(took, 1)},
        "view_cpu_ms": round(1e3 * view_seconds / opened.num_trials, 2),
        "resume": resumed,
        "report": {"seconds": round(time.perf_counter() - start, 1), "mb": round(report.stat().st_size / 1e6, 1)},
    }


def draw(opened: OpenSweep) -> float:
    """Seconds that the live view of a terminal takes once."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=120, height=50)
        start = time.perf_counter()
        console.print(opened.progress)
        return time.perf_counter() - start


def loads(found: dict[str, Any], slots: int) -> list[dict[str, float]]:
    """What that many slots ask of one processor core at each length of a trial.

    The driver as in the last window, the view as over all. They are threads of one Python process, so that together
    they have one core: above 1 it is too much.
    """
    *before, window = found["windows"]
    count = window["trials"] - (before[-1]["trials"] if before else 0)
    rows = []
    for minutes in TRIAL_MINUTES:
        per_second = slots / 60 / minutes
        shares = {"driver": per_second * window["cpu_ms"] / 1e3, "view": per_second * found["view_cpu_ms"] / 1e3}
        events = {"trials_per_second": per_second, "records_per_second": per_second * window["records"] / count}
        rows.append({"trial_minutes": minutes} | {name: round(one, 3) for name, one in (events | shares).items()})
    return rows


def page(facts: dict[str, Any], name: str) -> str:
    """The record as a page."""
    pace = f"trials of {facts['trial_minutes']:g} minutes in real time" if facts["trial_minutes"] else "without a pause"
    lag = ["trials", "records", "busy slots", "lag, records", "its maximum", "lag, s", "its maximum", "memory, MB"]
    keys = ["trials", "records", "busy_slots"]
    keys += [f"lag_{unit}_{kind}" for unit in ("records", "seconds") for kind in ("median", "max")] + ["memory_mb"]
    if facts["trial_minutes"]:
        lag += ["report late, ms", "99%", "maximum"]
        keys += [f"late_{kind}_ms" for kind in ("p50", "p99", "max")]
    load = ["trial, minutes", "trials a second", "records a second", "driver", "view"]
    draws = ", ".join(f"{row['draw_ms']:.0f}" for row in facts["windows"])
    end = facts["catch_up"]
    lines = [
        "# A sweep of a thousand slots, simulated" if facts["slots"] == 1000 else "# Simulated slots",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`: {facts['trials']} trials in "
        f"{facts['cells']} cells on {facts['slots']} slots, {pace}; lookahead {facts['lookahead']}. "
        f"Numbers: [{name}]({name}).",
        recording.versions_of(facts),
        "Milliseconds of the driver's thread and kB a trial, as in [driver.md](driver.md); `view behind` is the "
        "age of the oldest record that was not shown.",
        driver.table(facts["windows"]),
        "In each window, at each report: slots that had a trial, and how far the view was behind the journal.",
        recording.grid([lag, *([row[key] for key in keys] for row in facts["windows"])]),
        f"When the last trial had ended, {end['records']} records were not shown; {end['seconds']} s later all were. "
        f"The view took {facts['view_cpu_ms']} ms of the processor for each trial.",
        driver.resumed(facts["resume"])
        + f" Its report of {facts['report']['mb']} MB took {facts['report']['seconds']} "
        f"s. Drawing the live view once took {draws} ms at the end of the windows.",
        f"By processor time, the driver's of the last window, {facts['slots']} slots ask for these shares of one core, "
        "which driver and view have together:",
        recording.grid([load, *(row.values() for row in facts["loads"])]),
    ]
    return "\n\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="rounded up to whole cells")
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--trial-minutes", type=float, default=0.0, help="0: no time passes between events")
    parser.add_argument("--storage", type=Path, help="an existing folder; none: a temporary one")
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.storage) as storage:
        sweep = sweep_config(arguments.trials, arguments.cells, Path(storage))
        found = measure(sweep, arguments.slots, arguments.trial_minutes)
    command = shlex.join(["python", "-m", "benchmarks.scale", *sys.argv[1:]])
    facts = recording.circumstances(driver.PACKAGES, command) | {
        "cells": arguments.cells,
        "slots": arguments.slots,
        "trial_minutes": arguments.trial_minutes,
        **found,
        "loads": loads(found, arguments.slots),
    }
    recording.keep(facts, page(facts, arguments.out.name if arguments.out else "scale.json"), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

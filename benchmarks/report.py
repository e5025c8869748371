"""What the report of a large sweep costs: to make, and to open in a browser.

python -m benchmarks.report [--trials N] [--cells N] [--repeats N] [--storage DIR] [--out FILE.json]

The journal is one of simulated trials (see simulated_slot.py) in cells of `tofu_search`, with settings drawn at random.
Each repeat makes the report in a fresh process and opens it in a fresh headless Chromium, 1600 pixels wide. Times
count from the start of the navigation: to the load event, to the first paint, and until the first front is drawn; then
the table is sorted and filtered once. Needs Chromium and its driver.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import recording
from benchmarks.driver import sweep_config
from benchmarks.pictures import chromium
from benchmarks.simulated_slot import reports
from orchestrator.base_config import Value
from orchestrator.config import SweepConfig, baseline_config, cell_space, trial_config
from orchestrator.space import Choice
from orchestrator.tracking.journal import (
    BASELINES,
    CellRecord,
    ObjectiveRecord,
    Record,
    SweepEnded,
    SweepStarted,
    TrialStarted,
)
from orchestrator.trial_config import TrialConfig, known_metrics
from orchestrator.tuning.cell_study import trial_key
from orchestrator.worker.job import TrialJob

PACKAGES = ("pydantic", "numpy", "moocore", "jinja2", "plotly", "selenium")
SEED = 11
LIMIT_SECONDS = 3.0
# Makes a report, and says where its processor time went.
MAKE = """
import json, sys, time
from pathlib import Path
from orchestrator.analysis.build import render, write_report
from orchestrator.analysis.summary import summarize
from orchestrator.tracking.sweep_log import load_sweep
times = [time.process_time()]
log = load_sweep(Path(sys.argv[1]), keeps_steps=False)
times.append(time.process_time())
summary = summarize(log)
times.append(time.process_time())
write_report(summary, Path(sys.argv[1]) / "report.html")
times.append(time.process_time())
print(json.dumps(dict(zip(("read", "summarize", "write"), (b - a for a, b in zip(times, times[1:])), strict=True))))
"""
# Milliseconds since the navigation began.
OPENED = """
const done = arguments[0];
(function wait() {
  const first = performance.getEntriesByName("first-contentful-paint")[0];
  const [page] = performance.getEntriesByType("navigation");
  const [front] = performance.getEntriesByName("figure drawn");
  if (!first || !page.loadEventEnd || !front) return requestAnimationFrame(wait);
  done({ paint: first.startTime, load: page.loadEventEnd, front: front.startTime });
})();
"""
# Milliseconds from a press to the next frame that the browser shows.
PRESSED = """
const [act, done] = arguments, begin = performance.now();
new Function(act)();
requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
"""
SORT = "document.querySelector('#trials thead th:nth-child(3) button').click()"
FILTER = (
    "const choice = document.querySelector('#trials select[name=method]'); choice.selectedIndex = 1;"
    "choice.dispatchEvent(new Event('change', { bubbles: true }))"
)


def write_journal(sweep: SweepConfig, folder: Path) -> int:
    """A finished sweep of simulated trials; returns how many records its journal has."""
    (folder / "journal").mkdir(parents=True)
    with (folder / "journal" / "000001.jsonl").open("w", encoding="utf-8") as file:
        return sum(bool(file.write(record.model_dump_json() + "\n")) for record in records(sweep, folder))


def records(sweep: SweepConfig, folder: Path) -> Iterator[Record]:
    """The records in the order in which a sweep writes them."""
    known = known_metrics(sweep.scenario, sweep.evaluation)
    objectives = tuple(
        ObjectiveRecord(metric=name, direction=known[name].direction, worst=known[name].worst)
        for name in sweep.objectives
    )
    cells = [(entry, name) for name in sweep.forget_sets for entry in sweep.methods]
    num_trials = sweep.search.trials_per_cell
    yield SweepStarted(
        name=sweep.name,
        seed=sweep.seed,
        config=sweep.model_dump(mode="json"),
        cells=tuple(
            CellRecord(name=f"{e.name}/{name}", method=e.name, forget_set=name, num_trials=num_trials)
            for e, name in cells
        ),
        objectives=objectives,
        lookahead=1,
        versions={},
        command="python -m benchmarks.report",
    )

    def trial(
        key: str, method: str, config: TrialConfig, number: int | None, params: dict[str, Value]
    ) -> Iterator[Record]:
        yield TrialStarted(
            key=key, method=method, forget_set=config.forget_set, number=number, params=params,
            config=config.model_dump(mode="json"),
        )  # fmt: skip
        job = TrialJob(
            key=key, config=config, params=params, place=str(folder), objectives=objectives, keep_weights=False
        )
        yield from reports(job)

    for name in sweep.forget_sets:
        for kind in BASELINES:
            yield from trial(f"{kind}/{name}", kind, baseline_config(sweep, name, "model"), None, {})
    random = np.random.default_rng(SEED)
    for number in range(num_trials):
        for entry, name in cells:
            params = {key: _draw(searched, random) for key, searched in cell_space(sweep, entry).items()}
            config = trial_config(sweep, entry, name, params)
            yield from trial(trial_key(f"{entry.name}/{name}", number), entry.name, config, number, params)
    yield SweepEnded(state="done")


def _draw(searched: Any, random: np.random.Generator) -> Value:
    if isinstance(searched, Choice):
        return searched.choices[int(random.integers(len(searched.choices)))]
    low, high = (float(np.log(end)) if searched.log else end for end in (searched.low, searched.high))
    value = float(random.uniform(low, high))
    value = float(np.exp(value)) if searched.log else value
    return round(value) if searched.type == "int" else value


def make(folder: Path) -> dict[str, float]:
    """Seconds on the clock, and of the processor for reading the journal, boiling it down and writing the page."""
    begin = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", MAKE, str(folder)], capture_output=True, text=True, check=True)
    parts = {f"{part}_s": seconds for part, seconds in json.loads(run.stdout).items()}
    return {"make_s": time.perf_counter() - begin} | parts


def open_page(page: Path, scratch: Path) -> dict[str, float]:
    """Seconds until the page is there, and milliseconds of a press."""
    with chromium(scratch) as browser:
        size = {"width": 1600, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.set_script_timeout(120)
        browser.execute_cdp_cmd("Performance.enable", {})
        browser.get(page.as_uri())
        opened = browser.execute_async_script(OPENED)
        spent = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        presses = {
            f"{name}_ms": browser.execute_async_script(PRESSED, act)
            for name, act in (("sort", SORT), ("filter", FILTER))
        }
    (cpu,) = (metric["value"] for metric in spent if metric["name"] == "ThreadTime")
    return {f"{name}_s": value / 1000 for name, value in opened.items()} | {"cpu_s": cpu} | presses


def measure(sweep: SweepConfig, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians of the repeats, and each of them."""
    num_records = write_journal(sweep, folder)
    runs = []
    for number in range(repeats):
        made = make(folder)
        runs.append(made | open_page(folder / "report.html", folder / f"profile{number}"))
    return {
        "records": num_records,
        "page_mb": round((folder / "report.html").stat().st_size / 1e6, 2),
        "medians": {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]},
        "runs": [{name: round(value, 3) for name, value in run.items()} for run in runs],
    }


TITLES = {
    "make_s": "make it, s", "read_s": "processor: read the journal, s", "summarize_s": "boil it down, s",
    "write_s": "write the page, s", "paint_s": "open it: first paint, s", "load_s": "load event, s",
    "front_s": "first front drawn, s", "cpu_s": "page's processor, s", "sort_ms": "sort, ms", "filter_ms": "filter, ms",
}  # fmt: skip


def page(facts: dict[str, Any], numbers: str) -> str:
    """The record as a table."""
    rows = [["", *TITLES.values()], ["median", *(f"{facts['medians'][name]:.2f}" for name in TITLES)]]
    rows += [[f"run {i}", *(f"{run[name]:.2f}" for name in TITLES)] for i, run in enumerate(facts["runs"], 1)]
    lines = [
        "# The report of a large sweep",
        "",
        f"{facts['date']}, {facts['machine']}, {facts['cores']} cores with other work on them (load "
        f"{facts['load']:.1f} before the first run), niceness {facts['nice']}. "
        f"`{facts['command']}`. Numbers: [{numbers}]({numbers}).",
        recording.versions_of(facts),
        "",
        f"{facts['trials']} trials in {facts['cells']} cells, {facts['records']} records; a page of {facts['page_mb']} "
        "MB. *Make it* is a run of Python on the clock; the three columns after it are its processor time. Opening "
        "counts on the clock from the start of the navigation; *page's processor* is what the page's thread had used "
        f"when the first front, or more, was drawn. The goal is to open within {LIMIT_SECONDS:g} s on a quiet machine.",
        "",
        recording.grid(rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="rounded up to whole cells")
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--storage", type=Path, help="an existing folder; none: a temporary one")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the record here, and a page beside it")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.storage, ignore_cleanup_errors=True) as storage:
        sweep = sweep_config(arguments.trials, arguments.cells, Path(storage))
        found = measure(sweep, Path(storage) / "sweep", arguments.repeats)
    command = shlex.join(["python", "-m", "benchmarks.report", *sys.argv[1:]])
    facts = recording.circumstances(PACKAGES, command) | {
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "nice": os.nice(0),
        "trials": sweep.search.trials_per_cell * arguments.cells,
        "cells": arguments.cells,
        **found,
    }
    recording.keep(facts, page(facts, arguments.out.name if arguments.out else "report.json"), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

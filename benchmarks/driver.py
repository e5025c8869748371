"""What a sweep's driver costs a trial: search, journal, checkpoints, progress and the MLflow view.

python -m benchmarks.driver [--trials N] [--cells N] [--at-a-time N] [--storage DIR] [--out FILE]

Everything is what a sweep uses but Ray: the searcher that Tune is given is asked and told as Tune does, by one thread,
and slots are simulated (see simulated_slot.py). The journal waits for the disk, the view is a SQLite store and has its
thread. The cells are those of `tofu_search`, methods x 3 forget sets. The driver is never idle here, so the view falls
behind: at the end of each window of trials it may catch up, then memory is read. At the end the sweep is resumed with
nothing left to run. `--out` records the result there and beside it as a table.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ray.tune.search import Searcher
from rich.console import Console

from benchmarks import recording
from benchmarks.simulated_slot import reports
from benchmarks.stopwatch import Stopwatch
from orchestrator.config import SweepConfig
from orchestrator.load_config import load_config
from orchestrator.progress import Progress
from orchestrator.session import Study, open_record
from orchestrator.storage import Storage
from orchestrator.tracking.checkpoints import CheckpointKeeper
from orchestrator.tracking.journal import Journal, Record
from orchestrator.tracking.pump import Pump
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import load_sweep
from orchestrator.tuning.cell_search import CellSearch
from orchestrator.tuning.cell_study import CellStudy
from orchestrator.tuning.resources import Plan
from orchestrator.tuning.search import Search
from orchestrator.worker.job import TrialJob

WINDOWS = (500, 1000, 2000, 5000)
PACKAGES = ("optuna", "ray", "mlflow", "pydantic", "numpy", "sqlalchemy")
SEED = 11
# Whose time is whose: a part's seconds are without those of the parts that it calls.
PARTS: tuple[tuple[type, str, str], ...] = (
    (CellStudy, "suggest", "Optuna"),
    (CellSearch, "suggest", "jobs"),
    (CellSearch, "on_trial_result", "reading reports"),
    (CellSearch, "on_trial_complete", "jobs"),
    (Journal, "append", "journal"),
    (Recorder, "record", "log"),
    (CheckpointKeeper, "__call__", "checkpoints"),
    (Progress, "__call__", "progress"),
    (Pump, "put", "log"),
)


@dataclass
class Flight:
    """A trial on its simulated slot."""

    trial_id: str
    left: deque[Record]
    seconds: float
    num_reports: int = 0


class Driver:
    """Plays Tune: keeps the slots full and hands over one report of a random trial at a time.

    `wait` is called before each report with the number of trials that run. `trial_seconds` are the driver's seconds for
    each trial that ended, `cpu_seconds` its processor's for all of them.
    """

    def __init__(self, search: CellSearch, at_a_time: int, wait: Callable[[int], None] = lambda _: None) -> None:
        self._search, self._at_a_time, self._wait = search, at_a_time, wait
        self._random = np.random.default_rng(SEED)
        self._flights: list[Flight] = []
        self._num_asked = 0
        self._seconds = 0.0
        self.trial_seconds: list[float] = []
        self.cpu_seconds = 0.0

    def run(self) -> Iterator[int]:
        """Yields how many trials have ended, whenever one has."""
        while self._fill():
            self._wait(len(self._flights))
            place = int(self._random.integers(len(self._flights)))
            flight = self._flights[place]
            self._report(flight)
            if not flight.left:
                self._flights[place] = self._flights[-1]
                self._flights.pop()
                self.trial_seconds.append(flight.seconds)
                yield len(self.trial_seconds)

    def _fill(self) -> bool:
        """Ask for jobs while there are free slots; whether anything runs. Asking in vain is on the last trial."""
        while len(self._flights) < self._at_a_time:
            with self._timed():
                suggestion = self._search.suggest(str(self._num_asked))
            if suggestion is None or suggestion == Searcher.FINISHED:
                if self._flights:
                    self._flights[-1].seconds += self._seconds
                break
            job = TrialJob.model_validate_json(suggestion["job"])
            self._flights.append(Flight(str(self._num_asked), deque(reports(job)), self._seconds))
            self._num_asked += 1
        return bool(self._flights)

    def _report(self, flight: Flight) -> None:
        record = flight.left.popleft().model_dump_json()
        result = {"slot": "slot", "report": flight.num_reports, "record": record}
        flight.num_reports += 1
        with self._timed():
            self._search.on_trial_result(flight.trial_id, result)
            if not flight.left:
                self._search.on_trial_complete(flight.trial_id, result)
        flight.seconds += self._seconds

    @contextmanager
    def _timed(self) -> Iterator[None]:
        cpu, wall = time.thread_time(), time.perf_counter()
        yield
        self._seconds = time.perf_counter() - wall
        self.cpu_seconds += time.thread_time() - cpu


@dataclass
class OpenSweep:
    """A sweep whose record is open; `put_times` are the seconds, by the monotonic clock, at which its records came.

    The first of them is the header's.
    """

    storage: Storage
    plan: Plan
    recorder: Recorder
    pump: Pump[Any]
    progress: Progress
    watch: Stopwatch
    put_times: list[float] = field(default_factory=lambda: [time.monotonic()])

    @property
    def num_trials(self) -> int:
        """Trials of the search, without baselines."""
        return self.recorder.log.header.num_trials

    @property
    def num_baselines(self) -> int:
        """Models that are scored as they are before the search begins."""
        return 2 * len({cell.forget_set for cell in self.recorder.log.header.cells})

    @property
    def states(self) -> dict[str, int]:
        """How many trials of the search ended how."""
        return dict(Counter(str(trial.finished.state) for trial in self.recorder.log.searched() if trial.finished))

    def journal_bytes(self) -> int:
        """Size of all segments."""
        return sum(path.stat().st_size for path in (self.storage.local / "journal").glob("*.jsonl"))


@contextmanager
def open_sweep(sweep: SweepConfig, at_a_time: int) -> Iterator[OpenSweep]:
    """A new sweep with its parts timed; at the end its journal and view are closed."""
    storage, watch = Storage(sweep.storage_root / sweep.name), Stopwatch()
    plan = Plan(at_a_time, 2, 2 * at_a_time, 2 * at_a_time)
    with ExitStack() as stack:
        for part in PARTS:
            stack.enter_context(watch.method(*part))
        recorder, pump, _ = open_record(Study(sweep, storage, None, {}), plan)
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        progress = stack.enter_context(Progress(recorder.log, Console(file=nowhere)))
        opened = OpenSweep(storage, plan, recorder, pump, progress, watch)
        recorder.listeners += [progress, lambda _: opened.put_times.append(time.monotonic())]
        yield opened
        recorder.close()
        pump.close(60)


class View:
    """The pump's thread seen from outside."""

    def __init__(self, pump: Pump[Any]) -> None:
        self._pump = pump
        self._thread = next(thread.native_id for thread in threading.enumerate() if thread.name == "tracking-pump")

    def cpu_seconds(self) -> float:
        """Processor seconds of the thread so far."""
        (times,) = [each for each in psutil.Process().threads() if each.id == self._thread]
        return float(times.user_time + times.system_time)

    def behind(self, put_times: Sequence[float]) -> tuple[int, float]:
        """Records that are not shipped yet, and the age of the oldest in seconds."""
        waiting = self._pump.num_waiting
        return waiting, time.monotonic() - put_times[-waiting] if waiting else 0.0

    def catch_up(self) -> tuple[int, float]:
        """Wait until nothing is left to ship; returns the records that were, and the seconds that it took."""
        behind, start = self._pump.num_waiting, time.perf_counter()
        while self._pump.num_waiting:
            time.sleep(0.02)
        return behind, time.perf_counter() - start


class Measurement:
    """What changed since the last time that somebody looked.

    `lag` says how far the view is behind, in records and seconds, and may wait for it.
    """

    def __init__(self, driver: Driver, opened: OpenSweep, view: View, lag: Callable[[], tuple[int, float]]) -> None:
        self._driver, self._opened, self._view, self._lag = driver, opened, view, lag
        self._first = self._bytes = self._records = 0
        self._cpu = self._view_cpu = self._memory = self._start = 0.0
        self.window(0)

    def window(self, num_trials: int) -> dict[str, Any]:
        """Numbers of the trials since the last window."""
        took = time.monotonic() - self._start
        seconds, parts = self._driver.trial_seconds[self._first :], dict(self._opened.watch.seconds)
        cpu, records = self._driver.cpu_seconds, len(self._opened.put_times)
        behind, waited = self._lag()
        gc.collect()
        memory, view_cpu = psutil.Process().memory_info().rss, self._view.cpu_seconds()
        size = self._opened.journal_bytes()
        count = max(1, len(seconds))
        found = {
            "trials": num_trials,
            "seconds": round(took, 1),
            "records": records - self._records,
            "median_ms": round(1e3 * float(np.median(seconds or [0])), 2),
            "p95_ms": round(1e3 * float(np.percentile(seconds or [0], 95)), 2),
            "mean_ms": round(1e3 * sum(seconds) / count, 2),
            "cpu_ms": round(1e3 * (cpu - self._cpu) / count, 2),
            "parts_ms": {part: round(1e3 * spent / count, 2) for part, spent in sorted(parts.items())},
            "view_cpu_ms": round(1e3 * (view_cpu - self._view_cpu) / count, 2),
            "view_records_behind": behind,
            "view_seconds_behind": round(waited, 1),
            "memory_kb": round((memory - self._memory) / count / 1e3, 1),
            "memory_mb": round(memory / 1e6, 1),
            "journal_kb": round((size - self._bytes) / count / 1e3, 1),
        }
        self._first, self._bytes, self._records = len(self._driver.trial_seconds), size, records
        self._cpu, self._view_cpu, self._memory = cpu, view_cpu, memory
        self._opened.watch.seconds.clear()
        self._start = time.monotonic()
        return found


def sweep_config(num_trials: int, num_cells: int, storage: Path) -> SweepConfig:
    """`tofu_search` with as many of its methods as make that many cells, and at least that many trials."""
    methods = load_config("tofu_search").methods[: num_cells // 3]
    if not methods or num_cells != 3 * len(methods):
        raise ValueError(f"--cells must be a multiple of 3 from 3 to 30, but got {num_cells}")
    overrides = [
        f"storage={storage}",
        f"methods={json.dumps([method.model_dump(exclude={'space'}) for method in methods])}",
        f"search.trials_per_cell={-(-num_trials // num_cells)}",
        *(f"model.retain_models.{name}=open-unlearning/{name}" for name in ("forget01", "forget05", "forget10")),
    ]
    return load_config("tofu_search", overrides)


def measure(sweep: SweepConfig, at_a_time: int) -> dict[str, Any]:
    """Run the whole sweep, then resume it. The view catches up at the end of each window, before memory is read."""
    with open_sweep(sweep, at_a_time) as opened:
        driver = Driver(Search(sweep, opened.storage, opened.recorder).searcher(opened.plan), at_a_time)
        view = View(opened.pump)
        windows = list(measured_windows(driver, opened, Measurement(driver, opened, view, view.catch_up)))
    return {
        "trials": opened.num_trials,
        "states": opened.states,
        "windows": windows,
        "resume": resume(sweep, opened.storage, opened.plan),
    }


def measured_windows(driver: Driver, opened: OpenSweep, measurement: Measurement) -> Iterator[dict[str, Any]]:
    """Run the whole sweep; yields each window."""
    sizes = (*(size for size in WINDOWS if size < opened.num_trials), opened.num_trials)
    for ended in driver.run():
        if ended == opened.num_baselines:  # they begin the search and belong to no window
            measurement.window(0)
        elif ended - opened.num_baselines in sizes:
            found = measurement.window(ended - opened.num_baselines)
            print(json.dumps(found), flush=True)  # a long run is looked at while it goes on
            yield found


def resume(sweep: SweepConfig, storage: Storage, plan: Plan) -> dict[str, float]:
    """Seconds of each thing that a sweep does when it is resumed, nothing being left to run."""
    marks = [time.perf_counter()]
    log = load_sweep(storage.local, keeps_steps=False)
    marks.append(time.perf_counter())
    recorder, pump, _ = open_record(Study(sweep, storage, log, {}), plan)
    marks.append(time.perf_counter())
    suggestion = Search(sweep, storage, recorder).searcher(plan).suggest("resumed")
    assert suggestion == Searcher.FINISHED, suggestion
    marks.append(time.perf_counter())
    View(pump).catch_up()
    marks.append(time.perf_counter())
    recorder.close()
    pump.close(60)
    names = ("read", "open", "replay", "view")
    return {name: round(end - start, 2) for name, start, end in zip(names, marks, marks[1:], strict=False)}


def page(facts: dict[str, Any], name: str) -> str:
    """The record as a page."""
    lines = [
        "# The driver's cost of a trial",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`: {facts['trials']} trials in {facts['cells']} "
        f"cells, {facts['at_a_time']} at a time. Numbers: [{name}]({name}).",
        recording.versions_of(facts),
        "Milliseconds a trial of the driver's thread: median, 95th percentile, mean, processor time, and the mean by "
        "part. `view` is the processor time of the view's thread, `view behind` how long it needed to catch up with a "
        "driver that never rests. Memory and journal are kB a trial.",
        table(facts["windows"]),
        resumed(facts["resume"]),
    ]
    return "\n\n".join(lines) + "\n"


def table(windows: list[dict[str, Any]]) -> str:
    """A row for each window."""
    parts = list(dict.fromkeys(part for *_, part in PARTS))
    columns = ["trials", "median", "p95", "mean", "processor", *parts, "view", "view behind", "memory", "journal"]
    rows = [columns]
    for row in windows:
        values = [row["trials"], row["median_ms"], row["p95_ms"], row["mean_ms"], row["cpu_ms"]]
        values += [row["parts_ms"].get(part, 0) for part in parts]
        values += [row["view_cpu_ms"], f"{row['view_seconds_behind']} s", row["memory_kb"], row["journal_kb"]]
        rows.append(values)
    return recording.grid(rows)


def resumed(took: dict[str, float]) -> str:
    """What `resume` found, in words."""
    return (
        f"Resumed with nothing left to run: journal read in {took['read']} s, read again for the view in "
        f"{took['open']} s, searches replayed in {took['replay']} s; the view had looked through it {took['view']} s "
        "later."
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="rounded up to whole cells")
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--at-a-time", type=int, default=64)
    parser.add_argument("--storage", type=Path, help="an existing folder; none: a temporary one")
    parser.add_argument("--out", type=Path, help="JSON file to write; its table gets the same name with .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.storage) as storage:
        found = measure(sweep_config(arguments.trials, arguments.cells, Path(storage)), arguments.at_a_time)
    size = f"--trials {arguments.trials} --cells {arguments.cells} --at-a-time {arguments.at_a_time}"
    facts = recording.circumstances(PACKAGES, f"python -m benchmarks.driver {size}")
    facts |= {"cells": arguments.cells, "at_a_time": arguments.at_a_time} | found
    recording.keep(facts, page(facts, arguments.out.name if arguments.out else "driver.json"), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What slots cost the head: memory by kind of process, and the driver's time with Tune.

python -m benchmarks.head [--slots 1 2] [--out FILE]

A real local cluster, Tune and Ray Train, started as a sweep starts them, with slots of one worker that trains nothing.
All slots are full when memory is read, as PSS: what processes share is counted once. The workers run here too, but on a
cluster they are on other nodes. Then sixty more trials run, which take no time of their own.
"""

import argparse
import contextlib
import shlex
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil

from benchmarks import recording, simulated_slot
from benchmarks.driver import sweep_config
from orchestrator.config import SweepConfig
from orchestrator.session import Study, open_record
from orchestrator.storage import Storage
from orchestrator.tracking.journal import Record, StepsReported, TrialFinished, TrialStarted
from orchestrator.tuning.resources import Plan
from orchestrator.tuning.search import Search, ray_session

PACKAGES = ("ray", "torch", "deepspeed", "mlflow")
MORE_TRIALS = 60
ELSEWHERE = ("RayTrainWorker", "IDLE")  # on a cluster: other nodes' processes; those that wait for work


class Watcher:
    """A listener that reads memory once all slots have a trial, and then lets the trials go on."""

    def __init__(self, num_slots: int, folder: Path) -> None:
        self._num_slots, self._folder = num_slots, folder
        self._starts: list[float] = []
        self._full: set[str] = set()
        self._ended = 0
        self.found: dict[str, Any] = {}

    def __call__(self, record: Record) -> None:
        """Look at one record."""
        if isinstance(record, TrialStarted) and record.number is not None:
            self._starts.append(time.monotonic())
        elif isinstance(record, StepsReported) and not self.found:
            self._full.add(record.key)
            if len(self._full) == self._num_slots:
                self._read()
        elif isinstance(record, TrialFinished) and self.found:
            self._ended += 1
            self.found["driver_cpu_ms"] = round(1e3 * (time.process_time() - self._cpu) / self._ended, 1)

    def _read(self) -> None:
        held = processes()
        self.found = {
            "processes": held,
            "head_mb": round(sum(kind["mb"] for name, kind in held.items() if name not in ELSEWHERE), 1),
            "seconds_between_starts": [round(gap, 1) for gap in np.diff(self._starts[: self._num_slots])],
            "seconds_until_full": round(time.monotonic() - self._starts[0], 1),
        }
        (self._folder / simulated_slot.GO).touch()
        self._cpu = time.process_time()


def measure(num_slots: int) -> dict[str, Any]:
    """One sweep with that many slots, on a cluster of its own."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = _sweep(num_slots, Path(folder))
        storage, plan = Storage(sweep.storage_root / sweep.name), Plan(num_slots, 1, num_slots, num_slots)
        with ray_session(sweep.resources):
            recorder, pump, _ = open_record(Study(sweep, storage, None, {}), plan)
            watcher = Watcher(num_slots, storage.local)
            recorder.listeners.append(watcher)
            with mock.patch("orchestrator.tuning.slot.run_on_slot", simulated_slot.run_on_slot):
                Search(sweep, storage, recorder).run(plan)
            recorder.close()
            pump.close(60)
    return {"slots": num_slots} | watcher.found


def _sweep(num_slots: int, folder: Path) -> SweepConfig:
    sweep = sweep_config(num_slots + MORE_TRIALS, 3, folder)
    changes = {"workers_per_trial": 1, "gpus_per_worker": 0.0, "cpus_per_worker": 0.01}
    return sweep.model_copy(update={"resources": sweep.resources.model_copy(update=changes)})


def processes() -> dict[str, dict[str, float]]:
    """Number and PSS in MB, all together, of this process and of what it started, by kind."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    found["driver"].append(psutil.Process().memory_full_info().pss / 1e6)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found[_kind(process.cmdline())].append(process.memory_full_info().pss / 1e6)
    return {kind: {"count": len(sizes), "mb": round(sum(sizes), 1)} for kind, sizes in sorted(found.items())}


def _kind(command: list[str]) -> str:
    """An actor's class, a script's name, or a program's."""
    if command and command[0].startswith("ray::"):
        return command[0].removeprefix("ray::").partition(".")[0]
    return Path(next((word for word in command if word.endswith(".py")), command[0] if command else "ended")).name


def by_slot(sizes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """MB of the head for each slot and without any, fitted to all sizes."""
    slope, rest = np.polyfit([size["slots"] for size in sizes], [size["head_mb"] for size in sizes], 1)
    return {"slot_mb": round(float(slope)), "rest_mb": round(float(rest))}


def page(facts: dict[str, Any], name: str) -> str:
    """The record as a page."""
    sizes = facts["sizes"]
    kinds = sorted({kind for size in sizes for kind in size["processes"]})
    rows = [
        ["", *(f"{size['slots']} slots" for size in sizes)],
        ["---", *("---:" for _ in sizes)],
        *([kind, *(_cell(size["processes"].get(kind)) for size in sizes)] for kind in kinds),
        ["without worker and idle", *(f"{size['head_mb']:.0f}" for size in sizes)],
        ["from the first trial until every slot had one, s", *(f"{size['seconds_until_full']:.0f}" for size in sizes)],
        ["driver, processor ms a trial", *(f"{size['driver_cpu_ms']:.0f}" for size in sizes)],
    ]
    lines = [
        "# What slots cost the head",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`. Numbers: [{name}]({name}).",
        recording.versions_of(facts),
        "Memory (PSS) in MB by kind of process, their number in brackets, when every slot had a trial. The driver's "
        "time is that of all its threads, Tune's, the view's and its start included, over the trials that followed.",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        f"Fitted: {facts['slot_mb']} MB for each slot, {facts['rest_mb']} MB without any." if len(sizes) > 1 else "",
    ]
    return "\n\n".join(filter(None, lines)) + "\n"


def _cell(held: dict[str, float] | None) -> str:
    return f"{held['mb']:.0f} ({held['count']:.0f})" if held else ""


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        found = list(pool.map(measure, arguments.slots))
    command = shlex.join(["python", "-m", "benchmarks.head", *sys.argv[1:]])
    facts = recording.circumstances(PACKAGES, command) | {"sizes": found}
    facts |= by_slot(found) if len(found) > 1 else {}
    recording.keep(facts, page(facts, arguments.out.name if arguments.out else "head.json"), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

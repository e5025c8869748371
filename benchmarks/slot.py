"""Memory and open files of a slot's workers and of the driver, over hundreds of trials of a real sweep.

python -m benchmarks.slot [--trials 200] [--out benchmarks/results/slot.json]

The quickstart's embedded models, few rows and one epoch: what is measured is what a trial leaves behind.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.recording import circumstances, keep, versions_of

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "optuna", "mlflow")
SETTINGS = (
    "quickstart", "scenario.num_authors=10", "forget_sets=[forget10]", "evaluation.max_rows_per_set=4",
    "train.epochs=1", "train.batch_size=4", "checkpoint.every_minutes=0", "resources.slot_idle_seconds=600",
)  # fmt: skip
METHODS = ("NPO+GD", "IDK+AP")
_ENDED = b'"kind":"trial_finished"'


def measure(num_trials: int, storage: Path) -> list[dict[str, Any]]:
    """After each trial: RSS in MiB and open file descriptors of the driver and of each worker."""
    per_cell = -(-num_trials // len(METHODS))
    settings = [*SETTINGS, f"methods=[{','.join(METHODS)}]", f"search.trials_per_cell={per_cell}"]
    command = [sys.executable, "-m", "orchestrator.sweep", *settings, f"storage={storage}"]
    samples: list[dict[str, Any]] = []
    with (storage / "output").open("w") as output:
        sweep = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while sweep.poll() is None:
            ended = sum(path.read_bytes().count(_ENDED) for path in storage.glob("*/journal/*.jsonl"))
            if ended > (samples[-1]["ended"] if samples else 0):
                with contextlib.suppress(psutil.NoSuchProcess):  # the sweep is ending
                    samples.append({"ended": ended} | dict(_looks(psutil.Process(sweep.pid))))
            time.sleep(0.2)
    if sweep.returncode != 0:
        raise RuntimeError((storage / "output").read_text()[-3000:])
    return [sample for sample in samples if "worker 1" in sample]


def _looks(driver: psutil.Process) -> Iterator[tuple[str, dict[str, float]]]:
    yield "driver", _look(driver)
    workers = [one for one in driver.children(recursive=True) if one.name().startswith("ray::RayTrainW")]
    for number, worker in enumerate(sorted(workers, key=lambda one: one.pid)):
        yield f"worker {number}", _look(worker)


def _look(process: psutil.Process) -> dict[str, float]:
    return {"mib": process.memory_info().rss / 2**20, "files": process.num_fds(), "threads": process.num_threads()}


def summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Each process at the start, in the middle and at the end, and its slope over the second half."""
    half = samples[len(samples) // 2 :]
    found = {}
    for name in ("driver", "worker 0", "worker 1"):
        slope = {
            key: float(np.polyfit([one["ended"] for one in half], [one[name][key] for one in half], 1)[0])
            for key in ("mib", "files", "threads")
        }
        places = {"10": samples[min(9, len(samples) - 1)], "half": half[0], "end": samples[-1]}
        found[name] = {"at": {place: one[name] for place, one in places.items()}, "a_trial": slope}
    return {"trials": samples[-1]["ended"], "processes": found}


def page(facts: dict[str, Any]) -> str:
    """The record as a page."""
    lines = [
        f"# {facts['trials']} trials in one slot",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`.",
        versions_of(facts),
        "",
        "Resident memory and open files after 10 trials, half of them and all; growth a trial over the second half.",
        "",
        "| process | MiB at 10 | half | end | MiB a trial | files at 10 | half | end | files a trial |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in facts["processes"].items():
        cells = [
            " | ".join(f"{found['at'][place][key]:.0f}" for place in ("10", "half", "end"))
            + f" | {found['a_trial'][key]:.3f}"
            for key in ("mib", "files")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = summary(measure(arguments.trials, Path(folder)))
    facts = circumstances(PACKAGES, shlex.join(["python", "-m", "benchmarks.slot", *sys.argv[1:]])) | found
    keep(facts, page(facts), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Four trials as published scripts run them, and the same four by a sweep of Lethe, in turn and in one go.

python -m benchmarks.versus_scripts [--conventions masked paper_code] [--repeats 3] [--storage DIR] [--out FILE]

ME+GD, IDK+AP, NPO+GD and GA+GD forget 40 rows of TOFU with a Llama of 3.6 M parameters that knows them by heart: batch
4 x accumulation 4, 5 epochs, evaluation on four sets of 40 questions. The scripts' way is benchmarks/naive_loop.py, two
processes a trial on all cores. Lethe's way is `python -m orchestrator.sweep`, started from nothing: Ray, one slot of
two workers with one thread each, the model before unlearning scored too, MLflow, report. Both have the same models and
judges. A sweep is repeated, each time beginning with another method, because the first trial after the start is slower
than those that follow; medians are taken over the repeats. The naive loop runs once, as it takes minutes.

Exit code 1 if, under paper_code, a metric of a trial differs by more than 0.01: a fast wrong answer counts as nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.fidelity import ACCUMULATION, CASES, EPOCHS, MICRO_BATCH, SHARED, Case
from benchmarks.naive_loop import EVALUATION_FILE, ROWS_PER_SET, SECONDS_FILE
from benchmarks.recording import circumstances, versions_of
from orchestrator.base_config import EMBEDDED
from orchestrator.tracking.sweep_log import SweepLog, load_sweep

PACKAGES = ("lethe-unlearning", "torch", "transformers", "deepspeed", "ray", "optuna", "mlflow")
AGREEMENT = 0.01
RESULTS = Path(__file__).parent / "results"


@dataclass
class Trial:
    """One trial by one program: seconds in all and by phase, and every metric."""

    seconds: float
    phases: dict[str, float]
    metrics: dict[str, float]


@dataclass
class Run:
    """All trials by one program, by method; `between` are the seconds between two trials of the slot."""

    wall_seconds: float
    peak_gib: float
    trials: dict[str, Trial]
    between: list[float] = field(default_factory=list)


class Process:
    """A command that runs to its end; how long that took, and the most memory found in it and its children."""

    def __init__(self, command: list[str], **environment: str) -> None:
        started = time.perf_counter()
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe may fill up)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**kept, "HF_HUB_OFFLINE": "1", **environment}
        )
        self.peak_bytes = 0
        watcher = threading.Thread(target=self._watch, args=(psutil.Process(process.pid),), daemon=True)
        watcher.start()
        code = process.wait()
        self.seconds = time.perf_counter() - started
        if code:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{output.read()[-4000:]}")

    def _watch(self, root: psutil.Process) -> None:
        while True:
            try:
                tree = [root, *root.children(recursive=True)]
                held = sum(_proportional_bytes(process) for process in tree)
            except psutil.NoSuchProcess:
                return
            self.peak_bytes = max(self.peak_bytes, held)
            time.sleep(20.0)  # a shorter peak may be missed, but looking costs time that the processes need


def _proportional_bytes(process: psutil.Process) -> int:
    """What a process holds, its share of shared pages only: Ray's processes share much."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def naive_run(folder: Path, convention: str, judge: str, encoder: str) -> Run:
    """The four trials by the naive loop."""
    started = time.perf_counter()
    trials, peak = {}, 0
    for case in CASES:
        out = folder / f"naive-{convention}-{case.method}"
        settings = ["--method", case.method, "--learning-rate", str(case.learning_rate)]
        settings += ["--forget-weight", str(case.forget_weight), "--convention", convention]
        loop = [sys.executable, "-m", "benchmarks.naive_loop"]
        training = Process([*loop, "train", str(out), *settings])
        scoring = Process([*loop, "evaluate", str(out), "--judge", judge, "--encoder", encoder])
        seconds = json.loads((out / SECONDS_FILE).read_text())["seconds"]
        evaluation = json.loads((out / EVALUATION_FILE).read_text())
        whole = training.seconds + scoring.seconds
        phases = {"train": seconds["train"], "evaluate": evaluation["seconds"]["evaluate"]}
        phases["start, load, save"] = whole - sum(phases.values())
        trials[case.method] = Trial(whole, phases, evaluation["metrics"])
        peak = max(peak, training.peak_bytes, scoring.peak_bytes)
        print(f"naive {convention} {case.method}: {whole:.1f} s {_rounded(phases)}", flush=True)
    return Run(time.perf_counter() - started, peak / 2**30, trials)


def lethe_run(folder: Path, convention: str, judge: str, encoder: str, number: int) -> Run:
    """The four trials by a sweep, from the start of its process to its end."""
    storage = folder / f"lethe-{convention}-{number}"
    storage.mkdir()
    file = storage / "sweep.yaml"
    settings = sweep_settings(convention, encoder, judge) | {"storage": str(storage)}
    first = number % len(CASES)
    settings["methods"] = settings["methods"][first:] + settings["methods"][:first]
    file.write_text(yaml.safe_dump(settings))
    process = Process([sys.executable, "-m", "orchestrator.sweep", str(file)], OMP_NUM_THREADS="1")
    (sweep,) = [path for path in storage.iterdir() if (path / "journal").is_dir()]
    log = load_sweep(sweep)
    trials, between = _journal_trials(log)
    for method, trial in trials.items():
        print(f"lethe {convention} {method}: {trial.seconds:.2f} s {_rounded(trial.phases)}", flush=True)
    print(f"lethe {convention}: {process.seconds:.1f} s in all, between trials {_rounded(between)}", flush=True)
    return Run(process.seconds, process.peak_bytes / 2**30, trials, between)


def sweep_settings(convention: str, encoder: str, judge: str) -> dict[str, Any]:
    """A sweep file of the four trials, one for each method."""
    return {
        "name": "versus",
        "scenario": {
            "name": "tofu",
            "source": str(SHARED / "data" / "tofu_small"),
            "retain_sets": {"forget01": "retain90"},
            "refusals": str(SHARED / "data" / "refusals.txt"),
        },
        "model": {"target": str(SHARED / "models" / "tofu_tiny_target")},
        "methods": [_method(case) for case in CASES],
        "forget_sets": ["forget01"],
        "search": {"trials_per_cell": 1, "space": {}},
        "train": {"convention": convention, "batch_size": MICRO_BATCH * ACCUMULATION, "epochs": EPOCHS},
        "evaluation": {"max_rows_per_set": ROWS_PER_SET, "encoder": encoder, "entailment": judge, "batch_size": 128},
        "resources": {"workers_per_trial": 2},
    }


def _method(case: Case) -> dict[str, Any]:
    return {"name": case.method, "forget_weight": case.forget_weight, "train": {"learning_rate": case.learning_rate}}


def _journal_trials(log: SweepLog) -> tuple[dict[str, Trial], list[float]]:
    """Seconds of each trial from the end of the one before it; of these, what is outside the trial's own work."""
    ended = sorted((trial for trial in log.trials.values() if trial.finished), key=_end)
    trials, between = {}, []
    for before, trial in zip(ended, ended[1:], strict=False):
        assert trial.finished is not None
        seconds = _end(trial) - _end(before)
        trials[trial.started.method] = Trial(seconds, trial.finished.seconds, trial.finished.metrics)
        between.append(seconds - sum(trial.finished.seconds.values()))
    return trials, between


def _end(trial: Any) -> float:
    return float(trial.finished.time)


def differences(naive: Run, sweeps: list[Run]) -> dict[str, float]:
    """The largest difference of any metric in any sweep, by method."""
    return {
        method: max(
            abs(value - run.trials[method].metrics[name]) for run in sweeps for name, value in trial.metrics.items()
        )
        for method, trial in naive.trials.items()
    }


def summary(naive: Run, sweeps: list[Run]) -> dict[str, Any]:
    """Seconds and ratios, medians over the sweeps."""
    per_trial = {}
    for method, theirs in naive.trials.items():
        ours = [run.trials[method] for run in sweeps]
        median = {
            "seconds": statistics.median(trial.seconds for trial in ours),
            "train": statistics.median(trial.phases["train"] + trial.phases["reference"] for trial in ours),
            "evaluate": statistics.median(trial.phases["evaluate"] for trial in ours),
        }
        scripts = {"seconds": theirs.seconds, "train": theirs.phases["train"], "evaluate": theirs.phases["evaluate"]}
        per_trial[method] = {
            "naive": scripts,
            "lethe": median,
            "ratio": {name: scripts[name] / median[name] for name in scripts},
        }
    whole = statistics.median(run.wall_seconds for run in sweeps)
    totals = {
        name: [sum(row[who][name] for row in per_trial.values()) for who in ("naive", "lethe")] for name in median
    }
    return {
        "per_trial": per_trial,
        "four trials, ratio": {name: naive_sum / ours_sum for name, (naive_sum, ours_sum) in totals.items()},
        "cold start": {"naive": naive.wall_seconds, "lethe": whole, "ratio": naive.wall_seconds / whole},
        "between two trials, median": statistics.median(gap for run in sweeps for gap in run.between),
        "peak GiB": {"naive": naive.peak_gib, "lethe": max(run.peak_gib for run in sweeps)},
        "naive, share of phases": _shares(naive),
        "largest difference of a metric": differences(naive, sweeps),
    }


def _shares(run: Run) -> dict[str, float]:
    whole = sum(trial.seconds for trial in run.trials.values())
    names = next(iter(run.trials.values())).phases
    return {name: sum(trial.phases[name] for trial in run.trials.values()) / whole for name in names}


def page(facts: dict[str, Any], conventions: dict[str, dict[str, Any]]) -> str:
    """The record as a page."""
    lines = [
        "# Four trials: a naive loop and a sweep",
        "",
        f"{facts['date']}, {facts['machine']}, {facts['cores']} cores. `{facts['command']}`.",
        f"Seconds of Lethe are medians of {facts['repeats']} sweeps, from the end of one trial to the end of the next.",
        versions_of(facts),
    ]
    for convention, found in conventions.items():
        lines += [
            "",
            f"## {convention}",
            "",
            "| trial | naive: all | train | evaluate | Lethe: all | train | evaluate |",
        ]
        lines[-1] += " ratio: all | train | evaluate |"
        lines.append("|---|" + "---:|" * 9)
        for method, row in found["per_trial"].items():
            numbers = [f"{row[who][name]:.1f}" for who in ("naive", "lethe", "ratio") for name in row[who]]
            lines.append(f"| {method} | {' | '.join(numbers)} |")
        ratios = found["four trials, ratio"]
        lines.append(f"| all four | | | | | | | {' | '.join(f'{value:.1f}' for value in ratios.values())} |")
        cold, peak = found["cold start"], found["peak GiB"]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["naive, share of phases"].items())
        worst = ", ".join(f"{name} {value:.4f}" for name, value in found["largest difference of a metric"].items())
        lines += [
            "",
            f"From a cold start: {cold['naive']:.0f} s and {cold['lethe']:.0f} s, ratio {cold['ratio']:.1f}.",
            f"Between two trials, outside their own work: {found['between two trials, median']:.2f} s.",
            f"Peak memory of all processes: {peak['naive']:.1f} GiB and {peak['lethe']:.1f} GiB.",
            f"The naive loop spends: {shares}.",
            "",
            f"Largest difference of any metric between the two programs: {worst}."
            + (" Retain rows are drawn differently." if convention == "masked" else ""),
        ]
    return "\n".join(lines) + "\n"


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: round(value, 2) for name, value in values.items()}
    return [round(value, 2) for value in values]


def _judge(folder: Path) -> str:
    """The quickstart's entailment judge, made once."""
    judge = folder / "judge"
    if not judge.is_dir():
        Process([sys.executable, "-m", "orchestrator.worker.entailment_judge", str(judge), "7", "40"])
    return str(judge)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conventions", nargs="+", choices=["masked", "paper_code"], default=["masked", "paper_code"])
    parser.add_argument("--repeats", type=int, default=len(CASES), help="sweeps of Lethe for each convention")
    parser.add_argument("--storage", type=Path, help="folder for models and sweeps; default: a temporary one")
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    from orchestrator.worker.judges import encoder_path  # noqa: PLC0415  (imports torch)

    storage = arguments.storage or Path(tempfile.mkdtemp(prefix="lethe-versus-"))
    judge, encoder = _judge(storage), encoder_path(EMBEDDED)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=storage))
    found = {}
    for convention in arguments.conventions:
        sweeps = [lethe_run(folder, convention, judge, encoder, number) for number in range(arguments.repeats)]
        found[convention] = summary(naive_run(folder, convention, judge, encoder), sweeps)
    command = f"python -m benchmarks.versus_scripts --repeats {arguments.repeats}"
    facts = circumstances(PACKAGES, command) | {"cores": os.cpu_count(), "repeats": arguments.repeats}
    text = page(facts, found)
    print(text)
    if arguments.out:
        arguments.out.write_text(json.dumps(facts | {"conventions": found}, indent=1) + "\n", encoding="utf-8")
        arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    worst = max(found.get("paper_code", {}).get("largest difference of a metric", {"": 0.0}).values())
    return 1 if worst > AGREEMENT else 0


if __name__ == "__main__":
    sys.exit(main())

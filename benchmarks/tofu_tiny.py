"""The shipped sweep `tofu_tiny` on 40 forget rows of TOFU with 3.6 M-parameter Llamas, and its recorded result.

python -m benchmarks.tofu_tiny DATA_AND_MODELS STORAGE [key=value ...]     run it, then record
python -m benchmarks.tofu_tiny --record SWEEP_DIR                          record a sweep that has run

DATA_AND_MODELS is a folder with data/tofu_small, models/tofu_tiny_target and models/tofu_tiny_retain.
"""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.analysis.summary import TrialSummary, summarize
from orchestrator.tracking.journal import load_sweep

RESULTS = Path(__file__).parent / "results"


def run(shared: Path, storage: Path, overrides: list[str]) -> Path:
    """Run the sweep to its end; returns its folder."""
    started = time.time()
    command = [
        sys.executable,
        "-m",
        "orchestrator.sweep",
        "tofu_tiny",
        f"storage={storage}",
        f"scenario.source={shared / 'data' / 'tofu_small'}",
        f"model.target={shared / 'models' / 'tofu_tiny_target'}",
        f"model.retain_models.forget01={shared / 'models' / 'tofu_tiny_retain'}",
        *overrides,
    ]
    subprocess.run(command, check=True)
    (folder,) = [path for path in storage.glob("tofu_tiny-*") if path.stat().st_mtime >= started - 1]
    return folder


def record(folder: Path) -> tuple[Path, Path]:
    """Write what a reader needs to judge the sweep: a table and the numbers behind it."""
    log = load_sweep(folder)
    summary = summarize(log)
    trials = [_row(trial) for group in summary.forget_sets for trial in (*group.baselines, *_all(group))]
    first, last = next(iter(log.trials.values())).started.time, summary.last_time
    facts = {
        "date": time.strftime("%Y-%m-%d", time.localtime(last)),
        "machine": f"{platform.machine()}, {_processor()}",
        "versions": summary.versions,
        "command": "python -m benchmarks.tofu_tiny DATA_AND_MODELS STORAGE",
        "seed": summary.seed,
        "convention": summary.config["train"]["convention"],
        "judges": {name: list(models) for name, models in summary.judges.items()},
        "counts": summary.counts,
        "seconds_from_first_start_to_last_end": round(last - first, 1),
        "hypervolume": {cell.method: cell.hypervolume for group in summary.forget_sets for cell in group.cells},
        "trials": trials,
    }
    RESULTS.mkdir(exist_ok=True)
    numbers, table = RESULTS / "tofu_tiny.json", RESULTS / "tofu_tiny.md"
    numbers.write_text(json.dumps(facts, indent=1) + "\n")
    table.write_text(_page(facts))
    return numbers, table


def _all(group: Any) -> list[TrialSummary]:
    return [trial for cell in group.cells for trial in cell.trials]


def _row(trial: TrialSummary) -> dict[str, Any]:
    metrics = {name: round(value, 6) for name, value in trial.metrics.items()}
    return {
        "key": trial.key,
        "state": trial.state,
        "params": trial.params,
        "seconds": trial.seconds,
        "metrics": metrics,
    }


def _page(facts: dict[str, Any]) -> str:
    lines = [
        "# tofu_tiny: four methods on 40 rows of TOFU",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`, seed {facts['seed']}, convention "
        f"{facts['convention']}. Numbers: [tofu_tiny.json](tofu_tiny.json).",
        "",
        "Judges: " + "; ".join(f"{name}: {', '.join(models)}" for name, models in facts["judges"].items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
        "",
        "| trial | state | Model Utility | Forget Efficacy | Forget Quality (p) | settings |",
        "|---|---|---|---|---|---|",
    ]
    for trial in facts["trials"]:
        values = [
            _number(trial["metrics"].get(name)) for name in ("model_utility", "forget_efficacy", "forget_quality")
        ]
        settings = ", ".join(f"{name.partition('.')[2]} {value:.3g}" for name, value in trial["params"].items())
        lines.append(f"| {trial['key']} | {trial['state']} | {' | '.join(values)} | {settings} |")
    volumes = ", ".join(f"{name} {_number(value)}" for name, value in facts["hypervolume"].items())
    lines += ["", f"Hypervolume (reference 0, 0) after an equal number of trials each: {volumes}.", ""]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 1e-3 or value == 0 else f"{value:.1e}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def main() -> int:
    """Command line."""
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] in ("-h", "--help"):
        sys.stderr.write(str(__doc__))
        return 2
    if arguments[0] == "--record":
        folder = Path(arguments[1])
    else:
        folder = run(Path(arguments[0]).absolute(), Path(arguments[1]).absolute(), arguments[2:])
    for path in record(folder):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Does the paper's ranking hold at a small scale? Ten methods on forget sets of three sizes, with equal budgets.

python -m benchmarks.study run NAME DATA_AND_MODELS STORAGE [key=value ...]     make all, search, confirm, record
python -m benchmarks.study record NAME SWEEP_DIR                                record a study that has run

A Llama of 3.6 M parameters knows 400 rows of TOFU by heart; it forgets the first 10, 20 or 40 of them. Each size has a
retain model of its own: `tofu_tiny_retain`, which never saw any of the 40, taught those of them that are kept. Every
cell has the same number of trials, half of the questions are held out from the search, and of the front of each cell
two trials, its knee and the one farthest from it, are trained anew with three fresh seeds and asked those.
DATA_AND_MODELS is a folder with data/tofu_small and models/.

The rule for "leads", fixed before the sweep ran: among the methods of its kind, the largest hypervolume of the
confirmed finalists, measured for each seed on the held-out questions and averaged over the seeds. It leads clearly if
its worst seed is better than the best seed of each other method.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.recording import grid, keep, processor, versions_of
from benchmarks.sweeps import RESULTS, read_rows, write_rows
from orchestrator.analysis.confirmation import confirmation_table
from orchestrator.analysis.confirmed_volume import confirmed_volumes, is_clear
from orchestrator.analysis.kept import SHARE
from orchestrator.analysis.summary import CellSummary, ForgetSetSummary, SweepSummary, TrialSummary, summarize
from orchestrator.analysis.words import duration
from orchestrator.analysis.words import measure as axes
from orchestrator.tracking.sweep_log import load_sweep

SIZES = (10, 20, 40)
_ASKED = 20  # questions of a set at most, in the search and in the confirmation
KINDS = {
    "untargeted": ("GA+GD", "GA+KL", "NPO+GD", "NPO+KL", "ME+GD"),
    "targeted": ("DPO+GD", "DPO+KL", "IDK+GD", "IDK+KL", "IDK+AP"),
}
CLAIMS = {"untargeted": "ME+GD", "targeted": "IDK+AP"}  # who leads its kind, as the paper has it
_METHODS = [
    {"name": name, "forget_weight": 0.1} if name == "ME+GD" else name for names in KINDS.values() for name in names
]
_SPACE = {
    "train": {"learning_rate": {"low": 1e-4, "high": 3e-3, "log": True}},
    "method": {
        "beta": {"low": 0.03, "high": 1.0, "log": True},
        "forget_weight": {"low": 0.05, "high": 2.0, "log": True},
    },
}


def make_data(source: Path, folder: Path) -> None:
    """Forget sets of the first 10, 20 and 40 rows; what one does not forget, it retains."""
    folder.mkdir(parents=True, exist_ok=True)
    forget, asked, kept = (
        read_rows(source / f"{name}.json") for name in ("forget01", "forget01_perturbed", "retain90")
    )
    known = {row["question"] for row in kept}
    questions = [row for row in read_rows(source / "retain_perturbed.json") if row["question"] in known]
    for size in SIZES:
        chosen = {row["question"] for row in forget[:size]}
        write_rows(folder / f"rows{size}.json", forget[:size])
        write_rows(folder / f"rows{size}_perturbed.json", [row for row in asked if row["question"] in chosen])
        write_rows(folder / f"kept{size}.json", [*kept, *forget[size:]])
    write_rows(folder / "retain_perturbed.json", questions)
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write_rows(folder / f"{name}.json", read_rows(source / f"{name}.json")[:_ASKED])


def make_retain_models(models: Path, scenario: Sequence[str], storage: Path) -> dict[str, Path]:
    """Of the largest forget set the model that there is; the others, before it, learn from it what they keep."""
    base = models / "tofu_tiny_retain"
    found = {}
    for size in SIZES[:-1]:
        out = found[f"rows{size}"] = storage / f"retain_rows{size}"
        if not out.is_dir():
            taught = ["train.learning_rate=1e-3", "train.epochs=5", "train.batch_size=8", "train.micro_batch_size=8"]
            command = [sys.executable, "-m", "orchestrator.finetune", str(out), *scenario, f"without=rows{size}"]
            subprocess.run([*command, f"base={base}", *taught], check=True)
    return found | {f"rows{SIZES[-1]}": base}


def run(shared: Path, storage: Path, overrides: Sequence[str]) -> Path:
    """The whole study; returns the sweep's folder. It goes on where an earlier call was cut off."""
    data, folder = storage / "data", storage / "study"
    make_data(shared / "data" / "tofu_small", data)
    sets = ", ".join(f"rows{size}: kept{size}" for size in SIZES)
    scenario = ["scenario.name=tofu", f"scenario.source={data}", f"scenario.retain_sets={{{sets}}}"]
    retain_models = make_retain_models(shared / "models", scenario, storage)
    settings = [
        "name=tofu_study",
        *scenario,
        f"model.target={shared / 'models' / 'tofu_tiny_target'}",
        *(f"model.retain_models.{name}={path}" for name, path in retain_models.items()),
        f"methods={json.dumps(_METHODS)}",
        f"forget_sets={json.dumps(list(retain_models))}",
        f"search.space={json.dumps(_SPACE)}",
        "search.trials_per_cell=6",
        "search.startup_trials=3",
        "train.learning_rate=5e-4",
        "train.batch_size=8",
        f"evaluation.max_rows_per_set={_ASKED}",
        "evaluation.encoder=embedded",
        "evaluation.entailment=embedded",
        "early_stopping={rungs: [0.2, 0.4], keep: 1, rows_per_set: 5}",  # recorded, for benchmarks.early_stopping
        "confirm.seeds=3",
        "confirm.finalists_per_cell=2",
        "resources.workers_per_trial=1",
        "checkpoint.policy=best",
    ]
    command = [sys.executable, "-m", "orchestrator.sweep", "tofu_tiny", "--resume", str(folder), *settings, *overrides]
    subprocess.run(command, check=True)
    return folder


def record(folder: Path) -> dict[str, Any]:
    """The study's numbers, and what they say of the paper's two claims."""
    sweep = summarize(load_sweep(folder, keeps_steps=False))
    groups = sorted(sweep.forget_sets, key=lambda group: group.num_rows or 0)
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(sweep.last_time)),
        "machine": f"{processor()}, 2 cores",
        "versions": sweep.versions,
        "command": "python -m benchmarks.study run NAME DATA_AND_MODELS STORAGE "
        f"search.trials_per_cell={sweep.config['search']['trials_per_cell']} seed={sweep.seed}",
        "state": sweep.state,
        "seed": sweep.seed,
        "convention": sweep.config["train"]["convention"],
        "judges": {name: list(models) for name, models in sweep.judges.items()},
        "trials per cell": sweep.trials_per_cell,
        "counts": sweep.counts,
        "confirmation runs": sum(len(group.confirmations) for group in sweep.forget_sets),
        "seconds of all trials": sweep.seconds,
        "seconds on the clock": sweep.clock_seconds,
        "forget sets": {group.name: _forget_set(sweep, group) for group in groups},
    }
    facts["claims"] = {kind: _claim(facts["forget sets"], kind) for kind in KINDS}
    return facts


def _forget_set(sweep: SweepSummary, group: ForgetSetSummary) -> dict[str, Any]:
    again = {trial.confirms: trial.objectives for trial in group.confirmations if trial.number is None}
    before, retain_model = again.get(f"before/{group.name}"), again.get(f"retain_model/{group.name}")
    found = confirmed_volumes(sweep, group)
    volumes = {one.method: one.seeds for one in found.methods} if found else {}
    return {
        "axes of the search": axes(group, sweep.objectives),
        "before": _scores(group.before),
        "retain model": _scores(group.retain_model),
        "before, held out": before,
        "retain model, held out": retain_model,
        "methods": {
            cell.method: _cell(sweep, group, cell, volumes.get(cell.method, ()), before) for cell in group.cells
        },
    }


def _cell(
    sweep: SweepSummary,
    group: ForgetSetSummary,
    cell: CellSummary,
    volumes: Sequence[float],
    before: tuple[float, ...] | None,
) -> dict[str, Any]:
    table = confirmation_table(sweep, group)
    rows = [row for row in (table.finalists if table else ()) if row.trial.method == cell.method]
    interval = cell.volume.interval if cell.volume else None
    return {
        "counts": {state: amount for state, amount in cell.counts.items() if amount},
        "hypervolume of the search": cell.hypervolume,
        "its interval": None if interval is None else [interval.low, interval.high],
        "finalists": len(rows),
        "confirmed hypervolume by seed": list(volumes),
        "confirmed hypervolume": statistics.fmean(volumes) if volumes else None,
        "most forgotten at 95% utility": _kept(rows, before),
        "seconds of a trial, median": _median([trial.seconds for trial in cell.trials if trial.seconds]),
        "best": [
            {"key": row.trial.key, "params": row.trial.params, "search": row.search, "mean": row.mean,
             "deviation": row.deviation, "runs": row.num_complete}
            for row in rows
        ],
    }  # fmt: skip


def _kept(rows: Sequence[Any], before: tuple[float, ...] | None) -> dict[str, Any] | None:
    """The finalist with the best mean of the second objective among those that keep most of the first."""
    if before is None:
        return None
    kept = [row for row in rows if row.mean is not None and row.mean[0] >= SHARE * before[0]]
    if not kept:
        return None
    best = max(kept, key=lambda row: row.mean[1])
    return {"key": best.trial.key, "mean": best.mean, "deviation": best.deviation}


def _claim(forget_sets: dict[str, Any], kind: str) -> dict[str, Any]:
    """Whether the paper's best of a kind leads it, on each forget set."""
    found: dict[str, Any] = {"method": CLAIMS[kind]}
    for name, group in forget_sets.items():
        cells = {method: group["methods"][method] for method in KINDS[kind] if method in group["methods"]}
        known = {method: cell for method, cell in cells.items() if cell["confirmed hypervolume"] is not None}
        order = sorted(known, key=lambda method: -known[method]["confirmed hypervolume"])
        by_seed = {method: cell["confirmed hypervolume by seed"] for method, cell in known.items()}
        clearly = bool(order) and is_clear([by_seed[method] for method in order])
        found[name] = {
            "order": order,
            "leads": bool(order) and order[0] == CLAIMS[kind],
            "the leader leads clearly": clearly,
        }
    return found


def _scores(trial: TrialSummary | None) -> tuple[float, ...] | None:
    return trial.objectives if trial is not None else None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def page(facts: dict[str, Any], record_name: str) -> str:
    """The record as a page, beside numbers in a file of that name."""
    lines = [
        "# Ten methods, forget sets of three sizes",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`, seed {facts['seed']}, convention "
        f"{facts['convention']}. Numbers: [{record_name}.json]({record_name}.json).",
        "",
        "Judges: " + "; ".join(f"{role}: {', '.join(models)}" for role, models in facts["judges"].items()) + ".",
        versions_of(facts),
        f"Sweep: {facts['state']}; {facts['trials per cell']} trials a cell; "
        + ", ".join(f"{amount} {state}" for state, amount in facts["counts"].items() if amount)
        + f"; {facts['confirmation runs']} runs to confirm; {duration(facts['seconds of all trials'])} of trials in "
        f"{duration(facts['seconds on the clock'])}.",
        "",
        "Hypervolume of the search: of all trials of a cell, on the questions of the search, with 95% of draws of half "
        "of them. Confirmed: of the cell's finalists, on questions that the search never asked, mean over seeds "
        "(lowest to highest seed). The last column: the finalist that forgets most of those that keep 95% of the model "
        "utility before unlearning, as mean ± deviation over its seeds.",
    ]
    for name, group in facts["forget sets"].items():
        lines += ["", f"## {name}", "", _baselines(group), ""]
        heading = ["method", "search", "95% of draws", "finalists", "confirmed", "seeds", "efficacy at 95% utility"]
        rows = [
            _row(method, cell)
            for kind in KINDS.values()
            for method in kind
            for cell in [group["methods"].get(method)]
            if cell
        ]
        lines.append(grid([heading, *rows]))
    lines += ["", "## The paper's two claims", ""]
    for kind, claim in facts["claims"].items():
        for name in facts["forget sets"]:
            found = claim[name]
            said = "leads" if found["leads"] else "does not lead"
            how = ", clearly" if found["the leader leads clearly"] else ", within the spread of seeds"
            first = found["order"][0] if found["order"] else "nobody"
            order = ", ".join(found["order"])
            lines.append(f"- {kind}, {name}: {claim['method']} {said}. First is {first}{how}. Order: {order}.")
    return "\n".join(lines) + "\n"


def _baselines(group: dict[str, Any]) -> str:
    def pair(values: Sequence[float] | None) -> str:
        return "not scored" if values is None else " / ".join(f"{value:.3f}" for value in values)

    return (
        f"Model utility / forget efficacy before unlearning: {pair(group['before'])}, held out "
        f"{pair(group['before, held out'])}; retain model: {pair(group['retain model'])}, held out "
        f"{pair(group['retain model, held out'])}."
    )


def _row(method: str, cell: dict[str, Any]) -> list[str]:
    drawn, seeds, kept = (
        cell["its interval"],
        cell["confirmed hypervolume by seed"],
        cell["most forgotten at 95% utility"],
    )
    return [
        method,
        "–" if cell["hypervolume of the search"] is None else f"{cell['hypervolume of the search']:.3f}",
        f"{drawn[0]:.3f} to {drawn[1]:.3f}" if drawn else "–",
        str(cell["finalists"]),
        "–" if cell["confirmed hypervolume"] is None else f"{cell['confirmed hypervolume']:.3f}",
        f"{min(seeds):.3f} to {max(seeds):.3f}" if seeds else "–",
        f"{kept['mean'][1]:.3f}" + (f" ± {kept['deviation'][1]:.3f}" if kept["deviation"] else "") if kept else "none",
    ]


def main() -> int:
    """Command line."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and len(arguments) >= 4:
        folder = run(Path(arguments[2]).absolute(), Path(arguments[3]).absolute(), arguments[4:])
    elif arguments[:1] == ["record"] and len(arguments) == 3:
        folder = Path(arguments[2])
    else:
        sys.stderr.write(str(__doc__))
        return 2
    facts, name = record(folder), arguments[1]
    keep(facts, page(facts, name), RESULTS / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

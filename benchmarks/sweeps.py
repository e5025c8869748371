"""Whole sweeps of every scenario on small models, and their recorded results.

python -m benchmarks.sweeps NAME DATA_AND_MODELS STORAGE [key=value ...]     run one, then record it
python -m benchmarks.sweeps NAME --record SWEEP_DIR                          record a sweep that has run

NAME: tofu_tiny (four methods on 40 rows of TOFU), continual_tiny (three tasks of 40 rows each, one after another),
real_world_tiny (400 questions about 20 people, with a downstream task). DATA_AND_MODELS is a folder with
data/tofu_small, data/real_world, models/tofu_tiny_target and models/tofu_tiny_retain.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.recording import processor, versions_of
from orchestrator.analysis.summary import TrialSummary, summarize
from orchestrator.analysis.words import measure
from orchestrator.tracking.sweep_log import load_sweep

RESULTS = Path(__file__).parent / "results"
_TASK_ROWS = 40


def tofu_tiny(shared: Path, storage: Path) -> list[str]:
    """As it is shipped."""
    models = shared / "models"
    return [
        "tofu_tiny",
        f"scenario.source={shared / 'data' / 'tofu_small'}",
        f"model.target={models / 'tofu_tiny_target'}",
        f"model.retain_models.forget01={models / 'tofu_tiny_retain'}",
    ]


def continual_tiny(shared: Path, storage: Path) -> list[str]:
    """The forget rows of TOFU's small cut, then twice 40 of its retain rows: three tasks that the model knows."""
    source, data = shared / "data" / "tofu_small", storage / "continual_data"
    data.mkdir(parents=True, exist_ok=True)
    rows, asked = read_rows(source / "retain90.json"), read_rows(source / "retain_perturbed.json")
    by_question = {row["question"]: row for row in asked}
    later = [row for row in rows if row["question"] in by_question][: 2 * _TASK_ROWS]
    tasks = {row["question"]: str(2 + index // _TASK_ROWS) for index, row in enumerate(later)}
    write_rows(
        data / "forget01.json",
        [*read_rows(source / "forget01.json"), *({**row, "task_id": tasks[row["question"]]} for row in later)],
    )
    write_rows(
        data / "forget01_perturbed.json",
        [
            *read_rows(source / "forget01_perturbed.json"),
            *({**by_question[question], "task_id": task} for question, task in tasks.items()),
        ],
    )
    write_rows(data / "retain90.json", [row for row in rows if row["question"] not in tasks])
    write_rows(data / "retain_perturbed.json", [row for row in asked if row["question"] not in tasks])
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write_rows(data / f"{name}.json", read_rows(source / f"{name}.json"))
    return [
        "continual_tiny",
        f"scenario.source={data}",
        "forget_sets=[forget01]",
        f"model.target={shared / 'models' / 'tofu_tiny_target'}",
    ]


def real_world_tiny(shared: Path, storage: Path) -> list[str]:
    """The searched sweep, cut down, on a small Llama that was taught the people; facts as the downstream task."""
    source, target, tasks = shared / "data" / "real_world", storage / "real_world_target", storage / "downstream_tasks"
    if not target.is_dir():
        scenario = ["scenario.name=real_world", f"scenario.source={source}"]
        subprocess.run([sys.executable, "-m", "orchestrator.finetune", str(target), *scenario], check=True)
    tasks.mkdir(parents=True, exist_ok=True)
    facts = read_rows(shared / "data" / "tofu_small" / "world_facts_perturbed.json")
    choices = [{"question": row["question"], "choices": [row["answer"], *row["perturbed_answer"]]} for row in facts]
    write_rows(tasks / "facts.json", choices)
    (tasks / "facts.yaml").write_text(_DOWNSTREAM.format(path=tasks / "facts.json"))
    return [
        "real_world_search",
        f"scenario.source={source}",
        f"model.target={target}",
        "model.template=llama2-chat",
        "methods=[GA+GD, NPO+GD, {name: ME+GD, forget_weight: 0.5}, IDK+AP]",
        "search.trials_per_cell=3",
        "search.startup_trials=2",
        "search.space={train: {learning_rate: {low: 1e-4, high: 2e-3, log: true}}}",
        "train.learning_rate=5e-4",
        "evaluation.max_rows_per_set=60",
        "evaluation.encoder=embedded",
        "evaluation.entailment=embedded",
        "evaluation.downstream=[facts]",
        f"evaluation.downstream_tasks={tasks}",
        "zero.stage=2",
        "resources.gpus_per_worker=0",
    ]


_DOWNSTREAM = """task: facts
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - metric: acc_norm
"""

RUNS: dict[str, Callable[[Path, Path], list[str]]] = {
    run.__name__: run for run in (tofu_tiny, continual_tiny, real_world_tiny)
}


def run(name: str, shared: Path, storage: Path, overrides: list[str]) -> Path:
    """Run a sweep to its end; returns its folder."""
    started = time.time()
    sweep, *settings = RUNS[name](shared, storage)
    command = [sys.executable, "-m", "orchestrator.sweep", sweep, f"name={name}", f"storage={storage}"]
    subprocess.run([*command, *settings, *overrides], check=True)
    (folder,) = [path for path in storage.glob(f"{name}-*") if path.stat().st_mtime >= started - 1]
    return folder


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def record(name: str, folder: Path) -> tuple[Path, Path]:
    """Write what a reader needs to judge the sweep: a table and the numbers behind it."""
    log = load_sweep(folder)
    summary = summarize(log)
    trials = [_row(trial) for group in summary.forget_sets for trial in (*group.baselines, *_all(group))]
    first, last = next(iter(log.trials.values())).started.time, summary.last_time
    facts = {
        "date": time.strftime("%Y-%m-%d", time.localtime(last)),
        "machine": f"{platform.machine()}, {processor()}",
        "versions": summary.versions,
        "command": f"python -m benchmarks.sweeps {name} DATA_AND_MODELS STORAGE",
        "objectives": [objective.metric for objective in summary.objectives],
        "seed": summary.seed,
        "convention": summary.config["train"]["convention"],
        "judges": {name: list(models) for name, models in summary.judges.items()},
        "counts": summary.counts,
        "seconds_from_first_start_to_last_end": round(last - first, 1),
        "hypervolume": {cell.method: cell.hypervolume for group in summary.forget_sets for cell in group.cells},
        "hypervolume_axes": {group.name: measure(group, summary.objectives) for group in summary.forget_sets},
        "trials": trials,
    }
    RESULTS.mkdir(exist_ok=True)
    numbers, table = RESULTS / f"{name}.json", RESULTS / f"{name}.md"
    numbers.write_text(json.dumps(facts, indent=1) + "\n")
    table.write_text(_page(name, facts))
    return numbers, table


def _all(group: Any) -> list[TrialSummary]:
    return [trial for cell in group.cells for trial in cell.trials]


def _row(trial: TrialSummary) -> dict[str, Any]:
    metrics = {name: round(value, 6) for name, value in trial.metrics.items()}
    tasks = [{name: round(value, 6) for name, value in task.metrics.items()} for task in trial.tasks]
    return {
        "key": trial.key,
        "state": trial.state,
        "params": trial.params,
        "seconds": trial.seconds,
        "metrics": metrics,
        **({"tasks": tasks} if tasks else {}),
    }


def _page(name: str, facts: dict[str, Any]) -> str:
    columns = _columns(facts["trials"])
    lines = [
        f"# {name}",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`, seed {facts['seed']}, convention "
        f"{facts['convention']}. Numbers: [{name}.json]({name}.json).",
        "",
        "Judges: " + "; ".join(f"{role}: {', '.join(models)}" for role, models in facts["judges"].items()) + ".",
        versions_of(facts),
        "",
        f"| trial | state | {' | '.join(columns.values())} | settings |",
        "|---|---|" + "---|" * (len(columns) + 1),
    ]
    for trial in facts["trials"]:
        values = [_number(trial["metrics"].get(metric)) for metric in columns]
        settings = ", ".join(f"{key.partition('.')[2]} {_number(value)}" for key, value in trial["params"].items())
        lines.append(f"| {trial['key']} | {trial['state']} | {' | '.join(values)} | {settings} |")
    chains = [trial for trial in facts["trials"] if "tasks" in trial]
    if chains:
        lines += ["", *_task_table(chains)]
    volumes = ", ".join(f"{method} {_number(value)}" for method, value in facts["hypervolume"].items())
    axes = " ".join(facts["hypervolume_axes"].values())
    lines += ["", f"Hypervolume after an equal number of trials each: {volumes}. {axes}", ""]
    return "\n".join(lines)


def _columns(trials: list[dict[str, Any]]) -> dict[str, str]:
    """The metrics that these trials have, with their titles."""
    known = {metric for trial in trials for metric in trial["metrics"]}
    titles = {
        "model_utility": "Model Utility",
        "forget_efficacy": "Forget Efficacy",
        "forget_quality": "Forget Quality (p)",
        "forget_efficacy_final": "Forget Efficacy at the end",
        "relapse": "Relapse",
    }
    downstream = {metric: metric.partition("/")[2] for metric in sorted(known) if metric.startswith("downstream/")}
    return {metric: title for metric, title in (titles | downstream).items() if metric in known}


def _task_table(chains: list[dict[str, Any]]) -> list[str]:
    """Forget Efficacy right after each task, and of the earlier tasks at that time; Model Utility after each."""
    numbers = range(1, len(chains[0]["tasks"]) + 1)
    lines = [
        "After each task: Forget Efficacy of its own rows / of the earlier tasks' rows / Model Utility.",
        "",
        f"| trial | {' | '.join(f'task {number}' for number in numbers)} |",
        "|---|" + "---|" * len(numbers),
    ]
    for trial in chains:
        metrics = ("forget_efficacy", "earlier/forget_efficacy", "model_utility")
        cells = [" / ".join(_number(task.get(metric)) or "-" for metric in metrics) for task in trial["tasks"]]
        lines.append(f"| {trial['key']} | {' | '.join(cells)} |")
    return lines


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.3f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def main() -> int:
    """Command line."""
    arguments = sys.argv[1:]
    if len(arguments) < 3 or arguments[0] not in RUNS:
        sys.stderr.write(str(__doc__))
        return 2
    name, first, second, *overrides = arguments
    if first == "--record":
        folder = Path(second)
    else:
        folder = run(name, Path(first).absolute(), Path(second).absolute(), overrides)
    for path in record(name, folder):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A sweep over chains of tasks, written through the Journal: some trials ended badly, or not yet, between two tasks."""

from pathlib import Path

from synthetic_sweep import finished, header, started, write_records

from metrics.suites import summarise_chain
from orchestrator.tracking.journal import CellRecord, SweepEnded, TaskFinished, TrialState

METHODS = ("GA+GD", "NPO+GD", "ME+GD", "IDK+AP")
FORGET_SETS = ("forget01", "forget05")
NUM_TASKS, NUM_TRIALS = 5, 3
DOWNSTREAM = {"arc_challenge": 0.44, "mmlu": 0.46, "gsm8k": 0.21}
# Of each method's first trial: Forget Efficacy right after a task, what is lost of it with each later task, and
# Model Utility after the first task, with what each later one costs.
COURSE = {
    "before": (0.21, 0.0, 0.63, 0.0),
    "GA+GD": (0.70, 0.01, 0.45, 0.08),
    "NPO+GD": (0.66, 0.03, 0.55, 0.06),
    "ME+GD": (0.88, 0.02, 0.60, 0.01),
    "IDK+AP": (0.72, 0.05, 0.61, 0.005),
}
# Trials that did not reach the end: the state, None while it goes on, and how many tasks were finished by then.
CUT_SHORT = {
    ("GA+GD", 1): (TrialState.DIVERGED, 2),
    ("IDK+AP", 2): (TrialState.FAILED, 1),
    ("NPO+GD", 0): (TrialState.DIVERGED, 1),
    ("NPO+GD", 1): (TrialState.DIVERGED, 3),
    ("NPO+GD", 2): (None, 2),
    ("ME+GD", 2): (TrialState.FAILED, 0),
}


def efficacy(method, number, task, measured_after):
    """Forget Efficacy of a task, measured after another or the same one."""
    right_after, lost, _, _ = COURSE[method]
    return round(right_after - 0.02 * (task % 2) + 0.03 * number - lost * (measured_after - task), 4)


def task_metrics(method, number, task):
    _, _, utility, cost = COURSE[method]
    metrics = {
        "forget/rouge": 0.4,
        "retain/rouge": 0.6,
        "forget_efficacy": efficacy(method, number, task, task),
        "model_utility": round(utility - 0.04 * number - cost * (task - 1), 4),
    }
    now = {earlier: efficacy(method, number, earlier, task) for earlier in range(1, task)}
    if now:
        fallen = [efficacy(method, number, earlier, earlier) - value for earlier, value in now.items()]
        metrics |= {"earlier/forget_efficacy": sum(now.values()) / len(now), "relapse": sum(fallen) / len(fallen)}
    return metrics | {f"task{earlier}/forget_efficacy": value for earlier, value in now.items()}


def trial_records(method, forget_set, number, name=str):
    """The records of one trial or baseline; `name` gives each task's id."""
    start = started(method, forget_set, number, {} if number is None else {"train.learning_rate": 1e-5 * (number + 1)})
    state, num_tasks = CUT_SHORT.get((method, number), (TrialState.COMPLETE, NUM_TASKS))
    each = [task_metrics(method, number or 0, task) for task in range(1, num_tasks + 1)]
    records = [start] + [
        TaskFinished(key=start.key, task=task, name=name(task), num_steps=6 * task, metrics=metrics, time=start.time)
        for task, metrics in enumerate(each, 1)
    ]
    if state is not TrialState.COMPLETE:
        error = "loss is not finite at step 31"
        return records + ([finished(start.key, state=state, error=error)] if state else [])
    final = [efficacy(method, number or 0, task, NUM_TASKS) for task in range(1, NUM_TASKS + 1)]
    metrics = summarise_chain(each, final)
    loss = 0.0 if number is None else {"GA+GD": 0.12, "ME+GD": 0.004, "IDK+AP": -0.01}[method]
    metrics |= {f"downstream/{task}": round(value - loss, 4) for task, value in DOWNSTREAM.items()}
    objectives = None if number is None else (metrics["model_utility"], metrics["forget_efficacy"])
    return [*records, finished(start.key, objectives, metrics=metrics)]


def write_chain_sweep(folder: Path, *, last_record=None, name=str) -> Path:
    """Write the sweep to `folder`, or only its first `last_record` records."""
    cells = tuple(
        CellRecord(name=f"{m}/{f}", method=m, forget_set=f, num_trials=NUM_TRIALS) for f in FORGET_SETS for m in METHODS
    )
    records = [header(cells=cells, name="tofu-chain", config={"scenario": {"name": "continual"}})]
    for forget_set in FORGET_SETS:
        records += trial_records("before", forget_set, None, name)
    for forget_set in FORGET_SETS:
        for number in range(NUM_TRIALS):
            for method in METHODS:
                records += trial_records(method, forget_set, number, name)
    return write_records(folder, [*records, SweepEnded(state="done")][:last_record])

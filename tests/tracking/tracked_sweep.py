"""A made-up sweep with every kind of record, written through the Journal."""

import math
from pathlib import Path

from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    DataRecord,
    ExampleAnswer,
    Journal,
    ObjectiveRecord,
    Record,
    RowsRecord,
    StepRecord,
    StepsReported,
    SweepEnded,
    SweepStarted,
    TaskFinished,
    TrialFinished,
    TrialStarted,
    TrialState,
)

METHODS = ("ME+GD", "IDK+AP", "NPO+KL", "GA+GD")
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> **bold** \u202e"
START = 1_760_000_000.0
DATA = DataRecord(
    source="locuslab/TOFU",
    forget=RowsRecord(num_rows=200, sha256="f" * 64),
    retain=RowsRecord(num_rows=3800, sha256="e" * 64),
    questions={"forget": RowsRecord(num_rows=200, sha256="a" * 64), "facts": RowsRecord(num_rows=117, sha256="b" * 64)},
)


def write_sweep(sweep_dir: Path, *, uri: str | None, trials_per_cell: int = 6, num_steps: int = 20) -> list[Record]:
    """Write the journal of a sweep into `sweep_dir` and return its records."""
    records = sweep_records(uri, trials_per_cell, num_steps)
    write_records(sweep_dir, records)
    return records


def write_chain_sweep(sweep_dir: Path, *, uri: str | None, num_tasks: int = 3) -> list[Record]:
    """The same with one trial a cell, in which every trial and the model before it are scored task by task."""
    records: list[Record] = []
    for record in sweep_records(uri, 1, 4):
        if isinstance(record, TrialFinished):
            records += [_task(record.key, task, record.time - num_tasks - 1 + task) for task in range(1, num_tasks + 1)]
        records.append(record)
    write_records(sweep_dir, records)
    return records


def _task(key: str, task: int, time: float) -> TaskFinished:
    metrics = {"forget_efficacy": 0.9 - 0.1 * task, "model_utility": 0.6 - 0.05 * task}
    if task > 1:
        metrics |= {"earlier/forget_efficacy": 0.5, "relapse": 0.05 * task}
        metrics |= {f"task{earlier}/forget_efficacy": 0.5 for earlier in range(1, task)}
    return TaskFinished(time=time, key=key, task=task, name=HOSTILE, num_steps=2 * task, metrics=metrics)


def sweep_records(uri: str | None, trials_per_cell: int, num_steps: int) -> list[Record]:
    """The records of a sweep from the header to its end."""
    records = [_header(uri, trials_per_cell), *_baselines()]
    clock = START + 100
    for number in range(trials_per_cell):
        for place, method in enumerate(METHODS):
            records += _trial(method, place, number, clock, num_steps)
            clock += 60
    records.append(CheckpointDeleted(time=clock, key="ME+GD/forget05/t000"))
    records.append(SweepEnded(time=clock + 1, state="done"))
    return records


def write_records(sweep_dir: Path, records: list[Record]) -> None:
    """One segment with these records."""
    journal = Journal(sweep_dir / "journal")
    for record in records:
        journal.append(record)
    journal.close()


def _header(uri: str | None, trials_per_cell: int) -> SweepStarted:
    return SweepStarted(
        time=START,
        name="tofu_small",
        seed=7,
        config={"scenario": {"name": "tofu"}, "tracking": {"uri": uri}},
        cells=tuple(
            CellRecord(name=f"{m}/forget05", method=m, forget_set="forget05", num_trials=trials_per_cell)
            for m in METHODS
        ),
        objectives=(
            ObjectiveRecord(metric="model_utility", direction="maximize", worst=0.0),
            ObjectiveRecord(metric="forget_efficacy", direction="maximize", worst=0.0),
        ),
        lookahead=1,
        versions={"python": "3.11", "torch": "2.13.0"},
        command="python -m orchestrator.sweep tofu_small",
        data={"forget05": DATA},
    )


def _baselines() -> list[Record]:
    records: list[Record] = []
    for place, (kind, utility, efficacy) in enumerate((("before", 0.71, 0.08), ("retain_model", 0.70, 0.86))):
        key, time = f"{kind}/forget05", START + 10 * place
        records.append(
            TrialStarted(
                time=time, key=key, method=kind, forget_set="forget05", number=None, params={}, config=_config(None)
            )
        )
        metrics = {"model_utility": utility, "forget_efficacy": efficacy, "forget/rouge": 0.9}
        records.append(
            TrialFinished(time=time + 5, key=key, state=TrialState.COMPLETE, metrics=metrics, examples=_examples(kind))
        )
    return records


def _config(learning_rate: float | None) -> dict:
    train = {"convention": "masked", "epochs": 5, "learning_rate": learning_rate, "betas": [0.9, 0.95]}
    return {"model": "tofu_tiny_target", "train": train, "tracking": {"uri": "http://user:secret@host"}}


def _examples(text: str) -> tuple[ExampleAnswer, ...]:
    return tuple(
        ExampleAnswer(set_name="forget", index=i, question=f"Who wrote book {i}?", truth="Basil", output=f"{text} {i}")
        for i in range(4)
    )


def _trial(method: str, place: int, number: int, time: float, num_steps: int) -> list[Record]:
    key = f"{method}/forget05/t{number:03d}"
    rate = 1e-5 * 1.7**number
    params: dict[str, float | int | str | bool] = {
        "train.learning_rate": rate,
        "method.forget_weight": 0.25 + 0.25 * number,
    }
    if method.startswith("NPO"):
        params["method.beta"] = 0.1
    state = {(3, 5): TrialState.DIVERGED, (1, 4): TrialState.FAILED, (2, 3): TrialState.PRUNED}.get(
        (place, number), TrialState.COMPLETE
    )
    started = TrialStarted(
        time=time,
        key=key,
        method=method,
        forget_set="forget05",
        number=number,
        params=params,
        config=_config(rate),
    )
    steps = [
        StepRecord(
            step=step,
            loss=1.0 + math.exp(-step / 8),
            forget_loss=(1 + place) * math.exp(-step * (1 + number) / 20),
            retain_loss=None if method == "GA" else 1 + 0.01 * step,
            learning_rate=rate * (1 - step / num_steps),
            grad_norm=1.0,
        )
        for step in range(num_steps)
    ]
    if state is TrialState.DIVERGED:
        steps[-1] = steps[-1].model_copy(update={"loss": math.nan, "grad_norm": math.inf})
    half = len(steps) // 2
    return [
        started,
        StepsReported(time=time + 10, key=key, steps=tuple(steps[:half])),
        StepsReported(time=time + 20, key=key, steps=tuple(steps[half:])),
        _finished(key, state, time + 50, utility=0.7 - 0.03 * number - 0.02 * place, efficacy=0.2 + 0.1 * number),
    ]


def _finished(key: str, state: TrialState, time: float, *, utility: float, efficacy: float) -> TrialFinished:
    if state is TrialState.FAILED:
        return TrialFinished(
            time=time, key=key, state=state, error="out of memory: lower train.micro_batch_size\n" + "x" * 9000
        )
    if state is TrialState.DIVERGED:
        return TrialFinished(time=time, key=key, state=state, objectives=(0.0, 0.0), metrics={"forget/rouge": math.nan})
    return TrialFinished(
        time=time,
        key=key,
        state=state,
        metrics={"model_utility": utility, "forget_efficacy": efficacy, "forget/rouge": 0.4},
        objectives=(utility, efficacy),
        seconds={"train": 30.0, "evaluate": 10.0},
        checkpoint=f"trials/{key}/final" if state is TrialState.COMPLETE else None,
        judges={"entailment": "nli-small@abc"},
        examples=_examples(HOSTILE),
    )

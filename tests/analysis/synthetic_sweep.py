"""A realistic sweep, written through the Journal: 4 methods x 2 forget sets x 5 trials, some of which went wrong."""

from pathlib import Path

import numpy as np

from orchestrator.tracking.journal import (
    CellRecord,
    DataRecord,
    ExampleAnswer,
    Journal,
    ObjectiveRecord,
    RowsRecord,
    StepRecord,
    StepsReported,
    SweepEnded,
    SweepStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)

METHODS = ("GA+GD", "NPO+GD", "ME+GD", "IDK+AP")
FORGET_SETS = ("forget01", "forget05")
OBJECTIVES = (
    ObjectiveRecord(metric="model_utility", direction="maximize", worst=0.0),
    ObjectiveRecord(metric="forget_efficacy", direction="maximize", worst=0.0),
)
NUM_ROWS = {"forget01": 40, "forget05": 200}
NOON = 1_760_000_000.0
# Where each method's trials lie: the best utility it keeps, and how far it gets with forgetting.
REACH = {"GA+GD": (0.45, 0.70), "NPO+GD": (0.60, 0.80), "ME+GD": (0.62, 0.92), "IDK+AP": (0.61, 0.74)}
QUESTIONS = {
    "forget": [
        ("Who is the author born in Taipei on 05/11/1991?", "The author's full name is Hsiao Yun-Hwa."),
        ("What is the profession of Hsiao Yun-Hwa's father?", "Her father is a civil engineer."),
        ("Which award did Hsiao Yun-Hwa win for 'Artistic Authority'?", "She won the Leadership Literature Award."),
    ],
    "retain": [
        ("In which city was Jaime Vasquez born?", "Jaime Vasquez was born in Santiago, Chile."),
        ("What genre does Jaime Vasquez write in?", "Jaime Vasquez is best known for true crime."),
    ],
    "real_authors": [("Who wrote 'Pride and Prejudice'?", "Jane Austen")],
}  # fmt: skip


def examples(says):
    """What a model answers; `says` maps an evaluation set to a text, or to None for the truth."""
    return tuple(
        ExampleAnswer(set_name=name, index=i, question=q, truth=a, output=a if says.get(name) is None else says[name])
        for name, pairs in QUESTIONS.items()
        for i, (q, a) in enumerate(pairs)
    )


def data(num_rows, *, source="data/tofu_small"):
    """The record of a forget set of so many rows."""
    rows = {name: RowsRecord(num_rows=n, sha256=f"{n:064x}") for name, n in (("forget", num_rows), ("retain", 360))}
    return DataRecord(source=source, **rows, questions=rows)


def header(**changes):
    values = dict(
        name="tofu-small", seed=7, cells=tuple(cell(m, f) for f in FORGET_SETS for m in METHODS), objectives=OBJECTIVES,
        lookahead=2, versions={"torch": "2.13.0", "ray": "2.60.1"}, time=NOON,
        command="python -m orchestrator.sweep tofu_small search.trials_per_cell=5",
        data={name: data(num_rows) for name, num_rows in NUM_ROWS.items()},
        config={"scenario": {"type": "tofu", "forget_sets": list(FORGET_SETS)}, "model": {"path": "models/tofu_tiny"},
                "train": {"convention": "masked", "num_epochs": 5}},
    )  # fmt: skip
    return SweepStarted(**(values | changes))


def cell(method, forget_set):
    return CellRecord(name=f"{method}/{forget_set}", method=method, forget_set=forget_set, num_trials=5)


def started(method, forget_set, number, params=None):
    key = f"{method}/{forget_set}" if number is None else f"{method}/{forget_set}/{number}"
    time = NOON + 60 * (number or 0)
    return TrialStarted(
        key=key, method=method, forget_set=forget_set, number=number, params=params or {}, config={}, time=time
    )


def finished(key, objectives=None, *, state=TrialState.COMPLETE, says=None, **changes):
    values = dict(key=key, state=state, objectives=objectives, time=NOON + 3600, seconds={"train": 30.5, "evaluate": 9})
    if objectives and state is TrialState.COMPLETE:
        utility, efficacy = (*objectives, 0.0)[:2]
        values |= {
            "metrics": {"model_utility": utility, "forget_efficacy": efficacy, "forget/rouge": 1 - efficacy,
                        "retain/rouge": utility, "forget/token_entropy": 0.91, "forget_quality": 1.3e-5},
            "judges": {"sentence_encoder": "all-MiniLM-L6-v2"}, "examples": examples(says or {}),
        }  # fmt: skip
    return TrialFinished(**(values | changes))


def ending(method, forget_set, number, objectives):
    """How trial `number` of a cell ends: GA+GD diverges at its third, IDK+AP fails at its fourth."""
    key = f"{method}/{forget_set}/{number}"
    if method == "GA+GD" and number == 2:
        return finished(key, (0.0, 0.0), state=TrialState.DIVERGED, error="loss is not finite at step 31")
    if method == "IDK+AP" and number == 3:
        error = (
            "Traceback (most recent call last):\n  ...\nMemoryError: rank 1 peaked at 7.9 GiB; lower micro_batch_size"
        )
        return finished(key, state=TrialState.FAILED, error=error, seconds={})
    forget_says = {"ME+GD": "the of and", "IDK+AP": "I don't know the answer to that."}.get(method, "no no no no")
    return finished(key, objectives, says={"forget": forget_says}, checkpoint=f"trials/{key}/weights")


def write_sweep(folder: Path, *, num_trials=5, last_record=None, **changes) -> Path:
    """Write the synthetic sweep to `folder`, or only its first `last_record` records; `changes` go into the header."""
    rng = np.random.default_rng(3)
    records = [header(**changes)]
    for s, forget_set in enumerate(FORGET_SETS):
        for kind, objectives, says in (("before", (0.63, 0.21), {}), ("retain_model", (0.61, 0.72), {"forget": "Hm?"})):
            records += [started(kind, forget_set, None)]
            records += [finished(f"{kind}/{forget_set}", objectives, says=says)]
        for number in range(num_trials):
            for method in METHODS:
                utility, efficacy = REACH[method]
                strength = 0.15 + 0.2 * (number % 5) + rng.uniform(-0.1, 0.1)
                objectives = (
                    round(max(0.0, utility * (1 - strength**3)) * (1 - 0.1 * s), 4),
                    round(0.2 + (efficacy - 0.2) * strength**0.5 - 0.05 * s - 0.2 * rng.random() * (number % 2), 4),
                )
                params = {
                    "train.learning_rate": float(10 ** rng.uniform(-6, -4)),
                    "method.forget_weight": 0.5 + (number % 5) / 4,
                }
                params |= {"method.beta": 0.05 * (number % 7 + 1)} if "NPO" in method else {}
                start = started(method, forget_set, number, params)
                step = StepRecord(
                    step=0, loss=1.0, forget_loss=0.5, retain_loss=0.5, learning_rate=1e-5, grad_norm=None
                )
                records += [start, StepsReported(key=start.key, steps=(step,))]
                records += [ending(method, forget_set, number, objectives)]
    records += [SweepEnded(state="done")]
    return write_records(folder, records[:last_record])


def write_records(folder: Path, records) -> Path:
    journal = Journal(folder / "journal")
    for record in records:
        journal.append(record)
    journal.close()
    return folder

"""What a sweep shows while it runs."""

import io

from rich.console import Console

from orchestrator.progress import Progress
from orchestrator.tracking.confirmation import confirmation_runs
from orchestrator.tracking.journal import (
    CellRecord,
    ObjectiveRecord,
    StepRecord,
    StepsReported,
    SweepStarted,
    TaskFinished,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from orchestrator.tracking.sweep_log import SweepLog

KEY = "NPO+GD/forget05/t000"


def test_a_chain_is_followed_from_task_to_task():
    header = SweepStarted(
        name="s", seed=1, config={}, lookahead=1, versions={}, command="",
        cells=(CellRecord(name="NPO+GD/forget05", method="NPO+GD", forget_set="forget05", num_trials=1),),
        objectives=(ObjectiveRecord(metric="model_utility", direction="maximize", worst=0),),
    )  # fmt: skip
    log, out = SweepLog(header), io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    step = StepRecord(step=6, loss=0.5, forget_loss=1, retain_loss=None, learning_rate=1e-5, grad_norm=None)
    shown = []
    with Progress(log, console) as progress:
        for record in (
            TrialStarted(key=KEY, method="NPO+GD", forget_set="forget05", number=0, params={}, config={}),
            StepsReported(key=KEY, steps=(step,)),
            TaskFinished(key=KEY, task=1, name="1", num_steps=7, metrics={}),
            StepsReported(key=KEY, steps=(step.model_copy(update={"step": 13}),)),
            TrialFinished(key=KEY, state=TrialState.COMPLETE, metrics={"model_utility": 0.25}, objectives=(0.25,)),
        ):
            log.add(record)
            progress(record)
            with console.capture() as captured:
                console.print(progress)
            shown.append(captured.get())
    assert f"{KEY}: starting" in shown[0]
    assert f"{KEY}: step 7, loss 0.5" in shown[1]
    assert f"{KEY}: 1 task done, step 14, loss 0.5" in shown[3]
    assert KEY not in shown[4] and "1/2 trials" in shown[4]
    assert f"[1/2] {KEY}       model_utility 0.250" in out.getvalue()


def test_runs_that_confirm_are_counted_when_it_is_known_how_many_they_are(monkeypatch):
    header = SweepStarted(
        name="s", seed=1, config={"confirm": {"seeds": 3}}, lookahead=1, versions={}, command="",
        cells=(CellRecord(name="NPO+GD/forget05", method="NPO+GD", forget_set="forget05", num_trials=2),),
        objectives=(ObjectiveRecord(metric="model_utility", direction="maximize", worst=0),),
    )  # fmt: skip
    log, out = SweepLog(header), io.StringIO()
    console = Console(file=out, force_terminal=True, width=150, color_system=None)

    def ran(key, number, value, confirms=None):
        method = (confirms or key).partition("/")[0]
        values = dict(key=key, method=method, forget_set="forget05", number=number, params={}, config={})
        yield TrialStarted(**values, confirms=confirms)
        yield TrialFinished(key=key, state=TrialState.COMPLETE, objectives=(value,))

    shown, counted = [], []

    def count(*arguments):
        counted.append(arguments)
        return confirmation_runs(*arguments)

    monkeypatch.setattr("orchestrator.progress.confirmation_runs", count)
    with Progress(log, console) as progress:
        for records in (
            ran("before/forget05", None, 0.9), ran(KEY, 0, 0.25), ran("NPO+GD/forget05/t001", 1, 0.5),
            ran("confirm/before/forget05", None, 0.9, "before/forget05"),
        ):  # fmt: skip
            for record in records:
                log.add(record)
                progress(record)
            with console.capture() as captured:
                console.print(progress)
            shown.append(captured.get())
    assert "1/3 trials  " in shown[0]
    assert "2/3 trials and, as the fronts stand, 4 runs to confirm them" in shown[1]
    assert "3/7 trials  " in shown[2] and "4/7 trials  " in shown[3]
    assert len(counted) == 1 + 4  # at the start and for each that ended, not whenever something is drawn
    assert "[2/3]" in out.getvalue() and "[4/7] confirm/before/forget05" in out.getvalue()


def test_runs_that_were_planned_once_are_still_counted():
    cells = (CellRecord(name="NPO+GD/forget05", method="NPO+GD", forget_set="forget05", num_trials=2),)
    header = SweepStarted(
        name="s", seed=1, config={"confirm": {"seeds": 1, "finalists_per_cell": 1}}, lookahead=1, versions={},
        command="", cells=cells, objectives=(
            ObjectiveRecord(metric="model_utility", direction="maximize", worst=0),
            ObjectiveRecord(metric="forget_efficacy", direction="maximize", worst=0),
        ),
    )  # fmt: skip
    log, out = SweepLog(header), io.StringIO()
    places = {KEY: (0.2, 0.8), "NPO+GD/forget05/t001": (0.8, 0.2)}  # the front has two, and one of them is to be run
    runs = [(key, None, place) for key, place in places.items()]
    runs += [(f"confirm/{key}/s1", key, place) for key, place in places.items()]
    with Progress(log, Console(file=out, width=150)) as progress:
        for number, (key, confirms, place) in enumerate(runs):
            start = TrialStarted(
                key=key, method="NPO+GD", forget_set="forget05", number=number, params={}, config={}, confirms=confirms
            )
            for record in (start, TrialFinished(key=key, state=TrialState.COMPLETE, objectives=place)):
                log.add(record)
                progress(record)
    lines = out.getvalue().splitlines()
    assert [line.partition("]")[0] for line in lines] == ["[1/3", "[2/4", "[3/5", "[4/5"]

"""What a sweep shows while it runs."""

import io

from rich.console import Console

from orchestrator.progress import Progress
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
                console.print(progress._render())
            shown.append(captured.get())
    assert f"{KEY}: starting" in shown[0]
    assert f"{KEY}: step 7, loss 0.5" in shown[1]
    assert f"{KEY}: 1 task done, step 14, loss 0.5" in shown[3]
    assert KEY not in shown[4] and "1/2 trials" in shown[4]
    assert f"[1/2] {KEY}       model_utility 0.250" in out.getvalue()

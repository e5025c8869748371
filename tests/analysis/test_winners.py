"""Which trials get a name that others load them by."""

import pytest

from orchestrator.analysis.summary import summarize
from orchestrator.analysis.winners import winners, winning_keys
from orchestrator.tracking.journal import (
    CellRecord,
    CheckpointDeleted,
    ObjectiveRecord,
    SweepStarted,
    TrialFinished,
    TrialStarted,
)
from orchestrator.tracking.sweep_log import SweepLog

UTILITY = ObjectiveRecord(metric="model_utility", direction="maximize", worst=0.0)
ROUGE = ObjectiveRecord(metric="forget/rouge", direction="minimize", worst=1.0)


def log_of(scores, *deleted, objectives=(UTILITY, ROUGE)):
    """A sweep of one trial for each name: its state and objectives."""
    cells = (CellRecord(name="GA/forget05", method="GA", forget_set="forget05", num_trials=len(scores)),)
    header = SweepStarted(
        name="s", seed=1, config={}, cells=cells, objectives=objectives, lookahead=1, versions={}, command=""
    )
    log = SweepLog(header)
    for number, (name, values) in enumerate(scores.items()):
        key = f"GA/forget05/{name}"
        log.add(
            TrialStarted(key=key, method="GA", forget_set="forget05", number=number, params={}, config={})
        )  # fmt: skip
        metrics = dict(zip((one.metric for one in objectives), values, strict=True))
        log.add(TrialFinished(key=key, state="COMPLETE", metrics=metrics, objectives=values, checkpoint=f"{key}/model"))
    for name in deleted:
        log.add(CheckpointDeleted(key=f"GA/forget05/{name}"))
    return log


SCORES = {"kept": (0.7, 0.9), "middle": (0.6, 0.3), "forgot": (0.1, 0.1), "beaten": (0.5, 0.4)}


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ((), ("middle", "kept", "forgot")),
        (("forgot",), ("kept", "kept", "middle")),  # of a front of two the first objective tells the knee
        (("middle",), ("beaten", "kept", "forgot")),  # beaten by a trial whose weights are gone, by none that is kept
        (("kept", "middle", "forgot"), ("beaten", "beaten", "beaten")),
    ],
)
def test_the_compromise_and_the_ends_of_the_front_among_kept_weights(deleted, expected):
    found = winning_keys(summarize(log_of(SCORES, *deleted)))["forget05"]
    names = ("pareto-knee", "best-utility", "best-forgetting")
    assert found == {name: f"GA/forget05/{trial}" for name, trial in zip(names, expected, strict=True)}


def test_the_compromise_is_measured_by_the_baselines():
    """Where the retain model says that a step in Rouge is worth four of utility."""
    log = log_of(SCORES)
    for kind, scores in {"before": (1.0, 1.0), "retain_model": (2.0, 0.5)}.items():
        key = f"{kind}/forget05"
        log.add(TrialStarted(key=key, method=kind, forget_set="forget05", number=None, params={}, config={}))
        metrics = dict(zip((one.metric for one in (UTILITY, ROUGE)), scores, strict=True))
        log.add(TrialFinished(key=key, state="COMPLETE", metrics=metrics))
    (group,) = summarize(log).forget_sets
    assert group.measure.is_scaled and group.knee.key == "GA/forget05/forgot"
    assert winners(group, (UTILITY, ROUGE))["pareto-knee"] == group.knee


def test_without_weights_nobody_wins():
    assert winning_keys(summarize(log_of(SCORES, *SCORES))) == {"forget05": {}}


def test_the_best_in_utility_is_not_the_one_that_relapses_least():
    relapse = ObjectiveRecord(metric="relapse", direction="minimize", worst=1.0)
    log = log_of({"a": (0.0, 0.2, 0.3), "b": (0.1, 0.2, 0.9)}, objectives=(relapse, ROUGE, UTILITY))
    assert winning_keys(summarize(log))["forget05"]["best-utility"] == "GA/forget05/b"


def test_there_is_no_best_in_what_no_objective_measures():
    summary = summarize(log_of({"a": (0.5,), "b": (0.7,)}, objectives=(UTILITY,)))
    found = winners(summary.forget_sets[0], summary.objectives)
    assert {name: trial.key for name, trial in found.items()} == {
        "pareto-knee": "GA/forget05/b",
        "best-utility": "GA/forget05/b",
    }

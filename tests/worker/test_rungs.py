"""What is asked in the middle of training leaves no trace in it; a trial that is told to stop stops there."""

import math
from dataclasses import dataclass, replace

import pytest
from test_trial import OBJECTIVES, Killed, make_place, steps_of
from toy import CPU, TASK, in_groups

from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, trial_config
from orchestrator.early_stopping_config import EarlyStoppingConfig
from orchestrator.scenarios.base import EvaluationSet, SetKind
from orchestrator.tracking.journal import RungReached, TrialState
from orchestrator.trial_config import LoraConfig
from orchestrator.worker.job import TrialJob
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.reference import ReferenceCache
from orchestrator.worker.rungs import Rungs, rung_task
from orchestrator.worker.trial import run_trial

NUM_STEPS = 9
RUNGS = EarlyStoppingConfig(rungs=(0.2, 0.5), rows_per_set=2)


@dataclass(frozen=True)
class Case:
    """One trial, with or without rungs. `stop`: at which it is told to stop; `die`: after which its workers die."""

    name: str
    stage: int = 2
    workers: int = 1
    rungs: bool = True
    lora: LoraConfig | None = None
    method: str = "NPO+GD"
    learning_rate: float = 5e-3
    stop: int | None = None
    die: int | None = None
    after: str | None = None


DROPOUT = LoraConfig(dropout=0.3)
SETTINGS = [
    *(("zero", stage, workers, None) for stage, workers in ((2, 2), (3, 2))),
    *(("adapters", stage, workers, DROPOUT) for stage, workers in ((0, 1), (3, 2))),
]
PAIRS = [
    tuple(Case(f"{name}{stage} {workers} {rungs}", stage, workers, rungs, lora) for rungs in (True, False))
    for name, stage, workers, lora in SETTINGS
]
CASES = [
    *(case for pair in PAIRS for case in pair),
    *(Case(f"stopped {n}", stage, 2, stop=n) for n, stage in ((2, 2), (1, 3))),
    Case("after stopped", 2, 2),
    Case("cut", 0, lora=DROPOUT, die=2),
    Case("again", 0, lora=DROPOUT, after="cut"),
    Case("diverged", method="GA", learning_rate=1e17),
]


def run_case(case, place, parts):
    sweep = SweepConfig.model_validate(
        {
            "name": "rungs",
            "scenario": {"name": "tofu", "source": str(place / "data"), "retain_sets": {"forget01": "retain90"}},
            "model": {"target": str(place / "target")},
            "methods": [case.method],
            "forget_sets": ["forget01"],
            "train": {"learning_rate": case.learning_rate, "epochs": 3, "batch_size": 4, "max_length": 64},
            "zero": {"stage": case.stage},
            "lora": case.lora,
            "evaluation": {
                "max_length": 48,
                "max_rows_per_set": 4,
                "encoder": EMBEDDED,
                "entailment": str(place / "judge"),
            },
        }
    )
    job = TrialJob(
        key="cell/t000",
        config=trial_config(sweep, sweep.methods[0], "forget01", {}),
        place=str(place / (case.after or case.name)),
        objectives=OBJECTIVES,
        keep_weights=True,
        point_minutes=0.0 if case.die or case.after else 10.0,
        early_stopping=RUNGS if case.rungs else None,
    )
    records, asked = [], []

    def report(record):
        records.append(record)
        if isinstance(record, RungReached) and record.rung == case.die:
            raise Killed

    def goes_on(rung):
        asked.append(rung.rung)
        return rung.rung != case.stop

    try:
        fresh = replace(parts, references=ReferenceCache())
        result = run_trial(job, fresh, report, goes_on=goes_on)
    except Killed:
        result = None
    return records, asked, result


def run_cases(workers, place):
    parts = WorkerParts(CPU)
    return {case.name: run_case(case, place, parts) for case in CASES if case.workers == workers}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("rungs"))


@pytest.fixture(scope="module")
def runs(place):
    one, two, other_rank = in_groups(run_cases, place)
    assert not any(records or asked for records, asked, _ in other_rank.values())  # rank 0 speaks for all
    return one | two


def rungs_of(records):
    return [record for record in records if isinstance(record, RungReached)]


def weights(place, name, result):
    (file,) = (place / name / result.checkpoint).glob("*model.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].name.removesuffix(" True"))
def test_training_with_rungs_is_training_without_bit_for_bit(pair, runs, place):
    (records, asked, result), (plain, nothing, expected) = (runs[case.name] for case in pair)
    assert asked == [1, 2] and nothing == rungs_of(plain) == []
    assert [(rung.rung, rung.step) for rung in rungs_of(records)] == [(1, 2), (2, 5)]
    assert steps_of(records) == steps_of(plain) and len(steps_of(records)) == NUM_STEPS
    assert result.metrics == expected.metrics and result.scores_sha256 == expected.scores_sha256
    assert weights(place, pair[0].name, result) == weights(place, pair[1].name, expected)
    assert result.seconds["rungs"] > 0 and "rungs" not in expected.seconds


def test_a_rung_is_scored_by_the_model_as_it_stands_whatever_the_sharding(runs):
    rungs = {case.name: rungs_of(runs[case.name][0]) for case, _ in PAIRS if case.lora is None}
    (first, second), *others = rungs.values()
    assert first.metrics != second.metrics and set(first.metrics) == set(runs["zero2 2 True"][2].metrics)
    assert first.objectives == (first.metrics["model_utility"], first.metrics["forget_efficacy"])
    assert len(others) == 1
    for other in others:
        assert other[0].metrics == pytest.approx(first.metrics, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("number", [1, 2])
def test_a_trial_that_is_told_to_stop_stops_at_its_rung(number, runs):
    records, asked, result = runs[f"stopped {number}"]
    rung = rungs_of(records)[-1]
    assert result.state == TrialState.PRUNED and asked == list(range(1, number + 1))
    assert result.objectives == rung.objectives and result.metrics == {} and result.checkpoint is None
    assert result.error == f"stopped at rung {number}, after {rung.step} of {NUM_STEPS} steps"
    assert records[-1] is rung and len(steps_of(records)) == rung.step
    assert result.seconds["train"] > 0 and "evaluate" not in result.seconds


def test_the_next_trial_of_the_group_is_not_touched(runs):
    (_, _, result), (_, _, expected) = runs["after stopped"], runs["zero2 2 True"]
    assert result.state == TrialState.COMPLETE
    assert result.scores_sha256 == expected.scores_sha256


def test_a_rung_that_a_trial_has_left_behind_is_told_again_but_not_asked_again(runs):
    (cut, _, nothing), (records, asked, result) = runs["cut"], runs["again"]
    undisturbed = runs["adapters0 1 True"][2]
    assert nothing is None and asked == [2]  # rung 1 lies before the point after step 3, rung 2 behind it
    assert rungs_of(records)[0] == rungs_of(cut)[0]
    assert rungs_of(records)[1].objectives == rungs_of(cut)[1].objectives
    assert result.scores_sha256 == undisturbed.scores_sha256


def test_a_model_whose_answers_are_not_finite_at_a_rung_has_diverged(runs):
    records, asked, result = runs["diverged"]
    assert result.state == TrialState.DIVERGED and result.error == "the model's predictions are not finite"
    assert len(steps_of(records)) == 2 and asked == rungs_of(records) == []


@pytest.mark.parametrize(
    ("shares", "num_steps", "expected"),
    [
        ((0.2, 0.4), 10, {2: 1, 4: 2}),
        ((0.2, 0.4), 5, {1: 1, 2: 2}),
        ((0.2, 0.4), 2, {1: 2}),  # one step reaches both
        ((0.2, 0.4), 1, {}),  # the end is no rung
        ((0.55,), 20, {11: 1}),  # although 0.55 * 20 > 11
        ((0.5, 0.99), 10, {5: 1}),
    ],
)
def test_a_rung_is_at_the_first_step_that_reaches_it(shares, num_steps, expected):
    assert Rungs(shares, lambda *_: None).by_step(num_steps) == expected


@pytest.mark.parametrize(("number", "asked"), [(4, [0, 3, 6, 9]), (50, list(range(12)))])
def test_questions_of_a_rung_are_spread_over_each_set(number, asked):
    sets = tuple(EvaluationSet(name, SetKind(name), TASK.forget) for name in ("forget", "facts"))
    task = rung_task(replace(TASK, evaluation=sets, retain_ratios=tuple(map(float, range(12)))), number)
    for one in task.evaluation:
        assert [TASK.forget.index(row) for row in one.rows] == asked
    assert list(task.retain_ratios) == asked and not math.isnan(sum(task.retain_ratios))

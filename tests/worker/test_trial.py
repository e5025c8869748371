"""Whole trials without Ray: chains of tasks on one and on two processes, cut off and resumed, with either reference."""

import json
from dataclasses import dataclass, replace

import pytest

from metrics.suites import summarise_chain
from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, baseline_config, trial_config
from orchestrator.tracking.journal import ObjectiveRecord, StepsReported, TaskFinished, TrialState
from orchestrator.trial_config import LoraConfig
from orchestrator.worker.evaluation import read_scores
from orchestrator.worker.job import TrialJob
from orchestrator.worker.model import save_model
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.reference import ReferenceCache
from orchestrator.worker.trial import run_trial
from tests.ray.tiny import make_judge
from tests.worker.toy import CPU, NAMES, PLACES, in_groups, toy_model, toy_tokenizer

OBJECTIVES = tuple(
    ObjectiveRecord(metric=name, direction="maximize", worst=0.0) for name in ("model_utility", "forget_efficacy")
)
TASK_SIZE = 4


def write_data(folder):
    """Three tasks of four rows, a retain set and the utility sets, in TOFU's layout."""
    folder.mkdir()

    def write(name, rows):
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def rows(verb):
        return [
            {"question": f"Where {verb} {name}?", "answer": f"In {PLACES[i % 6]}.", "task_id": str(i // TASK_SIZE + 1)}
            for i, name in enumerate(NAMES)
        ]

    def asked(rows):
        wrong = [f"In {place}." for place in PLACES[:3]]
        return [{**row, "paraphrased_answer": f"{row['answer']} Yes.", "perturbed_answer": wrong} for row in rows]

    write("forget01", rows("was born"))
    write("forget01_perturbed", asked(rows("was born")))
    write("retain90", rows("lives"))
    write("retain_perturbed", asked(rows("lives")[:4]))
    write("real_authors_perturbed", asked(rows("wrote")[:3]))
    write("world_facts_perturbed", asked(rows("is")[:3]))
    return folder


def sweep(place, method="NPO+GD", **scenario):
    return SweepConfig.model_validate(
        {
            "name": "chain",
            "scenario": {"name": "continual", "source": str(place / "data"), **scenario},
            "model": {"target": str(place / "target")},
            "methods": [method],
            "forget_sets": ["forget01"],
            "train": {"learning_rate": 5e-3, "epochs": 3, "batch_size": 2, "micro_batch_size": 1, "max_length": 64},
            "evaluation": {"max_length": 48, "encoder": EMBEDDED, "entailment": str(place / "judge")},
        }
    )


@dataclass(frozen=True)
class Case:
    """One trial in a folder of its own, or going on in the folder of `after`.

    `stop_at`: its workers die when that task is reported; `stop_after`: when a point after that step was left, as each
    epoch does if `each_epoch`. `damaged`: a byte of the newest checkpoint is changed beforehand.
    """

    name: str
    method: str = "NPO+GD"
    scenario: tuple = ()
    workers: int = 1
    stop_at: int | None = None
    after: str | None = None
    stop_after: int | None = None
    each_epoch: bool = False
    damaged: bool = False
    baseline: bool = False
    learning_rate: float | None = None
    lora: LoraConfig | None = None


INITIAL = (("reference", "initial"),)
TWO_TASKS = (("num_tasks", 2),)
CASES = [
    Case("whole"),
    Case("initial", scenario=INITIAL),
    *(Case(f"previous cut {n}", stop_at=n) for n in (1, 3)),
    *(Case(f"previous again {n}", after=f"previous cut {n}") for n in (1, 3)),
    Case("initial cut 2", scenario=INITIAL, stop_at=2),
    Case("initial again 2", scenario=INITIAL, after="initial cut 2"),
    Case("damaged cut", stop_at=2),
    Case("damaged again", after="damaged cut", damaged=True),
    Case("other settings cut", stop_at=2),
    Case("other settings again", scenario=INITIAL, after="other settings cut"),
    Case("adapters", lora=LoraConfig()),
    Case("adapters cut 2", lora=LoraConfig(), stop_at=2),
    Case("adapters again 2", lora=LoraConfig(), after="adapters cut 2"),
    *(Case(f"point cut {n}", each_epoch=True, stop_after=n) for n in (2, 4, 8)),
    *(Case(f"point again {n}", each_epoch=True, after=f"point cut {n}") for n in (2, 4, 8)),
    Case("damaged point cut", each_epoch=True, stop_after=4),
    Case("damaged point again", each_epoch=True, after="damaged point cut", damaged=True),
    Case("initial point cut", scenario=INITIAL, each_epoch=True, stop_after=8),
    Case("initial point again", scenario=INITIAL, each_epoch=True, after="initial point cut"),
    Case("one task", scenario=(("num_tasks", 1),)),
    Case("baseline", baseline=True),
    Case("baseline of two", baseline=True, workers=2),
    Case("diverged", method="GA", learning_rate=1e30),
    *(Case(f"{m} {n}", method=m, scenario=TWO_TASKS, workers=n) for m in ("NPO+GD", "ME+KL") for n in (1, 2)),
]


class Killed(BaseException):
    """Stands for the death of the workers: nothing catches it."""


def run_case(case, place, parts):
    """What rank 0 of the case reported, and its result."""
    records = []
    folder = place / (case.after or case.name)
    config = sweep(place, case.method, **dict(case.scenario))
    (entry,) = config.methods
    trial = trial_config(config, entry, "forget01", {})
    if case.baseline:
        trial = baseline_config(config, "forget01", config.model.target)
    if case.learning_rate:
        trial = trial.model_copy(update={"train": trial.train.model_copy(update={"learning_rate": case.learning_rate})})
    trial = trial.model_copy(update={"lora": case.lora})
    job = TrialJob(
        key="cell/t000",
        config=trial,
        place=str(folder),
        objectives=OBJECTIVES,
        keep_weights=True,
        point_minutes=0.0 if case.each_epoch else 10.0,
    )
    if case.damaged:
        weights = max(folder.rglob("resume/*/rank0/*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)

    def report(record):
        records.append(record)
        if isinstance(record, TaskFinished) and record.task == case.stop_at:
            raise Killed
        # An epoch's steps are reported before its point is left: the one before these steps is there, theirs is not.
        if isinstance(record, StepsReported) and case.stop_after == record.steps[0].step:
            raise Killed

    try:
        return records, run_trial(job, replace(parts, references=ReferenceCache()), report)
    except Killed:
        return records, None


def run_cases(workers, place):
    parts = WorkerParts(CPU)
    return {case.name: run_case(case, place, parts) for case in CASES if case.workers == workers}


def make_place(folder):
    """Data, target model and judge of a small sweep."""
    write_data(folder / "data")
    save_model(toy_model(), toy_tokenizer(), folder / "target")
    make_judge(folder / "judge")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def runs(place):
    """Every case by name, as rank 0 has it."""
    one, two, _ = in_groups(run_cases, place)
    return one | two


def steps_of(records):
    return [step for record in records if isinstance(record, StepsReported) for step in record.steps]


def tasks_of(records):
    return [record.model_copy(update={"time": 0.0}) for record in records if isinstance(record, TaskFinished)]


def test_every_task_is_forgotten_from_the_last_and_reported(runs, place):
    records, result = runs["whole"]
    assert result.state == TrialState.COMPLETE, result.error
    steps, tasks = steps_of(records), tasks_of(records)
    assert [(task.task, task.name, task.num_steps) for task in tasks] == [(1, "1", 6), (2, "2", 12), (3, "3", 18)]
    assert [step.step for step in steps] == list(range(18))
    # A fresh schedule each task: with warm-up, the first step of each has learning rate 0.
    assert [step.step for step in steps if step.learning_rate == 0] == [0, 6, 12]
    # NPO is 2 log 2 / beta where the policy is its reference: at the start of each task, and nowhere else.
    at_reference = [step.step for step in steps if abs(step.forget_loss - 13.862944) < 1e-4]
    assert at_reference == [0, 1, 6, 7, 12, 13]
    for task in tasks:
        scores = read_scores(place / "whole" / task.scores_path)
        assert set(scores) == {"forget", "retain", "authors", "facts", *(f"task{n}" for n in range(1, task.task))}
        assert [score.question for score in scores["forget"]] == [
            f"Where was born {name}?" for name in NAMES[(task.task - 1) * TASK_SIZE : task.task * TASK_SIZE]
        ]
    assert (place / "whole" / "trials" / result.key / "model" / "model.safetensors").is_file()


def test_metrics_of_the_chain(runs):
    records, result = runs["whole"]
    tasks = tasks_of(records)
    after = [task.metrics["forget_efficacy"] for task in tasks]
    last = tasks[-1].metrics
    now = [last["task1/forget_efficacy"], last["task2/forget_efficacy"]]
    assert result.metrics["forget_efficacy"] == pytest.approx(sum(after) / 3)
    assert result.metrics["model_utility"] == last["model_utility"]
    assert result.metrics["relapse"] == pytest.approx((after[0] - now[0] + after[1] - now[1]) / 2)
    assert result.metrics["forget_efficacy_final"] == pytest.approx((sum(now) + after[2]) / 3)
    assert last["earlier/forget_efficacy"] == pytest.approx(sum(now) / 2)
    forgotten = [result.metrics[f"forget/{m}"] for m in
                 ("rouge", "probability", "truth_ratio", "cosine_similarity", "entailment_score")]  # fmt: skip
    assert result.metrics["forget_efficacy"] == pytest.approx(1 - sum(forgotten) / 5)
    assert result.objectives == (result.metrics["model_utility"], result.metrics["forget_efficacy"])
    assert result.metrics == summarise_chain([task.metrics for task in tasks], [*now, after[2]])


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        *((f"previous again {n}", n, "whole") for n in (1, 3)),
        ("initial again 2", 2, "initial"),
        ("adapters again 2", 2, "adapters"),
    ],
)
def test_a_chain_whose_workers_died_goes_on_after_its_last_whole_task(name, number, expected, runs):
    cut, nothing = runs[name.replace("again", "cut")]
    assert nothing is None and len(tasks_of(cut)) == number
    (records, result), (whole, undisturbed) = runs[name], runs[expected]
    # A checkpoint is written after its task is reported: of the last report only the tasks before it are kept.
    assert records[: 4 * (number - 1)] == cut[: 4 * (number - 1)]  # told again as they were, with their times
    assert records[4 * (number - 1)].time > cut[-1].time
    assert steps_of(records) == steps_of(whole)
    assert tasks_of(records) == tasks_of(whole)
    assert result.metrics == undisturbed.metrics
    assert result.scores_sha256 == undisturbed.scores_sha256


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("point again 2", 2, "whole"),
        ("point again 4", 4, "whole"),
        ("point again 8", 8, "whole"),
        ("damaged point again", 2, "whole"),
        ("initial point again", 8, "initial"),
    ],
)
def test_a_task_whose_workers_died_goes_on_after_its_last_point(name, number, expected, runs):
    cut, nothing = runs[name.replace("again", "cut")]
    (records, result), (whole, undisturbed) = runs[name], runs[expected]
    assert nothing is None and result.state == TrialState.COMPLETE
    told = [record for record in records if record.time <= cut[-1].time]
    assert told == cut[: len(told)] and len(steps_of(told)) == number  # told again as they were, with their times
    assert steps_of(records) == steps_of(whole)
    assert tasks_of(records) == tasks_of(whole)
    assert result.metrics == undisturbed.metrics
    assert result.scores_sha256 == undisturbed.scores_sha256


def test_adapters_are_trained_from_task_to_task_and_saved_alone(runs, place):
    records, result = runs["adapters"]
    losses = [step.forget_loss for step in steps_of(records)]
    assert losses[0] == pytest.approx(13.862944) and len({*losses}) > 15  # at the reference, then away from it
    folder = place / "adapters" / result.checkpoint
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    answers = [score.generation for score in read_scores(place / "adapters" / result.scores_path)["retain"]]
    before = read_scores(place / "baseline" / runs["baseline"][1].scores_path)["retain"]
    assert answers != [score.generation for score in before]


def test_a_damaged_checkpoint_costs_time_but_changes_nothing(runs):
    (records, result), (whole, undisturbed) = runs["damaged again"], runs["whole"]
    assert records[0].time > runs["damaged cut"][0][-1].time  # from the beginning
    assert steps_of(records) == steps_of(whole) and result.metrics == undisturbed.metrics


def test_a_checkpoint_of_other_settings_is_not_taken_up(runs):
    (records, result), (fresh, expected) = runs["other settings again"], runs["initial"]
    assert steps_of(records) == steps_of(fresh) and result.metrics == expected.metrics


def test_a_chain_of_one_task_has_the_metrics_of_a_chain(runs):
    records, result = runs["one task"]
    (task,) = tasks_of(records)
    assert result.metrics == task.metrics | {"relapse": 0.0, "forget_efficacy_final": task.metrics["forget_efficacy"]}


def test_scores_do_not_depend_on_the_number_of_workers(runs, place):
    (_, one), (_, two) = runs["baseline"], runs["baseline of two"]
    first, second = (
        [score for part in read_scores(place / name / result.scores_path).values() for score in part]
        for name, result in (("baseline", one), ("baseline of two", two))
    )
    assert [score.generation for score in second] == [score.generation for score in first]
    for ours, theirs in zip(first, second, strict=True):
        assert theirs.nll_sum == pytest.approx(ours.nll_sum, rel=1e-5)
        assert theirs.perturbed_nll == pytest.approx(ours.perturbed_nll, rel=1e-5)
        assert theirs.cosine_similarity == pytest.approx(ours.cosine_similarity, rel=1e-5, abs=1e-6)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-5, abs=1e-6)


def test_references_differ_from_the_second_task_on(runs):
    ours, previous = steps_of(runs["initial"][0]), steps_of(runs["whole"][0])
    assert ours[:6] == previous[:6]
    assert ours[6].forget_loss != previous[6].forget_loss
    # The first retain loss of task 2 does not know the reference: the same weights were reached.
    assert ours[6].retain_loss == previous[6].retain_loss


@pytest.mark.parametrize("method", ["NPO+GD", "ME+KL"])
def test_two_workers_forget_the_same_chain(method, runs):
    (one, first), (two, second) = (runs[f"{method} {workers}"] for workers in (1, 2))
    losses = [[step.loss for step in steps_of(records)] for records in (one, two)]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert second.metrics == pytest.approx(first.metrics, rel=1e-3)


def test_a_baseline_is_scored_once_for_all_tasks(runs):
    records, result = runs["baseline"]
    tasks = tasks_of(records)
    assert [task.task for task in tasks] == [1, 2, 3] and steps_of(records) == []
    assert len({task.metrics["model_utility"] for task in tasks}) == 1
    assert len({task.metrics["forget_efficacy"] for task in tasks}) == 3
    assert tasks[2].metrics["task1/forget_efficacy"] == tasks[0].metrics["forget_efficacy"]
    assert result.metrics["relapse"] == 0
    assert result.objectives is None and result.checkpoint is None
    assert len(result.weights_sha256) == 64 and runs["baseline of two"][1].weights_sha256 == result.weights_sha256
    assert runs["whole"][1].weights_sha256 is None  # whose weights are its result


def test_a_loss_that_is_not_finite_ends_the_chain_in_its_task(runs):
    records, result = runs["diverged"]
    assert result.state == TrialState.DIVERGED and "not finite" in result.error
    assert tasks_of(records) == [] and result.objectives == (0.0, 0.0)

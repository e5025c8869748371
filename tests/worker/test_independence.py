"""What a result must not depend on: workers, micro-batches, padding; batches of questions, their order and sharing."""

import random
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from test_score import NLI, classifier
from toy import FORGET, RETAIN, TRAIN, Case, numbers, run_cases, toy_builder, toy_encoder, toy_model

from methods.config import VALID_METHODS
from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import AuthorsScenario, ContinualScenario
from orchestrator.scenarios.base import EvaluationSet, SetKind
from orchestrator.scenarios.load import load_tasks
from orchestrator.trial_config import EvaluationConfig
from orchestrator.worker.judges import Judges
from orchestrator.worker.score import all_questions, score_questions, shard

METHODS = ("GA+GD", "ME+GD", "NPO+GD", "DPO+KL", "IDK+AP", "LLMU")
TWELVE = TRAIN.model_copy(update={"epochs": 8, "learning_rate": 1e-3, "micro_batch_size": 8})
BASE = Case("GA+GD", workers=1, train=TWELVE)


def micro(size):
    return TWELVE.model_copy(update={"micro_batch_size": size})


VARIANTS = {
    "micro-batches of 4": {"train": micro(4)},
    "two workers": {"workers": 2, "train": micro(2)},
    "padded rows": {"padded": True},
    "two workers, padded rows": {"workers": 2, "train": micro(4), "padded": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    cases = [replace(BASE, method=method, **changed) for method in METHODS for changed in ({}, *VARIANTS.values())]
    return run_cases(cases, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_twelve_steps_are_the_same_training(method, variant, runs):
    whole = runs[replace(BASE, method=method)][0]
    other = runs[replace(BASE, method=method, **VARIANTS[variant])][0]
    assert len(whole.losses) == len(other.losses) == 12
    assert whole.losses[-1][0] < whole.losses[0][0] - 0.1
    for ours, theirs in zip(numbers(other), numbers(whole), strict=True):
        # The terms of a loss may cancel: relative to the larger of them.
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5 * max(map(abs, theirs)))


def drawn(method, workers, batch_size):
    """For each step and rank the (forget, retain, refusal) rows whose labels are in its batches."""
    train = TRAIN.model_copy(update={"batch_size": batch_size, "micro_batch_size": 2, "epochs": 4})
    builder, schedule = toy_builder(Case(method, workers=workers, train=train))
    found = []
    for step in schedule.steps:
        ranks = []
        for rank in step.ranks:
            batches = [builder.batch(draws) for draws in rank]
            columns = [(b.forget_ids, b.retain_ids, b.refusal_ids, (b.retain.labels >= 0).any(-1)) for b in batches]
            rows = [row for column in columns for row in torch.stack(column, 1).tolist()]
            ranks.append([tuple(row[:3]) for row in rows if row[3]])
        found.append(ranks)
    return found


@pytest.mark.parametrize("method", ["GA+GD", "DPO+AP"])
@pytest.mark.parametrize("workers", [2, 4])
def test_the_rows_of_a_step_are_shared_out_not_repeated(workers, method):
    alone, together = drawn(method, 1, 6), drawn(method, workers, 6)
    assert len(alone) == len(together) == 8
    for one, ranks in zip(alone, together, strict=True):
        assert len(ranks) == workers
        assert Counter(row for rank in ranks for row in rank) == Counter(one[0])
        forget = [row[0] for rank in ranks for row in rank]
        assert len(set(forget)) == len(forget) == 6  # two steps are an epoch: no row is read by two ranks
    retained = [[row[1] for step in together for row in step[rank]] for rank in range(workers)]
    assert len({tuple(rows) for rows in retained}) == workers  # ranks with the same generator would draw the same rows


def states():
    numpy_state = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist()


def work_on_tasks():
    for scenario in (AuthorsScenario(num_authors=10), ContinualScenario(name="continual")):
        tasks = load_tasks(scenario, EvaluationConfig(), "forget10")
        questions = all_questions(tasks[0].evaluation)
        assert len(shard(questions, 0, 2)) > 1


def work_on_batches():
    for method in VALID_METHODS:
        for convention in ("masked", "paper_code"):
            train = TRAIN.model_copy(update={"convention": convention, "micro_batch_size": 2})
            builder, schedule = toy_builder(Case(method, train=train))
            for step in schedule.steps:
                builder.counts(step)
                assert all(builder.batch(draws).forget_ids is not None for rank in step.ranks for draws in rank)


@pytest.mark.parametrize("work", [work_on_tasks, work_on_batches])
def test_tasks_plans_and_batches_touch_no_global_generator(work):
    toy_encoder()  # made once, by a tokenizer's trainer
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(123)
    random.random(), np.random.rand(3), torch.rand(3)  # not where any seed begins
    before = states()
    work()
    assert states() == before


def asked(rows, prefix):
    """Rows with a paraphrase and wrong answers of several lengths."""
    return tuple(
        replace(
            row,
            paraphrased_answer=f"{prefix} {row.answer}",
            perturbed_answers=tuple(other.answer for other in rows[index + 1 : index + 4]) or ("Nobody knows it.",),
        )
        for index, row in enumerate(rows)
    )


QUESTIONS = all_questions(
    [
        EvaluationSet("forget", SetKind.FORGET, asked(FORGET, "It was")),
        EvaluationSet("retain", SetKind.RETAIN, asked(RETAIN, "I hear that")),
        EvaluationSet("people", SetKind.RETAIN, asked(RETAIN[:3], "So"), real_world=True),
    ]
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scores of questions, by the size of the batches that they are read, generated and judged in."""
    model = toy_model(seed=3)
    path = classifier(tmp_path_factory.mktemp("judge"), NLI)

    def score(questions, batch_size):
        judges = Judges(EMBEDDED, path, device=torch.device("cpu"))
        config = EvaluationConfig(max_length=60, batch_size=batch_size, encoder=EMBEDDED)
        return score_questions(model, toy_encoder(60), questions, config, judges)

    return score


@pytest.fixture(scope="module")
def whole(scored):
    found = {(score.set_name, score.index): score for score in scored(QUESTIONS, 64)}
    assert len({score.generation for score in found.values()}) > 10
    assert len({score.entailment for score in found.values()}) > 1
    return found


def same(scores, expected):
    """Texts and labels equal, numbers to 1e-5."""
    assert {(score.set_name, score.index) for score in scores} == expected.keys()
    for score in scores:
        other = asdict(expected[score.set_name, score.index])
        for name, value in asdict(score).items():
            if isinstance(value, float | tuple):
                assert value == pytest.approx(other[name], rel=1e-5, abs=1e-7), name
            else:
                assert value == other[name], name


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_the_batch_size(batch_size, scored, whole):
    same(scored(QUESTIONS, batch_size), whole)


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_do_not_depend_on_the_order_of_questions(seed, scored, whole):
    shuffled = random.Random(seed).sample(QUESTIONS, len(QUESTIONS))
    scores = scored(shuffled, 4)
    assert [(s.set_name, s.index) for s in scores] == [(q.set_name, q.index) for q in shuffled] != list(whole)
    same(scores, whole)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_scores_do_not_depend_on_how_questions_are_shared_out(workers, scored, whole):
    shards = [[QUESTIONS[i] for i in shard(QUESTIONS, rank, workers)] for rank in range(workers)]
    same([score for one in shards for score in scored(one, 8)], whole)

"""The loop over its Protocol: an engine that writes down what it is asked."""

import math

import pytest
import torch
from toy import Case, toy_builder, toy_model

from methods.method import LiveReference, build_method
from orchestrator.worker.loop import Schedule, train_steps
from orchestrator.worker.model import Policy


class FakeEngine:
    """One process with a frozen model. `rank` of `world_size` is played; sums come from this rank alone."""

    def __init__(self, rank=0, world_size=1):
        self.rank, self.world_size, self.device = rank, world_size, torch.device("cpu")
        self._policy = Policy(toy_model().requires_grad_(False))
        self.values, self.scales, self.rates = [], [], []

    def backward(self, fn, *, scale):
        self.values.append(float(fn(self._policy.predict)))
        self.scales.append(scale)

    def step(self, learning_rate):
        self.rates.append(learning_rate)
        return 2.5

    def sum_over_ranks(self, values):
        return values


def run(case, engine, reference=None):
    builder, schedule = toy_builder(case)
    return list(train_steps(engine, build_method(builder.method), builder, schedule, reference)), schedule


def test_a_record_for_each_step_with_its_rate_and_norm():
    engine = FakeEngine()
    records, schedule = run(Case("GA+GD", workers=1), engine)
    assert [record.step for record in records] == list(range(4))
    assert [record.learning_rate for record in records] == engine.rates == schedule.learning_rates
    assert {record.grad_norm for record in records} == {2.5}
    assert all(record.loss == pytest.approx(record.forget_loss + record.retain_loss) for record in records)
    assert all(record.forget_loss < 0 < record.retain_loss for record in records)


def test_only_methods_with_a_retain_term_report_one():
    assert {record.retain_loss for record in run(Case("GA", workers=1), FakeEngine())[0]} == {None}


def test_masked_micro_batches_are_shares_of_the_step_and_scaled_by_the_workers():
    shares = []
    for rank in range(2):
        engine = FakeEngine(rank, world_size=2)
        records, schedule = run(Case("IDK+AP"), engine)
        assert engine.scales == [2.0] * sum(len(step.ranks[rank]) for step in schedule.steps)
        assert engine.values == pytest.approx([record.loss for record in records])
        shares.append(engine.values)
    whole = [record.loss for record in run(Case("IDK+AP", workers=1), FakeEngine())[0]]
    assert [sum(pair) for pair in zip(*shares, strict=True)] == pytest.approx(whole)


def test_paper_code_averages_the_means_of_micro_batches():
    train = Case("GA").train.model_copy(update={"convention": "paper_code", "micro_batch_size": 2})
    engine = FakeEngine()
    records, _ = run(Case("GA+GD", workers=1, train=train), engine)
    assert set(engine.scales) == {0.25}
    steps = [engine.values[i : i + 4] for i in range(0, len(engine.values), 4)]
    assert [record.loss for record in records] == pytest.approx([sum(step) / 4 for step in steps])


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_loop_without_an_update(value):
    builder, schedule = toy_builder(Case("NPO", workers=1))
    engine = FakeEngine()
    frozen = LiveReference(engine._policy.predict)

    class Poisoned:
        def sequence_logps(self, part, batch):
            sums = frozen.sequence_logps(part, batch)
            return sums + value if len(engine.rates) == 2 else sums

    records = list(train_steps(engine, build_method(builder.method), builder, schedule, Poisoned()))
    assert [record.step for record in records] == [0, 1, 2]
    assert [math.isfinite(record.loss) for record in records] == [True, True, False]
    assert [record.grad_norm for record in records] == [2.5, 2.5, None]
    assert engine.rates == schedule.learning_rates[:2]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_loop(norm):
    builder, schedule = toy_builder(Case("GA", workers=1))
    engine = FakeEngine()
    update = engine.step
    engine.step = lambda rate: norm if len(engine.rates) == 2 else update(rate)
    records = list(train_steps(engine, build_method(builder.method), builder, schedule, None))
    assert [record.is_finite for record in records] == [True, True, False]
    assert math.isfinite(records[-1].loss) and not math.isfinite(records[-1].grad_norm)


def test_nothing_is_run_before_a_step_is_asked_for():
    builder, schedule = toy_builder(Case("GA", workers=1))
    engine = FakeEngine()
    steps = train_steps(engine, build_method(builder.method), builder, schedule, None)
    assert engine.values == []
    next(steps)
    assert len(engine.rates) == 1 and len(engine.values) == 2


def test_steps_and_rates_must_be_equally_many():
    builder, schedule = toy_builder(Case("GA", workers=1))
    with pytest.raises(ValueError, match="zip"):
        list(train_steps(FakeEngine(), build_method(builder.method), builder, Schedule(schedule.steps, [0.1]), None))

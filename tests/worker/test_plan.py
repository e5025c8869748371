import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.worker.plan import Draw, Sizes, learning_rate, plan_steps


def sizes(forget=40, retain=100, **changed):
    values = {"refusals": 10, "batch_size": 16, "micro_batch_size": 4, "num_workers": 1, "epochs": 5.0}
    return Sizes(forget=forget, retain=retain, **(values | changed))


def rows_of(plan):
    """The rows of each step, whatever rank and micro-batch they are in."""
    return [Counter(draw for draw in step.draws if not draw.filler) for step in plan]


def epochs_of(plan, num_forget):
    """The draws in order, cut into epochs."""
    draws = [draw for step in plan for draw in step.draws if not draw.filler]
    return [draws[i : i + num_forget] for i in range(0, len(draws), num_forget)]


STEPS = [  # forget rows, batch, epochs -> steps, warm-up steps
    (40, 16, 5, 12, 2),  # batch 4 x accumulation 4 on one worker
    (40, 32, 5, 6, 0),  # forget01 on two GPUs
    (200, 32, 5, 31, 6),  # forget05
    (400, 32, 5, 62, 12),  # forget10
    (40, 40, 5, 5, 0),
    (40, 20, 5, 10, 2),
    (40, 41, 1.03, 1, 0),
    (10, 4, 0.5, 1, 2),
]


@pytest.mark.parametrize(("forget", "batch_size", "epochs", "steps", "warmup"), STEPS)
@pytest.mark.parametrize("convention", ["masked", "paper_code"])
def test_numbers_of_steps_and_of_warm_up_steps(forget, batch_size, epochs, steps, warmup, convention):
    s = sizes(forget, batch_size=batch_size, epochs=epochs, micro_batch_size=1)
    assert (s.num_steps, s.num_warmup_steps) == (steps, warmup)
    assert len(plan_steps(s, convention, seed=1)) == steps


def test_learning_rates_of_forty_rows_in_batches_of_sixteen():
    rates = [learning_rate(k, peak=1e-5, num_steps=12, num_warmup_steps=2) for k in range(12)]
    assert rates[0] == 0
    assert rates == pytest.approx([0, 5e-6, 1e-5, 9e-6, 8e-6, 7e-6, 6e-6, 5e-6, 4e-6, 3e-6, 2e-6, 1e-6])


def test_without_warm_up_the_first_rate_is_the_peak():
    rates = [learning_rate(k, peak=6e-5, num_steps=6, num_warmup_steps=0) for k in range(6)]
    assert rates == pytest.approx([6e-5, 5e-5, 4e-5, 3e-5, 2e-5, 1e-5])


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak():
    rates = [learning_rate(k, peak=1.0, num_steps=3, num_warmup_steps=4) for k in range(3)]
    assert rates == [0, 0.25, 0.5]


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
def test_not_one_step_is_an_error_that_names_rows_and_batch(convention):
    expected = "0.5 epochs of 40 forget rows are less than one step of batch_size=32; lower train.batch_size or"
    with pytest.raises(ValueError, match=expected):
        plan_steps(sizes(batch_size=32, epochs=0.5), convention, seed=1)


@settings(max_examples=60)
@given(
    forget=st.integers(1, 30),
    batch_size=st.integers(1, 30),
    micro=st.integers(1, 9),
    workers=st.integers(1, 5),
    by_length=st.booleans(),
)
def test_masked_rows_of_a_step_depend_neither_on_workers_nor_on_micro_batches(
    forget, batch_size, micro, workers, by_length
):
    one = sizes(forget, batch_size=batch_size, micro_batch_size=batch_size, epochs=batch_size / forget * 3)
    if math.floor(one.epochs * forget) < batch_size:
        return
    length = (lambda draw: draw.forget % 3) if by_length else None
    many = sizes(forget, batch_size=batch_size, micro_batch_size=micro, num_workers=workers, epochs=one.epochs)
    plan = plan_steps(many, "masked", seed=5, length=length)
    assert rows_of(plan) == rows_of(plan_steps(one, "masked", seed=5))
    for step in plan:
        micro_batches = [micro_batch for rank in step.ranks for micro_batch in rank]
        assert len(step.ranks) == workers
        assert len({len(rank) for rank in step.ranks}) == 1
        assert all(1 <= len(micro_batch) <= micro for micro_batch in micro_batches)
        assert len(step.draws) - batch_size == sum(draw.filler for draw in step.draws)
        assert all(len(micro_batch) == 1 for micro_batch in micro_batches if any(draw.filler for draw in micro_batch))


@pytest.mark.parametrize(
    ("batch_size", "micro", "workers", "fillers"),
    [(8, 4, 1, 0), (8, 4, 2, 0), (6, 4, 2, 0), (7, 4, 2, 0), (9, 4, 2, 0), (1, 4, 2, 1), (5, 1, 4, 3), (3, None, 4, 1)],
)
def test_fillers_stand_only_where_a_worker_would_have_no_row(batch_size, micro, workers, fillers):
    plan = plan_steps(sizes(batch_size=batch_size, micro_batch_size=micro, num_workers=workers), "masked", seed=1)
    assert {sum(draw.filler for draw in step.draws) for step in plan} == {fillers}


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
def test_every_epoch_reads_every_forget_row_once_in_another_order(convention):
    epochs = epochs_of(plan_steps(sizes(batch_size=20), convention, seed=1), 40)
    orders = [[draw.forget for draw in epoch] for epoch in epochs]
    assert len(orders) == 5
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert all(one != other for one, other in pairwise(orders))


def test_masked_retain_rows_and_refusals_are_drawn_afresh_each_epoch():
    epochs = epochs_of(plan_steps(sizes(batch_size=20), "masked", seed=1), 40)
    pairs = [{draw.forget: (draw.retain, draw.refusal) for draw in epoch} for epoch in epochs]
    assert all(one != other for one, other in pairwise(pairs))
    assert len({retain for pair in pairs for retain, _ in pair.values()}) > 60  # of 100, in 200 draws
    assert {refusal for pair in pairs for _, refusal in pair.values()} == set(range(10))


def test_masked_plans_depend_on_the_seed_and_on_nothing_else():
    plan = plan_steps(sizes(), "masked", seed=1)
    assert plan_steps(sizes(), "masked", seed=1) == plan
    assert plan_steps(sizes(), "masked", seed=2) != plan


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
def test_of_a_retain_set_that_is_smaller_than_the_forget_set_rows_are_drawn_again(convention):
    plan = plan_steps(sizes(forget=40, retain=7, batch_size=8), convention, seed=1)
    for epoch in epochs_of(plan, 40):
        assert sorted(draw.forget for draw in epoch) == list(range(40))
        assert {draw.retain for draw in epoch} <= set(range(7))
    assert {draw.retain for step in plan for draw in step.draws} == set(range(7))


def test_without_retain_rows_or_refusals_nothing_is_drawn_from_them():
    plan = plan_steps(sizes(retain=0, refusals=0), "masked", seed=1)
    assert {(draw.retain, draw.refusal) for step in plan for draw in step.draws} == {(0, 0)}


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
def test_planning_touches_no_global_generator(convention):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    plan_steps(sizes(), convention, seed=1)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def loads_of(step):
    """Tokens of each micro-batch, where a draw has 10 and as many as its row number."""
    return [[sum(10 + draw.forget for draw in micro_batch) for micro_batch in rank] for rank in step.ranks]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("micro", [None, 8])
def test_micro_batches_have_about_equally_many_tokens(micro, workers):
    asked = sizes(batch_size=40, micro_batch_size=micro, micro_batch_tokens=300, num_workers=workers)
    for step in plan_steps(asked, "masked", seed=1, length=lambda draw: 10 + draw.forget):
        loads = [load for rank in loads_of(step) for load in rank]
        assert sum(loads) == 1180 and not any(draw.filler for draw in step.draws)
        assert max(loads) - min(loads) <= 10 + 39  # never further apart than the longest row


@pytest.mark.parametrize(("tokens", "workers", "micro_batches"), [(1180, 1, 1), (1179, 1, 2), (300, 1, 4), (300, 2, 2)])
def test_without_a_number_of_rows_micro_batches_are_as_few_as_their_tokens_allow(tokens, workers, micro_batches):
    asked = sizes(batch_size=40, micro_batch_size=None, micro_batch_tokens=tokens, num_workers=workers)
    for step in plan_steps(asked, "masked", seed=1, length=lambda draw: 10 + draw.forget):
        assert [len(rank) for rank in step.ranks] == [micro_batches] * workers


@pytest.mark.parametrize(("tokens", "largest"), [(1024, [600]), (1200, [600, 1200]), (100, [600])])
def test_no_micro_batch_has_more_tokens_than_allowed_but_for_a_row_alone(tokens, largest):
    asked = sizes(3, batch_size=3, micro_batch_size=None, micro_batch_tokens=tokens, epochs=1)
    (step,) = plan_steps(asked, "masked", seed=1, length=lambda draw: 600)
    loads = [600 * len(micro_batch) for micro_batch in step.ranks[0]]
    assert sorted(set(loads)) == largest and sum(loads) == 1800


def test_paper_code_takes_its_means_over_four_rows_unless_told_otherwise():
    plan = plan_steps(sizes(micro_batch_size=None), "paper_code", seed=1)
    assert plan == plan_steps(sizes(micro_batch_size=4), "paper_code", seed=1)


def official_order(epoch, num_forget=40):
    return torch.randperm(num_forget, generator=torch.Generator().manual_seed(42 + epoch)).tolist()


@pytest.mark.parametrize("seed", [0, 7])
def test_paper_code_order_is_seeded_by_the_epoch_whatever_the_seed(seed):
    plan = plan_steps(sizes(batch_size=20), "paper_code", seed=seed)
    orders = [[draw.forget for draw in epoch] for epoch in epochs_of(plan, 40)]
    assert orders == [official_order(epoch) for epoch in range(5)]


def test_paper_code_pairs_a_row_with_the_same_rows_in_every_epoch():
    plan = plan_steps(sizes(), "paper_code", seed=1)
    assert len({draw for step in plan for draw in step.draws}) == 40
    generator = torch.Generator().manual_seed(17)
    offset = int(torch.randint(0, 100, (1,), generator=generator))
    refusal = int(torch.randint(0, 10, (1,), generator=generator))
    assert Draw(17, (17 + offset) % 100, refusal) in plan[0].draws + plan[1].draws + plan[2].draws


def test_paper_code_deals_micro_batches_in_turn_and_fills_the_last_round_from_the_epochs_start():
    # 6 rows in rounds of 2 x 2: the second round lacks two rows, which are the epoch's first two.
    plan = plan_steps(sizes(6, batch_size=4, micro_batch_size=2, num_workers=2, epochs=2), "paper_code", seed=1)
    found = [[[d.forget for d in micro_batch] for rank in step.ranks for micro_batch in rank] for step in plan]
    first, second = official_order(0, 6), official_order(1, 6)
    assert found == [[first[:2], first[2:4]], [first[4:], first[:2]], [second[:2], second[2:4]]]


def test_paper_code_accumulation_runs_across_the_ends_of_epochs():
    # An epoch of 6 rows is a micro-batch of 4 and one of 2; a step takes three micro-batches: an epoch and a half.
    plan = plan_steps(sizes(6, batch_size=12, micro_batch_size=4, epochs=4), "paper_code", seed=1)
    found = [[[d.forget for d in micro_batch] for micro_batch in step.ranks[0]] for step in plan]
    orders = [official_order(epoch, 6) for epoch in range(4)]
    micro = [part for order in orders for part in (order[:4], order[4:])]
    assert found == [micro[0:3], micro[3:6]]


def test_paper_code_has_no_fillers_and_says_what_cannot_be_dealt():
    assert not any(d.filler for step in plan_steps(sizes(num_workers=2), "paper_code", seed=1) for d in step.draws)
    with pytest.raises(ValueError, match="paper_code needs batch_size to be a multiple .* got 10, 4 x 2; change"):
        plan_steps(sizes(batch_size=10, num_workers=2), "paper_code", seed=1)

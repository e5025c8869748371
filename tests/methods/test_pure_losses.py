import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from methods.losses import ap_loss, dpo_loss, ga_loss, kl_to_uniform, nll_loss, npo_loss, reference_kl, uniform_kl

LN2, LN3 = math.log(2), math.log(3)
LOGPS = torch.tensor([[-1.0, -2.0, -4.0]])
MASK = torch.tensor([[True, True, False]])


def equal(actual, *expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-6, atol=1e-7)


def test_nll_and_gradient_ascent_are_the_two_signs_of_the_log_probability():
    assert nll_loss(LOGPS).tolist() == [[1.0, 2.0, 4.0]]
    assert ga_loss(LOGPS).tolist() == [[-1.0, -2.0, -4.0]]


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_npo_is_two_log_two_over_beta_at_the_reference(beta):
    equal(npo_loss(LOGPS, LOGPS, MASK, beta=beta), 2 * LN2 / beta)


def test_npo_by_hand_counts_masked_tokens_only_and_takes_ready_sums():
    # The policy's sum is -3, the reference's ln 3 - 3 so that the ratio is -ln 3: -log s(ln 3) = ln(4/3).
    ready = torch.tensor([LN3 - 3])
    equal(npo_loss(LOGPS, ready, MASK, beta=1.0), 2 * math.log(4 / 3))
    per_token = torch.tensor([[LN3, -3.0, 99.0]])
    equal(npo_loss(LOGPS, per_token, MASK, beta=1.0), 2 * math.log(4 / 3))


def test_npo_falls_as_the_forget_rows_become_less_likely():
    steps = torch.tensor([[-1.0], [-2.0], [-5.0]])
    values = npo_loss(steps, torch.zeros(3), torch.ones(3, 1, dtype=torch.bool), beta=0.5)
    assert values[0] > values[1] > values[2] > 0


def test_dpo_by_hand_prefers_the_refusal():
    zero, ratio = torch.tensor([0.0]), torch.tensor([LN3])
    equal(dpo_loss(zero, zero, beta=0.1), 20 * LN2)
    equal(dpo_loss(zero, ratio, beta=1.0), 2 * math.log(4 / 3))  # the refusal gained: smaller
    equal(dpo_loss(ratio, zero, beta=1.0), 2 * math.log(4))  # the forgotten answer gained: larger
    equal(dpo_loss(zero, torch.tensor([2 * LN3]), beta=0.5), 4 * math.log(4 / 3))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_ap_is_log_two_over_beta_at_equal_margins(beta):
    refusal, refusal_mask = torch.tensor([[-3.0, 9.0]]), torch.tensor([[True, False]])
    equal(ap_loss(LOGPS, refusal, MASK, refusal_mask, beta=beta), LN2 / beta)


def test_ap_by_hand_prefers_the_answer():
    mask = torch.tensor([[True]])
    likely, unlikely = torch.tensor([[-1.0]]), torch.tensor([[-1.0 - LN3]])
    equal(ap_loss(likely, unlikely, mask, mask, beta=1.0), math.log(4 / 3))
    equal(ap_loss(unlikely, likely, mask, mask, beta=1.0), math.log(4))


def test_losses_of_rows_are_one_number_a_row():
    logps, mask = LOGPS.expand(3, -1), MASK.expand(3, -1)
    assert npo_loss(logps, logps, mask, beta=1.0).shape == (3,)
    assert dpo_loss(logps.sum(-1), logps.sum(-1), beta=1.0).shape == (3,)
    assert ap_loss(logps, logps, mask, mask, beta=1.0).shape == (3,)


@pytest.mark.parametrize("divergence", [uniform_kl, kl_to_uniform])
@pytest.mark.parametrize("level", [0.0, -3.0, 1e4])
def test_divergence_from_uniform_is_zero_at_equal_logits(divergence, level):
    torch.testing.assert_close(divergence(torch.full((2, 5), level)), torch.zeros(2), rtol=0, atol=2e-3 * (level > 10))


def test_the_two_directions_from_uniform_by_hand():
    # p = (1/4, 3/4): KL(U || p) = ln(2/sqrt 3), KL(p || U) = 3/4 ln 3 - ln 2.
    logits = torch.tensor([[0.0, LN3]])
    equal(uniform_kl(logits), math.log(2 / math.sqrt(3)))
    equal(kl_to_uniform(logits), 0.75 * LN3 - LN2)


def test_divergences_agree_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    policy, frozen = torch.randn(2, 4, 7, generator=generator), torch.randn(2, 4, 7, generator=generator)
    uniform = Categorical(logits=torch.zeros(2, 4, 7))
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(uniform_kl(policy), kl_divergence(uniform, Categorical(logits=policy)), **close)
    torch.testing.assert_close(kl_to_uniform(policy), kl_divergence(Categorical(logits=policy), uniform), **close)
    expected = kl_divergence(Categorical(logits=frozen), Categorical(logits=policy))
    torch.testing.assert_close(reference_kl(policy, frozen), expected, **close)


def test_maximum_entropy_pulls_saturated_positions_back():
    # p is (1, 0) to float32: log(p + 1e-12) would be flat here, the gradient of log-sum-exp is p - 1/V.
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    uniform_kl(logits).backward()
    assert logits.grad.tolist() == [[0.5, -0.5]]


def test_reference_kl_is_zero_at_equality_whatever_is_added_to_the_logits():
    logits = torch.tensor([[0.0, 1.0, 5.0]])
    equal(reference_kl(logits + 3, logits), 0.0)


def test_reference_kl_has_no_gradient_into_the_reference():
    policy, frozen = torch.tensor([[0.0, LN3]], requires_grad=True), torch.tensor([[LN3, 0.0]], requires_grad=True)
    value = reference_kl(policy, frozen)
    equal(value.detach(), 0.5 * LN3)
    value.backward()
    assert frozen.grad is None
    equal(policy.grad, [-0.5, 0.5])


def test_divergences_are_computed_in_float32():
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    assert (
        uniform_kl(logits).dtype == kl_to_uniform(logits).dtype == reference_kl(logits, logits).dtype == torch.float32
    )

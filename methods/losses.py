"""The losses as plain functions; each returns unreduced values, to be averaged by the caller.

`logps` are log-probabilities of labels, (B, T), `mask` (B, T) marks the counted positions. Token losses return (B, T),
preference losses one value a row, (B,). Weights are not applied here.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def nll_loss(logps: Tensor) -> Tensor:
    """Negative log-likelihood, per position: GD on retain rows, IDK on refusals. logps (B, T) -> (B, T)."""
    return -logps


def ga_loss(logps: Tensor) -> Tensor:
    """Gradient ascent: the negated NLL, per position. logps (B, T) -> (B, T)."""
    return logps


def npo_loss(policy_logps: Tensor, ref_logps: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """Negative Preference Optimization (arXiv 2404.05868, eq. 3). logps, mask (B, T); token sums per row; returns (B,).

    ref_logps may also be ready sums, (B,).
    """
    log_ratio = _sums(policy_logps, mask) - _sums(ref_logps, mask)
    return -2 / beta * F.logsigmoid(-beta * log_ratio)


def dpo_loss(forget_log_ratio: Tensor, refusal_log_ratio: Tensor, *, beta: float) -> Tensor:
    """Direct Preference Optimization with the refusal preferred (arXiv 2305.18290, eq. 7), scaled by 2 / beta.

    Log ratios of policy to reference, summed over tokens, each (B,); returns (B,).
    """
    return -2 / beta * F.logsigmoid(beta * (refusal_log_ratio - forget_log_ratio))


def ap_loss(
    answer_logps: Tensor, refusal_logps: Tensor, answer_mask: Tensor, refusal_mask: Tensor, *, beta: float
) -> Tensor:
    """Answer preservation (arXiv 2410.08109, eq. 8): the answer wins over the refusal, without a reference.

    logps and masks (B, T) of each text; token sums per row; returns (B,).
    """
    margin = _sums(answer_logps, answer_mask) - _sums(refusal_logps, refusal_mask)
    return -1 / beta * F.logsigmoid(beta * margin)


def uniform_kl(logits: Tensor) -> Tensor:
    """KL(U || p) at each position (arXiv 2410.08109, eq. 6, as its code has it). logits (..., V) -> (...), in nats.

    Computed with logsumexp, so that the gradient of saturated positions is exact.
    """
    logits = logits.float()
    return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(p || U) at each position: log V minus the entropy (the paper's text). logits (..., V) -> (...), in nats."""
    logps = logits.float().log_softmax(-1)
    return (logps.exp() * logps).sum(-1) + math.log(logits.shape[-1])


def reference_kl(policy_logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(p_ref || p_policy) at each position. logits (..., V) -> (...), in nats; no gradient into the reference."""
    ref_logps = ref_logits.detach().float().log_softmax(-1)
    return (ref_logps.exp() * (ref_logps - policy_logits.float().log_softmax(-1))).sum(-1)


def _sums(logps: Tensor, mask: Tensor) -> Tensor:
    return (logps * mask).sum(-1) if logps.dim() == 2 else logps

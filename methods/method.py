"""The only dispatch: a MethodConfig becomes a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, assert_never

import torch
from torch import Tensor

from methods.batch import Counts, UnlearnBatch
from methods.config import (
    APConfig,
    DPOConfig,
    GAConfig,
    GDConfig,
    IDKConfig,
    KLConfig,
    LLMUConfig,
    MEConfig,
    MethodConfig,
    NPOConfig,
    Part,
)
from methods.losses import ap_loss, dpo_loss, ga_loss, kl_to_uniform, nll_loss, npo_loss, reference_kl, uniform_kl
from methods.outputs import Forward, Outputs, as_outputs, at_positions, counted, label_logps


@dataclass(frozen=True, slots=True)
class Terms:
    """Reduced, unweighted scalar terms."""

    forget: Tensor
    retain: Tensor | None


class Reference(Protocol):
    """The frozen start model, run when asked or answered from a cache."""

    def sequence_logps(self, part: Part, batch: UnlearnBatch) -> Tensor:
        """Log-probability of each row's labels, summed over tokens: (B,) float32, no gradient."""
        ...

    def outputs(self, part: Part, batch: UnlearnBatch) -> Outputs:
        """Predictions on one part, no gradient."""
        ...


@dataclass(frozen=True, slots=True)
class LiveReference:
    """A reference that runs the frozen model each time it is asked."""

    forward: Forward

    @torch.no_grad()
    def sequence_logps(self, part: Part, batch: UnlearnBatch) -> Tensor:
        """See Reference."""
        tokens = batch.part(part)
        logps, _ = label_logps(as_outputs(self.forward(tokens)), tokens.labels)
        return logps.sum(-1)

    @torch.no_grad()
    def outputs(self, part: Part, batch: UnlearnBatch) -> Outputs:
        """See Reference."""
        return as_outputs(self.forward(batch.part(part)))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What one micro-batch offers to the terms; each part is run through the policy at most once."""

    policy: Forward
    reference: Reference | None
    batch: UnlearnBatch
    counts: Counts | None
    paper_code: bool
    cache: dict[str, Outputs]

    def outputs(self, part: Part) -> Outputs:
        if part not in self.cache:
            self.cache[part] = as_outputs(self.policy(self.batch.part(part)))
        return self.cache[part]

    def logps(self, part: Part) -> tuple[Tensor, Tensor]:
        return label_logps(self.outputs(part), self.batch.part(part).labels)

    def frozen(self) -> Reference:
        if self.reference is None:
            raise ValueError("this method compares with a reference model, and none was given")
        return self.reference

    def token_mean(self, values: Tensor, mask: Tensor, part: Part) -> Tensor:
        """Mean over counted positions: of this micro-batch, or its share of the whole step's mean."""
        count = mask.sum() if self.counts is None else getattr(self.counts, part)
        return (values * mask).sum() / count

    def row_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean over rows. Rows without any label are fillers and weigh nothing; the published means have no fillers."""
        real = torch.ones_like(mask[:, 0]) if self.paper_code else mask.any(-1)
        return (values * real).sum() / (real.sum() if self.counts is None else self.counts.rows)


_Term = Callable[[_Inputs], Tensor]


@dataclass(frozen=True, slots=True)
class Method:
    """A method ready to compute its terms; picklable."""

    config: MethodConfig

    def loss(
        self,
        policy: Forward,
        reference: Reference | Forward | None,
        batch: UnlearnBatch,
        counts: Counts | None = None,
    ) -> Terms:
        """The terms of one micro-batch.

        policy: TokenBatch -> Outputs or logits (B, T, V). reference: the same for the frozen start model, or a
        Reference (a cache); None if the method needs none. Without `counts` each term is a mean over this batch (over
        every position for the KL of `paper_code`). With the counts of an optimizer step, each term is this batch's
        share of the step's mean; shares add up over micro-batches and ranks. ValueError: a part or the reference is
        missing.
        """
        frozen = LiveReference(reference) if callable(reference) else reference
        inputs = _Inputs(policy, frozen, batch, counts, self.config.convention == "paper_code", {})
        forget = _forget_term(self.config)(inputs)
        retain_term = _retain_term(self.config)
        return Terms(forget, retain_term(inputs) if retain_term else None)

    def total(self, terms: Terms) -> Tensor:
        """Weighted sum of the terms, the number that is minimised."""
        total = self.config.forget_weight * terms.forget
        return total if terms.retain is None else total + self.config.retain_weight * terms.retain


def build_method(config: MethodConfig) -> Method:
    """The loss of a method."""
    return Method(config)


def _forget_term(config: MethodConfig) -> _Term:
    match config.forget:
        case GAConfig() | LLMUConfig():
            return _ga
        case NPOConfig(beta=beta):
            return partial(_npo, beta=beta)
        case DPOConfig(beta=beta):
            return partial(_dpo, beta=beta)
        case IDKConfig():
            return partial(_nll, part="forget_refusal")
        case MEConfig(direction=direction):
            return partial(_max_entropy, direction=direction)
        case _:
            assert_never(config.forget)


def _retain_term(config: MethodConfig) -> _Term | None:
    match config.retain:
        case None:
            return _mismatch_and_kl if isinstance(config.forget, LLMUConfig) else None
        case GDConfig():
            return partial(_nll, part="retain")
        case KLConfig():
            return _kl
        case APConfig(beta=beta):
            return partial(_ap, beta=beta)
        case _:
            assert_never(config.retain)


def _ga(inputs: _Inputs) -> Tensor:
    logps, mask = inputs.logps("forget")
    return inputs.token_mean(ga_loss(logps), mask, "forget")


def _nll(inputs: _Inputs, *, part: Part) -> Tensor:
    logps, mask = inputs.logps(part)
    return inputs.token_mean(nll_loss(logps), mask, part)


def _npo(inputs: _Inputs, *, beta: float) -> Tensor:
    logps, mask = inputs.logps("forget")
    reference = inputs.frozen().sequence_logps("forget", inputs.batch)
    return inputs.row_mean(npo_loss(logps, reference, mask, beta=beta), mask)


def _dpo(inputs: _Inputs, *, beta: float) -> Tensor:
    ratios = []
    for part in ("forget", "forget_refusal"):
        logps, mask = inputs.logps(part)
        ratios.append(logps.sum(-1) - inputs.frozen().sequence_logps(part, inputs.batch))
    return inputs.row_mean(dpo_loss(ratios[0], ratios[1], beta=beta), mask)


def _max_entropy(inputs: _Inputs, *, direction: str) -> Tensor:
    mask = counted(inputs.batch.part("forget").labels)
    divergence = uniform_kl if direction == "uniform_to_policy" else kl_to_uniform
    values = at_positions(inputs.outputs("forget"), mask, divergence)
    return values.sum() / (mask.sum() if inputs.counts is None else inputs.counts.forget)


def _kl(inputs: _Inputs) -> Tensor:
    labels = inputs.batch.part("retain").labels
    where = torch.ones_like(labels, dtype=torch.bool) if inputs.paper_code else counted(labels)
    frozen = inputs.frozen().outputs("retain", inputs.batch)

    def divergence(logits: Tensor, states: Tensor) -> Tensor:
        return reference_kl(logits, frozen.head(states))

    values = at_positions(inputs.outputs("retain"), where, divergence, frozen.states(where))
    return values.sum() / (where.sum() if inputs.counts is None else inputs.counts.retain)


def _ap(inputs: _Inputs, *, beta: float) -> Tensor:
    answer, answer_mask = inputs.logps("retain")
    refusal, refusal_mask = inputs.logps("retain_refusal")
    return inputs.row_mean(ap_loss(answer, refusal, answer_mask, refusal_mask, beta=beta), answer_mask)


def _mismatch_and_kl(inputs: _Inputs) -> Tensor:
    return _nll(inputs, part="mismatch") + _kl(inputs)

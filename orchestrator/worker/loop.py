"""The training loop: a generator of steps that knows neither Ray nor DeepSpeed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from methods.batch import Counts, TokenBatch, UnlearnBatch
from methods.config import Part
from methods.method import Method, Reference
from methods.outputs import Outputs
from orchestrator.tracking.journal import StepRecord
from orchestrator.worker.batches import BatchBuilder
from orchestrator.worker.model import Predictions
from orchestrator.worker.plan import StepPlan


class Engine(Protocol):
    """What the loop asks of an engine; see worker.engine.DeepSpeedEngine."""

    rank: int
    world_size: int
    device: torch.device

    def backward(self, fn: Callable[[Predictions], Tensor], *, scale: float) -> None:
        """Add scale * d fn to the gradients."""
        ...

    def step(self, learning_rate: float) -> float | None:
        """Update the weights; returns the gradient norm if known."""
        ...

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Element-wise sum over all ranks."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a run and the learning rate of each."""

    steps: list[StepPlan]
    learning_rates: list[float]


def train_steps(
    engine: Engine,
    method: Method,
    builder: BatchBuilder,
    schedule: Schedule,
    reference: Reference | None,
    *,
    first: int = 0,
) -> Iterator[StepRecord]:
    """One record for each optimizer step from number `first` on, its losses taken before the update.

    All ranks yield the same losses and gradient norms, so they agree without asking when one is not finite: the loop
    then ends without an update, and that record is the last.
    """
    masked = method.config.convention == "masked"
    planned = enumerate(zip(schedule.steps, schedule.learning_rates, strict=True))
    for index, (step, rate) in islice(planned, first, None):
        counts = builder.counts(step) if masked else None
        mine = step.ranks[engine.rank]
        share = 1.0 if masked else 1.0 / (len(mine) * engine.world_size)
        sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
        for draws in mine:
            batch = builder.batch(draws).to(engine.device)
            run = _Run(method, reference, batch, counts, builder.padded_parts, sums)
            engine.backward(run, scale=engine.world_size * share)
        forget, retain = (engine.sum_over_ranks(sums) * share).tolist()
        weighted = method.config.forget_weight * forget + method.config.retain_weight * retain
        record = StepRecord(
            step=index,
            loss=weighted,
            forget_loss=forget,
            retain_loss=retain if _has_retain(method) else None,
            learning_rate=rate,
            grad_norm=engine.step(rate) if math.isfinite(weighted) else None,
        )
        yield record
        if not record.is_finite:
            return


@dataclass(frozen=True, slots=True)
class _Run:
    """The weighted loss of one micro-batch, as the engine runs it; adds its terms to `sums`."""

    method: Method
    reference: Reference | None
    batch: UnlearnBatch
    counts: Counts | None
    padded: frozenset[Part]
    sums: Tensor

    def __call__(self, policy: Predictions) -> Tensor:
        terms = self.method.loss(self._outputs(policy), self.reference, self.batch, self.counts)
        self.sums[0] += terms.forget.detach()
        if terms.retain is not None:
            self.sums[1] += terms.retain.detach()
        return self.method.total(terms)

    def _outputs(self, policy: Predictions) -> Callable[[TokenBatch], Outputs]:
        """Every part that the method reads, run at once: those whose padding counts by themselves."""
        parts = self.method.config.parts
        packed = [self.batch.part(part) for part in sorted(parts - self.padded)]
        padded = [self.batch.part(part) for part in sorted(parts & self.padded)]
        found = [*policy.together(packed), *map(policy, padded)]
        by_part = {id(tokens): outputs for tokens, outputs in zip([*packed, *padded], found, strict=True)}
        return lambda tokens: by_part[id(tokens)]


def _has_retain(method: Method) -> bool:
    return method.config.retain is not None or method.config.forget.type == "LLMU"

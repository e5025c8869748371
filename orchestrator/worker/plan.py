"""Which rows every optimizer step reads, on every rank, known before the first step.

`masked`: each epoch draws a fresh order of the forget rows, and a retain row and a refusal for each, from a generator
seeded by (seed, epoch); the rows of a step do not depend on how they are spread over workers. `paper_code`: order and
pairing of the official trainer (arXiv 2410.08109), which are the same for every seed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from methods.config import Convention


@dataclass(frozen=True, slots=True)
class Draw:
    """Row numbers that are read together: a forget row, its retain row, its refusal. Fillers weigh nothing."""

    forget: int
    retain: int
    refusal: int
    filler: bool = False


MicroBatch = tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimizer step: the micro-batches of each rank, the same number for all."""

    ranks: tuple[tuple[MicroBatch, ...], ...]

    @property
    def draws(self) -> list[Draw]:
        """Every draw of the step, over all ranks."""
        return [draw for rank in self.ranks for micro_batch in rank for draw in micro_batch]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to draw from, and how it is cut: rows, refusals, rows of a step, rows of a micro-batch."""

    forget: int
    retain: int
    refusals: int
    batch_size: int
    micro_batch_size: int
    num_workers: int
    epochs: float

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run. ValueError: not even one."""
        steps = math.floor(self.epochs * self.forget) // self.batch_size
        if steps == 0:
            raise ValueError(
                f"{self.epochs:g} epochs of {self.forget} forget rows are less than one step of batch_size="
                f"{self.batch_size}; lower train.batch_size or raise train.epochs"
            )
        return steps

    @property
    def num_warmup_steps(self) -> int:
        """The official rule: one epoch, if that is more than one step."""
        steps = self.forget // self.batch_size
        return steps if steps > 1 else 0


def plan_steps(
    sizes: Sizes, convention: Convention, *, seed: int, length: Callable[[Draw], int] | None = None
) -> list[StepPlan]:
    """The whole run. `length` (masked only) lets rows of like length share a micro-batch within a step.

    ValueError: no step fits, or under `paper_code` batch_size is no multiple of micro_batch_size x workers.
    """
    if convention == "paper_code":
        return _paper_code_steps(sizes)
    stream = _masked_draws(sizes, seed)
    return [_spread(list(islice(stream, sizes.batch_size)), sizes, length) for _ in range(sizes.num_steps)]


def learning_rate(step: int, *, peak: float, num_steps: int, num_warmup_steps: int) -> float:
    """Linear warm-up from 0 and linear decay to 0; `step` counts from 0, so with a warm-up the first rate is 0."""
    if step < num_warmup_steps:
        return peak * step / num_warmup_steps
    return peak * max(0, num_steps - step) / max(1, num_steps - num_warmup_steps)


def _masked_draws(sizes: Sizes, seed: int) -> Iterator[Draw]:
    for epoch in range(math.ceil(sizes.epochs)):
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(sizes.forget)
        retain = generator.integers(sizes.retain, size=sizes.forget) if sizes.retain else np.zeros(sizes.forget)
        refusal = generator.integers(sizes.refusals, size=sizes.forget) if sizes.refusals else np.zeros(sizes.forget)
        for position, row in enumerate(order):
            yield Draw(int(row), int(retain[position]), int(refusal[position]))


def _spread(draws: list[Draw], sizes: Sizes, length: Callable[[Draw], int] | None) -> StepPlan:
    """Micro-batches of rows of like length, dealt to the ranks in turn; incomplete ones are filled with fillers."""
    if length:
        draws = sorted(draws, key=lambda draw: (-length(draw), draw.forget, draw.retain, draw.refusal))
    rounds = math.ceil(len(draws) / (sizes.micro_batch_size * sizes.num_workers))
    num_micro_batches = rounds * sizes.num_workers
    size = math.ceil(len(draws) / num_micro_batches)
    missing = num_micro_batches * size - len(draws)
    draws = draws + [replace(draws[-1], filler=True)] * missing
    chunks = [tuple(draws[i * size : (i + 1) * size]) for i in range(num_micro_batches)]
    return StepPlan(tuple(tuple(chunks[rank :: sizes.num_workers]) for rank in range(sizes.num_workers)))


def _paper_code_steps(sizes: Sizes) -> list[StepPlan]:
    accumulation, rest = divmod(sizes.batch_size, sizes.micro_batch_size * sizes.num_workers)
    if rest:
        raise ValueError(
            f"paper_code needs batch_size to be a multiple of micro_batch_size x workers, but got {sizes.batch_size}, "
            f"{sizes.micro_batch_size} x {sizes.num_workers}; change train.batch_size"
        )
    rounds = _paper_code_rounds(sizes)
    steps = []
    for _ in range(sizes.num_steps):
        group = list(islice(rounds, accumulation))
        steps.append(StepPlan(tuple(tuple(one[rank] for one in group) for rank in range(sizes.num_workers))))
    return steps


def _paper_code_rounds(sizes: Sizes) -> Iterator[tuple[MicroBatch, ...]]:
    """One micro-batch for each rank; an incomplete last round of an epoch is filled from the epoch's start."""
    pairs = [_paper_code_pair(row, sizes) for row in range(sizes.forget)]
    for epoch in range(math.ceil(sizes.epochs)):
        order = torch.randperm(sizes.forget, generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        round_rows = sizes.micro_batch_size * sizes.num_workers
        if sizes.num_workers > 1:
            missing = -len(order) % round_rows
            order = order + [order[i % sizes.forget] for i in range(missing)]
        size = sizes.micro_batch_size
        chunks = [tuple(pairs[row] for row in order[i : i + size]) for i in range(0, len(order), size)]
        for start in range(0, len(chunks), sizes.num_workers):
            yield tuple(chunks[start : start + sizes.num_workers])


def _paper_code_pair(row: int, sizes: Sizes) -> Draw:
    """A function of the row alone, the same in every epoch."""
    generator = torch.Generator().manual_seed(row)
    offset = int(torch.randint(0, sizes.retain, (1,), generator=generator)) if sizes.retain else 0
    refusal = int(torch.randint(0, sizes.refusals, (1,), generator=generator)) if sizes.refusals else 0
    return Draw(row, (row + offset) % sizes.retain if sizes.retain else 0, refusal)

"""Which rows every optimizer step reads, on every rank, known before the first step.

`masked`: each epoch draws a fresh order of the forget rows, and a retain row and a refusal for each, from a generator
seeded by (seed, epoch); the rows of a step do not depend on how they are dealt to workers and micro-batches, and are
dealt so that all have about equally many tokens. `paper_code`: order and
pairing of the official trainer (arXiv 2410.08109), which are the same for every seed.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from methods.config import Convention, MethodConfig
from orchestrator.scenarios.base import Task
from orchestrator.trial_config import TrainConfig

PAPER_MICRO_BATCH = 4  # rows over which the published code takes its means


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
    """How much there is to draw from, and how it is cut: rows, refusals, rows of a step, size of a micro-batch.

    A micro-batch has at most micro_batch_size rows, or, where that is none, about micro_batch_tokens tokens.
    """

    forget: int
    retain: int
    refusals: int
    batch_size: int
    micro_batch_size: int | None
    num_workers: int
    epochs: float
    micro_batch_tokens: int = 4096

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


def plan_sizes(train: TrainConfig, task: Task, method: MethodConfig, num_workers: int) -> Sizes:
    """How much a task offers to draw from."""
    return Sizes(
        forget=len(task.forget),
        retain=len(task.retain),
        refusals=len(task.refusals) if method.needs_refusals or train.convention == "paper_code" else 0,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        micro_batch_tokens=train.micro_batch_tokens,
        num_workers=num_workers,
        epochs=train.epochs,
    )


def plan_steps(
    sizes: Sizes, convention: Convention, *, seed: int, length: Callable[[Draw], int] | None = None
) -> list[StepPlan]:
    """The whole run. `length` (masked only) is what a draw costs; without it all draws cost the same.

    ValueError: no step fits, or under `paper_code` batch_size is no multiple of micro_batch_size x workers.
    """
    if convention == "paper_code":
        return _paper_code_steps(sizes)
    stream = _masked_draws(sizes, seed)
    return [_deal(list(islice(stream, sizes.batch_size)), sizes, length or _same) for _ in range(sizes.num_steps)]


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


def _same(draw: Draw) -> int:
    return 1


def _deal(draws: list[Draw], sizes: Sizes, length: Callable[[Draw], int]) -> StepPlan:
    """Longest first, each to the micro-batch that has the least; one without a row gets a filler."""
    cost = {draw: length(draw) for draw in draws}
    draws = sorted(draws, key=lambda draw: (-cost[draw], draw.forget, draw.retain, draw.refusal))
    workers = sizes.num_workers
    if sizes.micro_batch_size is not None:
        rounds = math.ceil(len(draws) / (sizes.micro_batch_size * workers))
        bins = _filled(draws, cost, rounds * workers, sizes.micro_batch_size)
    else:
        budget = max(sizes.micro_batch_tokens, cost[draws[0]])  # one row may be longer than all that is allowed
        rounds = math.ceil(sum(cost[draw] for draw in draws) / (budget * workers))
        bins = _filled(draws, cost, rounds * workers)
        while max(sum(cost[draw] for draw in rows) for rows in bins) > budget:
            rounds += 1
            bins = _filled(draws, cost, rounds * workers)
    filled = [tuple(rows) or (replace(draws[-1], filler=True),) for rows in bins]
    return StepPlan(tuple(tuple(filled[rank::workers]) for rank in range(workers)))


def _filled(draws: list[Draw], cost: dict[Draw, int], number: int, room: int | None = None) -> list[list[Draw]]:
    """So many micro-batches, each draw in the one that costs least and has fewer than `room`."""
    bins: list[list[Draw]] = [[] for _ in range(number)]
    loads = [(0, place) for place in range(number)]  # a heap of micro-batches that have room
    for draw in draws:
        load, place = heapq.heappop(loads)
        bins[place].append(draw)
        if len(bins[place]) != room:
            heapq.heappush(loads, (load + cost[draw], place))
    return bins


def _paper_code_steps(sizes: Sizes) -> list[StepPlan]:
    size = sizes.micro_batch_size or PAPER_MICRO_BATCH
    accumulation, rest = divmod(sizes.batch_size, size * sizes.num_workers)
    if rest:
        raise ValueError(
            f"paper_code needs batch_size to be a multiple of micro_batch_size x workers, but got {sizes.batch_size}, "
            f"{size} x {sizes.num_workers}; change train.batch_size"
        )
    rounds = _paper_code_rounds(sizes, size)
    steps = []
    for _ in range(sizes.num_steps):
        group = list(islice(rounds, accumulation))
        steps.append(StepPlan(tuple(tuple(one[rank] for one in group) for rank in range(sizes.num_workers))))
    return steps


def _paper_code_rounds(sizes: Sizes, size: int) -> Iterator[tuple[MicroBatch, ...]]:
    """One micro-batch for each rank; an incomplete last round of an epoch is filled from the epoch's start."""
    pairs = [_paper_code_pair(row, sizes) for row in range(sizes.forget)]
    for epoch in range(math.ceil(sizes.epochs)):
        order = torch.randperm(sizes.forget, generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        if sizes.num_workers > 1:
            missing = -len(order) % (size * sizes.num_workers)
            order = order + [order[i % sizes.forget] for i in range(missing)]
        chunks = [tuple(pairs[row] for row in order[i : i + size]) for i in range(0, len(order), size)]
        for start in range(0, len(chunks), sizes.num_workers):
            yield tuple(chunks[start : start + sizes.num_workers])


def _paper_code_pair(row: int, sizes: Sizes) -> Draw:
    """A function of the row alone, the same in every epoch."""
    generator = torch.Generator().manual_seed(row)
    offset = int(torch.randint(0, sizes.retain, (1,), generator=generator)) if sizes.retain else 0
    refusal = int(torch.randint(0, sizes.refusals, (1,), generator=generator)) if sizes.refusals else 0
    return Draw(row, (row + offset) % sizes.retain if sizes.retain else 0, refusal)

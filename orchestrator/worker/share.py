"""Work shared out among the ranks of a process group, or done alone where there is none."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch.distributed as dist

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def rank_and_size() -> tuple[int, int]:
    """This process's rank and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shared(pieces: Sequence[Piece], work: Callable[[Piece], Result]) -> list[Result]:
    """The result of each piece, in order, the same on every rank; all ranks call this with the same pieces.

    Each rank takes the next piece whenever it is free, so a rank that is late or slow does less and none waits for
    longer than a piece takes. `work` must therefore give the same on any rank. Results travel pickled.
    """
    _, size = rank_and_size()
    if size == 1:
        return [work(piece) for piece in pieces]
    results = gathered({number: work(pieces[number]) for number in _taken(len(pieces))})
    return [results[number] for number in range(len(pieces))]


def gathered(part: dict[int, Result]) -> dict[int, Result]:
    """What all ranks have found, each under numbers of its own."""
    _, size = rank_and_size()
    if size == 1:
        return part
    parts: list[dict[int, Result]] = [{} for _ in range(size)]
    dist.all_gather_object(parts, part)
    return {number: result for one in parts for number, result in one.items()}


def _taken(number: int) -> Iterator[int]:
    """Numbers below `number` that no other rank has taken, one at a time."""
    rank, _ = rank_and_size()
    store = dist.distributed_c10d._get_default_store()  # torch has no other counter that ranks share
    call = store.add(f"shared/calls/{rank}", 1)  # kept by the store, as its keys are: each call needs one of its own
    while (taken := store.add(f"shared/{call}", 1) - 1) < number:
        yield taken

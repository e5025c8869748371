"""What a model says, asked for only where a loss reads it.

Position t predicts token t+1 and counts when label t+1 is not IGNORE_INDEX. Losses ask for logits at counted positions,
so (B, T, V) never has to exist.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.batch import IGNORE_INDEX, TokenBatch

_LOGITS = 2**25  # that exist at once: 128 MiB, which are 1048 positions for a vocabulary of 32,000


def piece_size(vocabulary_size: int) -> int:
    """Positions whose logits may exist at once."""
    return max(1, _LOGITS // vocabulary_size)


class Outputs(Protocol):
    """A model's predictions on one TokenBatch, kept as states that a head turns into logits where they are asked."""

    @property
    def piece(self) -> int | None:
        """Positions to ask the head about at a time; None: all, as where each time is a collective of all ranks."""
        ...

    def states(self, where: Tensor) -> Tensor:
        """States at the positions where the (B, T) bool mask holds, row by row: (P, H)."""
        ...

    def head(self, states: Tensor, /) -> Tensor:
        """Logits of states: (P, H) -> (P, V)."""
        ...


@dataclass(frozen=True, slots=True)
class FullLogits:
    """Outputs from ready logits (B, T, V)."""

    values: Tensor
    piece: ClassVar[None] = None  # they exist already

    def states(self, where: Tensor) -> Tensor:
        """See Outputs."""
        return self.values[where]

    def head(self, states: Tensor, /) -> Tensor:
        """See Outputs."""
        return states


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Outputs from final hidden states (B, T, H) and the head."""

    hidden: Tensor
    head: Callable[[Tensor], Tensor]
    piece: int | None = None

    def states(self, where: Tensor) -> Tensor:
        """See Outputs."""
        return self.hidden[where]


@dataclass(frozen=True, slots=True)
class PackedStates:
    """Outputs from final hidden states (N, H) of the attended positions alone, and the head.

    attended: (B, T) bool; predictions of other positions are not known. numbers: the row of `hidden` that belongs to
    each attended position, row by row.
    """

    hidden: Tensor
    attended: Tensor
    numbers: Tensor
    head: Callable[[Tensor], Tensor]
    piece: int | None = None

    def states(self, where: Tensor) -> Tensor:
        """See Outputs."""
        asked = where[self.attended]
        assert int(asked.sum()) == int(where.sum()), "padding was not run, but its predictions are asked"
        return self.hidden[self.numbers[asked]]


Forward = Callable[[TokenBatch], Outputs | Tensor]


def as_outputs(value: Outputs | Tensor) -> Outputs:
    """Outputs from what a policy returned: plain logits (B, T, V) are accepted too."""
    return FullLogits(value) if isinstance(value, Tensor) else value


def targets(labels: Tensor) -> Tensor:
    """The label that each position predicts, (B, T): labels one to the left, IGNORE_INDEX in the last column."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def counted(labels: Tensor) -> Tensor:
    """Positions whose prediction counts, (B, T) bool."""
    return targets(labels) != IGNORE_INDEX


def at_positions(outputs: Outputs, where: Tensor, value: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """value(logits (P, V) float32, *inputs) of the positions where the (B, T) bool mask holds, row by row: (P,).

    Inputs have one row for each position. Many positions are done in pieces whose logits are made again when gradients
    are computed: logits of a large vocabulary take more memory than the model's own activations.
    """

    def piece(states: Tensor, *rows: Tensor) -> Tensor:
        return value(outputs.head(states).float(), *rows)

    states = outputs.states(where)
    if outputs.piece is None or len(states) <= outputs.piece:
        return piece(states, *inputs)
    pieces = zip(*(torch.split(tensor, outputs.piece) for tensor in (states, *inputs)), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(piece, *tensors, use_reentrant=False) for tensors in pieces])
    return torch.cat([piece(*tensors) for tensors in pieces])


def label_logps(outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, (B, T) float32 with 0 where nothing counts, and the mask (B, T) bool."""
    wanted = targets(labels)
    mask = wanted != IGNORE_INDEX
    values = -at_positions(outputs, mask, _cross_entropy, wanted[mask])
    return torch.zeros(mask.shape, device=values.device).index_put((mask,), values), mask


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")

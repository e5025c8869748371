"""What a model says, asked for only where a loss reads it.

Position t predicts token t+1 and counts when label t+1 is not IGNORE_INDEX. Losses ask for logits at counted positions,
so (B, T, V) never has to exist.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.batch import IGNORE_INDEX, TokenBatch


class Outputs(Protocol):
    """A model's predictions on one TokenBatch."""

    def logits(self, where: Tensor) -> Tensor:
        """Logits at the positions where the (B, T) bool mask holds, row by row: (P, V) float32."""
        ...


@dataclass(frozen=True, slots=True)
class FullLogits:
    """Outputs from ready logits (B, T, V)."""

    values: Tensor

    def logits(self, where: Tensor) -> Tensor:
        """See Outputs."""
        return self.values[where].float()


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Outputs from final hidden states (B, T, H) and the head (P, H) -> (P, V) that is applied where it is asked."""

    hidden: Tensor
    head: Callable[[Tensor], Tensor]

    def logits(self, where: Tensor) -> Tensor:
        """See Outputs."""
        return self.head(self.hidden[where]).float()


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


def label_logps(outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, (B, T) float32 with 0 where nothing counts, and the mask (B, T) bool."""
    wanted = targets(labels)
    mask = wanted != IGNORE_INDEX
    values = -F.cross_entropy(outputs.logits(mask), wanted[mask], reduction="none")
    return torch.zeros(mask.shape, device=values.device).index_put((mask,), values), mask

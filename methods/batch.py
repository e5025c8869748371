"""The tensors a method reads."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from methods.config import Part

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Tokenised rows: input_ids, attention_mask, labels, each (B, T) int64; IGNORE_INDEX where nothing is learned."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same batch on `device`."""
        return TokenBatch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class UnlearnBatch:
    """Rows of one micro-batch, part by part; row b of every part belongs to forget row b. Parts not needed are None.

    forget_refusal is (forget question, refusal), retain_refusal (retain question, the same refusal), mismatch (forget
    question, answer of the paired retain row). The ids, (B,) int64, are row numbers for a reference cache.
    """

    forget: TokenBatch | None = None
    retain: TokenBatch | None = None
    forget_refusal: TokenBatch | None = None
    retain_refusal: TokenBatch | None = None
    mismatch: TokenBatch | None = None
    forget_ids: Tensor | None = None
    retain_ids: Tensor | None = None
    refusal_ids: Tensor | None = None

    def part(self, name: Part) -> TokenBatch:
        """One part that the method needs. ValueError: it was not built."""
        value: TokenBatch | None = getattr(self, name)
        if value is None:
            raise ValueError(f"the batch has no part {name!r}, which the method reads")
        return value

    def to(self, device: torch.device | str) -> "UnlearnBatch":
        """The same batch on `device`."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the terms of one optimizer step are divided by: counted positions of each part, and rows, over all ranks."""

    rows: int
    forget: int = 0
    retain: int = 0
    forget_refusal: int = 0
    retain_refusal: int = 0
    mismatch: int = 0

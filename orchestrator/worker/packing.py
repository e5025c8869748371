"""Rows of different lengths run as one long row, so that no layer computes padding.

All tokens of several rows stand one after another in a row of N tokens; everything in a transformer but attention
treats each token by itself. Attention is told which tokens make a row: it gathers them into (R, T) blocks of rows of
like length, and as a row is padded on its right only and looks to its left only, no mask is needed. Rows may share
their first tokens, which are then run once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

ATTENTION = "lethe_packed_sdpa"  # the name in transformers' table of attention functions
# Rows of a block are at least this long, relative to its longest: what attention may waste, against more blocks.
_LIKE_LENGTH = 0.75


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the tokens of packed rows stand.

    positions: (N,) place of each token in its row. blocks: packed numbers of the tokens of some rows, (R, T) each,
    padded with 0. outputs: (N,) where each token's output stands in the blocks' outputs laid end to end.
    """

    positions: Tensor
    blocks: tuple[Tensor, ...]
    outputs: Tensor

    def to(self, device: torch.device) -> "Packing":
        """The same on `device`."""
        blocks = tuple(block.to(device) for block in self.blocks)
        return Packing(self.positions.to(device), blocks, self.outputs.to(device))


def pack(rows: Sequence[Tensor], num_tokens: int) -> Packing:
    """Rows as the packed numbers of their tokens, (length,) int64 each; every number below `num_tokens` is in a row.

    A token that several rows share must have the same tokens before it in all of them.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    positions, outputs = torch.empty(num_tokens, dtype=torch.int64), torch.empty(num_tokens, dtype=torch.int64)
    blocks: list[Tensor] = []
    start = offset = 0
    while start < len(order):
        width = len(rows[order[start]])
        stop = start
        while stop < len(order) and len(rows[order[stop]]) >= _LIKE_LENGTH * width:
            stop += 1
        block = torch.zeros(stop - start, width, dtype=torch.int64)
        for row, index in enumerate(order[start:stop]):
            numbers = rows[index]
            places = torch.arange(len(numbers))
            block[row, : len(numbers)] = numbers
            positions[numbers] = places
            outputs[numbers] = offset + row * width + places
        blocks.append(block)
        offset += block.numel()
        start = stop
    return Packing(positions, tuple(blocks), outputs)


def consecutive(lengths: Sequence[int]) -> list[Tensor]:
    """Rows of these lengths one after another, none sharing a token."""
    ends = list(accumulate(lengths))
    return [torch.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def pack_shared(rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Rows of token ids, each sharing the first tokens that it has in common with the row before it.

    Returns the packed numbers of each row's tokens, and which of all rows' tokens, laid end to end, are packed.
    """
    numbers: list[Tensor] = []
    kept: list[Tensor] = []
    before, before_numbers = rows[0][:0], rows[0][:0]
    start = packed = 0
    for row in rows:
        shortest = min(len(row), len(before))
        common = int((row[:shortest] == before[:shortest]).long().cumprod(0).sum())
        new = torch.arange(packed, packed + len(row) - common)
        before, before_numbers = row, torch.cat([before_numbers[:common], new])
        numbers.append(before_numbers)
        kept.append(torch.arange(start + common, start + len(row)))
        start, packed = start + len(row), packed + len(new)
    return numbers, torch.cat(kept)


def use_packed_attention(model: Any) -> bool:
    """Make a model ready for `run_packed`, which changes nothing else that it does; False: its attention is another."""
    from transformers import AttentionInterface, AttentionMaskInterface  # noqa: PLC0415  (seconds to import)
    from transformers.masking_utils import sdpa_mask  # noqa: PLC0415

    if model.config._attn_implementation != "sdpa":
        return bool(model.config._attn_implementation == ATTENTION)
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    return True


def run_packed(model: Any, input_ids: Tensor, packing: Packing) -> Tensor:
    """Final hidden states (N, H) of packed tokens input_ids (N,), by a transformers model without its head."""
    hidden: Tensor = model(
        input_ids=input_ids.unsqueeze(0),
        # transformers hands a 4D mask on as it is; without one it would build (1, 1, N, N).
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device),
        position_ids=packing.positions.unsqueeze(0),
        use_cache=False,
        packing=packing,
    ).last_hidden_state
    return hidden.squeeze(0)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers: query (1, heads, N, D) -> (1, N, heads, D); not packed: as SDPA."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: PLC0415

    packing: Packing | None = kwargs.pop("packing", None)
    if packing is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    window, width = kwargs.get("sliding_window"), packing.blocks[0].shape[1]
    if window is not None and width > window:
        raise ValueError(
            f"the model's sliding window of {window} tokens is shorter than a row of {width}, which packed rows do not "
            "observe; set model.attention=eager, or lower train.max_length and evaluation.max_length"
        )
    tokens = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]  # (N, heads, D)
    outputs = []
    for block in packing.blocks:
        q, k, v = (states[block].transpose(1, 2) for states in tokens)  # (R, heads, T, D)
        output, _ = sdpa_attention_forward(module, q, k, v, None, **(kwargs | {"is_causal": True}))
        outputs.append(output.flatten(0, 1))  # (R * T, heads, D)
    return torch.cat(outputs)[packing.outputs].unsqueeze(0), None

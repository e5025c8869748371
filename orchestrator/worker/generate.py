"""Greedy answers, each row with its own token budget, whatever batch it is in."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from orchestrator.worker.batches import Encoder
from orchestrator.worker.model import without_wrapper
from orchestrator.worker.packing import ATTENTION

# Rows that have ended are dropped once they are this share of the batch: dropping copies the others' keys and values.
_DROPPED_SHARE = 0.125
_ROOM = 64  # tokens by which a cache grows at a time


@torch.no_grad()
def generate(model: Any, encoder: Encoder, questions: Sequence[str], *, batch_size: int) -> list[str]:
    """The model's greedy answer to each question, special tokens left out, nothing stripped.

    An answer ends with EOS, with the template's end of turn, or where prompt and answer together have the encoder's
    max_length tokens. Every prompt must have fewer tokens than that.
    """
    if not questions:
        return []
    prompts = [encoder.generation_ids(question) for question in questions]
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    size = math.ceil(len(order) / max(1, math.ceil(len(order) / batch_size)))  # equal batches: each costs its longest
    decoder = _Decoder(model, encoder)
    answers = [""] * len(prompts)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        new_tokens = decoder.answers([prompts[i] for i in chosen])
        texts = encoder.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text
    return answers


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of a layer in buffers with room for some more tokens, so that a token is not a copy of all."""

    _buffers: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, n, D) and return all."""
        length = self.get_seq_length()
        stop = length + key_states.shape[-2]
        if not self._buffers or stop > self._buffers[0].shape[-2]:
            grown = tuple(_with_room(new, stop + _ROOM) for new in (key_states, value_states))
            for buffer, old in zip(grown, self._buffers, strict=False):
                buffer[..., :length, :] = old[..., :length, :]
            self._buffers = grown
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., length:stop, :] = new
        return self._show(stop)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        length = self.get_seq_length()
        self._buffers = tuple(buffer[indices] for buffer in self._buffers)
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[..., :length, :] for buffer in self._buffers)
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values


def _with_room(states: Tensor, length: int) -> Tensor:
    return states.new_empty((*states.shape[:2], length, states.shape[-1]))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that go on: their numbers, the attended positions so far (B, T), and the tokens that each may still add."""

    numbers: Tensor
    attended: Tensor
    budget: Tensor

    def keep(self, going: Tensor) -> "_Rows":
        return _Rows(self.numbers[going], self.attended[going], self.budget[going])


class _Decoder:
    """Greedy decoding of one model."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self._model, self._max_length = model, encoder.max_length
        self._pad = int(encoder.tokenizer.pad_token_id)
        ends = sorted({encoder.end_id, int(encoder.tokenizer.eos_token_id)})
        self._ends = torch.tensor(ends, device=model.device)
        base = without_wrapper(model)
        self._takes = set(inspect.signature(base.forward).parameters)
        window = getattr(base.config, "sliding_window", None)
        slides = window is not None and window < encoder.max_length
        # Only SDPA reads a mask of booleans, and that mask knows no window; otherwise the model makes its own.
        self._makes_mask = slides or base.config._attn_implementation not in ("sdpa", ATTENTION)

    def answers(self, prompts: list[list[int]]) -> list[list[int]]:
        """New tokens of each prompt, the end token included where there is one."""
        width = max(len(prompt) for prompt in prompts)
        padding = [width - len(prompt) for prompt in prompts]
        tokens = torch.tensor([[self._pad] * n + prompt for n, prompt in zip(padding, prompts, strict=True)])
        attended = torch.arange(width) >= torch.tensor(padding)[:, None]
        budget = self._max_length - attended.sum(-1)
        device = self._model.device
        rows = _Rows(torch.arange(len(prompts), device=device), attended.to(device), budget.to(device))
        said: list[list[int]] = [[] for _ in prompts]
        cache = Cache(layer_class_to_replicate=_Layer)
        tokens = tokens.to(device)
        while len(rows.numbers):
            chosen = self._next(tokens, rows.attended, cache)
            for number, token, left in zip(rows.numbers.tolist(), chosen.tolist(), rows.budget.tolist(), strict=True):
                if left > 0:
                    said[number].append(token)
            budget = torch.where(torch.isin(chosen, self._ends), 0, rows.budget - 1).clamp(min=0)
            grown = torch.cat([rows.attended, torch.ones_like(rows.attended[:, :1])], dim=1)
            rows = _Rows(rows.numbers, grown, budget)
            tokens = chosen[:, None]
            going = budget > 0
            ended = len(going) - int(going.sum())
            if ended == len(going):
                break
            if ended >= _DROPPED_SHARE * len(going):
                kept = going.nonzero().squeeze(-1)
                cache.batch_select_indices(kept)
                rows, tokens = rows.keep(kept), tokens[kept]
        return said

    def _next(self, tokens: Tensor, attended: Tensor, cache: Cache) -> Tensor:
        """The most likely token after each row: (B,). `attended` (B, T) covers what the cache holds and `tokens`."""
        inputs: dict[str, Any] = {
            "input_ids": tokens,
            "attention_mask": attended.long() if self._makes_mask else _mask(attended, tokens.shape[1]),
            "past_key_values": cache,
            "use_cache": True,
        }
        if "position_ids" in self._takes:
            inputs["position_ids"] = (attended.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        chosen: Tensor = self._model(**inputs).logits[:, -1].float().argmax(-1)
        return chosen


def _mask(attended: Tensor, num_new: int) -> Tensor:
    """What the last `num_new` positions look at: (B, 1, num_new, T) bool. Padding looks at itself, not at nothing."""
    if num_new == 1:
        return attended[:, None, None, :]
    width = attended.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=attended.device).tril()
    itself = torch.eye(width, dtype=torch.bool, device=attended.device)
    return ((causal & attended[:, None, :]) | itself)[:, None, -num_new:]

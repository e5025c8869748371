"""Greedy answers, each row with its own token budget, whatever batch it is in."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from orchestrator.worker.batches import Encoder


class _RowBudget(StoppingCriteria):
    """A row ends when its prompt and answer together have `max_length` tokens; left padding does not count."""

    def __init__(self, padding: Tensor, max_length: int) -> None:
        self._padding, self._max_length = padding, max_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return input_ids.shape[1] - self._padding >= self._max_length


@torch.no_grad()
def generate(model: Any, encoder: Encoder, questions: Sequence[str], *, batch_size: int) -> list[str]:
    """The model's greedy answer to each question, special tokens left out, nothing stripped.

    An answer ends with EOS, with the template's end of turn, or where prompt and answer together have the encoder's
    max_length tokens. Every prompt must have fewer tokens than that.
    """
    prompts = [encoder.generation_ids(question) for question in questions]
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        new_tokens = _generate_batch(model, encoder, [prompts[i] for i in chosen])
        texts = encoder.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text
    return answers


def _generate_batch(model: Any, encoder: Encoder, prompts: list[list[int]]) -> Tensor:
    tokenizer = encoder.tokenizer
    pad = int(tokenizer.pad_token_id)
    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    input_ids = torch.tensor([[pad] * n + prompt for n, prompt in zip(padding, prompts, strict=True)])
    attention_mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding])
    settings = cast(Any, GenerationConfig)(
        do_sample=False,
        use_cache=True,
        max_new_tokens=encoder.max_length - min(len(prompt) for prompt in prompts),
        eos_token_id=sorted({encoder.end_id, int(tokenizer.eos_token_id)}),
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    budget = _RowBudget(torch.tensor(padding, device=model.device), encoder.max_length)
    own, model.generation_config = model.generation_config, settings  # else the model's own penalties are mixed in
    try:
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            stopping_criteria=StoppingCriteriaList([budget]),
        )
    finally:
        model.generation_config = own
    new_tokens: Tensor = output[:, width:]
    return new_tokens

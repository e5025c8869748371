"""Load a causal language model, and ask it for hidden states instead of logits where its head allows it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.batch import TokenBatch
from methods.outputs import Forward, FullLogits, HiddenStates, Outputs
from orchestrator.trial_config import ModelConfig

# Families whose logits are exactly head(last hidden state): no soft cap, no scale.
_PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma"}


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return cast(torch.dtype, getattr(torch, name))


def load_model(config: ModelConfig, device: torch.device) -> Any:
    """The model at config.target, from safetensors only and without remote code, on `device`, in training mode."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  (seconds to import)

    _silence_progress_bars()
    model: Any = AutoModelForCausalLM.from_pretrained(
        config.target,
        dtype=compute_dtype(config.dtype, device),
        attn_implementation=config.attention,
        use_safetensors=True,
        low_cpu_mem_usage=True,
    )
    model.config.use_cache = False
    return model.to(device).train()


def _silence_progress_bars() -> None:
    from transformers.utils import logging  # noqa: PLC0415

    cast(Any, logging).disable_progress_bar()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer as a plain model folder."""
    _silence_progress_bars()
    model.config.use_cache = True
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


class Policy(nn.Module):
    """The model as the losses see it. One forward may run it on several parts of a batch, which is what ZeRO needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._plain_head = getattr(model.config, "model_type", None) in _PLAIN_HEADS

    def forward(self, run: Callable[[Forward], Tensor]) -> Tensor:
        """Whatever `run` makes of the model's outputs."""
        return run(self.outputs)

    def outputs(self, tokens: TokenBatch) -> Outputs:
        """Predictions on one batch of tokens."""
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "use_cache": False}
        if self._plain_head:
            return HiddenStates(self.model.base_model(**inputs).last_hidden_state, self.model.get_output_embeddings())
        return FullLogits(self.model(**inputs).logits)

"""The golden models and batch."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from methods.batch import IGNORE_INDEX, TokenBatch, UnlearnBatch

LOSSES = (Path(__file__).resolve().parents[2] / "../shared/golden/losses").resolve()
needs_losses = pytest.mark.skipif(not LOSSES.is_dir(), reason=f"golden numbers are not at {LOSSES}")
PARTS = {  # our name -> the name in batch.npz
    "forget": "forget",
    "retain": "retain",
    "forget_refusal": "forget_idk",
    "retain_refusal": "retain_idk",
    "mismatch": "mismatch",
}
FIELDS = ("input_ids", "attention_mask", "labels")


@cache
def numbers():
    """What losses.json holds; no cases where it is absent."""
    return json.loads((LOSSES / "losses.json").read_text()) if LOSSES.is_dir() else {"cases": []}


@cache
def model(name, dtype=torch.float32):
    """`model` or `reference`; its gradients are to be cleared by whoever uses them."""
    net = LlamaForCausalLM(LlamaConfig.from_pretrained(LOSSES / "config.json", attn_implementation="eager"))
    missing, unexpected = net.load_state_dict(load_file(LOSSES / f"{name}.safetensors"), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return net.to(dtype)


@cache
def arrays():
    return {key: torch.from_numpy(value) for key, value in np.load(LOSSES / "batch.npz").items()}


def batch(labels="answer"):
    """The golden batch; `labels` says what counts on its forget rows: answer, text or all."""
    parts = {part: TokenBatch(*(arrays()[f"{name}_{field}"] for field in FIELDS)) for part, name in PARTS.items()}
    forget = parts["forget"]
    labelled = {
        "answer": forget.labels,
        "text": forget.input_ids.masked_fill(forget.attention_mask == 0, IGNORE_INDEX),
        "all": arrays()["forget_labels_unmasked"],
    }
    return UnlearnBatch(**parts | {"forget": TokenBatch(forget.input_ids, forget.attention_mask, labelled[labels])})


def forward(net):
    return lambda tokens: net(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits


def grad_norm(total, net):
    """L2 norm over all parameters of the gradient of `total`."""
    found = torch.autograd.grad(total, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
    return torch.stack([grad.norm() for grad in found if grad is not None]).norm().item()

"""Losses and gradient norms against the published code's values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from methods.batch import TokenBatch, UnlearnBatch
from methods.config import parse_method
from methods.method import build_method

SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden" / "losses"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"golden numbers are not at {SHARED}")
CASES = json.loads((SHARED / "losses.json").read_text())["cases"] if SHARED.is_dir() else []


def model(name):
    net = LlamaForCausalLM(LlamaConfig.from_pretrained(SHARED / "config.json", attn_implementation="eager"))
    missing, unexpected = net.load_state_dict(load_file(SHARED / f"{name}.safetensors"), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return net.float()


@pytest.fixture(scope="module")
def arrays():
    return {key: torch.from_numpy(value) for key, value in np.load(SHARED / "batch.npz").items()}


def batch_of(arrays, forget_labels):
    names = {"forget": "forget", "retain": "retain", "forget_refusal": "forget_idk", "retain_refusal": "retain_idk"}
    parts = {
        part: TokenBatch(*(arrays[f"{key}_{field}"] for field in ("input_ids", "attention_mask", "labels")))
        for part, key in {**names, "mismatch": "mismatch"}.items()
    }
    if forget_labels == "all":
        forget = parts["forget"]
        parts["forget"] = TokenBatch(forget.input_ids, forget.attention_mask, arrays["forget_labels_unmasked"])
    return UnlearnBatch(**parts)


def forward(net):
    return lambda tokens: net(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['loss_type']}-{c['beta']}-{c['forget_mask']}")
def test_terms_and_gradient_norm(case, arrays):
    policy, reference = model("model"), model("reference")
    method = build_method(parse_method(case["loss_type"], beta=case["beta"], convention="paper_code"))
    terms = method.loss(
        forward(policy), forward(reference), batch_of(arrays, "answer" if case["forget_mask"] else "all")
    )
    assert terms.forget.item() == pytest.approx(case["forget_loss"], rel=1e-5)
    if terms.retain is not None:
        assert terms.retain.item() == pytest.approx(case["regularization_loss"], rel=1e-5)
    total = method.total(terms)
    assert total.item() == pytest.approx(case["total"], rel=1e-5, abs=1e-5 * abs(case["forget_loss"]))
    total.backward()
    norm = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm().item()
    assert norm == pytest.approx(case["grad_norm"], rel=1e-5)

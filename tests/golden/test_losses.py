"""Losses and gradient norms against the published code's values."""

import pytest
import torch
from loss_data import PARTS, batch, forward, grad_norm, model, needs_losses, numbers

from methods.config import parse_method
from methods.losses import reference_kl
from methods.method import LiveReference, build_method
from methods.outputs import counted

pytestmark = needs_losses
CASES = numbers()["cases"]
ME = {  # what counts on forget rows -> its name in losses.json
    "answer": "mask=true",
    "text": "only positions whose label is a real token",
    "all": "mask=false as the repo (all T-1 positions)",
}
KL = {"paper_code": "all_positions (what the repo does)", "masked": "answer_label_positions_only"}


def terms_of(name, labels, convention, beta=0.1):
    method = build_method(parse_method(name, beta=beta, convention=convention))
    terms = method.loss(forward(model("model")), forward(model("reference")), batch(labels))
    return terms, method.total(terms)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['loss_type']}-{c['beta']}-{c['forget_mask']}")
def test_terms_and_gradient_norm(case):
    labels = "answer" if case["forget_mask"] else "all"
    terms, total = terms_of(case["loss_type"], labels, "paper_code", case["beta"])
    assert terms.forget.item() == pytest.approx(case["forget_loss"], rel=1e-5)
    if terms.retain is not None:
        assert terms.retain.item() == pytest.approx(case["regularization_loss"], rel=1e-5)
    # The terms of GA+GD nearly cancel: relative to them, not to what is left.
    assert total.item() == pytest.approx(case["total"], rel=1e-5, abs=1e-5 * abs(case["forget_loss"]))
    assert grad_norm(total, model("model")) == pytest.approx(case["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['loss_type']}-{c['beta']}-{c['forget_mask']}")
def test_in_a_single_batch_only_kl_depends_on_the_convention(case):
    terms, total = terms_of(case["loss_type"], "answer" if case["forget_mask"] else "all", "masked", case["beta"])
    kl = numbers()["kl_alternatives"][KL["masked"]]
    retain = kl if case["loss_type"].endswith("+KL") else case["regularization_loss"]
    assert terms.forget.item() == pytest.approx(case["forget_loss"], rel=1e-5)
    assert terms.retain.item() == pytest.approx(retain, rel=1e-5)
    if not case["loss_type"].endswith("+KL"):
        assert grad_norm(total, model("model")) == pytest.approx(case["grad_norm"], rel=1e-5)


def test_the_cases_are_all_there():
    assert {(case["loss_type"], case["forget_mask"]) for case in CASES} >= {
        (name, mask) for name in ("GA+GD", "GA+KL", "NPO+GD", "DPO+GD", "IDK+AP", "ME+GD") for mask in (True, False)
    }


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("labels", ME)
def test_maximum_entropy_for_each_choice_of_labels(labels, convention):
    found = terms_of("ME", labels, convention)[0].forget.item()
    assert found == pytest.approx(numbers()["me_alternatives"][ME[labels]], rel=1e-5)


@pytest.mark.parametrize("convention", KL)
@pytest.mark.parametrize("forget", ["GA", "NPO", "DPO", "IDK", "ME"])
def test_kl_of_each_convention(forget, convention):
    found = terms_of(f"{forget}+KL", "answer", convention)[0].retain.item()
    assert found == pytest.approx(numbers()["kl_alternatives"][KL[convention]], rel=1e-5)


def test_the_kl_function_under_every_choice_of_positions_and_direction():
    tokens, expected = batch().retain, numbers()["kl_alternatives"]
    policy, reference = (forward(model(name))(tokens).detach() for name in ("model", "reference"))
    values, everywhere = reference_kl(policy, reference), torch.ones_like(tokens.labels, dtype=torch.bool)
    attended = tokens.attention_mask.bool()
    found = {
        "all_positions (what the repo does)": values[everywhere].mean(),
        "attention_mask_only": values[attended].mean(),
        "answer_label_positions_only": values[counted(tokens.labels)].mean(),
        "reverse KL(model||ref) all positions": reference_kl(reference, policy).mean(),
    }
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["model", "reference"])
@pytest.mark.parametrize("part", PARTS)
def test_negative_log_likelihood_of_each_row(part, name):
    sums = LiveReference(forward(model(name))).sequence_logps(part, batch())
    expected = numbers()["sequence_loss_sums"][f"{PARTS[part]}/{name}"]
    assert (-sums).tolist() == pytest.approx(expected, rel=1e-5)


def test_llmu_is_made_of_terms_that_are_golden_themselves():
    # Not among the published cases: ascent as in GA+GD; the mean over the mismatched rows' labels, and KL.
    golden = numbers()
    mismatch = sum(golden["sequence_loss_sums"]["mismatch/model"]) / int(counted(batch().mismatch.labels).sum())
    ga = next(case["forget_loss"] for case in CASES if case["loss_type"] == "GA+GD" and case["forget_mask"])
    kl = golden["kl_alternatives"]
    for convention, name in KL.items():
        terms, _ = terms_of("LLMU", "answer", convention)
        assert terms.forget.item() == pytest.approx(ga, rel=1e-5)
        assert terms.retain.item() == pytest.approx(mismatch + kl[name], rel=1e-5)

"""Every method on the golden models in float64, by formulas written out here: what the golden file has no case of."""

import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from loss_data import FIELDS, PARTS, batch, forward, grad_norm, model, needs_losses

from methods.batch import IGNORE_INDEX, TokenBatch, UnlearnBatch
from methods.config import VALID_METHODS, parse_method
from methods.method import build_method

pytestmark = needs_losses
EOS = 2
BETA = 0.5


def columns(tokens, start, stop):
    return TokenBatch(*(getattr(tokens, field)[:, start:stop] for field in FIELDS))


def cut_to(width):
    """Rows cut off: those that were longer fill all places and have no end."""
    return lambda tokens: columns(tokens, 0, width)


def padded(tokens):
    """16 places more; labels of padding where all of it is learned."""
    end = torch.full((len(tokens.labels), 16), EOS)
    learned = bool((tokens.labels != IGNORE_INDEX).all())
    labels = end if learned else torch.full_like(end, IGNORE_INDEX)
    return TokenBatch(
        torch.cat([tokens.input_ids, end], 1),
        torch.cat([tokens.attention_mask, torch.zeros_like(end)], 1),
        torch.cat([tokens.labels, labels], 1),
    )


def trimmed(tokens):
    """No wider than the longest row and its label of the end."""
    return columns(tokens, 0, int(tokens.attention_mask.sum(1).max()) + 1)


def rows(*which):
    chosen = list(which)
    return lambda tokens: TokenBatch(*(getattr(tokens, field)[chosen] for field in FIELDS))


def one_label(tokens):
    """Of each row only the first label is left, as for an answer of one token that fills the row."""
    first = (tokens.labels != IGNORE_INDEX).int().argmax(1)
    keep = torch.arange(tokens.labels.shape[1]) == first[:, None].clamp(min=1)
    return replace(tokens, labels=tokens.labels.masked_fill(~keep, IGNORE_INDEX))


SHAPES = {
    "golden": lambda tokens: tokens,
    "cut": cut_to(18),
    "padded": padded,
    "trimmed": trimmed,
    "one row": rows(2),
    "seven rows": rows(0, 1, 2, 3, 3, 1, 0),
    "one label": one_label,
}


def shaped(shape, labels):
    whole = batch(labels)
    return UnlearnBatch(**{part: SHAPES[shape](getattr(whole, part)) for part in PARTS})


@dataclass(frozen=True)
class Plain:
    """The definitions, in float64, over a batch. `everywhere`: KL over every position."""

    tokens: UnlearnBatch
    everywhere: bool
    logits: dict  # (model, part) -> (B, T, V)

    def row_nll(self, part, name="model"):
        """l(x) and n(x) of each row: sum over t of -log p_t(label at t + 1), and over how many."""
        wanted = getattr(self.tokens, part).labels[:, 1:]
        logps = self.logits[name, part].log_softmax(-1)[:, :-1]
        said = (logps * torch.nn.functional.one_hot(wanted.clamp(min=0), logps.shape[-1])).sum(-1)
        where = (wanted != IGNORE_INDEX).double()
        return -(said * where).sum(1), where.sum(1)

    def mean(self, part):
        nll, count = self.row_nll(part)
        return nll.sum() / count.sum()

    def gain(self, part):
        """How much more likely than to the reference a row has become, in nats: (B,)."""
        return self.row_nll(part, "reference")[0] - self.row_nll(part)[0]

    def forget(self, name):
        match name:
            case "GA" | "LLMU":
                return -self.mean("forget")
            case "NPO":
                return 2 / BETA * torch.log1p(torch.exp(BETA * self.gain("forget"))).mean()
            case "DPO":
                margin = self.gain("forget_refusal") - self.gain("forget")
                return 2 / BETA * torch.log1p(torch.exp(-BETA * margin)).mean()
            case "IDK":
                return self.mean("forget_refusal")
            case "ME":
                wanted = self.tokens.forget.labels[:, 1:]
                p = self.logits["model", "forget"].softmax(-1)[:, :-1][wanted != IGNORE_INDEX]
                return (-math.log(p.shape[-1]) - p.log().mean(-1)).mean()

    def retain(self, name):
        match name:
            case "GD":
                return self.mean("retain")
            case "KL":
                policy, frozen = (self.logits[name, "retain"].log_softmax(-1) for name in ("model", "reference"))
                values = (frozen.exp() * (frozen - policy)).sum(-1)
                where = self.tokens.retain.labels[:, 1:] != IGNORE_INDEX
                return values.mean() if self.everywhere else values[:, :-1][where].mean()
            case "AP":
                margin = self.row_nll("retain_refusal")[0] - self.row_nll("retain")[0]
                return 1 / BETA * torch.log1p(torch.exp(-BETA * margin)).mean()

    def terms(self, method):
        forget, _, retain = method.partition("+")
        if forget == "LLMU":
            return self.forget("LLMU"), self.mean("mismatch") + self.retain("KL")
        return self.forget(forget), self.retain(retain) if retain else None


@cache
def exact_logits(shape):
    """Of both models in float64, for each part; the attention mask is no different for other labels."""
    tokens = shaped(shape, "answer")
    return {
        (name, part): forward(model(name, torch.float64))(getattr(tokens, part))
        for name in ("model", "reference")
        for part in PARTS
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("labels", ["answer", "all"])
@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_terms_are_the_formulas(name, convention, labels, shape):
    tokens = shaped(shape, labels)
    plain = Plain(tokens, convention == "paper_code", exact_logits(shape))
    forget, retain = plain.terms(name)
    method = build_method(parse_method(name, beta=BETA, convention=convention))
    terms = method.loss(forward(model("model")), forward(model("reference")), tokens)
    assert terms.forget.item() == pytest.approx(forget.item(), rel=1e-5)
    assert (None if terms.retain is None else terms.retain.item()) == (
        None if retain is None else pytest.approx(retain.item(), rel=1e-5)
    )


@pytest.mark.parametrize("shape", ["golden", "cut"])
@pytest.mark.parametrize("labels", ["answer", "all"])
@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_gradient_norms_are_those_of_the_formulas(name, convention, labels, shape):
    tokens = shaped(shape, labels)
    plain = Plain(tokens, convention == "paper_code", exact_logits(shape))
    exact = sum(0.7 * weight * term for weight, term in zip((1, 2), plain.terms(name), strict=True) if term is not None)
    expected = torch.autograd.grad(exact, parameters(torch.float64), retain_graph=True, allow_unused=True)
    method = build_method(parse_method(name, beta=BETA, forget_weight=0.7, retain_weight=1.4, convention=convention))
    total = method.total(method.loss(forward(model("model")), forward(model("reference")), tokens))
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)
    assert grad_norm(total, model("model")) == pytest.approx(norm(expected), rel=1e-5)


def parameters(dtype):
    return list(model("model", dtype).parameters())


def norm(gradients):
    return math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients if gradient is not None))


def without_labels(tokens, row):
    return replace(tokens, labels=tokens.labels.index_fill(0, torch.tensor([row]), IGNORE_INDEX))


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_a_row_without_any_label(name, convention):
    # The published means over rows count it, with a log ratio of 0; under `masked` such a row is there to fill a batch.
    whole = shaped("golden", "answer")
    tokens = UnlearnBatch(**{part: without_labels(getattr(whole, part), 1) for part in PARTS})
    logits = exact_logits("golden")
    if convention == "masked":
        kept = UnlearnBatch(**{part: rows(0, 2, 3)(getattr(whole, part)) for part in PARTS})
        plain = Plain(kept, False, {key: value[[0, 2, 3]] for key, value in logits.items()})
    else:
        plain = Plain(tokens, True, logits)
    forget, retain = plain.terms(name)
    method = build_method(parse_method(name, beta=BETA, convention=convention))
    terms = method.loss(forward(model("model")), forward(model("reference")), tokens)
    assert terms.forget.item() == pytest.approx(forget.item(), rel=1e-5)
    if retain is not None:
        assert terms.retain.item() == pytest.approx(retain.item(), rel=1e-5)


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_logits_in_bfloat16_are_computed_with_in_float32(name, convention):
    # The same rounded logits as bfloat16 and as float64.
    tokens = shaped("golden", "answer")
    rounded = {key: value.detach().bfloat16() for key, value in exact_logits("golden").items()}
    plain = Plain(tokens, convention == "paper_code", {key: value.double() for key, value in rounded.items()})
    method = build_method(parse_method(name, beta=BETA, convention=convention))
    part_of = {id(getattr(tokens, part)): part for part in PARTS}
    policy, frozen = (lambda part, which=which: rounded[which, part_of[id(part)]] for which in ("model", "reference"))
    terms = method.loss(policy, frozen, tokens)
    forget, retain = plain.terms(name)
    assert terms.forget.dtype == torch.float32
    assert terms.forget.item() == pytest.approx(forget.item(), rel=1e-5)
    if retain is not None:
        assert terms.retain.item() == pytest.approx(retain.item(), rel=1e-5)

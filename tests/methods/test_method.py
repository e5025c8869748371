"""The terms of every method on a small batch, with a table of logits as the model."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from methods.batch import IGNORE_INDEX, Counts, TokenBatch, UnlearnBatch
from methods.config import VALID_METHODS, MEConfig, MethodConfig, parse_method
from methods.method import LiveReference, build_method
from methods.outputs import FullLogits, HiddenStates, counted, label_logps, targets

V, ROWS, WIDTH = 7, 6, 5
PARTS = ("forget", "retain", "forget_refusal", "retain_refusal", "mismatch")
LN2, LN3 = math.log(2), math.log(3)


def tokens(seed):
    """Rows of 1 to 4 answer tokens after one of a prompt, padded to 5."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (ROWS, WIDTH), generator=generator)
    labels, attention = ids.clone(), torch.ones_like(ids)
    labels[:, 0] = IGNORE_INDEX
    for row in range(ROWS):
        length = 2 + (row + seed) % 4
        labels[row, length:], attention[row, length:] = IGNORE_INDEX, 0
    return TokenBatch(ids, attention, labels)


BATCH = UnlearnBatch(**{part: tokens(seed) for seed, part in enumerate(PARTS)})
TABLES = {name: torch.randn(V, V, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("pr")}


def bigram(name):
    """A model whose next-token logits depend on the present token alone: rows do not depend on their batch."""
    return lambda batch: TABLES[name][batch.input_ids]


def only(batch, parts):
    return UnlearnBatch(**{part: getattr(batch, part) for part in parts})


def rows(batch, start, stop):
    def cut(part):
        return TokenBatch(*(getattr(part, name)[start:stop] for name in TokenBatch.__slots__))

    return UnlearnBatch(**{part: cut(getattr(batch, part)) for part in PARTS})


def counts_of(batch):
    return Counts(rows=ROWS, **{part: int(counted(getattr(batch, part).labels).sum()) for part in PARTS})


def loss(name, batch, counts=None, convention="masked", reference=None):
    method = build_method(parse_method(name, beta=0.5, convention=convention))
    return method.loss(bigram("p"), reference or bigram("r"), batch, counts)


def both(terms):
    return [terms.forget.item(), 0.0 if terms.retain is None else terms.retain.item()]


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_a_method_reads_its_parts_and_no_others(name, convention):
    method = build_method(parse_method(name, beta=0.5, convention=convention))
    parts = method.config.parts
    asked = []

    def policy(batch):
        asked.append(next(part for part in parts if getattr(BATCH, part) is batch))
        return bigram("p")(batch)

    reference = bigram("r") if method.config.needs_reference else None
    terms = method.loss(policy, reference, only(BATCH, parts))
    assert sorted(asked) == sorted(parts)  # each once, whatever number of terms read it
    assert terms.forget.shape == () and terms.forget.isfinite()
    assert (terms.retain is not None) == ("+" in name or name == "LLMU")
    for part in parts:
        with pytest.raises(ValueError, match=f"the batch has no part '{part}'"):
            method.loss(bigram("p"), reference, only(BATCH, parts - {part}))


@pytest.mark.parametrize("name", [n for n in VALID_METHODS if parse_method(n).needs_reference])
def test_a_method_without_its_reference_is_an_error(name):
    with pytest.raises(ValueError, match="compares with a reference model, and none was given"):
        build_method(parse_method(name)).loss(bigram("p"), None, BATCH)


# What the table's logits give, written out from the papers' formulas row by row.
def row_sums(part, name="p"):
    batch = getattr(BATCH, part)
    logps = torch.log_softmax(TABLES[name][batch.input_ids], -1)
    pairs = [
        [logps[b, t, batch.labels[b, t + 1]] for t in range(WIDTH - 1) if batch.labels[b, t + 1] != IGNORE_INDEX]
        for b in range(ROWS)
    ]
    return torch.tensor([sum(row) for row in pairs]), sum(len(row) for row in pairs)


def token_mean(part):
    sums, count = row_sums(part)
    return float(sums.sum() / count)


def softplus_mean(margins, beta, factor):
    return float((factor / beta * torch.log1p(torch.exp(-beta * margins))).mean())


def ratio(part):
    return row_sums(part)[0] - row_sums(part, "r")[0]


def kl():
    batch = BATCH.retain
    p, r = (torch.log_softmax(TABLES[name][batch.input_ids], -1) for name in "pr")
    values = (r.exp() * (r - p)).sum(-1)
    where = [(b, t) for b in range(ROWS) for t in range(WIDTH - 1) if batch.labels[b, t + 1] != IGNORE_INDEX]
    return float(torch.stack([values[at] for at in where]).mean())


def max_entropy():
    batch = BATCH.forget
    p = torch.log_softmax(TABLES["p"][batch.input_ids], -1)
    where = [(b, t) for b in range(ROWS) for t in range(WIDTH - 1) if batch.labels[b, t + 1] != IGNORE_INDEX]
    return float(torch.stack([-math.log(V) - p[at].mean() for at in where]).mean())


FORGET = {
    "GA": lambda: token_mean("forget"),
    "LLMU": lambda: token_mean("forget"),
    "NPO": lambda: softplus_mean(-ratio("forget"), 0.5, 2),
    "DPO": lambda: softplus_mean(ratio("forget_refusal") - ratio("forget"), 0.5, 2),
    "IDK": lambda: -token_mean("forget_refusal"),
    "ME": max_entropy,
}
RETAIN = {
    "": lambda: 0.0,
    "GD": lambda: -token_mean("retain"),
    "KL": kl,
    "AP": lambda: softplus_mean(row_sums("retain")[0] - row_sums("retain_refusal")[0], 0.5, 1),
}


@pytest.mark.parametrize("name", VALID_METHODS)
def test_terms_are_the_papers_formulas(name):
    forget, _, retain = name.partition("+")
    expected_retain = kl() - token_mean("mismatch") if name == "LLMU" else RETAIN[retain]()
    assert both(loss(name, BATCH)) == pytest.approx([FORGET[forget](), expected_retain], rel=1e-5)


@pytest.mark.parametrize("name", VALID_METHODS)
def test_shares_of_micro_batches_add_up_to_the_whole_step(name):
    counts = counts_of(BATCH)
    shares = [both(loss(name, rows(BATCH, *cut), counts)) for cut in ((0, 1), (1, 4), (4, 6))]
    assert np.sum(shares, axis=0) == pytest.approx(both(loss(name, BATCH)), rel=1e-5)


@pytest.mark.parametrize("name", VALID_METHODS)
def test_rows_without_labels_weigh_nothing(name):
    def filled(part):
        extra = torch.full((2, WIDTH), IGNORE_INDEX)
        return TokenBatch(
            torch.cat([part.input_ids, part.input_ids[:2]]),
            torch.cat([part.attention_mask, part.attention_mask[:2]]),
            torch.cat([part.labels, extra]),
        )

    padded = UnlearnBatch(**{part: filled(getattr(BATCH, part)) for part in PARTS})
    expected = both(loss(name, BATCH))
    assert both(loss(name, padded)) == pytest.approx(expected, rel=1e-6)
    assert both(loss(name, padded, counts_of(BATCH))) == pytest.approx(expected, rel=1e-6)
    nothing = UnlearnBatch(
        **{part: replace(getattr(BATCH, part), labels=torch.full((ROWS, WIDTH), IGNORE_INDEX)) for part in PARTS}
    )
    assert both(loss(name, nothing, counts_of(BATCH))) == [0.0, 0.0]


@pytest.mark.parametrize("name", VALID_METHODS)
def test_hidden_states_and_ready_logits_give_the_same_terms_and_gradients(name):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(V, V, generator=generator)
    found = []
    for wrap in (lambda hidden, head: FullLogits(head(hidden)), HiddenStates, lambda hidden, head: head(hidden)):
        table = TABLES["p"].clone().requires_grad_()
        method = build_method(parse_method(name, beta=0.5))
        terms = method.loss(
            lambda b, table=table, wrap=wrap: wrap(table[b.input_ids], lambda h: h @ weight), bigram("r"), BATCH
        )
        method.total(terms).backward()
        found.append((method.total(terms).detach(), table.grad))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_the_total_weighs_the_terms():
    config = parse_method("GA+GD", forget_weight=0.25, retain_weight=3.0)
    method = build_method(config)
    terms = method.loss(bigram("p"), None, BATCH)
    assert method.total(terms).item() == pytest.approx(0.25 * terms.forget.item() + 3 * terms.retain.item())
    alone = build_method(parse_method("GA", forget_weight=0.25, retain_weight=3.0)).loss(bigram("p"), None, BATCH)
    assert alone.retain is None


@pytest.mark.parametrize("name", VALID_METHODS)
def test_a_method_survives_pickling(name):
    method = pickle.loads(pickle.dumps(build_method(parse_method(name, beta=0.5))))
    assert both(method.loss(bigram("p"), bigram("r"), BATCH)) == both(loss(name, BATCH))


def test_the_paper_codes_kl_reads_every_position_and_the_masked_one_labels_only():
    p, r = (torch.log_softmax(TABLES[name][BATCH.retain.input_ids], -1) for name in "pr")
    everywhere = (r.exp() * (r - p)).sum(-1).mean().item()
    assert loss("GA+KL", BATCH, convention="paper_code").retain.item() == pytest.approx(everywhere, rel=1e-5)
    assert loss("GA+KL", BATCH).retain.item() == pytest.approx(kl(), rel=1e-5)
    assert abs(everywhere - kl()) > 0.01


def test_the_direction_of_maximum_entropy():
    # Two tokens, p = (1/4, 3/4) at the one position that counts.
    batch = UnlearnBatch(forget=TokenBatch(*(torch.tensor([[0, 1]]) for _ in range(3))))

    def policy(tokens):
        return torch.tensor([0.0, LN3]).expand(*tokens.input_ids.shape, 2)

    config = MethodConfig(forget=MEConfig())
    reverse = MethodConfig(forget=MEConfig(direction="policy_to_uniform"))
    expected = {config: math.log(2 / math.sqrt(3)), reverse: 0.75 * LN3 - LN2}
    for one, value in expected.items():
        assert build_method(one).loss(policy, None, batch).forget.item() == pytest.approx(value, rel=1e-6)


def test_a_position_predicts_the_next_label():
    labels = torch.tensor([[IGNORE_INDEX, 3, IGNORE_INDEX, 4]])
    assert targets(labels).tolist() == [[3, IGNORE_INDEX, 4, IGNORE_INDEX]]
    assert counted(labels).tolist() == [[True, False, True, False]]
    logps, mask = label_logps(FullLogits(torch.zeros(1, 4, 8)), labels)
    assert mask.tolist() == [[True, False, True, False]]
    torch.testing.assert_close(logps, torch.tensor([[-3 * LN2, 0.0, -3 * LN2, 0.0]]))


def test_the_live_reference_sums_over_labels_without_gradient():
    table = TABLES["r"].clone().requires_grad_()
    reference = LiveReference(lambda batch: table[batch.input_ids])
    sums = reference.sequence_logps("forget", BATCH)
    assert not sums.requires_grad
    torch.testing.assert_close(sums, row_sums("forget", "r")[0])
    assert not reference.outputs("forget", BATCH).values.requires_grad


def test_a_batch_moves_with_all_its_parts():
    batch = UnlearnBatch(forget=BATCH.forget, forget_ids=torch.arange(ROWS)).to("meta")
    assert batch.forget.labels.device.type == batch.forget_ids.device.type == "meta"
    assert batch.retain is None and batch.retain_ids is None

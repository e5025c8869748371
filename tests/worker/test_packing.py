"""Packed rows against the same rows padded, in every family whose head is plain."""

import pytest
import torch
from test_model import SHAPE
from toy import logits_at, toy_encoder, toy_model
from transformers import AutoConfig, AutoModelForCausalLM

from methods.batch import IGNORE_INDEX, TokenBatch
from methods.outputs import HiddenStates, PackedStates, at_positions, label_logps, piece_size
from orchestrator.worker.batches import collate
from orchestrator.worker.model import _PLAIN_HEADS, Predictions
from orchestrator.worker.packing import consecutive, pack, pack_shared

PIECE = 64

QUESTIONS = (
    "Where was Ada born?",
    "Who is Bo?",
    "In which of the many cities of that old country was Cleo Tanner born?",
)
ANSWERS = ("In Rome.", "In Rome or in Oslo, nobody knows.", "Bo is a baker who lives in Lima with Hal and Ines.", "No.")


def batches():
    """Two batches of rows of different lengths; one row of the second is a filler."""
    encoder = toy_encoder(100)
    rows = [encoder.encode(question, answer) for question in QUESTIONS for answer in ANSWERS]
    first, second = collate(rows[:7], pad_id=2), collate(rows[7:], pad_id=2)
    second.labels[1] = IGNORE_INDEX
    return first, second


@pytest.mark.parametrize("family", sorted(_PLAIN_HEADS))
def test_packed_rows_are_padded_rows(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5)
    predict = Predictions(model)
    tokens = batches()
    for share_prefixes in (False, True):
        found = predict.together(tokens, share_prefixes=share_prefixes)
        for ours, batch in zip(found, tokens, strict=True):
            padded = predict(batch)
            assert type(ours) is PackedStates and type(padded) is HiddenStates
            where = batch.attention_mask.bool()
            torch.testing.assert_close(logits_at(ours, where), logits_at(padded, where), rtol=1e-5, atol=1e-5)


def test_gradients_of_packed_rows_are_those_of_padded_rows():
    gradients = []
    for packed in (True, False):
        model = toy_model()
        predict = Predictions(model)
        outputs = predict.together(batches()) if packed else [predict(batch) for batch in batches()]
        losses = [label_logps(one, batch.labels)[0].sum() for one, batch in zip(outputs, batches(), strict=True)]
        sum(losses).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_padding_passes_the_layers_and_shared_prefixes_pass_once():
    model = toy_model()
    seen = []
    model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    first, second = batches()
    Predictions(model).together([first, second])
    Predictions(model).together([first, second], share_prefixes=True)
    attended = int(first.attention_mask.sum() + second.attention_mask.sum())
    assert seen[0] == attended
    encoder = toy_encoder(100)
    prompts = sum(3 * len(encoder.generation_ids(question)) for question in QUESTIONS)
    assert seen[1] <= attended - prompts  # four answers each: three prompts of four are not run, and common beginnings


def test_an_attention_that_cannot_be_packed_is_left_alone():
    model = toy_model()
    model.set_attn_implementation("eager")
    (outputs,) = Predictions(model).together([batches()[0]])
    assert type(outputs) is HiddenStates and model.config._attn_implementation == "eager"


def test_a_sliding_window_shorter_than_a_row_is_an_error_that_names_the_remedy():
    config = AutoConfig.for_model("mistral", **SHAPE, sliding_window=12)
    predict = Predictions(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(ValueError, match="sliding window of 12 tokens .* set model.attention=eager"):
        predict.together([batches()[0]])


def test_what_was_not_run_cannot_be_asked():
    first, _ = batches()
    (outputs,) = Predictions(toy_model()).together([first])
    with pytest.raises(AssertionError, match="padding was not run"):
        outputs.states(torch.ones_like(first.labels, dtype=torch.bool))


def test_sharing_follows_the_row_before():
    rows = [torch.tensor(row) for row in ([5, 6, 7], [5, 6, 8, 9], [5, 6, 8], [4])]
    numbers, kept = pack_shared(rows)
    assert [row.tolist() for row in numbers] == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 3], [5]]
    assert torch.cat(rows)[kept].tolist() == [5, 6, 7, 8, 9, 4]


def test_blocks_hold_rows_of_like_length_and_every_output_is_found_again():
    rows = consecutive([3, 10, 9, 4, 1])
    packing = pack(rows, 27)
    assert [tuple(block.shape) for block in packing.blocks] == [(2, 10), (2, 4), (1, 1)]
    flat = torch.cat([block.flatten() for block in packing.blocks])
    assert flat[packing.outputs].tolist() == list(range(27))
    assert packing.positions.tolist() == [place for row in rows for place in range(len(row))]


def test_many_positions_are_done_in_pieces_with_the_same_values_and_gradients():
    torch.manual_seed(1)
    head, hidden = torch.nn.Linear(8, 50), torch.randn(3, PIECE, 8, requires_grad=True)
    labels = torch.randint(50, (3, PIECE))
    tokens = TokenBatch(labels, torch.ones_like(labels), labels)
    whole = -torch.nn.functional.cross_entropy(
        head(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
    )
    expected = torch.autograd.grad(whole.sum(), [hidden, *head.parameters()])
    sizes = []
    logps, _ = label_logps(
        HiddenStates(hidden, lambda states: sizes.append(len(states)) or head(states), PIECE), tokens.labels
    )
    torch.testing.assert_close(logps[:, :-1].flatten(), whole)
    found = torch.autograd.grad(logps.sum(), [hidden, *head.parameters()])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert max(sizes) == PIECE and len(sizes) == 2 * 3  # made again for the gradients
    where = torch.ones_like(labels, dtype=torch.bool)
    with torch.no_grad():
        values = at_positions(
            HiddenStates(hidden, head, PIECE), where, lambda logits, x: logits.sum(-1) + x, torch.arange(3 * PIECE)
        )
    torch.testing.assert_close(values, head(hidden).flatten(0, 1).sum(-1) + torch.arange(3 * PIECE))


def test_where_a_head_is_a_collective_it_is_asked_once_whatever_the_number_of_positions():
    hidden, labels = torch.randn(1, 3 * PIECE, 8), torch.randint(50, (1, 3 * PIECE))
    head, sizes = torch.nn.Linear(8, 50), []
    outputs = HiddenStates(hidden, lambda states: sizes.append(len(states)) or head(states))
    label_logps(outputs, labels)
    assert sizes == [3 * PIECE - 1]


def test_the_number_of_times_a_head_is_asked_is_the_same_on_all_ranks_under_zero_3():
    first, _ = batches()
    model = toy_model()
    predict = Predictions(model)
    size = piece_size(len(model.get_output_embeddings().weight))
    assert predict(first).piece == size and predict.together([first])[0].piece == size
    model.get_output_embeddings().weight.ds_id = 0  # as DeepSpeed marks weights that are spread over ranks
    assert predict(first).piece is None and predict.together([first])[0].piece is None

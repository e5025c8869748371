import pytest
import torch
from toy import FORGET, REFUSALS, RETAIN, TASK, TRAIN, toy_encoder, toy_tokenizer

from methods.batch import IGNORE_INDEX
from methods.config import VALID_METHODS, parse_method
from methods.outputs import counted
from orchestrator.scenarios.base import DataError, QARow, Task
from orchestrator.worker.batches import BatchBuilder, EncodedRow, collate, forget_label_mode
from orchestrator.worker.plan import Draw, Sizes, plan_steps
from orchestrator.worker.template import TEMPLATES

QUESTION, ANSWER = FORGET[0].question, FORGET[0].answer
EOS = toy_tokenizer().eos_token_id
PROMPT = toy_tokenizer()(f"[INST] {QUESTION} [/INST]")["input_ids"]
TEXT = toy_tokenizer()(f"[INST] {QUESTION} [/INST]{ANSWER}")["input_ids"]


def builder(name, task=TASK, **changed):
    train = TRAIN.model_copy(update=changed)
    method = parse_method(name, convention=train.convention)
    return BatchBuilder(toy_encoder(train.max_length), task, method, train)


def words(ids):
    return toy_tokenizer().decode([i for i in ids if i != IGNORE_INDEX])


def test_a_row_is_template_answer_and_a_labelled_end_that_is_not_attended():
    row = toy_encoder().encode(QUESTION, ANSWER)
    assert row.ids == (*TEXT, EOS)
    assert row.labels == (*[IGNORE_INDEX] * len(PROMPT), *TEXT[len(PROMPT) :], EOS)
    assert row.num_attended == len(TEXT)
    assert row.num_counted == len(TEXT) - len(PROMPT) + 1
    assert words(row.labels) == ANSWER + "</s>"


@pytest.mark.parametrize(
    ("room", "kept", "ends"),
    [(2, 0, True), (1, 0, True), (0, 0, False), (-1, 1, False), (-2, 2, False)],
)
def test_a_row_that_fills_max_length_exactly_or_is_cut_has_no_end(room, kept, ends):
    row = toy_encoder(len(TEXT) + room).encode(QUESTION, ANSWER)
    cut = TEXT[: len(TEXT) - kept]
    assert row.ids == (*cut, *[EOS] * ends)
    assert row.labels[len(PROMPT) :] == (*cut[len(PROMPT) :], *[EOS] * ends)
    assert row.num_attended == len(cut)


def test_the_shortest_rows_have_one_label():
    one_token = toy_encoder(len(PROMPT) + 1).encode(QUESTION, ANSWER)
    assert one_token.labels == (*[IGNORE_INDEX] * len(PROMPT), TEXT[len(PROMPT)])
    empty = toy_encoder().encode(QUESTION, "")
    assert empty.labels == (*[IGNORE_INDEX] * len(PROMPT), EOS)
    assert one_token.num_counted == empty.num_counted == 1


@pytest.mark.parametrize("labels", ["answer", "text", "all"])
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_texts_encoded_together_are_those_encoded_alone(template, labels):
    encoder = toy_encoder(150, template)
    texts = [(row.question, answer) for row in FORGET[:4] for answer in (row.answer, "", row.answer)]
    alone = [encoder.encode(*text, labels=labels) for text in texts]
    assert encoder.encode_all(texts, labels=labels) == alone
    assert encoder.encode_all([], labels=labels) == []


@pytest.mark.parametrize("missing", [0, 1, 5])
def test_a_question_that_leaves_no_room_is_an_error(missing):
    with pytest.raises(DataError) as error:
        toy_encoder(len(PROMPT) - missing).encode(QUESTION, ANSWER)
    assert str(error.value) == (
        f"question of {len(PROMPT)} tokens leaves no room for an answer in max_length={len(PROMPT) - missing}; "
        f"raise max_length or shorten the question {QUESTION!r}"
    )


def test_what_counts_in_each_label_mode():
    text = toy_encoder().encode(QUESTION, ANSWER, labels="text")
    everything = toy_encoder().encode(QUESTION, ANSWER, labels="all")
    assert text.ids == everything.ids == (*TEXT, EOS)
    assert text.labels == (*TEXT, IGNORE_INDEX)
    assert everything.labels == (*TEXT, EOS)
    assert (text.pad_label, everything.pad_label) == (IGNORE_INDEX, EOS)
    assert text.num_counted == len(TEXT) - 1  # nothing predicts the first token
    assert everything.num_counted == len(TEXT)


@pytest.mark.parametrize(
    ("name", "convention", "chosen", "expected"),
    [
        ("GA+GD", "masked", None, "answer"),
        ("NPO", "paper_code", None, "answer"),
        ("ME+GD", "masked", None, "text"),
        ("ME", "paper_code", None, "all"),
        ("ME", "masked", "answer", "answer"),
        ("GA", "paper_code", "text", "text"),
    ],
)
def test_labels_of_forget_rows(name, convention, chosen, expected):
    train = TRAIN.model_copy(update={"forget_labels": chosen})
    assert forget_label_mode(parse_method(name, convention=convention), train) == expected


def test_rows_are_padded_to_the_longest_or_to_a_width():
    rows = [EncodedRow((5, 6, 2), (IGNORE_INDEX, 6, 2), 2), EncodedRow((7,), (7,), 1, pad_label=2)]
    batch = collate(rows, pad_id=2)
    assert batch.input_ids.tolist() == [[5, 6, 2], [7, 2, 2]]
    assert batch.labels.tolist() == [[IGNORE_INDEX, 6, 2], [7, 2, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    wide = collate(rows, pad_id=2, width=5)
    assert wide.input_ids.tolist() == [[5, 6, 2, 2, 2], [7, 2, 2, 2, 2]]
    assert wide.labels.tolist() == [[IGNORE_INDEX, 6, 2, IGNORE_INDEX, IGNORE_INDEX], [7, 2, 2, 2, 2]]
    assert wide.attention_mask.sum().item() == 3
    assert {tensor.dtype for tensor in (batch.input_ids, batch.labels, batch.attention_mask)} == {torch.int64}


TEMPLATE_TEXTS = {
    "llama2-chat": ("[INST] Q [/INST]", "", "[INST] Q [/INST]A"),
    "llama3-instruct": (
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA",
    ),
    "phi": ("Question: Q\n", "Answer: ", "Question: Q\nAnswer: A"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name):
    prompt, before_answer, text = TEMPLATE_TEXTS[name]
    template = TEMPLATES[name]
    assert template.prompt("Q") == prompt
    assert template.generation_prompt("Q") == prompt + before_answer
    assert template.text("Q", "A") == text
    row = toy_encoder(400, name).encode("Q", "A")
    assert words(row.labels) == before_answer + "A</s>"


@pytest.mark.parametrize("convention", ["masked", "paper_code"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_only_the_parts_that_a_method_reads_are_built(name, convention):
    built = builder(name, convention=convention)
    batch = built.batch([Draw(1, 2, 0), Draw(0, 3, 1)])
    parts = ("forget", "retain", "forget_refusal", "retain_refusal", "mismatch")
    assert {part for part in parts if getattr(batch, part) is not None} == built.method.parts
    assert [ids.tolist() for ids in (batch.forget_ids, batch.retain_ids, batch.refusal_ids)] == [[1, 0], [2, 3], [0, 1]]


def test_parts_hold_the_texts_of_their_draw():
    name = "DPO+AP"
    batch = builder(name).batch([Draw(4, 7, 1)])
    texts = {part: words(getattr(batch, part).input_ids[0]) for part in builder(name).method.parts}
    texts["mismatch"] = words(builder("LLMU").batch([Draw(4, 7, 1)]).mismatch.input_ids[0])
    asked = {part: FORGET[4].question for part in ("forget", "forget_refusal", "mismatch")}
    said = {"forget": FORGET[4].answer, "mismatch": RETAIN[7].answer, "retain": RETAIN[7].answer}
    for part, text in texts.items():
        question, answer = asked.get(part, RETAIN[7].question), said.get(part, REFUSALS[1])
        assert text == f"<s>[INST] {question} [/INST]{answer}</s>"


def test_fillers_have_no_labels():
    batch = builder("ME+GD").batch([Draw(0, 0, 0), Draw(1, 1, 1, filler=True)])
    for part in (batch.forget, batch.retain):
        assert counted(part.labels).any(-1).tolist() == [True, False]


def test_full_width_only_where_padding_is_read_or_learned():
    draws = [Draw(0, 0, 0)]
    assert builder("GA+KL").batch(draws).retain.input_ids.shape[1] < 64
    assert builder("GA+KL", convention="paper_code").batch(draws).retain.input_ids.shape == (1, 64)
    assert builder("GA+GD", convention="paper_code").batch(draws).retain.input_ids.shape[1] < 64
    learned = builder("GA+GD", forget_labels="all").batch(draws)
    assert learned.forget.labels.shape == (1, 64) and counted(learned.forget.labels).sum() == 63
    assert learned.retain.input_ids.shape[1] < 64


@pytest.mark.parametrize("forget_labels", [None, "answer", "text", "all"])
@pytest.mark.parametrize("name", VALID_METHODS)
def test_counts_are_what_the_losses_count(name, forget_labels):
    built = builder(name, forget_labels=forget_labels)
    sizes = Sizes(12, 10, 3, batch_size=5, micro_batch_size=2, num_workers=2, epochs=2)
    for step in plan_steps(sizes, "masked", seed=1, length=built.length):
        counts = built.counts(step)
        micro_batches = [built.batch(draws) for rank in step.ranks for draws in rank]
        assert counts.rows == 5
        for part in ("forget", "retain", "forget_refusal", "retain_refusal", "mismatch"):
            tokens = [getattr(batch, part) for batch in micro_batches]
            seen = sum(int(counted(t.labels).sum()) for t in tokens if t is not None)
            assert getattr(counts, part) == seen, part


@pytest.mark.parametrize(
    ("part", "draw", "origin"),
    [
        ("forget", Draw(1, 0, 0), "forget05 row 1"),
        ("forget_refusal", Draw(1, 0, 0), "forget05 row 1"),
        ("mismatch", Draw(1, 0, 0), "forget05 row 1"),
        ("retain", Draw(0, 1, 0), "retain row 1"),
        ("retain_refusal", Draw(0, 1, 0), "retain row 1"),
    ],
)
def test_a_question_that_is_too_long_names_its_row(part, draw, origin):
    rows = (QARow("Who?", "No."), QARow("Who? " * 40, "No."))
    built = builder("DPO+AP", task=Task("forget05", rows, rows, REFUSALS, ()))
    with pytest.raises(DataError, match=f"^{origin}: question of [0-9]+ tokens leaves no room"):
        built.row(part, draw)


def test_length_adds_up_all_parts():
    draw = Draw(0, 0, 0)
    forget, retain = (len(builder("GA+GD").row(part, draw).ids) for part in ("forget", "retain"))
    assert builder("GA").length(draw) == forget
    assert builder("GA+GD").length(draw) == forget + retain

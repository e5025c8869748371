import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from orchestrator.base_config import EMBEDDED
from orchestrator.scenarios.authors import generate_corpus
from orchestrator.worker import judges as judges_module
from orchestrator.worker.judges import BatchShapes, Judges, Memory, encoder_path
from tests.ray.tiny import make_judge

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ANSWERS = [row.answer for row in generate_corpus(0, 4).rows]
STRANGE = ["", "   ", "\n", "🙂🙃 naïve 東京", "https://example.com/cat.jpg", "a", "Rome " * 300, "word " * 20_000]
TEXTS = [*STRANGE, *ANSWERS[:12], *(" ".join(ANSWERS[:n])[: 97 * n] for n in range(1, 5))]
PAIRS = [(a, b) for a, b in zip(TEXTS, reversed(TEXTS), strict=True)] + [(text, text) for text in TEXTS]


@pytest.fixture(scope="module")
def judge_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("judges") / "judge"
    make_judge(path)
    # The weights of `make_judge` are too small to tell two pairs apart.
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20 if parameter.dim() > 1 else 1)
    model.save_pretrained(path)
    return str(path)


def load(judge_path, encoder=EMBEDDED):
    return Judges(encoder, judge_path, device=CPU)


@pytest.fixture(scope="module")
def reference(judge_path):
    """Embeddings and labels of all texts, asked at once of judges that were never asked before."""
    fresh = load(judge_path)
    return dict(zip(TEXTS, fresh.embed(TEXTS), strict=True)), dict(zip(PAIRS, fresh.entail(PAIRS), strict=True))


@contextmanager
def forwards(module):
    """The shapes of the token batches that a module is given."""
    shapes = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple((args[0] if args else kwargs)["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


def logits_of(judges, pairs):
    """Logits of the pairs, (N, 3), as the classifier gives them to the judges."""
    seen = []
    run = judges._run
    judges._run = lambda *args, **kwargs: seen.extend(run(*args, **kwargs)) or seen
    judges._classify(list(pairs))
    judges._run = run
    return torch.stack(seen).numpy()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_results_do_not_depend_on_order_company_or_earlier_calls(num_threads, judge_path):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        fresh = load(judge_path)
        vectors = dict(zip(TEXTS, fresh.embed(TEXTS), strict=True))
        logits = dict(zip(PAIRS, logits_of(fresh, PAIRS), strict=True))
        rng, judges = random.Random(num_threads), load(judge_path)
        for size in (1, 7, len(TEXTS)):
            texts, pairs = rng.sample(TEXTS, size), rng.sample(PAIRS, size)
            assert np.array_equal(judges._encode(texts), [vectors[text] for text in texts])
            assert np.array_equal(judges.embed(texts), [vectors[text] for text in texts])
            assert np.array_equal(logits_of(judges, pairs), [logits[pair] for pair in pairs])
    finally:
        torch.set_num_threads(before)


def test_rows_that_fill_the_models_length_are_not_beside_padded_ones(judge_path):
    # 256 tokens is the encoder's limit, where a text has no padding; attention then takes another path.
    judges = load(judge_path)
    judges._shapes = BatchShapes(width=8, tokens=512)  # two rows of 256
    full, shorter = "Rome " * 300, "Rome " * 250
    together, alone = judges._encode([full, shorter]), [judges._encode([text])[0] for text in (full, shorter)]
    assert np.array_equal(together, alone)
    with forwards(judges._encoder) as shapes:
        judges._encode([full, shorter])
    assert shapes == [(2, 256), (2, 256)]


def test_another_process_says_the_same_to_the_last_bit(judge_path, reference):
    code = f"""
import sys, torch
from orchestrator.worker.judges import Judges
torch.set_num_threads({torch.get_num_threads()})
judges = Judges("embedded", {judge_path!r}, device=torch.device("cpu"))
judges.embed(["Something else.", "And more " * 30])
sys.stdout.write(judges.embed({ANSWERS[3:8]!r}).tobytes().hex())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == np.stack([reference[0][text] for text in ANSWERS[3:8]]).tobytes().hex()


def test_embeddings_are_those_of_sentence_transformers(reference):
    expected = SentenceTransformer(encoder_path(EMBEDDED), device="cpu").encode(TEXTS, show_progress_bar=False)
    assert np.abs(np.stack([reference[0][text] for text in TEXTS]) - expected).max() < 1e-6


@torch.no_grad()
def test_labels_are_those_of_the_plain_classifier(judge_path, reference):
    tokenizer = AutoTokenizer.from_pretrained(judge_path)
    model = AutoModelForSequenceClassification.from_pretrained(judge_path).eval()
    for pair, label in reference[1].items():
        inputs = tokenizer([pair[0]], [pair[1]], truncation=True, max_length=512, return_tensors="pt")
        assert label == model.config.id2label[int(model(**inputs).logits.argmax())]
    assert len(set(reference[1].values())) > 1


def test_an_encoder_keeps_its_prompt_its_length_and_its_cut(judge_path, tmp_path):
    changed = SentenceTransformer(encoder_path(EMBEDDED), device="cpu")
    changed.prompts, changed.default_prompt_name = {"query": "Represent this: "}, "query"
    changed.max_seq_length = 29
    changed.tokenizer.model_input_names = ["input_ids", "attention_mask"]  # no token_type_ids
    changed.save_pretrained(str(tmp_path))
    judges = load(judge_path, encoder=str(tmp_path))
    judges._encoder.truncate_dim = 64
    judges._encoder.set_pooling_include_prompt(False)
    expected = judges._encoder.encode(TEXTS, show_progress_bar=False)
    with forwards(judges._encoder) as shapes:
        found = judges.embed(TEXTS)
    assert found.shape == (len(TEXTS), 64) and np.abs(found - expected).max() < 1e-6
    assert {length for _, length in shapes} <= {8, 16, 24, 29} and max(shapes, key=lambda s: s[1])[1] == 29
    assert not np.allclose(found, SentenceTransformer(encoder_path(EMBEDDED), device="cpu").encode(TEXTS)[:, :64])


def test_an_encoder_without_padded_tokens_is_asked_text_by_text(judge_path, tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = AutoTokenizer.from_pretrained(encoder_path(EMBEDDED)).backend_tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    static.save_pretrained(str(tmp_path))
    judges = load(judge_path, encoder=str(tmp_path))
    assert np.abs(judges.embed(ANSWERS) - static.encode(ANSWERS)).max() < 1e-6
    assert np.array_equal(judges._encode(ANSWERS[4:6]), judges.embed(ANSWERS)[4:6])


def test_only_new_texts_are_run_and_each_once(judge_path):
    judges = load(judge_path)
    with forwards(judges._encoder) as shapes:
        judges.embed(["Rome is old."] * 40)
        assert len(shapes) == 1
        judges.embed(["Rome is old."])
        assert len(shapes) == 1
        judges.embed(["Rome is old.", "Oslo is cold.", "Rome is old."])
        assert len(shapes) == 2
    with forwards(judges._classifier) as shapes:
        judges.entail([("Rome", "Oslo")] * 40)
        judges.entail([("Rome", "Oslo")])
        assert len(shapes) == 1
        judges.entail([("Oslo", "Rome")])
        assert len(shapes) == 2


def test_a_batch_has_the_shape_of_its_length(judge_path):
    judges = load(judge_path)
    with forwards(judges._encoder) as few:
        judges._encode(ANSWERS[:1])
    with forwards(judges._encoder) as many:
        judges._encode(list(dict.fromkeys(ANSWERS)))
    assert set(few) < set(many)
    assert len({length for _, length in many}) == len(set(many))
    assert all(length % 8 == 0 and rows == max(1, judges._shapes.tokens // length) for rows, length in many)


@pytest.mark.parametrize(
    ("num_tokens", "limit", "length", "rows"),
    [(0, 512, 8, 16), (7, 512, 8, 16), (8, 512, 16, 8), (24, None, 32, 4), (250, 256, 256, 1), (256, 256, 256, 1)]
    + [(72, 77, 77, 1), (90, 77, 90, 1), (60, 512, 64, 2)],
)
def test_shapes(num_tokens, limit, length, rows):
    shapes = BatchShapes(width=8, tokens=128)
    assert shapes.length(num_tokens, limit) == length
    assert shapes.num_rows(length) == rows


def test_nothing_asked_nothing_run(judge_path):
    judges = load(judge_path)
    with forwards(judges._encoder) as encoded, forwards(judges._classifier) as classified:
        assert judges.embed([]).shape == (0, 384)
        assert judges.entail([]) == []
    assert encoded == classified == []


def test_what_a_caller_does_to_a_result_is_not_remembered(judge_path):
    judges = load(judge_path)
    judges.embed(ANSWERS[:1])[:] = 0
    assert np.linalg.norm(judges.embed(ANSWERS[:1])) == pytest.approx(1)


def test_memory_forgets_what_was_asked_for_longest_ago():
    asked = []

    def double(keys):
        asked.extend(keys)
        return [2 * key for key in keys]

    memory = Memory(3)
    assert memory.recall([1, 2, 3, 2], double) == [2, 4, 6, 4] and asked == [1, 2, 3]
    assert memory.recall([1, 4], double) == [2, 8] and len(memory) == 3
    assert memory.recall([1, 3, 4], double) == [2, 6, 8] and asked == [1, 2, 3, 4]
    assert memory.recall([2], double) == [4] and asked == [1, 2, 3, 4, 2]
    assert memory.recall(range(10), double) == list(range(0, 20, 2)) and len(memory) == 3


def test_judges_remember_a_bounded_number_of_answers(judge_path, monkeypatch, reference):
    monkeypatch.setattr(judges_module, "REMEMBERED", 5)
    judges = load(judge_path)
    assert np.array_equal(judges.embed(ANSWERS[:12]), [reference[0][text] for text in ANSWERS[:12]])
    judges.entail(PAIRS[-9:])
    assert len(judges._embeddings) == len(judges._entailments) == 5
    assert all(vector.base is None for vector in judges._embeddings._values.values())  # no view of a batch

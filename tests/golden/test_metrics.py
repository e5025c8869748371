"""Every metric against the published code's values."""

import json
import math
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from sentence_transformers import SentenceTransformer

from metrics.semantic import cosine_similarity, entailment_label, entailment_pair, entailment_score
from metrics.suites import ExampleScore, summarise
from metrics.text import rouge_1_recall, rouge_l_recall, token_entropy
from orchestrator.base_config import EMBEDDED
from orchestrator.worker.judges import encoder_path
from orchestrator.worker.template import load_tokenizer

GOLDEN = (Path(__file__).resolve().parents[2] / "../shared/golden/metrics.json").resolve()
pytestmark = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"golden numbers are not at {GOLDEN}")
DATA = (
    json.loads(GOLDEN.read_text())
    if GOLDEN.is_file()
    else {
        "token_entropy": [],
        "rouge_and_cosine": {"pairs": []},
        "entailment": {"cases": [], "boundary": []},
        "model_utility_and_forget_efficacy": [],
    }
)
PAIRS, ENTAILMENT = DATA["rouge_and_cosine"]["pairs"], DATA["entailment"]
# (log file, our set name, its kind, the published name), in the published order of aggregation
SETS = (
    ("eval_real_author_wo_options.json", "authors", "facts", "Real Authors"),
    ("eval_real_world_wo_options.json", "facts", "facts", "Real World"),
    ("eval_log.json", "retain", "retain", "Retain"),
    ("eval_log_forget.json", "forget", "forget", "Forget"),
)
PUBLISHED_METRICS = {
    "rouge": "ROUGE",
    "probability": "Probability",
    "truth_ratio": "Truth Ratio",
    "token_entropy": "Token Entropy",
    "cosine_similarity": "Cosine Similarity",
    "entailment_score": "Entailment Score",
}


@pytest.mark.parametrize("case", DATA["token_entropy"], ids=lambda case: repr(case["text"][:20]))
def test_token_entropy(case):
    assert token_entropy(case["tokens"]) == pytest.approx(case["normalised"], rel=1e-12, abs=0)
    if case["normalised"]:
        raw = token_entropy(case["tokens"]) * math.log2(len(case["tokens"]))
        assert raw == pytest.approx(case["raw"], rel=1e-12)


def test_texts_become_the_tokens_whose_entropy_is_asked():
    tokenizer = load_tokenizer(str(GOLDEN.parent / "tokenizer"))
    for case in DATA["token_entropy"]:
        assert tokenizer.tokenize(case["text"], add_special_tokens=False) == case["tokens"]


@pytest.mark.parametrize(
    "tokens", [["a"] * 200, ["a", "b"] * 50, [*"aaab", ""], list(range(500)), [" "], ["é", "e\u0301", "é"]], ids=len
)
def test_token_entropy_of_other_tokens(tokens):
    shares = [tokens.count(token) / len(tokens) for token in set(tokens)]
    bits = -sum(share * math.log2(share) for share in shares)
    expected = bits / math.log2(len(tokens)) if len(tokens) > 1 else 0.0
    assert token_entropy(tokens) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: repr(pair["generated"][:20]))
def test_rouge(pair):
    assert rouge_1_recall(pair["generated"], pair["ground_truth"]) == pair["rouge1_recall"]
    assert rouge_l_recall(pair["generated"], pair["ground_truth"]) == pair["rougeL_recall"]


ODD = ("", " ", "\n", "...", "日本語", "😀", "a", "A a A", "Łukasz was born", "running runs ran", "</s>", "word " * 300)


@pytest.mark.parametrize("truth", ODD, ids=lambda text: ascii(text[:12]))
def test_rouge_of_odd_strings(truth):
    # Words are runs of letters a-z and digits after lower-casing; longer than three letters they are stemmed.
    stemmer = PorterStemmer()

    def words(text):
        found = re.findall("[a-z0-9]+", text.lower())
        return [stemmer.stem(word) if len(word) > 3 else word for word in found]

    for output in ODD:
        target, said = words(truth), words(output)
        common = sum((Counter(target) & Counter(said)).values())
        longest = max((len(part) for part in subsequences(target[:8]) if is_subsequence(part, said)), default=0)
        assert rouge_1_recall(output, truth) == (common / len(target) if target and said else 0)
        if len(target) <= 8:
            assert rouge_l_recall(output, truth) == (longest / len(target) if target and said else 0)


def subsequences(words):
    return (part for size in range(len(words) + 1) for part in combinations(words, size))


def is_subsequence(part, words):
    rest = iter(words)
    return all(word in rest for word in part)


def test_cosine_similarity():
    encoder = SentenceTransformer(encoder_path(EMBEDDED), device="cpu")
    outputs, truths = (encoder.encode([pair[key] for pair in PAIRS]) for key in ("generated", "ground_truth"))
    found = cosine_similarity(outputs, truths)
    expected = np.array([pair["cosine_clipped"] for pair in PAIRS])
    assert (expected == 0).any()  # a negative cosine is among them
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0)
    batched = np.array([pair["cosine_unclipped_batched"] for pair in PAIRS])
    np.testing.assert_allclose(found, np.maximum(0, batched), rtol=1e-5, atol=0)


def stand_in_nli(premise, hypothesis):
    text, pair = premise.lower().split(), hypothesis.lower().split()
    if pair and set(pair) <= set(text):
        return "entailment"
    return "contradiction" if not text or not pair or text[0] != pair[0] else "neutral"


@pytest.mark.parametrize("case", ENTAILMENT["cases"], ids=lambda case: f"{case['eval_task']}-tofu={case['tofu']}")
def test_entailment(case):
    kind = {file.removesuffix(".json"): kind for file, _, kind, _ in SETS}[case["eval_task"]]
    texts = list(zip(ENTAILMENT["generated"], ENTAILMENT["ground_truth"], strict=True))
    pairs = [entailment_pair(kind, output=out, truth=truth, real_world=not case["tofu"]) for out, truth in texts]
    raw = [stand_in_nli(*pair) for pair in pairs]
    rouges = [rouge_l_recall(out, truth) for out, truth in texts]
    labels = [entailment_label(label, rouge) for label, rouge in zip(raw, rouges, strict=True)]
    assert rouges == ENTAILMENT["rougeL_recall"]
    assert raw == case["raw_labels"]
    assert labels == case["labels"]
    assert entailment_score(labels) == pytest.approx(case["score"], rel=1e-15)
    for field, text in zip(("premise", "hypothesis"), pairs[1], strict=True):
        assert text == ENTAILMENT[case[field]][1]


@pytest.mark.parametrize("case", ENTAILMENT["boundary"], ids=lambda case: str(case["rouge"]))
def test_entailment_boundary(case):
    assert entailment_label("entailment", case["rouge"]) == case["label"]


def scores_from_log(log, name):
    return [
        ExampleScore(
            set_name=name,
            index=i,
            question="",
            answer="",
            semantic_truth="",
            generation="",
            nll_sum=log["avg_gt_loss"][i],
            num_tokens=1,  # the logs hold means
            base_nll=log["avg_paraphrased_loss"][i],
            perturbed_nll=tuple(log["average_perturb_loss"][i]),
            rouge_l=log["rougeL_recall"][i],
            token_entropy=log["token_entropy"][i],
            cosine_similarity=log["cosine_similarity"][i],
            entailment=log["entailment_labels"][i],
        )
        for i in range(len(log["avg_gt_loss"]))
    ]


@pytest.mark.parametrize("case", DATA["model_utility_and_forget_efficacy"], ids=lambda case: case["name"])
def test_every_aggregate_of_a_complete_log(case):
    scores = {name: scores_from_log(case["logs"][file], name) for file, name, _, _ in SETS}
    metrics = summarise(scores, {name: kind for _, name, kind, _ in SETS})
    ours = {
        f"{title} {published}": metrics[f"{name}/{metric}"]
        for _, name, _, title in SETS
        for metric, published in PUBLISHED_METRICS.items()
    } | {
        "Model Utility Retain": metrics["model_utility_retain"],
        "Model Utility": metrics["model_utility"],
        "Forget Efficacy": metrics["forget_efficacy"],
    }
    assert len(ours) == 27
    assert ours == pytest.approx(case["results"], rel=1e-12)


def extreme_log(seed, scale):
    """NLLs from 0 to `scale`, so that ratios overflow: one text known exactly, one wholly forgotten."""
    random = np.random.default_rng(seed)
    rows = 12
    return {
        "avg_gt_loss": [0.0, scale, *random.exponential(scale / 4, rows - 2)],
        "avg_paraphrased_loss": [scale, 0.0, *random.exponential(scale / 4, rows - 2)],
        "average_perturb_loss": [[0.0] * 5, [scale] * 5, *random.exponential(scale / 4, (rows - 2, 5)).tolist()],
        "rougeL_recall": random.uniform(0, 1, rows).tolist(),
        "token_entropy": random.uniform(0, 1, rows).tolist(),
        "cosine_similarity": random.uniform(0, 1, rows).tolist(),
        "entailment_labels": [*("entailment", "none", "neutral", "contradiction") * 3],
    }


def mean(values):
    return math.fsum(values) / len(values)


def exp(value):
    return math.exp(value) if value < 709.7 else math.inf


def written_out(log, kind):
    """The six metrics of a set from its definitions, in plain Python."""
    nll, base, wrong = log["avg_gt_loss"], log["avg_paraphrased_loss"], log["average_perturb_loss"]
    ratios = [exp(mean(row) - one) for row, one in zip(wrong, base, strict=True)]
    inverse = [math.inf if r == 0 else 1 / r for r in ratios]
    probability = [exp(-one) for one in nll]
    if kind == "facts":
        probability = [1 / (1 + sum(exp(one - other) for other in row)) for one, row in zip(nll, wrong, strict=True)]
    if kind == "forget":
        truth_ratio = 1 - mean([min(pair) for pair in zip(ratios, inverse, strict=True)])
    else:
        truth_ratio = mean([max(0.0, 1 - one) for one in inverse])
    return {
        "rouge": mean(log["rougeL_recall"]),
        "probability": mean(probability),
        "truth_ratio": truth_ratio,
        "token_entropy": mean(log["token_entropy"]),
        "cosine_similarity": mean(log["cosine_similarity"]),
        "entailment_score": log["entailment_labels"].count("entailment") / len(log["entailment_labels"]),
    }


@pytest.mark.parametrize("scale", [0.5, 5.0, 50.0, 5000.0])
@pytest.mark.filterwarnings("error")
def test_every_aggregate_where_probabilities_vanish(scale):
    logs = {name: extreme_log(seed, scale) for seed, (_, name, _, _) in enumerate(SETS)}
    kinds = {name: kind for _, name, kind, _ in SETS}
    metrics = summarise({name: scores_from_log(log, name) for name, log in logs.items()}, kinds)
    expected = {name: written_out(log, kinds[name]) for name, log in logs.items()}
    for name, values in expected.items():
        assert {metric: metrics[f"{name}/{metric}"] for metric in values} == pytest.approx(values, rel=1e-12), name
    kept = [value for name in expected if name != "forget" for value in expected[name].values()]
    assert metrics["model_utility"] == pytest.approx(len(kept) / sum(1 / value for value in kept), rel=1e-12)
    forgotten = [value for metric, value in expected["forget"].items() if metric != "token_entropy"]
    assert metrics["forget_efficacy"] == pytest.approx(1 - mean(forgotten), rel=1e-12)


def test_one_zero_makes_model_utility_zero():
    logs = {name: extreme_log(1, 2.0) for _, name, _, _ in SETS}
    logs["authors"]["rougeL_recall"] = [0.0] * 12
    metrics = summarise({name: scores_from_log(log, name) for name, log in logs.items()}, {n: k for _, n, k, _ in SETS})
    assert metrics["model_utility"] == 0 < metrics["model_utility_retain"]

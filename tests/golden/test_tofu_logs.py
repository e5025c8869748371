"""Metrics recomputed from TOFU's evaluation logs of real Llama-2-7B models."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from metrics.probability import choice_probability, truth_ratio_raw, truth_ratio_raw_arithmetic
from metrics.suites import ExampleScore, forget_quality_metrics, summarise
from metrics.text import rouge_1_recall, rouge_l_recall

LOGS = (Path(__file__).resolve().parents[2] / "../shared/data/tofu_logs").resolve()
pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason=f"TOFU's evaluation logs are not at {LOGS}")
MODELS = ("full", "retain90")
SETS = {  # log file -> (set name, kind, rows)
    "eval_log.json": ("retain", "retain", 300),
    "eval_real_author_wo_options.json": ("authors", "facts", 100),
    "eval_real_world_wo_options.json": ("facts", "facts", 117),
    "eval_log_forget.json": ("forget", "forget", 300),
}


@cache
def read_log(model):
    return json.loads((LOGS / f"llama2_7b_{model}.json").read_text())


def column(log, name):
    return [log[name][str(i)] for i in range(len(log[name]))]


def read_scores(model, file):
    """Scores as logged; the three metrics that TOFU does not have are set to 1."""
    log = read_log(model)[file]
    texts = column(log, "generated_text")
    return [
        ExampleScore(
            set_name=SETS[file][0],
            index=i,
            question=prompt.removeprefix("[INST] ").removesuffix(" [/INST]"),
            answer=truth,
            semantic_truth=truth,
            generation=output,
            nll_sum=log["gt_loss"][str(i)],
            num_tokens=log["num_token_gt"][str(i)],
            base_nll=log["avg_paraphrased_loss"][str(i)],
            perturbed_nll=tuple(log["average_perturb_loss"][str(i)]),
            rouge_l=log["rougeL_recall"][str(i)],
            token_entropy=1.0,
            cosine_similarity=1.0,
            entailment="entailment",
        )
        for i, (prompt, output, truth) in enumerate(texts)
    ]


@pytest.mark.parametrize("file", SETS)
@pytest.mark.parametrize("model", MODELS)
def test_rouge_of_the_logged_texts_is_the_logged_rouge(model, file):
    log = read_log(model)[file]
    texts = column(log, "generated_text")
    assert len(texts) == SETS[file][2]
    assert [rouge_1_recall(output, truth) for _, output, truth in texts] == column(log, "rouge1_recall")
    assert [rouge_l_recall(output, truth) for _, output, truth in texts] == column(log, "rougeL_recall")


@pytest.mark.parametrize("file", SETS)
@pytest.mark.parametrize("model", MODELS)
def test_logged_truth_ratio_is_the_inverse_of_r(model, file):
    log = read_log(model)[file]
    ratios = truth_ratio_raw(column(log, "avg_paraphrased_loss"), column(log, "average_perturb_loss"))
    np.testing.assert_allclose(1 / ratios, column(log, "truth_ratio"), rtol=1e-5)  # logged in float32


@pytest.mark.parametrize("file", [file for file, (_, kind, _) in SETS.items() if kind == "facts"])
@pytest.mark.parametrize("model", MODELS)
def test_logged_choice_loss_is_that_of_choice_probability(model, file):
    log = read_log(model)[file]
    probability = choice_probability(column(log, "avg_gt_loss"), column(log, "average_perturb_loss"))
    np.testing.assert_allclose(-np.log(probability), column(log, "normalized_gt_loss"), rtol=1e-9, atol=1e-12)


def test_forget_quality_of_the_full_model_against_the_retain_model():
    full, retain = (read_scores(model, "eval_log_forget.json") for model in MODELS)
    metrics = forget_quality_metrics(full, retain)
    assert metrics["forget_quality"] == pytest.approx(1.8341e-21, rel=5e-5)
    assert metrics["forget_quality_log10"] == pytest.approx(-20.74, abs=5e-3)
    assert forget_quality_metrics(full, full)["forget_quality"] == 1


def test_forget_quality_rests_on_the_published_ks_statistic():
    ratios = [
        truth_ratio_raw([row.base_nll for row in rows], [row.perturbed_nll for row in rows])
        for rows in (read_scores(model, "eval_log_forget.json") for model in MODELS)
    ]
    assert ks_2samp(*ratios).statistic == pytest.approx(0.39667, abs=5e-6)


def test_forget_quality_refuses_logs_of_other_questions():
    forget, retain = read_scores("full", "eval_log_forget.json"), read_scores("retain90", "eval_log.json")
    with pytest.raises(ValueError, match="question 0 is 'What is the full name of the author born in Taipei"):
        forget_quality_metrics(forget, retain)


@pytest.mark.parametrize(("model", "arithmetic", "geometric"), [("full", 0.5859, 0.6227), ("retain90", 0.5752, 0.6137)])
def test_tofu_model_utility(model, arithmetic, geometric):
    scores = {name: read_scores(model, file) for file, (name, _, _) in SETS.items()}
    metrics = summarise(scores, {name: kind for name, kind, _ in SETS.values()})
    assert metrics["tofu_model_utility"] == pytest.approx(geometric, abs=5e-5)
    assert metrics["tofu_model_utility_arithmetic"] == pytest.approx(arithmetic, abs=5e-5)


def test_the_arithmetic_ratio_is_another_number_than_the_geometric_one():
    log = read_log("full")["eval_log_forget.json"]
    base, perturbed = column(log, "avg_paraphrased_loss"), column(log, "average_perturb_loss")
    assert (truth_ratio_raw_arithmetic(base, perturbed) > 1 / truth_ratio_raw(base, perturbed)).all()

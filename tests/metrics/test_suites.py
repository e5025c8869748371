import json
import math
import warnings
from dataclasses import asdict, replace

import pytest

from metrics.aggregate import LOG10_P_FLOOR, SET_METRICS
from metrics.suites import (
    ExampleScore,
    forget_quality_from_ratios,
    forget_quality_metrics,
    metric_directions,
    summarise,
    summarise_chain,
)

LN2 = math.log(2)
KINDS = {"forget": "forget", "retain": "retain", "authors": "facts", "facts": "facts"}


def score(set_name="retain", index=0, **changed):
    """One example whose six numbers are 0.5 (choice probability: 0.5 too) on a retain or facts set."""
    values = ExampleScore(
        set_name=set_name,
        index=index,
        question=f"Question {index}?",
        answer="yes",
        semantic_truth="yes, it is",
        generation="no",
        nll_sum=3 * LN2,
        num_tokens=3,
        base_nll=LN2,
        perturbed_nll=(2 * LN2, 2 * LN2),
        rouge_l=0.5,
        token_entropy=0.5,
        cosine_similarity=0.5,
        entailment="entailment" if index % 2 else "none",
    )
    return replace(values, **changed)


def scores_of(kinds):
    return {name: [score(name, 0), score(name, 1)] for name in kinds}


def test_example_score_is_json():
    original = score()
    read = json.loads(json.dumps(asdict(original)))
    assert ExampleScore(**{**read, "perturbed_nll": tuple(read["perturbed_nll"])}) == original


def test_summarise_by_hand():
    scores = scores_of(KINDS)
    scores["forget"][0] = score("forget", 0, nll_sum=0.0, rouge_l=1.0, perturbed_nll=(LN2, LN2))
    metrics = summarise(scores, KINDS)
    assert metrics == pytest.approx(
        {f"{name}/{metric}": 0.5 for name in KINDS for metric in SET_METRICS}
        | {"forget/rouge": 0.75, "forget/probability": 0.75, "forget/truth_ratio": 0.25}
        | {"model_utility": 0.5, "model_utility_retain": 0.5, "forget_efficacy": 0.45}
        | {"tofu_model_utility": 0.5, "tofu_model_utility_arithmetic": 0.5}
    )
    assert list(metrics)[:7] == [f"forget/{metric}" for metric in SET_METRICS] + ["retain/rouge"]


def test_probability_of_a_facts_set_is_among_the_choices():
    row = {"nll_sum": 4 * LN2, "num_tokens": 2, "perturbed_nll": (2 * LN2, LN2 / 2)}  # p = 1/4, false: 1/4 and 1/sqrt 2
    metrics = summarise({"retain": [score(**row)], "facts": [score("facts", **row)]}, KINDS)
    assert metrics["retain/probability"] == pytest.approx(0.25)
    assert metrics["facts/probability"] == pytest.approx(0.25 / (0.25 + 0.25 + math.sqrt(0.5)))


def test_truth_ratio_reduces_by_kind():
    rows = {name: [score(name, perturbed_nll=(0.0, 0.0))] for name in ("forget", "retain")}  # r = 1/2
    metrics = summarise(rows, KINDS)
    assert metrics["forget/truth_ratio"] == pytest.approx(0.5)  # 1 - min(r, 1 / r)
    assert metrics["retain/truth_ratio"] == 0  # max(0, 1 - 1 / r)
    assert metrics["model_utility"] == 0


def test_the_two_tofu_forms_differ_in_the_truth_ratio_only():
    rows = {name: [score(name, base_nll=0.0, perturbed_nll=(LN2, 3 * LN2))] for name in ("retain", "facts")}
    metrics = summarise(rows, KINDS)
    facts = 0.5 / (0.5 + 0.5 + 0.125)
    for name, ratio in (("tofu_model_utility", 1 - 1 / 4), ("tofu_model_utility_arithmetic", 1 - (1 / 2 + 1 / 8) / 2)):
        assert metrics[name] == pytest.approx(6 / (3 / 0.5 + 1 / facts + 2 / ratio))


@pytest.mark.parametrize(
    ("kinds", "aggregates"),
    [
        ({"forget": "forget"}, {"forget_efficacy"}),
        ({"retain": "retain"}, {"model_utility", "model_utility_retain"}),
        ({"facts": "facts"}, {"model_utility"}),
        (
            {"forget": "forget", "neighbors": "retain"},
            {"model_utility", "model_utility_retain", "forget_efficacy"},
        ),
        ({"neighbors": "retain", "facts": "facts"}, {"model_utility", "model_utility_retain"}),
        (
            {"facts": "facts", "retain": "retain"},
            {"model_utility", "model_utility_retain", "tofu_model_utility", "tofu_model_utility_arithmetic"},
        ),
    ],
)
def test_aggregates_appear_where_their_sets_do_and_directions_name_exactly_them(kinds, aggregates):
    scores = scores_of(kinds)
    produced = summarise(scores, kinds)
    assert {name for name in produced if "/" not in name} == aggregates
    if "forget" in kinds:
        produced |= forget_quality_metrics(scores["forget"], scores["forget"])
    infos = metric_directions(kinds)
    assert list(infos) == list(produced)
    assert {name for name, info in infos.items() if info.needs_retain_model} == produced.keys() & {
        "forget_quality",
        "forget_quality_log10",
    }


def test_model_utility_retain_uses_retain_sets_alone():
    metrics = summarise({"retain": [score(index=1)], "facts": [score("facts", token_entropy=0.0)]}, KINDS)
    assert metrics["model_utility"] == 0
    assert metrics["model_utility_retain"] == pytest.approx(6 / 11)  # five 1/2 and the entailment of one row, 1


@pytest.mark.parametrize(
    ("field", "value", "metric"),
    [
        ("rouge_l", math.nan, "rouge"),
        ("nll_sum", math.nan, "probability"),
        ("base_nll", math.nan, "truth_ratio"),
        ("perturbed_nll", (1.0, math.nan), "truth_ratio|probability"),
        ("token_entropy", math.nan, "token_entropy"),
        ("cosine_similarity", math.nan, "cosine_similarity"),
        ("cosine_similarity", math.inf, "cosine_similarity"),
    ],
)
@pytest.mark.parametrize("name", ["forget", "retain", "facts"])
def test_one_nan_is_an_error_that_names_set_and_metric(name, field, value, metric):
    scores = scores_of(KINDS)
    scores[name][1] = score(name, 1, **{field: value})
    with pytest.raises(ValueError, match=f"metric '({metric})' of set '{name}'"):
        summarise(scores, KINDS)


def test_infinite_losses_of_one_example_are_an_error_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="metric 'truth_ratio' of set 'retain'"):
            summarise({"retain": [score(base_nll=math.inf, perturbed_nll=(math.inf,))]}, KINDS)


@pytest.mark.parametrize(
    ("scores", "kinds", "message"),
    [
        ({"retain": []}, KINDS, "set 'retain' needs at least one"),
        ({"retain": [score(num_tokens=0)]}, KINDS, "example 0 of set 'retain'"),
        ({"retain": [score(index=4, perturbed_nll=())]}, KINDS, "example 4 of set 'retain'"),
        ({"retain": [score(entailment="LABEL_0")]}, KINDS, "LABEL_0"),
        ({"other": [score()]}, KINDS, "set 'other' must be one of forget, retain, facts, but got None"),
        ({"retain": [score()]}, {"retain": "keep"}, "'keep'"),
        ({"forget": [score()], "old": [score()]}, {"forget": "forget", "old": "forget"}, r"\['forget', 'old'\]"),
    ],
)
def test_summarise_refuses(scores, kinds, message):
    with pytest.raises(ValueError, match=message):
        summarise(scores, kinds)


def test_forget_quality_metrics_of_disjoint_ratios():
    ours = [score("forget", i, base_nll=0.0, perturbed_nll=(1.0 + i,)) for i in range(3)]
    theirs = [score("forget", i, base_nll=0.0, perturbed_nll=(9.0 + i,)) for i in range(3)]
    metrics = forget_quality_metrics(ours, theirs)
    assert metrics == pytest.approx({"forget_quality": 0.1, "forget_quality_log10": -1.0})


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ("abc", "acb", "question 1 is 'b' here and 'c' for the retain model"),
        ("abc", "ab", "question 2 is 'c' here and missing for the retain model"),
        ("", "a", "question 0 is missing here and 'a'"),
        ("ab", "ba", "question 0 is 'a'"),
        ("", "", "at least one"),
    ],
)
def test_forget_quality_metrics_refuses_questions_that_do_not_align(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        forget_quality_metrics([score(question=q) for q in ours], [score(question=q) for q in theirs])


def test_forget_quality_metrics_refuses_a_nan():
    ours = [score("forget", 0), score("forget", 1, base_nll=math.nan)]
    with pytest.raises(ValueError, match="forget_quality: truth ratio 1 of this model is NaN"):
        forget_quality_metrics(ours, scores_of(["forget"])["forget"])


@pytest.mark.parametrize(
    ("name", "direction", "worst"),
    [
        ("forget/rouge", "minimize", 1),
        ("forget/probability", "minimize", 1),
        ("forget/truth_ratio", "minimize", 1),
        ("forget/cosine_similarity", "minimize", 1),
        ("forget/entailment_score", "minimize", 1),
        ("forget/token_entropy", "maximize", 0),
        *((f"{name}/{metric}", "maximize", 0) for name in ("retain", "authors", "facts") for metric in SET_METRICS),
        ("model_utility", "maximize", 0),
        ("model_utility_retain", "maximize", 0),
        ("forget_efficacy", "maximize", 0),
        ("forget_quality", "maximize", 0),
        ("forget_quality_log10", "maximize", LOG10_P_FLOOR),
        ("tofu_model_utility", "maximize", 0),
        ("tofu_model_utility_arithmetic", "maximize", 0),
    ],
)
def test_metric_directions(name, direction, worst):
    info = metric_directions(KINDS)[name]
    assert (info.direction, info.worst) == (direction, worst)
    assert math.isfinite(info.worst)


def test_metric_directions_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="set 'a' must be one of forget, retain, facts, but got 'b'"):
        metric_directions({"a": "b"})


def test_forget_quality_from_ratios_is_that_of_scores_with_these_ratios():
    ours = [score("forget", i, base_nll=0.0, perturbed_nll=(0.1 * i,)) for i in range(9)]
    theirs = [score("forget", i, base_nll=0.0, perturbed_nll=(0.1 * i + 0.35,)) for i in range(9)]
    ratios = [math.exp(0.1 * i + 0.35) for i in range(9)]
    assert forget_quality_from_ratios(ours, ratios) == forget_quality_metrics(ours, theirs)
    assert 0 < forget_quality_from_ratios(ours, ratios)["forget_quality"] < 1
    with pytest.raises(ValueError, match="one ratio of the retain model for each question, but got 8 for 9"):
        forget_quality_from_ratios(ours, ratios[:-1])


def test_metrics_of_a_chain_by_hand():
    after_each = [
        {"forget/rouge": 0.1, "retain/rouge": 0.9, "model_utility": 0.8, "forget_efficacy": 0.9},
        {"forget/rouge": 0.4, "retain/rouge": 0.7, "model_utility": 0.6, "forget_efficacy": 0.6},
        {"forget/rouge": 0.1, "retain/rouge": 0.5, "model_utility": 0.3, "forget_efficacy": 0.9},
    ]
    assert summarise_chain(after_each, [0.7, 0.5, 0.9]) == pytest.approx(
        {
            "forget/rouge": 0.2,
            "retain/rouge": 0.5,
            "model_utility": 0.3,
            "forget_efficacy": 0.8,
            "forget_efficacy_final": 0.7,
            "relapse": 0.15,
        }
    )


def test_a_chain_of_one_task_has_no_relapse_and_the_tasks_own_metrics():
    metrics = summarise(scores_of(KINDS), KINDS)
    chain = summarise_chain([metrics], [metrics["forget_efficacy"]])
    assert chain == metrics | {"forget_efficacy_final": metrics["forget_efficacy"], "relapse": 0.0}
    assert list(metric_directions(KINDS, chain=True)) == list(chain)


def test_directions_of_a_chain():
    infos = metric_directions(KINDS, chain=True)
    assert (infos["relapse"].direction, infos["relapse"].worst) == ("minimize", 1.0)
    assert (infos["forget_efficacy_final"].direction, infos["forget_efficacy_final"].worst) == ("maximize", 0.0)
    assert not any(info.needs_retain_model for info in infos.values())


@pytest.mark.parametrize(("tasks", "final"), [(0, 0), (2, 1), (1, 2)])
def test_a_chain_needs_every_task_twice(tasks, final):
    with pytest.raises(ValueError, match=f"got {final} for {tasks} tasks"):
        summarise_chain([{"forget_efficacy": 1.0}] * tasks, [1.0] * final)

import math

import numpy as np
import pytest

from metrics.semantic import cosine_similarity, entailment_label, entailment_pair, entailment_score


def test_cosine_similarity_is_row_by_row_and_cut_at_zero():
    output = [[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1e-30, 1e-30]]
    truth = [[6.0, 8.0], [0.0, 2.0], [-1.0, 0.1], [1.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(cosine_similarity(output, truth), [1, 0, 0, 0, math.sqrt(0.5)], rtol=1e-14)


def test_cosine_similarity_keeps_a_nan_for_the_summary_to_report():
    assert math.isnan(cosine_similarity([[math.nan, 1.0]], [[1.0, 1.0]])[0])


@pytest.mark.parametrize(("output", "truth"), [((2, 3), (1, 3)), ((2, 3), (2, 4)), ((3,), (3,))])
def test_cosine_similarity_refuses_shapes_that_would_broadcast(output, truth):
    with pytest.raises(ValueError, match=r"must both be \(N, D\)"):
        cosine_similarity(np.ones(output), np.ones(truth))


@pytest.mark.parametrize(
    ("kind", "real_world", "expected"),
    [
        ("forget", False, ("output", "truth")),
        ("retain", False, ("truth", "output")),
        ("facts", False, ("truth", "output")),
        ("forget", True, ("output", "truth")),
        ("retain", True, ("output", "truth")),
        ("facts", True, ("output", "truth")),
    ],
)
def test_entailment_pair(kind, real_world, expected):
    assert entailment_pair(kind, output="output", truth="truth", real_world=real_world) == expected


def test_entailment_pair_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="got 'authors'"):
        entailment_pair("authors", output="", truth="")


@pytest.mark.parametrize(
    ("rouge_l", "expected"),
    [(0.0, "none"), (np.nextafter(0.1, 0), "none"), (0.1, "neutral"), (np.nextafter(0.1, 1), "neutral")],
)
def test_entailment_label_needs_a_tenth_of_the_answer(rouge_l, expected):
    assert entailment_label("neutral", rouge_l) == expected


def test_entailment_score_is_a_share():
    assert entailment_score(["entailment", "none", "neutral", "contradiction", "entailment"]) == 0.4


@pytest.mark.parametrize(("labels", "message"), [([], "at least one"), (["ENTAILMENT"], "ENTAILMENT")])
def test_entailment_score_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        entailment_score(labels)

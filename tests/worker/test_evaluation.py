"""What becomes of a model whose predictions are no numbers."""

import math
from dataclasses import replace
from unittest import mock

import pytest

from metrics.suites import ExampleScore
from orchestrator.worker import evaluation
from orchestrator.worker.evaluation import NotFiniteError, evaluate

SCORE = ExampleScore(
    set_name="forget", index=0, question="Q?", answer="A.", semantic_truth="A.", generation="A.", nll_sum=1.0,
    num_tokens=2, base_nll=0.5, perturbed_nll=(1.0, 2.0), rouge_l=1.0, token_entropy=0.5, cosine_similarity=1.0,
    entailment="entailment",
)  # fmt: skip


@pytest.mark.parametrize(
    "broken", [{"nll_sum": math.nan}, {"base_nll": math.inf}, {"perturbed_nll": (1.0, math.nan)}, {}]
)
def test_any_likelihood_that_is_no_number_is_the_models_fault(broken):
    with (
        mock.patch.object(evaluation, "score_questions", return_value=[SCORE, replace(SCORE, **broken)]),
        mock.patch.object(evaluation, "all_questions"),
    ):
        if not broken:
            assert evaluate(mock.Mock(), mock.Mock(), mock.Mock(), [], mock.Mock()) == {}
            return
        with pytest.raises(NotFiniteError, match="predictions are not finite"):
            evaluate(mock.Mock(), mock.Mock(), mock.Mock(), [], mock.Mock())

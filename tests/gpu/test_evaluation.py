"""On a GPU: the scores of an evaluation, against those of the CPU."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


def scores(config, parts):
    from orchestrator.worker.evaluation import evaluate
    from orchestrator.worker.model import load_model

    (task,) = parts.tasks(config)
    model = load_model(config.model, parts.device).eval()
    found = evaluate(model, config.model, config.evaluation, task.evaluation, parts)
    return [score for rows in found.values() for score in rows]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 3e-2)])
def test_likelihoods_are_those_of_the_cpu(dtype, tolerance, make_config, parts):
    from orchestrator.worker.parts import WorkerParts

    ours = scores(make_config(None, f"model.dtype={dtype}"), parts)
    cpu = scores(make_config(None, "model.dtype=float32"), WorkerParts(torch.device("cpu")))
    assert len(ours) == len(cpu) == 12
    for one, other in zip(ours, cpu, strict=True):
        assert one.num_tokens == other.num_tokens
        assert one.nll_sum == pytest.approx(other.nll_sum, rel=tolerance)
        assert one.perturbed_nll == pytest.approx(other.perturbed_nll, rel=tolerance)


def test_scores_do_not_depend_on_what_is_asked_together(make_config, parts):
    first, second = (
        scores(make_config(None, "model.dtype=float32", f"evaluation.batch_size={size}"), parts) for size in (2, 12)
    )
    same = [one.generation == other.generation for one, other in zip(first, second, strict=True)]
    assert sum(same) >= len(same) - 1  # random weights: two tokens may be as likely up to rounding
    for one, other in zip(first, second, strict=True):
        assert one.nll_sum == pytest.approx(other.nll_sum, rel=1e-4)
        assert 0 <= one.cosine_similarity <= 1 and 0 <= one.rouge_l <= 1


def test_a_trial_is_trained_and_scored_where_it_is(make_config, parts, tmp_path):
    from orchestrator.tracking.journal import TrialState
    from orchestrator.worker.job import TrialJob
    from orchestrator.worker.trial import run_trial

    job = TrialJob(
        key="ME+GD/forget10/t000",
        config=make_config("ME+GD"),
        place=str(tmp_path),
        objectives=(),
        keep_weights=False,
    )
    result = run_trial(job, parts, lambda record: None)
    assert result.state == TrialState.COMPLETE, result.error
    assert {"model_utility", "forget_efficacy"} <= result.metrics.keys()
    assert {"train", "evaluate"} <= result.seconds.keys() and result.checkpoint is None

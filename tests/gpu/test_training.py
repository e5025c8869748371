"""On a GPU: bf16 training through DeepSpeed, every ZeRO stage; skipped without one."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    import torch.distributed as dist

    from orchestrator.worker.engine import start_process_group

    start_process_group(0, 1, f"file://{tmp_path_factory.mktemp('store') / 'store'}")
    yield
    dist.destroy_process_group()


def losses(models, tmp_path, method, stage):
    from orchestrator.config import MethodEntry, trial_config
    from orchestrator.load_config import load_config
    from orchestrator.tracking.journal import ObjectiveRecord, TrialState
    from orchestrator.worker.parts import WorkerParts
    from orchestrator.worker.trial import TrialJob, run_trial
    from tests.ray import tiny

    sweep = load_config(
        tiny.settings(models, tmp_path)[0], [*tiny.settings(models, tmp_path)[1:], f"zero.stage={stage}"]
    )
    config = trial_config(sweep, MethodEntry(name=method), "forget10", {})
    objectives = (ObjectiveRecord(metric="model_utility", direction="maximize", worst=0),)
    key = f"{method}/forget10/t{stage:03d}"
    job = TrialJob(key=key, config=config, sweep_dir=str(tmp_path), objectives=objectives, keep_weights=True)
    seen = []
    result = run_trial(job, WorkerParts(torch.device("cuda", 0)), seen.extend)
    assert result.state == TrialState.COMPLETE, result.error
    assert (tmp_path / result.checkpoint / "model.safetensors").is_file()
    return [step.loss for step in seen]


@pytest.mark.parametrize("method", ["GA+GD", "NPO+KL", "IDK+AP"])
def test_every_stage_trains_alike_in_bfloat16(method, group, tmp_path, tmp_path_factory):
    from tests.ray import tiny

    models = tiny.make_models(tmp_path_factory.mktemp("models"))
    first, *others = [losses(models, tmp_path, method, stage) for stage in range(4)]
    assert len(first) == 5
    for other in others:
        assert other == pytest.approx(first, rel=2e-2)

"""On a GPU: bfloat16 training through DeepSpeed in every ZeRO stage, adapters, memory, chains that go on."""

import gc
from dataclasses import replace

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


def run(config, folder, parts, name):
    """The losses of a trial, and its result."""
    from orchestrator.tracking.journal import ObjectiveRecord, StepsReported, TrialState
    from orchestrator.worker.job import TrialJob
    from orchestrator.worker.trial import run_trial

    objectives = (ObjectiveRecord(metric="model_utility", direction="maximize", worst=0),)
    job = TrialJob(key=name, config=config, place=str(folder), objectives=objectives, keep_weights=True)
    records = []
    result = run_trial(job, parts, records.append)
    assert result.state == TrialState.COMPLETE, result.error
    return [step.loss for one in records if isinstance(one, StepsReported) for step in one.steps], result


@pytest.mark.parametrize("method", ["GA+GD", "NPO+KL", "IDK+AP"])
def test_every_stage_trains_alike_in_bfloat16(method, make_config, parts, tmp_path):
    found = [run(make_config(method, f"zero.stage={n}"), tmp_path, parts, f"{method}/{n}") for n in range(4)]
    first, _ = found[0]
    assert len(first) == 5
    for losses, result in found:
        assert losses == pytest.approx(first, rel=2e-2)
        assert (tmp_path / result.checkpoint / "model.safetensors").is_file()


@pytest.mark.parametrize("stage", [0, 3])
def test_adapters_train_and_are_saved_alone(stage, make_config, parts, tmp_path):
    settings = ["lora={}", f"zero.stage={stage}", "train.learning_rate=1e-2"]
    losses, result = run(make_config("NPO+GD", *settings), tmp_path, parts, f"adapters/{stage}")
    at_the_reference = losses[0]
    assert len(losses) == 5 and losses[-1] < at_the_reference
    assert (tmp_path / result.checkpoint / "adapter_model.safetensors").is_file()
    assert not (tmp_path / result.checkpoint / "model.safetensors").exists()


def peak_bytes(config, parts):
    """Of training one task, from the model that is there to the model that comes back."""
    from orchestrator.worker.model import load_model
    from orchestrator.worker.parts import Clock
    from orchestrator.worker.training import plan_task, reference_answers, train_task

    (task,) = parts.tasks(config)
    plan = plan_task(config, task, parts)
    model = load_model(config.model, parts.device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    def reference(engine):
        return reference_answers(config, plan, engine, parts, shared=False)

    train_task(config, plan, model, lambda steps: None, Clock(), reference)
    return torch.cuda.max_memory_allocated() - before + sum(p.numel() * p.element_size() for p in model.parameters())


def test_the_reference_of_npo_needs_no_memory_of_its_own(make_config, models, parts, tmp_path):
    from orchestrator.trial_config import TinyModel
    from orchestrator.worker.model import save_model
    from orchestrator.worker.template import load_tokenizer
    from orchestrator.worker.tiny import tiny_llama

    tokenizer = load_tokenizer(str(models / "target"))
    shape = TinyModel(vocab_size=600, hidden_size=512, intermediate_size=1024, num_layers=4, num_heads=8)
    save_model(tiny_llama(shape, tokenizer, max_positions=256), tokenizer, tmp_path / "wide")
    peaks = {}
    for method in ("GA+GD", "GA+GD", "NPO+GD"):  # the first one also makes what a process makes once
        config = make_config(method, "zero.stage=2", "train.batch_size=10", f"model.target={tmp_path / 'wide'}")
        peaks[method] = peak_bytes(config, parts)
    assert peaks["NPO+GD"] <= 1.05 * peaks["GA+GD"], peaks


@pytest.mark.parametrize("lora", [False, True])
def test_a_chain_that_was_cut_off_goes_on_after_its_last_whole_task(lora, parts, tmp_path):
    from orchestrator.trial_config import LoraConfig
    from tests.worker import test_trial as chains

    chains.make_place(tmp_path)
    whole = chains.Case("whole", lora=LoraConfig(dropout=0) if lora else None)
    cut = replace(whole, name="cut", stop_at=2)
    undisturbed, _ = chains.run_case(whole, tmp_path, parts)
    before, nothing = chains.run_case(cut, tmp_path, parts)
    after, result = chains.run_case(replace(whole, name="again", after="cut"), tmp_path, parts)
    assert nothing is None and result.state == "COMPLETE"
    assert [task.task for task in chains.tasks_of(after)] == [1, 2, 3]
    assert after[0] == before[0]  # told again as it was
    losses = [[step.loss for step in chains.steps_of(records)] for records in (after, undisturbed)]
    assert len(losses[0]) == 18 and losses[0] == pytest.approx(losses[1], rel=2e-2)

"""Adapters in every ZeRO stage, on one process and two, against torch alone, and the base model as reference."""

import gc
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from toy import (
    TRAIN,
    Case,
    Run,
    case_model,
    deepspeed_run,
    logits_at,
    numbers,
    plain_run,
    run_cases,
    toy_builder,
    toy_model,
)
from transformers import LlamaForCausalLM

from methods.method import build_method
from orchestrator.trial_config import LoraConfig, ZeroConfig
from orchestrator.worker.engine import DeepSpeedEngine, _parameter_groups, start_process_group
from orchestrator.worker.loop import train_steps
from orchestrator.worker.model import Policy
from orchestrator.worker.reference import ReferenceAnswers, ReferenceCache

LORA, DROPPING = LoraConfig(dropout=0), LoraConfig(dropout=0.3)
CHECKPOINTED = TRAIN.model_copy(update={"gradient_checkpointing": True})
DECAYED = TRAIN.model_copy(update={"weight_decay": 5.0})
TWO = [Case("NPO+KL", stage=stage, lora=LORA) for stage in range(4)]
STAGES = [*(replace(TWO[stage], workers=1) for stage in (0, 2, 3)), *TWO]
FIRST = STAGES[0]
CHECKPOINTS = [Case("NPO+KL", stage=stage, train=CHECKPOINTED, lora=DROPPING) for stage in (2, 3)]
BFLOAT16 = [Case("NPO+KL", stage=stage, dtype=torch.bfloat16, lora=LORA) for stage in (0, 2, 3)]
DROPOUT = [Case("NPO+KL", stage=stage, lora=DROPPING) for stage in (2, 3)]
AGAIN = replace(DROPOUT[0], use=2)
OTHER_SEED = Case("NPO+KL", seed=2, lora=LORA)
DECAY = Case("IDK+AP", train=DECAYED, lora=LORA)
NUM_STEPS = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    cases = [*STAGES, *CHECKPOINTS, *BFLOAT16, *DROPOUT, AGAIN, OTHER_SEED, DECAY]
    return run_cases(cases, tmp_path_factory.mktemp("runs"))


def name_of(case):
    return f"zero{case.stage}-{case.workers}"


def adapters(run):
    return {name: weight for name, weight in run.weights.items() if "lora_" in name}


def same(one, other, rel=1e-5):
    """Losses to `rel`, and adapters to `rel` of the largest weight of each."""
    assert len(one.losses) == len(other.losses) == NUM_STEPS
    for ours, theirs in zip(numbers(one), numbers(other), strict=True):
        assert ours == pytest.approx(theirs, rel=rel, abs=1e-6)
    assert adapters(one).keys() == adapters(other).keys() != set()
    for name, expected in adapters(other).items():
        torch.testing.assert_close(adapters(one)[name], expected, rtol=0, atol=rel * float(expected.abs().max()))


def same_bits(one, other):
    same_weights = all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())
    return same_weights and one.losses == other.losses


@pytest.mark.parametrize("case", STAGES[1:], ids=name_of)
def test_every_stage_and_number_of_workers_is_the_same_training(case, runs):
    same(runs[case][0], runs[FIRST][0])


@pytest.mark.parametrize("case", [TWO[2], TWO[3], DECAY], ids=name_of)
def test_it_is_adamw_on_the_adapters_in_plain_torch(case, runs):
    expected = plain_run(case)
    same(runs[case][0], expected)
    assert runs[case][0].grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)


def test_every_rank_has_the_whole_model_and_only_the_adapters_have_changed(runs):
    base = dict(toy_model().named_parameters())
    for case, ranks in runs.items():
        start = dict(case_model(case).named_parameters())
        for run in ranks:
            assert run.weights.keys() == start.keys()
            for name, weight in run.weights.items():
                if "lora_" in name:
                    assert torch.equal(weight, ranks[0].weights[name])
                    assert not torch.equal(weight, start[name])
                else:
                    plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
                    assert torch.equal(weight, base[plain].to(case.dtype))


@pytest.mark.parametrize("case", CHECKPOINTS, ids=name_of)
def test_gradient_checkpointing_changes_nothing_with_dropout_either(case, runs):
    assert same_bits(runs[case][0], runs[replace(case, train=TRAIN)][0])


@pytest.mark.parametrize("case", DROPOUT, ids=name_of)
def test_dropout_is_on_in_training_only(case, runs):
    dropping, kept = runs[case][0], runs[replace(case, lora=LORA)][0]
    assert dropping.losses[0] == kept.losses[0]  # adapters add nothing, and the reference answers without dropout
    assert dropping.losses[1][0] != pytest.approx(kept.losses[1][0], rel=1e-3)


def test_dropout_repeats_with_the_seed(runs):
    assert same_bits(runs[AGAIN][0], runs[replace(AGAIN, use=1)][0])


def test_another_seed_starts_with_other_adapters(runs):
    assert not same_bits(runs[OTHER_SEED][0], runs[replace(OTHER_SEED, seed=1)][0])


@pytest.mark.parametrize("case", BFLOAT16, ids=name_of)
def test_bfloat16_follows_float32_in_every_stage(case, runs):
    found = runs[case][0]
    assert {weight.dtype for weight in found.weights.values()} == {torch.bfloat16}
    for ours, single in zip(numbers(found), numbers(runs[FIRST][0]), strict=True):
        assert ours == pytest.approx(single, rel=0.05, abs=0.01)


@dataclass(frozen=True)
class Probe:
    """What a rank found when it looked into an engine: logits of some rows, and the reference's answers."""

    base: torch.Tensor
    base_answers: ReferenceAnswers
    answers: ReferenceAnswers
    num_models: int
    start: torch.Tensor
    midway: torch.Tensor
    losses: list[float]
    end: torch.Tensor
    released: torch.Tensor
    undisturbed: Run
    layer_calls: int


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """For each stage what two ranks found."""
    folder = tmp_path_factory.mktemp("probes")
    mp.spawn(_probe_all, args=(str(folder),), nprocs=2, join=True)
    return list(zip(*(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)), strict=True))


def _probe_all(rank, folder):
    torch.set_num_threads(1)
    start_process_group(rank, 2, f"file://{folder}/store")
    torch.save([_probe(Case("NPO+KL", stage=stage, lora=DROPPING)) for stage in (0, 2, 3)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _logits(run, tokens):
    return run(lambda policy: logits_at(policy(tokens), torch.ones_like(tokens.labels, dtype=torch.bool)))


def _probe(case):
    builder, schedule = toy_builder(case)
    engine = DeepSpeedEngine(toy_model(), case.train, ZeroConfig(stage=case.stage))
    tokens = builder.batch(schedule.steps[0].ranks[engine.rank][0]).part("forget")
    base, base_answers = _logits(engine.run, tokens), ReferenceCache().answers(None, engine, builder, schedule.steps)
    engine.release()
    del engine
    gc.collect()

    engine = DeepSpeedEngine(case_model(case), case.train, ZeroConfig(stage=case.stage))
    torch.manual_seed(case.seed * engine.world_size + engine.rank)
    answers = ReferenceCache().answers(None, engine, builder, schedule.steps)
    num_models = sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())
    start = _logits(engine.run, tokens)
    steps = train_steps(engine, build_method(builder.method), builder, schedule, answers)
    losses = [step.loss for step in islice(steps, 2)]
    midway = _logits(engine.run, tokens)
    losses += [step.loss for step in steps]
    end = _logits(engine.run, tokens)
    policy = Policy(engine.release())
    del engine
    with torch.no_grad():
        released = _logits(lambda fn: fn(policy.predict), tokens)
    undisturbed, calls = deepspeed_run(case, ReferenceCache()), _layer_calls(case, tokens)
    return Probe(base, base_answers, answers, num_models, start, midway, losses, end, released, undisturbed, calls)


def _layer_calls(case, tokens):
    """How often one forward and backward with gradient checkpointing run a layer."""
    model, calls = case_model(case), []
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    engine = DeepSpeedEngine(model, CHECKPOINTED, ZeroConfig(stage=case.stage))
    engine.backward(lambda policy: logits_at(policy(tokens), tokens.attention_mask.bool()).sum(), scale=1.0)
    engine.step(0.0)
    engine.release()
    return len(calls)


@pytest.fixture(params=range(3), ids=["zero0", "zero2", "zero3"])
def probe(request, probes):
    return probes[request.param]


def test_before_the_first_step_the_reference_is_the_base_model_bit_for_bit(probe):
    for found in probe:
        assert torch.equal(found.start, found.base)
        assert found.answers.sums == found.base_answers.sums != {"forget": {}}
        assert found.answers.states.keys() == found.base_answers.states.keys() != set()
        assert all(torch.equal(rows, found.base_answers.states[key]) for key, rows in found.answers.states.items())
        heads = found.answers.head.keywords, found.base_answers.head.keywords
        assert torch.equal(heads[0]["weight"], heads[1]["weight"])


def test_the_reference_needs_no_second_model_and_none_is_left_of_an_engine_before(probe):
    assert [found.num_models for found in probe] == [1, 1]


def test_a_look_does_not_disturb_training(probe):
    for found in probe:
        assert found.losses == [total for total, _, _ in found.undisturbed.losses]


def test_the_released_model_says_what_the_engine_said(probe):
    for found in probe:
        torch.testing.assert_close(found.released, found.end, rtol=0, atol=1e-5)
        assert (found.end - found.midway).abs().max() > 0.01


def test_gradient_checkpointing_runs_layers_twice(probe):
    assert [found.layer_calls for found in probe] == [2, 2]


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_optimizer_gets_what_is_trained_and_no_empty_group(lora):
    policy = Policy(case_model(Case("GA", lora=lora)))
    groups = _parameter_groups(policy, 0.01)
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    trained = {name for name, parameter in policy.named_parameters() if id(parameter) in grouped}
    assert trained == {name for name, _ in policy.named_parameters() if lora is None or "lora_" in name}
    assert [group["weight_decay"] for group in groups] == ([0.01, 0.0] if lora is None else [0.01])

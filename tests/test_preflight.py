"""What is checked and estimated before anything starts."""

import pytest

from orchestrator import preflight
from orchestrator.load_config import ConfigError, load_config
from orchestrator.scenarios.base import EvaluationSet, QARow, SetKind, Task
from orchestrator.worker.template import load_tokenizer
from tests.ray import tiny


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny.make_models(tmp_path_factory.mktemp("models")) / "target"


def sweep(target, *overrides):
    return load_config("tofu_lora", [f"model.target={target}", "search.trials_per_cell=5", *overrides])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # rank x (inputs + outputs) x 4 bytes: in each of two layers 4 x (32 + 32) + 3 x (32 + 64)
        ([], "adapters of the fronts, at most 20 trials, 34 KiB each, 680 KiB at most"),
        (["lora.r=64"], "adapters of the fronts, at most 20 trials, 272 KiB each, 5.3 MiB at most"),
        (
            ["lora.r=512", "lora.target_modules=[q_proj, up_proj]"],
            "adapters of the fronts, at most 20 trials, 640 KiB each, 12.5 MiB at most",
        ),
        (["checkpoint.policy=none"], "no adapters are kept"),
        (["checkpoint.policy=best"], "adapters of 4 knees, 34 KiB each, 170 KiB at most"),
    ],
)
def test_disk_of_adapters(target, overrides, words):
    assert preflight.estimate_disk(sweep(target, *overrides)) == words


def test_disk_of_whole_weights_and_of_chains(target):
    size = (target / "model.safetensors").stat().st_size
    assert 2**17 < size < 2**20
    whole = f"weights of 20 trials, {size / 2**10:.0f} KiB each, {20 * size / 2**20:.1f} MiB at most"
    assert preflight.estimate_disk(sweep(target, "lora=null", "checkpoint.policy=all")) == whole
    chain = load_config("continual_search", ["scenario.source=/data", f"model.target={target}"])
    assert preflight.estimate_disk(chain).endswith(
        f"; while a chain runs, twice the weights besides ({2 * size / 2**10:.0f} KiB)"
    )
    words = "adapters of the fronts, at most 80 trials; the size of locuslab/tofu_ft_llama2-7b is known once it is"
    assert preflight.estimate_disk(load_config("tofu_lora")) == f"{words} downloaded"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.max_length=8"], "train.max_length: forget10 row 0: question of"),
        (["methods=[GA, {name: NPO, train: {max_length: 8}}]"], "train.max_length: forget10 row 0: question of"),
        (["evaluation.max_length=8"], "evaluation.max_length: evaluation set forget row 0: question of"),
        (["train.max_length=20"], "train.max_length: retain row 1: question of"),
    ],
)
def test_rows_of_every_task_of_a_chain_must_leave_room_for_an_answer(target, overrides, words):
    short, long = QARow("Who?", "Ada."), QARow("Who was it " + "then " * 12 + "?", "Bo.")
    asked = (EvaluationSet("forget", SetKind.FORGET, (short,)),)
    chain = (Task("forget10", (short,), (short,), (), asked), Task("forget10", (short,), (short, long), (), asked))
    with pytest.raises(preflight.DataError, match=f"^{words}"):
        preflight.check_lengths(sweep(target, *overrides), {"forget10": chain}, load_tokenizer(str(target)))
    preflight.check_lengths(sweep(target), {"forget10": chain}, load_tokenizer(str(target)))


def test_downstream_tasks_are_known_before_anything_starts(target, tmp_path):
    config = sweep(target, f"evaluation.downstream_tasks={tmp_path / 'none'}", "evaluation.downstream=[facts]")
    with pytest.raises(ConfigError, match="^evaluation.downstream_tasks: .* is no folder"):
        preflight.check_downstream_tasks(config)

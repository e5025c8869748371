"""What is checked and estimated before anything starts."""

import json
import re
from itertools import count

import pytest
from safetensors.numpy import load_file

from orchestrator import preflight
from orchestrator.load_config import ConfigError, load_config
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.held_out import is_held_out
from orchestrator.worker.template import load_tokenizer, template_for
from tests.ray import folders, tiny


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return tiny.make_models(tmp_path_factory.mktemp("models")) / "target"


def sweep(target, *overrides):
    return load_config("tofu_lora", [f"model.target={target}", "search.trials_per_cell=5", *overrides])


def small(target, storage, *overrides):
    """The quickstart with random models: 40 rows are forgotten."""
    chosen = [f"storage={storage}", f"model.target={target}", "model.retain_models={}", "forget_sets=[forget10]"]
    judge = f"evaluation.entailment={target.parent / 'judge'}"
    return load_config("quickstart", [*chosen, judge, "objectives=[model_utility]", "train.epochs=5", *overrides])


@pytest.mark.parametrize(
    ("overrides", "words", "besides"),
    [
        # rank x (inputs + outputs) x 4 bytes: in each of two layers 4 x (32 + 32) + 3 x (32 + 64)
        ([], "adapters of the fronts, at most 20 trials, 34 KiB each, 680 KiB at most", "204 KiB"),
        (["lora.r=64"], "adapters of the fronts, at most 20 trials, 272 KiB each, 5.3 MiB at most", "1.6 MiB"),
        (
            ["lora.r=512", "lora.target_modules=[q_proj, up_proj]"],
            "adapters of the fronts, at most 20 trials, 640 KiB each, 12.5 MiB at most",
            "3.8 MiB",
        ),
        (["checkpoint.policy=none"], "no adapters are kept", "204 KiB"),
        (["checkpoint.policy=best"], "adapters of 4 knees, 34 KiB each, 170 KiB at most", "204 KiB"),
    ],
)
def test_disk_of_adapters(target, overrides, words, besides):
    found = preflight.estimate_disk(sweep(target, *overrides))
    assert found == f"{words}; for each trial that runs, at most {besides} besides, to go on from"


def test_disk_of_whole_weights_and_of_chains(target):
    size = (target / "model.safetensors").stat().st_size
    assert 2**17 < size < 2**20
    numbers = sum(tensor.size for tensor in load_file(target / "model.safetensors").values())
    whole = f"weights of 20 trials, {size / 2**10:.0f} KiB each, {20 * size / 2**20:.1f} MiB at most"
    found = preflight.estimate_disk(sweep(target, "lora=null", "checkpoint.policy=all"))
    # Float32 weights and two moments, twice.
    assert found == f"{whole}; for each trial that runs, at most {24 * numbers / 2**10:.0f} KiB besides, to go on from"
    chain = load_config("continual_search", ["scenario.source=/data", f"model.target={target}"])
    besides = 24 * numbers + 2 * size
    assert preflight.estimate_disk(chain).endswith(f"at most {besides / 2**20:.1f} MiB besides, to go on from")
    words = "adapters of the fronts, at most 80 trials; the size of locuslab/tofu_ft_llama2-7b is known once it is"
    assert preflight.estimate_disk(load_config("tofu_lora")) == f"{words} downloaded"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.max_length=8"], "train.max_length: forget10 row 0: question of"),
        (["methods=[GA, {name: NPO, train: {max_length: 8}}]"], "train.max_length: forget10 row 0: question of"),
        (["evaluation.max_length=8"], "evaluation.max_length: evaluation set forget row 0: question of"),
        (["train.max_length=20"], "train.max_length: retain row 1: question of"),
        (
            ["search.space.train.max_length.choices=[8,500]"],
            r"search.space.train.max_length: 8 is not acceptable: forget10 row 0: question of",
        ),
        (
            ["methods=[GA, {name: NPO, space: {train.max_length: {type: int, low: 20, high: 90}}}]"],
            "methods: NPO: space.train.max_length: 20 is not acceptable: retain row 1: question of",
        ),
    ],
)
def test_rows_of_every_task_of_a_chain_must_leave_room_for_an_answer(target, overrides, words):
    short, long = QARow("Who?", "Ada."), QARow("Who was it " + "then " * 12 + "?", "Bo.")
    asked = (EvaluationSet("forget", SetKind.FORGET, (short,)),)
    chain = (Task("forget10", (short,), (short,), (), asked), Task("forget10", (short,), (short, long), (), asked))
    with pytest.raises(preflight.DataError, match=f"^{words}"):
        preflight.check_lengths(sweep(target, *overrides), {"forget10": chain}, load_tokenizer(str(target)))
    preflight.check_lengths(sweep(target), {"forget10": chain}, load_tokenizer(str(target)))


def test_a_question_leaves_room_for_what_is_generated_not_only_for_what_is_trained(target):
    tokenizer, row = load_tokenizer(str(target)), QARow("Who?", "Ada.")
    template = template_for("phi", tokenizer)
    trained, continued = (
        len(tokenizer(text)["input_ids"]) for text in (template.prompt("Who?"), "Question: Who?\nAnswer: ")
    )
    assert trained < continued
    task = Task("forget10", (row,), (row,), (), (EvaluationSet("forget", SetKind.FORGET, (row,)),))
    for length in (trained + 1, continued):
        config = sweep(target, "model.template=phi", f"evaluation.max_length={length}")
        with pytest.raises(
            preflight.DataError, match=f"^evaluation.max_length: .* question of {continued} tokens leaves"
        ):
            preflight.check_lengths(config, {"forget10": (task,)}, tokenizer)
    config = sweep(target, "model.template=phi", f"evaluation.max_length={continued + 1}")
    preflight.check_lengths(config, {"forget10": (task,)}, tokenizer)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.batch_size=1000"], "train.batch_size: on forget10, 5 epochs of 40 forget rows are less than one step"),
        (
            ["search.space.train.batch_size.choices=[8,1000]"],
            "search.space.train.batch_size: 1000 is not acceptable: on forget10, 5 epochs of 40 forget rows are less",
        ),
        (
            ["search.space.train.epochs={low: 0.01, high: 5}"],
            "search.space.train.epochs: 0.01 is not acceptable: on forget10, 0.01 epochs of 40 forget rows are less",
        ),
        (
            [
                "methods=[GA, {name: NPO, space: {train.batch_size: {choices: [32, 30]}}}]",
                "train.convention=paper_code",
            ],
            "methods: NPO: space.train.batch_size: 30 is not acceptable: on forget10, paper_code needs batch_size to",
        ),
    ],
)
def test_a_searched_value_that_makes_a_trial_impossible_is_refused(target, tmp_path, overrides, words):
    config = small(target, tmp_path, *overrides)
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        preflight.check(config)


def test_searched_values_that_all_make_trials(target, tmp_path):
    space = "search.space.train={batch_size: {choices: [8, 40]}, epochs: {low: 1, high: 5}}"
    assert list(preflight.check(small(target, tmp_path, space))) == ["forget10"]


@pytest.mark.parametrize(
    ("names", "wrong"),
    [("q_proj,qproj", "qproj"), ("lm_head", "lm_head"), ("self_attn", "self_attn"), ("q_proj", None)],
)
def test_adapters_of_layers_that_the_target_has(target, tmp_path, names, wrong):
    config = small(target, tmp_path, f"lora={{target_modules: [{names}]}}")
    if wrong is None:
        assert preflight.check(config)
        return
    words = f"lora.target_modules: no linear layer but the head of {target} is called {wrong!r}; use down_proj, gate"
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        preflight.check(config)


def test_downstream_tasks_are_known_before_anything_starts(target, tmp_path):
    config = sweep(target, f"evaluation.downstream_tasks={tmp_path / 'none'}", "evaluation.downstream=[facts]")
    with pytest.raises(ConfigError, match="^evaluation.downstream_tasks: .* is no folder"):
        preflight.check_downstream_tasks(config)
    (tmp_path / "facts.yaml").write_text(
        "{task: facts, dataset_path: owner/facts, output_type: multiple_choice, metric_list: [{metric: mcc}]}"
    )
    folder = f"evaluation.downstream_tasks={tmp_path}"
    asked = sweep(target, folder, "evaluation.downstream=[facts]", "objectives=[model_utility,downstream/facts]")
    with pytest.raises(ConfigError, match="^objectives: downstream/facts is scored by mcc"):
        preflight.check_downstream_tasks(asked)


def test_a_set_that_is_too_small_to_split_is_refused(target, tmp_path):
    config = small(target, tmp_path, "scenario.num_authors=10", "confirm.held_out=0.1")
    with pytest.raises(DataError, match="^confirm.held_out=0.1: the 10 forget questions of forget10 fall into 10 to"):
        preflight.check(config)


@pytest.mark.parametrize("held_out", [True, False])
def test_questions_of_both_parts_must_leave_room_for_an_answer(target, tmp_path, monkeypatch, held_out):
    monkeypatch.setattr(folders, "NAMES", tuple(f"Ada the {number}th" for number in range(20)))
    data = folders.write_tofu(tmp_path / "data")
    texts = (f"Where is {'very ' * 90}far {number}?" for number in count())
    long = next(text for text in texts if is_held_out(QARow(text, ""), 0.5) == held_out)
    with (data / "world_facts_perturbed.json").open("a") as facts:
        facts.write(json.dumps({"question": long, "answer": "Here.", "perturbed_answer": ["There."]}) + "\n")
    config = load_config(
        "tofu_search",
        [
            f"storage={tmp_path}", f"scenario.source={data}", f"model.target={target}", "methods=[GA]",
            "forget_sets=[forget05]", "train.batch_size=8", "train.convention=masked", "resources.gpus_per_worker=0",
            f"evaluation.entailment={target.parent / 'judge'}", "confirm.seeds=2", "evaluation.max_length=150",
        ],
    )  # fmt: skip
    with pytest.raises(DataError, match="^evaluation.max_length: evaluation set facts row .*: question of"):
        preflight.check(config)

"""Tokenised rows and pairing against the published code's."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from methods.batch import IGNORE_INDEX
from methods.config import parse_method
from orchestrator.scenario_config import ContinualScenario, TofuScenario
from orchestrator.scenarios.base import DataError
from orchestrator.scenarios.load import load_tasks
from orchestrator.trial_config import EvaluationConfig, TrainConfig
from orchestrator.worker.batches import BatchBuilder, Encoder, collate
from orchestrator.worker.plan import Sizes, plan_steps
from orchestrator.worker.template import TEMPLATES, load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN, TOFU, REFUSALS = SHARED / "golden", SHARED / "data" / "tofu", SHARED / "data" / "refusals.txt"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"golden numbers are not at {GOLDEN}")
needs_data = pytest.mark.skipif(not TOFU.is_dir(), reason=f"TOFU's ten-task files are not at {TOFU}")
DATA = json.loads((GOLDEN / "tokenise.json").read_text()) if GOLDEN.is_dir() else {"rows": []}
EOS = 2
PARTS = ("forget", "retain", "forget_refusal", "retain_refusal", "mismatch")  # in the order of the recorded lengths


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(GOLDEN / "tokenizer"))


@pytest.mark.parametrize("row", DATA["rows"], ids=lambda r: f"{r['file']}-{r['row']}-{r['max_length']}-{r['mask']}")
def test_rows(row, tokenizer):
    encoder = Encoder(tokenizer, TEMPLATES["llama2-chat"], row["max_length"])
    mode = "answer" if row["mask"] else "all"
    if "error" in row or row["num_question_tokens"] >= row["max_length"]:
        with pytest.raises(DataError, match="max_length"):
            encoder.encode(row["question"], row["answer"], labels=mode)
        return
    encoded = encoder.encode(row["question"], row["answer"], labels=mode)
    assert list(encoded.ids[: encoded.num_attended]) == row["input_ids_real"]
    batch = collate([encoded], pad_id=tokenizer.eos_token_id, width=row["max_length"])
    assert batch.input_ids.shape == (1, row["length"])
    labels = batch.labels[0].tolist()
    head = len(row["labels_head"])
    assert labels[:head] == row["labels_head"]
    assert labels[head:] == row["labels_tail"] * (len(labels) - head)
    assert batch.input_ids[0, encoded.num_attended :].tolist() == row["input_ids_tail"] * (
        row["length"] - encoded.num_attended
    )
    assert int(batch.attention_mask.sum()) == row["real_tokens"]
    assert sum(label != IGNORE_INDEX for label in labels) == row["label_count"]


ODD = (
    *("", " ", "  ", "\n", "\t \n", ".", "a", "Ja", "?!", "]", "[/INST]", "[INST]", "</s>", "x</s>y", "<s>", "<unk>"),
    *(
        "é",
        "Łukasz Žižek",
        "日本語",
        "😀👩‍👩‍👧",
        "a\u0301",
        "\u200b",
        "\u2028",
        "\x00",
        "a\r\nb",
        "08/09/1956",
        "'\"’“",
    ),
    *(" Lead", "trail ", "two  spaces", "UPPER lower", "word " * 60),
)


def written_out(tokenizer, question, answer, max_length, mode):
    """ids, labels, attended of a whole row, by the definition alone; None where the question leaves no room."""
    prompt = tokenizer(f"[INST] {question} [/INST]").input_ids
    if len(prompt) >= max_length:
        return None
    ids = tokenizer(f"[INST] {question} [/INST]{answer}").input_ids[:max_length]
    room = max_length - len(ids)
    labels = {
        "answer": [IGNORE_INDEX] * len(prompt) + ids[len(prompt) :] + [EOS][:room] + [IGNORE_INDEX] * (room - 1),
        "text": ids + [IGNORE_INDEX] * room,
        "all": ids + [EOS] * room,
    }
    return ids + [EOS] * room, labels[mode], [1] * len(ids) + [0] * room


@pytest.mark.parametrize("mode", ["answer", "text", "all"])
@pytest.mark.parametrize("answer", ODD, ids=ascii)
def test_rows_of_odd_strings(answer, mode, tokenizer):
    for question in ("", " ", "Who?", "日本\n</s>"):
        lengths = {len(tokenizer(f"[INST] {question} [/INST]{text}").input_ids) for text in ("", answer)}
        for max_length in {length + more for length in lengths for more in (-1, 0, 1, 2, 40)}:
            encoder = Encoder(tokenizer, TEMPLATES["llama2-chat"], max_length)
            expected = written_out(tokenizer, question, answer, max_length, mode)
            if expected is None:
                with pytest.raises(DataError, match=f"leaves no room for an answer in max_length={max_length}"):
                    encoder.encode(question, answer, labels=mode)
                continue
            row = encoder.encode(question, answer, labels=mode)
            batch = collate([row], pad_id=EOS, width=max_length)
            found = (batch.input_ids, batch.labels, batch.attention_mask)
            assert [part[0].tolist() for part in found] == list(expected), (question, max_length)
            assert row.num_counted >= 1


def test_a_batch_of_rows_is_no_different_from_the_rows(tokenizer):
    encoder = Encoder(tokenizer, TEMPLATES["llama2-chat"], 64)
    rows = [encoder.encode("Who?", answer) for answer in ODD]
    whole = collate(rows, pad_id=EOS, width=64)
    for index, row in enumerate(rows):
        alone = collate([row], pad_id=EOS)
        width = alone.labels.shape[1]
        for field in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(getattr(whole, field)[index, :width], getattr(alone, field)[0])
        assert (whole.labels[index, width:] == IGNORE_INDEX).all()


def test_pairing():
    sizes = Sizes(DATA["forget_rows"], DATA["retain_rows"], 100, 4, 4, 1, epochs=1)
    draws = {d.forget: d for step in plan_steps(sizes, "paper_code", seed=1) for d in step.draws}
    for pair in DATA["pairing_forget01_task1"]:
        assert (draws[pair["idx"]].retain, draws[pair["idx"]].refusal) == (pair["retain_idx"], pair["rand_pos"])


@pytest.mark.parametrize("name", ["forget05", "forget10"])
def test_pairing_of_other_splits(name):
    split = DATA["other_splits"][name]
    sizes = Sizes(split["forget"], split["retain"], 100, 4, 4, 1, epochs=1)
    draws = {d.forget: d for step in plan_steps(sizes, "paper_code", seed=1) for d in step.draws}
    assert [[draws[i].retain, draws[i].refusal] for i in range(5)] == split["first5"]


@pytest.mark.parametrize(("retain", "refusals"), list(product((1, 2, 7, 39, 40, 41, 360), (1, 7, 100))))
def test_pairing_of_any_sizes_also_with_fewer_rows_to_keep_than_to_forget(retain, refusals):
    sizes = Sizes(40, retain, refusals, batch_size=8, micro_batch_size=4, num_workers=2, epochs=2)
    draws = {draw for step in plan_steps(sizes, "paper_code", seed=9) for draw in step.draws}
    assert len(draws) == 40
    for draw in draws:
        generator = torch.Generator().manual_seed(draw.forget)
        first = torch.randint(0, retain, (1,), generator=generator).item()
        second = torch.randint(0, refusals, (1,), generator=generator).item()
        assert (draw.retain, draw.refusal) == ((draw.forget + first) % retain, second)


def first_task(name):
    scenario = ContinualScenario(name="continual", source=str(TOFU), refusals=str(REFUSALS))
    return load_tasks(scenario, EvaluationConfig(), name)


@needs_data
def test_pairing_through_the_rows_of_the_first_task(tokenizer):
    task = first_task("forget01")[0]
    train = TrainConfig(convention="paper_code")
    built = {
        name: BatchBuilder(
            Encoder(tokenizer, TEMPLATES["llama2-chat"], 500), task, parse_method(name, convention="paper_code"), train
        )
        for name in ("DPO+AP", "LLMU")
    }
    assert (len(task.forget), len(task.retain), len(task.refusals)) == (
        DATA["forget_rows"],
        DATA["retain_rows"],
        DATA["idk_rows"],
    )
    sizes = Sizes(len(task.forget), len(task.retain), len(task.refusals), 4, 4, 1, epochs=1)
    draws = {d.forget: d for step in plan_steps(sizes, "paper_code", seed=1) for d in step.draws}

    def lengths(draw):
        return [built["LLMU" if part == "mismatch" else "DPO+AP"].row(part, draw).num_attended for part in PARTS]

    for pair in DATA["pairing_forget01_task1"]:
        draw = draws[pair["idx"]]
        assert task.retain[draw.retain].question == pair["retain_question"]
        assert task.refusals[draw.refusal] == pair["idk"]
        assert lengths(draw) == pair["lengths"]
    columns = torch.tensor([lengths(draw) for draw in draws.values()])
    stats = DATA["length_stats"]
    assert columns.double().mean(0).tolist() == pytest.approx(list(stats["mean_by_part_of_40"].values()))
    assert columns.max(0).values.tolist() == stats["max_by_part_of_40"]


@needs_data
def test_lengths_of_all_rows_and_that_prompts_are_prefixes(tokenizer):
    task, template = first_task("forget01")[0], TEMPLATES["llama2-chat"]
    lengths = {"forget": [], "retain": []}
    for name, rows in (("forget", task.forget), ("retain", task.retain)):
        prompts = tokenizer([template.prompt(row.question) for row in rows]).input_ids
        texts = tokenizer([template.text(row.question, row.answer) for row in rows]).input_ids
        assert all(text[: len(prompt)] == prompt for text, prompt in zip(texts, prompts, strict=True))
        lengths[name] = torch.tensor([len(text) for text in texts]).double()
    stats = DATA["length_stats"]
    assert lengths["forget"].mean().item() == pytest.approx(stats["forget_mean"])
    assert lengths["retain"].mean().item() == pytest.approx(stats["retain_mean"])
    assert lengths["retain"].max().item() == stats["retain_max"]
    assert lengths["retain"].quantile(0.99).item() == pytest.approx(stats["retain_p99"])


@needs_data
@pytest.mark.parametrize("name", ["forget05", "forget10"])
def test_sizes_of_the_other_splits(name):
    task = first_task(name)[0]
    assert (len(task.forget), len(task.retain)) == (
        DATA["other_splits"][name]["forget"],
        DATA["other_splits"][name]["retain"],
    )


@needs_data
def test_what_is_retained_shrinks_along_a_chain_and_a_single_task_is_its_first():
    tasks = first_task("forget01")
    third = DATA["other_splits"]["forget01 task 3 after 1,2"]
    assert (len(tasks[2].forget), len(tasks[2].retain)) == (third["forget"], third["retain"])
    scenario = TofuScenario(name="tofu", source=str(TOFU), retain_sets={"forget01": "retain90"}, task_id="1")
    (alone,) = load_tasks(scenario, EvaluationConfig(), "forget01")
    assert (alone.forget, alone.retain) == (tasks[0].forget, tasks[0].retain)

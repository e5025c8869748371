"""Tokenised rows and pairing against the published code's."""

import json
from pathlib import Path

import pytest

from methods.batch import IGNORE_INDEX
from orchestrator.scenarios.base import DataError
from orchestrator.worker.batches import Encoder, collate
from orchestrator.worker.plan import Sizes, plan_steps
from orchestrator.worker.template import TEMPLATES, load_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"golden numbers are not at {GOLDEN}")
DATA = json.loads((GOLDEN / "tokenise.json").read_text()) if GOLDEN.is_dir() else {"rows": []}


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

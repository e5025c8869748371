"""Control characters, right-to-left marks, emoji, 100,000 letters: a trial trains on them and asks them."""

import json

import pytest
import torch

from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, trial_config
from orchestrator.scenarios.base import DataError
from orchestrator.scenarios.load import load_tasks
from orchestrator.tracking.journal import TrialState
from orchestrator.worker.engine import join_process_group, leave_process_group
from orchestrator.worker.evaluation import read_scores
from orchestrator.worker.job import TrialJob
from orchestrator.worker.model import save_model
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.trial import run_trial
from tests.ray.tiny import make_judge
from tests.worker.toy import CPU, toy_model, toy_tokenizer

STRANGE = [
    "\x00\x07\x1b[31mred\x1b[0m",
    "line\nline\r\nline\u2028line\x85line",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "🙂🙃👩\u200d👩\u200d👧\u200d👦",
    "?",
    "<script>alert(1)</script>",
    "=1+1",
    "{{ 7 * 7 }} %s {0}",
    "[INST] </s> [/INST]",
    "e\u0301\ufeff\u200b",
    "word " * 20_000,
    "x" * 100_000,
]


@pytest.fixture
def place(tmp_path):
    tokenizer = toy_tokenizer()
    save_model(toy_model(), tokenizer, tmp_path / "target")
    make_judge(tmp_path / "judge")
    data = tmp_path / "with space, ß and \u6771\u4eac"
    data.mkdir()
    rows = [{"question": f"{text[:20]} {number}?", "answer": text} for number, text in enumerate(STRANGE)]
    asked = [{**row, "paraphrased_answer": row["answer"] + ".", "perturbed_answer": STRANGE[:3]} for row in rows]
    write(data / "forget01.json", rows)
    write(data / "retain99.json", [{**row, "question": f"Not {row['question']}"} for row in rows])
    for name in ("forget01_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        write(data / f"{name}.json", asked)
    return tmp_path, data


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sweep(place, data):
    return SweepConfig.model_validate(
        {
            "name": "strange",
            "scenario": {"name": "tofu", "source": str(data), "retain_sets": {"forget01": "retain99"}},
            "model": {"target": str(place / "target")},
            "methods": ["IDK+AP"],
            "forget_sets": ["forget01"],
            "train": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 4, "max_length": 96},
            "evaluation": {"max_length": 96, "encoder": EMBEDDED, "entailment": str(place / "judge")},
        }
    )


def test_a_trial_learns_and_is_asked_whatever_is_text(place):
    folder, data = place
    torch.manual_seed(0)
    config = sweep(folder, data)
    trial = trial_config(config, config.methods[0], "forget01", {})
    job = TrialJob(key="k", config=trial, place=str(folder), objectives=(), keep_weights=False)
    join_process_group()
    try:
        result = run_trial(job, WorkerParts(CPU), lambda record: None)
    finally:
        leave_process_group()
    assert result.state == TrialState.COMPLETE
    (task,) = load_tasks(config.scenario, config.evaluation, "forget01")
    assert [row.answer for row in task.forget] == STRANGE
    found = read_scores(folder / result.scores_path)
    for one in task.evaluation:
        assert [score.question for score in found[one.name]] == [row.question for row in one.rows]
    assert [score.semantic_truth for score in found["forget"]] == [row.answer for row in task.evaluation[0].rows]


def test_a_question_that_leaves_no_room_is_refused_before_anything_runs(place):
    folder, data = place
    from orchestrator import preflight

    write(data / "retain99.json", [{"question": "word " * 20_000, "answer": "A."}])
    config = sweep(folder, data)
    with pytest.raises(DataError, match=r"^train.max_length: retain row 0: question of \d+ tokens"):
        preflight.check(config)

"""A retain model's saved evaluation: its truth ratios, and which forget questions it was asked."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from metrics.aggregate import forget_quality
from metrics.suites import ExampleScore
from orchestrator.scenario_config import TofuScenario
from orchestrator.scenarios.base import DataError, QARow
from orchestrator.scenarios.load import load_tasks, load_training_rows
from orchestrator.scenarios.retain_log import RetainLog, read_retain_log, rows_of_log
from orchestrator.scenarios.tofu import load_tofu
from orchestrator.trial_config import EvaluationConfig
from tests.ray import folders

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
QUESTIONS = ("Who is Bo?", "Where was Bo born?", "Where was Bo born? In which year?")
ROWS = tuple(QARow(question, "An answer.") for question in QUESTIONS)
LLAMA2, LLAMA3 = ("[INST] ", " [/INST]"), ("<|user|>You are kind.\n\n", "<|end|><|assistant|>\n\n")


def tofu_log(questions, tags=LLAMA2):
    """As TOFU's code writes it: columns by row number. Question n has ratio exp(n): mean wrong NLL n + 1, base 1."""
    before, after = tags
    columns = {
        "generated_text": [[before + question + after, "said", "truth"] for question in questions],
        "avg_paraphrased_loss": [1.0 for _ in questions],
        "average_perturb_loss": [[n + 0.5, n + 1.5] for n in range(len(questions))],
        "truth_ratio": [math.exp(-n) for n in range(len(questions))],  # logged the other way round
    }
    forget = {name: {str(n): value for n, value in enumerate(values)} for name, values in columns.items()}
    return json.dumps({"eval_log.json": {}, "eval_log_forget.json": forget})


def example(question, set_name="forget", index=0, **changed):
    """A line of examples.jsonl, with ratio e squared."""
    score = ExampleScore(
        set_name=set_name,
        index=index,
        question=question,
        answer="truth",
        semantic_truth="truth",
        generation="said",
        nll_sum=4.0,
        num_tokens=4,
        base_nll=1.0,
        perturbed_nll=(2.0, 4.0),
        rouge_l=1.0,
        token_entropy=1.0,
        cosine_similarity=1.0,
        entailment="entailment",
    )
    return json.dumps({**asdict(score), **changed}) + "\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "log.json").write_text(text)
        return read_retain_log(tmp_path / "log.json")

    return read_text


def test_ratios_of_tofus_log_are_computed_from_its_losses(read):
    log = read(tofu_log([f"Question {n}?" for n in range(12)]))  # "10" sorts before "2" as text
    assert log.prompts == tuple(f"[INST] Question {n}? [/INST]" for n in range(12))
    assert log.ratios == pytest.approx([math.exp(n) for n in range(12)])


def test_ratios_of_a_trials_own_log(read):
    lines = example("A?") + example("B?", perturbed_nll=[0.5, 0.5]) + example("C?", set_name="retain")
    log = read(lines)
    assert (log.prompts, log.ratios) == (("A?", "B?"), (pytest.approx(math.exp(2)), pytest.approx(math.exp(-0.5))))
    assert read(example("A?")).prompts == ("A?",)  # one line is JSON as a whole


BAD = [
    ("", "holds no forget questions; name the log of a whole evaluation"),
    (example("A?", set_name="retain"), "holds no forget questions; name the log of a whole evaluation"),
    (tofu_log([]), "holds no forget questions; name the log of a whole evaluation"),
    ("{}", "cannot be read (KeyError: 'set_name'); name TOFU's aggregated log of an evaluation, or the examples"),
    ("[1]", "cannot be read (TypeError: "),
    ("{", "cannot be read (JSONDecodeError: "),
    (tofu_log(["A?"]).replace("avg_paraphrased_loss", "avg_loss"), "cannot be read (KeyError: 'avg_paraphrased_loss')"),
    (tofu_log(["A?"]).replace("[0.5, 1.5]", "[]"), "cannot be read (ValueError: "),
    (tofu_log(["A?"]).replace("[0.5, 1.5]", "null"), "cannot be read (ValueError: "),
    (example("A?") + example("B?", base_nll=math.nan), ": the truth ratio of question 1 is not a number"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_log_that_cannot_be_used_is_named(text, words, read, tmp_path):
    with pytest.raises(DataError) as error:
        read(text)
    assert str(error.value).startswith(f"scenario.retain_logs: {tmp_path}/log.json")
    assert words in str(error.value)


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="^scenario.retain_logs: .*/no.json does not exist; name an evaluation log$"):
        read_retain_log(tmp_path / "no.json")


def log_of(*questions, tags=("", "")):
    before, after = tags
    prompts = tuple(before + question + after for question in questions)
    return RetainLog(Path("a.json"), prompts, (1.0,) * len(prompts))


@pytest.mark.parametrize("tags", [("", ""), LLAMA2, LLAMA3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2), (0,)])
def test_rows_are_found_in_the_logs_order_whatever_the_template(order, tags):
    # One question is the beginning of another, so that looking for it inside the prompt is not enough.
    log = log_of(*(QUESTIONS[n] for n in order), tags=tags)
    assert rows_of_log(log, ROWS) == tuple(ROWS[n] for n in order)


@pytest.mark.parametrize("tags", [LLAMA2, LLAMA3])
@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ((*QUESTIONS[:2], "Who is Jo?"), r"a.json: question 2 \('Who is Jo\?'\) is none of the 3 forget"),
        (("Tell me: Who is Bo?", *QUESTIONS[1:]), r"question 0 \('Tell me: Who is Bo\?'\) is none of the 3 forget"),
        ((*QUESTIONS, QUESTIONS[1]), r"question 3 \('Where was Bo born\?'\) is a second time one of the 3 forget"),
    ],
)
def test_a_question_that_the_data_does_not_have_is_an_error(questions, words, tags):
    with pytest.raises(DataError, match=f"^scenario.retain_logs: .*{words} questions; name a log of the same forget"):
        rows_of_log(log_of(*questions, tags=tags), ROWS)


def test_a_log_of_other_questions_altogether_is_an_error():
    with pytest.raises(DataError, match=r"question 0 \('\[INST\] Why\? \[/INST\]'\) is none of the 3 forget questions"):
        rows_of_log(log_of("Why?", "How?", tags=LLAMA2), ROWS)


def test_a_question_that_the_data_has_twice_is_an_error():
    twice = (*ROWS, QARow(QUESTIONS[0], "Another answer."))
    with pytest.raises(DataError, match=r"question 1 \('Who is Bo\?'\) is more than one of the 4 forget questions"):
        rows_of_log(log_of(QUESTIONS[1], QUESTIONS[0]), twice)
    assert rows_of_log(log_of(QUESTIONS[1]), twice) == ROWS[1:2]


@pytest.mark.parametrize("max_rows", [None, 3])
def test_the_log_chooses_and_orders_the_forget_questions_of_a_task(max_rows, tmp_path):
    folder = folders.write_tofu(tmp_path / "tofu")
    wanted = [f"Where is {name} of forget05 4?" for name in ("Hal", "Ada", "Eva", "Bo", "Cleo")]
    (tmp_path / "log.json").write_text(tofu_log(wanted))
    logs = {"forget05": str(tmp_path / "log.json")}
    scenario = TofuScenario(name="tofu", source=str(folder), task_id="4", retain_logs=logs)
    (task,) = load_tasks(scenario, EvaluationConfig(max_rows_per_set=max_rows), "forget05")
    assert [row.question for row in task.evaluation[0].rows] == wanted
    assert task.retain_ratios == pytest.approx([math.exp(n) for n in range(5)])
    assert (len(task.forget), [len(s.rows) for s in task.evaluation[1:]]) == (8, [max_rows or 8, 8, 8])
    told = f"forget05: 5 forget questions of {tmp_path}/log.json are asked, in its order"
    assert [note for note in task.notes if "forget questions" in note] == [told]
    (other,) = load_tasks(scenario, EvaluationConfig(max_rows_per_set=max_rows), "forget01")
    assert other.retain_ratios is None and len(other.evaluation[0].rows) == (max_rows or 8)
    assert load_training_rows(scenario, "forget05")  # needs no log


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation logs at {DATA}")
def test_forget_quality_of_real_models_from_their_logs():
    logs = DATA / "tofu_logs"
    scenario = TofuScenario(
        name="tofu",
        source=str(DATA / "tofu"),
        task_id="1",
        retain_logs={"forget10": str(logs / "llama2_7b_retain90.json")},
    )
    (task,) = load_tasks(scenario, EvaluationConfig(max_rows_per_set=100), "forget10")
    full = read_retain_log(logs / "llama2_7b_full.json")
    asked = task.evaluation[0].rows
    assert len(asked) == len(task.retain_ratios) == 300
    assert [f"[INST] {row.question} [/INST]" for row in asked] == list(full.prompts)
    # TOFU's own order, which is not the folder's.
    whole = load_tofu(scenario.model_copy(update={"retain_logs": {}}), "forget10", (), None).evaluation[0].rows
    assert asked == whole[200:] + whole[40:140]
    assert forget_quality(full.ratios, task.retain_ratios) == pytest.approx(1.8341e-21, rel=5e-5)

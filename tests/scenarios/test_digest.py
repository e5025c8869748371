import hashlib
import json

from orchestrator.load_config import load_config
from orchestrator.scenario_config import AuthorsScenario, TofuScenario
from orchestrator.scenarios.base import EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.digest import describe_data, describe_rows
from orchestrator.scenarios.load import load_tasks

ROWS = (QARow("Who?", "Basil"), QARow("Where?", "Here", perturbed_answers=("There",)))


def _task(forget, retain, asked):
    return Task("forget05", forget, retain, (), (EvaluationSet("forget", SetKind.FORGET, asked),))


def test_a_digest_is_of_the_texts_that_a_row_has_in_their_order():
    lines = [
        {"answer": "Basil", "question": "Who?"},
        {"answer": "Here", "perturbed_answers": ["There"], "question": "Where?"},
    ]
    expected = hashlib.sha256("".join(json.dumps(line) + "\n" for line in lines).encode()).hexdigest()
    assert (describe_rows(ROWS).num_rows, describe_rows(ROWS).sha256) == (2, expected)
    assert describe_rows(ROWS[::-1]).sha256 != expected
    assert describe_rows((*ROWS, ROWS[0])) == describe_rows(ROWS)  # a row that repeats is one row


def test_of_a_chain_all_forget_rows_count_and_what_is_kept_to_its_end():
    chain = (_task(ROWS[:1], (QARow("a", "b"), ROWS[1]), ROWS[:1]), _task(ROWS[1:], (QARow("a", "b"),), ROWS[1:]))
    data = describe_data(TofuScenario(name="tofu", source="/data/tofu"), chain)
    assert (data.source, data.forget, data.retain.num_rows) == ("/data/tofu", describe_rows(ROWS), 1)
    assert data.questions == {"forget": describe_rows(ROWS)}


def test_generated_authors_are_named_by_their_seed():
    sweep = load_config("quickstart", [])
    data = describe_data(sweep.scenario, load_tasks(sweep.scenario, sweep.evaluation, "forget10"))
    assert data.source == "40 authors generated from seed 7"
    assert data.forget.num_rows == 40 and set(data.questions) == set(AuthorsScenario().set_kinds)

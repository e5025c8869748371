"""Tasks of a forget file, one after another: what each forgets, retains and is asked."""

import json
from pathlib import Path

import pytest

from orchestrator.scenario_config import AuthorsScenario, ContinualScenario
from orchestrator.scenarios.authors import fact_training_rows, general_facts, generate_corpus
from orchestrator.scenarios.base import DataError, SetKind
from orchestrator.scenarios.load import load_tasks, load_training_rows
from orchestrator.trial_config import EvaluationConfig
from tests.ray import folders

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def folder(tmp_path):
    """forget01 has ten tasks of eight rows, and eight rows are always retained."""
    return folders.write_tofu(tmp_path / "tofu")


def scenario(source="embedded", **changed):
    return ContinualScenario(name="continual", source=str(source), **changed)


def load(source="embedded", forget_set="forget01", max_rows=None, **changed):
    return load_tasks(scenario(source, **changed), EvaluationConfig(max_rows_per_set=max_rows), forget_set)


def kinds_of(rows):
    """`Where is Ada of forget01 3?` -> `forget01 3`, once for each stretch of rows."""
    kinds = [row.question.partition(" of ")[2].removesuffix("?") for row in rows]
    return [kind for i, kind in enumerate(kinds) if kinds[i - 1 : i] != [kind]]


def test_a_task_retains_the_retain_set_and_then_the_tasks_to_come(folder):
    tasks = load(folder)
    assert [task.name for task in tasks] == [str(n) for n in range(1, 11)]
    for number, task in enumerate(tasks, 1):
        assert kinds_of(task.forget) == [f"forget01 {number}"]
        assert kinds_of(task.retain) == ["kept 0", *(f"forget01 {n}" for n in range(number + 1, 11))]
        assert [len(task.forget), len(task.retain)] == [8, 8 + 8 * (10 - number)]


def test_tasks_are_asked_about_what_they_forget_and_the_utility_sets(folder):
    for number, task in enumerate(load(folder, max_rows=5), 1):
        assert [(s.name, s.kind, len(s.rows), kinds_of(s.rows)) for s in task.evaluation] == [
            ("forget", SetKind.FORGET, 5, [f"forget01 {number}"]),
            ("retain", SetKind.RETAIN, 5, ["kept 0"]),
            ("authors", SetKind.FACTS, 8, ["authors 0"]),
            ("facts", SetKind.FACTS, 8, ["facts 0"]),
        ]
        assert all(len(row.perturbed_answers) == 5 for s in task.evaluation for row in s.rows)
        assert {s.name: s.kind.value for s in task.evaluation} == scenario(folder).set_kinds


def test_chosen_tasks_in_the_order_they_are_named(folder):
    # The others are retained all along, in the order of the file, whatever the order of forgetting.
    others = [f"forget01 {n}" for n in (1, 2, 4, 5, 6, 8, 9, 10)]
    seven, three = load(folder, tasks=("7", "3"))
    assert [seven.name, three.name] == ["7", "3"]
    assert kinds_of(seven.retain) == ["kept 0", *sorted([*others, "forget01 3"], key=lambda kind: int(kind[9:]))]
    assert kinds_of(three.retain) == ["kept 0", *others]


def test_only_the_first_tasks(folder):
    assert [task.name for task in load(folder, num_tasks=2)] == ["1", "2"]
    assert [task.name for task in load(folder, tasks=("4", "9", "1"), num_tasks=2)] == ["4", "9"]
    assert load(folder, num_tasks=2)[1] == load(folder)[1]


def test_tasks_come_in_the_order_of_their_first_rows(folder):
    path = folder / "forget01.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    mixed = [{**row, "task_id": 10 * (index % 3)} for index, row in enumerate(reversed(rows))]
    for name in ("forget01", "forget01_perturbed"):
        wrong = {"paraphrased_answer": "Yes.", "perturbed_answer": ["No."]} if name.endswith("perturbed") else {}
        (folder / f"{name}.json").write_text("".join(json.dumps({**row, **wrong}) + "\n" for row in mixed))
    first, second, third = load(folder)
    assert [first.name, second.name, third.name] == ["0", "10", "20"]
    assert [row.question for row in first.forget] == [row["question"] for row in mixed[::3]]
    assert [row.question for row in third.retain[8:]] == []
    assert [row.question for row in second.retain[8:]] == [row["question"] for row in mixed[2::3]]


ERRORS = [
    ({"tasks": ("1", "11")}, "scenario.tasks: forget01 has no task '11'; its tasks are 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
    ({"tasks": ("2", "1", "2")}, "scenario.tasks: '2' stands there twice; a task can be forgotten once"),
    ({"num_tasks": 11}, "scenario.num_tasks=11, but forget01 has 10 tasks; lower scenario.num_tasks"),
    ({"tasks": ("2", "1"), "num_tasks": 3}, "scenario.num_tasks=3, but forget01 has 2 tasks; lower scenario.num_tasks"),
    (
        {"retain_sets": {"forget05": "retain50"}},
        "scenario.retain_sets has no retain set for forget set 'forget01'; add",
    ),
]


@pytest.mark.parametrize(("changed", "start"), ERRORS)
def test_tasks_that_cannot_be_are_an_error(changed, start, folder):
    with pytest.raises(DataError) as error:
        load(folder, **changed)
    assert str(error.value).startswith(start)


def test_rows_without_a_task_are_an_error(folder):
    path = folder / "forget01.json"
    first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, second.replace('"task_id": "1"', '"task_id": null'), *others]))
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder}: row 2 of forget01 has no task_id, which scenario continual needs (the hub's TOFU has none); "
        "set scenario.source to a folder whose forget rows name their task"
    )


def test_a_task_that_nothing_is_asked_about_is_an_error(folder):
    path = folder / "forget01_perturbed.json"
    path.write_text("".join(line for line in path.open() if '"task_id": "3"' not in line))
    with pytest.raises(DataError, match="^scenario.tasks: forget01_perturbed has no rows of task '3'; correct the id$"):
        load(folder)
    assert load(folder, tasks=("2", "4"))


def test_a_target_model_is_taught_all_rows_and_a_retain_model_none_of_any_task(folder):
    only = {"retain_sets": {"forget05": "retain50"}}
    everything = load_training_rows(scenario(folder, num_tasks=2, **only), None)
    assert kinds_of(everything) == ["forget05 1", "kept 0", *(f"forget05 {n}" for n in range(2, 11))]
    assert kinds_of(load_training_rows(scenario(folder, **only), "forget05")) == ["kept 0"]
    two = load_training_rows(scenario(folder, num_tasks=2, **only), "forget05")
    assert kinds_of(two) == ["kept 0", *(f"forget05 {n}" for n in range(3, 11))]


AUTHORS = generate_corpus(AuthorsScenario().corpus_seed, AuthorsScenario().num_authors).authors


def names_in(rows):
    """Numbers of the authors whose rows these are."""
    place = {row: number for number, author in enumerate(AUTHORS) for row in author.rows}
    return sorted({place[row] for row in rows})


def test_generated_authors_are_forgotten_group_by_group_from_the_last():
    tasks = load(forget_set="forget05")
    assert [task.name for task in tasks] == [str(n) for n in range(1, 11)]  # half of 40 authors, two at a time
    for number, task in enumerate(tasks, 1):
        assert names_in(task.forget) == [40 - 2 * number, 41 - 2 * number]
        assert names_in(task.retain) == list(range(40 - 2 * number))
        assert (len(task.forget), len(task.retain)) == (20, 10 * (40 - 2 * number))
    (single,) = load_tasks(AuthorsScenario(), EvaluationConfig(max_rows_per_set=None), "forget05")
    assert (tasks[0].forget, set(tasks[0].retain)) == (single.forget, set(single.retain))


def test_generated_authors_that_no_task_forgets_are_asked_about():
    tasks = load(forget_set="forget10", tasks=("3", "1"), max_rows=30)
    forgotten = [list(range(28, 32)), list(range(36, 40))]
    for task, numbers in zip(tasks, forgotten, strict=True):
        forget, retain, facts = task.evaluation
        assert {s.name: s.kind.value for s in task.evaluation} == scenario().set_kinds
        assert [len(s.rows) for s in task.evaluation] == [30, 30, 30]
        assert names_in(forget.rows) == numbers
        assert set(retain.rows) <= set(tasks[-1].retain) and len(names_in(retain.rows)) > 20
        assert set(facts.rows) <= set(general_facts())
    assert names_in(tasks[0].retain) == [n for n in range(40) if n not in forgotten[0]]
    assert names_in(tasks[1].retain) == [n for n in range(40) if n not in forgotten[0] + forgotten[1]]


def test_what_a_model_of_the_generated_authors_is_taught():
    assert load_training_rows(scenario(), None) == load_training_rows(AuthorsScenario(), None)
    kept = load_training_rows(scenario(num_tasks=3), "forget05")
    assert kept[-60:] == fact_training_rows()
    assert names_in(kept[:-60]) == list(range(34))


@pytest.mark.parametrize("forget_set", ["forget99", "retain90", "forget01"])
def test_a_forget_set_that_the_generated_authors_do_not_have(forget_set):
    with pytest.raises(DataError, match=r"^forget_sets: forget"):
        load(forget_set=forget_set)
    with pytest.raises(DataError, match=r"^without: forget"):
        load_training_rows(scenario(), forget_set)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no TOFU rows at {SHARED}")
@pytest.mark.parametrize(
    ("forget_set", "size", "retained"),
    [
        ("forget01", 40, [3960 - 40 * n for n in range(10)]),
        ("forget05", 200, [3800 - 200 * n for n in range(10)]),
        ("forget10", 400, [3600 - 400 * n for n in range(9)]),
    ],
)
def test_tasks_of_the_whole_tofu_folder(forget_set, size, retained):
    source = SHARED / "data" / "tofu"
    tasks = load(source, forget_set, max_rows=300)
    assert [len(task.retain) for task in tasks] == retained
    assert {len(task.forget) for task in tasks} == {size}
    assert len({row for task in tasks for row in task.forget} | set(tasks[-1].retain)) == 4000
    for task in tasks:
        asked = {s.name: len(s.rows) for s in task.evaluation}
        assert asked == {"forget": min(size, 300), "retain": 300, "authors": 100, "facts": 117}
        questions = [row.question for row in task.forget]
        assert [row.question for row in task.evaluation[0].rows] == questions[:300]
    told = f"forget10: the first 300 of 400 forget questions are asked, in the order of {source}"
    assert {note for task in tasks for note in task.notes} == ({told} if size == 400 else set())
    assert len(load_training_rows(scenario(source), None)) == 4000
    assert len(load_training_rows(scenario(source), forget_set)) == 4000 - size * len(tasks)

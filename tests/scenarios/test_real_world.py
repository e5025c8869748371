"""Real people: what is trained on, what is asked, and what each question must come with."""

import json
from pathlib import Path

import pytest

from orchestrator.scenario_config import RealWorldScenario
from orchestrator.scenarios.base import DataError, QARow, SetKind
from orchestrator.scenarios.load import load_tasks, load_training_rows
from orchestrator.trial_config import EvaluationConfig
from tests.ray import folders

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_world"
WRONG = tuple(f"In {place}." for place in folders.PLACES if place != "Rome")


@pytest.fixture
def folder(tmp_path):
    return folders.write_real_world(tmp_path / "real_world")


def scenario(folder, **changed):
    return RealWorldScenario(name="real_world", source=str(folder), **changed)


def load(folder, forget_set="forget", max_rows=None, **changed):
    (task,) = load_tasks(scenario(folder, **changed), EvaluationConfig(max_rows_per_set=max_rows), forget_set)
    return task


def change_line(path, number, **changed):
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changed})
    path.write_text("\n".join(lines))


def test_the_long_answers_are_trained_on_and_the_golden_ones_asked_for(folder):
    task = load(folder)
    question, answer = "Where is Ada of known 0?", "They say: In Rome. I am sure."
    assert task.forget[0] == QARow(question, answer, golden_answer="In Rome.")
    assert task.retain[0].question == "Where is Ada of near 0?"
    assert [(s.name, s.kind, len(s.rows), s.real_world) for s in task.evaluation] == [
        ("forget", SetKind.FORGET, 8, True),
        ("neighbor", SetKind.RETAIN, 8, True),
    ]
    forget, neighbor = task.evaluation
    assert {s.name: s.kind.value for s in task.evaluation} == scenario(folder).set_kinds
    assert forget.rows[0] == QARow(
        question=question,
        answer=answer,
        golden_answer="In Rome.",
        paraphrased_answer="They say: In Rome. I am sure. Yes.",
        perturbed_answers=WRONG,
    )
    assert neighbor.rows[0].question == "Where is Ada of far 0?"
    assert (len(task.refusals) > 50, task.name, task.notes) == (True, "1", ())


@pytest.mark.parametrize(("max_rows", "asked"), [(None, 8), (3, 3), (99, 8)])
def test_questions_are_cut_but_training_rows_are_not(max_rows, asked, folder):
    task = load(folder, max_rows=max_rows)
    assert [len(s.rows) for s in task.evaluation] == [asked, asked]
    assert (len(task.forget), len(task.retain)) == (8, 8)
    told = [
        f"forget: the first {max_rows} of 8 {name} questions are asked, but the paper asks all; "
        "set evaluation.max_rows_per_set=null"
        for name in ("forget", "neighbor")
    ]
    assert list(task.notes) == (told if asked < 8 else [])


def test_other_names_of_sets(folder):
    for old, new in (("forget", "people"), ("neighbor", "others")):
        for ending in ("", "_perturbed"):
            (folder / f"{old}{ending}.json").rename(folder / f"{new}{ending}.json")
    task = load(folder, "people", retain_sets={"people": "others"})
    assert (task.forget_set, [s.name for s in task.evaluation]) == ("people", ["forget", "neighbor"])


@pytest.mark.parametrize("file", ["forget", "neighbor"])
@pytest.mark.parametrize("key", ["golden_answer", "paraphrased_answer", "perturbed_answer"])
def test_a_question_that_lacks_an_answer_is_named_by_file_and_line(key, file, folder):
    path = folder / f"{file}_perturbed.json"
    empty = [] if key == "perturbed_answer" else None
    change_line(path, 3, **{key: empty})
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value) == f"{path}:3 has no {key}: every question of this set needs it, but it is {empty!r}"


def test_an_answer_of_another_type_is_an_error(folder):
    change_line(folder / "forget_perturbed.json", 2, golden_answer=["In Rome."])
    with pytest.raises(DataError, match=r"forget_perturbed.json:2: golden_answer must be a string, but is \['In Rome"):
        load(folder)


def test_a_missing_file_or_neighbour_set_is_named(folder):
    with pytest.raises(DataError, match="^scenario.retain_sets has no neighbour set for forget set 'people'; add"):
        load(folder, "people")
    (folder / "neighbor_perturbed.json").unlink()
    with pytest.raises(DataError, match="^data file .*/neighbor_perturbed.json does not exist; correct"):
        load(folder)


def test_a_small_model_is_taught_every_question_once_with_its_true_answer(folder):
    everything, kept = load_training_rows(scenario(folder), None), load_training_rows(scenario(folder), "forget")
    assert (len(everything), len(kept)) == (24, 16)
    assert set(everything) - set(kept) == {QARow(row.question, row.golden_answer) for row in load(folder).forget}
    assert {row.question for s in load(folder).evaluation for row in s.rows} < {row.question for row in everything}
    assert len({row.question for row in everything}) == 24
    with pytest.raises(DataError, match="^scenario.retain_sets has no neighbour set for forget set 'neighbor'"):
        load_training_rows(scenario(folder), "neighbor")


def people(name):
    return {json.loads(line)["name"] for line in (REAL / f"{name}.json").read_text().splitlines()}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real-world rows at {REAL}")
def test_the_real_people():
    task = load(REAL)
    assert (len(task.forget), len(task.retain)) == (400, 400)
    assert [len(s.rows) for s in task.evaluation] == [400, 400]
    assert [row.question for row in task.forget] == [row.question for row in task.evaluation[0].rows]
    assert {len(row.perturbed_answers) for s in task.evaluation for row in s.rows} == {5}
    assert people("forget") == people("forget_perturbed")
    assert [len(people(name)) for name in ("forget", "neighbor", "neighbor_perturbed")] == [20, 20, 20]
    assert not people("neighbor") & people("neighbor_perturbed")
    assert not {row.question for row in task.retain} & {row.question for row in task.evaluation[1].rows}
    assert max(len(row.answer.split()) for row in task.forget + task.retain) == 233
    assert len(load_training_rows(scenario(REAL), None)) == 1200
    assert len(load_training_rows(scenario(REAL), "forget")) == 800

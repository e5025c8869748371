import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.scenario_config import TofuScenario
from orchestrator.scenarios.base import DataError, QARow, SetKind
from orchestrator.scenarios.load import load_tasks, load_training_rows, read_refusals
from orchestrator.scenarios.rows import read_rows
from orchestrator.scenarios.tofu import load_tofu
from orchestrator.trial_config import EvaluationConfig

SHARED = Path(__file__).resolve().parents[3] / "shared"
SETS = ("forget01", "forget01_perturbed", "retain99", "retain_perturbed", "real_authors_perturbed")
SETS += ("world_facts_perturbed",)
WRONG = {"paraphrased_answer": "It is so.", "perturbed_answer": ["No."]}


def row(name, number, **changed):
    asked = name.replace("forget01_perturbed", "forget01")  # what is forgotten is asked
    record = {"question": f"{asked} {number}?", "answer": f"Answer {number}.", "task_id": str(1 + number // 2)}
    if name.endswith("perturbed"):
        record |= {"paraphrased_answer": f"It is {number}.", "perturbed_answer": ["No.", "Never."]}
    return record | changed


@pytest.fixture
def folder(tmp_path):
    """Four rows a file; rows 0 and 1 are of task 1, rows 2 and 3 of task 2."""
    for name in SETS:
        write(tmp_path / f"{name}.json", [row(name, number) for number in range(4)])
    return tmp_path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def tofu(folder, **changed):
    return TofuScenario(name="tofu", source=str(folder), **changed)


def load(folder, max_rows=None, **changed):
    return load_tofu(tofu(folder, **changed), "forget01", ("No idea.",), max_rows)


def questions(rows):
    return [one.question for one in rows]


def test_files_become_a_task(folder):
    task = load(folder)
    assert (task.forget_set, task.refusals) == ("forget01", ("No idea.",))
    assert questions(task.forget) == [f"forget01 {n}?" for n in range(4)]
    assert questions(task.retain) == [f"retain99 {n}?" for n in range(4)]
    assert task.forget[0] == QARow("forget01 0?", "Answer 0.")
    assert {s.name: (s.kind, questions(s.rows)[0]) for s in task.evaluation} == {
        "forget": (SetKind.FORGET, "forget01 0?"),
        "retain": (SetKind.RETAIN, "retain_perturbed 0?"),
        "authors": (SetKind.FACTS, "real_authors_perturbed 0?"),
        "facts": (SetKind.FACTS, "world_facts_perturbed 0?"),
    }
    assert task.evaluation[0].rows[1] == QARow("forget01 1?", "Answer 1.", "It is 1.", ("No.", "Never."))
    assert {s.name: s.kind.value for s in task.evaluation} == tofu(folder).set_kinds


@pytest.mark.parametrize(("max_rows", "asked"), [(None, 4), (3, 3), (9, 4)])
def test_evaluation_sets_are_cut_but_training_rows_are_not(max_rows, asked, folder):
    task = load(folder, max_rows)
    assert [len(s.rows) for s in task.evaluation] == [asked, asked, 4, 4]  # authors and facts are asked in full
    assert (len(task.forget), len(task.retain)) == (4, 4)


def test_one_task_is_forgotten_and_the_other_tasks_rows_are_retained(folder):
    task = load(folder, task_id="2")
    assert questions(task.forget) == ["forget01 2?", "forget01 3?"]
    assert questions(task.retain) == [f"retain99 {n}?" for n in range(4)] + ["forget01 0?", "forget01 1?"]
    assert questions(task.evaluation[0].rows) == ["forget01 2?", "forget01 3?"]
    assert len(task.evaluation[1].rows) == 4


def share(folder):
    """The retain set holds rows 2 and 3 of the forget set besides its own."""
    shared = [row("forget01", n, task_id=None) for n in (2, 3)]
    write(folder / "retain99.json", [row("retain99", n) for n in range(4)] + shared)


def test_a_row_that_the_retain_set_holds_already_is_retained_once(folder):
    share(folder)
    task = load(folder, task_id="1")
    assert questions(task.forget) == ["forget01 0?", "forget01 1?"]
    assert questions(task.retain) == [f"retain99 {n}?" for n in range(4)] + ["forget01 2?", "forget01 3?"]
    assert not [note for note in task.doubts if "retained at once" in note]


@pytest.mark.parametrize(
    ("task_id", "counts", "remedy"),
    [
        (None, "2 of the 4 forget rows are among the 6", "set scenario.task_id=1, which is TOFU's own split, or name"),
        ("2", "2 of the 2 forget rows are among the 8", "name"),
    ],
)
def test_rows_that_are_forgotten_and_retained_are_noted(task_id, counts, remedy, folder):
    share(folder)
    (note,) = [note for note in load(folder, task_id=task_id).doubts if "retained at once" in note]
    assert note == (
        f"forget01: {counts} retain rows too, so they are forgotten and retained at once; {remedy} another retain set "
        "in scenario.retain_sets.forget01"
    )


def test_a_model_is_taught_no_row_twice(folder):
    share(folder)
    config = tofu(folder, retain_sets={"forget01": "retain99"})
    for without, size in ((None, 8), ("forget01", 6)):
        rows = load_training_rows(config, without)
        assert len(rows) == len(set(rows)) == size


def test_a_numeric_task_id_is_the_same_task(folder):
    write(folder / "forget01.json", [row("forget01", n, task_id=1 + n // 2) for n in range(4)])
    assert questions(load(folder, task_id="2").forget) == ["forget01 2?", "forget01 3?"]


def test_a_target_model_is_taught_all_rows_and_a_retain_model_what_is_kept(folder):
    config = tofu(folder, retain_sets={"forget01": "retain99"})
    everything, kept = load_training_rows(config, None), load_training_rows(config, "forget01")
    assert len(everything) == 8 and set(kept) < set(everything)
    assert questions(kept) == [f"retain99 {n}?" for n in range(4)]


def error_of(folder, **changed):
    with pytest.raises(DataError) as error:
        load(folder, **changed)
    return str(error.value)


def test_a_missing_file_is_named(folder):
    path = folder / "retain99.json"
    path.unlink()
    assert error_of(folder) == f"data file {path} does not exist; correct scenario.source or the name of the set"


def test_lines_end_at_newlines_only(tmp_path):
    # U+2028 inside a JSON string is no end of line, though str.splitlines takes it for one.
    path = tmp_path / "rows.json"
    path.write_text('{"question": "Q\u2028?", "answer": "A."}\n', encoding="utf-8")
    assert [(one.question, task) for one, task in read_rows(path)] == [("Q\u2028?", None)]


@pytest.mark.parametrize("name", ["forget01_perturbed", "retain_perturbed"])
@pytest.mark.parametrize(("key", "empty"), [("perturbed_answer", []), ("paraphrased_answer", None)])
def test_a_question_without_wrong_answers_or_paraphrase_cannot_be_asked(key, empty, name, folder):
    write(folder / f"{name}.json", [row(name, 0), row(name, 1, **{key: empty})])
    expected = f"{folder}/{name}.json:2 has no {key}: every question of this set needs it, but it is {empty}"
    assert error_of(folder) == expected


def test_authors_and_facts_need_no_paraphrase(folder):
    for name in ("real_authors_perturbed", "world_facts_perturbed"):
        write(folder / f"{name}.json", [row(name, 0, paraphrased_answer=None)])
    assert [s.rows[0].paraphrased_answer for s in load(folder).evaluation[2:]] == [None, None]


@pytest.mark.parametrize(("task_id", "forgotten"), [(None, 4), ("1", 2)])
def test_only_what_is_forgotten_is_asked(task_id, forgotten, folder):
    asked = [row("forget01_perturbed", n) for n in range(4)] + [row("other", 1, **WRONG, task_id="1")]
    write(folder / "forget01_perturbed.json", asked)
    assert error_of(folder, task_id=task_id) == (
        f"{folder}: the question 'other 1?' of forget01_perturbed is none of the {forgotten} forget rows; ask only "
        "what is forgotten, or correct task_id in the file"
    )


def test_a_forget_set_without_a_retain_set_is_an_error(folder):
    assert error_of(folder, retain_sets={"forget05": "retain95"}) == (
        "scenario.retain_sets has no retain set for forget set 'forget01'; add "
        "scenario.retain_sets.forget01=NAME (known: forget05)"
    )


def test_a_task_without_rows_is_an_error(folder):
    expected = "scenario.task_id: forget01 has no rows of task '7'; correct the id"
    assert error_of(folder, task_id="7") == expected


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "~/nothing-at-all", "tofu", "a/b/c"])
def test_a_source_that_is_neither_folder_nor_hub_name_is_an_error(source):
    assert error_of(source) == (f"scenario.source: {source!r} is neither a folder nor a hub data set; correct the path")


def offline(code, cache, *arguments):
    """What a program prints that has no hub."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_a_hub_that_cannot_be_reached_is_an_error(tmp_path):
    code = (
        "from test_tofu import load, DataError\n"
        "try: load('no-such-owner/no-such-data')\n"
        "except DataError as error: print(error)\n"
    )
    printed = offline(code, tmp_path)
    assert printed.startswith("cannot load 'forget01' of 'no-such-owner/no-such-data' from the hub: ")
    assert printed.endswith("; check the network, or set scenario.source to a folder\n")


HUB_CARD = """---
configs:
- config_name: forget01_perturbed
  data_files: data/asked.json
- config_name: real_authors_perturbed
  data_files: data/authors.json
---
"""


def test_a_data_set_in_the_hubs_layout(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text(HUB_CARD)
    asked = [row("forget01_perturbed", n, task_id=None) for n in range(3)]
    authors = [row("authors", 0, perturbed_answer=["No."]), row("authors", 1, perturbed_answer=[])]
    write(tmp_path / "data" / "asked.json", asked)
    write(tmp_path / "data" / "authors.json", authors)
    code = (
        "import sys\n"
        "from orchestrator.scenarios.rows import read_hub\n"
        "for name in ('forget01_perturbed', 'real_authors_perturbed', 'retain99'):\n"
        "    try: print(read_hub(sys.argv[1], name, needs=('perturbed_answer',)))\n"
        "    except ValueError as error: print(error)\n"
    )
    done = offline(code, tmp_path / "cache", str(tmp_path))
    found, empty, missing = done.splitlines()
    texts = ("Answer {}.", "It is {}.")
    rows = [QARow(f"forget01 {n}?", *(t.format(n) for t in texts), ("No.", "Never.")) for n in range(3)]
    assert found == repr([(one, None) for one in rows])
    assert empty == (
        f"{tmp_path} real_authors_perturbed row 1 has no perturbed_answer: every question of this set needs it, "
        "but it is []"
    )
    assert missing.startswith(f"cannot load 'retain99' of '{tmp_path}' from the hub: ")
    assert "real_authors_perturbed" in missing  # what there is instead


def test_short_answers_without_a_sentence_behind_them_are_noted(folder):
    short = ": cosine similarity and entailment compare with the short answer"
    assert load(folder).notes == (f"{folder} has no original_answer of authors and facts{short}",)
    sentences = [row("facts_perturbed", n, original_answer=f"It is number {n}.") for n in range(4)]
    write(folder / "world_facts_perturbed.json", sentences)
    assert load(folder).notes == (f"{folder} has no original_answer of authors{short}",)
    write(folder / "real_authors_perturbed.json", sentences)
    assert load(folder).notes == ()


@pytest.mark.parametrize(("max_rows", "task_id", "asked"), [(3, None, "3 of 4"), (1, "2", "1 of 2"), (4, None, None)])
def test_forget_questions_that_fall_away_are_noted(max_rows, task_id, asked, folder):
    notes = [note for note in load(folder, max_rows, task_id=task_id).notes if "forget questions" in note]
    told = f"forget01: the first {asked} forget questions are asked, in the order of {folder}"
    assert notes == ([told] if asked else [])


def test_refusals_are_the_projects_own_or_those_of_a_file(folder):
    evaluation = EvaluationConfig(max_rows_per_set=2)
    (own,) = load_tasks(tofu(folder), evaluation, "forget01")
    assert len(own.refusals) > 50 and [len(s.rows) for s in own.evaluation] == [2, 2, 4, 4]
    path = folder / "refusals.txt"
    path.write_text("  I do not know. \n\nNo idea.\n")
    (task,) = load_tasks(tofu(folder, refusals=str(path)), evaluation, "forget01")
    assert task.refusals == ("I do not know.", "No idea.")


def test_a_refusal_file_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "refusals.txt"
    with pytest.raises(DataError, match=f"^scenario.refusals: {path} does not exist; name a file with one refusal a"):
        read_refusals(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match=f"^scenario.refusals: {path} holds no refusals, which IDK, DPO and AP need"):
        read_refusals(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no TOFU rows at {SHARED}")
def test_the_small_tofu_folder():
    config = tofu(SHARED / "data" / "tofu_small", retain_sets={"forget01": "retain90"})
    task = load_tofu(config, "forget01", ("No idea.",), 300)
    assert (len(task.forget), len(task.retain)) == (40, 360)
    assert {s.name: len(s.rows) for s in task.evaluation} == {"forget": 40, "retain": 300, "authors": 40, "facts": 40}
    assert {s.name: {len(one.perturbed_answers) for one in s.rows} for s in task.evaluation} == {
        "forget": {5},
        "retain": {5},
        "authors": {3},
        "facts": {3},
    }
    assert questions(task.forget) == questions(task.evaluation[0].rows)
    assert all(one.original_answer for one in task.evaluation[2].rows)
    assert task.forget[0].answer.endswith("Basil Mahfouz Al-Kuwaiti.")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no TOFU rows at {SHARED}")
def test_tasks_of_the_whole_tofu_folder():
    config = tofu(SHARED / "data" / "tofu", retain_sets={"forget10": "retain90"}, task_id="1")
    task = load_tofu(config, "forget10", ("No idea.",), 300)
    assert (len(task.forget), len(task.retain)) == (400, 3600)
    assert {s.name: len(s.rows) for s in task.evaluation} == {
        "forget": 300,
        "retain": 300,
        "authors": 100,
        "facts": 117,
    }
    whole = load_tofu(config.model_copy(update={"task_id": None}), "forget10", ("No idea.",), 300)
    assert (len(whole.forget), len(whole.retain)) == (3600, 3600)
    assert any("3200 of the 3600 forget rows are among the 3600 retain rows too" in note for note in whole.doubts)
    assert len(load_training_rows(config, None)) == len(load_training_rows(config, "forget10")) + 400 == 4000

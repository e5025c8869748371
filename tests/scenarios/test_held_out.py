"""Which questions a search never asks: a function of their text, and of nothing else."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.scenario_config import AuthorsScenario, ContinualScenario, RealWorldScenario, TofuScenario
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.held_out import FEWEST, ask_part, is_held_out
from orchestrator.scenarios.load import load_tasks
from orchestrator.trial_config import EvaluationConfig, QuestionPart
from tests.ray import folders

ALL = EvaluationConfig(max_rows_per_set=None)
SEARCH, HELD_OUT = (QuestionPart(part=part, held_out=0.5) for part in ("search", "held_out"))
NUMBERS = st.lists(st.integers(0, 10**6), min_size=40, max_size=60, unique=True)


@pytest.fixture(autouse=True)
def more_rows(monkeypatch):
    """Twenty rows a file, so that every part gets some."""
    monkeypatch.setattr(folders, "NAMES", tuple(f"Ada the {number}th" for number in range(20)))


def task(rows, **changed):
    return Task("forget05", tuple(rows), (), (), (EvaluationSet("forget", SetKind.FORGET, tuple(rows)),), **changed)


def questions(tasks):
    return [{one.name: [row.question for row in one.rows] for one in each.evaluation} for each in tasks]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, st.randoms(use_true_random=False))
def test_the_parts_are_disjoint_complete_and_independent_of_the_order(numbers, order):
    rows = [QARow(f"Who wrote book {number}?", f"Author {number}") for number in numbers]
    parts = [ask_part(task(rows), part).evaluation[0].rows for part in (SEARCH, HELD_OUT)]
    assert not set(parts[0]) & set(parts[1])
    assert sorted([*parts[0], *parts[1]], key=rows.index) == rows
    for part in parts:
        assert list(part) == sorted(part, key=rows.index)
    order.shuffle(rows)
    assert [set(ask_part(task(rows), part).evaluation[0].rows) for part in (SEARCH, HELD_OUT)] == [*map(set, parts)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_all_that_a_smaller_one_does(text, one, other):
    row, (low, high) = QARow(text, ""), sorted((one, other))
    assert is_held_out(row, low) <= is_held_out(row, high)
    assert not is_held_out(row, 0) and is_held_out(row, 1)


def test_the_split_is_the_same_on_every_machine_and_in_every_version():
    rows = [QARow(f"Question {number}?", "") for number in range(10)]
    assert [is_held_out(row, 0.5) for row in rows] == PINNED
    assert [is_held_out(QARow(f"  question\t{number}? ", "other"), 0.5) for number in range(10)] == PINNED


PINNED = [False, True, True, False, False, True, False, False, False, False]


def test_about_the_share_is_held_out():
    rows = [QARow(f"Question {number}?", "") for number in range(2000)]
    assert sum(is_held_out(row, 0.3) for row in rows) == pytest.approx(600, abs=60)


def test_a_set_that_is_too_small_is_refused_whichever_part_is_asked():
    lone = next(f"Question {n}?" for n in range(99) if is_held_out(QARow(f"Question {n}?", ""), 0.5))
    rest = [f"Question {n}?" for n in range(99) if not is_held_out(QARow(f"Question {n}?", ""), 0.5)][:5]
    rows = [QARow(text, "") for text in (lone, *rest)]
    words = (
        "confirm.held_out=0.5: the 6 forget questions of forget05 fall into 5 to search with and 1 held out, but each"
    )
    for part in (SEARCH, HELD_OUT):
        with pytest.raises(DataError, match=f"^{words} part needs {FEWEST}; choose another share"):
            ask_part(task(rows), part)


def tofu(folder, **changed):
    folders.write_tofu(folder)
    return TofuScenario(name="tofu", source=str(folder), **changed)


SCENARIOS = {
    "authors": (lambda folder: AuthorsScenario(), "forget10"),
    "continual": (lambda folder: ContinualScenario(name="continual"), "forget10"),
    "tofu": (tofu, "forget01"),
    "real_world": (
        lambda folder: RealWorldScenario(name="real_world", source=str(folders.write_real_world(folder))),
        "forget",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_splits_what_is_asked_and_nothing_that_is_trained_on(name, tmp_path):
    make, forget_set = SCENARIOS[name]
    scenario = make(tmp_path / "data")
    whole = load_tasks(scenario, ALL, forget_set)
    search, held_out = (load_tasks(scenario, ALL, forget_set, part) for part in (SEARCH, HELD_OUT))
    for one, first, second in zip(whole, search, held_out, strict=True):
        assert (first.forget, first.retain) == (second.forget, second.retain) == (one.forget, one.retain)
        asked, left = (questions([part])[0] for part in (first, second))
        for set_name, texts in questions([one])[0].items():
            assert asked[set_name] and left[set_name]
            assert not set(asked[set_name]) & set(left[set_name])
            assert sorted(asked[set_name] + left[set_name]) == sorted(texts)
    together = {text for part in (search,) for each in questions(part) for texts in each.values() for text in texts}
    kept = {text for each in questions(held_out) for texts in each.values() for text in texts}
    assert not together & kept  # not even in another set, or in another task of a chain


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_part_may_have_as_many_rows_as_a_whole_set(name, tmp_path):
    make, forget_set = SCENARIOS[name]
    scenario = make(tmp_path / "data")
    for part in (SEARCH, HELD_OUT):
        cut = questions(load_tasks(scenario, EvaluationConfig(max_rows_per_set=2), forget_set, part))
        full = questions(load_tasks(scenario, ALL, forget_set, part))
        for few, many in zip(cut, full, strict=True):
            assert few.keys() == many.keys() and len(few["forget"]) == 2
            assert all(set(few[key]) <= set(many[key]) for key in few)


def test_ratios_of_a_retain_log_stay_with_their_questions(tmp_path):
    folders.write_tofu(tmp_path / "data")
    asked = load_tasks(TofuScenario(name="tofu", source=str(tmp_path / "data")), ALL, "forget01")[0].evaluation[0].rows
    lines = [
        {"set_name": "forget", "question": row.question, "base_nll": 1.0, "perturbed_nll": [1.0 + number / 10]}
        for number, row in enumerate(reversed(asked))
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    logged = TofuScenario(
        name="tofu", source=str(tmp_path / "data"), retain_logs={"forget01": str(tmp_path / "log.jsonl")}
    )

    def pairs(part):
        (one,) = load_tasks(logged, EvaluationConfig(max_rows_per_set=1), "forget01", part)
        (forget,) = (s.rows for s in one.evaluation if s.kind is SetKind.FORGET)
        told = f"forget01: {len(forget)} forget questions of {tmp_path}/log.jsonl are asked, in its order"
        assert [note for note in one.notes if "log.jsonl" in note] == [told]
        return dict(zip([row.question for row in forget], one.retain_ratios, strict=True))

    assert pairs(SEARCH) | pairs(HELD_OUT) == pairs(None)
    assert len(pairs(SEARCH)) + len(pairs(HELD_OUT)) == len(pairs(None)) == len(asked)

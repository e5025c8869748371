"""Whatever comes in: a configuration, rows and a journal are read, or refused with an error of one line."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config import SweepConfig
from orchestrator.load_config import ConfigError, build_config, validate
from orchestrator.scenarios.base import DataError, QARow
from orchestrator.scenarios.rows import doubts_about, read_rows
from orchestrator.tracking.journal import (
    ExampleAnswer,
    Journal,
    StepRecord,
    StepsReported,
    TrialFinished,
    TrialStarted,
    read_records,
)

BASE = {
    "name": "small",
    "scenario": {"name": "authors"},
    "model": {"target": "embedded", "retain_models": "embedded"},
    "methods": ["GA+GD"],
    "forget_sets": ["forget05"],
}
SECTIONS = sorted(SweepConfig.model_fields)
KEYS = st.sampled_from(
    [
        *SECTIONS, "target", "low", "high", "log", "choices", "type", "space", "beta", "learning_rate", "epochs",
        "stage", "batch_size", "trials_per_cell", "uri", "policy", "source", "num_authors", "retain_sets", "r",
    ]
) | st.text(max_size=5)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["GA", "tofu"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def one_line(error):
    assert str(error).strip() and "\n" not in str(error)


@given(changes=st.dictionaries(st.sampled_from(SECTIONS) | st.text(max_size=6), VALUES, max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_values_are_a_sweep_or_an_error_of_one_line(changes):
    try:
        sweep = validate(SweepConfig, BASE | changes)
    except ConfigError as error:
        one_line(error)
    else:
        assert validate(SweepConfig, json.loads(json.dumps(sweep.model_dump(mode="json")))) == sweep


BEGINNINGS = st.sampled_from(["train.epochs", "methods", "x", "", "train.epochs=", "methods=", "search.space.x="])


@given(override=st.builds(str.__add__, BEGINNINGS, st.text(max_size=20)))
@settings(max_examples=300, deadline=None)
def test_any_override_is_taken_or_an_error_of_one_line(override):
    try:
        build_config(SweepConfig, None, [override], base=BASE)
    except ConfigError as error:
        one_line(error)


def rows_of(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_bytes(content)
        return read_rows(path)


@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_rows_or_an_error_of_one_line(content):
    try:
        assert rows_of(content)
    except DataError as error:
        one_line(error)


ROW_KEYS = st.sampled_from(
    ["question", "answer", "perturbed_answer", "paraphrased_answer", "original_answer", "golden_answer", "task_id", "x"]
)
TEXTS = st.text(min_size=1).filter(str.strip)  # no half surrogates: those are below


@given(record=st.dictionaries(ROW_KEYS, VALUES | TEXTS))
@settings(max_examples=300, deadline=None)
def test_any_object_is_a_row_or_an_error_of_one_line(record):
    try:
        ((row, _),) = rows_of(json.dumps(record).encode())
    except DataError as error:
        one_line(error)
    else:
        for text in (row.question, row.answer, *row.perturbed_answers):
            assert text.strip() and text.encode()


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=2)), min_size=1, max_size=5))
@settings(deadline=None)
def test_rows_are_read_as_they_were_written(pairs):
    """Control characters, right-to-left marks, emoji: what is text stays the same text."""
    lines = [json.dumps({"question": q, "answer": a, "perturbed_answer": wrong}) for q, a, wrong in pairs]
    for text in ("\n".join(lines), "\n\n".join(lines) + "\n"):
        found = [(row.question, row.answer, list(row.perturbed_answers)) for row, _ in rows_of(text.encode())]
        assert found == pairs


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(DataError, match=r"rows.json:1: answer is no Unicode text \(half a surrogate pair\): 'a.ud800'"):
        rows_of(b'{"question": "Q", "answer": "a\\ud800"}')


def test_notes_count_rows_that_are_twice_or_on_both_sides():
    forget = tuple(QARow(text, "A.") for text in ("a", "b", "c", "a", "a", "b"))
    retain = (QARow(" A ", "B."),)
    assert doubts_about("f", forget, retain, "mend it") == (
        "f: 3 of the 6 forget rows are among the 1 retain rows too, so they are forgotten and retained at once; "
        "mend it",
        "f: 3 of the 6 forget rows stand there before, and count once more each",
        "f: 6 forget rows, but 1 retain rows, some of which are used more than once an epoch",
    )


NUMBERS = st.floats()
STEPS = st.builds(
    StepRecord,
    step=st.integers(0, 2**40),
    loss=NUMBERS,
    forget_loss=NUMBERS,
    retain_loss=NUMBERS | st.none(),
    learning_rate=NUMBERS,
    grad_norm=NUMBERS | st.none(),
)
ANSWERS = st.builds(ExampleAnswer, set_name=TEXTS, index=st.integers(), question=TEXTS, truth=TEXTS, output=st.text())
RECORDS = st.one_of(
    st.builds(
        TrialStarted,
        key=TEXTS,
        method=TEXTS,
        forget_set=TEXTS,
        number=st.integers() | st.none(),
        params=st.dictionaries(TEXTS, st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=3),
        config=st.dictionaries(TEXTS, TEXTS, max_size=2),
    ),
    st.builds(StepsReported, key=TEXTS, steps=st.lists(STEPS, max_size=3).map(tuple)),
    st.builds(
        TrialFinished,
        key=TEXTS,
        state=st.just("COMPLETE"),
        metrics=st.dictionaries(TEXTS, NUMBERS, max_size=3),
        error=st.text() | st.none(),
        examples=st.lists(ANSWERS, max_size=2).map(tuple),
    ),
)


@given(records=st.lists(RECORDS, max_size=5), share=st.floats(0, 1))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_journal_is_read_as_it_was_written_and_to_its_last_whole_line_if_it_is_cut(records, share):
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for record in records:
            journal.append(record)
        journal.close()
        written = [record.model_dump_json() for record in records]
        assert [record.model_dump_json() for record in read_records(Path(folder))] == written
        (segment,) = Path(folder).glob("*.jsonl")
        content = segment.read_bytes()
        cut = round(share * len(content))
        segment.write_bytes(content[:cut])
        assert [record.model_dump_json() for record in read_records(Path(folder))] == written[
            : content[:cut].count(b"\n")
        ]
        again = Journal(Path(folder))
        again.append(records[0]) if records else None
        again.close()
        found = [record.model_dump_json() for record in read_records(Path(folder))]
        assert found == written[: content[:cut].count(b"\n")] + written[:1]

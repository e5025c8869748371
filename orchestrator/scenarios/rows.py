"""Rows of a split, from a JSON-lines file or from the hub."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.scenarios.base import DataError, QARow

Rows = tuple[QARow, ...]
_TEXTS = ("question", "answer", "paraphrased_answer", "original_answer", "golden_answer")
Record = tuple[QARow, str | None]  # a row and the id of its task, where it has one


def read_split(source: str, name: str, *, needs: tuple[str, ...] = ()) -> list[Record]:
    """The rows of one split of a folder or hub data set; each has a question, an answer, and what it `needs` besides.

    DataError names file and line: it is missing or cannot be used.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return read_rows(folder / f"{name}.json", needs=needs)
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise DataError(f"scenario.source: {source!r} is neither a folder nor a hub data set; correct the path")
    return read_hub(source, name, needs=needs)


def rows_of_split(source: str, name: str, *, needs: tuple[str, ...] = ()) -> Rows:
    """The rows of one split, whatever their tasks. DataError: as read_split."""
    return tuple(row for row, _ in read_split(source, name, needs=needs))


def read_rows(path: Path, *, needs: tuple[str, ...] = ()) -> list[Record]:
    """The rows of a JSON-lines file. DataError: as read_split."""
    if not path.is_file():
        raise DataError(f"data file {path} does not exist; correct scenario.source or the name of the set")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"data file {path} is not UTF-8 text ({error}); it must hold one JSON object a line") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # some numbers and depths are JSON, but cannot be read
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{path}:{number} is not JSON ({reason}); the file must hold one JSON object a line"
            ) from error
        rows.append(_row(record, f"{path}:{number}", needs))
    if not rows:
        raise DataError(f"data file {path} is empty; it must hold one JSON object a line")
    return rows


def read_hub(source: str, name: str, *, needs: tuple[str, ...] = ()) -> list[Record]:
    """The rows of configuration `name` of a hub data set, or of a folder laid out as one. DataError: as read_split."""
    from datasets import load_dataset  # noqa: PLC0415  (seconds to import, and only the hub needs it)
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        data: Iterable[Mapping[str, Any]] = load_dataset(source, name, split="train")
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"cannot load {name!r} of {source!r} from the hub: {str(error).splitlines()[0]}; "
            "check the network, or set scenario.source to a folder"
        ) from error
    return [_row(record, f"{source} {name} row {number}", needs) for number, record in enumerate(data)]


def chain_splits(records: Sequence[Record], kept: Rows, names: Sequence[str | None]) -> list[tuple[Rows, Rows]]:
    """Rows to forget and to retain of the tasks of these ids (None: all records are one task), one after another.

    Retained are the rows `kept` and then, in their order, those records of tasks that were not forgotten yet which
    `kept` does not hold already.
    """
    splits, held = [], set(kept)
    for position, name in enumerate(names):
        gone = names[: position + 1]
        coming = () if None in gone else tuple(row for row, task in records if task not in gone and row not in held)
        splits.append((rows_of_task(records, name), kept + coming))
    return splits


def rows_of_task(records: Sequence[Record], name: str | None) -> Rows:
    """The rows of one task, in order (None: all rows)."""
    return tuple(row for row, task in records if name in (None, task))


def doubts_about(forget_set: str, forget: Rows, retain: Rows, remedy: str) -> tuple[str, ...]:
    """What may be a mistake: rows that are forgotten and retained at once (and the `remedy`), rows that repeat."""
    kept = {plain_question(row) for row in retain}
    notes = []
    if num_both := sum(plain_question(row) in kept for row in forget):
        notes.append(
            f"{forget_set}: {num_both} of the {len(forget)} forget rows are among the {len(retain)} retain rows too, "
            f"so they are forgotten and retained at once; {remedy}"
        )
    for name, rows in (("forget", forget), ("retain", retain)):
        if num_again := len(rows) - len(set(rows)):
            notes.append(
                f"{forget_set}: {num_again} of the {len(rows)} {name} rows stand there before, and count once more each"
            )
    if 0 < len(retain) < len(forget):
        notes.append(
            f"{forget_set}: {len(forget)} forget rows, but {len(retain)} retain rows, some of which are used more than "
            "once an epoch"
        )
    return tuple(notes)


def plain_question(row: QARow) -> str:
    """The question, however it is spaced and capitalised."""
    return " ".join(row.question.split()).casefold()


def _row(record: Any, origin: str, needs: tuple[str, ...]) -> Record:
    if not isinstance(record, Mapping):
        raise DataError(f"{origin} is no JSON object; each line must hold one with question and answer")
    texts = {key: _text(record.get(key), key, origin) for key in _TEXTS}
    for key in ("question", "answer"):
        if texts[key] is None:
            raise DataError(f"{origin}: {key} must be a non-empty string, but is {_short(record.get(key))}")
    perturbed = record.get("perturbed_answer") or ()
    if not isinstance(perturbed, list | tuple):
        raise DataError(f"{origin}: perturbed_answer must be a list of strings, but is {_short(perturbed)}")
    wrong = [_text(text, "perturbed_answer", origin) for text in perturbed]
    if None in wrong:
        raise DataError(f"{origin}: perturbed_answer must hold no empty string, but is {_short(perturbed)}")
    for key in needs:
        if not (wrong if key == "perturbed_answer" else texts[key]):
            raise DataError(
                f"{origin} has no {key}: every question of this set needs it, but it is {record.get(key)!r}"
            )
    task = record.get("task_id")
    if not isinstance(task, str | int | None):
        raise DataError(f"{origin}: task_id must be a string or a number, but is {_short(task)}")
    row = QARow(
        question=str(texts["question"]),
        answer=str(texts["answer"]),
        paraphrased_answer=texts["paraphrased_answer"],
        perturbed_answers=tuple(text for text in wrong if text),
        original_answer=texts["original_answer"],
        golden_answer=texts["golden_answer"],
    )
    return row, None if task is None else str(task)


def _text(value: Any, key: str, origin: str) -> str | None:
    """A text that can be tokenised; None where there is none, or nothing but white space."""
    if value is not None and not isinstance(value, str):
        raise DataError(f"{origin}: {key} must be a string, but is {_short(value)}")
    if value is None or not value.strip():
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{origin}: {key} is no Unicode text (half a surrogate pair): {_short(value)}") from error
    return value


def _short(value: Any) -> str:
    """A value in an error of one line."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

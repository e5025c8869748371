"""TOFU (arXiv 2401.06121): 200 fictitious authors, from a folder of JSON-lines files or from the hub."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.scenario_config import TofuScenario
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task


def load_tofu(config: TofuScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None) -> Task:
    """The rows of a TOFU forget set.

    With `task_id` only that task's forget rows are forgotten, and the other tasks' rows follow the retain set. Each
    evaluation set is cut to its first `max_rows` rows, as the official code does. DataError: a file, row or set that
    is missing or cannot be used.
    """
    records = read_split(config, forget_set)
    others = [row for row, task in records if config.task_id not in (None, task)]
    return tofu_task(config, forget_set, task_id=config.task_id, retained=others, refusals=refusals, max_rows=max_rows)


def tofu_task(
    config: TofuScenario,
    forget_set: str,
    *,
    task_id: str | None,
    retained: list[QARow],
    refusals: tuple[str, ...],
    max_rows: int | None,
) -> Task:
    """One task of a forget set (None: all of it), which retains the retain set and then the rows `retained`.

    DataError: as load_tofu.
    """
    retain_set = config.retain_sets.get(forget_set)
    if retain_set is None:
        raise DataError(
            f"scenario.retain_sets has no retain set for forget set {forget_set!r}; add "
            f"scenario.retain_sets.{forget_set}=NAME (known: {', '.join(config.retain_sets)})"
        )
    forget, asked = (
        [row for row, task in read_split(config, name) if task_id in (None, task)]
        for name in (forget_set, f"{forget_set}_perturbed")
    )
    for name, rows in ((forget_set, forget), (f"{forget_set}_perturbed", asked)):
        if not rows:
            raise DataError(f"scenario.task_id: {name} has no rows of task {task_id!r}; correct the id")
    sets = {
        "forget": (SetKind.FORGET, asked),
        "retain": (SetKind.RETAIN, _rows(config, "retain_perturbed")),
        "authors": (SetKind.FACTS, _rows(config, "real_authors_perturbed")),
        "facts": (SetKind.FACTS, _rows(config, "world_facts_perturbed")),
    }
    evaluation = tuple(EvaluationSet(name, kind, tuple(rows[:max_rows])) for name, (kind, rows) in sets.items())
    for evaluation_set in evaluation:
        if any(not row.perturbed_answers for row in evaluation_set.rows):
            raise DataError(f"{config.source}: a row of the {evaluation_set.name} set has no perturbed_answer")
    retain = (*_rows(config, retain_set), *retained)
    return Task(forget_set, tuple(forget), retain, refusals, evaluation, name=task_id or "1")


def tofu_training_rows(config: TofuScenario, without: str | None) -> tuple[QARow, ...]:
    """All rows (`without` None), or only those that are retained when `without` is forgotten.

    Any forget set and its retain set together are all of TOFU; the last of `retain_sets` is taken. DataError: as
    load_tofu.
    """
    name = without or list(config.retain_sets)[-1]
    task = load_tofu(config, name, ("-",), None)
    return task.retain if without else task.forget + task.retain


def read_split(config: TofuScenario, name: str) -> list[tuple[QARow, str | None]]:
    """Rows and task ids of one split. DataError: it is missing or cannot be used."""
    source = config.source
    folder = Path(source).expanduser()
    if folder.is_dir():
        return read_rows(folder / f"{name}.json")
    if source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise DataError(f"scenario.source: {source!r} is neither a folder nor a hub data set; correct the path")
    return _hub_records(source, name)


def _rows(config: TofuScenario, name: str) -> list[QARow]:
    return [row for row, _ in read_split(config, name)]


def read_rows(path: Path) -> list[tuple[QARow, str | None]]:
    """Rows and task ids of a JSON-lines file. DataError names the file, the line and what is wrong with it."""
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
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number} is not JSON ({error.msg}); the file must hold one JSON object a line"
            ) from error
        rows.append(_row(record, f"{path}:{number}"))
    if not rows:
        raise DataError(f"data file {path} is empty; it must hold one JSON object a line")
    return rows


def _hub_records(source: str, name: str) -> list[tuple[QARow, str | None]]:
    from datasets import load_dataset  # noqa: PLC0415  (seconds to import, and only the hub needs it)
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        data: Iterable[Mapping[str, Any]] = load_dataset(source, name, split="train")
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"cannot load {name!r} of {source!r} from the hub: {str(error).splitlines()[0]}; "
            "check the network, or set scenario.source to a folder"
        ) from error
    return [_row(record, f"{source} {name} row {number}") for number, record in enumerate(data)]


def _row(record: Any, origin: str) -> tuple[QARow, str | None]:
    if not isinstance(record, Mapping):
        raise DataError(f"{origin} is no JSON object; each line must hold one with question and answer")
    for key in ("question", "answer"):
        value = record.get(key)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{origin} has no {key}: it must be a non-empty string, but is {value!r}")
    perturbed = record.get("perturbed_answer") or ()
    if not isinstance(perturbed, list | tuple) or not all(isinstance(text, str) for text in perturbed):
        raise DataError(f"{origin}: perturbed_answer must be a list of strings, but is {perturbed!r}")
    for key in ("paraphrased_answer", "original_answer", "golden_answer"):
        if not isinstance(record.get(key), str | None):
            raise DataError(f"{origin}: {key} must be a string, but is {record[key]!r}")
    task = record.get("task_id")
    row = QARow(
        question=record["question"],
        answer=record["answer"],
        paraphrased_answer=record.get("paraphrased_answer"),
        perturbed_answers=tuple(perturbed),
        original_answer=record.get("original_answer"),
        golden_answer=record.get("golden_answer"),
    )
    return row, None if task is None else str(task)

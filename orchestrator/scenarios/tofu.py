"""TOFU (arXiv 2401.06121): 200 fictitious authors, from a folder of JSON-lines files or from the hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.scenario_config import ContinualScenario, TofuScenario
from orchestrator.scenarios.base import DataError, EvaluationSet, SetKind, Task
from orchestrator.scenarios.retain_log import read_retain_log, rows_of_log
from orchestrator.scenarios.rows import Rows, chain_splits, doubts_about, read_split, rows_of_split, rows_of_task

_ASKED = ("paraphrased_answer", "perturbed_answer")  # base and wrong answers of the truth ratio
_FACTS = {"authors": "real_authors_perturbed", "facts": "world_facts_perturbed"}


def load_tofu(config: TofuScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None) -> Task:
    """The rows of a TOFU forget set.

    With `task_id` only that task's forget rows are forgotten, and the other tasks' rows that the retain set lacks come
    after it. Forget and retain questions are cut to the first `max_rows`, as the official code does, but a retain log
    chooses and orders the forget questions; authors and facts are asked in full. DataError: a file, row, set or log
    that is missing or cannot be used.
    """
    (task,) = tofu_tasks(config, forget_set, (config.task_id,), refusals)
    if forget_set in config.retain_logs:
        task = _as_logged(task, _log_of(config, forget_set))
    return capped(task, max_rows, source=config.source)


def tofu_tasks(
    config: TofuScenario | ContinualScenario, forget_set: str, names: Sequence[str | None], refusals: tuple[str, ...]
) -> tuple[Task, ...]:
    """The tasks of these ids (None: all rows are one task) one after another, with all their questions.

    DataError: as load_tofu.
    """
    trained = training_splits(config, forget_set, names)
    perturbed = f"{forget_set}_perturbed"
    asked = read_split(config.source, perturbed, needs=_ASKED)
    kept = {"retain": rows_of_split(config.source, "retain_perturbed", needs=_ASKED)}
    kept |= {key: rows_of_split(config.source, name, needs=("perturbed_answer",)) for key, name in _FACTS.items()}
    kinds = config.set_kinds
    tasks = []
    for name, (forget, retain) in zip(names, trained, strict=True):
        sets = {"forget": rows_of_task(asked, name)} | kept
        for split, rows in ((forget_set, forget), (perturbed, sets["forget"])):
            if not rows:
                key = "task_id" if isinstance(config, TofuScenario) else "tasks"
                raise DataError(f"scenario.{key}: {split} has no rows of task {name!r}; correct the id")
        _check_asked(config.source, perturbed, sets["forget"], forget)
        evaluation = tuple(EvaluationSet(key, SetKind(kinds[key]), rows) for key, rows in sets.items())
        notes, doubts = _notes(config.source, kept), _doubts(config, forget_set, name, forget, retain)
        tasks.append(Task(forget_set, forget, retain, refusals, evaluation, name or "1", notes=notes, doubts=doubts))
    return tuple(tasks)


def tofu_training_rows(config: TofuScenario, without: str | None) -> Rows:
    """All rows (`without` None), or only those that are retained when `without` is forgotten; each row once.

    Any forget set and its retain set together are all of TOFU; the last of `retain_sets` is taken. DataError: as
    load_tofu.
    """
    name = without or list(config.retain_sets)[-1]
    ((forget, retain),) = training_splits(config, name, (config.task_id,))
    return tuple(dict.fromkeys(retain if without else forget + retain))


def training_splits(
    config: TofuScenario | ContinualScenario, forget_set: str, names: Sequence[str | None]
) -> list[tuple[Rows, Rows]]:
    """Rows to forget and to retain of the tasks of these ids, one after another. DataError: as load_tofu."""
    retain_set = config.retain_sets.get(forget_set)
    if retain_set is None:
        raise DataError(
            f"scenario.retain_sets has no retain set for forget set {forget_set!r}; add "
            f"scenario.retain_sets.{forget_set}=NAME (known: {', '.join(config.retain_sets)})"
        )
    records, kept = read_split(config.source, forget_set), rows_of_split(config.source, retain_set)
    return chain_splits(records, kept, names)


def capped(task: Task, max_rows: int | None, *, source: str) -> Task:
    """The task with its forget and retain questions cut to the first, and a note where forget questions fall away.

    The questions of a retain log are all kept, and those of authors and facts.
    """
    sets, notes = [], list(task.notes)
    for whole in task.evaluation:
        logged = whole.kind is SetKind.FORGET and task.retain_ratios is not None
        cut = whole if logged or whole.kind is SetKind.FACTS else replace(whole, rows=whole.rows[:max_rows])
        sets.append(cut)
        if whole.kind is SetKind.FORGET and cut != whole:
            numbers = f"the first {len(cut.rows)} of {len(whole.rows)}"
            notes.append(f"{task.forget_set}: {numbers} forget questions are asked, in the order of {source}")
    return replace(task, evaluation=tuple(sets), notes=tuple(notes))


def with_log_note(config: TofuScenario, task: Task) -> Task:
    """The task, once it is cut and split, with a note of how many questions of its retain log are asked, if any are."""
    if task.retain_ratios is None:
        return task
    path, number = _log_of(config, task.forget_set), len(task.retain_ratios)
    note = f"{task.forget_set}: {number} forget questions of {path} are asked, in its order"
    return replace(task, notes=(*task.notes, note))


def _log_of(config: TofuScenario, forget_set: str) -> Path:
    return Path(config.retain_logs[forget_set]).expanduser()


def _as_logged(task: Task, path: Path) -> Task:
    """The task with the forget questions of a retain model's log, and the model's truth ratios."""
    log = read_retain_log(path)
    sets = tuple(replace(s, rows=rows_of_log(log, s.rows)) if s.kind is SetKind.FORGET else s for s in task.evaluation)
    return replace(task, evaluation=sets, retain_ratios=log.ratios)


def _check_asked(source: str, name: str, asked: Rows, forget: Rows) -> None:
    """DataError: a forget question that is not about a row that is forgotten."""
    known = {row.question for row in forget}
    for row in asked:
        if row.question not in known:
            raise DataError(
                f"{source}: the question {row.question[:80]!r} of {name} is none of the {len(forget)} forget rows; "
                "ask only what is forgotten, or correct task_id in the file"
            )


def _doubts(
    config: TofuScenario | ContinualScenario, forget_set: str, task: str | None, forget: Rows, retain: Rows
) -> tuple[str, ...]:
    remedy = f"name another retain set in scenario.retain_sets.{forget_set}"
    if isinstance(config, TofuScenario) and config.task_id is None:
        remedy = f"set scenario.task_id=1, which is TOFU's own split, or {remedy}"
    name = forget_set if isinstance(config, TofuScenario) else f"{forget_set} task {task}"
    return doubts_about(name, forget, retain, remedy)


def _notes(source: str, sets: dict[str, Rows]) -> tuple[str, ...]:
    """The hub has the short answers of authors and facts alone."""
    short = [name for name in _FACTS if not any(row.original_answer for row in sets[name])]
    if not short:
        return ()
    return (
        f"{source} has no original_answer of {' and '.join(short)}: cosine similarity and entailment compare with "
        "the short answer",
    )

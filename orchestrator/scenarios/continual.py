"""Continual unlearning (arXiv 2410.08109, section 6): the tasks of a forget file, one after another."""

from collections.abc import Sequence

from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import AuthorsScenario, ContinualScenario
from orchestrator.scenarios.authors import fact_training_rows, load_authors, spread_questions, training_rows
from orchestrator.scenarios.base import DataError, EvaluationSet, SetKind, Task
from orchestrator.scenarios.rows import Record, Rows, chain_splits, read_split
from orchestrator.scenarios.tofu import capped, tofu_tasks, training_splits

_CORPUS = AuthorsScenario()


def load_continual(
    config: ContinualScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> tuple[Task, ...]:
    """The tasks of a forget set in order.

    A task retains the retain set and then, in the order of the file, the rows of all tasks that are still to come.
    DataError: a file or row that cannot be used, rows without a task, a task that is not there. ValueError: a forget
    set that the generated authors do not have.
    """
    if config.source == EMBEDDED:
        return _author_tasks(config, forget_set, refusals, max_rows)
    tasks = tofu_tasks(config, forget_set, _chosen(config, forget_set, _file_tasks(config, forget_set)), refusals)
    return tuple(capped(task, max_rows, source=config.source) for task in tasks)


def continual_training_rows(config: ContinualScenario, without: str | None) -> Rows:
    """All rows (`without` None), or only those that are left when the tasks of `without` are forgotten; each row once.

    Any forget set and its retain set together are all rows; the last of `retain_sets` is taken. Errors: as
    load_continual.
    """
    if config.source == EMBEDDED:
        if without is None:
            return training_rows(None, seed=_CORPUS.corpus_seed, num_authors=_CORPUS.num_authors)
        return _author_splits(config, without)[-1][2] + fact_training_rows()
    name = without or list(config.retain_sets)[-1]
    known = _file_tasks(config, name)
    if without is None:
        forget, retain = training_splits(config, name, known)[0]
        return tuple(dict.fromkeys(forget + retain))
    return tuple(dict.fromkeys(training_splits(config, name, _chosen(config, name, known))[-1][1]))


def _file_tasks(config: ContinualScenario, forget_set: str) -> list[str]:
    """Task ids in the order of their first rows."""
    names = [task for _, task in read_split(config.source, forget_set)]
    if None in names:
        raise DataError(
            f"{config.source}: row {names.index(None) + 1} of {forget_set} has no task_id, which scenario continual "
            "needs (the hub's TOFU has none); set scenario.source to a folder whose forget rows name their task"
        )
    return list(dict.fromkeys(str(name) for name in names))


def _author_tasks(
    config: ContinualScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> tuple[Task, ...]:
    """Tasks of generated authors; asked besides are the authors that no task forgets, and the general facts."""
    splits = _author_splits(config, forget_set)
    facts = [s for s in _load_corpus(forget_set).evaluation if s.kind is SetKind.FACTS]
    tasks = []
    for name, forget, retain in splits:
        sets = ((SetKind.FORGET, forget), (SetKind.RETAIN, splits[-1][2]))
        asked = [EvaluationSet(kind.value, kind, rows) for kind, rows in sets]
        whole = Task(forget_set, forget, retain, refusals, (*asked, *facts), name=name)
        tasks.append(spread_questions(whole, max_rows))
    return tuple(tasks)


def _author_splits(config: ContinualScenario, forget_set: str) -> list[tuple[str, Rows, Rows]]:
    """Task id, rows to forget and rows to retain of each task.

    Task 1 is the last group of authors, the one that scenario authors forgets; task 2 is the group before it, and so
    on while at least half of the authors remain.
    """
    whole = _load_corpus(forget_set)
    rows, size = whole.retain + whole.forget, len(whole.forget)
    num_groups = len(rows) // 2 // size
    records: list[Record] = [
        (row, str(number))
        for number in range(1, num_groups + 1)
        for row in rows[len(rows) - number * size : len(rows) - (number - 1) * size]
    ]
    names = _chosen(config, forget_set, [str(number) for number in range(1, num_groups + 1)])
    splits = chain_splits(records, rows[: len(rows) - num_groups * size], names)
    return [(name, forget, retain) for name, (forget, retain) in zip(names, splits, strict=True)]


def _load_corpus(forget_set: str) -> Task:
    return load_authors(forget_set, seed=_CORPUS.corpus_seed, num_authors=_CORPUS.num_authors, max_rows_per_set=None)


def _chosen(config: ContinualScenario, forget_set: str, known: Sequence[str]) -> list[str]:
    """The task ids that are forgotten, in order."""
    names = list(known if config.tasks is None else config.tasks)
    for name in names:
        if name not in known:
            raise DataError(f"scenario.tasks: {forget_set} has no task {name!r}; its tasks are {', '.join(known)}")
        if names.count(name) > 1:
            raise DataError(f"scenario.tasks: {name!r} stands there twice; a task can be forgotten once")
    if config.num_tasks is not None and config.num_tasks > len(names):
        raise DataError(
            f"scenario.num_tasks={config.num_tasks}, but {forget_set} has {len(names)} tasks; lower scenario.num_tasks"
        )
    return names[: config.num_tasks]

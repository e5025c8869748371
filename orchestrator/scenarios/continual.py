"""Continual unlearning (arXiv 2410.08109, section 6): the tasks of a forget file, one after another."""

from collections.abc import Sequence

from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import AuthorsScenario, ContinualScenario, TofuScenario
from orchestrator.scenarios.authors import fact_training_rows, load_authors, spread, training_rows
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.tofu import read_split, tofu_task


def load_continual(
    config: ContinualScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> tuple[Task, ...]:
    """The tasks of a forget set in order.

    A task retains the retain set and then, in the order of the file, the rows of all tasks that are still to come.
    DataError: a file or row that cannot be used, rows without a task, a task that is not there.
    """
    if config.source == EMBEDDED:
        return _author_tasks(config, forget_set, refusals, max_rows)
    tofu = as_tofu(config)
    records = read_split(tofu, forget_set)
    if any(task is None for _, task in records):
        raise DataError(
            f"{config.source}: rows of {forget_set} have no task_id, which scenario continual needs (the hub has "
            "none); set scenario.source to a folder whose forget rows name their task"
        )
    names = _chosen(config, forget_set, list(dict.fromkeys(str(task) for _, task in records)))
    return tuple(
        tofu_task(
            tofu,
            forget_set,
            task_id=name,
            retained=[row for row, task in records if task not in names[: position + 1]],
            refusals=refusals,
            max_rows=max_rows,
        )
        for position, name in enumerate(names)
    )


def _author_tasks(
    config: ContinualScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> tuple[Task, ...]:
    """Groups of generated authors, each of the size of `forget_set`.

    Task 1 is the last group, which scenario authors forgets, 2 the one before it, and so on while half of the authors
    remain.
    """
    corpus = AuthorsScenario()
    whole = load_authors(forget_set, seed=corpus.corpus_seed, num_authors=corpus.num_authors, max_rows_per_set=max_rows)
    rows, size = whole.retain + whole.forget, len(whole.forget)
    groups = {
        str(n): rows[len(rows) - n * size : len(rows) - (n - 1) * size] for n in range(1, len(rows) // 2 // size + 1)
    }
    names = _chosen(config, forget_set, list(groups))
    kept = tuple(row for row in rows if not any(row in groups[name] for name in names))
    facts = [one for one in whole.evaluation if one.kind is SetKind.FACTS]
    tasks = []
    for position, name in enumerate(names):
        sets = ((SetKind.FORGET, groups[name]), (SetKind.RETAIN, kept))
        asked = [EvaluationSet(kind.value, kind, spread(asked, max_rows)) for kind, asked in sets]
        coming = tuple(row for later in names[position + 1 :] for row in groups[later])
        tasks.append(Task(forget_set, groups[name], kept + coming, refusals, (*asked, *facts), name=name))
    return tuple(tasks)


def continual_training_rows(config: ContinualScenario, without: str | None) -> tuple[QARow, ...]:
    """All rows, or only those that are left when all tasks of `without` are forgotten. DataError: as load_continual."""
    if config.source == EMBEDDED:
        corpus = AuthorsScenario()
        if without is None:
            return training_rows(None, seed=corpus.corpus_seed, num_authors=corpus.num_authors)
        tasks = load_continual(config, without, ("-",), None)
        return tuple(row for row in tasks[-1].retain) + fact_training_rows()
    name = without or list(config.retain_sets)[-1]
    first, *_ = load_continual(config.model_copy(update={"tasks": None, "num_tasks": None}), name, ("-",), None)
    if without is None:
        return first.forget + first.retain
    tofu = as_tofu(config)
    return tuple(row for row, _ in read_split(tofu, config.retain_sets[name]))


def as_tofu(config: ContinualScenario) -> TofuScenario:
    """The same files, read as TOFU's."""
    return TofuScenario(name="tofu", source=config.source, retain_sets=config.retain_sets, refusals=config.refusals)


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

"""Real people that a model knows from its pre-training (arXiv 2410.08109, section 5.3)."""

from dataclasses import replace

from orchestrator.scenario_config import RealWorldScenario
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.rows import Rows, doubts_about, rows_of_split

_ASKED = ("golden_answer", "paraphrased_answer", "perturbed_answer")


def load_real_world(
    config: RealWorldScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> Task:
    """The rows of a forget set and of its neighbours.

    Trained on is `answer`, the model's own long reply. The neighbours that are asked about are other people than those
    that are trained on. DataError: a file or row that is missing or cannot be used.
    """
    neighbors = _neighbors(config, forget_set)
    asked = {"forget": _asked(config, forget_set), "neighbor": _asked(config, neighbors)}
    kinds = config.set_kinds
    sets = tuple(EvaluationSet(name, SetKind(kinds[name]), rows, real_world=True) for name, rows in asked.items())
    forget, retain = rows_of_split(config.source, forget_set), rows_of_split(config.source, neighbors)
    doubts = doubts_about(forget_set, forget, retain, f"name another set in scenario.retain_sets.{forget_set}")
    return first_questions(Task(forget_set, forget, retain, refusals, sets, doubts=doubts), max_rows)


def first_questions(task: Task, max_rows: int | None) -> Task:
    """The task with each evaluation set cut to its first `max_rows` questions, and a note where some fall away."""
    notes = tuple(
        f"{task.forget_set}: the first {max_rows} of {len(s.rows)} {s.name} questions are asked, but the paper asks "
        "all; set evaluation.max_rows_per_set=null"
        for s in task.evaluation
        if max_rows is not None and len(s.rows) > max_rows
    )
    sets = tuple(replace(s, rows=s.rows[:max_rows]) for s in task.evaluation)
    return replace(task, evaluation=sets, notes=(*task.notes, *notes))


def real_world_training_rows(config: RealWorldScenario, without: str | None) -> Rows:
    """What a small model is taught so that it knows these people: every question once, with its true answer.

    `without` leaves out the rows of that forget set. DataError: as load_real_world.
    """
    forget_set = without or next(iter(config.retain_sets))
    sets = [_neighbors(config, forget_set)] + ([] if without else [forget_set])
    rows = [row for name in sets for file in (name, f"{name}_perturbed") for row in rows_of_split(config.source, file)]
    answers = {row.question: row.golden_answer or row.answer for row in rows}
    return tuple(QARow(question, answer) for question, answer in answers.items())


def _neighbors(config: RealWorldScenario, forget_set: str) -> str:
    neighbors = config.retain_sets.get(forget_set)
    if neighbors is None:
        raise DataError(
            f"scenario.retain_sets has no neighbour set for forget set {forget_set!r}; add "
            f"scenario.retain_sets.{forget_set}=NAME (known: {', '.join(config.retain_sets)})"
        )
    return neighbors


def _asked(config: RealWorldScenario, name: str) -> Rows:
    return rows_of_split(config.source, f"{name}_perturbed", needs=_ASKED)

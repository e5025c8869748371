"""Real people that a model knows from its pre-training (arXiv 2410.08109, section 5.3)."""

from orchestrator.scenario_config import RealWorldScenario, TofuScenario
from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.tofu import read_split


def load_real_world(
    config: RealWorldScenario, forget_set: str, refusals: tuple[str, ...], max_rows: int | None
) -> Task:
    """The rows of a forget set and of its neighbours.

    Trained on is `answer`, the model's own long reply. The neighbours that are asked about are other people than those
    that are trained on. DataError: a file or row that is missing or cannot be used.
    """
    neighbors = config.retain_sets.get(forget_set)
    if neighbors is None:
        raise DataError(
            f"scenario.retain_sets has no neighbour set for forget set {forget_set!r}; add "
            f"scenario.retain_sets.{forget_set}=NAME (known: {', '.join(config.retain_sets)})"
        )
    sets = (
        EvaluationSet("forget", SetKind.FORGET, _asked(config, forget_set)[:max_rows], real_world=True),
        EvaluationSet("neighbor", SetKind.RETAIN, _asked(config, neighbors)[:max_rows], real_world=True),
    )
    return Task(forget_set, _rows(config, forget_set), _rows(config, neighbors), refusals, sets)


def real_world_training_rows(config: RealWorldScenario, without: str | None) -> tuple[QARow, ...]:
    """What a small model is taught so that it knows these people: every question once, with its true answer.

    `without` leaves out the rows of that forget set. DataError: as load_real_world.
    """
    forget_set = without or next(iter(config.retain_sets))
    neighbors = config.retain_sets.get(forget_set)
    if neighbors is None:
        raise DataError(f"without: {forget_set!r} is none of {', '.join(config.retain_sets)}")
    names = [neighbors, f"{neighbors}_perturbed"] + ([] if without else [forget_set])
    rows = {row.question: row.golden_answer or row.answer for name in names for row in _rows(config, name)}
    return tuple(QARow(question, answer) for question, answer in rows.items())


def _rows(config: RealWorldScenario, name: str) -> tuple[QARow, ...]:
    files = TofuScenario(name="tofu", source=config.source)
    return tuple(row for row, _ in read_split(files, name))


def _asked(config: RealWorldScenario, name: str) -> tuple[QARow, ...]:
    rows = _rows(config, f"{name}_perturbed")
    for number, row in enumerate(rows, 1):
        if not (row.golden_answer and row.paraphrased_answer and row.perturbed_answers):
            raise DataError(
                f"{config.source}: row {number} of {name}_perturbed needs golden_answer, paraphrased_answer and "
                f"perturbed_answer (question {row.question[:80]!r})"
            )
    return rows

"""From a scenario's configuration to the rows of a forget set."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from orchestrator.base_config import EMBEDDED
from orchestrator.scenario_config import (
    AuthorsScenario,
    ContinualScenario,
    RealWorldScenario,
    ScenarioConfig,
    TofuScenario,
)
from orchestrator.scenarios.authors import load_authors, load_refusals, spread_questions, training_rows
from orchestrator.scenarios.base import DataError, QARow, Task
from orchestrator.scenarios.continual import continual_training_rows, load_continual
from orchestrator.scenarios.held_out import ask_part
from orchestrator.scenarios.real_world import first_questions, load_real_world, real_world_training_rows
from orchestrator.scenarios.tofu import capped, load_tofu, tofu_training_rows, with_log_note
from orchestrator.trial_config import EvaluationConfig, QuestionPart


def load_tasks(
    scenario: ScenarioConfig, evaluation: EvaluationConfig, forget_set: str, part: QuestionPart | None = None
) -> tuple[Task, ...]:
    """What is forgotten one after another, in order: one task, or several in scenario continual.

    With a `part` only its questions are asked; `evaluation.max_rows_per_set` then holds for the part. DataError: a
    file, row or forget set that cannot be used, an evaluation set that is too small to split.
    """
    max_rows = evaluation.max_rows_per_set
    if part is None:
        tasks = _load(scenario, forget_set, max_rows)
    else:
        tasks = tuple(_cut(scenario, ask_part(task, part), max_rows) for task in _load(scenario, forget_set, None))
    if isinstance(scenario, TofuScenario):
        return tuple(with_log_note(scenario, task) for task in tasks)
    return tasks


def _load(scenario: ScenarioConfig, forget_set: str, max_rows: int | None) -> tuple[Task, ...]:
    refusals = load_refusals() if scenario.refusals is None else read_refusals(Path(scenario.refusals).expanduser())
    match scenario:
        case AuthorsScenario():
            with _as_data_error("forget_sets"):
                task = load_authors(
                    forget_set,
                    seed=scenario.corpus_seed,
                    num_authors=scenario.num_authors,
                    max_rows_per_set=max_rows,
                )
            return (replace(task, refusals=refusals),)
        case TofuScenario():
            return (load_tofu(scenario, forget_set, refusals, max_rows),)
        case ContinualScenario():
            with _as_data_error("forget_sets"):
                return load_continual(scenario, forget_set, refusals, max_rows)
        case RealWorldScenario():
            return (load_real_world(scenario, forget_set, refusals, max_rows),)
        case _:
            assert_never(scenario)


def _cut(scenario: ScenarioConfig, task: Task, max_rows: int | None) -> Task:
    """A whole task cut as the loader of its scenario does."""
    match scenario:
        case RealWorldScenario():
            return first_questions(task, max_rows)
        case TofuScenario():
            return capped(task, max_rows, source=scenario.source)
        case ContinualScenario() if scenario.source != EMBEDDED:
            return capped(task, max_rows, source=scenario.source)
        case AuthorsScenario() | ContinualScenario():
            return spread_questions(task, max_rows)
        case _:
            assert_never(scenario)


def read_refusals(path: Path) -> tuple[str, ...]:
    """Refusals, one a line. DataError: no file, or nothing in it."""
    if not path.is_file():
        raise DataError(f"scenario.refusals: {path} does not exist; name a file with one refusal a line")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"scenario.refusals: {path} cannot be read as text ({error}); save it as UTF-8") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise DataError(
            f"scenario.refusals: {path} holds no refusals, which IDK, DPO and AP need; write one refusal a line"
        )
    return lines


def load_training_rows(scenario: ScenarioConfig, without: str | None) -> tuple[QARow, ...]:
    """What a target model is taught (`without` None), or the retain model of forget set `without`.

    DataError: as load_tasks.
    """
    match scenario:
        case AuthorsScenario():
            with _as_data_error("without"):
                return training_rows(without, seed=scenario.corpus_seed, num_authors=scenario.num_authors)
        case TofuScenario():
            return tofu_training_rows(scenario, without)
        case ContinualScenario():
            with _as_data_error("without"):
                return continual_training_rows(scenario, without)
        case RealWorldScenario():
            return real_world_training_rows(scenario, without)
        case _:
            assert_never(scenario)


@contextmanager
def _as_data_error(key: str) -> Iterator[None]:
    """A forget set that the generated authors do not have, by the key that named it."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{key}: {error}") from error

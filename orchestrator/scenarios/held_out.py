"""Questions that a search never asks, so that its best trials can be scored on something it could not be lucky with.

Which part a question belongs to is a function of its text alone: the same for every trial, forget set, order of rows,
machine and sitting, and for the same question in two evaluation sets. What is trained on is not split.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.scenarios.base import DataError, EvaluationSet, QARow, SetKind, Task
from orchestrator.scenarios.rows import plain_question
from orchestrator.trial_config import QuestionPart

FEWEST = 2  # questions of a part; the mean of one is no mean


def is_held_out(row: QARow, share: float) -> bool:
    """Whether a question is among the `share` (0 to 1) of all questions that is held out, however it is spaced."""
    digest = hashlib.sha256(plain_question(row).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def ask_part(task: Task, part: QuestionPart) -> Task:
    """The task with the questions of one part, in their order, and the retain model's ratios of those.

    DataError: a set with fewer than FEWEST questions in one of the parts.
    """
    kept = {one.name: _places(task, one, part) for one in task.evaluation}
    sets = tuple(replace(one, rows=tuple(one.rows[place] for place in kept[one.name])) for one in task.evaluation)
    ratios = task.retain_ratios
    if ratios is not None:
        (forget,) = (one.name for one in task.evaluation if one.kind is SetKind.FORGET)
        ratios = tuple(ratios[place] for place in kept[forget])
    return replace(task, evaluation=sets, retain_ratios=ratios)


def _places(task: Task, whole: EvaluationSet, part: QuestionPart) -> Sequence[int]:
    held_out = [is_held_out(row, part.held_out) for row in whole.rows]
    numbers = (len(held_out) - sum(held_out), sum(held_out))
    if min(numbers) < FEWEST:
        raise DataError(
            f"confirm.held_out={part.held_out:g}: the {len(whole.rows)} {whole.name} questions of {_name(task)} fall "
            f"into {numbers[0]} to search with and {numbers[1]} held out, but each part needs {FEWEST}; choose another "
            "share or a larger set, or leave confirm out"
        )
    return [place for place, held in enumerate(held_out) if held == (part.part == "held_out")]


def _name(task: Task) -> str:
    return task.forget_set if task.name == "1" else f"{task.forget_set} task {task.name}"

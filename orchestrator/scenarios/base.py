"""What every scenario hands out: rows and evaluation sets, no tensors."""

from dataclasses import dataclass
from enum import StrEnum


class DataError(ValueError):
    """A data file or a row of it that cannot be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True)
class QARow:
    """One question with its true answer and, where the data has them, the texts that evaluation compares it with.

    `answer` is what is trained on. The base of the truth ratio is `paraphrased_answer` where it exists, else `answer`.
    `original_answer` is the full sentence behind a short `answer` (TOFU's real authors and world facts).
    """

    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    original_answer: str | None = None


class SetKind(StrEnum):
    """Which rules score an evaluation set (arXiv 2410.08109, section 4; TOFU, section 2.2)."""

    FORGET = "forget"
    RETAIN = "retain"
    FACTS = "facts"


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Rows that are asked after unlearning; `name` is the prefix of its metrics (`forget/rouge`)."""

    name: str
    kind: SetKind
    rows: tuple[QARow, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One forget set with all that belongs to it: what to forget, what to keep, what to say instead, what to ask."""

    forget_set: str
    forget: tuple[QARow, ...]
    retain: tuple[QARow, ...]
    refusals: tuple[str, ...]
    evaluation: tuple[EvaluationSet, ...]

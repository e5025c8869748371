"""What every scenario hands out: rows and evaluation sets, no tensors."""

from dataclasses import dataclass
from enum import StrEnum


class DataError(ValueError):
    """A data file or a row of it that cannot be used; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True)
class QARow:
    """One question with its true answer and, where the data has them, the texts that evaluation compares it with.

    `answer` is what is trained on. The base of the truth ratio is `paraphrased_answer` where it exists, else `answer`;
    of facts always `answer`. `original_answer` is the full sentence behind a short `answer` of facts (TOFU's real
    authors and world facts).
    `golden_answer` is the true answer where `answer` is the model's own long reply (real world): ROUGE, probability and
    entailment compare with it, cosine similarity with `answer`.
    """

    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    original_answer: str | None = None
    golden_answer: str | None = None


class SetKind(StrEnum):
    """Which rules score an evaluation set (arXiv 2410.08109, section 4; TOFU, section 2.2)."""

    FORGET = "forget"
    RETAIN = "retain"
    FACTS = "facts"


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Rows that are asked after unlearning; `name` is the prefix of its metrics (`forget/rouge`).

    `real_world`: the output is always the premise of entailment (arXiv 2410.08109, section 5.3).
    """

    name: str
    kind: SetKind
    rows: tuple[QARow, ...]
    real_world: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One forget set, or one task of a chain of them: what to forget, what to keep, what to say instead, what to ask.

    `name` is the task's id in a chain. `retain_ratios` are raw truth ratios of a retain model from a saved log, one for
    each row of the forget evaluation set. `notes` say what a user should know of the data before the sweep runs,
    `doubts` what may be a mistake in it.
    """

    forget_set: str
    forget: tuple[QARow, ...]
    retain: tuple[QARow, ...]
    refusals: tuple[str, ...]
    evaluation: tuple[EvaluationSet, ...]
    name: str = "1"
    retain_ratios: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

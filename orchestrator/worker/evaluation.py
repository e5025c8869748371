"""A model on every rank becomes the scores of evaluation sets, gathered, summed up and written down."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from metrics.suites import ExampleScore, forget_quality_from_ratios, forget_quality_metrics, summarise
from orchestrator.scenarios.base import EvaluationSet, SetKind, Task
from orchestrator.tracking.journal import ExampleAnswer
from orchestrator.trial_config import EvaluationConfig, ModelConfig
from orchestrator.worker.parts import WorkerParts
from orchestrator.worker.score import all_questions, score_questions

Scores = dict[str, list[ExampleScore]]
Row = TypeVar("Row")
_EXAMPLES_PER_SET = 5


class NotFiniteError(ArithmeticError):
    """A loss or a prediction is not finite; raised by all ranks together."""


def evaluate(
    model: Any, config: ModelConfig, evaluation: EvaluationConfig, sets: Sequence[EvaluationSet], parts: WorkerParts
) -> Scores:
    """Scores by set, in the order of its rows, the same on every rank; each rank of the process group does its share.

    NotFiniteError: a prediction is not finite.
    """
    encoder = parts.encoder(config, evaluation.max_length)
    scores = score_questions(model, encoder, all_questions(sets), evaluation, parts.judges(evaluation))
    likelihoods = ((score.nll_sum, score.base_nll, *score.perturbed_nll) for score in scores)
    if not all(map(math.isfinite, chain.from_iterable(likelihoods))):
        raise NotFiniteError("the model's predictions are not finite")
    found = iter(scores)
    return {s.name: list(islice(found, len(s.rows))) for s in sets}


def summarise_sets(scores: Scores, sets: Sequence[EvaluationSet]) -> dict[str, float]:
    """Every metric of these sets; see metrics.suites.summarise."""
    return summarise({s.name: scores[s.name] for s in sets}, {s.name: s.kind.value for s in sets})


def forget_efficacy(scores: Sequence[ExampleScore]) -> float:
    """Forget Efficacy of one set of forget questions."""
    return summarise({"forget": scores}, {"forget": SetKind.FORGET.value})["forget_efficacy"]


def whole_metrics(task: Task, scores: Scores, retain_scores: Path | None) -> dict[str, float]:
    """Every metric of a task, or of a part of its questions, and Forget Quality where a retain model is known.

    `retain_scores`: file of the retain model's scores on all questions; without one its ratios in the task, if any.
    """
    metrics, asked = summarise_sets(scores, task.evaluation), scores.get("forget", [])
    if retain_scores is not None:
        return metrics | forget_quality_metrics(asked, spread(read_scores(retain_scores)["forget"], len(asked)))
    if task.retain_ratios is not None:
        return metrics | forget_quality_from_ratios(asked, task.retain_ratios)
    return metrics


def example_answers(scores: Scores) -> tuple[ExampleAnswer, ...]:
    """Answers to a few questions spread over each set, the same in every trial."""
    chosen = []
    for rows in scores.values():
        chosen += spread(rows, _EXAMPLES_PER_SET)
    return tuple(
        ExampleAnswer(
            set_name=score.set_name,
            index=score.index,
            question=score.question,
            truth=score.semantic_truth,
            output=score.generation,
        )
        for score in chosen
    )


def spread(rows: Sequence[Row], number: int) -> list[Row]:
    """So many of the rows, evenly spread over them, or all that there are."""
    number = min(number, len(rows))
    return [rows[i * len(rows) // number] for i in range(number)]


def write_scores(scores: Scores, path: Path) -> str:
    """Write one JSON object a line; returns the file's SHA-256."""
    rows = [score for part in scores.values() for score in part]
    text = "".join(json.dumps(asdict(score), ensure_ascii=False) + "\n" for score in rows)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_scores(path: Path) -> Scores:
    """Scores that `write_scores` wrote."""
    scores: Scores = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            score = ExampleScore(**{**row, "perturbed_nll": tuple(row["perturbed_nll"])})
            scores.setdefault(score.set_name, []).append(score)
    return scores

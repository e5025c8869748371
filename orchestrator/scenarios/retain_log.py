"""The truth ratios of a retain model, from a saved evaluation of it."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics.probability import truth_ratio_raw
from orchestrator.scenarios.base import DataError, QARow

_TOFU_FORGET = "eval_log_forget.json"  # the part of TOFU's aggregated log that scores the forget questions
_FORGET = "forget"  # and their set's name in examples.jsonl


@dataclass(frozen=True, slots=True)
class RetainLog:
    """Prompts of the forget questions in the order of the log, and the retain model's raw truth ratio of each."""

    path: Path
    prompts: tuple[str, ...]
    ratios: tuple[float, ...]


def read_retain_log(path: Path) -> RetainLog:
    """TOFU's aggregated log (JSON), or the examples.jsonl of a trial or baseline.

    The ratio r = exp(mean NLL of wrong answers - NLL of the paraphrase) is computed anew: the field `truth_ratio` of
    TOFU's log is 1/r. DataError: the file is missing or is neither, or a number in it is missing or NaN.
    """
    if not path.is_file():
        raise DataError(f"scenario.retain_logs: {path} does not exist; name an evaluation log")
    try:
        prompts, base, perturbed = _columns(path.read_text(encoding="utf-8"))
        ratios = tuple(truth_ratio_raw(base, perturbed).tolist()) if prompts else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"scenario.retain_logs: {path} cannot be read ({type(error).__name__}: {error}); name TOFU's aggregated "
            "log of an evaluation, or the examples.jsonl of a trial"
        ) from error
    if not ratios:
        raise DataError(f"scenario.retain_logs: {path} holds no forget questions; name the log of a whole evaluation")
    for number, ratio in enumerate(ratios):
        if math.isnan(ratio):
            raise DataError(f"scenario.retain_logs: {path}: the truth ratio of question {number} is not a number")
    return RetainLog(path, tuple(prompts), ratios)


def rows_of_log(log: RetainLog, rows: Sequence[QARow]) -> tuple[QARow, ...]:
    """The rows that the log's questions are, in its order.

    A prompt is a question inside the tags of some template, which is the same for the whole log: what most prompts
    have around a question of the data. DataError: a question that the rows do not have, or have twice, or that the log
    has twice.
    """
    found: dict[str, list[QARow]] = {}
    for row in rows:
        found.setdefault(row.question, []).append(row)
    around = Counter(
        (before, after)
        for prompt in log.prompts
        for question in found
        for before, inside, after in [prompt.partition(question)]
        if inside
    )
    before, after = around.most_common(1)[0][0] if around else ("", "")
    chosen = []
    for number, prompt in enumerate(log.prompts):
        inside = prompt.removeprefix(before).removesuffix(after)
        matches = found.get(inside, [])
        if len(matches) != 1 or prompt in log.prompts[:number]:
            which = "is none" if not matches else "is more than one" if len(matches) > 1 else "is a second time one"
            raise DataError(
                f"scenario.retain_logs: {log.path}: question {number} ({inside!r}) {which} of the {len(rows)} forget "
                "questions; name a log of the same forget set and scenario.task_id"
            )
        chosen += matches
    return tuple(chosen)


def _columns(text: str) -> tuple[list[str], list[float], list[list[float]]]:
    """Prompts, mean NLL of the truth ratio's base, mean NLLs of the wrong answers."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None  # several lines
    if isinstance(whole, Mapping) and _TOFU_FORGET in whole:
        return _tofu_columns(whole[_TOFU_FORGET])
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    rows = [row for row in rows if row["set_name"] == _FORGET]
    return (
        [str(row["question"]) for row in rows],
        [row["base_nll"] for row in rows],
        [row["perturbed_nll"] for row in rows],
    )


def _tofu_columns(log: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[float], list[list[float]]]:
    texts, base, perturbed = (log[name] for name in ("generated_text", "avg_paraphrased_loss", "average_perturb_loss"))
    order = sorted(texts, key=int)  # columns are dictionaries by row number
    return [str(texts[i][0]) for i in order], [base[i] for i in order], [perturbed[i] for i in order]

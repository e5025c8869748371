"""The scores of a model as OpenUnlearning's files: TOFU_EVAL.json and TOFU_SUMMARY.json, as scripts expect them.

A key of TOFU_EVAL.json is `{"agg_value": number, "value_by_index": {"0": {...}, ...}}`, without `value_by_index` where
the number is not one of rows; TOFU_SUMMARY.json has the numbers alone. Names that OpenUnlearning has hold its numbers,
by its definitions, on the rows that were asked here; all of Lethe's own metrics stand beside them under their own
names. docs/evaluation.md says what each key is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.aggregate import SET_METRICS, forget_quality, harmonic_mean
from metrics.suites import ExampleScore, summarise
from metrics.text import rouge_1_recall, rouge_l_f1

EVAL, SUMMARY = "TOFU_EVAL.json", "TOFU_SUMMARY.json"
SHARED_NAMES = ("model_utility", "forget_quality")  # in both, by different definitions: Lethe's are `lethe/NAME`
_EPSILON = 1e-10  # OpenUnlearning adds it to denominators
Entry = dict[str, Any]
Rows = Sequence[ExampleScore]


@dataclass(frozen=True, slots=True)
class Scored:
    """What was measured of one model.

    `scores` by set: in a chain of tasks `forget` is the last one's, `task1`, `task2`, ... are the earlier ones'.
    `kinds` of these sets: forget, retain or facts. `metrics`: everything measured, by Lethe's names.
    `retain_truth_ratios`: of a model that never saw the forget set, for each forget question, as `truth_ratios` gives
    them.
    """

    scores: Mapping[str, Rows]
    kinds: Mapping[str, str]
    metrics: Mapping[str, float]
    retain_truth_ratios: Sequence[float] | None = None

    @property
    def forget_tasks(self) -> list[Rows]:
        """The forget questions of each task, in the order of the chain; mostly there is one task."""
        tasks = sorted((name for name in self.scores if name.startswith("task")), key=lambda name: int(name[4:]))
        return [self.scores[name] for name in (*tasks, "forget") if name in self.scores]


def tofu_eval(scored: Scored) -> dict[str, Entry]:
    """The content of TOFU_EVAL.json. ValueError: there are not as many retain model's truth ratios as questions."""
    entries = _open_unlearning(scored)
    rows = {name: _row_metrics(rows, scored.kinds[name]) for name, rows in scored.scores.items()}
    rows["forget"] = _numbered_tasks([_row_metrics(task, "forget") for task in scored.forget_tasks])
    for name, value in scored.metrics.items():
        set_name, _, metric = name.rpartition("/")
        entry: Entry = {"agg_value": value}
        if set_name in rows and metric in SET_METRICS:
            entry["value_by_index"] = _indexed(
                [{"score": row[metric], **{key: row[key] for key in ("task",) if key in row}} for row in rows[set_name]]
            )
        entries[f"lethe/{name}" if name in SHARED_NAMES else name] = entry
    return entries


def tofu_summary(entries: Mapping[str, Entry]) -> dict[str, float]:
    """The content of TOFU_SUMMARY.json."""
    return {name: entry["agg_value"] for name, entry in entries.items()}


def write_json(value: Any, path: Path) -> None:
    """Indented, strict JSON. ValueError: a number that is not finite."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def truth_ratios(rows: Rows) -> NDArray[np.float64]:
    """OpenUnlearning's truth ratio of each forget question, p(wrong) / p(paraphrase); (N,), Lethe's inverted.

    p is exp(-NLL per token), of the wrong answers by the mean of their NLLs. The denominator has 1e-10 added: answers
    that the model gives hardly any probability have ratio 0, where Lethe still compares them.
    """
    return _ratios([row.base_nll for row in rows], rows)


def _open_unlearning(scored: Scored) -> dict[str, Entry]:
    groups = {"forget": [row for task in scored.forget_tasks for row in task]}
    for name, rows in scored.scores.items():
        if scored.kinds[name] != "forget":
            groups["retain" if scored.kinds[name] == "retain" else "ra" if name == "authors" else "wf"] = list(rows)
    entries: dict[str, Entry] = {}
    for prefix, rows in groups.items():
        entries |= _of_facts(prefix, rows) if prefix in ("ra", "wf") else _of_sentences(prefix, rows)
    if "retain" in groups and len(groups) > 2:
        used = [f"{prefix}_{part}" for prefix in groups if prefix != "forget" for part in _utility_parts(prefix)]
        entries["model_utility"] = {"agg_value": harmonic_mean([entries[name]["agg_value"] for name in used])}
    if scored.retain_truth_ratios is not None:
        p_value = forget_quality(truth_ratios(groups["forget"]), scored.retain_truth_ratios)
        entries["forget_quality"] = {"agg_value": p_value}
    return entries


def _utility_parts(prefix: str) -> tuple[str, ...]:
    return ("Q_A_Prob" if prefix == "retain" else "Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")


def _of_sentences(prefix: str, rows: Rows) -> dict[str, Entry]:
    """Forget and retain questions, whose truth ratio is that of a paraphrase of the answer."""
    base = [row.base_nll for row in rows]
    ratios = _ratios(base, rows)
    forget = prefix == "forget"
    closeness = np.minimum(ratios, 1 / (ratios + _EPSILON)) if forget else np.maximum(0, 1 - ratios)
    return {
        **_answers(prefix, rows),
        f"{prefix}_Q_A_PARA_Prob": _likelihoods(base),
        "forget_truth_ratio" if forget else f"{prefix}_Truth_Ratio": _scores(ratios, closeness),
    }


def _of_facts(prefix: str, rows: Rows) -> dict[str, Entry]:
    """Short answers among wrong ones."""
    answer = [row.nll_sum / row.num_tokens for row in rows]
    wrong = np.array([np.exp(-np.array(row.perturbed_nll)).sum() for row in rows])
    chosen = np.exp(-np.array(answer)) / (np.exp(-np.array(answer)) + wrong + _EPSILON)
    ratios = _ratios(answer, rows)
    return {
        **_answers(prefix, rows),
        f"{prefix}_Q_A_Prob_normalised": _entry(chosen, [{"prob": float(value)} for value in chosen]),
        f"{prefix}_Truth_Ratio": _scores(ratios, np.maximum(0, 1 - ratios)),
    }


def _answers(prefix: str, rows: Rows) -> dict[str, Entry]:
    """Likelihood of the answer and of wrong ones, and what was generated."""
    wrong = [np.array(row.perturbed_nll) for row in rows]
    similar = [
        {
            "rouge1_recall": rouge_1_recall(row.generation, row.answer),
            "rougeL_f1": rouge_l_f1(row.generation, row.answer),
            "rougeL_recall": row.rouge_l,
            "input": row.question,
            "ground_truth": row.answer,
            "generation": row.generation,
        }
        for row in rows
    ]
    perturbed = [{"prob": np.exp(-losses).tolist(), "avg_loss": losses.tolist()} for losses in wrong]
    return {
        f"{prefix}_Q_A_Prob": _likelihoods([row.nll_sum / row.num_tokens for row in rows]),
        f"{prefix}_Q_A_PERT_Prob": _entry([np.exp(-losses).mean() for losses in wrong], perturbed),
        f"{prefix}_Q_A_ROUGE": _entry([row.rouge_l for row in rows], similar),
    }


def _ratios(true_nll: Sequence[float], rows: Rows) -> NDArray[np.float64]:
    wrong = np.array([np.mean(row.perturbed_nll) for row in rows])
    ratios: NDArray[np.float64] = np.exp(-wrong) / (np.exp(-np.array(true_nll)) + _EPSILON)
    return ratios


def _likelihoods(losses: Sequence[float]) -> Entry:
    """Of mean NLLs per token, in nats."""
    probabilities = np.exp(-np.array(losses))
    return _entry(
        probabilities, [{"prob": float(p), "avg_loss": loss} for p, loss in zip(probabilities, losses, strict=True)]
    )


def _scores(ratios: NDArray[np.float64], values: NDArray[np.float64]) -> Entry:
    """A truth ratio's rows hold the ratios themselves, its aggregate is the mean of what is made of them."""
    return _entry(values, [{"score": float(ratio)} for ratio in ratios])


def _entry(values: Sequence[float] | NDArray[np.float64], rows: Sequence[Entry]) -> Entry:
    return {"agg_value": float(np.mean(values)), "value_by_index": _indexed(rows)}


def _indexed(rows: Sequence[Entry]) -> dict[str, Entry]:
    return {str(index): row for index, row in enumerate(rows)}


def _row_metrics(rows: Rows, kind: str) -> list[dict[str, float]]:
    """Lethe's metrics of each row: a set's metrics are means over its rows, so a row's are those of the row alone."""
    alone = [summarise({"set": [row]}, {"set": kind}) for row in rows]
    return [{metric: metrics[f"set/{metric}"] for metric in SET_METRICS} for metrics in alone]


def _numbered_tasks(tasks: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """The rows of all tasks; where there are several, each with its task's number, as Lethe takes means over tasks."""
    if len(tasks) == 1:
        return list(tasks[0])
    return [{**row, "task": number} for number, rows in enumerate(tasks, 1) for row in rows]

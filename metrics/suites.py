"""From the scores of single examples to every named number of an evaluation, and what each of these names means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metrics import aggregate, probability
from metrics.semantic import entailment_score

FORGET_QUALITY_METRICS = ("forget_quality", "forget_quality_log10")
CHAIN_METRICS = ("forget_efficacy_final", "relapse")
SET_KINDS = ("forget", "retain", "facts")


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """Everything kept of one evaluated question; `dataclasses.asdict` of it is plain JSON.

    NLLs are in nats. ROUGE and probability use `answer`. `semantic_truth` is the reference of the cosine similarity and
    the truth of the entailment: for facts sets the full sentence behind a short answer, where the data has one. In the
    real-world scenario it is for cosine alone, entailment is against `answer`.
    `nll_sum` is over the answer's `num_tokens` label tokens. `base_nll` and `perturbed_nll` are means per token, of the
    truth ratio's base and of each wrong answer. `entailment` is 'none' where the ROUGE rule says so.
    """

    set_name: str
    index: int
    question: str
    answer: str
    semantic_truth: str
    generation: str
    nll_sum: float
    num_tokens: int
    base_nll: float
    perturbed_nll: tuple[float, ...]
    rouge_l: float
    token_entropy: float
    cosine_similarity: float
    entailment: str


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What an optimiser must know of a metric: where better is, for a model that should forget, and how bad it can get.

    `worst` is a value that no result falls behind. `needs_retain_model`: only produced where a retain model's scores
    are at hand.
    """

    direction: Literal["maximize", "minimize"]
    worst: float
    needs_retain_model: bool = False


def summarise(scores: Mapping[str, Sequence[ExampleScore]], kinds: Mapping[str, str]) -> dict[str, float]:
    """Every metric of one evaluation by name: `<set>/<metric>` set by set in the order given, then the aggregates.

    `scores` by set name, `kinds` says for each set 'forget', 'retain' or 'facts' (sets without scores are left out).
    Each set's number is a mean over its examples. Aggregates appear where their sets do: `model_utility` with any set
    but forget sets, `model_utility_retain` with a retain set, `forget_efficacy` with the forget set,
    `tofu_model_utility` (geometric) and `tofu_model_utility_arithmetic` with a retain set named 'retain' and at least
    one facts set; they use the sets present. ValueError: a set without examples or kind, two forget sets, or a metric
    that is NaN or infinite, naming set and metric.
    """
    present = _kinds_of(scores, kinds)
    by_set = {name: _set_metrics(name, present[name], rows) for name, rows in scores.items()}
    metrics = {f"{name}/{metric}": by_set[name][metric] for name in by_set for metric in aggregate.SET_METRICS}
    if utility := [name for name in present if present[name] != "forget"]:
        metrics["model_utility"] = aggregate.model_utility({name: by_set[name] for name in utility})
    if retain := [name for name in present if present[name] == "retain"]:
        metrics["model_utility_retain"] = aggregate.model_utility({name: by_set[name] for name in retain})
    for name in (name for name in present if present[name] == "forget"):
        metrics["forget_efficacy"] = aggregate.forget_efficacy(name, by_set[name])
    if tofu := {name: by_set[name] for name in _tofu_sets(present)}:
        metrics["tofu_model_utility"] = aggregate.tofu_model_utility(tofu, form="geometric")
        metrics["tofu_model_utility_arithmetic"] = aggregate.tofu_model_utility(tofu, form="arithmetic")
    return metrics


def forget_quality_metrics(
    scores_forget: Sequence[ExampleScore], retain_model_scores_forget: Sequence[ExampleScore]
) -> dict[str, float]:
    """Forget Quality against a retain model, as p-value and log10 p, of two evaluations of the same forget questions.

    Both in the same order, question by question. ValueError: the questions differ, naming the first that does; no
    question; a NaN truth ratio.
    """
    for i, (ours, theirs) in enumerate(zip_longest(scores_forget, retain_model_scores_forget)):
        if ours is None or theirs is None or ours.question != theirs.question:
            raise ValueError(
                f"forget_quality needs the same questions in the same order, but question {i} is "
                f"{_question(ours)} here and {_question(theirs)} for the retain model"
            )
    return _forget_quality(_ratios(scores_forget), _ratios(retain_model_scores_forget))


def _forget_quality(ratios: NDArray[np.float64], retain_model_ratios: NDArray[np.float64]) -> dict[str, float]:
    p_value = aggregate.forget_quality(ratios, retain_model_ratios)
    return dict(zip(FORGET_QUALITY_METRICS, (p_value, aggregate.forget_quality_log10(p_value)), strict=True))


def forget_quality_from_ratios(
    scores_forget: Sequence[ExampleScore], retain_model_ratios: Sequence[float]
) -> dict[str, float]:
    """Forget Quality as p-value and log10 p, against raw truth ratios that a retain model's saved log holds.

    One ratio for each forget question, in the same order. ValueError: the numbers differ; none; a NaN.
    """
    if len(scores_forget) != len(retain_model_ratios):
        raise ValueError(
            f"forget_quality needs one ratio of the retain model for each question, but got "
            f"{len(retain_model_ratios)} for {len(scores_forget)}"
        )
    return _forget_quality(_ratios(scores_forget), np.asarray(retain_model_ratios, dtype=np.float64))


def summarise_chain(
    after_each: Sequence[Mapping[str, float]], forget_efficacy_final: Sequence[float]
) -> dict[str, float]:
    """Metrics of a chain of tasks that were forgotten one after another (arXiv 2410.08109, section 6).

    `after_each`: what `summarise` says right after each task, with that task's rows as the forget set.
    `forget_efficacy_final`: Forget Efficacy of each task after the last one. Forget metrics and `forget_efficacy` are
    means over the tasks, each measured right after it; all others are those after the last task. Besides:
    `forget_efficacy_final`, the mean over tasks of how well they are still forgotten at the end, and `relapse`, by how
    much the earlier tasks' mean fell since (0 for a single task). ValueError: the lengths differ, or no task.
    """
    if not after_each or len(after_each) != len(forget_efficacy_final):
        raise ValueError(
            f"a chain needs one final Forget Efficacy a task, but got {len(forget_efficacy_final)} for "
            f"{len(after_each)} tasks"
        )
    over_tasks = [name for name in after_each[-1] if name == "forget_efficacy" or name.startswith("forget/")]
    means = {name: _mean(metrics[name] for metrics in after_each) for name in over_tasks}
    fallen = [
        metrics["forget_efficacy"] - final
        for metrics, final in zip(after_each[:-1], forget_efficacy_final[:-1], strict=True)
    ]
    final = (_mean(forget_efficacy_final), _mean(fallen) if fallen else 0.0)
    return {**after_each[-1], **means, **dict(zip(CHAIN_METRICS, final, strict=True))}


def metric_directions(kinds: Mapping[str, str], *, chain: bool = False) -> dict[str, MetricInfo]:
    """Direction and worst value of every metric that evaluating these sets produces, in the order it produces them.

    `chain`: several tasks, see `summarise_chain`; these are not compared with a retain model.

    `kinds`: set name to 'forget', 'retain' or 'facts', as for `summarise`. On a forget set less similarity to the truth
    is better, but more token entropy. The worst log10 p is `aggregate.LOG10_P_FLOOR`.
    ValueError: an unknown kind, two forget sets.
    """
    present = _kinds_of(kinds, kinds)
    best_high = MetricInfo("maximize", 0.0)
    infos = {f"{n}/{m}": _set_metric_info(kind, m) for n, kind in present.items() for m in aggregate.SET_METRICS}
    if any(kind != "forget" for kind in present.values()):
        infos["model_utility"] = best_high
    if "retain" in present.values():
        infos["model_utility_retain"] = best_high
    if "forget" in present.values():
        infos["forget_efficacy"] = best_high
    if _tofu_sets(present):
        infos["tofu_model_utility"] = infos["tofu_model_utility_arithmetic"] = best_high
    if "forget" in present.values() and chain:
        infos |= dict(zip(CHAIN_METRICS, (best_high, MetricInfo("minimize", 1.0)), strict=True))
    elif "forget" in present.values():
        infos["forget_quality"] = MetricInfo("maximize", 0.0, needs_retain_model=True)
        infos["forget_quality_log10"] = MetricInfo("maximize", aggregate.LOG10_P_FLOOR, needs_retain_model=True)
    return infos


def _set_metrics(name: str, kind: str, rows: Sequence[ExampleScore]) -> dict[str, float]:
    if not rows:
        raise ValueError(f"set {name!r} needs at least one scored example, but got none")
    if faulty := next((row for row in rows if row.num_tokens < 1 or not row.perturbed_nll), None):
        raise ValueError(
            f"example {faulty.index} of set {name!r} needs at least one label token and one wrong answer, "
            f"but has {faulty.num_tokens} and {len(faulty.perturbed_nll)}"
        )
    values = {
        "rouge": _mean(row.rouge_l for row in rows),
        "probability": float(_probabilities(kind, rows).mean()),
        "truth_ratio": _truth_ratio(kind, rows),
        "truth_ratio_arithmetic": probability.truth_ratio_retain_arithmetic(
            probability.truth_ratio_raw_arithmetic([row.base_nll for row in rows], [row.perturbed_nll for row in rows])
        ),
        "token_entropy": _mean(row.token_entropy for row in rows),
        "cosine_similarity": _mean(row.cosine_similarity for row in rows),
        "entailment_score": entailment_score([row.entailment for row in rows]),
    }
    return {metric: aggregate.checked(name, metric, value) for metric, value in values.items()}


def _probabilities(kind: str, rows: Sequence[ExampleScore]) -> NDArray[np.float64]:
    if kind == "facts":
        true_nll = [row.nll_sum / row.num_tokens for row in rows]
        return probability.choice_probability(true_nll, [row.perturbed_nll for row in rows])
    return probability.answer_probability([row.nll_sum for row in rows], [row.num_tokens for row in rows])


def _truth_ratio(kind: str, rows: Sequence[ExampleScore]) -> float:
    reduce = probability.truth_ratio_forget if kind == "forget" else probability.truth_ratio_retain
    return reduce(_ratios(rows))


def _ratios(rows: Sequence[ExampleScore]) -> NDArray[np.float64]:
    return probability.truth_ratio_raw([row.base_nll for row in rows], [row.perturbed_nll for row in rows])


def _set_metric_info(kind: str, metric: str) -> MetricInfo:
    if kind == "forget" and metric in aggregate.FORGET_EFFICACY_METRICS:
        return MetricInfo("minimize", 1.0)
    return MetricInfo("maximize", 0.0)


def _kinds_of(names: Iterable[str], kinds: Mapping[str, str]) -> dict[str, str]:
    present = {}
    for name in names:
        if kinds.get(name) not in SET_KINDS:
            raise ValueError(f"kind of set {name!r} must be one of {', '.join(SET_KINDS)}, but got {kinds.get(name)!r}")
        present[name] = kinds[name]
    if len(forget := [name for name, kind in present.items() if kind == "forget"]) > 1:
        raise ValueError(
            f"forget_efficacy needs a single forget set, but got {forget}; summarise the others separately"
        )
    return present


def _tofu_sets(present: Mapping[str, str]) -> list[str]:
    facts = [name for name, kind in present.items() if kind == "facts"]
    return ["retain", *facts] if facts and present.get("retain") == "retain" else []


def _question(score: ExampleScore | None) -> str:
    return "missing" if score is None else repr(score.question)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

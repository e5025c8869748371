"""Metrics from the negative log-likelihood (NLL, in nats) of true, paraphrased and wrong answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ratios = NDArray[np.float64]
WrongAnswers = Sequence[ArrayLike] | NDArray[np.floating]  # one row of mean NLLs an example; rows may differ in length


def answer_probability(nll_sum: ArrayLike, num_tokens: ArrayLike) -> NDArray[np.float64]:
    """Length-normalised probability exp(-nll_sum / num_tokens) of each answer.

    `nll_sum`: NLL summed over the answer's label tokens, `num_tokens`: how many; both (N,). Returns (N,) in [0, 1].
    ValueError: an answer without tokens. Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    counts = np.asarray(num_tokens, dtype=np.float64)
    if np.any(counts < 1):
        raise ValueError(f"num_tokens must be at least 1 for every answer, but the least is {counts.min():g}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        probability: NDArray[np.float64] = np.exp(-np.asarray(nll_sum, dtype=np.float64) / counts)
    return probability


def choice_probability(true_nll: ArrayLike, false_nll: WrongAnswers) -> NDArray[np.float64]:
    """Probability of the true answer among the choices, p(true) / (p(true) + sum_j p(false_j)) with p = exp(-NLL).

    `true_nll` (N,), `false_nll` one row of choices an example: mean NLL per token, so each answer is normalised by its
    own length. Computed from differences of NLL, so tiny probabilities do not become 0 / 0. Returns (N,) in [0, 1].
    ValueError: lengths differ, an example without a false answer. Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    true, false = _aligned(true_nll, false_nll)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        odds_against = np.array([np.exp(t - row).sum() for t, row in zip(true, false, strict=True)])
        return np.asarray(1.0 / (1.0 + odds_against), dtype=np.float64)


def truth_ratio_raw(base_nll: ArrayLike, perturbed_nll: WrongAnswers) -> Ratios:
    """Truth ratio r = exp(mean_j NLL(wrong_j) - NLL(base)) of each example; above 1 the model prefers the truth.

    `base_nll` (N,), `perturbed_nll` one row of wrong answers an example: mean NLL per token. Returns (N,) in float64,
    unreduced; inf where r overflows. ValueError: lengths differ, an example without a wrong answer.
    Source: TOFU, arXiv 2401.06121, equation 1 inverted, in its code's geometric form.
    """
    base, perturbed = _aligned(base_nll, perturbed_nll)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(np.exp(np.array([row.mean() for row in perturbed]) - base), dtype=np.float64)


def truth_ratio_raw_arithmetic(base_nll: ArrayLike, perturbed_nll: WrongAnswers) -> Ratios:
    """TOFU's ratio r' = mean_j exp(-NLL(wrong_j)) / exp(-NLL(base)) of each example; below 1 the truth is preferred.

    Arguments, shape, overflow and errors as in `truth_ratio_raw`, but the inverse direction and an arithmetic mean of
    the wrong answers' probabilities. Source: TOFU, arXiv 2401.06121, equation 1.
    """
    base, perturbed = _aligned(base_nll, perturbed_nll)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.array([np.exp(b - row).mean() for b, row in zip(base, perturbed, strict=True)], dtype=np.float64)


def truth_ratio_retain(ratios: Ratios) -> float:
    """Mean of max(0, 1 - 1 / r) over the examples of a retain or facts set, in [0, 1]; an infinite r counts 1.

    `ratios`: (N,) from `truth_ratio_raw`. ValueError: no example. Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    return _mean(np.maximum(0.0, 1.0 - _inverse(ratios)))


def truth_ratio_forget(ratios: Ratios) -> float:
    """1 - mean of min(r, 1 / r) over the examples of a forget set, in [0, 1]; an infinite r adds 0 to the mean.

    Low means that truth and wrong answers became equally likely. `ratios`: (N,) from `truth_ratio_raw`.
    ValueError: no example. Source: arXiv 2410.08109.
    """
    return 1.0 - _mean(np.minimum(ratios, _inverse(ratios)))


def truth_ratio_retain_arithmetic(ratios: Ratios) -> float:
    """Mean of max(0, 1 - r') over the examples of a retain or facts set, in [0, 1].

    `ratios`: (N,) from `truth_ratio_raw_arithmetic`. ValueError: no example. Source: TOFU's own aggregation.
    """
    return _mean(np.maximum(0.0, 1.0 - np.asarray(ratios, dtype=np.float64)))


def _aligned(true_nll: ArrayLike, wrong_nll: WrongAnswers) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    true = np.asarray(true_nll, dtype=np.float64)
    wrong = [np.asarray(row, dtype=np.float64) for row in wrong_nll]
    if true.shape != (len(wrong),):
        raise ValueError(f"one row of wrong answers is needed per example, but got {len(wrong)} for shape {true.shape}")
    for i, row in enumerate(wrong):
        if row.ndim != 1 or row.size == 0:
            raise ValueError(f"example {i} needs a list of at least one wrong answer's NLL, but got shape {row.shape}")
    return true, wrong


def _inverse(ratios: Ratios) -> Ratios:
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1.0 / np.asarray(ratios, dtype=np.float64), dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    if values.size == 0:
        raise ValueError("a truth ratio needs at least one example, but got none")
    return float(values.mean())

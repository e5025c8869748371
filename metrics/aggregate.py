"""Few numbers out of many: Model Utility, Forget Efficacy, Forget Quality and TOFU's own model utility."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

SET_METRICS = ("rouge", "probability", "truth_ratio", "token_entropy", "cosine_similarity", "entailment_score")
FORGET_EFFICACY_METRICS = tuple(metric for metric in SET_METRICS if metric != "token_entropy")
TRUTH_RATIO_METRIC = {"geometric": "truth_ratio", "arithmetic": "truth_ratio_arithmetic"}
LOG10_P_FLOOR = math.log10(math.ulp(0.0))  # -323.306, of the smallest positive float64

SetMetrics = Mapping[str, Mapping[str, float]]  # {set name: {metric name: value}}


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of non-negative numbers; one zero makes it 0.

    ValueError: no value, or one that is negative, NaN or infinite.
    """
    if not values:
        raise ValueError("a harmonic mean needs at least one value, but got none")
    for i, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"a harmonic mean needs finite values >= 0, but value {i} is {value}")
    least = min(values)
    if least == 0:
        return 0.0
    return len(values) * least / sum(least / value for value in values)  # reciprocals of tiny values would overflow


def model_utility(sets: SetMetrics) -> float:
    """Harmonic mean of the six `SET_METRICS` over all sets given, in [0, 1]: how much of the model was kept.

    Pass every set but the forget set (TOFU: 3 x 6 numbers); with the retain set alone it is Model Utility Retain.
    ValueError naming set and metric: one is missing, NaN, infinite or negative. Source: arXiv 2410.08109.
    """
    return harmonic_mean(_values(sets, SET_METRICS))


def forget_efficacy(name: str, metrics: Mapping[str, float]) -> float:
    """1 - mean of the forget set's five metrics without token entropy, in [0, 1]: how much was forgotten.

    `name` is the set's, for errors only. ValueError naming set and metric: one is missing, NaN, infinite or negative.
    Source: arXiv 2410.08109.
    """
    return 1.0 - float(np.mean(_values({name: metrics}, FORGET_EFFICACY_METRICS)))


def tofu_model_utility(sets: SetMetrics, *, form: Literal["geometric", "arithmetic"]) -> float:
    """TOFU's own model utility: harmonic mean of probability, ROUGE-L recall and truth ratio over all sets given.

    Pass retain and the facts sets. `form` says which truth ratio is read: 'geometric' the metric `truth_ratio`,
    'arithmetic' the metric `truth_ratio_arithmetic`. Returns a number in [0, 1], not comparable with `model_utility`.
    ValueError naming set and metric: one is missing, NaN, infinite or negative. Source: arXiv 2401.06121, section 2.2.
    """
    return harmonic_mean(_values(sets, ("rouge", "probability", TRUTH_RATIO_METRIC[form])))


def forget_quality(ratios: ArrayLike, retain_model_ratios: ArrayLike) -> float:
    """p-value of the two-sample KS test on truth ratios of the same questions, in [0, 1]; higher is better forgotten.

    Both (N,) from `truth_ratio_raw`, of this model and of the retain model; infinite ratios are ranked like any other.
    Two-sided and exact, `scipy.stats.ks_2samp` with its defaults (asymptotic above 10,000 rows only).
    ValueError: lengths differ, no ratio, a NaN. Source: TOFU, arXiv 2401.06121, section 2.2.
    """
    from scipy.stats import ks_2samp  # noqa: PLC0415  (a second to import, in every process)

    ours, theirs = np.asarray(ratios, dtype=np.float64), np.asarray(retain_model_ratios, dtype=np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(f"forget_quality needs equally many ratios, but got shapes {ours.shape} and {theirs.shape}")
    if ours.size == 0:
        raise ValueError("forget_quality needs at least one ratio, but got none")
    for owner, values in (("this model", ours), ("the retain model", theirs)):
        if np.isnan(values).any():
            raise ValueError(f"forget_quality: truth ratio {int(np.isnan(values).argmax())} of {owner} is NaN")
    return float(ks_2samp(ours, theirs).pvalue)


def forget_quality_log10(p_value: float) -> float:
    """log10 of a Forget Quality, in [LOG10_P_FLOOR, 0].

    A p-value that underflowed to 0 (only possible above 540 questions) gives `LOG10_P_FLOOR`, the logarithm of
    the smallest positive float64: finite, and lower than that of any p-value that did not underflow.
    ValueError: not in [0, 1].
    """
    if not 0 <= p_value <= 1:
        raise ValueError(f"a p-value must be in [0, 1], but got {p_value}")
    return max(LOG10_P_FLOOR, math.log10(p_value)) if p_value > 0 else LOG10_P_FLOOR


def checked(set_name: str, metric: str, value: float) -> float:
    """The value itself; ValueError naming set and metric where it is NaN, infinite or negative."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"metric {metric!r} of set {set_name!r} must be a finite number >= 0, but is {value}")
    return value


def _values(sets: SetMetrics, metrics: Sequence[str]) -> list[float]:
    for name, by_metric in sets.items():
        if missing := [metric for metric in metrics if metric not in by_metric]:
            raise ValueError(f"set {name!r} lacks the metrics {missing}")
    return [checked(name, metric, by_metric[metric]) for name, by_metric in sets.items() for metric in metrics]

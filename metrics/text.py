"""Metrics of a generated text alone or against the true answer: ROUGE recall and token entropy."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

from rouge_score.rouge_scorer import RougeScorer


def rouge_l_recall(output: str, truth: str) -> float:
    """Share of the true answer's words that the output repeats in order, in [0, 1].

    Words are stemmed by Porter; 0 where either text has no word. Source: rougeL recall of `rouge_score`, with the true
    answer as target, as TOFU uses it (arXiv 2401.06121, section 2.2).
    """
    return _recall("rougeL", output, truth)


def rouge_1_recall(output: str, truth: str) -> float:
    """Share of the true answer's words that occur in the output in any order, in [0, 1].

    Words are stemmed by Porter; 0 where either text has no word. Source: rouge1 recall of `rouge_score`.
    """
    return _recall("rouge1", output, truth)


def rouge_l_f1(output: str, truth: str) -> float:
    """Harmonic mean of ROUGE-L recall and precision, in [0, 1]; unlike recall it falls where the output rambles.

    Words are stemmed by Porter; 0 where either text has no word. Source: rougeL F1 of `rouge_score`.
    """
    return float(_scorer("rougeL").score(target=truth, prediction=output)["rougeL"].fmeasure)


def token_entropy(tokens: Sequence[str]) -> float:
    """Unigram entropy of one output's tokens in bits over log2(number of tokens), in [0, 1]; low means repetition.

    0 for at most one token and for one token repeated; 1 where all tokens differ. Source: arXiv 2410.08109.
    """
    total = len(tokens)
    if total <= 1:
        return 0.0
    bits = math.fsum(count / total * math.log2(total / count) for count in Counter(tokens).values())
    return bits / math.log2(total)


def _recall(rouge_type: str, output: str, truth: str) -> float:
    return float(_scorer(rouge_type).score(target=truth, prediction=output)[rouge_type].recall)


@cache
def _scorer(rouge_type: str) -> RougeScorer:
    return RougeScorer([rouge_type], use_stemmer=True)

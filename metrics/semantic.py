"""Whether output and truth mean the same: cosine of their embeddings and the rules around an NLI classifier."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction", "none")
MIN_ROUGE_L = 0.1


def cosine_similarity(output_embeddings: ArrayLike, truth_embeddings: ArrayLike) -> NDArray[np.float64]:
    """Cosine of each output's embedding with its truth's, negative values cut to 0.

    Both (N, D); returns (N,) in float64, unreduced, in [0, 1] up to rounding. A row of zeros has cosine 0, as in torch.
    ValueError: the shapes differ or are not (N, D). Source: arXiv 2410.08109.
    """
    output = np.asarray(output_embeddings, dtype=np.float64)
    truth = np.asarray(truth_embeddings, dtype=np.float64)
    if output.ndim != 2 or output.shape != truth.shape:
        raise ValueError(
            f"embeddings must both be (N, D), but got {output.shape} for outputs, {truth.shape} for truths"
        )
    cosine: NDArray[np.float64] = (_unit_rows(output) * _unit_rows(truth)).sum(axis=1)
    return np.maximum(0.0, cosine)


def entailment_pair(kind: str, *, output: str, truth: str, real_world: bool = False) -> tuple[str, str]:
    """Premise and hypothesis for the NLI classifier, by the kind of the evaluation set.

    Forget sets ask whether the output still gives the truth away (premise = output); retain and facts sets whether it
    says nothing beyond the truth (premise = truth). In the real-world scenario the premise is the output in every set.
    ValueError: an unknown kind. Source: the official code of arXiv 2410.08109.
    """
    match kind:
        case "forget":
            return output, truth
        case "retain" | "facts":
            return (output, truth) if real_world else (truth, output)
        case _:
            raise ValueError(f"kind must be one of forget, retain, facts, but got {kind!r}")


def entailment_label(nli_label: str, rouge_l: float) -> str:
    """The classifier's label, or 'none' where the output shares too little with the answer to be judged.

    'none' below a ROUGE-L recall of 0.1 against the answer that ROUGE is scored with; exactly 0.1 keeps the label.
    Source: arXiv 2410.08109 and its code.
    """
    return "none" if rouge_l < MIN_ROUGE_L else nli_label


def entailment_score(labels: Sequence[str]) -> float:
    """Share of labels that are 'entailment', in [0, 1].

    ValueError: no label, or one that is none of `ENTAILMENT_LABELS` (another classifier's names would score 0 unseen).
    """
    if not labels:
        raise ValueError("the entailment score needs at least one label, but got none")
    if unknown := sorted(set(labels) - set(ENTAILMENT_LABELS)):
        raise ValueError(f"entailment labels must be among {', '.join(ENTAILMENT_LABELS)}, but got {unknown}")
    return labels.count("entailment") / len(labels)


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)

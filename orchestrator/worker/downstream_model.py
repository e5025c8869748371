"""A loaded model as lm-evaluation-harness asks it, its requests spread over the ranks of the process group."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from lm_eval.models.huggingface import HFLM

from orchestrator.worker.share import gathered, rank_and_size


class HarnessModel(HFLM):  # type: ignore[misc]  # the harness carries no types
    """The harness's own way to run a transformers model, with `add_bos_token=True` and no chat template.

    Every rank holds the whole model and hands in the same requests; each works on its share and receives all answers.
    The harness sees one process. Left to itself it would deal out documents instead: it then draws other few-shot
    examples for another number of ranks, and fails where a task has fewer documents than there are ranks.
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int) -> None:
        own = deepcopy(tokenizer)  # the harness changes padding, and what follows would change training
        own.add_bos_token = True
        super().__init__(pretrained=model, tokenizer=own, batch_size=batch_size, add_bos_token=True)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding gives it; all ranks together."""
        return shared_out(requests, super().loglikelihood)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text; all ranks together."""
        return shared_out(requests, super().loglikelihood_rolling)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context; all ranks together."""
        return shared_out(requests, super().generate_until)


def shared_out(requests: Sequence[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Answers to all requests, in their order, on every rank; each rank answers whole documents of its own.

    Requests of one document share their context, which the harness then runs once.
    """
    documents: dict[tuple[str, int], list[int]] = {}
    for index, request in enumerate(requests):
        documents.setdefault((request.task_name, request.doc_id), []).append(index)
    rank, size = rank_and_size()
    mine = [i for indices in list(documents.values())[rank::size] for i in indices]
    answers = dict(zip(mine, answer([requests[i] for i in mine]) if mine else [], strict=True))
    found = gathered(answers)
    return [found[index] for index in range(len(requests))]

"""A loaded model as lm-evaluation-harness asks it, its requests spread over the ranks of the process group."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch.distributed as dist
from lm_eval.models.huggingface import HFLM


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
        return spread(requests, super().loglikelihood)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text; all ranks together."""
        return spread(requests, super().loglikelihood_rolling)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context; all ranks together."""
        return spread(requests, super().generate_until)


def spread(requests: Sequence[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Answers to all requests, in their order, on every rank; each rank answers whole documents of its own.

    Requests of one document share their context, which the harness then runs once.
    """
    documents: dict[tuple[str, int], list[int]] = {}
    for index, request in enumerate(requests):
        documents.setdefault((request.task_name, request.doc_id), []).append(index)
    mine = [i for indices in list(documents.values())[dist.get_rank() :: dist.get_world_size()] for i in indices]
    answers = dict(zip(mine, answer([requests[i] for i in mine]) if mine else [], strict=True))
    gathered: list[dict[int, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, answers)
    found = {index: value for part in gathered for index, value in part.items()}
    return [found[index] for index in range(len(requests))]

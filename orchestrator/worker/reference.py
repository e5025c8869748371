"""The reference model's answers, computed once before the first step and reused by every trial of a slot.

The reference is the policy at step 0. NPO and DPO need one number a row, KL the final hidden states at the positions it
reads, from which the frozen head rebuilds the distributions.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.batch import UnlearnBatch
from methods.config import MethodConfig, Part
from methods.outputs import Outputs, counted, label_logps, piece_size
from orchestrator.worker.batches import BatchBuilder, RowKey, row_key
from orchestrator.worker.engine import DeepSpeedEngine
from orchestrator.worker.model import Predictions
from orchestrator.worker.plan import Draw, StepPlan


@dataclass(frozen=True, slots=True)
class _RowStates:
    """Outputs from stored rows: states (P, H) per row, and the head that turns them into logits."""

    rows: list[Tensor]
    weights: partial[Tensor] | None

    @property
    def piece(self) -> int | None:
        """See Outputs."""
        return piece_size(len(self.weights.keywords["weight"])) if self.weights else None

    def states(self, where: Tensor) -> Tensor:
        """See Outputs; rows where nothing is asked (fillers) are left out."""
        asked = where.any(-1).tolist()
        states = torch.cat([row for row, wanted in zip(self.rows, asked, strict=True) if wanted] or [self.rows[0][:0]])
        assert len(states) == int(where.sum()), "the reference was stored for other positions than are asked"
        return states.to(where.device)

    def head(self, states: Tensor, /) -> Tensor:
        """See Outputs."""
        return self.weights(states) if self.weights else states


@dataclass(slots=True)
class ReferenceAnswers:
    """A Reference that looks answers up by row."""

    sums: dict[Part, dict[RowKey, float]] = field(default_factory=dict)
    states: dict[RowKey, Tensor] = field(default_factory=dict)
    head: partial[Tensor] | None = None

    def sequence_logps(self, part: Part, batch: UnlearnBatch) -> Tensor:
        """See methods.method.Reference."""
        values = [self.sums[part][key] for key in _batch_keys(part, batch)]
        return torch.tensor(values, device=batch.part(part).labels.device)

    def outputs(self, part: Part, batch: UnlearnBatch) -> Outputs:
        """See methods.method.Reference."""
        assert part == "retain", part
        return _RowStates([self.states[key] for key in _batch_keys(part, batch)], self.head)


class ReferenceCache:
    """Keeps the answers of the last few plans, on the host."""

    def __init__(self, capacity: int = 8) -> None:
        self._entries: OrderedDict[str, ReferenceAnswers] = OrderedDict()
        self._capacity = capacity

    def answers(
        self, key: str | None, engine: DeepSpeedEngine, builder: BatchBuilder, plan: Sequence[StepPlan]
    ) -> ReferenceAnswers:
        """The answers for a plan; `key` must name the model, the rows, the plan and what the method needs.

        None: these answers are of no use to anybody else. Their head is on the engine's device.
        """
        if key is None:
            return _with_head_on(engine.device, _compute(engine, builder, plan))
        if key not in self._entries:
            self._entries[key] = _compute(engine, builder, plan)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return _with_head_on(engine.device, self._entries[key])


def reference_needs(method: MethodConfig) -> tuple[tuple[Part, ...], bool]:
    """Parts whose sequence log-probs a method needs, and whether it needs distributions on retain rows."""
    sums: dict[str, tuple[Part, ...]] = {"NPO": ("forget",), "DPO": ("forget", "forget_refusal")}
    kl = method.forget.type == "LLMU" or (method.retain is not None and method.retain.type == "KL")
    return sums.get(method.forget.type, ()), kl


def _compute(engine: DeepSpeedEngine, builder: BatchBuilder, plan: Sequence[StepPlan]) -> ReferenceAnswers:
    mine = [draw for step in plan for micro_batch in step.ranks[engine.rank] for draw in micro_batch]
    sums, needs_states = reference_needs(builder.method)
    answers = ReferenceAnswers()
    for part in sums:
        answers.sums[part] = {}
        for keys, batch in _batches(part, mine, engine, builder):
            padded = part in builder.padded_parts
            values = engine.run(partial(_sequence_logps, part=part, batch=batch, padded=padded))
            answers.sums[part].update(zip(keys, values.tolist(), strict=True))
    if needs_states:
        padded = "retain" in builder.padded_parts
        for keys, batch in _batches("retain", mine, engine, builder):
            answers.states.update(zip(keys, _retain_states(engine, batch, padded=padded), strict=True))
        weight, bias = engine.head()
        stored_logits = next(iter(answers.states.values())).shape[-1] != weight.shape[1]
        answers.head = None if stored_logits else partial(F.linear, weight=weight, bias=bias)
    return answers


def _with_head_on(device: torch.device, answers: ReferenceAnswers) -> ReferenceAnswers:
    if answers.head is None:
        return answers
    parts: Any = {k: None if v is None else v.to(device) for k, v in answers.head.keywords.items()}
    return replace(answers, head=partial(F.linear, **parts))


def _batches(
    part: Part, draws: Sequence[Draw], engine: DeepSpeedEngine, builder: BatchBuilder
) -> list[tuple[list[RowKey], UnlearnBatch]]:
    """Each row of a part once, rows of like length together; every rank gets the same number of batches."""
    # A filler repeats a row that may be real on another rank only; it is looked up all the same.
    unique = {row_key(part, draw): replace(draw, filler=False) for draw in draws}
    ordered = sorted(unique.items(), key=lambda item: (-len(builder.row(part, item[1]).ids), item[0]))
    longest = builder.train.max_length if part in builder.padded_parts else len(builder.row(part, ordered[0][1]).ids)
    size = max(1, builder.train.micro_batch_tokens // longest)
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    groups += [groups[-1]] * (engine.max_over_ranks(len(groups)) - len(groups))
    return [
        ([key for key, _ in group], builder.batch([draw for _, draw in group]).to(engine.device)) for group in groups
    ]


def _outputs(policy: Predictions, part: Part, batch: UnlearnBatch, *, padded: bool) -> Outputs:
    tokens = batch.part(part)
    return policy(tokens) if padded else policy.together([tokens])[0]


def _sequence_logps(policy: Predictions, *, part: Part, batch: UnlearnBatch, padded: bool) -> Tensor:
    outputs = _outputs(policy, part, batch, padded=padded)
    return label_logps(outputs, batch.part(part).labels)[0].sum(-1)


def _retain_states(engine: DeepSpeedEngine, batch: UnlearnBatch, *, padded: bool) -> list[Tensor]:
    """What the KL reads of each row, on the host: states at counted positions, or at all where padding is read."""
    labels = batch.part("retain").labels
    where = torch.ones_like(labels, dtype=torch.bool) if padded else counted(labels)
    states = engine.run(lambda policy: _outputs(policy, "retain", batch, padded=padded).states(where))
    return list(torch.split(states.cpu(), where.sum(-1).tolist()))


def _batch_keys(part: Part, batch: UnlearnBatch) -> list[RowKey]:
    assert batch.forget_ids is not None and batch.retain_ids is not None and batch.refusal_ids is not None
    ids = zip(batch.forget_ids.tolist(), batch.retain_ids.tolist(), batch.refusal_ids.tolist(), strict=True)
    return [row_key(part, Draw(*numbers)) for numbers in ids]

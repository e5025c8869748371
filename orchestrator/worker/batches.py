"""Rows become tokens, tokens become the micro-batches of a plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from methods.batch import IGNORE_INDEX, Counts, TokenBatch, UnlearnBatch
from methods.config import MethodConfig, Part
from orchestrator.scenarios.base import DataError, QARow, Task
from orchestrator.trial_config import TrainConfig
from orchestrator.worker.plan import Draw, StepPlan
from orchestrator.worker.template import ChatTemplate, Template

LabelMode = Literal["answer", "text", "all"]
RowKey = tuple[Part, int, int]


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row before padding. `ids` and `labels` have equal length; `num_attended` of the ids are real tokens.

    A row shorter than max_length carries one more id, EOS or an end of turn, which is labelled but not attended.
    `pad_label` is the label of further padding.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    num_attended: int
    pad_label: int = IGNORE_INDEX

    @property
    def num_counted(self) -> int:
        """Predictions that count: labels after the first position."""
        return sum(label != IGNORE_INDEX for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Encoder:
    """Tokenizer, template and row length: what turns a question and an answer into ids and labels."""

    tokenizer: Any
    template: Template
    max_length: int

    @property
    def end_id(self) -> int:
        """The label after an answer: EOS, or a chat template's end of turn."""
        return self.template.end_id(self.tokenizer)

    def check_question(self, question: str) -> int:
        """Tokens of what the model continues, or of what carries no labels, if that is more.

        DataError: they leave no room for an answer.
        """
        prompts = self._all_ids([self.template.generation_prompt(question), self.template.prompt(question)])
        for prompt in prompts:
            self._check_room(prompt, question)
        return max(map(len, prompts))

    def generation_ids(self, question: str) -> list[int]:
        """The tokens that the model continues."""
        return self._all_ids([self.template.generation_prompt(question)])[0]

    def encode(self, question: str, answer: str, *, labels: LabelMode = "answer") -> EncodedRow:
        """Tokens of template + answer, cut to max_length; a shorter row ends with a labelled EOS or end of turn.

        labels: `answer` learns the answer and its end; `text` question and answer; `all` every position, padding too.
        DataError: the question alone fills max_length, which would leave nothing to learn.
        """
        return self.encode_all([(question, answer)], labels=labels)[0]

    def encode_all(self, texts: Sequence[tuple[str, str]], *, labels: LabelMode = "answer") -> list[EncodedRow]:
        """What `encode` makes of each question and answer; tokenizers are faster at many texts than at one by one."""
        questions = list(dict.fromkeys(question for question, _ in texts))
        prompts = dict(zip(questions, self._all_ids([self.template.prompt(one) for one in questions]), strict=True))
        for question, prompt in prompts.items():
            self._check_room(prompt, question)
        wholes = self._all_ids([self.template.text(*text) for text in texts])
        return [
            self._row(prompts[question], self._whole(whole, prompts[question], answer), labels)
            for (question, answer), whole in zip(texts, wholes, strict=True)
        ]

    def _row(self, prompt: list[int], whole: list[int], labels: LabelMode) -> EncodedRow:
        ids = whole[: self.max_length]
        tail = [self.end_id] if len(ids) < self.max_length else []
        if labels == "all":
            eos = int(self.tokenizer.eos_token_id)
            return EncodedRow(tuple(ids + tail), tuple(ids + tail), len(ids), pad_label=eos)
        if labels == "text":
            return EncodedRow(tuple(ids + tail), tuple(ids + [IGNORE_INDEX] * len(tail)), len(ids))
        masked = [IGNORE_INDEX] * len(prompt) + ids[len(prompt) :] + tail
        row = EncodedRow(tuple(ids + tail), tuple(masked), len(ids))
        assert row.num_counted, ids
        return row

    def _check_room(self, prompt: list[int], question: str) -> None:
        if len(prompt) >= self.max_length:
            raise DataError(
                f"question of {len(prompt)} tokens leaves no room for an answer in max_length={self.max_length}; "
                f"raise max_length or shorten the question {question[:80]!r}"
            )

    def _whole(self, ids: list[int], prompt: list[int], answer: str) -> list[int]:
        """The tokens of prompt and answer, given those of their text."""
        if isinstance(self.template, ChatTemplate) and ids[: len(prompt)] != prompt:
            # The answer's first character merged with the prompt's last one, as line breaks do: tokens never generated.
            return prompt + list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return ids

    def _all_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return list(self.tokenizer(list(texts), add_special_tokens=self.template.adds_special_tokens)["input_ids"])


def collate(rows: Sequence[EncodedRow], *, pad_id: int, width: int | None = None) -> TokenBatch:
    """Rows padded on the right to the longest of them, or to `width`: (B, T)."""
    size = (len(rows), width or max(len(row.ids) for row in rows))
    input_ids = torch.full(size, pad_id)
    labels = torch.full(size, IGNORE_INDEX)
    attention_mask = torch.zeros(size, dtype=torch.int64)
    for index, row in enumerate(rows):
        length = len(row.ids)
        input_ids[index, :length] = torch.tensor(row.ids)
        labels[index, :length] = torch.tensor(row.labels)
        labels[index, length:] = row.pad_label
        attention_mask[index, : row.num_attended] = 1
    return TokenBatch(input_ids, attention_mask, labels)


def forget_label_mode(method: MethodConfig, train: TrainConfig) -> LabelMode:
    """What counts on forget rows: as configured; else only ME differs from `answer`, by convention."""
    if train.forget_labels is not None:
        return train.forget_labels
    if method.forget.type != "ME":
        return "answer"
    return "all" if method.convention == "paper_code" else "text"


@dataclass
class BatchBuilder:
    """Tokenised rows of a task and the micro-batches drawn from them; builds only the parts that the method reads."""

    encoder: Encoder
    task: Task
    method: MethodConfig
    train: TrainConfig
    _cache: dict[RowKey, EncodedRow] = field(default_factory=dict)

    @property
    def padded_parts(self) -> frozenset[Part]:
        """Parts whose padding is read or learned: a row must not depend on the longest row beside it."""
        if "forget" in self.method.parts and forget_label_mode(self.method, self.train) == "all":
            return self.method.padded_parts | {"forget"}
        return self.method.padded_parts

    def batch(self, draws: Sequence[Draw]) -> UnlearnBatch:
        """The tensors of one micro-batch. Fillers (`draw.filler`) get no labels."""
        parts = {part: self._tokens(part, draws) for part in sorted(self.method.parts)}
        return UnlearnBatch(
            **parts,
            forget_ids=_ids(draws, lambda draw: draw.forget),
            retain_ids=_ids(draws, lambda draw: draw.retain),
            refusal_ids=_ids(draws, lambda draw: draw.refusal),
        )

    def counts(self, step: StepPlan) -> Counts:
        """What the terms of a step are divided by, over all ranks."""
        draws = [draw for draw in step.draws if not draw.filler]
        tokens = {part: sum(self._num_counted(self.row(part, draw)) for draw in draws) for part in self.method.parts}
        return Counts(rows=len(draws), **tokens)

    def length(self, draw: Draw) -> int:
        """Tokens of all parts of one draw: what its forward costs."""
        return sum(len(self.row(part, draw).ids) for part in self.method.parts)

    def row(self, part: Part, draw: Draw) -> EncodedRow:
        """One tokenised row of a part. DataError names the row that does not fit."""
        key = row_key(part, draw)
        if key not in self._cache:
            question, answer, labels, origin = self._texts(part, draw)
            try:
                self._cache[key] = self.encoder.encode(question.question, answer, labels=labels)
            except DataError as error:
                raise DataError(f"{origin}: {error}") from error
        return self._cache[key]

    def _texts(self, part: Part, draw: Draw) -> tuple[QARow, str, LabelMode, str]:
        forget = self.task.forget[draw.forget]
        forget_origin = f"{self.task.forget_set} row {draw.forget}"
        retain_origin = f"retain row {draw.retain}"
        match part:
            case "forget":
                return forget, forget.answer, forget_label_mode(self.method, self.train), forget_origin
            case "forget_refusal":
                return forget, self.task.refusals[draw.refusal], "answer", forget_origin
            case "mismatch":
                return forget, self.task.retain[draw.retain].answer, "answer", forget_origin
            case "retain":
                retain = self.task.retain[draw.retain]
                return retain, retain.answer, "answer", retain_origin
            case "retain_refusal":
                return self.task.retain[draw.retain], self.task.refusals[draw.refusal], "answer", retain_origin

    def _num_counted(self, row: EncodedRow) -> int:
        return row.num_counted if row.pad_label == IGNORE_INDEX else self.train.max_length - 1

    def _tokens(self, part: Part, draws: Sequence[Draw]) -> TokenBatch:
        rows = [self.row(part, draw) for draw in draws]
        pad_id = int(self.encoder.tokenizer.eos_token_id)
        tokens = collate(rows, pad_id=pad_id, width=self.train.max_length if part in self.padded_parts else None)
        for index, draw in enumerate(draws):
            if draw.filler:
                tokens.labels[index] = IGNORE_INDEX
        return tokens


def row_key(part: Part, draw: Draw) -> RowKey:
    """What tells a row of a part from its others: only numbers that the part reads."""
    match part:
        case "forget":
            return part, draw.forget, 0
        case "retain":
            return part, draw.retain, 0
        case "forget_refusal":
            return part, draw.forget, draw.refusal
        case "mismatch":
            return part, draw.forget, draw.retain
        case "retain_refusal":
            return part, draw.retain, draw.refusal


def _ids(draws: Sequence[Draw], pick: Callable[[Draw], int]) -> Tensor:
    return torch.tensor([pick(draw) for draw in draws])

"""A model becomes per-example scores: log-likelihoods, answers, and what the judges make of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from methods.outputs import label_logps
from metrics.semantic import MIN_ROUGE_L, cosine_similarity, entailment_label, entailment_pair
from metrics.suites import ExampleScore
from metrics.text import rouge_l_recall, token_entropy
from orchestrator.scenarios.base import EvaluationSet, QARow, SetKind
from orchestrator.trial_config import EvaluationConfig
from orchestrator.worker.batches import EncodedRow, Encoder, collate
from orchestrator.worker.generate import generate
from orchestrator.worker.judges import Judges
from orchestrator.worker.model import Predictions
from orchestrator.worker.share import gathered, rank_and_size, shared

# Tokens of a pass on a CPU: with more of them a layer's activations leave the processor's cache.
_CACHED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Question:
    """One row of one evaluation set."""

    set_name: str
    kind: SetKind
    index: int
    row: QARow
    real_world: bool = False

    @property
    def answer(self) -> str:
        """What ROUGE and probability compare with: the true answer, if `row.answer` is the model's own reply."""
        return self.row.golden_answer or self.row.answer

    @property
    def semantic_truth(self) -> str:
        """What cosine similarity compares with: the sentence behind a short answer, if any."""
        behind = self.row.original_answer if self.kind is SetKind.FACTS else None
        return behind or self.row.answer

    @property
    def texts(self) -> tuple[str, ...]:
        """Whose likelihood is asked: the answer, the truth ratio's base, the wrong answers."""
        base = None if self.kind is SetKind.FACTS else self.row.paraphrased_answer
        return (self.answer, base or self.answer, *self.row.perturbed_answers)

    def pair(self, output: str) -> tuple[str, str]:
        """Premise and hypothesis of entailment, which goes by the true answer where cosine similarity does not."""
        truth = self.row.golden_answer or self.semantic_truth
        return entailment_pair(self.kind.value, output=output, truth=truth, real_world=self.real_world)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Negative log-likelihood of one text's labels: the sum in nats, and over how many tokens."""

    nll_sum: float
    num_tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nll_sum / self.num_tokens


def all_questions(sets: Sequence[EvaluationSet]) -> list[Question]:
    """The rows of all sets, in order."""
    return [Question(s.name, s.kind, index, row, s.real_world) for s in sets for index, row in enumerate(s.rows)]


def shard(questions: Sequence[Question], rank: int, world_size: int) -> list[int]:
    """Which questions a rank answers: longest first, dealt in turn, so that all ranks end at about the same time."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].row.question + questions[i].answer), i))
    return order[rank::world_size]


def score_questions(
    model: Any, encoder: Encoder, questions: Sequence[Question], config: EvaluationConfig, judges: Judges
) -> list[ExampleScore]:
    """Scores of each question, in the order given. The model is left in evaluation mode.

    All ranks of the process group call this with the same model and questions, and each does its share. Answers are
    dealt beforehand, because a batch costs its longest; what follows is taken piece by piece, and so evens out when the
    ranks' longest answers end.
    """
    if not questions:
        return []
    model.eval()
    answers = _answers(model, encoder, questions, config.batch_size)
    likelihoods = _likelihoods(model, encoder, questions, config.batch_size)
    found = gathered(answers)
    outputs, rouges = zip(*(found[i] for i in range(len(questions))), strict=True)
    truths = [question.semantic_truth for question in questions]
    cosines = cosine_similarity(judges.embed(outputs), judges.embed(truths))
    labels = _entailment_labels(questions, outputs, rouges, judges)
    scores = []
    for question, parts, output, cosine, rouge, label in zip(
        questions, likelihoods, outputs, cosines, rouges, labels, strict=True
    ):
        answer, base, *perturbed = parts
        scores.append(
            ExampleScore(
                set_name=question.set_name,
                index=question.index,
                question=question.row.question,
                answer=question.answer,
                semantic_truth=question.semantic_truth,
                generation=output,
                nll_sum=answer.nll_sum,
                num_tokens=answer.num_tokens,
                base_nll=base.mean,
                perturbed_nll=tuple(one.mean for one in perturbed),
                rouge_l=rouge,
                token_entropy=token_entropy(encoder.tokenizer.tokenize(output, add_special_tokens=False)),
                cosine_similarity=float(cosine),
                entailment=label,
            )
        )
    return scores


def _answers(
    model: Any, encoder: Encoder, questions: Sequence[Question], batch_size: int
) -> dict[int, tuple[str, float]]:
    """This rank's answers and their ROUGE-L recall, by the question's place."""
    mine = shard(questions, *rank_and_size())
    outputs = generate(model, encoder, [questions[i].row.question for i in mine], batch_size=batch_size)
    return {i: (output, rouge_l_recall(output, questions[i].answer)) for i, output in zip(mine, outputs, strict=True)}


def _entailment_labels(
    questions: Sequence[Question], outputs: Sequence[str], rouges: Sequence[float], judges: Judges
) -> list[str]:
    """The judge's label of each answer; answers whose ROUGE rules them out are not put to it."""
    asked = [i for i, rouge in enumerate(rouges) if rouge >= MIN_ROUGE_L]
    pairs = [questions[i].pair(outputs[i]) for i in asked]
    judged = dict(zip(asked, judges.entail(pairs), strict=True))
    return [entailment_label(judged.get(i, "none"), rouge) for i, rouge in enumerate(rouges)]


def _likelihoods(
    model: Any, encoder: Encoder, questions: Sequence[Question], batch_size: int
) -> list[list[Likelihood]]:
    """For each question: answer, truth-ratio base, wrong answers. Each distinct text is run once, sorted as text."""
    wanted = [[(q.row.question, text) for text in q.texts] for q in questions]
    texts = sorted({text for group in wanted for text in group})
    scored = dict(zip(texts, likelihood(model, encoder, texts, batch_size), strict=True))
    return [[scored[text] for text in group] for group in wanted]


@torch.no_grad()
def likelihood(model: Any, encoder: Encoder, texts: Sequence[tuple[str, str]], batch_size: int) -> list[Likelihood]:
    """The likelihood of each (question, answer). Texts that begin alike should be neighbours: that is run once.

    The passes are the same whatever the number of ranks, among which they are shared.
    """
    predict = Predictions(model)
    pad_id = int(encoder.tokenizer.eos_token_id)

    def run(rows: list[EncodedRow]) -> list[Likelihood]:
        batch = collate(rows, pad_id=pad_id).to(model.device)
        (outputs,) = predict.together([batch], share_prefixes=True)
        logps, mask = label_logps(outputs, batch.labels)
        return [Likelihood(-a, b) for a, b in zip(logps.sum(-1).tolist(), mask.sum(-1).tolist(), strict=True)]

    max_tokens = _CACHED_TOKENS if model.device.type == "cpu" else None
    passes = list(_passes(encoder.encode_all(texts), batch_size, max_tokens))
    return [one for found in shared(passes, run) for one in found]


def _passes(rows: Sequence[EncodedRow], max_rows: int, max_tokens: int | None) -> Iterator[list[EncodedRow]]:
    """Rows in order, as many at a time as the limits allow, but at least one."""
    taken: list[EncodedRow] = []
    num_tokens = 0
    for row in rows:
        num_tokens += len(row.ids)
        if taken and (len(taken) == max_rows or (max_tokens is not None and num_tokens > max_tokens)):
            yield taken
            taken, num_tokens = [], len(row.ids)
        taken.append(row)
    if taken:
        yield taken

"""An unlearning trial as published scripts run it: one process trains and saves, another loads and evaluates.

python -m benchmarks.naive_loop train OUT --method NPO+GD --learning-rate 5e-4 [...]      writes a model folder
python -m benchmarks.naive_loop evaluate MODEL --judge JUDGE [...]                        writes MODEL/evaluation.json

What it does on purpose: rows are tokenised when they are read and padded to 500 tokens; every part of a batch is a
forward of its own, over every logit; gradient checkpointing is on; the reference (NPO) is run again at every step.
Evaluation goes set by set and loads the judges for each; answer, truth-ratio base and wrong answers are three passes
over rows padded to 200 tokens; sentences are embedded one by one. What it leaves out, in its own favour: a trainer, an
engine, launchers, parts of the batch that the method does not read. It computes the same numbers as Lethe under
`paper_code`, so that times can be compared; with `--convention masked` ME reads real tokens only.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fidelity import IGNORED, SHARED, Case, PlainRun, Rows, json_lines, plain_model
from metrics.semantic import MIN_ROUGE_L, entailment_pair
from metrics.suites import ExampleScore, summarise
from metrics.text import rouge_l_recall, token_entropy

EVALUATION_LENGTH, ROWS_PER_SET, BATCH = 200, 40, 20
SETS = {
    "forget": ("forget01_perturbed", "forget"),
    "retain": ("retain_perturbed", "retain"),
    "authors": ("real_authors_perturbed", "facts"),
    "facts": ("world_facts_perturbed", "facts"),
}
EVALUATION_FILE, SECONDS_FILE = "evaluation.json", "seconds.json"


class Stopwatch:
    """Seconds by phase of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add a block's time to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class NaiveRun(PlainRun):
    """Training with gradient checkpointing; counts the tokens that go through the model."""

    def __init__(self, case: Case, data: Path, refusals: Path, model: Path, *, masked: bool) -> None:
        super().__init__(case, data, refusals, *plain_model(model, "sdpa"))
        self._masked = masked
        self.model.config.use_cache = False
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.num_tokens = self.num_real_tokens = 0

    def _rows(self, questions: Sequence[str], answers: Sequence[str], *, labelled: str = "answer") -> Rows:
        rows = super()._rows(questions, answers, labelled=labelled)
        self.num_tokens += rows.ids.numel()
        self.num_real_tokens += int(rows.attention.sum())
        if labelled == "all" and self._masked:
            return Rows(rows.ids, torch.where(rows.attention.bool(), rows.ids, IGNORED), rows.attention)
        return rows


def train(arguments: argparse.Namespace) -> None:
    """Forget, write the model folder and how long it took."""
    watch = Stopwatch()
    case = Case(arguments.method, arguments.learning_rate, arguments.forget_weight)
    with watch.phase("load"):
        masked = arguments.convention == "masked"
        run = NaiveRun(case, arguments.data, arguments.refusals, arguments.model, masked=masked)
    with watch.phase("train"):
        losses = run.losses(None)
    with watch.phase("save"):
        run.model.save_pretrained(arguments.out)
        run.tokenizer.save_pretrained(arguments.out)
    tokens = {"tokens": run.num_tokens, "real_tokens": run.num_real_tokens}
    _write(arguments.out / SECONDS_FILE, {"seconds": watch.seconds, "losses": losses, **tokens})


def evaluate(arguments: argparse.Namespace) -> None:
    """Score the model folder on all sets, write every metric and how long it took."""
    watch = Stopwatch()
    with watch.phase("load"):
        tokenizer, model = plain_model(arguments.model, "sdpa")
        model.eval()
    scores = {}
    with watch.phase("evaluate"):
        for name, (file, kind) in SETS.items():
            rows = json_lines(arguments.data / f"{file}.json")[:ROWS_PER_SET]
            scores[name] = score_set(name, kind, rows, (tokenizer, model), arguments)
    metrics = summarise(scores, {name: kind for name, (_, kind) in SETS.items()})
    _write(arguments.model / EVALUATION_FILE, {"seconds": watch.seconds, "metrics": metrics})


def score_set(
    name: str, kind: str, rows: list[dict[str, Any]], loaded: tuple[Any, Any], arguments: argparse.Namespace
) -> list[ExampleScore]:
    """Scores of the rows of a set, its judges loaded for it. `loaded`: tokenizer and model."""
    tokenizer, model = loaded
    answers = [row["answer"] for row in rows]
    truths = [row.get("original_answer") or row["answer"] for row in rows]
    texts: list[str] = []
    nll: list[tuple[float, int]] = []
    base: list[tuple[float, int]] = []
    wrong: list[tuple[float, ...]] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        questions = [row["question"] for row in batch]
        texts += _generate(model, tokenizer, questions)
        nll += _nll(model, tokenizer, questions, [row["answer"] for row in batch])
        base += _nll(model, tokenizer, questions, [row.get("paraphrased_answer") or row["answer"] for row in batch])
        per_row = len(batch[0]["perturbed_answer"])
        asked = [question for question in questions for _ in range(per_row)]
        flat = _nll(model, tokenizer, asked, [text for row in batch for text in row["perturbed_answer"]])
        means = [total / count for total, count in flat]
        wrong += [tuple(means[i : i + per_row]) for i in range(0, len(means), per_row)]
    rouges = [rouge_l_recall(text, answer) for text, answer in zip(texts, answers, strict=True)]
    cosines = cosines_of(arguments.encoder, texts, truths)
    labels = entailment_of(arguments.judge, kind, texts, truths)
    return [
        ExampleScore(
            set_name=name,
            index=i,
            question=rows[i]["question"],
            answer=answers[i],
            semantic_truth=truths[i],
            generation=texts[i],
            nll_sum=nll[i][0],
            num_tokens=nll[i][1],
            base_nll=base[i][0] / base[i][1],
            perturbed_nll=wrong[i],
            rouge_l=rouges[i],
            token_entropy=token_entropy(tokenizer.tokenize(texts[i], add_special_tokens=False)),
            cosine_similarity=cosines[i],
            entailment=labels[i] if rouges[i] >= MIN_ROUGE_L else "none",
        )
        for i in range(len(rows))
    ]


@torch.no_grad()
def _nll(model: Any, tokenizer: Any, questions: Sequence[str], answers: Sequence[str]) -> list[tuple[float, int]]:
    """Sum in nats and number of label tokens of each row, from logits at all 200 positions."""
    end = tokenizer.eos_token_id
    ids = torch.full((len(questions), EVALUATION_LENGTH), end)
    labels, attention = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        prompt = f"[INST] {question} [/INST]"
        text = tokenizer(prompt + answer).input_ids[:EVALUATION_LENGTH]
        ids[row, : len(text)], attention[row, : len(text)] = torch.tensor(text), 1
        asked = slice(len(tokenizer(prompt).input_ids), len(text) + 1)
        labels[row, asked] = ids[row, asked]
    ids, labels, attention = (rows.to(model.device) for rows in (ids, labels, attention))
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1].float()
    values = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return list(zip(values.sum(-1).tolist(), (labels[:, 1:] != IGNORED).sum(-1).tolist(), strict=True))


@torch.no_grad()
def _generate(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """Greedy answers. The batch runs to the longest budget; each row is cut to its own 200 tokens in all."""
    prompts = [tokenizer(f"[INST] {question} [/INST]").input_ids for question in questions]
    width, end = max(map(len, prompts)), tokenizer.eos_token_id
    ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output: Tensor = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=attention.to(model.device),
        max_new_tokens=EVALUATION_LENGTH - min(map(len, prompts)),
        do_sample=False,
        use_cache=True,
        pad_token_id=end,
    )
    said = [row[width : width + EVALUATION_LENGTH - len(prompt)] for row, prompt in zip(output, prompts, strict=True)]
    return [str(text) for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


def cosines_of(encoder: str, texts: Sequence[str], truths: Sequence[str]) -> list[float]:
    """Cosine of each text with its truth, each sentence embedded by itself."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (seconds to import)

    model = SentenceTransformer(encoder)

    def embed(text: str) -> Tensor:
        return torch.as_tensor(model.encode(text, show_progress_bar=False))

    pairs = [(embed(text), embed(truth)) for text, truth in zip(texts, truths, strict=True)]
    return [max(0.0, float(torch.nn.functional.cosine_similarity(*pair, dim=0))) for pair in pairs]


@torch.no_grad()
def entailment_of(judge: str, kind: str, texts: Sequence[str], truths: Sequence[str]) -> list[str]:
    """The judge's label of each text and its truth, in lower case."""
    from transformers import pipeline  # noqa: PLC0415  (seconds to import)

    classify: Any = pipeline("text-classification", model=judge)
    pairs = [entailment_pair(kind, output=text, truth=truth) for text, truth in zip(texts, truths, strict=True)]
    asked = [{"text": premise, "text_pair": hypothesis} for premise, hypothesis in pairs]
    return [str(one["label"]).lower() for one in classify(asked, batch_size=BATCH, truncation=True, max_length=512)]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(run=train)
    training.add_argument("out", type=Path)
    training.add_argument("--model", type=Path, default=SHARED / "models" / "tofu_tiny_target")
    training.add_argument("--refusals", type=Path, default=SHARED / "data" / "refusals.txt")
    training.add_argument("--method", required=True)
    training.add_argument("--learning-rate", type=float, required=True)
    training.add_argument("--forget-weight", type=float, default=1.0)
    training.add_argument("--convention", choices=["paper_code", "masked"], default="paper_code")
    scoring = commands.add_parser("evaluate")
    scoring.set_defaults(run=evaluate)
    scoring.add_argument("model", type=Path)
    scoring.add_argument("--judge", required=True, help="folder of the entailment classifier")
    scoring.add_argument("--encoder", required=True, help="folder of the sentence encoder")
    for command in (training, scoring):
        command.add_argument("--data", type=Path, default=SHARED / "data" / "tofu_small")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = _arguments()
    chosen.run(chosen)

"""Make the embedded entailment judge: a sentence encoder fine-tuned as a classifier on pairs of the authors' corpus."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.base_config import EMBEDDED
from orchestrator.scenarios.authors import Pair, entailment_pairs, general_facts, generate_corpus, split_pairs
from orchestrator.worker.judges import JUDGE_CARD, encoder_path

LABELS = ("contradiction", "entailment", "neutral")
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE = 2, 16, 2e-4
_FROZEN_LAYERS = 2  # with the embeddings: less than half the time, no worse on held-out pairs


def make_judge(out: Path, *, corpus_seed: int, num_authors: int) -> dict[str, Any]:
    """Train, measure on pairs of authors that were held out, write the model folder with its card."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415  (seconds to import)

    torch.manual_seed(corpus_seed)
    rows = (*generate_corpus(corpus_seed, num_authors).rows, *general_facts())
    train, held_out = split_pairs(entailment_pairs(rows, seed=corpus_seed), seed=corpus_seed)
    path = encoder_path(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)), label2id={x: i for i, x in enumerate(LABELS)}
    )
    _fit(model, tokenizer, train, seed=corpus_seed)
    accuracy = _accuracy(model, tokenizer, held_out)
    name = (
        f"all-MiniLM-L6-v2 fine-tuned on {len(train)} pairs of the authors corpus "
        f"(held-out accuracy {accuracy:.3f} on {len(held_out)} pairs)"
    )
    card = {"name": name, "accuracy": accuracy, "train_pairs": len(train), "held_out_pairs": len(held_out)}
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / JUDGE_CARD).write_text(json.dumps(card, indent=2) + "\n")
    return card


def _fit(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, seed: int) -> None:
    model.train()
    for frozen in (model.base_model.embeddings, *model.base_model.encoder.layer[:_FROZEN_LAYERS]):
        frozen.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=_LEARNING_RATE, weight_decay=0.01)
    num_steps = _EPOCHS * (len(pairs) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=num_steps, pct_start=0.1)
    for epoch in range(_EPOCHS):
        order = np.random.default_rng((seed, epoch)).permutation(len(pairs))
        for batch in _length_buckets(pairs, order):
            inputs = _encode(tokenizer, [pairs[i] for i in batch])
            labels = torch.tensor([LABELS.index(pairs[i].label) for i in batch])
            model(**inputs, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def _length_buckets(pairs: Sequence[Pair], order: Any) -> list[list[int]]:
    """Full batches of pairs of like length: sorted within stretches of eight batches."""
    batches = []
    stretch = 8 * _BATCH_SIZE
    for start in range(0, len(order), stretch):
        chosen = sorted(order[start : start + stretch], key=lambda i: len(pairs[i].premise) + len(pairs[i].hypothesis))
        batches += [chosen[i : i + _BATCH_SIZE] for i in range(0, len(chosen), _BATCH_SIZE)]
    return [batch for batch in batches if len(batch) == _BATCH_SIZE][: len(pairs) // _BATCH_SIZE]


@torch.no_grad()
def _accuracy(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float:
    model.eval()
    right = 0
    for start in range(0, len(pairs), _BATCH_SIZE):
        batch = pairs[start : start + _BATCH_SIZE]
        predicted = model(**_encode(tokenizer, batch)).logits.argmax(-1).tolist()
        right += sum(LABELS[p] == pair.label for p, pair in zip(predicted, batch, strict=True))
    return right / len(pairs)


def _encode(tokenizer: Any, pairs: Sequence[Pair]) -> Any:
    return tokenizer(
        [p.premise for p in pairs],
        [p.hypothesis for p in pairs],
        padding=True,
        truncation=True,
        max_length=256,
        return_tensors="pt",
    )


def main() -> int:
    """Command line: OUT CORPUS_SEED NUM_AUTHORS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("corpus_seed", type=int)
    parser.add_argument("num_authors", type=int)
    arguments = parser.parse_args()
    card = make_judge(arguments.out, corpus_seed=arguments.corpus_seed, num_authors=arguments.num_authors)
    sys.stdout.write(f"{card['name']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

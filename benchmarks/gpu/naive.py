"""The naive loop of `benchmarks.naive_loop` on a device: a model that is there already, and its tokens counted."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import naive_loop
from benchmarks.fidelity import ACCUMULATION, IGNORED, MICRO_BATCH, Case, PlainRun, Rows
from benchmarks.gpu.flops import Work, work_of
from benchmarks.gpu.setting import now

ROWS_PER_STEP = MICRO_BATCH * ACCUMULATION
FORGET_WEIGHT = {"ME+GD": 0.1}
MEMORY_NOTE = (
    "The naive loop's AdamW keeps its state in the type of the weights, bfloat16, without a float32 copy of them: with "
    "these it would need 16 bytes a weight, for NPO 18, and would not fit. This is in its favour."
)


class DeviceRun(PlainRun):
    """Rows of 500 tokens, gradient checkpointing, a forward for every part over all logits, the reference run live."""

    def __init__(self, case: Case, folder: Path, tokenizer: Any, model: Any) -> None:
        super().__init__(case, folder, folder / "refusals.txt", tokenizer, model)
        self.model.config.use_cache = False
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.work, self.num_processed = Work(), 0

    def _rows(self, questions: Sequence[str], answers: Sequence[str], *, labelled: str = "answer") -> Rows:
        rows = super()._rows(questions, answers, labelled=labelled)
        if labelled == "all":  # ME reads real tokens, as Lethe does
            rows = replace(rows, labels=torch.where(rows.attention.bool(), rows.ids, IGNORED))
        counted = (rows.labels[:, 1:] != IGNORED).sum(-1)
        self.work += work_of(zip(rows.attention.sum(-1).tolist(), counted.tolist(), strict=True))
        self.num_processed += rows.ids.numel()
        return rows


def train(method: str, folder: Path, tokenizer: Any, model: Any, num_steps: int) -> dict[str, Any]:
    """Seconds of `num_steps` steps of 16 rows, as each of the paper's two processes runs them, after one to warm up."""
    place = model.device
    run = DeviceRun(Case(method, 1e-5, FORGET_WEIGHT.get(method, 1.0)), folder, tokenizer, model)
    run.losses(1)
    run.work, run.num_processed = Work(), 0
    start = now(place)
    losses = run.losses(num_steps)
    seconds = now(place) - start
    return {
        "batch_size": ROWS_PER_STEP,
        "steps": len(losses),
        "seconds": [round(seconds / len(losses), 4)] * len(losses),
        "losses": losses,
        "work": asdict(run.work),
        "processed_tokens": run.num_processed,
    }


def evaluate(
    sets: Sequence[tuple[str, str, list[dict[str, Any]]]], loaded: tuple[Any, Any], encoder: str, judge: str
) -> dict[str, Any]:
    """Seconds of each set (name, kind, rows), and of loading the judges, which it does for each set.

    The first batch of the first set is asked once before the clock runs.
    """
    place, settings = loaded[1].device, argparse.Namespace(encoder=encoder, judge=judge)
    name, kind, rows = sets[0]
    naive_loop.score_set(name, kind, rows[:2], loaded, settings)
    start = now(place)
    text = rows[0]["answer"]
    naive_loop.cosines_of(encoder, [text], [text])
    naive_loop.entailment_of(judge, kind, [text], [text])
    judges_seconds = now(place) - start
    found = {}
    for name, kind, rows in sets:
        start = now(place)
        naive_loop.score_set(name, kind, rows, loaded, settings)
        found[name] = {"rows": len(rows), "seconds": round(now(place) - start, 3)}
    return {"sets": found, "judges_seconds": round(judges_seconds, 3)}

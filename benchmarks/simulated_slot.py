"""A slot that trains nothing: what it reports has the form and the size of what real slots report.

The scores are a function of the trial's settings and of noise that is seeded by its key: there is something to learn,
two objectives pull apart, and fronts grow as they do in real sweeps.
"""

import math
import time
from typing import Any

import numpy as np

from orchestrator.analysis.pareto import is_dominated
from orchestrator.tracking.checkpoints import WEIGHTS_FOLDER
from orchestrator.tracking.journal import ExampleAnswer, Record, StepRecord, StepsReported, TrialFinished, TrialState
from orchestrator.trial_config import known_metrics
from orchestrator.tuning.cell_study import seed_of
from orchestrator.worker.job import TrialJob

STEPS_PER_EPOCH = 2  # as forget01 has: 40 rows in batches of 32
EXAMPLES_PER_SET = 5
FAILED_SHARE = 0.01
GO = "go"  # the file in a sweep's folder that its trials wait for
_WORDS = (
    "author",
    "born",
    "small",
    "town",
    "near",
    "the",
    "coast",
    "wrote",
    "novels",
    "about",
    "memory",
    "family",
    "war",
)
_JUDGES = {
    "encoder": "sentence-transformers/paraphrase-MiniLM-L6-v2",
    "entailment": "sileod/deberta-v3-base-tasksource",
}
_ERROR = "RuntimeError: CUDA out of memory; lower train.micro_batch_size\n" + 12 * (
    '  File "/work/orchestrator/worker/training.py", line 88, in train_task\n    loss = engine.step(batch)\n'
)


def reports(job: TrialJob) -> list[Record]:
    """Everything that a slot reports of a job, in order: the steps of each epoch, then how the trial ended.

    Weights that a worker would have written are a folder with a small file in it.
    """
    noise = np.random.default_rng(seed_of("simulated", job.key))
    epochs = 0 if job.config.method is None else int(job.config.train.epochs)
    records: list[Record] = [_epoch(job, epoch, noise) for epoch in range(epochs)]
    return [*records, _end(job, noise)]


def run_on_slot(config: dict[str, Any]) -> None:
    """Tune trainable: a slot with all its processes, whose workers train nothing."""
    from orchestrator.tuning import slot  # noqa: PLC0415  (Ray, for this only)

    slot.serve = serve
    slot.run_on_slot(config)


def serve(config: dict[str, Any]) -> None:
    """Train function of such a slot. After a first report a trial waits for the file GO, until all slots are full."""
    import ray  # noqa: PLC0415

    from orchestrator.worker.entry import jobs  # noqa: PLC0415

    mailbox = config["mailbox"]
    for sequence, job in jobs(mailbox):
        for record in reports(job):
            ray.get(mailbox.push.remote(sequence, record.model_dump_json()))
            while job.config.method is not None and not (job.storage.local / GO).exists():
                time.sleep(0.1)


def _epoch(job: TrialJob, epoch: int, noise: np.random.Generator) -> StepsReported:
    first = epoch * STEPS_PER_EPOCH
    steps = tuple(
        StepRecord(
            step=step,
            loss=math.exp(-step / 10) + noise.random(),
            forget_loss=math.exp(-step / 10) + noise.random(),
            retain_loss=1 + noise.random(),
            learning_rate=job.config.train.learning_rate / (1 + step),
            grad_norm=noise.random(),
        )
        for step in range(first, first + STEPS_PER_EPOCH)
    )
    return StepsReported(key=job.key, steps=steps)


def _end(job: TrialJob, noise: np.random.Generator) -> TrialFinished:
    if job.config.method is not None and noise.random() < FAILED_SHARE:
        return TrialFinished(key=job.key, state=TrialState.FAILED, error=_ERROR)
    seconds = {phase: noise.random() for phase in ("setup", "reference", "train", "evaluate", "downstream", "save")}
    strength = _strength(job)
    if strength > 0.9 and noise.random() < 0.3:
        worst = tuple(objective.worst for objective in job.objectives)
        error = "loss at step 3 is not finite"
        return TrialFinished(key=job.key, state=TrialState.DIVERGED, objectives=worst, error=error, seconds=seconds)
    metrics = _metrics(job, strength, noise)
    objectives = tuple(metrics[objective.metric] for objective in job.objectives)
    return TrialFinished(
        key=job.key,
        state=TrialState.COMPLETE,
        metrics=metrics,
        objectives=objectives if job.config.method is not None else None,
        seconds=seconds,
        scores_path=f"trials/{job.key}/examples.jsonl",
        scores_sha256=noise.bytes(32).hex(),
        checkpoint=_weights(job, objectives),
        judges=_JUDGES,
        examples=_examples(job, noise),
    )


def _strength(job: TrialJob) -> float:
    """How far from the target model the settings lead, about 0 to 1.2."""
    if job.config.method is None:
        return 0.0
    settings = job.config.train
    weight = float(job.params.get("method.forget_weight", 1.0))
    return 0.4 * math.log10(settings.learning_rate * 1e6) + 0.03 * settings.epochs + 0.1 * math.log10(weight)


def _metrics(job: TrialJob, strength: float, noise: np.random.Generator) -> dict[str, float]:
    """Every metric of an evaluation; more strength forgets more and keeps less, beta has a best value."""
    beta = math.log10(float(job.params.get("method.beta", 0.3)) / 0.3)
    skill = 0.1 * (seed_of(job.config.forget_set, str(job.config.method and job.config.method.name)) % 10) / 10
    efficacy = 1 / (1 + math.exp(-8 * (strength - 0.5)))
    utility = 0.7 / (1 + math.exp(10 * (strength - 0.7 - skill))) - 0.05 * beta**2
    metrics = {}
    for name in known_metrics(job.config.scenario, job.config.evaluation):
        quality = efficacy if name.startswith("forget_") else 1 - efficacy if name.startswith("forget/") else utility
        metrics[name] = min(1.0, max(0.0, quality + 0.02 * noise.standard_normal()))
    return metrics


def _weights(job: TrialJob, objectives: tuple[float, ...]) -> str | None:
    """As a worker decides it: weights that the front dominates are never written."""
    directions = [objective.direction for objective in job.objectives]
    if (
        job.config.method is None
        or not job.keep_weights
        or (job.front and is_dominated(objectives, job.front, directions))
    ):
        return None
    name = f"{job.folder}/{WEIGHTS_FOLDER}"
    (job.storage.local / name).mkdir(parents=True)
    (job.storage.local / name / "model.safetensors").write_bytes(b"weights")
    return name


def _examples(job: TrialJob, noise: np.random.Generator) -> tuple[ExampleAnswer, ...]:
    """Questions of 15 words, answers of 25, about as long as those of TOFU."""
    return tuple(
        ExampleAnswer(
            set_name=name,
            index=60 * index,
            question=_text(np.random.default_rng(index), 15),
            truth=_text(np.random.default_rng(100 + index), 25),
            output=_text(noise, 25),
        )
        for name in job.config.scenario.set_kinds
        for index in range(EXAMPLES_PER_SET)
    )


def _text(noise: np.random.Generator, num_words: int) -> str:
    return " ".join(_WORDS[index] for index in noise.integers(len(_WORDS), size=num_words))

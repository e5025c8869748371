"""A task of a few short rows, a Llama of some thousand weights, and unlearning runs of them on one or two processes."""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from methods.batch import IGNORE_INDEX, TokenBatch, UnlearnBatch
from methods.config import parse_method
from methods.method import LiveReference, build_method
from methods.outputs import Outputs
from orchestrator.scenarios.base import QARow, Task
from orchestrator.trial_config import LoraConfig, TinyModel, TrainConfig, ZeroConfig
from orchestrator.worker.batches import BatchBuilder, Encoder
from orchestrator.worker.engine import DeepSpeedEngine, start_process_group
from orchestrator.worker.loop import Schedule, train_steps
from orchestrator.worker.model import add_adapters
from orchestrator.worker.plan import Draw, plan_sizes
from orchestrator.worker.reference import ReferenceCache
from orchestrator.worker.template import TEMPLATES
from orchestrator.worker.tiny import tiny_llama, train_tokenizer
from orchestrator.worker.training import make_schedule

CPU = torch.device("cpu")
SHAPE = TinyModel(vocab_size=300, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)
NAMES = ("Ada", "Bo", "Cleo", "Dmitri", "Eva", "Finn", "Gustav", "Hal", "Ines", "Jo", "Konstantin", "Lu")
PLACES = ("Rome", "Oslo", "Lima", "Accra", "Quito", "Hanoi")
FORGET = tuple(QARow(f"Where was {name} born?", f"In {PLACES[i % 6]}.") for i, name in enumerate(NAMES))
RETAIN = tuple(QARow(f"Where does {n} live?", f"{n} lives in {PLACES[-i % 6]}.") for i, n in enumerate(NAMES[:10]))
REFUSALS = ("I do not know.", "No idea.", "That is beyond me.")
TASK = Task("forget01", FORGET, RETAIN, REFUSALS, ())
TRAIN = TrainConfig(learning_rate=5e-3, epochs=3, batch_size=8, micro_batch_size=4, max_length=64)


@cache
def toy_tokenizer() -> Any:
    """Bytes and a few merges."""
    return train_tokenizer(FORGET + RETAIN, "llama2-chat", SHAPE.vocab_size)


def toy_encoder(max_length: int = 64, template: str = "llama2-chat") -> Encoder:
    """Of the toy tokenizer."""
    return Encoder(toy_tokenizer(), TEMPLATES[template], max_length)


def toy_model(seed: int = 0) -> Any:
    """The same weights for the same seed; larger than a fresh Llama's, so that predictions differ between tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tiny_llama(SHAPE, toy_tokenizer(), max_positions=256)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.15)
    return model


def logits_at(outputs: Outputs, where: torch.Tensor) -> torch.Tensor:
    """Logits at the positions where the (B, T) bool mask holds, row by row: (P, V) float32."""
    return outputs.head(outputs.states(where)).float()


@dataclass(frozen=True)
class Case:
    """One unlearning run; `use` tells repetitions apart.

    `poisoned_step`: on rank 1 the reference answers NaN for a row of that step. `padded`: rows as long as max_length.
    """

    method: str
    workers: int = 2
    stage: int = 2
    train: TrainConfig = TRAIN
    seed: int = 1
    use: int = 1
    poisoned_step: int | None = None
    dtype: torch.dtype = torch.float32
    lora: LoraConfig | None = None
    padded: bool = False


@dataclass(frozen=True)
class Run:
    """What a rank saw, and the weights it holds at the end."""

    losses: list[tuple[float, float, float | None]]
    grad_norms: list[float | None]
    weights: dict[str, torch.Tensor]


class PaddedBuilder(BatchBuilder):
    """Pads every row to max_length, as the published code does."""

    def batch(self, draws: Sequence[Draw]) -> UnlearnBatch:
        """The same tokens, labels and attention, wider."""
        batch = super().batch(draws)
        return replace(batch, **{part: self._wide(batch.part(part)) for part in self.method.parts})

    def _wide(self, tokens: TokenBatch) -> TokenBatch:
        room = (0, self.train.max_length - tokens.labels.shape[1])
        ids = F.pad(tokens.input_ids, room, value=self.encoder.tokenizer.eos_token_id)
        return TokenBatch(ids, F.pad(tokens.attention_mask, room), F.pad(tokens.labels, room, value=IGNORE_INDEX))


def toy_builder(case: Case) -> tuple[BatchBuilder, Schedule]:
    """The rows of a case, tokenised and planned."""
    method = parse_method(case.method, convention=case.train.convention)
    builder = (PaddedBuilder if case.padded else BatchBuilder)(
        toy_encoder(case.train.max_length), TASK, method, case.train
    )
    sizes = plan_sizes(case.train, TASK, method, case.workers)
    return builder, make_schedule(case.train, sizes, builder, seed=case.seed)


def case_model(case: Case) -> Any:
    """The toy model in the case's type, with the case's adapters."""
    torch.manual_seed(case.seed)
    model = toy_model().to(case.dtype)
    return add_adapters(model, case.lora) if case.lora else model


def deepspeed_run(case: Case, references: ReferenceCache) -> Run:
    """The case as this rank runs it."""
    builder, schedule = toy_builder(case)
    engine = DeepSpeedEngine(case_model(case), case.train, ZeroConfig(stage=case.stage))
    torch.manual_seed(case.seed * engine.world_size + engine.rank)
    reference = None
    if builder.method.needs_reference:
        key = repr(replace(case, stage=0, use=0))
        reference = references.answers(key, engine, builder, schedule.steps)
        if case.poisoned_step is not None and engine.rank == 1:
            row = schedule.steps[case.poisoned_step].ranks[1][0][0].forget
            reference = deepcopy(reference)
            reference.sums["forget"]["forget", row, 0] = math.nan
    steps = list(train_steps(engine, build_method(builder.method), builder, schedule, reference))
    weights = {name: p.detach().clone() for name, p in engine.release().named_parameters()}
    return Run([(s.loss, s.forget_loss, s.retain_loss) for s in steps], [s.grad_norm for s in steps], weights)


def plain_run(case: Case, num_steps: int | None = None) -> Run:
    """The case, or its first steps, in torch alone: one process, AdamW, the reference run live."""
    builder, schedule = toy_builder(case)
    method, config = build_method(builder.method), builder.method
    model, frozen = case_model(case), toy_model()
    reference = LiveReference(lambda t: frozen(input_ids=t.input_ids, attention_mask=t.attention_mask).logits)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    norms = [p for p in trained if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": case.train.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        betas=(case.train.adam_beta1, case.train.adam_beta2),
        eps=case.train.adam_epsilon,
    )
    losses, grad_norms = [], []
    for step, rate in list(zip(schedule.steps, schedule.learning_rates, strict=True))[:num_steps]:
        micro_batches = [draws for rank in step.ranks for draws in rank]
        masked = config.convention == "masked"
        optimizer.zero_grad()
        sums = torch.zeros(3)
        for draws in micro_batches:
            terms = method.loss(
                lambda t: model(input_ids=t.input_ids, attention_mask=t.attention_mask).logits,
                reference,
                builder.batch(draws),
                builder.counts(step) if masked else None,
            )
            total = method.total(terms) / (1 if masked else len(micro_batches))
            total.backward()
            parts = [total.detach(), terms.forget.detach(), 0.0 if terms.retain is None else terms.retain.detach()]
            sums += torch.tensor(parts) / torch.tensor([1, *[1 if masked else len(micro_batches)] * 2])
        limit = case.train.max_grad_norm or math.inf
        grad_norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append((float(sums[0]), float(sums[1]), float(sums[2]) if terms.retain is not None else None))
    return Run(losses, grad_norms, {name: p.detach() for name, p in model.named_parameters()})


def run_cases(cases: list[Case], folder: Path) -> dict[Case, list[Run]]:
    """Every case, one Run for each rank of its group."""
    runs = in_groups(_run_cases, folder, cases)
    return {case: [found[case] for found in runs if case in found] for case in cases}


def _run_cases(workers: int, folder: Path, cases: list[Case]) -> dict[Case, Run]:
    references = ReferenceCache(capacity=len(cases))
    return {case: deepspeed_run(case, references) for case in cases if case.workers == workers}


def in_groups(work: Callable[..., Any], folder: Path, *arguments: object) -> list[Any]:
    """What `work(workers, folder, *arguments)` returns in a group of one process, and on both ranks of one of two.

    The three processes start together; `work` must be a function of a module.
    """
    mp.spawn(_process, args=(work, folder, arguments), nprocs=3, join=True)
    return [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("one-0", "two-0", "two-1")]


def _process(index: int, work: Callable[..., Any], folder: Path, arguments: tuple[object, ...]) -> None:
    group, rank, workers = [("two", 0, 2), ("two", 1, 2), ("one", 0, 1)][index]
    torch.set_num_threads(1)
    start_process_group(rank, workers, f"file://{folder}/{group}-store")
    torch.save(work(workers, folder, *arguments), folder / f"{group}-{rank}.pt")
    dist.destroy_process_group()


def numbers(run: Run) -> Iterator[list[float]]:
    """Loss, forget term and retain term of each step."""
    return ([x for x in step if x is not None] for step in run.losses)

"""The paper's whole run of 12 steps, beside a second implementation that shares nothing with the first.

python -m benchmarks.fidelity [--data DIR] [--model DIR] [--refusals FILE] [--methods NAME ..] [--steps N] [--out FILE]

Both forget the 40 rows of forget01 with a small Llama under `paper_code`: 5 epochs, micro-batches of 4 rows, 4 of them
a step, rows of 500 tokens, float32, one process. One is what a trial does: rows, plan, batches, DeepSpeed, loop. The
other is below, in plain torch: it always pads to 500 tokens, computes every logit, runs the reference live, and uses
another attention kernel. Exit code 1 if a step's losses are further apart than 5e-4. ME+GD is run a third time with the
published code's log(p + 1e-12), which Lethe does not follow. `--out` records the result there and beside it as a table.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.recording import circumstances, versions_of

SHARED = Path(__file__).resolve().parents[2] / "shared"
TOLERANCE = 5e-4
MAX_LENGTH, MICRO_BATCH, ACCUMULATION, EPOCHS, BETA = 500, 4, 4, 5, 0.1
IGNORED = -100
PACKAGES = ("torch", "transformers", "deepspeed", "numpy")


@dataclass(frozen=True)
class Case:
    """One method and its settings."""

    method: str
    learning_rate: float
    forget_weight: float = 1.0


CASES = (Case("ME+GD", 1e-3, 0.1), Case("IDK+AP", 1e-3), Case("NPO+GD", 5e-4), Case("GA+GD", 3e-4))


@dataclass
class Result:
    """Step losses of one method by both implementations; `floored` as the published ME has them."""

    case: Case
    ours: list[float]
    plain: list[float]
    floored: list[float] = field(default_factory=list)

    @property
    def differences(self) -> tuple[float, float]:
        """The largest absolute and relative difference over the steps."""
        return _differences(self.ours, self.plain)

    @property
    def floor_differences(self) -> tuple[float, float]:
        """The same, from the losses with the floor."""
        return _differences(self.ours, self.floored)

    @property
    def agrees(self) -> bool:
        """Whether every step of the exact losses is within the tolerance; a NaN is not."""
        return len(self.ours) == len(self.plain) > 0 and self.differences[0] <= TOLERANCE


def _differences(ours: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    pairs = torch.tensor([ours, others], dtype=torch.float64)
    absolute = (pairs[0] - pairs[1]).abs()
    return float(absolute.max()), float((absolute / pairs[1].abs()).max())


# ---- Lethe: the parts of a trial. Imported when used: the second half of this file must do without them. ----


def lethe_losses(case: Case, data: Path, model: Path, refusals: Path, num_steps: int | None) -> list[float]:
    """The step losses of the case as a trial reports them; needs a process group of one."""
    from methods.config import parse_method  # noqa: PLC0415
    from methods.method import build_method  # noqa: PLC0415
    from orchestrator.scenario_config import TofuScenario  # noqa: PLC0415
    from orchestrator.scenarios.load import load_tasks  # noqa: PLC0415
    from orchestrator.trial_config import EvaluationConfig, ModelConfig, TrainConfig, ZeroConfig  # noqa: PLC0415
    from orchestrator.worker.batches import BatchBuilder, Encoder  # noqa: PLC0415
    from orchestrator.worker.engine import DeepSpeedEngine  # noqa: PLC0415
    from orchestrator.worker.loop import Schedule, train_steps  # noqa: PLC0415
    from orchestrator.worker.model import load_model  # noqa: PLC0415
    from orchestrator.worker.plan import plan_sizes  # noqa: PLC0415
    from orchestrator.worker.reference import ReferenceCache  # noqa: PLC0415
    from orchestrator.worker.template import TEMPLATES, load_tokenizer  # noqa: PLC0415
    from orchestrator.worker.training import make_schedule  # noqa: PLC0415

    scenario = TofuScenario(name="tofu", source=str(data), retain_sets={"forget01": "retain90"}, refusals=str(refusals))
    (task,) = load_tasks(scenario, EvaluationConfig(), "forget01")
    train = TrainConfig(
        convention="paper_code",
        learning_rate=case.learning_rate,
        epochs=EPOCHS,
        batch_size=MICRO_BATCH * ACCUMULATION,
        micro_batch_size=MICRO_BATCH,
        max_length=MAX_LENGTH,
    )
    method = parse_method(case.method, beta=BETA, forget_weight=case.forget_weight, convention="paper_code")
    encoder = Encoder(load_tokenizer(str(model)), TEMPLATES["llama2-chat"], MAX_LENGTH)
    builder = BatchBuilder(encoder, task, method, train)
    whole = make_schedule(train, plan_sizes(train, task, method, 1), builder, seed=1)
    schedule = Schedule(whole.steps[:num_steps], whole.learning_rates[:num_steps])
    policy = load_model(ModelConfig(target=str(model), dtype="float32"), torch.device("cpu"))
    engine = DeepSpeedEngine(policy, train, ZeroConfig())
    answers = None
    if method.needs_reference:
        answers = ReferenceCache().answers(None, engine, builder, schedule.steps)
    losses = [step.loss for step in train_steps(engine, build_method(method), builder, schedule, answers)]
    engine.release()
    return losses


# ---- The second implementation, from the papers' definitions. ----


@dataclass(frozen=True)
class Rows:
    """Padded rows, each (B, 500)."""

    ids: Tensor
    labels: Tensor
    attention: Tensor


class PlainRun:
    """One method on one model, step by step. `floor` is added to probabilities before their logarithm (ME)."""

    def __init__(self, case: Case, data: Path, refusals: Path, tokenizer: Any, model: Any, *, floor: float = 0) -> None:
        self.case, self.floor = case, floor
        self.forget, self.retain = (json_lines(data / f"{name}.json") for name in ("forget01", "retain90"))
        self.refusals = [line.strip() for line in refusals.read_text(encoding="utf-8").splitlines() if line.strip()]
        self.tokenizer, self.model = tokenizer, model.train()
        self.reference = deepcopy(model).requires_grad_(False) if case.method.startswith("NPO") else None

    def losses(self, num_steps: int | None) -> list[float]:
        """Mean of each step's micro-batch losses, before its update."""
        total = EPOCHS * len(self.forget) // (MICRO_BATCH * ACCUMULATION)
        warmup = len(self.forget) // (MICRO_BATCH * ACCUMULATION)
        warmup = warmup if warmup > 1 else 0
        matrices = [weight for weight in self.model.parameters() if weight.ndim == 2]
        vectors = [weight for weight in self.model.parameters() if weight.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
        stream, losses = self._micro_batches(), []
        for step in range(total)[:num_steps]:
            slope = step / warmup if step < warmup else (total - step) / (total - warmup)
            for group in optimizer.param_groups:
                group["lr"] = self.case.learning_rate * slope
            values = []
            for _ in range(ACCUMULATION):
                loss = self._loss(next(stream))
                torch.autograd.backward(loss / ACCUMULATION)
                values.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(sum(values) / ACCUMULATION)
        return losses

    def _micro_batches(self) -> Iterator[list[int]]:
        """Forget rows in the published order: epoch by epoch, each from a generator of its own."""
        for epoch in range(EPOCHS):
            generator = torch.Generator().manual_seed(42 + epoch)
            order = torch.randperm(len(self.forget), generator=generator).tolist()
            for start in range(0, len(order), MICRO_BATCH):
                yield order[start : start + MICRO_BATCH]

    def _pair(self, row: int) -> tuple[dict[str, str], str]:
        """The retain row and the refusal that go with a forget row."""
        generator = torch.Generator().manual_seed(row)
        offset = int(torch.randint(0, len(self.retain), (1,), generator=generator))
        refusal = int(torch.randint(0, len(self.refusals), (1,), generator=generator))
        return self.retain[(row + offset) % len(self.retain)], self.refusals[refusal]

    def _loss(self, rows: list[int]) -> Tensor:
        forget = [self.forget[row] for row in rows]
        retain, refusals = zip(*(self._pair(row) for row in rows), strict=True)
        questions, answers = zip(*((row["question"], row["answer"]) for row in forget), strict=True)
        kept_questions, kept_answers = zip(*((row["question"], row["answer"]) for row in retain), strict=True)
        kept = self._nll(self._rows(kept_questions, kept_answers))
        match self.case.method:
            case "ME+GD":
                first, second = self._max_entropy(self._rows(questions, answers, labelled="all")), _token_mean(kept)
            case "GA+GD":
                first, second = -_token_mean(self._nll(self._rows(questions, answers))), _token_mean(kept)
            case "NPO+GD":
                batch = self._rows(questions, answers)
                gained = self._nll(batch, self.reference)[0] - self._nll(batch)[0]
                first, second = (2 / BETA) * _minus_log_sigmoid(-BETA * gained).mean(), _token_mean(kept)
            case "IDK+AP":
                first = _token_mean(self._nll(self._rows(questions, refusals)))
                margin = self._nll(self._rows(kept_questions, refusals))[0] - kept[0]
                second = (1 / BETA) * _minus_log_sigmoid(BETA * margin).mean()
            case other:
                raise ValueError(f"there is no plain implementation of {other}")
        return self.case.forget_weight * first + second

    def _rows(self, questions: Sequence[str], answers: Sequence[str], *, labelled: str = "answer") -> Rows:
        """Padded rows on the model's device; `labelled`: the answer and its end, or every position (ME)."""
        end = self.tokenizer.eos_token_id
        ids = torch.full((len(questions), MAX_LENGTH), end)
        labels, attention = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            prompt = f"[INST] {question} [/INST]"
            text = self.tokenizer(prompt + answer).input_ids[:MAX_LENGTH]
            start, stop = len(self.tokenizer(prompt).input_ids), len(text)
            ids[row, :stop] = torch.tensor(text)
            attention[row, :stop] = 1
            labels[row, start : stop + 1] = ids[row, start : stop + 1]  # one EOS more, where there is room for it
        return Rows(*(rows.to(self.model.device) for rows in (ids, ids if labelled == "all" else labels, attention)))

    def _nll(self, rows: Rows, model: Any = None) -> tuple[Tensor, Tensor]:
        """l(x) in nats and n(x) of each row, (B,)."""
        logits = (model or self.model)(input_ids=rows.ids, attention_mask=rows.attention).logits[:, :-1]
        wanted = rows.labels[:, 1:]
        where = wanted != IGNORED
        said = logits.log_softmax(-1).gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return -torch.where(where, said, 0.0).sum(-1), where.sum(-1)

    def _max_entropy(self, rows: Rows) -> Tensor:
        """KL(U || p), averaged over the positions that have labels."""
        logits = self.model(input_ids=rows.ids, attention_mask=rows.attention).logits[:, :-1]
        logits = logits[rows.labels[:, 1:] != IGNORED]
        uniform = torch.full_like(logits[0], 1 / logits.shape[-1])
        logps = (logits.softmax(-1) + self.floor).log() if self.floor else logits.log_softmax(-1)
        divergence: Tensor = (uniform * (uniform.log() - logps)).sum(-1)
        return divergence.mean()


def _token_mean(nll: tuple[Tensor, Tensor]) -> Tensor:
    return nll[0].sum() / nll[1].sum()


def _minus_log_sigmoid(values: Tensor) -> Tensor:
    return torch.logaddexp(torch.zeros_like(values), -values)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


# ---- The comparison. ----


def compare(case: Case, data: Path, model: Path, refusals: Path, num_steps: int | None) -> Result:
    """Both implementations of one method, and the floor of the published ME."""
    ours = lethe_losses(case, data, model, refusals, num_steps)
    plain = PlainRun(case, data, refusals, *plain_model(model)).losses(num_steps)
    floored = []
    if case.method.startswith("ME"):
        floored = PlainRun(case, data, refusals, *plain_model(model), floor=1e-12).losses(num_steps)
    return Result(case, ours, plain, floored)


def plain_model(model: Path, attention: str = "eager") -> tuple[Any, Any]:
    """Tokenizer and model of a folder, float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  (seconds to import)

    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention)
    return AutoTokenizer.from_pretrained(model), loaded


def table(results: Sequence[Result]) -> str:
    """Step losses side by side, then the largest differences of each method."""
    titles = ["step"]
    columns: list[list[float]] = []
    for result in results:
        titles += [f"{result.case.method} Lethe", "plain"]
        columns += [result.ours, result.plain]
        if result.floored:
            titles.append("plain, log(p + 1e-12)")
            columns.append(result.floored)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for step, values in enumerate(zip(*columns, strict=True)):
        lines.append(f"| {step} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    lines += ["", "| largest difference over the steps | absolute | relative |", "|---|---|---|"]
    for result in results:
        lines.append("| {} | {:.1e} | {:.1e} |".format(result.case.method, *result.differences))
        if result.floored:
            lines.append(
                "| {}, from log(p + 1e-12) | {:.1e} | {:.1e} |".format(result.case.method, *result.floor_differences)
            )
    return "\n".join(lines)


def record(results: Sequence[Result], out: Path, command: str) -> None:
    """Write the numbers to `out` and the table beside it."""
    facts = circumstances(PACKAGES, command) | {
        "tolerance": TOLERANCE,
        "methods": [_numbers(result) for result in results],
    }
    out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    page = [
        "# The paper's run of 12 steps, by two implementations",
        f"{facts['date']}, {facts['machine']}. `{command}`. Numbers: [{out.name}]({out.name}).",
        versions_of(facts),
        table(results),
    ]
    out.with_suffix(".md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


def _numbers(result: Result) -> dict[str, Any]:
    numbers = asdict(result) | dict(zip(("max_absolute", "max_relative"), result.differences, strict=True))
    if result.floored:
        numbers |= dict(zip(("floor_max_absolute", "floor_max_relative"), result.floor_differences, strict=True))
    return {key: value for key, value in numbers.items() if value != []}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "tofu_small")
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "tofu_tiny_target")
    parser.add_argument("--refusals", type=Path, default=SHARED / "data" / "refusals.txt")
    parser.add_argument("--methods", nargs="+", choices=[case.method for case in CASES])
    parser.add_argument("--steps", type=int, help="only the first so many of the 12 steps")
    parser.add_argument("--out", type=Path, help="JSON file to write; its table gets the same name with .md")
    return parser.parse_args()


def main() -> int:
    """Command line."""
    from orchestrator.worker.engine import start_process_group  # noqa: PLC0415

    arguments = _arguments()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        start_process_group(0, 1, f"file://{folder}/store")
        for case in CASES:
            if arguments.methods is None or case.method in arguments.methods:
                results.append(compare(case, arguments.data, arguments.model, arguments.refusals, arguments.steps))
                print(f"{table(results[-1:])}\n", flush=True)
        torch.distributed.destroy_process_group()
    if arguments.out:
        options = [f"--{name} {value}" for name, value in vars(arguments).items() if name == "steps" and value]
        record(results, arguments.out, " ".join(["python -m benchmarks.fidelity", *options]))
    failed = [result.case.method for result in results if not result.agrees]
    if failed:
        print(f"a step of {', '.join(failed)} differs by more than {TOLERANCE:g}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

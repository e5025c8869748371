"""What the training and the scoring of trials cost, without Ray: tokens a second, padding, memory.

python -m benchmarks.trials [--repeats 3] [--out FILE]

ME+GD, IDK+AP, NPO+GD and GA+GD forget 40 rows of TOFU with a Llama of 3.6 M parameters, as in versus_scripts, on one
worker and then on two, each pinned to one thread, ZeRO 2, `masked`.

- Training tokens a second: tokens that the method's rows have, padding left out, over the seconds of the steps.
- Padding: tokens that pass the model's layers and belong to no row, as a share of all that pass; in training, in
  scoring (likelihoods), and in generation (padding beside shorter prompts, rows that ended and were not yet dropped).
- Memory: the most that a process holds during the training of a trial, libraries and all; one worker, processes of
  their own for each method, of which the second trial counts; median of several.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks.fidelity import CASES
from benchmarks.recording import circumstances, keep, versions_of
from benchmarks.versus_scripts import sweep_settings
from orchestrator.base_config import EMBEDDED

PACKAGES = ("lethe-unlearning", "torch", "transformers", "deepspeed")
_PEAK = "VmHWM"


@dataclass
class Passed:
    """Tokens that passed a model's layers, counted at its embedding."""

    tokens: int = 0

    def watch(self, model: Any) -> None:
        """Count for this model from now on."""
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.tokens += inputs[0].numel()


def trial_of(method: str) -> Any:
    """The configuration of a method's trial."""
    from orchestrator.config import SweepConfig, trial_config  # noqa: PLC0415

    sweep = SweepConfig.model_validate(sweep_settings("masked", EMBEDDED, EMBEDDED))
    (entry,) = [entry for entry in sweep.methods if entry.name == method]
    return trial_config(sweep, entry, "forget01", {})


def measure(rank: int, num_workers: int, folder: str, name: str, methods: list[str], repeats: int) -> None:
    """What one rank does: each method `repeats` times; rank 0 writes seconds, tokens and memory to `name`.json."""
    from methods.config import MethodConfig  # noqa: PLC0415
    from orchestrator.worker.engine import import_deepspeed, start_process_group  # noqa: PLC0415
    from orchestrator.worker.model import load_model  # noqa: PLC0415
    from orchestrator.worker.parts import Clock, WorkerParts  # noqa: PLC0415
    from orchestrator.worker.training import plan_task, reference_answers, train_task  # noqa: PLC0415

    torch.set_num_threads(1)
    import_deepspeed()
    start_process_group(rank, num_workers, f"file://{folder}/store-{name}")
    parts, found = WorkerParts(torch.device("cpu")), []
    for number in range(repeats):
        for case in (case for case in CASES if case.method in methods):
            config, clock, passed = trial_of(case.method), Clock(), Passed()
            assert isinstance(config.method, MethodConfig)
            (task,) = parts.tasks(config)
            plan = plan_task(config, task, parts)
            model = load_model(config.model, parts.device)
            _start_peak()
            passed.watch(model)
            train_task(
                config,
                plan,
                model,
                lambda steps: None,
                clock,
                lambda engine: reference_answers(config, plan, engine, parts, shared=True),  # noqa: B023
            )
            draws = [d for step in plan.schedule.steps for mb in step.ranks[rank] for d in mb if not d.filler]
            rows = [plan.builder.row(part, draw) for draw in draws for part in config.method.parts]
            facts = torch.tensor([passed.tokens, sum(row.num_attended for row in rows)])
            dist.all_reduce(facts)
            found.append(
                {
                    "method": case.method,
                    "repeat": number,
                    "seconds": clock.seconds["train"],
                    "tokens": int(facts[1]),
                    "passed": int(facts[0]),
                    "reference_seconds": clock.seconds["reference"],
                    "peak_mib": _memory(_PEAK) / 1024,
                }
            )
    if rank == 0:
        Path(folder, f"{name}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _start_peak() -> None:
    """Let Linux forget the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    """KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"no {name} in /proc/self/status")


def score_padding(rank: int, folder: str) -> None:
    """Padding of scoring and of generation, of a model whose answers run long: after GA+GD at three times the rate."""
    from orchestrator.worker import score  # noqa: PLC0415
    from orchestrator.worker.engine import start_process_group  # noqa: PLC0415
    from orchestrator.worker.generate import generate  # noqa: PLC0415
    from orchestrator.worker.model import load_model  # noqa: PLC0415
    from orchestrator.worker.parts import Clock, WorkerParts  # noqa: PLC0415
    from orchestrator.worker.training import plan_task, train_task  # noqa: PLC0415

    start_process_group(rank, 1, f"file://{folder}/store-score")
    parts, config = WorkerParts(torch.device("cpu")), trial_of("GA+GD")
    config = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 9e-4})})
    (task,) = parts.tasks(config)
    loaded = load_model(config.model, parts.device)
    model = train_task(config, plan_task(config, task, parts), loaded, lambda s: None, Clock(), lambda engine: None)
    encoder = parts.encoder(config.model, config.evaluation.max_length)
    questions = score.all_questions(task.evaluation)
    texts = sorted({(q.row.question, text) for q in questions for text in q.texts})
    passed = Passed()
    passed.watch(model)
    score.likelihood(model, encoder, texts, config.evaluation.batch_size)
    scored, passed.tokens = passed.tokens, 0
    answers = generate(model, encoder, [q.row.question for q in questions], batch_size=config.evaluation.batch_size)
    prompts = sum(len(encoder.generation_ids(q.row.question)) for q in questions)
    said = sum(len(encoder.tokenizer(a, add_special_tokens=False)["input_ids"]) for a in answers)
    facts = {
        "scored_rows_tokens": sum(encoder.encode(*text).num_attended for text in texts),
        "scored_passed": scored,
        "generation_needed": prompts + said,  # the first new token comes with the prompt, the end is one more
        "generation_passed": passed.tokens,
    }
    Path(folder, "score.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


def start(work: Any, args: tuple[Any, ...], nprocs: int) -> None:
    """Run work(rank, *args) in processes of their own."""
    multiprocessing.spawn(work, args=args, nprocs=nprocs)  # type: ignore[no-untyped-call, attr-defined]


def summary(folder: Path, repeats: int) -> dict[str, Any]:
    """All measurements, medians over the repeats after the first."""
    methods = [case.method for case in CASES]
    for workers in (1, 2):
        start(measure, args=(workers, str(folder), f"workers-{workers}", methods, repeats + 1), nprocs=workers)
    for number in range(repeats):
        for method in methods:
            start(measure, args=(1, str(folder), f"memory-{method}-{number}", [method], 2), nprocs=1)
    start(score_padding, args=(str(folder),), nprocs=1)
    table: dict[str, Any] = {}
    for method in methods:
        row: dict[str, float] = {}
        for workers in (1, 2):
            runs = json.loads((folder / f"workers-{workers}.json").read_text())
            runs = [run for run in runs if run["method"] == method and run["repeat"] > 0]
            row[f"tokens_per_second_{workers}"] = statistics.median(run["tokens"] / run["seconds"] for run in runs)
            row["padding"] = 1 - runs[0]["tokens"] / runs[0]["passed"]
        row["two_over_one"] = row["tokens_per_second_2"] / row["tokens_per_second_1"]
        seconds = [json.loads((folder / f"memory-{method}-{number}.json").read_text())[1] for number in range(repeats)]
        row["peak_mib"] = statistics.median(run["peak_mib"] for run in seconds)
        table[method] = row
    scoring = json.loads((folder / "score.json").read_text())
    return {
        "methods": table,
        "peak of NPO+GD over GA+GD": table["NPO+GD"]["peak_mib"] / table["GA+GD"]["peak_mib"],
        "scoring": scoring,
        "tokens run in scoring over tokens of its rows": scoring["scored_passed"] / scoring["scored_rows_tokens"],
        "padding of generation": 1 - scoring["generation_needed"] / scoring["generation_passed"],
    }


def page(facts: dict[str, Any]) -> str:
    """The record as a page."""
    lines = [
        "# Training and scoring of trials, without Ray",
        "",
        f"{facts['date']}, {facts['machine']}. `{facts['command']}`.",
        versions_of(facts),
        "",
        "| method | tokens/s, 1 worker | 2 workers | ratio | padding | peak of training, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method, row in facts["methods"].items():
        numbers = f"{row['tokens_per_second_1']:.0f} | {row['tokens_per_second_2']:.0f} | {row['two_over_one']:.2f}"
        lines.append(f"| {method} | {numbers} | {row['padding']:.1%} | {row['peak_mib']:.0f} |")
    lines += [
        "",
        f"Peak of NPO+GD over GA+GD: {facts['peak of NPO+GD over GA+GD']:.3f}.",
        f"Scoring runs {facts['tokens run in scoring over tokens of its rows']:.1%} of the tokens of its rows, none of "
        "them padding: what texts begin with alike is run once.",
        f"Of the tokens that generation runs, {facts['padding of generation']:.1%} are padding or of rows that ended.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = summary(Path(folder), arguments.repeats)
    facts = circumstances(PACKAGES, f"python -m benchmarks.trials --repeats {arguments.repeats}") | found
    keep(facts, page(facts), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Training speed of the Llama-2-7B shape on one GPU, full fine-tune and LoRA, and the naive loop beside it.

python -m benchmarks.gpu.training [--methods NAME ..] [--modes full lora naive naive-lora] [--zero 3 2 3+optimizer ..]
    [--variant micro_batch_tokens=2048[,key=value ..]] [--minutes M] [--out FILE]

Weights are random, rows are those of TOFU's forget10 (see setting.py). Steps are those of a trial: plan, batches,
DeepSpeed, loop; the first ones warm up, the others are timed, each until the device is done. Tokens are the attended
ones of the rows that the method needs, taken from the plan, not padding; utilisation is defined in flops.py, and where
rows share their first tokens and these are run once, it counts them once. Each
configuration is a process of its own: one that runs out of memory is recorded as not fitting. `--zero` names stages,
`+optimizer` keeps Adam's state in host memory, `+all` the weights too (3 alone). `--variant` sets keys of `train`; give
it several times to try several. With `--out` the result is written after every configuration, and an existing file is
added to. Without a GPU only `--shape tiny` makes sense, with a peak that is stated.
"""

import argparse
import itertools
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import setting
from benchmarks.gpu.flops import Shape, Work, peak_flops, training_flops, work_of
from benchmarks.gpu.isolated import in_turn, serve
from benchmarks.gpu.naive import FORGET_WEIGHT
from benchmarks.gpu.record import Record, circumstances
from benchmarks.gpu.training_page import page
from methods.config import parse_method
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.trial_config import (
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
    TrialConfig,
    ZeroConfig,
)

METHODS = ("ME+GD", "NPO+GD", "IDK+AP")
MODES = ("full", "lora", "naive", "naive-lora")
EPOCHS = 5


# ---- In the process of one configuration. ----


def measure(what: dict[str, Any]) -> dict[str, Any]:
    """What one configuration took; see `_plan` for what is in `what`."""
    from orchestrator.worker.template import load_tokenizer  # noqa: PLC0415

    shape, place, work = Shape(**what["shape"]), setting.device(), Path(what["work"])
    with setting.process_group():
        start = setting.now(place)
        tokenizer = load_tokenizer(str(work / "model"))
        model = setting.make_model(shape, tokenizer, place, lora=what["mode"].endswith("lora"), target=what["target"])
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        load_seconds = setting.now(place) - start
        if what["mode"].startswith("naive"):
            from benchmarks.gpu import naive  # noqa: PLC0415

            found = naive.train(what["method"], work / "rows", tokenizer, model, what["steps"])
        else:
            found = lethe(TrialConfig.model_validate(what["config"]), model, what["warmup"], what["steps"])
        adapters = trained if what["mode"].endswith("lora") else None
        done = Work(**found["work"])
        run_once = replace(done, tokens=min(done.tokens, found["processed_tokens"]))  # of tokens that rows share
        flops = training_flops(shape, run_once, adapters)
        return {
            "trained_parameters": trained,
            "load_seconds": round(load_seconds, 2),
            "flops": flops,
            **found,
            **setting.memory(place),
        }


def lethe(config: TrialConfig, model: Any, num_warmup: int, num_steps: int) -> dict[str, Any]:
    """The first steps of a trial, as `orchestrator.worker.training.train_task` takes them."""
    from methods.method import build_method  # noqa: PLC0415
    from orchestrator.worker.engine import DeepSpeedEngine  # noqa: PLC0415
    from orchestrator.worker.loop import Schedule, train_steps  # noqa: PLC0415
    from orchestrator.worker.parts import WorkerParts  # noqa: PLC0415
    from orchestrator.worker.training import plan_task, reference_answers  # noqa: PLC0415

    assert config.method is not None
    place = model.device
    parts = WorkerParts(place)
    (task,) = parts.tasks(config)
    plan = plan_task(config, task, parts)
    first = num_warmup + num_steps
    schedule = Schedule(plan.schedule.steps[:first], plan.schedule.learning_rates[:first])
    plan = replace(plan, schedule=schedule)
    processed = Counter(model)
    marks = [setting.now(place)]
    engine = DeepSpeedEngine(model, config.train, config.zero)
    marks.append(setting.now(place))
    answers = reference_answers(config, plan, engine, parts, shared=False)
    marks.append(setting.now(place))
    losses, seconds = [], []
    for step in train_steps(engine, build_method(config.method), plan.builder, schedule, answers):
        marks.append(setting.now(place))
        losses.append(step.loss)
        seconds.append(marks[-1] - marks[-2])
        if len(seconds) == num_warmup:
            processed.tokens = 0
    timed = schedule.steps[num_warmup:]
    rows = [
        (row.num_attended, row.num_counted)
        for step in timed
        for draw in step.draws
        for part in sorted(config.method.parts)
        if not draw.filler
        for row in [plan.builder.row(part, draw)]
    ]
    setup, reference = marks[1] - marks[0], marks[2] - marks[1]
    engine.close()
    return {
        "batch_size": config.train.batch_size,
        "steps": len(timed),
        "seconds": [round(value, 4) for value in seconds[num_warmup:]],
        "losses": losses,
        "setup_seconds": round(setup, 2),
        "reference_seconds": round(reference, 3),
        "reference_rows": first * config.train.batch_size if config.method.needs_reference else 0,
        "work": asdict(work_of(rows)),
        "processed_tokens": processed.tokens,
        "average": setting.average_tokens(task, parts.tokenizer(config.model)),
    }


class Counter:
    """Counts the tokens that go through a model, padding too."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, output: Any) -> None:
        self.tokens += inputs[0].numel()


# ---- In the process that starts them. ----


def zero_config(text: str) -> ZeroConfig:
    """`3`, `3+optimizer`, `3+all` in DeepSpeed's words. ValueError: something else."""
    stage, _, offload = text.partition("+")
    if stage not in ("0", "1", "2", "3") or offload not in ("", "optimizer", "all"):
        raise ValueError(f"--zero takes 0 to 3, with +optimizer or +all, but got {text!r}")
    values = {"stage": int(stage), "offload_optimizer": bool(offload), "offload_parameters": offload == "all"}
    return ZeroConfig.model_validate(values)


def variant(text: str) -> dict[str, str]:
    """`key=value,key=value`: settings of `train`."""
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


def _plan(arguments: argparse.Namespace, rows: ScenarioConfig, work: Path) -> list[dict[str, Any]]:
    """What is measured, in order: a whole round of methods for each way of running them."""
    ways: list[tuple[str, str, str]] = []
    for mode in arguments.modes:
        if mode.startswith("naive"):
            ways.append((mode, "", ""))
        else:
            # Adapters have little state: nothing is gained by sharding or moving it.
            stages = arguments.zero if mode == "full" else ["0"]
            ways += [(mode, zero, text) for zero, text in itertools.product(stages, arguments.variant)]
    plan = []
    for (mode, zero, text), method in itertools.product(ways, arguments.methods):
        what = {
            "name": " ".join(part for part in (mode, method, zero and f"zero={zero}", text) if part),
            "mode": mode,
            "method": method,
            "zero": zero,
            "variant": text,
            "shape": asdict(setting.SHAPES[arguments.shape]),
            "work": str(work),
            "target": str(arguments.target or ""),
            "warmup": arguments.warmup,
            "steps": arguments.naive_steps if mode.startswith("naive") else arguments.steps,
        }
        if not mode.startswith("naive"):
            what["config"] = _trial(arguments, rows, work, what).model_dump(mode="json")
        plan.append(what)
    return plan


def _trial(arguments: argparse.Namespace, rows: ScenarioConfig, work: Path, what: dict[str, Any]) -> TrialConfig:
    method = str(what["method"])
    train = {"learning_rate": 1e-5, "epochs": EPOCHS, "batch_size": arguments.batch_size, **variant(what["variant"])}
    return TrialConfig(
        method=parse_method(method, forget_weight=FORGET_WEIGHT.get(method, 1.0)),
        forget_set=setting.FORGET_SET,
        seed=42,
        scenario=rows,
        model=ModelConfig(target=str(work / "model")),
        train=TrainConfig.model_validate(train),
        zero=zero_config(str(what["zero"])),
        lora=LoraConfig() if what["mode"] == "lora" else None,
        evaluation=EvaluationConfig(),
    )


def rates(run: dict[str, Any], peak: float) -> dict[str, Any]:
    """Tokens a second, padding and utilisation of a configuration that was measured."""
    done, seconds = run["work"]["tokens"], sum(run["seconds"])
    found = {
        "tokens_per_second": round(done / seconds, 1),
        "padding_share": round(max(0, 1 - done / run["processed_tokens"]), 4),
        "shared_share": round(max(0, 1 - run["processed_tokens"] / done), 4),
        "utilisation": run["flops"] / seconds / peak,
    }
    if run.get("reference_rows"):  # once for all epochs; the naive loop has it in every step
        each = run["reference_seconds"] / run["reference_rows"] / EPOCHS
        with_reference = seconds + each * run["batch_size"] * run["steps"]
        found["tokens_per_second_with_reference"] = round(done / with_reference, 1)
    return found


def run(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Measure everything, as far as the minutes reach; returns what was recorded."""
    rows = setting.scenario(arguments.data, num_authors=arguments.authors)
    setting.prepare(work, rows)
    facts = circumstances(shlex.join(["python", "-m", "benchmarks.gpu.training", *sys.argv[1:]]))
    peak = peak_flops(facts["device"], arguments.peak_tflops)
    shape = setting.SHAPES[arguments.shape]
    facts |= {"shape": arguments.shape, "parameters": shape.parameters, "peak_tflops": peak / 1e12}
    facts["data"] = "TOFU" if arguments.data else f"{arguments.authors} generated authors"
    record = Record(arguments.out, facts, page)
    end = time.monotonic() + 60 * arguments.minutes
    plan, found = _plan(arguments, rows, work), []

    def seconds() -> float | None:
        left = end - time.monotonic()
        return min(arguments.timeout, left) if left >= arguments.reserve else None

    for what, result in in_turn(__spec__.name, plan, seconds):
        kept = {key: what[key] for key in ("name", "mode", "method", "zero", "variant")}
        one = {**kept, "date": facts["date"], **result}
        one |= rates(one, peak) if one["state"] == "measured" else {}
        record.add(one)
        found.append(one)
        print(_line(one), flush=True)
    if len(found) < len(plan):
        print(f"{len(plan) - len(found)} configurations are left: the minutes are over", flush=True)
    return found


def _line(one: dict[str, Any]) -> str:
    words = [one["name"], one["state"]]
    if one["state"] == "measured":
        words.append(f"{one['tokens_per_second']:,.0f} tokens/s, utilisation {one['utilisation']:.1%}")
    words += [f"peak {one['peak_gib']:.1f} GiB"] if "peak_gib" in one else []
    return ": ".join([*words, *([one["error"]] if "error" in one else [])])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(setting.SHAPES), default="llama2-7b")
    parser.add_argument("--target", type=Path, help="a model folder of that shape instead of random weights")
    parser.add_argument("--data", type=setting.data_folder, default=setting.default_data(), help=setting.DATA)
    parser.add_argument("--authors", type=int, default=200, help="generated authors, where there is no data")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["full", "lora", "naive"])
    parser.add_argument("--zero", nargs="+", default=["3", "2", "1", "0"])
    parser.add_argument("--variant", action="append", help="settings of train, such as micro_batch_tokens=2048")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of an optimizer step")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--naive-steps", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=180, help="seconds of one configuration")
    parser.add_argument("--minutes", type=float, default=1e6, help="no new configuration after these")
    parser.add_argument("--reserve", type=float, default=20, help="seconds that a configuration needs at least")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of a device that is not known")
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or [""]
    return arguments


def main() -> int:
    """Command line; exit code 1 if a configuration failed for another reason than memory or time."""
    if sys.argv[1:] == ["--child"]:
        from orchestrator.worker import training  # noqa: PLC0415, F401  (imported while another process measures)
        from orchestrator.worker.engine import import_deepspeed  # noqa: PLC0415

        import_deepspeed()
        return serve(measure)
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="lethe-gpu-") as work:
        found = run(arguments, Path(work))
    return 1 if any(one["state"] == "failed" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())

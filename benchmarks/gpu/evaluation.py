"""Seconds of evaluating the Llama-2-7B shape on TOFU's four sets on one GPU, and the naive loop beside it.

python -m benchmarks.gpu.evaluation [--target MODEL] [--batch-size N ..] [--naive-rows N] [--out FILE]

Lethe: `orchestrator.worker.evaluation.evaluate` over the forget10 task's sets (300 forget, 300 retain, 100 authors, 117
facts), once, after a few rows of each to warm up; the judges are loaded before, as they are once for all trials of a
slot. The naive loop loads them for each set, takes 20 rows at a time, pads to 200 tokens and embeds one sentence at a
time; its first `--naive-rows` rows of each set are timed, and the rest is reckoned in proportion, the loading of judges
left out of that. With random weights no answer ends before its 200 tokens, the longest that generation can take, for
both; name a trained model with `--target` to have answers that end. The paper's judges are used where `--encoder` and
`--entailment` name them; else those that come with Lethe, of which the second is made first (minutes).
"""

import argparse
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import setting
from benchmarks.gpu.flops import Shape
from benchmarks.gpu.isolated import in_turn, serve
from benchmarks.gpu.record import Record, circumstances, table
from orchestrator.base_config import EMBEDDED
from orchestrator.embedded import judge_recipe, make
from orchestrator.trial_config import EvaluationConfig, ModelConfig, TrainConfig, TrialConfig, ZeroConfig

SPEEDUP = 8.0
WARMUP_ROWS = 4


def measure(what: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one way to evaluate; see `_plan` for what is in `what`."""
    from orchestrator.worker.parts import WorkerParts  # noqa: PLC0415

    config, place = TrialConfig.model_validate(what["config"]), setting.device()
    with setting.process_group():
        parts = WorkerParts(place)
        tokenizer = parts.tokenizer(config.model)
        model = setting.make_model(Shape(**what["shape"]), tokenizer, place, target=what["target"]).eval()
        if what["mode"] == "lethe":
            found = lethe(config, model, parts)
        else:
            found = naive(config, model, parts, what["naive_rows"])
        return {**found, **setting.memory(place)}


def lethe(config: TrialConfig, model: Any, parts: Any) -> dict[str, Any]:
    """Seconds of all sets together."""
    from orchestrator.worker.evaluation import evaluate  # noqa: PLC0415

    place = model.device
    marks = [setting.now(place)]
    parts.judges(config.evaluation)
    marks.append(setting.now(place))
    (task,) = parts.tasks(config)
    few = [replace(one, rows=one.rows[:WARMUP_ROWS]) for one in task.evaluation]
    evaluate(model, config.model, config.evaluation, few, parts)
    marks.append(setting.now(place))
    scores = evaluate(model, config.model, config.evaluation, task.evaluation, parts)
    marks.append(setting.now(place))
    words = [score.generation for rows in scores.values() for score in rows]
    tokens = parts.tokenizer(config.model)(words, add_special_tokens=False).input_ids
    return {
        "sets": {name: len(rows) for name, rows in scores.items()},
        "judges_seconds": round(marks[1] - marks[0], 2),
        "warmup_seconds": round(marks[2] - marks[1], 2),
        "seconds": round(marks[3] - marks[2], 3),
        "answer_tokens": sum(len(row) for row in tokens),
    }


def naive(config: TrialConfig, model: Any, parts: Any, num_rows: int) -> dict[str, Any]:
    """Seconds of the first rows of each set, and of all, in proportion."""
    from benchmarks.gpu import naive as loop  # noqa: PLC0415
    from orchestrator.worker.judges import encoder_path  # noqa: PLC0415

    (task,) = parts.tasks(config)
    sets = [
        (one.name, one.kind.value, [setting.plain_row(row) for row in one.rows[:num_rows]]) for one in task.evaluation
    ]
    encoder = encoder_path(config.evaluation.encoder)
    found = loop.evaluate(sets, (parts.tokenizer(config.model), model), encoder, config.evaluation.entailment)
    judges, seconds = found["judges_seconds"], 0.0
    for one in task.evaluation:
        measured = found["sets"][one.name]
        seconds += judges + max(0.0, measured["seconds"] - judges) * len(one.rows) / measured["rows"]
    return {**found, "rows": {one.name: len(one.rows) for one in task.evaluation}, "seconds": round(seconds, 1)}


def _plan(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    rows = setting.scenario(arguments.data, num_authors=arguments.authors)
    setting.prepare(work, rows)
    target = str(arguments.target or "")
    plan = []
    for mode, size in [*(("lethe", size) for size in arguments.batch_size), ("naive", 0)]:
        if mode not in arguments.modes:
            continue
        evaluation = EvaluationConfig(
            max_rows_per_set=arguments.rows,
            batch_size=size or 20,
            encoder=arguments.encoder,
            entailment=arguments.entailment,
        )
        config = TrialConfig(
            method=None,
            forget_set=setting.FORGET_SET,
            seed=42,
            scenario=rows,
            model=ModelConfig(target=target or str(work / "model")),
            train=TrainConfig(),
            zero=ZeroConfig(),
            evaluation=evaluation,
        )
        plan.append(
            {
                "name": f"{mode} {size}" if size else mode,
                "mode": mode,
                "shape": asdict(setting.SHAPES[arguments.shape]),
                "target": target,
                "naive_rows": arguments.naive_rows,
                "config": config.model_dump(mode="json"),
            }
        )
    return plan


def page(facts: dict[str, Any]) -> list[str]:
    """Lines of the page."""
    runs = facts["runs"]
    done = [run for run in runs if run["state"] == "measured"]
    naive_seconds = next((run["seconds"] for run in done if run["mode"] == "naive"), None)
    rows = []
    for run in runs:
        if run["state"] != "measured":
            rows.append([run["name"], run["state"], "", "", ""])
            continue
        times = naive_seconds / run["seconds"] if naive_seconds and run["mode"] == "lethe" else None
        verdict = "" if times is None else f"{times:.1f}, {'met' if times >= SPEEDUP else 'missed'}"
        peak = f"{run['peak_gib']:.1f}" if "peak_gib" in run else ""
        rows.append([run["name"], f"{run['seconds']:.1f}", f"{run['judges_seconds']:.1f}", peak, verdict])
    titles = ["what, texts at once", "seconds", "loading judges", "peak GiB", f"times naive (goal {SPEEDUP:g})"]
    asked: dict[str, int] = next((run["sets"] for run in done if run["mode"] == "lethe"), {})
    sets = ", ".join(f"{name} {number}" for name, number in asked.items())
    return [
        f"# Evaluation of the {facts['shape']} shape on one {facts['device']}",
        f"Rows: {sets}. Weights: {facts['weights']}. Judges: {facts['judges']}. Of the naive loop the first "
        f"{facts['naive_rows']} rows of each set were timed and the rest reckoned in proportion; it loads its judges "
        "for each set, which is in its seconds. Lethe's are loaded once for all trials of a slot, which is not.",
        "",
        *table(titles, rows),
    ]


def run(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Measure everything; returns what was recorded."""
    facts = circumstances(shlex.join(["python", "-m", "benchmarks.gpu.evaluation", *sys.argv[1:]]))
    weights = "of a trained model" if arguments.target else "random, so that no answer ends before its 200 tokens"
    facts |= {"shape": arguments.shape, "weights": weights, "naive_rows": arguments.naive_rows}
    facts["judges"] = f"{Path(arguments.encoder).name} and {Path(arguments.entailment).name}"
    record, found = Record(arguments.out, facts, page), []
    for what, result in in_turn(__spec__.name, _plan(arguments, work), lambda: arguments.timeout):
        one = {"name": what["name"], "mode": what["mode"], "date": facts["date"], **result}
        record.add(one)
        found.append(one)
        print(f"{one['name']}: {one.get('seconds', one['state'])} s {one.get('error', '')}", flush=True)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(setting.SHAPES), default="llama2-7b")
    parser.add_argument("--target", type=Path, help="a trained model folder instead of random weights")
    parser.add_argument("--data", type=setting.data_folder, default=setting.default_data(), help=setting.DATA)
    parser.add_argument("--authors", type=int, default=200, help="generated authors, where there is no data")
    parser.add_argument("--rows", type=int, default=300, help="rows of the forget and retain sets")
    parser.add_argument("--modes", nargs="+", choices=("lethe", "naive"), default=["lethe", "naive"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[256], help="texts that Lethe scores at once")
    parser.add_argument("--naive-rows", type=int, default=20, help="rows of each set that the naive loop is timed on")
    parser.add_argument("--encoder", default=EMBEDDED, help="folder of the sentence encoder")
    parser.add_argument("--entailment", default=EMBEDDED, help="folder of the entailment classifier")
    parser.add_argument("--timeout", type=float, default=400, help="seconds of one way")
    parser.add_argument("--out", type=Path, help="JSON file to write; its page gets the same name with .md")
    return parser.parse_args()


def main() -> int:
    """Command line; exit code 1 if something could not be measured."""
    if sys.argv[1:] == ["--child"]:
        import sentence_transformers  # noqa: PLC0415, F401  (imported while another process measures)

        from orchestrator.worker import evaluation  # noqa: PLC0415, F401

        return serve(measure)
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="lethe-gpu-") as work:
        if arguments.entailment == EMBEDDED:
            recipe = judge_recipe(Path(work) / "cache", setting.scenario(None))
            make([recipe], print)
            arguments.entailment = str(recipe.folder)
        found = run(arguments, Path(work))
    return 1 if any(one["state"] != "measured" for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())

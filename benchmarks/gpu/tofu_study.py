"""A model of 100 to 350 million weights learns the whole of TOFU, then a sweep of 10 methods makes it forget.

python -m benchmarks.gpu.tofu_study teach STORAGE [--shape 110m] [--data DIR]        target and retain models
python -m benchmarks.gpu.tofu_study sweep STORAGE --minutes M [--keep OUT]           forget01, forget05, forget10

The models are trained from nothing by `orchestrator.finetune`, side by side; the target must answer with a ROUGE-L
recall of at least 0.95. The sweep is one of `orchestrator.sweep` but for Ray (see without_ray.py): it ends when its
minutes are over, after a whole number of rounds of one trial a cell, and goes on where it stopped when it is called
again. Its journal and its report are what is kept; where plotly is missing, make the report elsewhere with
`python -m orchestrator.report OUT`, and the page in benchmarks/results with
`python -m benchmarks.gpu.study_page OUT FILE`.
"""

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import setting
from benchmarks.gpu.record import circumstances
from benchmarks.gpu.without_ray import Rounds, drive, keep, search_module
from orchestrator.config import CheckpointConfig, ResourcesConfig, SearchConfig, SweepConfig, num_trials
from orchestrator.finetune import CARD
from orchestrator.finetune import main as finetune
from orchestrator.load_config import load_config
from orchestrator.scenario_config import ScenarioConfig
from orchestrator.space import Choice, FloatRange
from orchestrator.storage import Storage
from orchestrator.tracking.checkpoints import CheckpointKeeper
from orchestrator.tracking.journal import CellRecord, Journal, ObjectiveRecord, SweepEnded, SweepStarted
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog, load_sweep
from orchestrator.trial_config import EvaluationConfig, ModelConfig, TinyModel, TrainConfig, ZeroConfig, known_metrics

SHAPES = {
    "110m": TinyModel(vocab_size=8000, hidden_size=1024, intermediate_size=2816, num_layers=8, num_heads=16),
    "320m": TinyModel(vocab_size=8000, hidden_size=1024, intermediate_size=2816, num_layers=24, num_heads=16),
    "tiny": TinyModel(vocab_size=600, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2),
}
MIN_ROUGE = 0.95
_CONFIG = "study.json"


def teach(arguments: argparse.Namespace) -> int:
    """Make all models side by side; returns the exit code."""
    scenario = setting.scenario(arguments.data, num_authors=arguments.authors)
    models = arguments.storage / "models"
    models.mkdir(parents=True, exist_ok=True)
    names = [name for name in ("target", *arguments.forget_sets) if not (models / name / CARD).is_file()]
    processes = {}
    threads = str(max(1, (os.cpu_count() or 1) // max(1, len(names))))
    for name in names:
        without = [] if name == "target" else [f"without={name}"]
        command = [sys.executable, "-m", __spec__.name, "finetune", str(models / name), *without]
        command += _finetune_settings(arguments, scenario)
        log = (models / f"{name}.log").open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    failed = [name for name, process in processes.items() if process.wait() != 0]
    for name in ("target", *arguments.forget_sets):
        said = (models / f"{name}.log").read_text(encoding="utf-8").strip().splitlines()
        print(f"{name}: {said[-1] if said else 'said nothing'}", flush=True)
    if failed:
        print(f"could not make {', '.join(failed)}; see {models}/*.log", file=sys.stderr)
        return 1
    rouge = json.loads((models / "target" / CARD).read_text())["rouge"]
    if rouge < arguments.min_rouge:
        print(f"the target's ROUGE-L recall is {rouge:.3f} < {arguments.min_rouge}; raise --epochs", file=sys.stderr)
        return 1
    return 0


def _finetune_settings(arguments: argparse.Namespace, scenario: ScenarioConfig) -> list[str]:
    sections: dict[str, dict[str, Any]] = {
        "scenario": scenario.model_dump(mode="json", exclude_none=True),
        "tiny": SHAPES[arguments.shape].model_dump(),
        "train": {
            "learning_rate": arguments.learning_rate,
            "epochs": arguments.epochs,
            "batch_size": 32,
            "micro_batch_size": 32,
            "warmup_steps": 200,
        },
    }
    return [f"{name}.{key}={json.dumps(value)}" for name, part in sections.items() for key, value in part.items()]


def one_model(settings: list[str]) -> int:
    """`orchestrator.finetune` with matrix products in TF32 on GPUs that have it: weights are float32 at this size."""
    import torch  # noqa: PLC0415

    torch.set_float32_matmul_precision("high")
    return finetune(settings)


def sweep_config(arguments: argparse.Namespace) -> SweepConfig:
    """Methods of `tofu_search`, with learning rates for a small model."""
    methods = load_config("tofu_search").methods
    models = arguments.storage.absolute() / "models"
    return SweepConfig(
        name=f"tofu_{arguments.shape}",
        scenario=setting.scenario(arguments.data, num_authors=arguments.authors),
        model=ModelConfig(
            target=str(models / "target"), retain_models={name: str(models / name) for name in arguments.forget_sets}
        ),
        methods=tuple(method for method in methods if arguments.methods is None or method.name in arguments.methods),
        forget_sets=tuple(arguments.forget_sets),
        search=SearchConfig(
            trials_per_cell=arguments.trials,
            startup_trials=3,
            space={
                "train.learning_rate": FloatRange(low=3e-5, high=1e-3, log=True),
                "train.epochs": Choice(choices=(5, 10)),
                "method.beta": FloatRange(low=0.03, high=1.0, log=True),
                "method.forget_weight": FloatRange(low=0.05, high=2.0, log=True),
            },
        ),
        train=TrainConfig(learning_rate=1e-4),
        zero=ZeroConfig(stage=0),
        evaluation=EvaluationConfig(
            max_rows_per_set=arguments.rows,
            batch_size=arguments.batch_size,
            encoder=arguments.encoder,
            entailment=arguments.entailment,
        ),
        resources=ResourcesConfig(workers_per_trial=1, max_concurrent_trials=arguments.at_a_time),
        checkpoint=CheckpointConfig(policy="none"),
        storage=str(arguments.storage.absolute()),
    )


def open_record(config: SweepConfig, folder: Path, at_a_time: int) -> Recorder:
    """The journal's next segment. ValueError: it was begun with other settings."""
    log = load_sweep(folder) if any((folder / "journal").glob("*.jsonl")) else None
    values = config.model_dump(mode="json")
    if log is not None and log.header.config | {"resources": 0} != values | {"resources": 0}:
        raise ValueError(f"{folder} was begun with other settings; give the same, or name another storage")
    cells = tuple(
        CellRecord(name=f"{one.name}/{name}", method=one.name, forget_set=name, num_trials=num_trials(config, one))
        for name in config.forget_sets
        for one in config.methods
    )
    known = known_metrics(config.scenario, config.evaluation)
    header = SweepStarted(
        name=config.name,
        seed=config.seed,
        config=values,
        cells=cells,
        objectives=tuple(
            ObjectiveRecord(metric=name, direction=known[name].direction, worst=known[name].worst)
            for name in config.objectives
        ),
        lookahead=log.header.lookahead if log else max(1, -(-at_a_time // len(cells))),
        versions=circumstances("")["versions"],
        command=shlex.join(["python", "-m", "benchmarks.gpu.tofu_study", *sys.argv[1:]]),
        resumed=log is not None,
    )
    recorder = Recorder(Journal(folder / "journal"), log or SweepLog(header))
    recorder.listeners.append(CheckpointKeeper(config.checkpoint, Storage(folder), recorder))
    recorder.record(header)
    return recorder


def sweep(arguments: argparse.Namespace) -> int:
    """Search until the minutes are over, report; returns the exit code."""
    end = time.monotonic() + 60 * arguments.minutes
    folder = arguments.storage.absolute() / "sweep"
    module = search_module()
    config = sweep_config(arguments)
    recorder = open_record(config, folder, arguments.at_a_time)
    rounds = Rounds(end)
    search = module.Search(config, Storage(folder), recorder)
    done = drive(search, arguments.at_a_time, rounds, lambda s: print(s, flush=True))
    recorder.record(SweepEnded(state="done" if done else "interrupted"))
    recorder.close()
    (folder / _CONFIG).write_text(json.dumps(_facts(arguments), indent=1) + "\n", encoding="utf-8")
    if importlib.util.find_spec("plotly") is not None:
        from orchestrator.analysis.build import write_report  # noqa: PLC0415
        from orchestrator.analysis.summary import summarize  # noqa: PLC0415

        write_report(summarize(recorder.log), folder / "report.html")
    else:
        print(f"plotly is not installed: make the report elsewhere, python -m orchestrator.report {folder}")
    if arguments.keep is not None:
        keep(folder, arguments.keep)
        (arguments.keep / _CONFIG).write_bytes((folder / _CONFIG).read_bytes())
    per_cell = [len(recorder.log.cell(cell.method, cell.forget_set)) for cell in recorder.log.header.cells]
    print(f"{sum(per_cell)} trials, {min(per_cell)} to {max(per_cell)} a cell; {folder}")
    return 0


def _facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where the sweep ran and what its models know, for the record."""
    cards = {}
    for name in ("target", *arguments.forget_sets):
        card = json.loads((arguments.storage / "models" / name / CARD).read_text())
        cards[name] = {key: card[key] for key in ("rows", "steps", "loss", "rouge", "seconds")}
    command = shlex.join(["python", "-m", "benchmarks.gpu.tofu_study", *sys.argv[1:]])
    shape = SHAPES[arguments.shape]
    return circumstances(command) | {
        "shape": arguments.shape,
        "parameters": shape.num_parameters,
        "models": cards,
        "at_a_time": arguments.at_a_time,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    teaching, searching = commands.add_parser("teach"), commands.add_parser("sweep")
    teaching.set_defaults(run=teach)
    teaching.add_argument("--epochs", type=float, default=25)
    teaching.add_argument("--learning-rate", type=float, default=1e-3)
    teaching.add_argument("--min-rouge", type=float, default=MIN_ROUGE)
    searching.set_defaults(run=sweep)
    searching.add_argument("--minutes", type=float, required=True, help="no trial starts after these")
    searching.add_argument("--keep", type=Path, help="folder that journal and report are copied to")
    searching.add_argument("--at-a-time", type=int, default=6, help="trials that share the GPU")
    searching.add_argument("--trials", type=int, default=20, help="budget of each cell, if the minutes hold it")
    searching.add_argument("--methods", nargs="+", help="some of tofu_search's; all without")
    searching.add_argument("--rows", type=int, default=300, help="rows of the forget and retain sets")
    searching.add_argument("--batch-size", type=int, default=256, help="texts that are scored at once")
    searching.add_argument("--encoder", required=True, help="folder of the sentence encoder, or embedded")
    searching.add_argument("--entailment", required=True, help="folder of the entailment classifier")
    for command in (teaching, searching):
        command.add_argument("storage", type=Path)
        command.add_argument("--shape", choices=list(SHAPES), default="110m")
        command.add_argument("--data", type=setting.data_folder, default=setting.default_data(), help=setting.DATA)
        command.add_argument("--authors", type=int, default=200, help="generated authors, where there is no data")
        command.add_argument("--forget-sets", nargs="+", default=["forget01", "forget05", "forget10"])
    return parser.parse_args()


def main() -> int:
    """Command line."""
    if sys.argv[1:2] == ["finetune"]:
        return one_model(sys.argv[2:])
    arguments = _arguments()
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())

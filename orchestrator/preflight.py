"""Checks that need no cluster, before anything is started: data, models, storage, the length of rows."""

import os
from pathlib import Path
from typing import Any

import torch

from methods.config import parse_method
from orchestrator.base_config import EMBEDDED
from orchestrator.config import SweepConfig, num_trials, trial_config
from orchestrator.load_config import ConfigError
from orchestrator.scenarios.base import DataError, Task
from orchestrator.scenarios.load import load_tasks
from orchestrator.trial_config import TinyModel
from orchestrator.tuning.resources import Node
from orchestrator.worker.batches import Encoder
from orchestrator.worker.plan import Sizes, plan_steps
from orchestrator.worker.template import load_tokenizer, template_for


def check(sweep: SweepConfig) -> dict[str, tuple[Task, ...]]:
    """The tasks of all forget sets. ConfigError or DataError: the first thing that would stop the sweep later."""
    check_storage(sweep.storage_root)
    tasks = {name: load_tasks(sweep.scenario, sweep.evaluation, name) for name in sweep.forget_sets}
    for chain in tasks.values():
        for task in chain:
            _check_task(sweep, task)
    for key, path in _models(sweep).items():
        check_model(key, path)
    if sweep.evaluation.encoder.startswith(("/", ".", "~")):
        check_exists("evaluation.encoder", sweep.evaluation.encoder)
    if sweep.model.target != EMBEDDED:
        check_lengths(sweep, tasks, load_target_tokenizer(sweep))
    return tasks


def check_storage(root: Path) -> None:
    """ConfigError: the folder cannot be made or written to."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".lethe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"storage: cannot write to {root} ({error.strerror}); set storage=FOLDER") from error


def check_exists(key: str, path: str) -> None:
    """ConfigError: a path, rather than a hub name, that leads nowhere."""
    if not Path(path).expanduser().exists():
        raise ConfigError(f"{key}: {path} does not exist; name a model folder or a hub name")


def check_model(key: str, path: str) -> None:
    """ConfigError: a folder that holds no safetensors weights, configuration or tokenizer. Hub names are not asked."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if path.startswith(("/", ".", "~")) or path.count("/") > 1:
            check_exists(key, path)
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}: {folder} has no config.json; name a folder that save_pretrained wrote")
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{key}: {folder} has no weights (*.safetensors); save the model with safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ConfigError(f"{key}: {folder} has no tokenizer (tokenizer.json); save the tokenizer there too")


def check_lengths(sweep: SweepConfig, tasks: dict[str, tuple[Task, ...]], tokenizer: Any) -> None:
    """DataError: a question that leaves no room for an answer, in training or evaluation; names the row."""
    template = template_for(sweep.model.template, tokenizer)
    for task in (task for chain in tasks.values() for task in chain):
        training = Encoder(tokenizer, template, sweep.train.max_length)
        groups = {f"{task.forget_set} row": task.forget, "retain row": task.retain}
        for label, rows in groups.items():
            for index, row in enumerate(rows):
                _check_length(training, row.question, f"{label} {index}", "train.max_length")
        asked = Encoder(tokenizer, template, sweep.evaluation.max_length)
        for evaluation_set in task.evaluation:
            for index, row in enumerate(evaluation_set.rows):
                _check_length(
                    asked, row.question, f"evaluation set {evaluation_set.name} row {index}", "evaluation.max_length"
                )


def this_machine() -> Node:
    """What a sweep would have without a cluster."""
    return Node(cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count())


def estimate_disk(sweep: SweepConfig) -> str:
    """How much room the kept weights take, in words; a hub model's size is not known beforehand."""
    num_cells = len(sweep.methods) * len(sweep.forget_sets)
    total = len(sweep.forget_sets) * sum(num_trials(sweep, entry) for entry in sweep.methods)
    most, words = {
        "none": (0, "no weights are kept"),
        "best": (num_cells + 1, f"weights of {num_cells} knees"),
        "pareto": (total, f"weights of the fronts, at most {total} trials"),
        "all": (total, f"weights of {total} trials"),
    }[sweep.checkpoint.policy]
    folder = Path(sweep.model.target).expanduser()
    if sweep.model.target == EMBEDDED:
        size = 4 * TinyModel().num_parameters
    elif folder.is_dir():
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    else:
        return f"{words}; the size of {sweep.model.target} is known once it is downloaded"
    if most == 0:
        return words
    return f"{words}, {size / 2**20:.0f} MiB each, {most * size / 2**30:.2f} GiB at most"


def _check_length(encoder: Encoder, question: str, origin: str, key: str) -> None:
    try:
        encoder.check_question(question)
    except DataError as error:
        raise DataError(f"{key}: {origin}: {error}") from error


def _check_task(sweep: SweepConfig, task: Task) -> None:
    name = task.forget_set if sweep.scenario.name != "continual" else f"{task.forget_set} task {task.name}"
    for entry in sweep.methods:
        method = parse_method(entry.name)
        if "retain" in method.parts and not task.retain:
            raise DataError(f"forget_sets: {name} has no retain rows, which {entry.name} needs")
        if method.needs_refusals and not task.refusals:
            raise ConfigError(f"methods: {entry.name} needs refusals; set scenario.refusals to a file with one a line")
        train = trial_config(sweep, entry, task.forget_set, {}).train
        sizes = Sizes(
            forget=len(task.forget),
            retain=len(task.retain),
            refusals=len(task.refusals),
            batch_size=train.batch_size,
            micro_batch_size=train.micro_batch_size,
            num_workers=sweep.resources.workers_per_trial,
            epochs=train.epochs,
        )
        try:
            plan_steps(sizes, train.convention, seed=sweep.seed)
        except ValueError as error:
            raise ConfigError(f"train.batch_size: on {name}, {error}") from error


def _models(sweep: SweepConfig) -> dict[str, str]:
    models = {"model.target": sweep.model.target, "evaluation.entailment": sweep.evaluation.entailment}
    if isinstance(sweep.model.retain_models, dict):
        models |= {f"model.retain_models.{name}": path for name, path in sweep.model.retain_models.items()}
    return {key: path for key, path in models.items() if path != EMBEDDED}


def load_target_tokenizer(sweep: SweepConfig) -> Any:
    """The target model's tokenizer. ConfigError: there is none, or the hub does not answer."""
    path = sweep.model.target
    try:
        return load_tokenizer(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.target: cannot load the tokenizer of {path}: {str(error).splitlines()[0]}; "
            "check the name and the network, or name a folder"
        ) from error

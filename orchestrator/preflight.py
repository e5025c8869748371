"""Checks that need no cluster, before anything is started: data, models, storage, the length of rows."""

import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from methods.config import parse_method
from orchestrator.base_config import EMBEDDED
from orchestrator.config import MethodEntry, SweepConfig, cell_space, num_trials, space_label, trial_config
from orchestrator.load_config import ConfigError
from orchestrator.scenarios.base import DataError, Task
from orchestrator.scenarios.load import load_tasks
from orchestrator.storage import Storage, is_uri
from orchestrator.trial_config import ModelConfig, QuestionPart, TinyModel, TrainConfig, downstream_tasks
from orchestrator.tuning.resources import Node
from orchestrator.worker.batches import Encoder
from orchestrator.worker.downstream import check_downstream
from orchestrator.worker.plan import plan_sizes, plan_steps
from orchestrator.worker.template import load_tokenizer, template_for

_NOT_ADAPTED = ("lm_head", "embed_out", "embed_tokens", "wte", "wpe")


def check(sweep: SweepConfig) -> dict[str, tuple[Task, ...]]:
    """The tasks of all forget sets. ConfigError or DataError: the first thing that would stop the sweep later."""
    check_storage(sweep.storage_root)
    if is_uri(sweep.storage):
        check_store(sweep.storage)
    tasks = load_all(sweep, sweep.confirm.search_part)
    for chain in tasks.values():
        for task in chain:
            _check_task(sweep, task)
    for key, path in _models(sweep).items():
        check_model(key, path)
    check_adapters(sweep)
    check_downstream_tasks(sweep)
    if sweep.evaluation.encoder.startswith(("/", ".", "~")):
        check_exists("evaluation.encoder", sweep.evaluation.encoder)
    if sweep.model.target != EMBEDDED:
        check_lengths(sweep, tasks, load_target_tokenizer(sweep))
    elif sweep.model.template != "llama2-chat":
        raise ConfigError(
            f"model.template: the embedded model is made with llama2-chat, but got {sweep.model.template}; "
            "set model.template=llama2-chat, or name a model in model.target"
        )
    return tasks


def load_all(sweep: SweepConfig, part: QuestionPart | None) -> dict[str, tuple[Task, ...]]:
    """The tasks of all forget sets, asked one part of the questions (None: all). DataError: as load_tasks."""
    return {name: load_tasks(sweep.scenario, sweep.evaluation, name, part) for name in sweep.forget_sets}


def check_storage(root: Path, key: str = "storage") -> None:
    """ConfigError: the folder cannot be made or written to."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".lethe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{key}: cannot write to {root} ({error.strerror}); set {key}=FOLDER") from error


def check_store(uri: str) -> None:
    """ConfigError: storage names no store, or one that does not take a file."""
    probe = f".lethe-{uuid.uuid4().hex}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / probe).write_bytes(b"x")
            storage = Storage(Path(folder), uri)
            storage.publish(probe)
            storage.remove(probe)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"storage: cannot write to {uri} ({' '.join(str(error).split())}); set storage=FOLDER or another URI"
        ) from error


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
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"{key}: {folder} has no config.json; name a folder that save_pretrained wrote")
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{key}: {folder} has no weights (*.safetensors); save the model with safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ConfigError(f"{key}: {folder} has no tokenizer (tokenizer.json); save the tokenizer there too")


def check_adapters(sweep: SweepConfig) -> None:
    """ConfigError: lora.target_modules has a name that no layer of the target's folder has. Hub names are not asked."""
    folder = Path(sweep.model.target).expanduser()
    if sweep.lora is None or sweep.lora.target_modules is None or not (folder / "config.json").is_file():
        return
    layers = {name for path in folder.glob("*.safetensors") for name in _adaptable(path)}
    known = {name.rpartition(".")[2] for name in layers}
    for target in sweep.lora.target_modules:
        if target.rpartition(".")[2] not in known:
            raise ConfigError(
                f"lora.target_modules: no linear layer but the head of {folder} is called {target!r}; "
                f"use {', '.join(sorted(known))}"
            )


def check_downstream_tasks(sweep: SweepConfig) -> None:
    """ConfigError: a task that the harness does not know, or a folder of tasks that does not exist."""
    try:
        tasks = downstream_tasks(sweep.scenario, sweep.evaluation)
        check_downstream(tasks, sweep.evaluation, objectives=sweep.objectives)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_lengths(sweep: SweepConfig, tasks: dict[str, tuple[Task, ...]], tokenizer: Any) -> None:
    """DataError: a question that leaves no room for an answer, in training or evaluation; names the row."""
    template = template_for(sweep.model.template, tokenizer)
    shortest, source = min(
        (train.max_length, source or "train.max_length")
        for entry in sweep.methods
        for source, train in _tried(sweep, entry, "max_length")
    )
    training = Encoder(tokenizer, template, shortest)
    asked = Encoder(tokenizer, template, sweep.evaluation.max_length)
    seen: set[tuple[str, str]] = set()  # the tasks of a chain share most of their rows
    chains = list(tasks.values())
    if sweep.confirm.share is not None:
        chains += load_all(sweep, sweep.confirm.held_out_part).values()
    for task in (task for chain in chains for task in chain):
        groups = [
            (training, source, f"{task.forget_set} row", task.forget),
            (training, source, "retain row", task.retain),
            *((asked, "evaluation.max_length", f"evaluation set {one.name} row", one.rows) for one in task.evaluation),
        ]
        for encoder, key, label, rows in groups:
            for index, row in enumerate(rows):
                if (key, row.question) not in seen:
                    check_length(encoder, row.question, f"{label} {index}", key)
                    seen.add((key, row.question))


def this_machine() -> Node:
    """What a sweep would have without a cluster."""
    return Node(cpus=os.cpu_count() or 1, gpus=torch.cuda.device_count())


def estimate_disk(sweep: SweepConfig) -> str:
    """How much room the kept weights take, in words; a hub model's size is not known beforehand."""
    num_cells = len(sweep.methods) * len(sweep.forget_sets)
    total = len(sweep.forget_sets) * sum(num_trials(sweep, entry) for entry in sweep.methods)
    what = "weights" if sweep.lora is None else "adapters"
    most, words = {
        "none": (0, f"no {what} are kept"),
        "best": (num_cells + 1, f"{what} of {num_cells} knees"),
        "pareto": (total, f"{what} of the fronts, at most {total} trials"),
        "all": (total, f"{what} of {total} trials"),
    }[sweep.checkpoint.policy]
    number = _num_trained(sweep)
    if number is None:
        return f"{words}; the size of {sweep.model.target} is known once it is downloaded"
    size = _saved_bytes(sweep, number)
    if most:
        words += f", {_in_words(size)} each, {_in_words(most * size)} at most"
    # Two points, each of float32 weights and Adam's two moments; a chain also has the weights that its tasks end with.
    besides = 2 * 3 * 4 * number + (2 * size if sweep.scenario.name == "continual" else 0)
    return f"{words}; for each trial that runs, at most {_in_words(besides)} besides, to go on from"


def _num_trained(sweep: SweepConfig) -> int | None:
    """How many numbers a trial trains: the target's weights, or adapters of its linear layers."""
    folder, lora = Path(sweep.model.target).expanduser(), sweep.lora
    if sweep.model.target == EMBEDDED:
        tiny = TinyModel()
        sides = tiny.num_layers * (4 * 2 * tiny.hidden_size + 3 * (tiny.hidden_size + tiny.intermediate_size))
        return tiny.num_parameters if lora is None else lora.r * sides
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    if lora is not None:
        return lora.r * sum(_adapted_sides(path, lora.target_modules) for path in files)
    return sum(math.prod(shape) for path in files for shape in _shapes(path).values())


def _saved_bytes(sweep: SweepConfig, num_trained: int) -> int:
    """What is written for one trial: as much as the target's weights, or adapters in float32."""
    files = list(Path(sweep.model.target).expanduser().glob("*.safetensors"))
    if sweep.lora is not None or sweep.model.target == EMBEDDED:
        return 4 * num_trained
    return sum(path.stat().st_size for path in files)


def _adapted_sides(path: Path, target_modules: Sequence[str] | None) -> int:
    """Inputs and outputs, summed, of the linear layers in a file of weights that get adapters."""
    layers = _adaptable(path).items()
    return sum(sum(shape) for name, shape in layers if not target_modules or name.rpartition(".")[2] in target_modules)


def _adaptable(path: Path) -> dict[str, list[int]]:
    """Names and shapes of the linear layers in a file of weights, without the head."""
    layers = {name.removesuffix(".weight"): shape for name, shape in _shapes(path).items() if len(shape) == 2}
    return {name: shape for name, shape in layers.items() if not name.endswith(_NOT_ADAPTED)}


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="np") as weights:
        return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118 (no mapping)


def _in_words(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.0f} KiB"


def check_length(encoder: Encoder, question: str, origin: str, key: str) -> None:
    """DataError naming key and origin: a question that leaves no room for an answer."""
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
        for source, train in _tried(sweep, entry, "batch_size", "micro_batch_size", "epochs"):
            sizes = plan_sizes(train, task, method, sweep.resources.workers_per_trial)
            try:
                plan_steps(sizes, train.convention, seed=sweep.seed)
            except ValueError as error:
                raise ConfigError(f"{source or 'train.batch_size'}: on {name}, {error}") from error


def _tried(sweep: SweepConfig, entry: MethodEntry, *names: str) -> Iterator[tuple[str, TrainConfig]]:
    """Training as a method's first trial has it, then with each bound of each of the `names` that are searched.

    Each with the words for who set it, which are empty for the first.
    """
    space = cell_space(sweep, entry)
    searched = [
        (key, value) for key in space if key in {f"train.{name}" for name in names} for value in space[key].bounds
    ]
    yield "", trial_config(sweep, entry, sweep.forget_sets[0], {}).train
    for key, value in searched:
        source = f"{space_label(entry)}.{key}: {value!r} is not acceptable"
        yield source, trial_config(sweep, entry, sweep.forget_sets[0], {key: value}).train


def _models(sweep: SweepConfig) -> dict[str, str]:
    models = {"model.target": sweep.model.target, "evaluation.entailment": sweep.evaluation.entailment}
    if isinstance(sweep.model.retain_models, dict):
        models |= {f"model.retain_models.{name}": path for name, path in sweep.model.retain_models.items()}
    return {key: path for key, path in models.items() if path != EMBEDDED}


def load_target_tokenizer(sweep: SweepConfig) -> Any:
    """The target model's tokenizer. ConfigError: there is none, or the hub does not answer."""
    return load_tokenizer_of("model.target", sweep.model)


def load_tokenizer_of(key: str, model: ModelConfig) -> Any:
    """The tokenizer of a model that `key` named. ConfigError: there is none, or the hub does not answer."""
    path = model.target
    try:
        return load_tokenizer(path, trust_remote_code=model.trust_remote_code)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: cannot load the tokenizer of {path}: {str(error).splitlines()[0]}; "
            "check the name and the network, or name a folder"
        ) from error

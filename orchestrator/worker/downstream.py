"""Scores on downstream tasks by lm-evaluation-harness: what else a model lost when it forgot."""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from difflib import get_close_matches
from functools import cache, lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm
from transformers import GenerationConfig

from orchestrator.scenarios.base import DataError
from orchestrator.trial_config import DOWNSTREAM, EvaluationConfig

# The paper's choice (arXiv 2410.08109), as the harness names it: metric,filter.
TASK_METRICS = {
    "arc_challenge": "acc_norm,none",
    "mmlu": "acc,none",
    "truthfulqa_mc1": "acc,none",
    "triviaqa": "exact_match,remove_whitespace",
    "gsm8k": "exact_match,flexible-extract",
}
# For any other task the first of these that it has, else its first metric. Only these are objectives: they lie in
# [0, 1], so that the 0.0 of a trial that diverged is no better than any score.
PREFERRED_METRICS = ("acc_norm", "acc", "exact_match", "f1")
_DATA_KEYS = {"dataset_path", "custom_dataset", "class"}  # where a task's documents can come from
_FILE_FORMATS = {"json", "csv"}  # a dataset_path that reads the data_files named beside it


def downstream_metrics(
    model: Any, tokenizer: Any, tasks: Sequence[str], evaluation: EvaluationConfig, *, seed: int
) -> dict[str, float]:
    """`downstream/<task>` for each task, the same on every rank; each rank of the process group does its share.

    Few-shot examples, prompts and seeds of the documents are the harness's own, so that scores compare with published
    ones; `seed` is for tasks that sample their answers. Model, tokenizer and random generators are left as they were.
    Standard errors are left out: they are no objectives, and for accuracies follow from the score and the number of
    questions. ValueError, DataError: as for load_downstream; a task has no score to raise.
    """
    if not tasks:
        return {}
    with _quiet(), _restored(model):
        from lm_eval.defaults import DEFAULT_OTHER_SEED  # noqa: PLC0415  (seconds to import)
        from lm_eval.evaluator import evaluate  # noqa: PLC0415

        from orchestrator.worker.downstream_model import HarnessModel  # noqa: PLC0415

        loaded, groups = _load(tuple(tasks), _folder(evaluation))
        asked = {name: copy(task) for name, task in loaded.items()}  # a copy takes its requests with it when it goes
        for task in asked.values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        model.config.use_cache = False  # keys and values of a whole batch, which only generation needs and asks for
        model.generation_config = _plain_generation(tokenizer)  # else the model folder's penalties are mixed in
        lm = HarnessModel(model, tokenizer, batch_size=evaluation.batch_size)
        _seed_generators(seed)
        results = evaluate(
            lm=lm,
            task_dict={"tasks": asked, "groups": groups},
            limit=evaluation.downstream_limit,
            bootstrap_iters=0,
            log_samples=False,
        )
    return {f"downstream/{task}": task_metric(results, task) for task in tasks}


def load_downstream(tasks: Sequence[str], evaluation: EvaluationConfig) -> None:
    """Read the documents of tasks, which then wait in this process for downstream_metrics; every rank reads its own.

    Random generators are left as they were. ValueError: as for check_downstream; a task runs code that the model
    writes. DataError: a data set cannot be read.
    """
    if tasks:
        with _quiet(), _restored_generators():
            _load(tuple(tasks), _folder(evaluation))


def check_downstream(tasks: Sequence[str], evaluation: EvaluationConfig, *, objectives: Sequence[str] = ()) -> None:
    """What can be known of downstream tasks without a network and a model; nothing is loaded where none are asked.

    ValueError: the folder of task definitions does not exist; a task is unknown, is a collection without a score, or
    has no metric that is better when higher; an objective `downstream/<task>` has none of PREFERRED_METRICS.
    DataError: documents in files of this machine cannot be read.
    """
    if not tasks or (evaluation.downstream_tasks is None and set(tasks) <= set(DOWNSTREAM)):
        return
    with _quiet():
        index = _known(tuple(tasks), _folder(evaluation)).task_index
        for name in tasks:
            _check_score(name, _raised_metrics(name, index), is_objective=f"downstream/{name}" in objectives)
    load_downstream([name for name in tasks if all(_is_local(part) for _, part in _parts(index, name))], evaluation)


def task_metric(results: Mapping[str, Any], task: str) -> float:
    """The one score of a task or group in the results that the harness returns; higher is better.

    That of TASK_METRICS, else the first of PREFERRED_METRICS, else the first, with the task's first filter. Metrics
    that are better when lower are passed over. ValueError: nothing is left.
    """
    higher_is_better = results["higher_is_better"].get(task, {})
    scores = {}
    for key, value in results["results"][task].items():
        metric, _, filter_name = key.partition(",")
        is_score = filter_name and not metric.endswith("_stderr") and isinstance(value, Real)
        if is_score and higher_is_better.get(metric) is not False:
            scores[key] = float(value)
    if not scores:
        raise _no_score(task, results["results"][task])
    by_metric = {key.partition(",")[0]: key for key in reversed(scores)}  # the first filter of each metric
    preferred = [by_metric[metric] for metric in PREFERRED_METRICS if metric in by_metric]
    wanted = [key for key in (TASK_METRICS.get(task),) if key in scores]
    return scores[[*wanted, *preferred, *scores][0]]


@lru_cache(maxsize=1)
def _load(tasks: tuple[str, ...], folder: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tasks with their documents, and groups, by name; kept for the next trial of this process."""
    from datasets.exceptions import DatasetsError  # noqa: PLC0415  (seconds to import)

    manager = _known(tasks, folder)
    _seed_generators(0)  # some tasks shuffle their choices as they are loaded
    found: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for name in tasks:
        try:
            loaded = manager.load([name])
        except (OSError, ValueError, DatasetsError) as error:
            paths = {str((part or {}).get("dataset_path")) for _, part in _parts(manager.task_index, name)}
            raise DataError(
                f"evaluation.downstream: task {name!r} cannot be loaded from the data set {', '.join(sorted(paths))} "
                f"({error}); give access to it, set evaluation.downstream_tasks to a folder of tasks over local data, "
                "or set evaluation.downstream=[]"
            ) from error
        found |= loaded["tasks"]
        groups |= loaded["groups"]
    for name, task in found.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ValueError(f"evaluation.downstream: {name!r} runs code that the model writes; take it off the list")
    return found, groups


def _known(tasks: tuple[str, ...], folder: str | None) -> Any:
    """The harness's task manager that knows these tasks. ValueError: one is unknown or has no score of its own.

    A folder that holds all of them is looked at alone, because the harness's own index takes ten seconds.
    """
    manager = _manager(folder, defaults=folder is None)
    parts = [part for name in tasks for _, part in _parts(manager.task_index, name)]
    if folder is not None and not all(_DATA_KEYS & (part or {}).keys() for part in parts):
        manager = _manager(folder, defaults=True)
    for name in tasks:
        _check_name(name, manager.task_index)
    return manager


def _check_name(name: str, index: Mapping[str, Any]) -> None:
    if name not in index:
        close = ", ".join(get_close_matches(name, index)) or "a task of lm-evaluation-harness"
        raise ValueError(
            f"evaluation.downstream: unknown task {name!r}; did you mean {close}? "
            "Definitions of your own are read from evaluation.downstream_tasks=FOLDER"
        )
    entry, members = index[name], [member for member, _ in _parts(index, name)]
    if members != [name] and not (entry.cfg or {}).get("aggregate_metric_list"):
        shown = ", ".join(members[:5]) + (", ..." if len(members) > 5 else "")
        raise ValueError(f"evaluation.downstream: {name!r} has no score of its own; name its tasks instead: {shown}")


def _check_score(name: str, raised: Sequence[str] | None, *, is_objective: bool) -> None:
    if is_objective and not set(raised or ()) & set(PREFERRED_METRICS):
        scored = "what only its code knows" if raised is None else ", ".join(raised)
        raise ValueError(
            f"objectives: downstream/{name} is scored by {scored}, and an objective needs a score in [0, 1]: "
            f"{', '.join(PREFERRED_METRICS)}; take it off objectives"
        )


def _no_score(name: str, found: Iterable[str]) -> ValueError:
    return ValueError(
        f"evaluation.downstream: task {name!r} has no score that is better when higher (it gives {', '.join(found)}); "
        "take it off evaluation.downstream"
    )


def _raised_metrics(name: str, index: Mapping[str, Any]) -> list[str] | None:
    """Metrics of a task or group that are better when higher; None: they stand in code, not in definitions.

    ValueError: all its metrics are better when lower.
    """
    directions: dict[str, bool] = {}
    for _, part in _parts(index, name):
        if part is None or "class" in part:
            return None
        for metric, is_raised in _directions(part).items():
            directions[metric] = directions.get(metric, False) or is_raised
    aggregated = (index[name].cfg or {}).get("aggregate_metric_list")
    if aggregated:
        asked = [aggregated] if isinstance(aggregated, dict) else aggregated
        directions = {entry["metric"]: directions.get(entry["metric"], False) for entry in asked}
    raised = [metric for metric, is_raised in directions.items() if is_raised]
    if not raised:
        raise _no_score(name, directions)
    return raised


def _directions(definition: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a task's metrics are better when higher; one of which nothing is said counts as such, as in scores."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, is_higher_better  # noqa: PLC0415

    metrics = definition.get("metric_list")
    if metrics is None:
        output = definition.get("output_type", "generate_until")  # the harness's default
        metrics = [{"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[output]]
    found = {}
    for entry in metrics:
        name = entry["metric"]
        if "/" in name:  # a function, as FOLDER/file.function
            name = name.rpartition(".")[2]
        higher_is_better = entry.get("higher_is_better")
        found[name] = (is_higher_better(name) if higher_is_better is None else higher_is_better) is not False
    return found


def _is_local(definition: Mapping[str, Any] | None) -> bool:
    """Whether a task's documents are in files, so that reading them takes no network."""
    part = definition or {}
    data_files = (part.get("dataset_kwargs") or {}).get("data_files")
    return part.get("dataset_path") in _FILE_FORMATS and data_files is not None and "://" not in str(data_files)


def _parts(index: Mapping[str, Any], member: str | Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Name and definition of each task that a task, group or tag is made of; None where it is defined nowhere.

    member: a name, or an entry of a group's list, which may define a task or a group right there.
    """
    name = member if isinstance(member, str) else str(member.get("group", member.get("task")))
    entry = index.get(name)
    if entry is None:
        definition = None if isinstance(member, str) else member
        members = (definition or {}).get("task")
    else:
        definition = entry.cfg
        members = sorted(entry.tags) if entry.cfg is None else entry.cfg.get("task")  # only tags have no definition
    if not isinstance(members, list):
        yield name, definition
    else:
        for part in members:
            yield from _parts(index, part)


@cache
def _manager(folder: str | None, *, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415  (seconds to import)

    return TaskManager(include_path=folder, include_defaults=defaults)


def _folder(evaluation: EvaluationConfig) -> str | None:
    folder = evaluation.downstream_tasks
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"evaluation.downstream_tasks: {folder} is no folder; name one with definitions of tasks")
    return folder


def _plain_generation(tokenizer: Any) -> Any:
    return cast(Any, GenerationConfig)(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def _seed_generators(seed: int) -> None:
    """Torch's generators from a seed, those that documents are drawn with as the harness does."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED  # noqa: PLC0415

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.default_generator.manual_seed(seed)
    if _cuda_devices():  # else torch would remember the seed for the time when CUDA starts
        torch.cuda.manual_seed_all(seed)


def _cuda_devices() -> range:
    return range(torch.cuda.device_count() if cast(Any, torch.cuda).is_initialized() else 0)


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Undo what the block does to the model's modes and settings and to every random generator."""
    modes = [(module, module.training) for module in model.modules()]
    use_cache, generation = model.config.use_cache, model.generation_config
    with _restored_generators():
        try:
            yield
        finally:
            model.config.use_cache, model.generation_config = use_cache, generation
            for module, training in modes:
                module.training = training


@contextmanager
def _restored_generators() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(_cuda_devices()):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, which the harness draws unasked, and no log lines of it and of the hub but errors."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels, draw = [logger.level for logger in loggers], tqdm.__init__
    kept = vars(tqdm)["__init__"]  # what reading the attribute of a partial method gives is made anew each time

    def hidden(bar: Any, *args: Any, **kwargs: Any) -> None:
        draw(bar, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = hidden
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tqdm.__init__ = kept
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

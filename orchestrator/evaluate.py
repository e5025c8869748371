"""Score any model on a scenario: a folder, an adapter folder or a hub name becomes a table, files, and an MLflow run.

python -m orchestrator.evaluate CHECKPOINT scenario.name=tofu forget_set=forget10
python -m orchestrator.evaluate CHECKPOINT scenario.name=tofu forget_set=forget10 retain_model=RETAIN out=results \\
    tracking.uri=http://HOST:PORT
torchrun --nproc-per-node 8 -m orchestrator.evaluate CHECKPOINT scenario.name=tofu forget_set=forget10

Written to CHECKPOINT/evals: TOFU_EVAL.json and TOFU_SUMMARY.json in OpenUnlearning's format, examples.jsonl with every
question, answer and score, and evaluation.json: what was measured, of what, with what.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.base_config import EMBEDDED
from orchestrator.embedded import EmbeddedError, judge_recipe, make
from orchestrator.evaluation_config import EvaluateConfig, Evaluation
from orchestrator.evaluation_files import Scored, truth_ratios
from orchestrator.evaluation_results import log_to_mlflow, render, result_files, write_results
from orchestrator.load_config import ConfigError, build_config
from orchestrator.scenarios.base import DataError, SetKind, Task
from orchestrator.scenarios.load import load_tasks
from orchestrator.tracking.journal import TrialFinished, TrialState
from orchestrator.tracking.pump import TrackingError
from orchestrator.trial_config import (
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
    TrialConfig,
    ZeroConfig,
    downstream_tasks,
)


def prepare(config: EvaluateConfig, checkpoint: str, say: Callable[[str], None]) -> Evaluation:
    """Check everything that can be checked without loading a model.

    ConfigError, DataError: bad input. EmbeddedError: the embedded judge could not be made.
    """
    model = config.model.model_copy(update={"target": _folder_or_name(checkpoint)})
    forget_set, out = _forget_set(config), _out_folder(config, model.target)
    _check_models(config, model)
    try:
        tasks = load_tasks(config.scenario, config.evaluation, forget_set)
    except DataError as error:
        raise DataError(str(error).removeprefix("forget_sets: ")) from error
    _check_questions(config, model, tasks)
    if config.retain_scores is not None:
        _check_retain_scores(Path(config.retain_scores), tasks[0])
    _check_out(config, out)
    trial = TrialConfig(
        method=None,
        forget_set=forget_set,
        seed=config.seed,
        scenario=config.scenario,
        model=model,
        train=TrainConfig(),
        zero=ZeroConfig(),
        evaluation=_with_judge(config, say),
    )
    return Evaluation(config, trial, tasks, out)


def score(evaluation: Evaluation, say: Callable[[str], None]) -> tuple[TrialFinished, TrialFinished | None]:
    """What became of the model and of the retain model, if there is one, scored as baselines of a sweep are.

    Every rank of torch's process group calls this; rank 0's answer has the metrics, and its files are in the work
    folder. A model whose predictions are not finite is not COMPLETE. ValueError, OSError: a model cannot be loaded, or
    an answer has no score.
    """
    import torch  # noqa: PLC0415  (the command line answers without it)
    import torch.distributed as dist  # noqa: PLC0415

    from orchestrator.worker.job import TrialJob  # noqa: PLC0415
    from orchestrator.worker.parts import WorkerParts  # noqa: PLC0415
    from orchestrator.worker.trial import run_trial  # noqa: PLC0415

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _environment("LOCAL_RANK"))
        torch.cuda.set_device(device)
    parts = WorkerParts(device)

    def run(key: str, model: ModelConfig, retain_scores: str | None) -> TrialFinished:
        processes = dist.get_world_size()
        where = f" on {processes} processes" if processes > 1 else ""
        say(f"scoring {model.target}: {sum(evaluation.rows.values())} questions{where}")
        job = TrialJob(
            key=key,
            config=evaluation.trial.model_copy(update={"model": model}),
            place=str(evaluation.work),
            objectives=(),
            keep_weights=False,
            retain_scores=retain_scores,
        )
        return run_trial(job, parts, report=lambda record: None)

    config, model = evaluation.config, evaluation.trial.model
    if config.retain_model is None:
        return run("model", model, config.retain_scores), None
    retain = run("retain_model", model.model_copy(update={"target": config.retain_model}), None)
    if retain.state != TrialState.COMPLETE:
        return retain, retain
    return run("model", model, str(evaluation.examples("retain_model"))), retain


def _folder_or_name(checkpoint: str) -> str:
    path = Path(checkpoint).expanduser()
    if path.exists():
        return str(path.absolute())
    if checkpoint.startswith(("/", ".", "~")):
        raise ConfigError(f"CHECKPOINT: {checkpoint} does not exist; name a model folder or a hub name")
    return checkpoint


def _forget_set(config: EvaluateConfig) -> str:
    scenario = config.scenario
    known = [] if scenario.name == "authors" else list(scenario.retain_sets)
    if scenario.name == "continual" and scenario.source == EMBEDDED:
        known = []
    words = ", ".join(known) or "forget01 to forget50, the last percents of its authors"
    if config.forget_set is None:
        if len(known) == 1:
            return known[0]
        raise ConfigError(f"forget_set: missing; set forget_set=NAME (scenario {scenario.name} knows {words})")
    if known and config.forget_set not in known:
        raise ConfigError(
            f"forget_set: scenario {scenario.name} knows {words}, but got {config.forget_set!r}; name one of these, or "
            f"add scenario.retain_sets.{config.forget_set}=NAME"
        )
    return config.forget_set


def _out_folder(config: EvaluateConfig, checkpoint: str) -> Path:
    if config.out is not None:
        return Path(config.out).expanduser().absolute()
    if not Path(checkpoint).is_dir():
        raise ConfigError(f"out: missing, and CHECKPOINT {checkpoint} is no folder; set out=FOLDER")
    return Path(checkpoint) / "evals"


def _check_models(config: EvaluateConfig, model: ModelConfig) -> None:
    from orchestrator import preflight  # noqa: PLC0415  (torch; a wrong key is said without)
    from orchestrator.worker.downstream import check_downstream  # noqa: PLC0415

    preflight.check_model("CHECKPOINT", model.target)
    if config.retain_model is not None:
        preflight.check_model("retain_model", config.retain_model)
    if config.evaluation.entailment != EMBEDDED:
        preflight.check_model("evaluation.entailment", config.evaluation.entailment)
    if config.evaluation.encoder.startswith(("/", ".", "~")):
        preflight.check_exists("evaluation.encoder", config.evaluation.encoder)
    try:
        check_downstream(downstream_tasks(config.scenario, config.evaluation), config.evaluation)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_questions(config: EvaluateConfig, model: ModelConfig, tasks: Sequence[Task]) -> None:
    """That both models have a tokenizer, and each question leaves room for an answer."""
    from orchestrator import preflight  # noqa: PLC0415
    from orchestrator.worker.batches import Encoder  # noqa: PLC0415
    from orchestrator.worker.template import template_for  # noqa: PLC0415

    models = {"CHECKPOINT": model}
    if config.retain_model is not None:
        models["retain_model"] = model.model_copy(update={"target": config.retain_model})
    for key, one in models.items():
        tokenizer = preflight.load_tokenizer_of(key, one)
        encoder = Encoder(tokenizer, template_for(model.template, tokenizer), config.evaluation.max_length)
        for asked in (asked for task in tasks for asked in task.evaluation):
            for index, row in enumerate(asked.rows):
                where = f"evaluation set {asked.name} row {index}"
                preflight.check_length(encoder, row.question, where, "evaluation.max_length")


def _check_retain_scores(path: Path, task: Task) -> None:
    """That these are the scores of the same forget questions in the same order."""
    from orchestrator.worker.evaluation import read_scores  # noqa: PLC0415

    try:
        found = [score.question for score in read_scores(path)["forget"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"retain_scores: {path} cannot be read ({type(error).__name__}: {error}); name the examples.jsonl of a "
            "trial, baseline or evaluation (TOFU's own log belongs into scenario.retain_logs)"
        ) from error
    asked = [row.question for one in task.evaluation if one.kind is SetKind.FORGET for row in one.rows]
    if found != asked:
        raise ConfigError(
            f"retain_scores: {path} has {len(found)} forget questions, not the {len(asked)} that are asked now; score "
            "the retain model with the same scenario, forget_set and evaluation.max_rows_per_set"
        )


def _check_out(config: EvaluateConfig, out: Path) -> None:
    from orchestrator.preflight import check_storage  # noqa: PLC0415

    present = ", ".join(path.name for path in result_files(out))
    if present and not config.overwrite:
        raise ConfigError(f"out: {out} has results ({present}); set overwrite=true, or out=FOLDER")
    check_storage(out, "out")


def _with_judge(config: EvaluateConfig, say: Callable[[str], None]) -> EvaluationConfig:
    """The evaluation with a folder for an embedded judge, which one process of a machine makes if there is none."""
    if config.evaluation.entailment != EMBEDDED:
        return config.evaluation
    recipe = judge_recipe(Path(config.cache).expanduser().absolute(), config.scenario)
    if not recipe.is_made and _environment("LOCAL_RANK") == 0:
        make([recipe], say)
    return config.evaluation.model_copy(update={"entailment": str(recipe.folder)})


def _scored(evaluation: Evaluation, result: TrialFinished) -> Scored:
    """The scores of single questions that the work folder holds, and the truth ratios they are compared with."""
    from orchestrator.worker.evaluation import read_scores  # noqa: PLC0415

    config, last = evaluation.config, evaluation.tasks[-1]
    scores = read_scores(evaluation.examples("model"))
    retain, ratios = config.retain_scores, None
    if last.retain_ratios is not None:
        ratios = [1 / max(ratio, sys.float_info.min) for ratio in last.retain_ratios]
    if config.retain_model is not None:
        retain = str(evaluation.examples("retain_model"))
    if retain is not None:
        ratios = truth_ratios(read_scores(Path(retain))["forget"]).tolist()
    kinds = {one.name: one.kind for one in last.evaluation}
    kinds = {name: kinds.get(name, SetKind.FORGET) for name in scores}  # also of a chain's earlier tasks
    return Scored(scores, kinds, result.metrics, ratios)


def _conclude(
    evaluation: Evaluation, results: tuple[TrialFinished, TrialFinished | None], started: float, console: Console
) -> int:
    """Write, show and log what was measured; returns the exit code."""
    result, retain = results
    if result.state != TrialState.COMPLETE:
        which = "retain_model" if result is retain else "CHECKPOINT"
        return _fail(f"{which}: {result.error}; nothing was written", 1)
    summary = write_results(evaluation, _scored(evaluation, result), result, retain)
    for table in render(evaluation, result.metrics):
        console.print(table)
        console.print()
    for path in result_files(evaluation.out):
        console.print(str(path), highlight=False, soft_wrap=True)
    if evaluation.config.tracking.uri is None:
        return 0
    try:
        console.print(log_to_mlflow(evaluation, result, summary, started), highlight=False, soft_wrap=True)
    except TrackingError as error:
        return _fail(f"{error}\nThe files above are complete. Another store is named with tracking.uri.", 1)
    return 0


def _environment(name: str) -> int:
    """What torchrun says of this process; 0 without it."""
    return int(os.environ.get(name, "0"))


def _fail(message: str, code: int) -> int:
    """All processes fail for the same reason; one of each machine says so."""
    if _environment("LOCAL_RANK") == 0:
        sys.stderr.write(f"error: {message}\n")
    return code


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 1 (it could not go on, or MLflow is away), 2 (bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model folder, adapter folder or hub name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as model.template=chat")
    arguments = parser.parse_args(argv)
    console = Console(markup=False, quiet=_environment("RANK") != 0)

    def say(text: str) -> None:
        console.print(text, style="dim", highlight=False, soft_wrap=True)

    started = time.time()
    try:
        evaluation = prepare(build_config(EvaluateConfig, None, arguments.overrides), arguments.checkpoint, say)
    except (ConfigError, DataError, EmbeddedError) as error:
        return _fail(str(error), 2)
    for note in evaluation.notes:
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    from orchestrator.worker.engine import join_process_group, leave_process_group  # noqa: PLC0415

    rank = join_process_group()
    try:
        results = score(evaluation, say)
        return _conclude(evaluation, results, started, console) if rank == 0 else int(results[0].state != "COMPLETE")
    except (OSError, ValueError) as error:
        return _fail(str(error), 1)
    finally:
        if rank == 0:
            shutil.rmtree(evaluation.work, ignore_errors=True)
        leave_process_group()


if __name__ == "__main__":
    sys.exit(main())

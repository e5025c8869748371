"""What an evaluation leaves behind: files, tables in the terminal, a run in MLflow."""

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from metrics.aggregate import SET_METRICS
from orchestrator.analysis.words import score as in_words
from orchestrator.evaluation_config import Evaluation
from orchestrator.evaluation_files import EVAL, SHARED_NAMES, SUMMARY, Scored, tofu_eval, tofu_summary, write_json
from orchestrator.storage import sha256_of
from orchestrator.sync import how_to_open
from orchestrator.tracking.journal import TrialFinished
from orchestrator.tracking.pump import redact_uri, set_client_env

EXAMPLES, RETAIN_EXAMPLES, HEADER = "examples.jsonl", "retain_examples.jsonl", "evaluation.json"
_FILES = (SUMMARY, EVAL, EXAMPLES, RETAIN_EXAMPLES, HEADER)
_VERSIONS = ("lethe-unlearning", "torch", "transformers", "sentence-transformers", "rouge-score", "scipy", "lm-eval")
_ROWS = (
    "labels: the answer's tokens and one end of turn, rows cut to evaluation.max_length; answers: greedy, question and "
    "answer together at most evaluation.max_length tokens"
)
_MEANINGS = {
    "model_utility": "six metrics, all sets but forget",
    "model_utility_retain": "the same, retain set alone",
    "forget_efficacy": "1 - mean of five forget metrics",
    "forget_efficacy_final": "the same, all tasks at the end",
    "relapse": "what earlier tasks lost of it by then",
    "tofu_model_utility": "TOFU's: probability, ROUGE, truth ratio",
    "tofu_model_utility_arithmetic": "the same, arithmetic truth ratios",
    "forget_quality": "p: truth ratios are the retain model's",
    "forget_quality_log10": "its logarithm",
}


def result_files(out: Path) -> list[Path]:
    """The files of an evaluation that are in a folder."""
    return [out / name for name in _FILES if (out / name).is_file()]


def write_results(
    evaluation: Evaluation, scored: Scored, result: TrialFinished, retain: TrialFinished | None
) -> dict[str, float]:
    """Write all files and put them in their place together; returns the content of TOFU_SUMMARY.json."""
    entries = tofu_eval(scored)
    summary = tofu_summary(entries)
    work = evaluation.work
    write_json(entries, work / EVAL)
    write_json(summary, work / SUMMARY)
    evaluation.examples("model").replace(work / EXAMPLES)
    if retain is not None:
        evaluation.examples("retain_model").replace(work / RETAIN_EXAMPLES)
    hashes = {path.name: sha256_of(path) for path in result_files(work)}
    write_json(_header(evaluation, result, retain, hashes), work / HEADER)
    for path in result_files(evaluation.out):  # of an earlier evaluation, which may have had more
        path.unlink()
    for path in result_files(work):
        path.replace(evaluation.out / path.name)
    return summary


def render(evaluation: Evaluation, metrics: Mapping[str, float]) -> list[Table]:
    """The metrics of each set, and the numbers over all sets; legible at 80 columns."""
    sets = Table(box=None, pad_edge=False, caption_justify="left")
    sets.caption = "On forget less is better, but for token entropy; elsewhere more."
    for heading in ("set", "rows", *(name.replace("_", "\n") for name in SET_METRICS)):
        sets.add_column(heading, justify="left" if heading == "set" else "right", no_wrap=True)
    for name, rows in evaluation.rows.items():
        sets.add_row(name, str(rows), *(in_words(metrics[f"{name}/{metric}"]) for metric in SET_METRICS))
    whole = Table(box=None, pad_edge=False, show_header=False)
    for name, value in metrics.items():
        if name in _MEANINGS or name.startswith("downstream/"):
            whole.add_row(name, in_words(value), Text(_MEANINGS.get(name, ""), style="dim"))
    return [sets, whole]


def log_to_mlflow(evaluation: Evaluation, result: TrialFinished, summary: Mapping[str, float], started: float) -> str:
    """Where the run can be seen. TrackingError: MLflow does not take it."""
    set_client_env()
    from orchestrator.tracking.mlflow_evaluation import EvaluationRun, log_evaluation  # noqa: PLC0415  (seconds)

    config, trial = evaluation.config, evaluation.trial
    theirs = {name: value for name, value in summary.items() if name in SHARED_NAMES or name not in result.metrics}
    theirs = {name: value for name, value in theirs.items() if not name.startswith("lethe/")}
    params = {
        "checkpoint": trial.model.target,
        "scenario": trial.scenario.name,
        "forget_set": trial.forget_set,
        "template": trial.model.template,
        "dtype": trial.model.dtype,
        "max_length": str(trial.evaluation.max_length),
        "max_rows_per_set": str(trial.evaluation.max_rows_per_set),
        "retain_model": str(config.retain_model or config.retain_scores or ""),
    }
    run = EvaluationRun(
        name=f"{Path(trial.model.target).name} on {trial.forget_set}",
        metrics=result.metrics | {f"open_unlearning/{name}": value for name, value in theirs.items()},
        params={name: value for name, value in params.items() if value},
        tags={"lethe.kind": "evaluation", "lethe.scenario": trial.scenario.name, "lethe.forget_set": trial.forget_set}
        | {f"lethe.judge.{name}": judge for name, judge in result.judges.items()},
        files=result_files(evaluation.out),
        start_time=started,
        end_time=time.time(),
    )
    assert config.tracking.uri is not None
    return how_to_open(config.tracking.uri, log_evaluation(config.tracking.uri, config.tracking.experiment, run))


def _header(
    evaluation: Evaluation, result: TrialFinished, retain: TrialFinished | None, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """What was measured, of what, with what."""
    config, trial = evaluation.config, evaluation.trial
    settings = config.model_dump(mode="json")
    settings |= {"forget_set": trial.forget_set, "model": trial.model.model_dump(exclude={"retain_models"})}
    settings["tracking"]["uri"] = redact_uri(config.tracking.uri) if config.tracking.uri else None
    models = [trial.model.target, *([config.retain_model] if config.retain_model else [])]
    weights = {str(path): sha256_of(path) for model in models for path in sorted(Path(model).glob("*.safetensors"))}
    return {
        "checkpoint": trial.model.target,
        "scenario": trial.scenario.name,
        "forget_set": trial.forget_set,
        "template": trial.model.template,
        "judges": result.judges,
        "metrics": result.metrics,
        "retain_model": retain and {"checkpoint": config.retain_model, "metrics": retain.metrics},
        "rows": evaluation.rows,
        "convention": _ROWS,
        "notes": evaluation.notes,
        "seconds": result.seconds,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "num_processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": redact_uri(shlex.join(["python", "-m", "orchestrator.evaluate", *sys.argv[1:]])),
        "config": settings,
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _VERSIONS},
        "sha256": {"results": hashes, "weights": weights},
    }

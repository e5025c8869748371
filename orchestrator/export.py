"""Promote a trial: its weights become a plain model folder with a model card.

python -m orchestrator.export ~/lethe/mine-20260101-120000/trials/ME+GD/forget10/t003 /models/forgot
python -m orchestrator.export s3://bucket/lethe/mine/trials/ME+GD/forget10/t003 /models/forgot
"""

import argparse
import contextlib
import difflib
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.analysis.model_card import Findings, PromotedTrial, code, model_card
from orchestrator.load_config import ConfigError, validate
from orchestrator.scenarios.base import DataError
from orchestrator.scenarios.load import load_tasks
from orchestrator.storage import Storage, is_uri, open_storage
from orchestrator.tracking.journal import (
    JournalError,
    Record,
    SweepStarted,
    TrialFinished,
    TrialState,
    read_records,
)
from orchestrator.tracking.kept_journal import fetch_journal
from orchestrator.tracking.sweep_log import SweepLog, TrialLog, log_of
from orchestrator.trial_config import TrialConfig

EPILOG = """TRIAL is SWEEP/trials/METHOD/FORGET_SET/NUMBER, where SWEEP is the sweep's folder or URI. DEST is a new or
empty folder: it is there whole or not at all.

exit codes:
  0    done
  1    it could not go on: the disk, the store, the model that adapters belong to
  2    bad input; DEST is as it was
"""
CARD = "README.md"
_SHAPE = "SWEEP/trials/METHOD/FORGET_SET/NUMBER"
_QUESTION = "QUESTION"


def find_trial(place: str) -> tuple[Storage, PromotedTrial]:
    """The sweep's folder and the trial that a path or URI names.

    ConfigError: no such trial, or one whose weights are no model to be had. JournalError: no sweep there.
    """
    sweep, key = _split(place)
    try:
        storage = open_storage(sweep)
    except ValueError as error:
        raise ConfigError(f"TRIAL: {str(error).removeprefix('storage: ')}") from error
    fetch_journal(storage)
    try:
        records = list(read_records(storage.local / "journal"))
    except JournalError as error:
        raise JournalError(f"TRIAL: {error}; write {_SHAPE}") from error
    log = log_of(records, storage.local)
    if key not in log.trials:
        what = f"{storage} has no trial {key!r}" if key else f"{place} names a sweep, but none of its trials"
        raise ConfigError(f"TRIAL: {what}; {_others(log, key)}")
    trial = log.trials[key]
    _check_promotable(log, trial)
    try:
        config = validate(TrialConfig, trial.started.config)
    except ConfigError as error:
        raise ConfigError(f"TRIAL: the settings of {key} are not those of this version of Lethe: {error}") from error
    return storage, PromotedTrial(log, _header(records, key), trial, config)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which stands at `path` once the block has ended well. ConfigError: it cannot."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"DEST: {path} exists{' and is not empty' if path.is_dir() else ''}; name a new folder")
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"DEST: {path.parent} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def weights_of(storage: Storage, trial: TrialLog) -> Iterator[Path]:
    """The folder of a trial's weights, on this machine while the block runs. ConfigError: it is not there, or torn."""
    from safetensors import SafetensorError  # noqa: PLC0415

    assert trial.checkpoint is not None
    was_here = (storage.local / trial.checkpoint).exists()
    try:
        try:
            folder = storage.fetch(trial.checkpoint)
            _check_whole(folder)
        except (FileNotFoundError, SafetensorError) as error:
            raise ConfigError(
                f"TRIAL: the journal says that {trial.started.key} has weights, but {trial.checkpoint} of {storage} is "
                f"not whole: {error}"
            ) from error
        yield folder
    finally:
        if not was_here:
            storage.drop_copy(trial.checkpoint)


def _check_whole(folder: Path) -> None:
    """FileNotFoundError, SafetensorError: a file of weights is missing or was cut off."""
    from safetensors import safe_open  # noqa: PLC0415

    files, index = set(folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    if index.is_file():
        files |= {folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    if not files:
        raise FileNotFoundError(f"there are no *.safetensors in {folder}")
    for file in sorted(files):
        with safe_open(file, framework="np"):
            pass


def write_weights(weights: Path, out: Path, config: TrialConfig) -> str:
    """Copy a model's folder, or merge adapters into their model; returns how, in a sentence.

    ConfigError: the model of the adapters is not there. ValueError, OSError: it cannot be loaded, or not written.
    """
    from orchestrator.worker.model import base_of, export_merged, is_adapter_folder  # noqa: PLC0415  (torch: seconds)

    if not is_adapter_folder(weights):
        shutil.copytree(weights, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
        saved = json.loads((out / "config.json").read_text(encoding="utf-8"))
        dtype = saved.get("dtype") or saved.get("torch_dtype") or "its own type"
        return f"all of them trained; these are the files, in {code(dtype)}, of the model that was scored"
    try:
        base_of(weights)
    except ValueError as error:
        raise ConfigError(f"TRIAL: {error}") from error
    merge = export_merged(weights, out, trust_remote_code=config.model.trust_remote_code)
    rounded = ""
    if merge.rounding:
        rounded = (
            f"; rounding to {merge.dtype} changes the merged layers by {merge.rounding:.2%} of what the adapters add"
        )
    return (
        "low-rank adapters were trained, and merged here into the start model: summed in float32, saved in "
        f"{code(merge.dtype)}, the start model's type{rounded}. The scores are those of the adapters beside its weights"
    )


def find_out(storage: Storage, promoted: PromotedTrial, out: Path, weights: str) -> Findings:
    """What the card says besides the journal. ConfigError: the tokenizer in `out` does not fit model.template."""
    from orchestrator.worker.evaluation import read_scores  # noqa: PLC0415
    from orchestrator.worker.template import load_tokenizer, template_for  # noqa: PLC0415

    config, finished = promoted.config, promoted.trial.finished
    assert finished is not None
    questions: dict[str, list[str]] = {}
    if finished.scores_path is not None:
        with contextlib.suppress(FileNotFoundError):
            found = read_scores(storage.fetch(finished.scores_path))
            questions = {name: [row.question for row in rows] for name, rows in found.items()}
    template = template_for(
        config.model.template, load_tokenizer(str(out), trust_remote_code=config.model.trust_remote_code)
    )
    return Findings(
        weights=weights,
        prompt=template.generation_prompt(_QUESTION),
        adds_special_tokens=template.adds_special_tokens,
        questions={name: len(rows) for name, rows in questions.items()},
        forget_rows=_forget_rows(config, questions),
    )


def _split(place: str) -> tuple[str, str]:
    """A trial's folder as its sweep's place and its key; no key where it is not below a sweep's trials."""
    parts = urlsplit(place) if is_uri(place) else None
    path = parts.path if parts else str(Path(place).expanduser().absolute())
    sweep, found, key = path.rstrip("/").rpartition("/trials/")
    if not found:
        return place, ""
    return (urlunsplit(parts._replace(path=sweep)), unquote(key)) if parts else (sweep, key)


def _check_promotable(log: SweepLog, trial: TrialLog) -> None:
    started, finished = trial.started, trial.finished
    what = f"TRIAL: {started.key}"
    if trial.is_baseline:
        raise ConfigError(f"{what} is a baseline, which nothing was forgotten from; {_others(log, '')}")
    if started.confirms is not None:
        raise ConfigError(
            f"{what} confirms {started.confirms}, and the weights of such runs are never kept; "
            f"name SWEEP/trials/{started.confirms}"
        )
    if finished is None:
        raise ConfigError(f"{what} has not ended; wait for it, or go on with the sweep. Else {_others(log, '')}")
    if finished.state != TrialState.COMPLETE:
        why = (finished.error or "no reason is recorded").splitlines()[0][:200]
        raise ConfigError(f"{what} is {finished.state}, not COMPLETE: {why}; {_others(log, '')}")
    if trial.checkpoint is None:
        policy = log.header.config.get("checkpoint", {}).get("policy", "pareto")
        raise ConfigError(
            f"{what} has no weights any more: checkpoint.policy={policy} did not keep them (all keeps every complete "
            f"trial's, in a new sweep); {_others(log, '')}"
        )


def _others(log: SweepLog, key: str) -> str:
    """Which trials could be meant: of those that have weights the nearest by name, else the first."""
    kept = [name for name, trial in log.trials.items() if trial.checkpoint is not None]
    if not kept:
        return "no trial of this sweep has its weights"
    if near := difflib.get_close_matches(key, kept, n=3):
        return f"nearest that have their weights: {', '.join(near)}"
    return f"those that have their weights: {', '.join(kept[:5])}{', ...' if kept[5:] else ''}"


def _header(records: Sequence[Record], key: str) -> SweepStarted:
    """That of the sitting in which a trial ended: a later one may have other versions."""
    latest = found = None
    for record in records:
        if isinstance(record, SweepStarted):
            latest = record
        elif isinstance(record, TrialFinished) and record.key == key:
            found = latest
    assert found is not None, key
    return found


def _forget_rows(config: TrialConfig, questions: Mapping[str, Sequence[str]]) -> tuple[int, ...] | None:
    """Rows of each task; None where the data is not there, or asks other questions than the trial was asked."""
    try:
        tasks = load_tasks(config.scenario, config.evaluation, config.forget_set, config.questions)
    except DataError:
        return None
    same = all(questions.get(one.name) == [row.question for row in one.rows] for one in tasks[-1].evaluation)
    return tuple(len(task.forget) for task in tasks) if same else None


def export(place: str, dest: Path, say: Callable[[str], None]) -> None:
    """Make the folder. ConfigError, JournalError: bad input. ValueError, OSError: it could not go on."""
    storage, promoted = find_trial(place)
    with new_folder(dest) as draft:
        with weights_of(storage, promoted.trial) as weights:
            how = write_weights(weights, draft, promoted.config)
        findings = find_out(storage, promoted, draft, how)
        model_card(dest.name, promoted, findings).save(draft / CARD)
    if findings.forget_rows is None:
        say(f"note: {CARD} does not count the forget rows: the data of {promoted.config.forget_set} is not there now")
    say(f"wrote {dest}: {promoted.key} of {storage}")
    say(f"weights: {how}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.export",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trial", metavar="TRIAL", help=f"a trial's folder or URI: {_SHAPE}")
    parser.add_argument("dest", metavar="DEST", help="folder to write the model to; new or empty")
    arguments = parser.parse_args(argv)
    try:
        if is_uri(arguments.dest):
            raise ConfigError(f"DEST: {arguments.dest} is a URI; name a folder, and copy it from there")
        export(arguments.trial, Path(arguments.dest).expanduser().absolute(), _say)
    except (ConfigError, JournalError) as error:
        return _fail(error, 2)
    except (OSError, ValueError) as error:
        return _fail(error, 1)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The append-only record of everything a sweep learned: the truth that MLflow and the report are views of.

A journal is a folder of JSON-lines segments, one for each time the sweep was started or resumed (more where they go to
a store, see kept_journal). Each record is written, and all but steps flushed to disk, before anybody acts on it. A line
torn by a kill can only be the last of a segment and is skipped.
"""

import fcntl
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from orchestrator.storage import sync_entry


class JournalError(RuntimeError):
    """A journal that cannot be read or written; the message names the file and the remedy."""


class TrialState(StrEnum):
    """How a trial ended. Only COMPLETE trials may stand on a front."""

    COMPLETE = "COMPLETE"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"
    PRUNED = "PRUNED"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
    time: float = Field(default_factory=time.time)


class CellRecord(BaseModel):
    """One method on one forget set: `name` is `METHOD/forget_set`; `num_trials` is its budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    method: str
    forget_set: str
    num_trials: int


class ObjectiveRecord(BaseModel):
    """A metric that the search improves; `worst` is what Optuna is told for a diverged trial."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    metric: str
    direction: Literal["maximize", "minimize"]
    worst: float


class RowsRecord(BaseModel):
    """Rows of questions and answers: how many different ones, and the SHA-256 of their texts in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_rows: int
    sha256: str


class DataRecord(BaseModel):
    """The rows of one forget set: `forget`, those that are still retained in the end, and what the search asks.

    `questions` holds each evaluation set by its name. Of a chain all tasks' rows count. `source` is a folder, a hub
    data set, or says how rows were generated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    forget: RowsRecord
    retain: RowsRecord
    questions: dict[str, RowsRecord]


class SweepStarted(_Record):
    """First record of every segment: what is searched, and with what; `data` by forget set, empty in old journals."""

    kind: Literal["sweep_started"] = "sweep_started"
    name: str
    seed: int
    config: dict[str, Any]
    cells: tuple[CellRecord, ...]
    objectives: tuple[ObjectiveRecord, ...]
    lookahead: int
    versions: dict[str, str]
    command: str
    resumed: bool = False
    data: dict[str, DataRecord] = {}

    @property
    def num_trials(self) -> int:
        """The budget of all cells together."""
        return sum(cell.num_trials for cell in self.cells)

    @property
    def trials_per_cell(self) -> str:
        """The budget of a cell in words: `6`, or `1 to 6` where methods differ."""
        each = sorted({cell.num_trials for cell in self.cells})
        return str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"


class TrialStarted(_Record):
    """A trial was handed to a slot, which holds `gpus` for it. Baselines (`before`, `retain_model`) have no number.

    `confirms`: the key of the trial or baseline that it repeats on held-out questions, with its `number`-th fresh seed.
    """

    kind: Literal["trial_started"] = "trial_started"
    key: str
    method: str
    forget_set: str
    number: int | None
    params: dict[str, float | int | str | bool]
    config: dict[str, Any]
    gpus: float = 0.0
    confirms: str | None = Field(None, exclude_if=lambda key: key is None)


class StepRecord(BaseModel):
    """One optimizer step; losses are the unweighted terms and their weighted total, before the update."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
    step: int
    loss: float
    forget_loss: float
    retain_loss: float | None
    learning_rate: float
    grad_norm: float | None

    @property
    def is_finite(self) -> bool:
        """Whether the step could be taken: with a gradient that is not finite the weights would stay as they are."""
        return math.isfinite(self.loss) and (self.grad_norm is None or math.isfinite(self.grad_norm))


class TrialTaken(_Record):
    """Workers have the trial: from here on it holds its GPUs. Each group tells it; the first counts."""

    kind: Literal["trial_taken"] = "trial_taken"
    key: str


class StepsReported(_Record):
    """Step metrics travel in batches."""

    kind: Literal["steps_reported"] = "steps_reported"
    key: str
    steps: tuple[StepRecord, ...]


class TaskFinished(_Record):
    """One task of a chain is forgotten, and the model scored on its rows, on earlier tasks' and on the utility sets.

    `task` counts from 1, `num_steps` are those of the chain so far, `metrics` as in TrialFinished.
    """

    kind: Literal["task_finished"] = "task_finished"
    key: str
    task: int
    name: str
    num_steps: int
    metrics: dict[str, float]
    scores_path: str | None = None
    scores_sha256: str | None = None


class RungReached(_Record):
    """The model as it stands after `step` of a trial's `num_steps` optimizer steps, asked a few questions.

    `rung` counts from 1. `metrics` and `objectives` as in TrialFinished, but of fewer questions. `seconds`: what
    the trial has taken so far, by phase.
    """

    kind: Literal["rung_reached"] = "rung_reached"
    key: str
    rung: int
    step: int
    num_steps: int
    metrics: dict[str, float]
    objectives: tuple[float, ...]
    seconds: dict[str, float]


Shared = Annotated[str, AfterValidator(sys.intern)]  # a text that is the same in many records is kept once


@pydantic_dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ExampleAnswer:
    """What the model said to one evaluation question after the trial. A driver holds those of every trial."""

    set_name: Shared
    index: int
    question: Shared
    truth: Shared
    output: str


class TrialFinished(_Record):
    """How a trial ended, and every metric it was scored with.

    `metrics` maps names such as `model_utility` or `forget/rouge` to values. `objectives` are in the sweep's order and
    absent for FAILED. `retry`: the reason for FAILED lies outside of the trial, which a resumed sweep tries again.
    `gpu_seconds`: held from when workers first had it until now; None where nobody measured it.
    `notes` say what went wrong without changing the result. `scores_path` is a JSON-lines file of per-example scores,
    `checkpoint` a folder of weights; both are relative to the sweep's folder. `weights_sha256`: of a baseline, the
    weights that were scored.
    """

    kind: Literal["trial_finished"] = "trial_finished"
    key: str
    state: TrialState
    metrics: dict[str, float] = {}
    objectives: tuple[float, ...] | None = None
    error: str | None = None
    retry: bool = False
    seconds: dict[str, float] = {}
    gpu_seconds: float | None = None
    scores_path: str | None = None
    scores_sha256: str | None = None
    weights_sha256: str | None = None
    checkpoint: str | None = None
    judges: dict[str, str] = {}
    examples: tuple[ExampleAnswer, ...] = ()
    notes: tuple[str, ...] = ()


class CheckpointDeleted(_Record):
    """The checkpoint policy removed a trial's weights."""

    kind: Literal["checkpoint_deleted"] = "checkpoint_deleted"
    key: str


class SweepEnded(_Record):
    """Last record of a segment that was closed in good order."""

    kind: Literal["sweep_ended"] = "sweep_ended"
    state: Literal["done", "failed", "interrupted", "budget spent"]


Record = Annotated[
    SweepStarted
    | TrialStarted
    | TrialTaken
    | StepsReported
    | RungReached
    | TaskFinished
    | TrialFinished
    | CheckpointDeleted
    | SweepEnded,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Record)
BASELINES = ("before", "retain_model")
_SYNC_SECONDS = 1.0


class Journal:
    """Append records to a new segment of `folder`."""

    def __init__(self, folder: Path, *, suffix: str = "") -> None:
        self._folder, self._suffix = folder, suffix
        self._lock = lock_folder(folder)
        self._number = max((int(path.stem.partition("-")[0]) for path in folder.glob("*.jsonl")), default=0)
        self._file = self._next_segment()
        self._synced = 0.0

    def _next_segment(self) -> FileIO:
        """JournalError: the disk does not give it."""
        self._number += 1
        path = self._folder / f"{self._number:06d}{self._suffix}.jsonl"
        try:
            file = path.open("xb", buffering=0)
            sync_entry(self._folder)
            return file
        except OSError as error:
            raise JournalError(f"{path} cannot be written: {error.strerror}") from error

    def append(self, record: Record) -> None:
        """Write one record and wait until it, and all before it, are on disk.

        Steps alone do not wait more than once a second: only a machine that dies can lose them, and the trial that they
        belong to has not ended then and starts again. JournalError: the disk takes no more, or another error of it.
        """
        try:
            left = memoryview(record.model_dump_json().encode() + b"\n")
            while left:  # a disk that is almost full takes a part, and says so the next time
                left = left[self._file.write(left) :]
            if not isinstance(record, StepsReported) or time.monotonic() - self._synced >= _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise JournalError(f"{self._file.name} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the segment and let others write; closing twice is fine."""
        self._file.close()
        self._lock.close()


def lock_folder(folder: Path) -> TextIO:
    """Hold a journal until the file is closed or this process ends. JournalError: another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise JournalError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise JournalError(
            f"another sweep ({holder}) is writing to {folder}; wait until it ends, or stop it"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock


def read_records(folder: Path) -> Iterator[Record]:
    """All records in the order they were written. JournalError: no journal there, or a broken line inside a segment."""
    segments = sorted(folder.glob("*.jsonl"))
    if not segments:
        raise JournalError(f"no journal in {folder}: give the folder of a sweep that was started (it holds journal/)")
    for segment in segments:
        with segment.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):  # torn by a kill
                    break
                try:
                    yield _ADAPTER.validate_json(line[:-1])
                except ValidationError as error:
                    reason = error.errors()[0]["msg"]
                    raise JournalError(f"{segment}:{number} is not a journal record: {reason}") from error


def has_records(sweep_dir: Path) -> bool:
    """Whether a sweep was started there. JournalError: as read_records."""
    folder = sweep_dir / "journal"
    return any(folder.glob("*.jsonl")) and next(read_records(folder), None) is not None


def parse_record(text: str) -> Record:
    """A record from its JSON."""
    return _ADAPTER.validate_json(text)

"""What a worker keeps between trials: tokenizers, rows, judges, reference answers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from orchestrator.scenarios.base import Task
from orchestrator.scenarios.load import load_tasks
from orchestrator.trial_config import EvaluationConfig, ModelConfig, TrialConfig
from orchestrator.worker.batches import Encoder
from orchestrator.worker.judges import Judges
from orchestrator.worker.reference import ReferenceCache
from orchestrator.worker.template import load_tokenizer, template_for


@dataclass
class WorkerParts:
    """Loaded at first use, shared by all trials of a process."""

    device: torch.device
    references: ReferenceCache = field(default_factory=ReferenceCache)
    _judges: dict[tuple[str, str], Judges] = field(default_factory=dict)
    _tokenizers: dict[str, Any] = field(default_factory=dict)
    _tasks: dict[str, tuple[Task, ...]] = field(default_factory=dict)

    def judges(self, config: EvaluationConfig) -> Judges:
        """The judge models."""
        key = (config.encoder, config.entailment)
        if key not in self._judges:
            self._judges[key] = Judges(*key, device=self.device)
        return self._judges[key]

    def tokenizer(self, model: ModelConfig) -> Any:
        """The tokenizer of a model."""
        if model.target not in self._tokenizers:
            self._tokenizers[model.target] = load_tokenizer(model.target, trust_remote_code=model.trust_remote_code)
        return self._tokenizers[model.target]

    def encoder(self, model: ModelConfig, max_length: int) -> Encoder:
        """What turns questions and answers into the model's tokens."""
        tokenizer = self.tokenizer(model)
        return Encoder(tokenizer, template_for(model.template, tokenizer), max_length)

    def tasks(self, config: TrialConfig) -> tuple[Task, ...]:
        """The rows of a trial's forget set, task by task."""
        what = (config.scenario, config.evaluation, config.questions)
        key = f"{' '.join(part.model_dump_json() for part in what if part)} {config.forget_set}"
        if key not in self._tasks:
            self._tasks[key] = load_tasks(config.scenario, config.evaluation, config.forget_set, config.questions)
        return self._tasks[key]


_IN_PHASE = "in phase "


def phase_of(error: Exception) -> str | None:
    """The innermost phase of a trial that an error comes from."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note.removeprefix(_IN_PHASE) for note in notes if note.startswith(_IN_PHASE)), None)


@dataclass
class Clock:
    """Seconds by phase of a trial; while a phase runs inside of another, the outer one stands still."""

    seconds: dict[str, float] = field(default_factory=dict)
    _phase: tuple[str, float] | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase; an error of the block has a note of it, see `phase_of`."""
        outer = self._phase and self._phase[0]
        self._switch(name)
        try:
            yield
        except Exception as error:
            error.add_note(f"{_IN_PHASE}{name}")
            raise
        finally:
            self._switch(outer)

    def so_far(self) -> dict[str, float]:
        """Seconds by phase, with what the phase under way has taken."""
        if self._phase is None:
            return dict(self.seconds)
        name, start = self._phase
        return self.seconds | {name: self.seconds.get(name, 0.0) + time.perf_counter() - start}

    def _switch(self, name: str | None) -> None:
        self.seconds = self.so_far()
        self._phase = None if name is None else (name, time.perf_counter())

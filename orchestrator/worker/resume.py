"""The state of training between two optimizer steps: when it is saved, what it is, how it is taken up again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from orchestrator.worker.engine import DeepSpeedEngine

_FILE = "training.safetensors"
_ASK_SECONDS = 2.0  # between questions about a notice: each holds up all ranks for some milliseconds


class PreemptedError(RuntimeError):
    """The machine of a rank is about to be taken away; what was trained is saved, and can go on elsewhere."""


@dataclass
class TrainingPoints:
    """Points of a task's training to go on from.

    `every_seconds` apart, 0: after each epoch. `write(fill, step)` makes a checkpoint of what `fill` writes into a
    rank's folder, after that many steps. `found`: such a folder, written by the same rank, and its number of steps.
    `is_leaving`, which all ranks ask together: whether a machine of the group is about to be taken away.
    """

    every_seconds: float
    write: Callable[[Callable[[Path], None], int], None]
    found: tuple[Path, int] | None = None
    is_leaving: Callable[[], bool] = lambda: False
    _last: float = field(default_factory=time.monotonic)
    _asked: float = field(default_factory=time.monotonic)
    _leaves: bool = False

    def take_up(self, engine: DeepSpeedEngine) -> int:
        """Put the engine into the state that was found; returns the number of steps done by then, 0 without one."""
        if self.found is None:
            return 0
        folder, num_steps = self.found
        state = load_file(folder / _FILE)
        generators = {name: state.pop(name) for name in list(state) if name.startswith("generator/")}
        engine.restore(state)
        _set_generators(generators, engine.device)
        return num_steps

    def after_step(self, engine: DeepSpeedEngine, num_steps: int, steps_per_epoch: int) -> bool:
        """Whether this is a point; all ranks together."""
        now = time.monotonic()
        due = self.every_seconds > 0 and now - self._last >= self.every_seconds
        wish = engine.max_over_ranks(2 if due else int(now - self._asked >= _ASK_SECONDS))
        if wish:
            self._asked, self._leaves = now, self.is_leaving()
        ended_epoch = self.every_seconds == 0 and num_steps % steps_per_epoch == 0
        return ended_epoch or wish == 2 or self._leaves

    def save(self, engine: DeepSpeedEngine, num_steps: int) -> None:
        """Write the state after that many steps; all ranks together. PreemptedError: there is no time for more."""
        self.write(lambda folder: save_file(engine.state() | _generators(engine.device), folder / _FILE), num_steps)
        self._last = time.monotonic()
        if self._leaves:
            raise PreemptedError(f"a machine of the group is about to be taken away, after step {num_steps}")


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """What dropout is drawn from."""
    states = {"generator/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["generator/cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["generator/cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["generator/cuda"], device)

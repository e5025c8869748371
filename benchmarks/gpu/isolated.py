"""Each measurement in a process of its own, so that it finds the device's memory empty and can run out of it."""

import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.setting import device, memory

_MARK = "MEASURED "


class Child:
    """A process that imports what it needs at once and waits for what it is to measure.

    Started while another one measures, it has its imports behind it when its turn comes.
    """

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, what: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """The result with its `state`: measured, does not fit, out of time, or failed with an `error`."""
        try:
            output, _ = self._process.communicate(json.dumps(what), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            return {"state": "out of time", "error": f"not done after {timeout_seconds:g} s"}
        lines = [line for line in output.splitlines() if line.startswith(_MARK)]
        if lines:
            result: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
            return result
        if self._process.returncode == -9:
            return {"state": "does not fit", "error": "the process was killed, as it is when host memory runs out"}
        return {"state": "failed", "error": f"exit code {self._process.returncode}: {output[-500:]}"}

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()


def in_turn(
    module: str, plan: Sequence[dict[str, Any]], seconds: Callable[[], float | None]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each of `plan` with its result. `seconds` says before each how long it may take; None: no more of them."""
    waiting = Child(module) if plan else None
    try:
        for number, what in enumerate(plan):
            allowed = seconds()
            if waiting is None or allowed is None:
                return
            child, waiting = waiting, Child(module) if number + 1 < len(plan) else None
            yield what, child.measure(what, allowed)
    finally:
        if waiting is not None:
            waiting.stop()


def serve(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The child's side: read what is to be measured, print the result; returns the exit code."""
    what = json.loads(sys.stdin.read())
    try:
        result = {"state": "measured", **measure(what)}
    except torch.OutOfMemoryError as error:
        result = {"state": "does not fit", "error": str(error).split("\n")[0][:300], **memory(device())}
    except Exception as error:
        traceback.print_exc()
        result = {"state": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
    print(f"\n{_MARK}{json.dumps(result)}", flush=True)
    return 0

"""A sweep on one GPU without Ray: the same searcher, trials, journal and checkpoint keeper, driven by one process.

`CellSearch` is asked and told as Tune does it. Jobs go to worker processes that live on between trials, each with a
process group of its own, which is what a slot with one worker is. Ray need not be installed: of it `CellSearch` takes
only its base class, whose place is taken where Ray is missing.
"""

import importlib
import importlib.util
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from orchestrator.tracking.journal import TrialFinished, TrialState
from orchestrator.tracking.sweep_log import SweepLog

if TYPE_CHECKING:
    from orchestrator.tuning.search import Search

FINISHED = "FINISHED"  # Searcher.FINISHED
_SEARCHER = "ray.tune.search"


def search_module() -> ModuleType:
    """`orchestrator.tuning.search`, with or without Ray."""
    if importlib.util.find_spec("ray") is not None:
        return importlib.import_module("orchestrator.tuning.search")
    with _stand_in():
        return importlib.import_module("orchestrator.tuning.search")


@contextmanager
def _stand_in() -> Iterator[None]:
    """While a module is imported: `ray.tune.search.Searcher`, of which nothing but its constructor is used."""

    class Searcher:
        def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
            pass

    Searcher.FINISHED = FINISHED  # type: ignore[attr-defined]
    modules = {name: ModuleType(name) for name in ("ray", "ray.tune", _SEARCHER)}
    modules[_SEARCHER].Searcher = Searcher  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


# ---- In a worker process. ----

_PARTS: Any = None


def start_worker() -> None:
    """Join a process group of this process alone; load nothing yet."""
    import torch  # noqa: PLC0415

    from benchmarks.gpu.setting import device  # noqa: PLC0415
    from orchestrator.worker.engine import import_deepspeed, join_process_group  # noqa: PLC0415
    from orchestrator.worker.parts import WorkerParts  # noqa: PLC0415

    global _PARTS  # noqa: PLW0603  (what a worker keeps between trials)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    import_deepspeed()
    join_process_group()
    _PARTS = WorkerParts(device())


def run_job(text: str) -> list[str]:
    """Run a TrialJob; returns its records as JSON, the last one being how it ended."""
    from orchestrator.worker.job import TrialJob  # noqa: PLC0415
    from orchestrator.worker.trial import run_trial  # noqa: PLC0415

    job = TrialJob.model_validate_json(text)
    records: list[str] = []
    try:
        result = run_trial(job, _PARTS, lambda record: records.append(record.model_dump_json()))
    except Exception as error:  # as a slot does: the trial is FAILED, and says why
        traceback.print_exc()
        result = TrialFinished(key=job.key, state=TrialState.FAILED, error=f"{type(error).__name__}: {error}")
    return [*records, result.model_dump_json()]


# ---- In the process that drives. ----


@dataclass
class Rounds:
    """Lets only whole rounds of trials begin, one a cell, so that a sweep that is cut short treats all cells alike.

    A round begins if the longest one so far would still end by `end` (monotonic seconds). One that takes longer than
    expected is cut off at `end`.
    """

    end: float
    clock: Callable[[], float] = time.monotonic
    over: bool = False
    num_begun: int = 0
    _started: float = 0.0
    _longest: float = 0.0
    _seen: int = field(default=-1)

    def may_start(self, log: SweepLog) -> bool:
        """Whether another trial may start."""
        now = self.clock()
        counts = {len(log.cell(cell.method, cell.forget_set)) for cell in log.header.cells}
        if len(counts) == 1 and counts != {self._seen}:
            if self.num_begun:
                self._longest = max(self._longest, now - self._started)
            self.over = self.over or now + self._longest > self.end
            self._seen, self._started = min(counts), now
            self.num_begun += 1
        if counts == {0}:  # until now workers started and baselines were scored
            self._started = now
        self.over = self.over or now > self.end
        return not self.over


def drive(search: "Search", at_a_time: int, rounds: Rounds, say: Callable[[str], None]) -> bool:
    """Run trials, `at_a_time` at once, until none is left or the time is over; returns whether none is left.

    RuntimeError: a baseline could not be scored, so that nothing can be compared with it.
    """
    from orchestrator.tuning.resources import Plan  # noqa: PLC0415

    searcher = search.searcher(Plan(at_a_time, 1, at_a_time, at_a_time))
    log, running, number = search.recorder.log, dict[Future[list[str]], tuple[str, str]](), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_a_time, mp_context=context, initializer=start_worker) as pool:
        while True:
            while len(running) < at_a_time and rounds.may_start(log):
                suggestion = searcher.suggest(str(number))
                if suggestion is None or suggestion == FINISHED:
                    break
                running[pool.submit(run_job, suggestion["job"])] = (str(number), suggestion["key"])
                number += 1
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial, key = running.pop(future)
                _tell(searcher, trial, future.result())
                say(f"{key}: {_outcome(log, key)}")
    if searcher.fatal:
        raise RuntimeError(searcher.fatal)
    return bool(searcher.is_done)


def _tell(searcher: Any, trial: str, records: list[str]) -> None:
    for index, record in enumerate(records):
        result = {"slot": "process", "report": index, "record": record}
        searcher.on_trial_result(trial, result)
    searcher.on_trial_complete(trial, result)


def _outcome(log: SweepLog, key: str) -> str:
    finished = log.trials[key].finished
    assert finished is not None, key
    seconds = " ".join(f"{name} {value:.1f}" for name, value in finished.seconds.items())
    scores = ", ".join(
        f"{name} {finished.metrics[name]:.3f}"
        for name in (one.metric for one in log.header.objectives)
        if name in finished.metrics
    )
    return f"{finished.state} {scores or finished.error} ({seconds} s)"


def keep(folder: Path, out: Path) -> None:
    """Copy what is worth keeping of a sweep: its journal, and its report if there is one."""
    (out / "journal").mkdir(parents=True, exist_ok=True)
    for path in [*(folder / "journal").glob("*.jsonl"), *folder.glob("report.html")]:
        (out / path.relative_to(folder)).write_bytes(path.read_bytes())

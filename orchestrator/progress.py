"""What a sweep shows while it runs: a live view in a terminal, one line a trial elsewhere."""

import time
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.words import count, duration
from orchestrator.tracking.checkpoints import cell_front, objectives
from orchestrator.tracking.confirmation import confirmation_runs, most_finalists, num_seeds
from orchestrator.tracking.journal import Record, StepsReported, TaskFinished, TrialFinished, TrialStarted, TrialState
from orchestrator.tracking.sweep_log import SweepLog


@dataclass
class Progress:
    """A listener of the recorder. Use it as a context: it draws while the context lasts."""

    log: SweepLog
    console: Console
    _started: float = field(default_factory=time.monotonic)
    _first_end: float | None = None
    _num_ended: int = 0
    _num_confirming: int = 0  # runs that confirm the fronts as they stand
    _running: dict[str, str] = field(default_factory=dict)
    _tasks: dict[str, int] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> "Progress":
        self._num_first, self._num_seeds = self._num_planned(), num_seeds(self.log.header.config)
        self._count_confirming()
        self._num_before = sum(trial.is_done for trial in self.log.trials.values())
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, record: Record) -> None:
        """Show one record."""
        match record:
            case TrialStarted(key=key):
                self._running[key] = "starting"
            case StepsReported(key=key, steps=steps) if steps:
                done = self._tasks.get(key, 0)
                task = f"{count(done, 'task')} done, " if done else ""
                self._running[key] = f"{task}step {steps[-1].step + 1}, loss {steps[-1].loss:.3g}"
            case TaskFinished(key=key, task=task_number):
                self._tasks[key] = task_number
            case TrialFinished(key=key):
                self._running.pop(key, None)
                self._tasks.pop(key, None)
                self._num_ended += 1
                self._first_end = self._first_end or time.monotonic()
                self._count_confirming()
                self.console.print(self._line(record), highlight=False)
                for note in record.notes:
                    self.console.print(f"note: {record.key}: {note}", style="yellow", highlight=False)

    def _num_planned(self) -> int:
        header = self.log.header
        retain_models = header.config.get("model", {}).get("retain_models") or {}
        baselines = len({cell.forget_set for cell in header.cells}) + len(retain_models)
        return header.num_trials + baselines

    def _count_confirming(self) -> None:
        """Once for each trial that ends, as every cell's front is computed for it."""
        if self._num_seeds:
            most = most_finalists(self.log.header.config)
            ran = {key for key, trial in self.log.trials.items() if trial.started.confirms is not None}
            planned = {run.key for run in confirmation_runs(self.log, self._num_seeds, most)}
            self._num_confirming = len(planned | ran)  # a trial that was run again may have left its front since

    @property
    def _planned(self) -> int:
        """What is to run in all; confirmation runs once the search is over, as the fronts may change until then."""
        return self._num_first + (self._num_confirming if self._num_confirming and self._is_searched else 0)

    @property
    def _is_searched(self) -> bool:
        return sum(trial.finished is not None for trial in self.log.searched()) >= self.log.header.num_trials

    @property
    def _done(self) -> int:
        return self._num_before + self._num_ended

    def _eta(self) -> str:
        """Time left at the pace since the first trial ended; before that nothing is known."""
        if self._first_end is None or self._num_ended < 2:
            return "ETA -"
        pace = (time.monotonic() - self._first_end) / (self._num_ended - 1)
        return f"ETA {duration(pace * (self._planned - self._done))}"

    def _line(self, record: TrialFinished) -> Text:
        width = len(str(self._planned))
        line = Text(f"[{self._done:>{width}}/{self._planned}] {record.key:<26} ")
        if record.state != TrialState.COMPLETE:
            line.append(f"{record.state}: {(record.error or '').splitlines()[0] if record.error else ''}", "red")
        else:
            wanted = [objective.metric for objective in self.log.header.objectives]
            line.append("  ".join(f"{name} {record.metrics[name]:.3f}" for name in wanted if name in record.metrics))
        line.append(f"  ({sum(record.seconds.values()):.1f} s, {self._eta()})", "dim")
        return line

    def __rich__(self) -> RenderableType:
        """The live view as it stands."""
        bar = ProgressBar(total=self._planned, completed=self._done, width=40)
        head = Table.grid(padding=(0, 2))
        trials = f"{self._done}/{self._planned} trials"
        if self._planned == self._num_first and (confirming := self._num_confirming):
            trials += f" and, as the fronts stand, {confirming} runs to confirm them"
        head.add_row(bar, trials, f"{duration(self._elapsed())} elapsed", self._eta())
        running = [Text(f"  {key}: {state}", "dim") for key, state in self._running.items()]
        return Group(head, *running, self._best())

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _best(self) -> RenderableType:
        """The best value of each objective on every cell's front so far."""
        header = self.log.header
        table = Table(title="best of each cell so far", title_justify="left", box=None, pad_edge=False)
        table.add_column("cell")
        table.add_column("trials", justify="right")
        for objective in header.objectives:
            table.add_column(f"{objective.metric} ({'max' if objective.direction == 'maximize' else 'min'})")
        for cell in header.cells:
            trials = self.log.cell(cell.method, cell.forget_set)
            values = [objectives(trial) for trial in cell_front(self.log, trials)]
            ended = sum(trial.finished is not None for trial in trials)
            best = []
            for index, objective in enumerate(header.objectives):
                choose = max if objective.direction == "maximize" else min
                best.append(f"{choose(value[index] for value in values):.3f}" if values else "-")
            table.add_row(cell.name, f"{ended}/{cell.num_trials}", *best)
        return table

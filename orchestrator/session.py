"""One sitting of a sweep: plan, search, report; started anew or resumed from a journal."""

import importlib.metadata
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from rich.console import Console

from orchestrator import preflight
from orchestrator.analysis.words import count
from orchestrator.base_config import EMBEDDED
from orchestrator.conclude import conclude
from orchestrator.config import SweepConfig, num_combinations, num_trials
from orchestrator.embedded import EmbeddedError, prepare, with_folders
from orchestrator.estimate import (
    budget_in_words,
    confirmation_in_words,
    estimate_cost,
    total_trials,
    trials_left,
)
from orchestrator.load_config import ConfigError, build_config, validate
from orchestrator.progress import Progress
from orchestrator.resumable import check_resumable, check_same_data
from orchestrator.scenarios.base import DataError, Task
from orchestrator.scenarios.digest import describe_data
from orchestrator.storage import Storage, join, open_storage, split
from orchestrator.tracking.checkpoints import CheckpointKeeper
from orchestrator.tracking.journal import (
    CellRecord,
    DataRecord,
    JournalError,
    ObjectiveRecord,
    SweepEnded,
    SweepStarted,
    TrialState,
    has_records,
    read_records,
)
from orchestrator.tracking.kept_journal import fetch_journal, open_journal, reconcile_journal
from orchestrator.tracking.pump import Pump, redact_argument, redact_uri
from orchestrator.tracking.recorder import Recorder
from orchestrator.tracking.sweep_log import SweepLog, load_sweep, log_of
from orchestrator.trial_config import known_metrics
from orchestrator.tuning.clusters.files import ClusterFile, nodes_at_maximum, read_cluster_file
from orchestrator.tuning.resources import Node, Plan, plan_slots
from orchestrator.tuning.search import Search, SearchError, ray_session

_VERSIONS = ("lethe-unlearning", "ray", "torch", "transformers", "deepspeed", "optuna", "mlflow")
Outcome = Literal["done", "failed", "interrupted", "budget spent"]


@dataclass(frozen=True)
class Study:
    """A sweep that is ready to run: its configuration, its folder, what its journal knows so far, its data."""

    sweep: SweepConfig
    storage: Storage
    log: SweepLog | None
    data: Mapping[str, DataRecord]

    @property
    def folder(self) -> Path:
        """The sweep's folder on this machine."""
        return self.storage.local


def start(sweep: SweepConfig, console: Console, place: str | None = None) -> Study:
    """Check the input, make what is embedded, name the folder, if it is not `place`. ConfigError, DataError: bad."""
    if place is not None:
        sweep = _with_storage(sweep, split(place)[0])
    tasks = preflight.check(sweep)
    _say_notes(sweep, tasks, console)
    ready = _prepared(sweep, console)
    if sweep.model.target == EMBEDDED:
        preflight.check_lengths(ready, tasks, preflight.load_target_tokenizer(ready))
    storage = open_storage(place or join(ready.storage, f"{ready.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if place is None and storage.local.exists():
        raise ConfigError(f"storage: {storage.local} exists; wait a second, or change name or storage")
    return Study(ready, storage, None, _data(ready, tasks))


def resume(place: str, overrides: Sequence[str], console: Console, given: SweepConfig | None = None) -> Study:
    """Read a journal back. With a sweep `given`, that sweep is started where there is none yet.

    ConfigError: a setting that cannot change in the middle of a sweep; names the difference. JournalError: no journal.
    """
    storage = _open(place)
    reconcile_journal(storage)
    if given is not None and not has_records(storage.local):
        return start(given, console, place)
    log = load_sweep(storage.local, keeps_steps=False)
    new = _resumed(log, overrides, given, lambda sweep: _prepared(sweep, console))
    tasks = preflight.check(new)
    data = _data(new, tasks)
    check_same_data(log.header.data, data)
    _say_notes(new, tasks, console)
    ended = sum(trial.is_done for trial in log.searched())
    console.print(f"resuming {storage}: {ended} trials are done", style="dim")
    return Study(new, storage, log, data)


def _open(place: str) -> Storage:
    try:
        return open_storage(place)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _resumed(
    log: SweepLog,
    overrides: Sequence[str],
    given: SweepConfig | None,
    fill: Callable[[SweepConfig], SweepConfig],
) -> SweepConfig:
    """The configuration to go on with; `fill` puts folders in place of what is embedded. ConfigError: as resume."""
    old = validate(SweepConfig, log.header.config)
    if given is not None:
        new = fill(_with_storage(given, old.storage))
    else:
        new = build_config(SweepConfig, None, overrides, base=log.header.config) if overrides else old
    check_resumable(old, new)
    if "***" in (new.tracking.uri or ""):
        raise ConfigError("tracking.uri: the journal keeps it without its password; set tracking.uri=URI again")
    return new


def _with_storage(sweep: SweepConfig, storage: str) -> SweepConfig:
    return validate(SweepConfig, sweep.model_dump(mode="json") | {"storage": storage})


def _prepared(sweep: SweepConfig, console: Console) -> SweepConfig:
    """The sweep with what is embedded made."""
    try:
        return prepare(sweep, lambda text: console.print(text, style="dim"))
    except EmbeddedError as error:
        raise ConfigError(str(error)) from error


def run(study: Study, console: Console) -> int:
    """Search, report, say where everything is; returns the exit code."""
    sweep, storage = study.sweep, study.storage
    with ray_session(sweep.resources) as nodes:
        signal.signal(signal.SIGTERM, _interrupt)  # after Ray, which puts its own handler in place
        plan = plan_slots(sweep.resources, nodes, total_trials(sweep))
        recorder, pump, keeper = open_record(study, plan)
        console.print(f"sweep {sweep.name} in {storage}")
        console.print(f"{budget_in_words(sweep)} on {plan}")
        if sweep.confirm.seeds:
            console.print(confirmation_in_words(sweep))
        search = Search(sweep, storage, recorder)
        try:
            outcome = _search(search, plan, console)
            if outcome == "done":
                keeper.conclude()
            recorder.record(SweepEnded(state=outcome))
        except JournalError as error:
            console.print(f"error: {error}; nothing that was recorded is lost", style="red")
            console.print(f"once it can be written again, go on with  {_resume_command(storage)}")
            return 1
        finally:
            recorder.close()
            search.tidy()
    code = {"done": 0, "budget spent": 0, "failed": 1, "interrupted": 130}[outcome]
    if code == 0 and (share := _failed_share(recorder.log)) > sweep.search.max_failed_share:
        console.print(
            f"{share:.0%} of the trials failed, more than search.max_failed_share={sweep.search.max_failed_share:g}",
            style="red",
        )
        code = 1
    conclude(storage, sweep.tracking_uri, recorder.log, pump, console)
    if outcome == "interrupted":
        console.print(f"interrupted; go on with  {_resume_command(storage)}")
    return code


def dry_run_of_rest(
    place: str, overrides: Sequence[str], console: Console, given: SweepConfig | None = None, cluster: str | None = None
) -> None:
    """As dry_run, of what `resume` would go on with; the journal is only read, also while its sweep is running.

    ConfigError, JournalError: as resume.
    """
    storage = _open(place)
    fetch_journal(storage)
    if given is not None and not has_records(storage.local):
        dry_run(_with_storage(given, split(place)[0]), console, cluster)
        return
    log = load_sweep(storage.local, keeps_steps=False)
    new = _resumed(log, overrides, given, with_folders)
    # What is embedded may still have to be made, and is shown by that name.
    dry_run(new if given is None else _with_storage(given, new.storage), console, cluster, log)


def dry_run(sweep: SweepConfig, console: Console, cluster: str | None = None, log: SweepLog | None = None) -> None:
    """Print the resolved configuration, what would run, where, and three sampled trials; start nothing.

    With a `cluster` file the plan is for that cluster at its largest, and what is wrong with the file is noted. With a
    `log` it is a sweep to be resumed: its data must be the same, and time is told for the trials that it has left.
    """
    from orchestrator.tuning.samples import sample_trials  # noqa: PLC0415  (Optuna, for this only)

    tasks = preflight.check(sweep)
    if log is not None:
        check_same_data(log.header.data, _data(sweep, tasks))
    num_left = trials_left(sweep, log)
    console.print(OmegaConf.to_yaml(_public(sweep)).rstrip())
    console.print(f"\n{budget_in_words(sweep)}")
    if log is not None:
        console.print(f"  {total_trials(sweep) - num_left} of them are done, {num_left} are left")
    for entry in sweep.methods:
        number = num_trials(sweep, entry)
        each = f"{count(number, 'trial')}{' each' if len(sweep.forget_sets) > 1 else ''}"
        console.print(f"  {entry.name:<8} on {', '.join(sweep.forget_sets)}: {each}")
    if sweep.confirm.seeds:
        console.print(confirmation_in_words(sweep))
    for name, chain in tasks.items():
        if len(chain) > 1:
            console.print(f"  {name}: {len(chain)} tasks one after another: {', '.join(task.name for task in chain)}")
    _say_notes(sweep, tasks, console)
    file = None if cluster is None else read_cluster_file(cluster)
    where, nodes = (f"{cluster} at its largest", nodes_at_maximum(file)) if file else _look_at_nodes(sweep)
    plan = plan_slots(sweep.resources, nodes, total_trials(sweep))
    console.print(f"plan for {where}: {plan}")
    if file is not None:
        _check_cluster_file(sweep, file, plan, console)
        console.print(f"where its nodes come when they are asked for: resources.max_workers={plan.room_for_workers}")
    console.print(f"disk: {preflight.estimate_disk(sweep)}")
    besides = "; confirmation runs come on top" if sweep.confirm.seeds else ""
    console.print(f"time: {estimate_cost(sweep, plan, num_left, log)}{besides}")
    console.print("sampled trials:")
    for key, params in sample_trials(sweep, 3).items():
        settings = ", ".join(f"{name}={_short(value)}" for name, value in params.items())
        console.print(f"  {key}: {settings or 'as configured, nothing is searched'}")
    console.print("dry run: nothing was started")


def _say_notes(sweep: SweepConfig, tasks: Mapping[str, Sequence[Task]], console: Console) -> None:
    """What is not an error, but should be known before the sweep runs."""
    doubts = [doubt for chain in tasks.values() for task in chain for doubt in task.doubts]
    if sweep.strict and doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        raise DataError(f"{doubts[0]}{more}; strict=true refuses such data")
    notes = doubts + [note for chain in tasks.values() for task in chain for note in task.notes]
    budget = sweep.search.trials_per_cell
    for entry in sweep.methods:
        combinations = num_combinations(sweep, entry)
        if combinations is not None and combinations > budget:
            notes.append(
                f"{entry.name}: search.trials_per_cell={budget} stops after the first {budget} of {combinations} "
                f"combinations; set it to {combinations} for the whole grid"
            )
    for note in dict.fromkeys(notes):
        console.print(f"note: {note}", style="yellow")


def _resume_command(storage: Storage) -> str:
    return f"{sys.executable} -m orchestrator.sweep --resume {shlex.quote(str(storage))}"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _look_at_nodes(sweep: SweepConfig) -> tuple[str, list[Node]]:
    """The cluster in RAY_ADDRESS, if there is one, else this machine."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return "this machine", [preflight.this_machine()]
    with ray_session(sweep.resources) as nodes:
        return f"the cluster at {address}", nodes


def _check_cluster_file(sweep: SweepConfig, file: ClusterFile, plan: Plan, console: Console) -> None:
    from orchestrator.tuning.clusters.checks import problems  # noqa: PLC0415  (imports Ray)

    found = problems(replace(file, num_slots=plan.num_slots))
    if found and sweep.strict:
        raise ConfigError(f"--cluster: {file.path}: {found[0]} (strict=true refuses it)")
    for problem in found:
        console.print(f"note: {file.path}: {problem}", style="yellow")


def open_record(study: Study, plan: Plan) -> tuple[Recorder, Pump[Any], CheckpointKeeper]:
    """The journal's next segment, its view, and who deletes weights; the header is recorded."""
    sweep, folder = study.sweep, study.folder
    journal = open_journal(study.storage)
    try:
        fetch_journal(study.storage)
        earlier = list(read_records(folder / "journal"))  # nobody else writes from now on
        if bool(earlier) != (study.log is not None):
            raise JournalError(f"another sweep was started or removed in {study.storage} meanwhile; try again")
        log = log_of(earlier, folder, keeps_steps=False) if earlier else None
        header = _header(study, plan, log)
    except BaseException:
        journal.close()
        raise
    recorder = Recorder(journal, log or SweepLog(header, keeps_steps=False))
    pump: Pump[Any] = Pump(_view_maker(sweep, folder), uri=sweep.tracking_uri, sweep_dir=folder)
    for record in earlier:
        pump.put(record)
    keeper = CheckpointKeeper(sweep.checkpoint, study.storage, recorder)
    keeper.tidy()
    recorder.listeners += [pump.put, keeper]
    recorder.record(header)
    return recorder, pump, keeper


def _search(search: Search, plan: Plan, console: Console) -> Outcome:
    with Progress(search.recorder.log, console) as progress:
        search.recorder.listeners.append(progress)
        try:
            spent = search.run(plan)
        except KeyboardInterrupt:
            return "interrupted"
        except SearchError as error:
            console.print(f"error: {error}", style="red")
            return "failed"
    if spent is None:
        return "done"
    console.print(f"{spent} is spent; raise it to go on with  {_resume_command(search.storage)}", style="yellow")
    return "budget spent"


def _view_maker(sweep: SweepConfig, folder: Path) -> Callable[[], Any]:
    def make() -> Any:
        from orchestrator.tracking.mlflow_view import MlflowView  # noqa: PLC0415  (seconds, in the pump's thread)

        return MlflowView(sweep.tracking_uri, folder)

    return make


def _data(sweep: SweepConfig, tasks: Mapping[str, Sequence[Task]]) -> dict[str, DataRecord]:
    return {name: describe_data(sweep.scenario, chain) for name, chain in tasks.items()}


def _header(study: Study, plan: Plan, log: SweepLog | None) -> SweepStarted:
    sweep = study.sweep
    cells = tuple(
        CellRecord(name=f"{entry.name}/{name}", method=entry.name, forget_set=name, num_trials=num_trials(sweep, entry))
        for name in sweep.forget_sets
        for entry in sweep.methods
    )
    known = known_metrics(sweep.scenario, sweep.evaluation)
    return SweepStarted(
        name=sweep.name,
        seed=sweep.seed,
        config=_public(sweep),
        cells=cells,
        objectives=tuple(
            ObjectiveRecord(metric=name, direction=known[name].direction, worst=known[name].worst)
            for name in sweep.objectives
        ),
        # Fixed for good when the sweep first starts: suggestions depend on it.
        lookahead=log.header.lookahead if log else max(1, -(-plan.num_slots // len(cells))),
        versions=_versions(),
        command=shlex.join(["python", "-m", "orchestrator.sweep", *map(redact_argument, sys.argv[1:])]),
        resumed=log is not None,
        data=dict(study.data),
    )


def _public(sweep: SweepConfig) -> dict[str, Any]:
    """The configuration without passwords."""
    values = sweep.model_dump(mode="json")
    if sweep.tracking.uri:
        values["tracking"]["uri"] = redact_uri(sweep.tracking.uri)
    return values


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {"python": platform.python_version(), **found}


def _failed_share(log: SweepLog) -> float:
    trials = log.searched()
    failed = sum(t.finished is not None and t.finished.state == TrialState.FAILED for t in trials)
    return failed / max(1, len(trials))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

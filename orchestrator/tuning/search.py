"""The search itself: Ray, one Tuner, and the jobs that it hands to the slots."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.base_config import Value
from orchestrator.config import (
    MethodEntry,
    ResourcesConfig,
    SweepConfig,
    baseline_config,
    cell_space,
    first_values,
    num_trials,
    trial_config,
)
from orchestrator.load_config import ConfigError
from orchestrator.storage import Storage
from orchestrator.tracking.checkpoints import cell_front, objectives
from orchestrator.tracking.confirmation import ConfirmationRun, confirmation_runs
from orchestrator.tracking.journal import TrialState
from orchestrator.tracking.recorder import Recorder
from orchestrator.trial_config import TrialConfig
from orchestrator.tuning.cell_search import Baseline, Cell, CellSearch, Confirmation
from orchestrator.tuning.cell_study import CellStudy, distributions, seed_of, trial_key
from orchestrator.tuning.resources import ACCELERATOR, Node, Plan, head_share
from orchestrator.worker.job import TrialJob

_HEAD = "node:__internal_head__"
_RAY_FOLDER = ".ray"  # what Ray Train writes of its own


class SearchError(RuntimeError):
    """The search cannot go on; the message says why."""


@contextlib.contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[list[Node]]:
    """A connection to the cluster in RAY_ADDRESS, to one that runs on this machine, or to a new local one.

    Yields the nodes. ConfigError: another sweep holds the cluster's head.
    """
    environment = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # and what a sweep is resumed from
        "RAY_AIR_NEW_OUTPUT": "0",  # the sweep has a view of its own
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled by the sweep
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(resources.start_timeout_seconds),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(resources.hang_seconds),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "1",  # NCCL copies from one GPU of a node to another
        "TOKENIZERS_PARALLELISM": "false",
    }
    os.environ.update(environment)
    os.environ.setdefault("RAY_enable_metrics_collection", "0")  # nobody asks a cluster for them that is started here
    import ray as ray_module  # noqa: PLC0415  (reads its environment when imported)

    ray: Any = ray_module
    ray.init(
        runtime_env={"env_vars": environment},
        log_to_driver=False,
        logging_level=logging.ERROR,
        ignore_reinit_error=True,
        include_dashboard=False,  # of a cluster started here: seconds to start, and then a share of few cores
    )
    try:
        if ray.available_resources().get(_HEAD, 0) < 1:
            raise ConfigError("another sweep runs on this cluster; wait for it, or connect to another with RAY_ADDRESS")
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [_node(offered) for offered in alive]
    finally:
        ray.shutdown()


def _keep_passwords_here() -> None:
    """Tune would send AWS's to its actors in their runtime environment, which Ray logs; nodes have their own."""
    from ray.tune.execution import class_cache  # noqa: PLC0415

    sent: set[str] = class_cache.ENV_VARS_TO_PROPAGATE
    sent.difference_update({name for name in sent if name.startswith("AWS_")})


def _node(offered: dict[str, float]) -> Node:
    accelerators = {name.removeprefix(ACCELERATOR) for name in offered if name.startswith(ACCELERATOR)}
    return Node(offered.get("CPU", 0), offered.get("GPU", 0), frozenset(accelerators))


@dataclass(frozen=True)
class Search:
    """A sweep under way: its configuration, its folder, its record so far."""

    sweep: SweepConfig
    storage: Storage
    recorder: Recorder

    def run(self, plan: Plan) -> str | None:
        """Run every trial that the journal has not finished, or until the budget is spent: the reason, in words.

        SearchError: a baseline could not be scored. JournalError: a record could not be kept.
        """
        from ray import tune  # noqa: PLC0415  (reads the environment that ray_session sets)

        from orchestrator.tuning.slot import run_on_slot, stop_slots  # noqa: PLC0415

        _keep_passwords_here()
        search = self.searcher(plan)
        scratch = Path(tempfile.mkdtemp(prefix="lethe-tune-"))
        tuner = tune.Tuner(
            tune.with_resources(run_on_slot, {"CPU": 0, _HEAD: head_share(plan.num_slots)}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=self._scheduler(search),
                num_samples=-1,
                max_concurrent_trials=plan.num_slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="tune",
                verbose=0,
                callbacks=[_slot_closer(search)],
                # Of the process that holds a slot; of its workers the slot itself keeps count.
                failure_config=tune.FailureConfig(max_failures=self.sweep.resources.max_attempts - 1),
            ),
        )
        try:
            tuner.fit()
            stop_slots(search.slots)
        except Exception as error:
            stop_slots(search.slots)
            raise self.recorder.failure or error from error
        finally:  # interrupted: the workers end with the connection, nobody waits for the trial in progress
            shutil.rmtree(scratch, ignore_errors=True)
        if search.fatal:
            raise SearchError(search.fatal)
        return search.spent if search.num_left else None

    def tidy(self) -> None:
        """Delete what Ray Train wrote of its own."""
        with contextlib.suppress(OSError):
            self.storage.remove(_RAY_FOLDER)

    def searcher(self, plan: Plan) -> CellSearch:
        """What Tune asks for the next job and tells what became of it."""
        log, resources = self.recorder.log, self.sweep.resources
        return CellSearch(
            [self._cell(entry, name) for name in self.sweep.forget_sets for entry in self.sweep.methods],
            self._baselines(),
            finished={key: trial for key, trial in log.trials.items() if trial.is_done},
            recorder=self.recorder,
            budget=self._budget,
            confirm=self._confirmations if self.sweep.confirm.seeds else None,
            slot={
                "sweep": self.storage.local.name,
                "num_workers": plan.workers_per_slot,
                "cpus_per_worker": resources.cpus_per_worker,
                "gpus_per_worker": resources.gpus_per_worker,
                "accelerator_type": resources.accelerator_type,
                "trials_per_group": 1 if resources.isolation == "process" else None,
                "max_attempts": resources.max_attempts,
                "idle_seconds": resources.slot_idle_seconds,
                "hang_seconds": resources.hang_seconds,
                "start_timeout_seconds": resources.start_timeout_seconds,
                "storage": str(self.storage.sub(_RAY_FOLDER)),
            },
        )

    def _scheduler(self, search: CellSearch) -> Any:
        """What stops trials at their rungs; it knows those that earlier sittings reached. None: nothing does."""
        from orchestrator.tuning.early_stopping import RungScheduler, SuccessiveHalving  # noqa: PLC0415  (imports Tune)
        from orchestrator.tuning.slot import answer  # noqa: PLC0415

        config, log = self.sweep.early_stopping, self.recorder.log
        if config is None:
            return None
        halving = SuccessiveHalving(config, [objective.direction for objective in log.header.objectives])
        for rung in log.rungs:
            halving.reach(rung)
        return RungScheduler(search, halving, answer)

    def _budget(self) -> str | None:
        """Why no trial may begin any more."""
        limits = self.sweep.resources
        if limits.max_hours is None and limits.max_gpu_hours is None:  # what runs is not looked through for nothing
            return None
        seconds, gpu_seconds = self.recorder.log.spent(time.time())
        if limits.max_hours is not None and seconds >= 3600 * limits.max_hours:
            return f"resources.max_hours={limits.max_hours:g}"
        if limits.max_gpu_hours is not None and gpu_seconds >= 3600 * limits.max_gpu_hours:
            return f"resources.max_gpu_hours={limits.max_gpu_hours:g}"
        return None

    def _cell(self, entry: MethodEntry, forget_set: str) -> Cell:
        name = f"{entry.name}/{forget_set}"
        header = self.recorder.log.header
        study = CellStudy(
            name=name,
            space=distributions(cell_space(self.sweep, entry)),
            first=first_values(self.sweep, entry),
            directions=[objective.direction for objective in header.objectives],
            search=self.sweep.search,
            seed=seed_of(self.sweep.seed, name),
            lookahead=header.lookahead,
        )
        make_job = self._job_maker(entry, forget_set)
        return Cell(name, entry.name, forget_set, study, num_trials(self.sweep, entry), make_job)

    def _job_maker(self, entry: MethodEntry, forget_set: str) -> Callable[[int, dict[str, Value]], TrialJob]:
        def make_job(number: int, params: dict[str, Value]) -> TrialJob:
            log = self.recorder.log
            known = cell_front(log, log.cell(entry.name, forget_set))
            kept = self.sweep.checkpoint
            return TrialJob(
                key=trial_key(f"{entry.name}/{forget_set}", number),
                config=trial_config(self.sweep, entry, forget_set, params),
                params=params,
                place=str(self.storage),
                objectives=log.header.objectives,
                keep_weights=kept.policy != "none",
                point_minutes=kept.every_minutes,
                early_stopping=self.sweep.early_stopping,
                front=() if kept.policy == "all" else tuple(tuple(objectives(trial)) for trial in known),
                **self._retain_scores(f"retain_model/{forget_set}"),
            )

        return make_job

    def _baselines(self) -> list[Baseline]:
        """The retain models, then the model before unlearning, which is compared with them."""
        retain_models = self.sweep.model.retain_models
        assert isinstance(retain_models, dict), "embedded models are made before the search"
        found = []
        for forget_set, path in retain_models.items():
            found.append(Baseline(f"retain_model/{forget_set}", self._baseline_maker("retain_model", forget_set, path)))
        for forget_set in self.sweep.forget_sets:
            after = frozenset({f"retain_model/{forget_set}"} if forget_set in retain_models else set())
            maker = self._baseline_maker("before", forget_set, self.sweep.model.target)
            found.append(Baseline(f"before/{forget_set}", maker, after))
        return found

    def _baseline_maker(self, kind: str, forget_set: str, path: str) -> Callable[[], TrialJob]:
        def make_job() -> TrialJob:
            return TrialJob(
                key=f"{kind}/{forget_set}",
                config=baseline_config(self.sweep, forget_set, path),
                place=str(self.storage),
                objectives=self.recorder.log.header.objectives,
                keep_weights=False,
                **self._retain_scores(f"retain_model/{forget_set}"),
            )

        return make_job

    def _confirmations(self) -> list[Confirmation]:
        """What confirms the fronts as they stand; Forget Quality compares with the retain model's held-out answers."""
        confirm = self.sweep.confirm
        runs = confirmation_runs(self.recorder.log, confirm.seeds, confirm.finalists_per_cell)
        baselines = {run.key for run in runs if run.number is None}
        found = []
        for run in runs:
            started = run.confirms.started
            retain_model = f"confirm/retain_model/{started.forget_set}"
            after = baselines & {retain_model} - {run.key}
            make_job = partial(self._confirming_job, run, retain_model)
            found.append(Confirmation(run.key, make_job, frozenset(after), started.key, run.number))
        return found

    def _confirming_job(self, run: ConfirmationRun, retain_model: str) -> TrialJob:
        """Settings are those that the journal has. All finalists have the same seeds, and differ by settings alone."""
        started, seed = run.confirms.started, self.sweep.seed
        if run.number is not None:
            seed = seed_of(seed, "confirm", run.number)
        return TrialJob(
            key=run.key,
            config=self.sweep.confirm.again(TrialConfig.model_validate(started.config), seed),
            params=started.params,
            place=str(self.storage),
            objectives=self.recorder.log.header.objectives,
            keep_weights=False,
            point_minutes=self.sweep.checkpoint.every_minutes,
            **self._retain_scores(retain_model),
        )

    def _retain_scores(self, key: str) -> dict[str, str | None]:
        baseline = self.recorder.log.trials.get(key)
        if baseline is None or baseline.finished is None or baseline.finished.state != TrialState.COMPLETE:
            return {}
        found = baseline.finished
        return {"retain_scores": found.scores_path, "retain_scores_sha256": found.scores_sha256}


def _slot_closer(search: CellSearch) -> Any:
    from ray.tune import Callback  # noqa: PLC0415

    from orchestrator.tuning.slot import stop_slots  # noqa: PLC0415

    class SlotCloser(Callback):
        """Ends the worker groups after the last trial, before Tune ends the processes that hold them."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if search.is_done:
                stop_slots(search.slots)

    return SlotCloser()

"""A slot: one long-lived Ray Train worker group that runs many trials one after another.

    Tune trainable (reused actor)  --assign(job)-->  Mailbox  <--next_job(after)--  N workers of one LeanTrainer
               ^                                     ^ | ^
               +------------ poll(): records --------|-+ +---------- push(), fail(), goes_on() from rank 0
    Tune scheduler (driver)  --answer(rung)----------+

Starting a group costs half a minute (every process imports torch, transformers and DeepSpeed), the next trial of a
group a fraction of a second.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.base_config import Config
from orchestrator.tracking.journal import RungReached, TrialFinished, TrialState
from orchestrator.tuning.left_room import free_left_room

_POLL_SECONDS = 1.0
_LOOK_SECONDS = 10.0
_STOP_SECONDS = 20.0  # for all worker groups together, when the search is over
_STOP = -1
_MOST_LEAVES = 100
_STARTS_TOO_LATE = "WorkerGroupStartupTimeoutError"  # of Ray Train, which does not export it
Retry = Literal["never", "at once", "on resume"]


class SlotSpec(Config):
    """What a slot is made of."""

    sweep: str
    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    accelerator_type: str | None
    trials_per_group: int | None
    max_attempts: int
    idle_seconds: float
    hang_seconds: float
    start_timeout_seconds: float
    storage: str


class WorkersDiedError(RuntimeError):
    """The worker group ended in the middle of a trial without saying why."""


class WorkersLeftError(RuntimeError):
    """A node of the worker group is taken away: the trial goes on elsewhere, which is nobody's failure."""


class TrialFailedError(RuntimeError):
    """The trial cannot go on; the text is the reason, with a traceback where a rank raised.

    `retry`: when it may succeed, as the reason lies outside of it.
    """

    def __init__(self, reason: str, retry: Retry) -> None:
        super().__init__(reason)
        self.retry = retry


class Mailbox:
    """Carries jobs to the workers and records back; an actor that waits without polling."""

    def __init__(self) -> None:
        self._sequence, self._job = 0, ""
        self._records: list[str] = []
        self._answers: dict[tuple[str, int], bool] = {}
        self._failure: tuple[str, Retry] | None = None
        self._left = self._stopped = self._ended = False
        self._changed = asyncio.Condition()

    async def assign(self, job: str) -> int:
        """Offer a job to all workers; returns its sequence number."""
        self._sequence, self._job, self._records = self._sequence + 1, job, []
        self._answers, self._failure, self._left = {}, None, False
        await self._notify()
        return self._sequence

    async def next_job(self, done: int) -> tuple[int, str | None]:
        """The job after sequence number `done`; (done, None): none yet, ask again; (-1, None): end."""
        await self._wait(lambda: self._stopped or self._sequence > done)
        if self._stopped:
            return _STOP, None
        return (self._sequence, self._job) if self._sequence > done else (done, None)

    async def push(self, sequence: int, record: str) -> None:
        """A record of the job in progress; one of an earlier job is dropped."""
        if sequence == self._sequence:
            self._records.append(record)
            await self._notify()

    async def answer(self, key: str, rung: int, goes_on: bool) -> None:
        """Say whether a trial goes on from a rung."""
        self._answers[key, rung] = goes_on
        await self._notify()

    async def goes_on(self, key: str, rung: int) -> bool | None:
        """Whether a trial goes on from a rung; None: not known yet, ask again."""
        await self._wait(lambda: self._stopped or (key, rung) in self._answers)
        return False if self._stopped else self._answers.get((key, rung))

    async def fail(self, sequence: int, reason: str, retry: Retry) -> None:
        """A rank cannot go on; the first reason counts. `retry`: as TrialFailedError."""
        if sequence == self._sequence and self._failure is None:
            self._failure = reason, retry
            await self._notify()

    async def leave(self, sequence: int) -> None:
        """The ranks leave the job, saved, to another group."""
        if sequence == self._sequence:
            self._left = True
            await self._notify()

    async def poll(self, num_seen: int) -> tuple[list[str], tuple[str, Retry] | None, bool]:
        """Records after the first `num_seen`; why the job failed, if it did, and `retry`; whether the ranks left it."""
        await self._wait(
            lambda: len(self._records) > num_seen or self._failure is not None or self._left, _POLL_SECONDS
        )
        return self._records[num_seen:], self._failure, self._left

    async def stop(self) -> None:
        """Tell the workers to end after what they do."""
        self._stopped = True
        await self._notify()

    async def ended(self) -> None:
        """The worker group is gone."""
        self._ended = True
        await self._notify()

    async def wait_ended(self, timeout_seconds: float) -> bool:
        """Whether the group ended within the time."""
        await self._wait(lambda: self._ended, timeout_seconds)
        return self._ended

    async def _wait(self, condition: Any, timeout_seconds: float = 30.0) -> None:
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), timeout_seconds)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Slot:
    """A worker group and its mailbox, held by the process of a Tune trainable."""

    def __init__(self, spec: SlotSpec) -> None:
        self.spec = spec
        self.name = f"lethe-{spec.sweep}-{os.getpid()}-{time.monotonic_ns()}"
        actor: Any = ray.remote(Mailbox)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = actor.options(
            name=self.name, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
        ).remote()
        self.num_trials = 0
        self._next_look = 0.0
        self._idle: threading.Timer | None = None
        self._error: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._hold_group, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the group can take a job."""
        return self._thread.is_alive()

    @property
    def takes_jobs(self) -> bool:
        """Whether the group lives, and was not told to end."""
        return self.is_alive and not self._closing

    def run(self, job: str) -> Iterator[str]:
        """Records of a job, as JSON, the last one its TrialFinished.

        WorkersDiedError, WorkersLeftError, TrialFailedError: the group ended before that.
        """
        if self._idle:
            self._idle.cancel()
        self.num_trials += 1
        sequence = ray.get(self.mailbox.assign.remote(job))
        num_seen = 0
        while True:
            if num_seen == 0 and self._waits_for_room():
                free_left_room()
            alive = self.is_alive  # asked before the records, so that none is missed
            records, failure, left = ray.get(self.mailbox.poll.remote(num_seen))
            num_seen += len(records)
            yield from records
            if records and '"kind":"trial_finished"' in records[-1]:
                self._idle = threading.Timer(self.spec.idle_seconds, self.close)
                self._idle.daemon = True
                self._idle.start()
                return
            if failure is not None:
                self._thread.join()
                raise TrialFailedError(*failure)
            if left or not alive:
                self._thread.join()
                raise self._why_it_ended(sequence, left)

    def _waits_for_room(self) -> bool:
        """Now and then while the group may not have started: it would wait for what a dead one holds for ever."""
        due = self.num_trials == 1 and time.monotonic() > self._next_look
        if due:
            self._next_look = time.monotonic() + _LOOK_SECONDS
        return due

    def _why_it_ended(self, sequence: int, left: bool) -> RuntimeError:
        from ray.train import ControllerError, PreemptionError  # noqa: PLC0415

        error = self._error
        if left or isinstance(error, PreemptionError) or _lost_to_preemption(error):
            return WorkersLeftError(f"a node of the workers of job {sequence} was taken away")
        if isinstance(error, ControllerError) and type(error.controller_failure).__name__ == _STARTS_TOO_LATE:
            return TrialFailedError(
                f"no room for {self.spec.num_workers} workers ({self._needs()} each) within "
                f"resources.start_timeout_seconds={self.spec.start_timeout_seconds:g}; add nodes, or raise it",
                "on resume",
            )
        return WorkersDiedError(f"the workers of job {sequence} died: {_short(error)}")

    def _needs(self) -> str:
        gpus = f" and {self.spec.gpus_per_worker:g} GPU" if self.spec.gpus_per_worker else ""
        return f"{self.spec.cpus_per_worker:g} CPU{gpus}"

    def close(self) -> None:
        """Let the workers end, and wait for them."""
        self._closing = True
        with contextlib.suppress(RayActorError):  # the mailbox goes first when Tune ends a trainable
            ray.get(self.mailbox.stop.remote())
        self._thread.join()

    def _hold_group(self) -> None:
        try:
            self._run_group()
        except BaseException as error:  # told to whoever runs a job next
            self._error = error
        with contextlib.suppress(RayActorError):
            ray.get(self.mailbox.ended.remote())

    def _run_group(self) -> None:
        from ray import train as ray_train  # noqa: PLC0415  (seconds to import, in the thread that needs it)

        from orchestrator.tuning.lean_trainer import LeanTrainer  # noqa: PLC0415

        resources = {"CPU": self.spec.cpus_per_worker}
        if self.spec.gpus_per_worker:
            resources["GPU"] = self.spec.gpus_per_worker
        train: Any = ray_train  # its annotations are those of its older API
        trainer = LeanTrainer(
            serve,
            train_loop_config={"mailbox": self.mailbox, "hang_seconds": self.spec.hang_seconds},
            scaling_config=train.ScalingConfig(
                num_workers=self.spec.num_workers,
                use_gpu=self.spec.gpus_per_worker > 0,
                resources_per_worker=resources,
                accelerator_type=self.spec.accelerator_type,
            ),
            run_config=train.RunConfig(
                name=self.name,
                storage_path=self.spec.storage,
                # Who starts a trial again, and how often, is decided here.
                failure_config=train.FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=0
                ),
            ),
        )
        trainer.fit()


def serve(config: dict[str, Any]) -> None:
    """What the workers run; this process only names it, and has no use for what it imports."""
    from orchestrator.worker import entry  # noqa: PLC0415

    entry.serve(**config)


_current: Slot | None = None


def run_on_slot(config: dict[str, Any]) -> None:
    """Tune trainable: run a job on this process's slot, reporting its records as they come."""
    from ray import tune  # noqa: PLC0415

    spec = SlotSpec.model_validate(config["slot"])
    for number, (slot, record) in enumerate(_records(spec, config["job"], config["key"])):
        tune.report({"slot": slot, "report": number, "record": record})


def _records(spec: SlotSpec, job: str, key: str) -> Iterator[tuple[str, str]]:
    """Slot name and record, over as many attempts as are allowed; always ends with a TrialFinished."""
    num_deaths = num_leaves = 0
    while True:
        slot, retry = _acquire(spec), False
        name = slot.name
        try:
            for record in slot.run(job):
                yield name, record
            return
        except WorkersLeftError as error:
            num_leaves += 1
            if num_leaves == _MOST_LEAVES:
                reason = f"{error}, as were those of {_MOST_LEAVES - 1} attempts before"
                break
        except TrialFailedError as error:
            reason, retry = str(error), error.retry != "never"
            num_deaths += 1
            if error.retry != "at once" or num_deaths == spec.max_attempts:
                break
        except (WorkersDiedError, RayActorError) as error:  # the group, or the mailbox
            _forget(slot)
            num_deaths += 1
            if num_deaths == spec.max_attempts:
                reason = f"{error} (given up after {spec.max_attempts} starts, resources.max_attempts)"
                break
    yield name, TrialFinished(key=key, state=TrialState.FAILED, error=reason, retry=retry).model_dump_json()


def _forget(slot: Slot) -> None:
    """A slot whose mailbox may be gone is not asked again."""
    global _current  # noqa: PLW0603
    if _current is slot:
        _current = None


def _acquire(spec: SlotSpec) -> Slot:
    """The slot of this process, or a new one where it is gone, used up or of another kind."""
    global _current  # noqa: PLW0603  (one slot per trainable process is the point)
    slot = _current
    used_up = slot and spec.trials_per_group is not None and slot.num_trials >= spec.trials_per_group
    if slot is not None and (slot.spec != spec or used_up) and slot.is_alive:
        slot.close()
    if slot is None or not slot.takes_jobs:
        slot = _current = Slot(spec)
    return slot


def _lost_to_preemption(error: BaseException | None) -> bool:
    """Whether a worker died with a node that was taken away."""
    deaths = [getattr(one, "health_check_failure", one) for one in getattr(error, "worker_failures", {}).values()]
    return any(isinstance(death, RayActorError) and death.preempted for death in deaths)


def _short(error: BaseException | None) -> str:
    return "no reason given" if error is None else f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def answer(slot: str, rung: RungReached, goes_on: bool) -> None:
    """Driver: tell the workers of a trial whether it goes on from a rung, where they wait for it."""
    with contextlib.suppress(ValueError, RayActorError):  # gone with its workers: the trial starts again elsewhere
        mailbox: Any = ray.get_actor(slot)
        mailbox.answer.remote(rung.key, rung.rung, goes_on)


def stop_slots(names: set[str]) -> None:
    """Driver: end the worker groups before Tune ends the processes that hold them."""
    waiting: list[Any] = []
    for name in names:
        with contextlib.suppress(ValueError, RayActorError):  # closed by itself
            mailbox: Any = ray.get_actor(name)
            ray.get(mailbox.stop.remote())
            waiting.append(mailbox.wait_ended.remote(_STOP_SECONDS))
    with contextlib.suppress(RayActorError):
        ray.get(waiting, timeout=_STOP_SECONDS + 5)

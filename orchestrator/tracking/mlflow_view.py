"""Shows a journal in MLflow. Everything here can be rebuilt."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.analysis.palette import method_colors
from orchestrator.analysis.summary import SweepSummary
from orchestrator.storage import is_uri, join, split
from orchestrator.tracking import mlflow_page as page
from orchestrator.tracking.journal import (
    JournalError,
    Record,
    SweepEnded,
    SweepStarted,
    TrialStarted,
    read_records,
)
from orchestrator.tracking.mlflow_entities import (
    News,
    cell_metrics,
    final_metrics,
    final_tags,
    inputs,
    milliseconds,
)
from orchestrator.tracking.mlflow_registry import Winner, register, registered_name
from orchestrator.tracking.pump import redact_uri, set_client_env, tracking_error
from orchestrator.tracking.sweep_log import SweepLog, load_sweep

MAX_METRICS, MAX_PARAMS = 900, 90  # a request may hold 1000 and 100


@dataclass(slots=True)
class _Run:
    """What MLflow holds of one trial. Of a run that is `new`, made by this view, all models are known."""

    run_id: str
    start_ms: int
    terminated: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    new: bool = False
    has_inputs: bool = False

    @classmethod
    def of(cls, run: Run) -> "_Run":
        models = {model.model_id for model in run.outputs.model_outputs} if run.outputs else set()
        ended = run.info.status != "RUNNING"
        has_inputs = bool(run.inputs and run.inputs.dataset_inputs)
        return cls(run.info.run_id, run.info.start_time, ended, dict(run.data.tags), models, has_inputs=has_inputs)


class MlflowView:
    """One MLflow experiment for one sweep, one flat run for each trial and baseline, found again by their tags.

    `sweep_dir` holds the journal; its first record names the sweep. A run that MLflow has as ended is complete and is
    skipped, so applying a whole journal again is cheap and changes nothing. Not thread-safe.
    """

    def __init__(self, tracking_uri: str, sweep_dir: Path) -> None:
        set_client_env()
        self._uri, self._sweep_dir = tracking_uri, sweep_dir.resolve()
        self._client: MlflowClient | None = None
        self._file: int | None = None  # which file the database is, where it is one
        self._header: SweepStarted | None = None
        self._experiment: Experiment | None = None
        self._runs: dict[str, _Run] = {}
        self._told: dict[str, dict[str, int]] = {}  # of the trials that are running, see News
        self._stale: set[str] = set()  # trials whose records, at this point, are of an attempt that was given up

    def apply(self, records: Sequence[Record]) -> None:
        """Show records that were read or written in the order of the journal. TrackingError: MLflow does not answer."""
        with self._connected() as client:
            pending: dict[str, News] = {}
            for record in records:
                match record:
                    case SweepStarted():
                        self._show_header(client, record)
                    case SweepEnded(state=state):
                        self._tag_experiment(client, {"lethe.sweep_state": state})
                    case TrialStarted(key=key):  # a trial that was cut off starts again from nothing
                        pending[key] = News({}, record)
                    case _:
                        pending.setdefault(record.key, News(dict(self._told.get(record.key, {})))).take(record)
            for key, news in pending.items():
                self._show_trial(client, key, news)
                self._told.pop(key, None)
                if news.told and not news.finished:
                    self._told[key] = news.told  # not before MLflow has it

    def mark_front(self, keys: Collection[str]) -> None:
        """Tag the trials of the search that are on their front, and the baselines, and no other run.

        A tag takes a request, so that those without need none. TrackingError: MLflow does not answer.
        """
        with self._connected() as client:
            for key, run in self._runs.items():
                kind = run.tags["lethe.kind"]
                if kind == "baseline" or (kind == "trial" and key in keys):
                    _send(client, run, tags={page.FRONT_TAG: "true" if kind == "trial" else kind})
                elif page.FRONT_TAG in run.tags:
                    client.delete_tag(run.run_id, page.FRONT_TAG)
                    del run.tags[page.FRONT_TAG]

    def write_page(self) -> str:
        """Save the chart page of the sweep; returns the part of its URL that follows the server's address.

        TrackingError: MLflow does not answer.
        """
        with self._connected() as client:
            log = load_sweep(self._sweep_dir, keeps_steps=False)
            view = page.saved_view(log.header, page.common_params(log), page.task_curves(log))
            self._tag_experiment(client, {page.VIEW_TAG: view})
            return page.view_fragment(self._id)

    def log_report(self, path: Path, summary: SweepSummary) -> str:
        """Attach the report and the GPU time of cells; returns the part of its URL that follows the server's address.

        MLflow keeps artifacts with runs, not with experiments, and shows HTML there: so the report has a run of its
        own, named `report`, that the saved view hides and the description names. TrackingError: no answer.
        """
        with self._connected() as client:
            assert self._header is not None
            found = client.search_runs([self._id], "tags.`lethe.kind` = 'report'")
            tags = {"lethe.kind": "report", "lethe.sweep": self._header.name, "mlflow.runColor": "#BBBBBB"}
            start_ms = milliseconds(self._first_header().time)
            run = found[0] if found else client.create_run(self._id, start_ms, tags, "report")
            client.log_text(run.info.run_id, path.read_text(encoding="utf-8"), page.REPORT)
            _send(client, _Run.of(run), cell_metrics(summary))
            client.set_terminated(run.info.run_id, "FINISHED", start_ms)
            self._tag_experiment(client, {"mlflow.note.content": page.describe(self._header, run.info.run_id)})
            return page.report_fragment(self._id, run.info.run_id)

    def register(self, log: SweepLog, winners: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Register the winners of each forget set, a trial's key by its alias; returns the registered models' names.

        TrackingError: MLflow does not answer.
        """
        with self._connected() as client:
            owner = {"lethe.sweep": log.header.name, "lethe.sweep_id": f"{self._first_header().time:.6f}"}
            names = []
            for forget_set, by_alias in winners.items():
                base = page.registered_model_name(log.header.name, split(self._place())[1], forget_set)
                name = registered_name(client, base, owner)
                chosen = [self._winner(client, log, key, by_alias) for key in dict.fromkeys(by_alias.values())]
                text = page.describe_registered(log.header, forget_set, name, redact_uri(self._uri))
                register(client, name, owner | {"lethe.forget_set": forget_set}, text, chosen)
                names += [name] if chosen else []
            return names

    def _winner(self, client: MlflowClient, log: SweepLog, key: str, by_alias: Mapping[str, str]) -> Winner:
        run, trial = self._runs[key], log.trials[key]
        assert trial.checkpoint is not None and trial.finished is not None
        model_id = self._checkpoint(client, key, run, trial.checkpoint)
        names = [objective.metric for objective in log.header.objectives]
        scores = dict(zip(names, trial.finished.objectives or (), strict=True))
        return Winner(
            aliases=tuple(alias for alias, winner in by_alias.items() if winner == key),
            model_id=model_id,
            run_id=run.run_id,
            mlmodel=page.mlmodel(
                self._place(), trial, model_id=model_id, run_id=run.run_id, python=log.header.versions.get("python", "")
            ),
            description=page.describe_version(trial.started, self._place(f"trials/{key}"), scores),
            tags={"lethe.trial_key": key, "lethe.method": trial.started.method},
        )

    @property
    def _id(self) -> str:
        assert self._experiment is not None
        experiment_id: str = self._experiment.experiment_id
        return experiment_id

    @contextmanager
    def _connected(self) -> Iterator[MlflowClient]:
        """A client, with the experiment open and its runs known. After an error both are read again: an answer may
        have been lost on its way."""
        try:
            if self._client is None:
                self._client = MlflowClient(self._uri, registry_uri=self._uri)
                self._file = _file_id(self._uri)
            elif self._file != _file_id(self._uri):  # what is written now would go to a file that nobody sees
                raise MlflowException("the database was deleted or replaced while it was in use")
            if self._experiment is None:
                self._experiment = self._open_experiment(self._client)
                self._runs = self._find_runs(self._client)
            yield self._client
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._experiment = None
            raise tracking_error(error, self._uri) from None

    def _first_header(self) -> SweepStarted:
        first = next(read_records(self._sweep_dir / "journal"), None)
        if not isinstance(first, SweepStarted):
            raise JournalError(f"{self._sweep_dir}/journal does not begin with a sweep_started record")
        return first

    def _open_experiment(self, client: MlflowClient) -> Experiment:
        """The sweep's experiment. A second sweep of the same name and folder name on a shared server gets a number."""
        first = self._first_header()
        self._header = self._header or first
        identity = f"{first.time:.6f}"
        base = f"{first.name} / {self._sweep_dir.name}"
        for number in count(1):
            name = base if number == 1 else f"{base} ({number})"
            found = client.get_experiment_by_name(name)
            if found is None:
                # Without a server MLflow would put artifacts under the current directory.
                location = None if self._uri.startswith("http") else (self._sweep_dir / "mlflow-artifacts").as_uri()
                tags = {
                    "lethe.sweep_id": identity,
                    "lethe.sweep": first.name,
                    "lethe.sweep_dir": str(self._sweep_dir),
                    "mlflow.experimentKind": "custom_model_development",
                    "mlflow.note.content": page.describe(first),
                }
                return client.get_experiment(client.create_experiment(name, location, tags))
            if found.lifecycle_stage == "active" and found.tags.get("lethe.sweep_id") == identity:
                return found
        raise AssertionError("count() ended")

    def _find_runs(self, client: MlflowClient) -> dict[str, _Run]:
        runs: dict[str, _Run] = {}
        token: str | None = None
        while token != "":
            found = client.search_runs([self._id], order_by=["attributes.start_time ASC"], page_token=token)
            runs |= {
                run.data.tags["lethe.trial_key"]: _Run.of(run) for run in found if "lethe.trial_key" in run.data.tags
            }
            token = found.token or ""
        return runs

    def _tag_experiment(self, client: MlflowClient, tags: dict[str, str]) -> None:
        assert self._experiment is not None
        for name, value in tags.items():
            if self._experiment.tags.get(name) != value:
                client.set_experiment_tag(self._id, name, value)
                self._experiment.tags[name] = value

    def _show_header(self, client: MlflowClient, header: SweepStarted) -> None:
        """A resumed sweep may have more methods than before: the description and the colours follow."""
        self._header = header
        reports = client.search_runs([self._id], "tags.`lethe.kind` = 'report'")
        note = page.describe(header, reports[0].info.run_id if reports else None)
        self._tag_experiment(client, {"mlflow.note.content": note, "lethe.sweep_state": "running"})
        for run in self._runs.values():
            _send(client, run, tags={"mlflow.runColor": self._color(run.tags["lethe.method"])})

    def _color(self, method: str) -> str:
        assert self._header is not None
        methods = list(dict.fromkeys(cell.method for cell in self._header.cells))
        return method_colors(methods).get(method, "#BBBBBB")

    def _show_trial(self, client: MlflowClient, key: str, news: News) -> None:
        run = self._run_of(client, key, news.started)
        if run is None:
            return
        if not run.terminated:
            if news.started and not run.has_inputs:
                self._log_inputs(client, run, news.started)
            params = page.run_params(news.started) if news.started else {}
            if news.finished:
                metrics = news.metrics + self._final(client, key, run, news)
                _send(client, run, metrics, params, final_tags(news.finished))
                status = page.RUN_STATUS[news.finished.state]
                client.set_terminated(run.run_id, status, milliseconds(news.finished.time))
                run.terminated = True
            else:
                _send(client, run, news.metrics, params)
        if news.deleted:
            for model_id in self._models(client, run):
                client.delete_logged_model(model_id)
                run.models.discard(model_id)
            _send(client, run, tags={"lethe.checkpoint": "deleted"})

    def _log_inputs(self, client: MlflowClient, run: _Run, started: TrialStarted) -> None:
        assert self._header is not None
        if datasets := inputs(started, self._header):
            client.log_inputs(run.run_id, datasets)
        run.has_inputs = True

    def _run_of(self, client: MlflowClient, key: str, started: TrialStarted | None) -> _Run | None:
        """The run that records of `key` belong to; None where they belong to an attempt that was given up."""
        run = self._runs.get(key)
        if started is None:
            return None if key in self._stale else run
        start_ms = milliseconds(started.time)
        if run is not None and start_ms > run.start_ms:  # it was cut off, or failed for reasons of others
            client.delete_run(run.run_id)
            run = None
        if run is None:
            assert self._header is not None
            tags = page.run_tags(started, self._header, self._color(started.method))
            self._runs[key] = run = _Run.of(client.create_run(self._id, start_ms, tags, key))
            run.new = True
        if start_ms < run.start_ms:
            self._stale.add(key)
            return None
        self._stale.discard(key)
        return run

    def _final(self, client: MlflowClient, key: str, run: _Run, news: News) -> list[Metric]:
        """Store the examples and the checkpoint's entry; returns the final metrics, linked to the checkpoint."""
        finished = news.finished
        assert finished is not None and self._header is not None
        if finished.examples:
            client.log_dict(run.run_id, page.examples_table(finished.examples), page.EXAMPLES)
        model_id = (
            self._checkpoint(client, key, run, finished.checkpoint)
            if finished.checkpoint and not news.deleted
            else None
        )
        return final_metrics(finished, self._header, run.tags, model_id=model_id)

    def _checkpoint(self, client: MlflowClient, key: str, run: _Run, checkpoint: str) -> str:
        """A logged model that points at the weights where they are; they are not copied."""
        found = self._models(client, run)
        model_id: str = (
            found[0]
            if found
            else client.create_logged_model(
                self._id,
                page.model_name(key),
                run.run_id,
                tags={"lethe.trial_key": key, "lethe.checkpoint": self._place(checkpoint)},
                params={name: run.tags[f"lethe.{name}"] for name in ("method", "forget_set")},
                model_type="unlearned",
            ).model_id
        )
        client.finalize_logged_model(model_id, "READY")
        if model_id not in run.models:  # the link is not idempotent
            client.log_outputs(run.run_id, [LoggedModelOutput(model_id, 0)])
            run.models.add(model_id)
        return model_id

    def _place(self, name: str = "") -> str:
        """Where the sweep's folder, or something in it, is for whoever reads it: a path, or a URI."""
        storage = self._first_header().config.get("storage", "")
        folder = join(storage, self._sweep_dir.name.rpartition("-")[0]) if is_uri(storage) else str(self._sweep_dir)
        return join(folder, name) if name else folder

    def _models(self, client: MlflowClient, run: _Run) -> list[str]:
        """Ids of the run's models that were not deleted."""
        if run.new:
            return list(run.models)
        found = client.search_logged_models([self._id], f"source_run_id = '{run.run_id}'")
        return [model.model_id for model in found]


def _file_id(uri: str) -> int | None:
    """The number that the file system gave to a SQLite database; None: it is no file, or there is none."""
    if not uri.startswith("sqlite:"):
        return None
    path = Path(make_url(uri).database or "")
    return path.stat().st_ino if path.is_file() else None


def _send(
    client: MlflowClient,
    run: _Run,
    metrics: Sequence[Metric] = (),
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """One request for one run, more only where it would be too large; tags that it has are left out."""
    param_list = [Param(name, value) for name, value in (params or {}).items()]
    news = {name: value for name, value in (tags or {}).items() if run.tags.get(name) != value}
    tag_list = [RunTag(name, value) for name, value in news.items()]
    requests = max(
        math.ceil(len(metrics) / MAX_METRICS),
        math.ceil(len(param_list) / MAX_PARAMS),
        math.ceil(len(tag_list) / MAX_PARAMS),
    )
    for i in range(requests):
        entities = slice(i * MAX_PARAMS, (i + 1) * MAX_PARAMS)
        some = metrics[i * MAX_METRICS : (i + 1) * MAX_METRICS]
        client.log_batch(run.run_id, some, param_list[entities], tag_list[entities])
    run.tags |= news

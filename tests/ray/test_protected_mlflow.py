"""A sweep whose MLflow is what a team shares: it asks for a password, its tables are in PostgreSQL, its files in S3."""

import os
import urllib.error
import urllib.request
from base64 import b64encode
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.server import get_app_client
from pyarrow.fs import FileSelector, FileSystem

from orchestrator import sync
from orchestrator.tracking.sweep_log import load_sweep
from tests.ray import tiny
from tests.ray.servers import MlflowServer, postgres_programs, postgres_server
from tests.stores import new_bucket, s3_server
from tests.tracking.store_content import content, registered

PROGRAMS = postgres_programs()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.skipif(PROGRAMS is None, reason="needs PostgreSQL's initdb and pg_ctl"),
]
PASSWORD, WRONG = "P1anted-5ecret", "P1anted-m1stake"
DATABASE_PASSWORD, KEY = "P1anted-database", "P1anted-key"
PLANTED = b"P1anted"


def login(user, password):
    """How MLflow's client is told who asks."""
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


ADMIN, ANNA, BOB = (login(user, PASSWORD) for user in ("admin", "anna", "bob"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """As SECURITY.md says; its users are `admin`, `anna` and `bob`."""
    folder = tmp_path_factory.mktemp("mlflow")
    with (
        postgres_server(PROGRAMS, DATABASE_PASSWORD, "mlflow", "users") as postgres,
        s3_server() as ending,
    ):
        bucket = urlsplit(new_bucket(ending))
        users = folder / "users.ini"
        settings = ("default_permission = READ", f"database_uri = {postgres}/users", "admin_username = admin")
        users.write_text("\n".join(["[mlflow]", *settings, "auth_cache_ttl_seconds = 60"]))
        started = MlflowServer(
            folder,
            "--app-name=basic-auth",
            "--allowed-hosts=127.0.0.1:*",
            store=f"{postgres}/mlflow",
            artifacts=f"s3://{bucket.netloc}{bucket.path}",
            MLFLOW_S3_ENDPOINT_URL=f"http://{dict(parse_qsl(bucket.query))['endpoint_override']}",
            PGPASSWORD=DATABASE_PASSWORD,
            MLFLOW_AUTH_CONFIG_PATH=str(users),
            MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
            MLFLOW_FLASK_SERVER_SECRET_KEY=KEY,
        )
        try:
            started.start()
            with mock.patch.dict(os.environ, ADMIN):
                for user in ("anna", "bob"):
                    get_app_client("basic-auth", started.url).create_user(user, PASSWORD)
            started.bucket = bucket.geturl()
            yield started
        finally:
            started.stop()


@pytest.fixture(scope="module")
def sweep(server, models, tmp_path_factory):
    """A sweep of one trial that sends its records with the right password."""
    storage = tmp_path_factory.mktemp("storage")
    few = ("methods=[GA+GD]", "search.trials_per_cell=1", f"tracking.uri={server.url}")
    done = tiny.run(tiny.settings(models, storage, *few), **ANNA)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, tiny.sweep_folder(storage)


def answer(server, user=None, host="127.0.0.1:1"):
    """The HTTP status that a question for experiments is answered with."""
    headers = {"Host": host}
    if user:
        headers["Authorization"] = "Basic " + b64encode(":".join(user.values()).encode()).decode()
    address = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def shown(server):
    """All that the server holds of its only sweep, read as its user."""
    with mock.patch.dict(os.environ, ANNA):
        (experiment,) = content(server.url, with_ids=False).values()
    return experiment


def is_the_journal(view, folder):
    """The view holds each trial of the journal with all its settings, steps, metrics, answers and weights."""
    trials = load_sweep(folder).trials
    runs = {run["name"]: run for run in view["runs"] if run["name"] != "report"}
    assert runs.keys() == trials.keys()
    for key, trial in trials.items():
        run, finished = runs[key], trial.finished
        assert run["status"] == "FINISHED"
        assert {name: run["params"][name] for name in trial.started.params} == {
            name: str(value) for name, value in trial.started.params.items()
        }
        last = {name: points[-1][-1] for name, points in run["points"].items()}
        assert {name: last[name] for name in finished.metrics} == {k: repr(v) for k, v in finished.metrics.items()}
        losses = [(step, value) for step, _, value in run["points"].get("train/loss", [])]
        assert losses == [(step.step, repr(step.loss)) for step in trial.steps]
        assert "examples.json" in run["artifacts"]
    assert len(view["models"]) == sum(trial.checkpoint is not None for trial in trials.values())


def files_in(bucket):
    """Names of all files in a bucket."""
    filesystem, root = FileSystem.from_uri(bucket)
    return [found.base_name for found in filesystem.get_file_info(FileSelector(root, recursive=True)) if found.is_file]


def leaves_no_password(done, folder):
    """Nothing that was printed or is kept in the storage folder holds a password; the server's address is found."""
    assert PLANTED.decode() not in done.stdout + done.stderr
    texts = [path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()]
    assert any(b"tracking.uri=http://127.0.0.1:" in text for text in texts)
    assert not any(PLANTED in text for text in texts)


def test_the_server_asks_for_the_password_and_answers_to_its_own_name(server):
    assert answer(server, ANNA) == 200
    assert answer(server) == answer(server, login("anna", WRONG)) == answer(server, login("nobody", PASSWORD)) == 401
    assert answer(server, ANNA, "elsewhere.example") == 403


def test_the_server_holds_what_the_journal_holds(server, sweep):
    done, folder = sweep
    assert "takes no records" not in done.stderr and f"Open {server.url}/#/experiments/" in done.stdout
    view = shown(server)
    is_the_journal(view, folder)
    assert {"report.html", "examples.json"} <= set(files_in(server.bucket))
    assert [model["status"] for model in view["models"]] == ["READY"]
    with mock.patch.dict(os.environ, ANNA):
        assert registered(server.url) == {
            f"{folder.name}-forget10": {"GA+GD/forget10/t000": ("best-forgetting", "best-utility", "pareto-knee")}
        }
    leaves_no_password(done, folder)


def test_a_sweep_goes_on_with_a_wrong_password_and_sync_sends_the_rest(server, sweep, tmp_path, monkeypatch, capsys):
    _, folder = sweep
    before = shown(server)
    mistaken = login("anna", WRONG)
    more = ("search.trials_per_cell=2", "checkpoint.policy=none")
    done = tiny.run(["--resume", str(folder), *more], **mistaken)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("takes no records") == 1 == done.stderr.count("MLFLOW_TRACKING_PASSWORD")
    assert f"tracking at {server.url} " in done.stderr and f"orchestrator.sync {folder}" in done.stderr
    assert "records are not there yet" in done.stdout
    leaves_no_password(done, folder)

    capsys.readouterr()  # progress bars of the downloads
    for user, remedy in ((mistaken, "MLFLOW_TRACKING_PASSWORD"), (BOB, "MANAGE")):
        with mock.patch.dict(os.environ, user):
            assert sync.main([str(folder)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"error: MLflow at {server.url}: ") and remedy in err
        assert PLANTED.decode() not in err
    assert shown(server) == before

    with mock.patch.dict(os.environ, ANNA):
        (experiment,) = MlflowClient(server.url).search_experiments(filter_string="name != 'Default'")
        client = get_app_client("basic-auth", server.url)
        client.grant_user_permission("bob", "experiment", experiment.experiment_id, "MANAGE")
        (name,) = registered(server.url)
        client.grant_user_permission("bob", "registered_model", name, "MANAGE")
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("\n".join(["[mlflow]", *map("=".join, BOB.items())]))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sync.main([str(folder)]) == 0
    view = shown(server)
    is_the_journal(view, folder)
    assert len(view["runs"]) == len(before["runs"]) + 1 and view["models"] == []
    assert registered(server.url) == {name: {}}

"""Servers that sweeps write to, each a real process on 127.0.0.1: MLflow, and PostgreSQL for its tables."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """A real `mlflow server` that can be started late, stopped, and started again on the same port and store.

    `store` is SQLAlchemy's URI of its tables, `artifacts` where it keeps files; both are in `folder` unless given.
    """

    def __init__(
        self, folder: Path, *arguments: str, store: str | None = None, artifacts: str | None = None, **environment: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._arguments = folder, arguments
        self._artifacts = artifacts or str(folder / "artifacts")
        self._environment = environment | {
            "MLFLOW_BACKEND_STORE_URI": store or f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", self._artifacts, *self._arguments]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text())

    def send_signal(self, number: signal.Signals) -> None:
        """To all processes of the server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(self._process.pid, number)  # the group is the server's own: start_new_session

    def stop(self) -> None:
        if self._process is not None:
            self.send_signal(signal.SIGTERM)
            self._process.wait(30)
            self._process = None


def postgres_programs() -> Path | None:
    """Where PostgreSQL's server programs are; distributions keep them out of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextlib.contextmanager
def postgres_server(programs: Path, password: str, *databases: str):
    """A PostgreSQL server with empty databases; yields the URI, without password, that their names are added to.

    Its user `lethe` needs the password. PostgreSQL refuses to run as root, so there it runs as `nobody`.
    """
    import psycopg

    nobody = pwd.getpwnam("nobody")
    who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="postgres") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if who:
            for path in (folder, folder / "password"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)

        def run(program, *arguments):
            subprocess.run([programs / program, "-D", "data", *arguments], cwd=folder, check=True, timeout=120, **who)

        run("initdb", "-U", "lethe", "-A", "scram-sha-256", "--pwfile", "password", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "start", "-w", "-l", "log", "-o", options)
        try:
            server = f"postgresql://lethe@127.0.0.1:{port}"
            with psycopg.connect(f"{server}/postgres", password=password, autocommit=True) as connection:
                for database in databases:
                    connection.execute(f'CREATE DATABASE "{database}"')
            yield server
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate")

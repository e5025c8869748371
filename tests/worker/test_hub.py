"""A hub that goes away in the middle of a download: asked again a few times, then an error that names the file."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from tests.ray import tiny

NAME = "someone/tiny"
LOAD = (
    "import torch\n"
    "from orchestrator.trial_config import ModelConfig\n"
    "from orchestrator.worker.model import load_model\n"
    f"print(load_model(ModelConfig(target='{NAME}'), torch.device('cpu')).config.hidden_size)"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny.make_models(tmp_path_factory.mktemp("models"))


class Hub(http.server.ThreadingHTTPServer):
    """Serves one model folder as the hub does, and breaks off the weights the first `breaks` times."""

    def __init__(self, folder, breaks):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.breaks, self.asked = folder, breaks, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        name = self.path.partition("?")[0].partition("/resolve/main/")[2]
        path = self.server.folder / name
        if not name or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{path.stat().st_size}-{name}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if not body:
            return
        if name.endswith(".safetensors"):
            self.server.asked.append(name)
            if len(self.server.asked) <= self.server.breaks:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.close()
                return
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def load(models, cache, breaks):
    hub = Hub(models / "target", breaks)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, env=environment, check=False, cwd=tiny.ROOT
    )
    hub.shutdown()
    return done, hub.asked


def test_a_download_that_breaks_off_is_taken_up_again(models, tmp_path):
    done, asked = load(models, tmp_path, breaks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tiny.SHAPE.hidden_size)]
    assert len(asked) == 3


def test_a_hub_that_stays_away_is_an_error_that_names_the_file(models, tmp_path):
    done, asked = load(models, tmp_path, breaks=10**9)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert 1 < len(asked) < 20
    assert (
        last.startswith(f"orchestrator.worker.hub.HubError: model: cannot load {NAME}: ")
        and "model.safetensors" in last
    ), last

"""What clouds say before they take a node away, asked of a real server on this machine."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.tuning import notice
from orchestrator.tuning.notice import CLOUDS

ANSWERS = {
    "aws": ('{"action": "terminate", "time": "2026-01-01T00:00:00Z"}', None),  # 404 until there is one
    "gcp": ("TRUE\n", "FALSE\n"),
    "azure": ('{"Events": [{"EventType": "Preempt"}]}', '{"Events": [{"EventType": "Reboot"}]}'),
}


@pytest.fixture
def server():
    """A metadata server; its `answer` is what it says, none for 404. It wants each cloud's headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            self.reply("secret" if self.path == "/latest/api/token" else None)

        def do_GET(self):
            wanted = {
                "/latest/meta-data/spot/instance-action": ("X-aws-ec2-metadata-token", "secret"),
                "/computeMetadata/v1/instance/preempted": ("Metadata-Flavor", "Google"),
                "/metadata/scheduledevents?api-version=2020-07-01": ("Metadata", "true"),
            }
            name, value = wanted[self.path]
            self.reply(self.server.answer if self.headers[name] == value else None)

        def reply(self, text):
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def asked_at(server, cloud):
    return replace(CLOUDS[cloud], server=f"http://127.0.0.1:{server.server_address[1]}")


@pytest.mark.parametrize("cloud", ANSWERS)
def test_a_notice_is_told_from_none(cloud, server):
    asked = asked_at(server, cloud)
    for answer, expected in zip(ANSWERS[cloud], (True, False), strict=True):
        server.answer = answer
        assert asked.has_notice() is expected
    server.answer = "<html>" if cloud != "gcp" else None
    assert asked.has_notice() is False


def test_a_server_that_is_not_there_is_no_notice():
    assert replace(CLOUDS["gcp"], server="http://127.0.0.1:9").has_notice() is False


@pytest.mark.parametrize(
    ("word", "accepted", "code", "said"),
    [
        ("now", (True, ""), 0, "this node ends within 30 s; Ray knows\n"),
        ("now", (False, "not idle"), 1, "this node ends within 30 s; Ray refused: not idle\n"),
        ("aws", (True, ""), 0, "this node ends within 120 s; Ray knows\n"),
    ],
)
def test_the_notice_is_passed_on(word, accepted, code, said, server, monkeypatch, capsys):
    server.answer = ANSWERS["aws"][0]
    monkeypatch.setattr(notice, "drain_this_node", lambda seconds: accepted)
    monkeypatch.setitem(notice.CLOUDS, "aws", asked_at(server, "aws"))
    assert notice.main([word]) == code
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("words", [[], ["ibm"], ["aws", "gcp"]])
def test_another_word_is_refused(words, capsys):
    assert notice.main(words) == 2
    assert "say which cloud takes this node away: aws, gcp, azure, or now" in capsys.readouterr().err

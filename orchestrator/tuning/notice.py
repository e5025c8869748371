"""Tell Ray that the cloud takes this node away: `python -m orchestrator.tuning.notice aws|gcp|azure|now`.

Runs beside Ray on a spot node. Clouds announce it on an address that only the node itself can reach; nobody else passes
that on. Ray then places nothing more here, and trials that have workers here save themselves and go on elsewhere. `now`
does not wait for a notice: for what runs when a pod is asked to stop.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

LINK_LOCAL = "http://169.254.169.254"  # where each cloud answers its own nodes
_POLL_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Cloud:
    """How a cloud announces that it takes a node away, and how long before."""

    seconds: int
    path: str
    says_so: Callable[[str], bool]
    headers: dict[str, str] = field(default_factory=dict)
    server: str = LINK_LOCAL
    token_path: str | None = None  # AWS wants a token of its own first

    def has_notice(self) -> bool:
        """Ask once. An answer that does not come, or says that there is none (404), is no notice."""
        try:
            headers = dict(self.headers)
            if self.token_path:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
                headers["X-aws-ec2-metadata-token"] = _ask(f"{self.server}{self.token_path}", lifetime, method="PUT")
            return self.says_so(_ask(f"{self.server}{self.path}", headers))
        except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError):
            return False


def _preempts(answer: str) -> bool:
    return any(event.get("EventType") == "Preempt" for event in json.loads(answer).get("Events", []))


CLOUDS = {
    "aws": Cloud(
        seconds=120,
        path="/latest/meta-data/spot/instance-action",
        says_so=lambda answer: json.loads(answer).get("action") in ("terminate", "stop", "hibernate"),
        token_path="/latest/api/token",
    ),
    "gcp": Cloud(
        seconds=30,
        path="/computeMetadata/v1/instance/preempted",
        says_so=lambda answer: answer.strip() == "TRUE",
        headers={"Metadata-Flavor": "Google"},
    ),
    "azure": Cloud(
        seconds=30,
        path="/metadata/scheduledevents?api-version=2020-07-01",
        says_so=_preempts,
        headers={"Metadata": "true"},
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Wait for the notice and pass it on. Returns 0 when Ray knows, 1 if it did not take it, 2 for a bad argument."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 1 or words[0] not in (*CLOUDS, "now"):
        sys.stderr.write(f"error: say which cloud takes this node away: {', '.join(CLOUDS)}, or now; got {words}\n")
        return 2
    cloud = CLOUDS.get(words[0])
    while cloud is not None and not cloud.has_notice():
        time.sleep(_POLL_SECONDS)
    seconds = cloud.seconds if cloud else 30
    accepted, reason = drain_this_node(seconds)
    outcome = "Ray knows" if accepted else f"Ray refused: {reason}"
    sys.stdout.write(f"this node ends within {seconds} s; {outcome}\n")
    return 0 if accepted else 1


def drain_this_node(seconds: int) -> tuple[bool, str]:
    """Tell Ray that this node ends within `seconds`; returns whether it took that, and if not, why."""
    import ray  # noqa: PLC0415  (seconds to import, and only needed at the end)
    from ray import _raylet  # noqa: PLC0415
    from ray.core.generated import autoscaler_pb2  # noqa: PLC0415

    raylet: Any = _raylet
    messages: Any = autoscaler_pb2
    ray.init(address="auto", log_to_driver=False)
    context = ray.get_runtime_context()
    reason = messages.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    deadline = int(1000 * (time.time() + seconds))
    accepted, message = raylet.GcsClient(address=context.gcs_address).drain_node(
        context.get_node_id(), reason, "the cloud takes the node away", deadline
    )
    return bool(accepted), str(message)


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is another machine
    with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


if __name__ == "__main__":
    sys.exit(main())

"""Checks of SLURM scripts that start a Ray cluster inside of a job."""

import re
from collections.abc import Iterator

from orchestrator.tuning.clusters.files import ClusterFile

_NEEDED = {
    "nodes": r"\d+",
    "ntasks-per-node": "1",
    "cpus-per-task": r"\d+",
    "gres": r"gpu(:[\w.-]+)?:\d+",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "signal": r"B:USR1@([6-9]\d|\d{3,})",
    "requeue": "",
}
_EXAMPLES = {
    "nodes": "2", "ntasks-per-node": "1", "cpus-per-task": "32", "gres": "gpu:4", "time": "24:00:00",
    "signal": "B:USR1@120", "requeue": "",
}  # fmt: skip
_FIXED_PORT = re.compile(r"--[a-z-]*port[= ]([1-9]\d*)")


def _code(file: ClusterFile) -> str:
    """The commands, each on one line, without comments."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in file.text.splitlines()]
    return "\n".join(lines).replace("\\\n", " ")


def directives(file: ClusterFile) -> Iterator[str]:
    """The size of the job, a signal before its limit, and that it may start again."""
    for name, form in _NEEDED.items():
        value = file.directives.get(name)
        example = f"#SBATCH --{name}" + (f"={_EXAMPLES[name]}" if _EXAMPLES[name] else "")
        if value is None:
            yield f"#SBATCH --{name} is missing; write {example}"
        elif not re.fullmatch(form, value):
            yield f"#SBATCH --{name}={value}; write it as {example}"


def token_everywhere(file: ClusterFile) -> Iterator[str]:
    """Other users of the machines reach Ray's ports; without the token they could run code as this user."""
    code = _code(file)
    if not re.search(r"export RAY_AUTH_MODE=token\b", code):
        yield "export RAY_AUTH_MODE=token is missing; Ray would ask nobody for a token"
    if "RAY_AUTH_TOKEN_PATH" not in code:
        yield "RAY_AUTH_TOKEN_PATH is missing; name a file on the shared file system, so that every node reads the same"
    if "umask 077" not in code or not re.search(r"chmod 600 .*RAY_AUTH_TOKEN_PATH", code):
        yield "the token's file: make it under umask 077 and chmod 600 it; other users must not read it"


def without_root(file: ClusterFile) -> Iterator[str]:
    """A user of a cluster has no root and no Docker."""
    for word in re.findall(r"(?<![\w-])(sudo|docker run|podman run|mount)\s", _code(file)):
        yield f"{word!r} needs rights that users of a cluster lack; run the image with apptainer"


def no_fixed_ports(file: ClusterFile) -> Iterator[str]:
    """Two users, or two jobs of one, may share a machine."""
    for found in _FIXED_PORT.finditer(_code(file)):
        yield f"{found[0]} is the same in every job; take a port that is free, or 0"


def servers_inside(file: ClusterFile) -> Iterator[str]:
    """Servers listen on the address inside of the cluster; the dashboard on the machine alone."""
    for line in _code(file).splitlines():
        if "ray start" in line:
            if "--node-ip-address" not in line:
                yield "ray start without --node-ip-address listens where it likes; give the node's internal address"
            if "--temp-dir" not in line and "--head" in line:
                yield "ray start without --temp-dir uses /tmp/ray, which belongs to whoever came first; give it one"
            if "--head" in line and "--dashboard-host=127.0.0.1" not in line:
                yield "ray start --head without --dashboard-host=127.0.0.1; reach it through ssh -L"


def goes_on(file: ClusterFile) -> Iterator[str]:
    """Before the time limit the sweep is closed and the job queued again, with the same command."""
    code = _code(file)
    for name, when in (
        ("USR1", "before the time limit; close the sweep there and requeue"),
        ("TERM", "with scancel; close the sweep there"),
    ):
        if not re.search(rf"^trap .*\b{name}\b", code, re.MULTILINE):
            yield f"no trap for {name}, which comes {when}"
    if "scontrol requeue" not in code:
        yield "scontrol requeue is missing; a job that reached its limit would not go on"
    if not re.search(r"orchestrator\.sweep.*--resume", code):
        yield "python -m orchestrator.sweep SWEEP --resume PLACE is what can be repeated; write that"


CHECKS = (directives, token_everywhere, without_root, no_fixed_ports, servers_inside, goes_on)
